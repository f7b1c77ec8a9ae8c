"""Operations: which requests a server's binding lists, and the matcher that finds the one a request is.

Paths are OpenAPI templates. A segment is either literal or one variable; a literal beats a variable, segment by
segment from the left; percent-encoding is compared as it stands. The path decides first and the method second, so
``/users/me`` listed for GET hides ``/users/{id}`` from ``/users/me`` for every method.

A variable does not take another spelling of a literal beside it (``/users/%6de``, ``/users/me;v=1``): the upstream
would serve the literal's operation under the variable's scope.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from bailiwick.kernel.errors import InvalidRequest

MAX_OPERATIONS = 500
MAX_TEMPLATE = 1024
MAX_SEGMENTS = 32

_METHOD = re.compile(r"[A-Z][A-Z-]{0,31}")
_NOT_CARRIED = frozenset({"TRACE", "CONNECT"})
_SCOPE = re.compile(r"[a-z][a-z0-9_.:-]{0,99}")
_VARIABLE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_.-]{0,63})\}")
_LITERAL = re.compile(r"(?:[A-Za-z0-9._~!$&'()+,=:@-]|%[0-9A-Fa-f]{2})*")
# an upstream may read these as a separator or as dots: what looks like one segment here would be another path there
_HIDDEN = re.compile(r"%(?:2[eEfF]|5[cC]|00|25)")
_DOTS = frozenset({".", ".."})


@dataclass(frozen=True, slots=True)
class Operation:
    """One listed operation: ``method`` in upper case, ``path`` as a template, the ``scope`` it needs.

    ``long_lived`` operations are cut when their authority ends.
    """

    method: str
    path: str
    scope: str
    name: str = ""
    long_lived: bool = False

    def document(self) -> dict[str, Any]:
        """The JSON form, as stored and answered."""
        return {
            "method": self.method,
            "path": self.path,
            "scope": self.scope,
            "name": self.name,
            "long_lived": self.long_lived,
        }


def operations_of(documents: Iterable[Mapping[str, Any]]) -> tuple[Operation, ...]:
    """The operations of their JSON forms, unchecked."""
    return tuple(
        Operation(
            document["method"],
            document["path"],
            document["scope"],
            document.get("name") or f"{document['method']} {document['path']}",
            document.get("long_lived", False),
        )
        for document in documents
    )


def validate(operations: Iterable[Operation]) -> None:
    """Raises ``invalid_request`` naming the first operation that is malformed or listed twice."""
    seen: dict[tuple[str, str], str] = {}
    for count, operation in enumerate(operations, 1):
        if count > MAX_OPERATIONS:
            raise InvalidRequest(f"A server lists at most {MAX_OPERATIONS} operations.")
        if operation.method in _NOT_CARRIED or not _METHOD.fullmatch(operation.method):
            raise InvalidRequest(f"The method {operation.method!r} is not one the gateway carries.")
        if not _SCOPE.fullmatch(operation.scope):
            raise InvalidRequest(f"The scope {operation.scope!r} is malformed.")
        shape = (operation.method, _shape(operation.path))
        if shape in seen:
            raise InvalidRequest(
                f"{operation.method} {operation.path} is listed twice, first as {seen[shape]}.",
            )
        seen[shape] = operation.path


def segments_of(template: str) -> list[str | None]:
    """The segments of a template after its leading slash: text for a literal, None for a variable.

    Raises ``invalid_request`` for anything that is not a template as described above.
    """
    if not template.startswith("/") or len(template) > MAX_TEMPLATE:
        raise InvalidRequest(f"The path {template[:80]!r} must start with a slash and be at most {MAX_TEMPLATE} long.")
    parts = template[1:].split("/")
    if len(parts) > MAX_SEGMENTS:
        raise InvalidRequest(f"The path {template[:80]!r} has more than {MAX_SEGMENTS} segments.")
    names: set[str] = set()
    segments: list[str | None] = []
    for index, part in enumerate(parts):
        variable = _VARIABLE.fullmatch(part)
        if variable is not None:
            if variable[1] in names:
                raise InvalidRequest(f"The path {template!r} has the variable {part} twice.")
            names.add(variable[1])
            segments.append(None)
            continue
        if not _LITERAL.fullmatch(part) or _HIDDEN.search(part) or part.partition(";")[0] in _DOTS:
            raise InvalidRequest(f"The segment {part!r} is neither a plain literal nor one whole {{variable}}.")
        if not part and index < len(parts) - 1:
            raise InvalidRequest(f"The path {template!r} has an empty segment.")
        segments.append(part)
    return segments


def _shape(template: str) -> str:
    return "/".join("{}" if segment is None else segment for segment in segments_of(template))


class _Node:
    __slots__ = ("literals", "operations", "plain", "variable")

    def __init__(self) -> None:
        self.literals: dict[str, _Node] = {}
        self.plain: set[str] = set()  # the literals, decoded
        self.variable: _Node | None = None
        self.operations: dict[str, Operation] | None = None


class OperationIndex:
    """The operations of one server, compiled for matching. Immutable after construction."""

    __slots__ = ("_exact", "_root", "operations")

    def __init__(self, operations: Iterable[Operation]) -> None:
        """``operations`` as :func:`validate` accepts them; raises ``invalid_request`` for a malformed template."""
        self.operations = tuple(operations)
        self._root = _Node()
        # a template of literals only beats every other, so a dictionary answers it
        self._exact: dict[str, dict[str, Operation]] = {}
        for operation in self.operations:
            segments = segments_of(operation.path)
            if None not in segments:
                self._exact.setdefault(operation.path, {})[operation.method] = operation
            node = self._root
            for segment in segments:
                if segment is None:
                    if node.variable is None:
                        node.variable = _Node()
                    node = node.variable
                else:
                    node.plain.add(unquote(segment))
                    node = node.literals.setdefault(segment, _Node())
            if node.operations is None:
                node.operations = {}
            node.operations[operation.method] = operation

    def match(self, method: str, path: str) -> Operation | None:
        """The operation that a request is, or None.

        ``path`` is the request's raw path without the query, starting with a slash. A variable takes one segment that
        is not empty and not ``.`` or ``..`` in any spelling.
        """
        exact = self._exact.get(path)
        if exact is not None:
            return exact.get(method)
        if not path.isascii() or ("%" in path and _HIDDEN.search(path)):
            return None
        segments = path.split("/")
        if segments[0] or len(segments) - 1 > MAX_SEGMENTS:
            return None
        node = self._root
        last = len(segments) - 1
        for depth in range(1, last + 1):
            segment = segments[depth]
            literal = node.literals.get(segment)
            if literal is not None:
                if node.variable is not None:
                    found = _search(node, segments, depth)
                    return found.get(method) if found is not None else None
                node = literal
            elif node.variable is not None and _fills(node, segment):
                node = node.variable
            else:
                return None
        return node.operations.get(method) if node.operations is not None else None


def _search(node: _Node, segments: list[str], depth: int) -> dict[str, Operation] | None:
    """Depth-first from a node where both a literal and a variable fit; visits each node of the trie at most once."""
    if depth == len(segments):
        return node.operations
    segment = segments[depth]
    literal = node.literals.get(segment)
    if literal is not None:
        found = _search(literal, segments, depth + 1)
        if found is not None:
            return found
    if node.variable is not None and _fills(node, segment):
        return _search(node.variable, segments, depth + 1)
    return None


def _fills(node: _Node, segment: str) -> bool:
    """Whether the node's variable takes ``segment``."""
    if "%" in segment or ";" in segment:
        plain = unquote(segment).partition(";")[0]
        return bool(plain) and plain not in _DOTS and plain not in node.plain
    return bool(segment) and segment not in _DOTS
