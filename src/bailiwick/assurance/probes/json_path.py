"""A path to one value in a JSON document: the singular queries of RFC 9535 (``$.a['b c'][0]``), and nothing more."""

from __future__ import annotations

import re
from typing import Any

_STEP = re.compile(r"""\.([A-Za-z_][A-Za-z0-9_-]*)|\[(-?[0-9]{1,6})\]|\['([^'\\]*)'\]|\["([^"\\]*)"\]""")


class Absent(LookupError):
    """The document has nothing there."""


def parse_path(path: str) -> list[str | int]:
    """The members and positions that lead to the value. Raises :class:`ValueError`."""
    if not path.startswith("$"):
        raise ValueError("a path begins with $")
    steps: list[str | int] = []
    at = 1
    while at < len(path):
        found = _STEP.match(path, at)
        if found is None:
            raise ValueError(f"the path cannot be read from {path[at:][:20]!r} on")
        name, index, quoted, double = found.groups()
        steps.append(int(index) if index is not None else next(t for t in (name, quoted, double) if t is not None))
        at = found.end()
    return steps


def value_at(document: Any, path: str) -> Any:
    """The value at ``path``. Raises :class:`Absent`."""
    for step in parse_path(path):
        inside = (
            -len(document) <= step < len(document)
            if isinstance(step, int) and isinstance(document, list)
            else isinstance(step, str) and isinstance(document, dict) and step in document
        )
        if not inside:
            raise Absent(f"there is nothing at {path}")
        document = document[step]
    return document


def number_of(value: Any) -> float | None:
    """The number that a JSON value is, a text of digits too; None for what is none."""
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, (int, float)):
        try:
            return float(value)
        except OverflowError:
            return None
    if isinstance(value, str):
        try:
            return float(value.strip())
        except ValueError:
            return None
    return None
