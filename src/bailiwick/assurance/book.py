"""The book: what a zone's operating model is, as reviewed documents of a few kinds.

A document is YAML with ``apiVersion``, ``kind``, ``metadata.name`` and ``spec`` (OpenSLO's files have the same shape).
Every part of the room declares its :class:`Kind` with a pydantic model of the spec, from which the JSON Schema is made,
and reads what is in force from a :class:`Book`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from pydantic import ValidationError

from bailiwick.kernel.fields import NAME_PATTERN, Body, matches

API_VERSION = "bailiwick/v1"
MOST_BYTES = 1 << 20
MOST_DOCUMENTS = 5_000
MOST_DEPTH = 24

S = TypeVar("S", bound=Body)


@dataclass(frozen=True, slots=True)
class Document:
    """One document. ``where`` is file and line for people; ``version`` counts its changes, 0 before it was applied."""

    kind: str
    name: str
    spec: Mapping[str, Any]
    api_version: str = API_VERSION
    where: str = ""
    version: int = 0
    applied_at: datetime | None = None
    applied_by: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Kind and name, by which there is one."""
        return self.kind, self.name

    @property
    def sha256(self) -> str:
        """The digest of what it says, in hexadecimal."""
        return hashlib.sha256(canonical(self.spec)).hexdigest()


@dataclass(frozen=True, slots=True)
class Kind(Generic[S]):
    """A kind of document: its name, the model of its spec, and what is to be held of it.

    ``check`` answers what is wrong with a whole book as far as this kind is concerned, such as a name that is
    nowhere. ``two_persons`` says whether a change from one spec to another (None: made or removed) takes two.
    ``api_versions``: beside ours, another format's that has this kind.
    """

    name: str
    spec: type[S]
    check: Callable[[Book], Iterable[str]] = lambda book: ()
    two_persons: Callable[[S | None, S | None], bool] = lambda before, after: False
    api_versions: tuple[str, ...] = (API_VERSION,)

    def read(self, spec: Mapping[str, Any]) -> S:
        """The typed spec. Raises :class:`pydantic.ValidationError`."""
        return self.spec.model_validate(spec)


@dataclass(frozen=True, slots=True)
class Book:
    """What is in force in ``zone``. ``revision`` grows with every change; 0 where nothing was ever applied."""

    zone: str
    revision: int
    documents: Mapping[tuple[str, str], Document] = field(default_factory=dict)
    _read: dict[str, dict[str, Any]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def of(self, kind: Kind[S]) -> dict[str, S]:
        """The specs of one kind by name, in the order of their names. They are read once, and nobody changes them."""
        if kind.name not in self._read:
            named = [(name, each) for (of, name), each in sorted(self.documents.items()) if of == kind.name]
            self._read[kind.name] = {name: kind.read(each.spec) for name, each in named}
        return dict(self._read[kind.name])

    @property
    def sha256(self) -> str:
        """The digest of everything it says."""
        told = [[kind, name, document.sha256] for (kind, name), document in sorted(self.documents.items())]
        return hashlib.sha256(canonical(told)).hexdigest()


class BadBook(ValueError):
    """Documents that cannot be applied. ``problems``: each a line that names the place."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems[:5]))
        self.problems = list(problems)


def canonical(value: Any) -> bytes:
    """Sorted, compact JSON, by which two documents are the same."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def read_directory(directory: Path) -> list[Document]:
    """The documents of all ``*.yaml`` and ``*.yml`` files under ``directory``, in the order of their paths.

    Raises :class:`BadBook` for what cannot be read, and :class:`OSError`.
    """
    problems: list[str] = []
    documents: list[Document] = []
    for path in sorted([*directory.rglob("*.yaml"), *directory.rglob("*.yml")]):
        where = path.relative_to(directory).as_posix()
        if path.stat().st_size > MOST_BYTES:
            problems.append(f"{where}: larger than {MOST_BYTES} bytes")
            continue
        try:
            documents += read_text(path.read_text(encoding="utf-8"), where)
        except UnicodeDecodeError:
            problems.append(f"{where}: not UTF-8")
        except BadBook as error:
            problems += error.problems
    if len(documents) > MOST_DOCUMENTS:
        problems.append(f"more than {MOST_DOCUMENTS} documents")
    if problems:
        raise BadBook(problems)
    return documents


def read_text(text: str, where: str) -> list[Document]:
    """The documents of one YAML text. Raises :class:`BadBook`."""
    try:
        loaded = list(_loaded(text))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise BadBook([f"{where}: {' '.join(str(error).split())}"]) from None
    documents, problems = [], []
    for line, value in loaded:
        if value is None:
            continue
        place = f"{where}:{line}"
        try:
            documents.append(_document(value, place))
        except ValueError as error:
            problems.append(f"{place}: {error}")
    if problems:
        raise BadBook(problems)
    return documents


def _loaded(text: str) -> Iterator[tuple[int, Any]]:
    """The values of a YAML text, each with the line that it begins in."""
    loader = _Loader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            assert node is not None  # as check_node said
            yield node.start_mark.line + 1, loader.construct_document(node)
    finally:
        loader.dispose()


def read_values(values: Sequence[Any], where: str = "documents") -> list[Document]:
    """The documents of values that came as JSON. Raises :class:`BadBook`."""
    if len(values) > MOST_DOCUMENTS:
        raise BadBook([f"more than {MOST_DOCUMENTS} documents"])
    documents, problems = [], []
    for number, value in enumerate(values):
        try:
            documents.append(_document(value, f"{where}[{number}]"))
        except ValueError as error:
            problems.append(f"{where}[{number}]: {error}")
    if problems:
        raise BadBook(problems)
    return documents


def schema(kind: Kind[Any]) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a document of ``kind``, for editors and for other people's checks."""
    spec = kind.spec.model_json_schema()
    found: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": kind.name,
        "type": "object",
        "additionalProperties": False,
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": {"enum": list(kind.api_versions)},
            "kind": {"const": kind.name},
            "metadata": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"type": "string", "pattern": NAME_PATTERN}},
            },
        },
    }
    if definitions := spec.pop("$defs", None):
        found["$defs"] = definitions
    found["properties"]["spec"] = spec
    return found


def _document(value: Any, where: str) -> Document:
    if not isinstance(value, dict) or set(value) != {"apiVersion", "kind", "metadata", "spec"}:
        raise ValueError("a document has apiVersion, kind, metadata and spec, and nothing else")
    metadata, kind = value["metadata"], value["kind"]
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str) or not isinstance(kind, str):
        raise ValueError("kind and metadata.name are texts")
    if not matches(NAME_PATTERN, metadata["name"]):
        raise ValueError("metadata.name begins with a letter or digit and holds letters, digits, . _ and -")
    if not isinstance(value["spec"], dict):
        raise ValueError("spec is a mapping")
    if _deeper(value["spec"], MOST_DEPTH):
        raise ValueError(f"spec nests deeper than {MOST_DEPTH} levels")
    try:
        canonical(value["spec"])
    except (TypeError, ValueError):
        raise ValueError("spec holds a value that JSON does not; put dates and times in quotes") from None
    return Document(kind, metadata["name"], value["spec"], str(value["apiVersion"]), where)


def check(zone: str, documents: Sequence[Document], kinds: Mapping[str, Kind[Any]], revision: int = 0) -> Book:
    """The book that ``documents`` make. Raises :class:`BadBook` with everything that is wrong with them."""
    problems: list[str] = []
    found: dict[tuple[str, str], Document] = {}
    for document in documents:
        kind = kinds.get(document.kind)
        if kind is None:
            problems.append(f"{document.where}: there is no kind {document.kind!r}; there are {', '.join(kinds)}")
            continue
        if document.api_version not in kind.api_versions:
            problems.append(f"{document.where}: the apiVersion of {kind.name} is {' or '.join(kind.api_versions)}")
        if document.key in found:
            problems.append(f"{document.where}: {document.kind} {document.name} stands in {found[document.key].where}")
            continue
        found[document.key] = document
        try:
            kind.read(document.spec)
        except ValidationError as error:
            problems += [f"{document.where}: {_told(each)}" for each in error.errors(include_input=False)]
    if not problems:
        book = Book(zone, revision, found)
        problems = [line for kind in kinds.values() for line in kind.check(book)]
        if not problems:
            return book
    raise BadBook(problems)


def _told(error: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in ("spec", *error["loc"]))
    return f"{place}: {error['msg']}"


def _deeper(value: Any, limit: int) -> bool:
    """Whether mappings and lists nest deeper than ``limit``; without recursion, which depth could exhaust."""
    level = [value]
    for _ in range(limit):
        level = [
            inner
            for each in level
            if isinstance(each, (dict, list))
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return False
    return any(isinstance(each, (dict, list)) for each in level)


class _Loader(yaml.SafeLoader):
    """Safe YAML without aliases, which could make a small file a huge document, and without a key given twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not read")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [key.value for key, _ in node.value]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise yaml.YAMLError(
                f"line {node.start_mark.line + 1}: {', '.join(sorted(map(str, twice)))} is given twice"
            )
        return super().construct_mapping(node, deep)


# as YAML 1.2 has it: `on`, `off`, `yes` and `no` are words
_BOOL = "tag:yaml.org,2002:bool"
_Loader.yaml_implicit_resolvers = {
    first: [each for each in found if each[0] != _BOOL] for first, found in _Loader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
