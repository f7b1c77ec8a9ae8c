"""The filter grammar of RFC 7644 §3.4.2.2, and the paths of PATCH (§3.5.2), which are made of it.

Our own recursive descent, bounded in length, depth and terms before anything is done with what was parsed. The result
says nothing about our tables; ``scim/sql.py`` turns it into parametrised SQL, ``scim/patch.py`` applies it to values.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from bailiwick.identity.scim.errors import ScimError, ScimType

MAX_LENGTH = 2000
MAX_DEPTH = 20
MAX_TERMS = 50

Operator = Literal["eq", "ne", "co", "sw", "ew", "gt", "ge", "lt", "le", "pr"]
_OPERATORS = frozenset(("eq", "ne", "co", "sw", "ew", "gt", "ge", "lt", "le", "pr"))

Value = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute's path, in lower case: the schema's URN (or nothing), the name, and a part of it (or nothing)."""

    urn: str
    name: str
    sub: str = ""

    @property
    def dotted(self) -> str:
        """``name`` or ``name.sub``."""
        return f"{self.name}.{self.sub}" if self.sub else self.name


@dataclass(frozen=True, slots=True)
class Comparison:
    """``attribute operator value``; ``pr`` has no value."""

    attribute: Attribute
    operator: Operator
    value: Value = None


@dataclass(frozen=True, slots=True)
class Not:
    """Not the inner one."""

    inner: Filter


@dataclass(frozen=True, slots=True)
class Both:
    """``and``, or ``or`` where ``either``."""

    left: Filter
    right: Filter
    either: bool


@dataclass(frozen=True, slots=True)
class Of:
    """``attribute[filter]``: some value of a multi-valued attribute satisfies the filter."""

    attribute: Attribute
    inner: Filter


Filter = Comparison | Not | Both | Of


@dataclass(frozen=True, slots=True)
class Path:
    """Where a PATCH operation goes: an attribute, perhaps some values of it, perhaps a part of those."""

    attribute: Attribute
    where: Filter | None = None
    sub: str = ""


_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\\x00-\x1f]|\\.)*")
    | (?P<number>-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,18})?(?![A-Za-z0-9_.:$-]))
    | (?P<word>[A-Za-z$][A-Za-z0-9_.:$-]*)
    | (?P<mark>[()\[\]])
    | (?P<part>\.[A-Za-z$][A-Za-z0-9_$-]*))""",
    re.X,
)
_NAME = re.compile(r"\$?[A-Za-z][A-Za-z0-9_-]*|\$ref")


def parse_filter(text: str) -> Filter:
    """The filter that ``text`` says; raises ``ScimError`` (``invalidFilter``)."""
    parser = _Parser(text, "invalidFilter")
    found = parser.either(0)
    parser.end()
    return found


def parse_path(text: str) -> Path:
    """The path that ``text`` says; raises ``ScimError`` (``invalidPath``)."""
    parser = _Parser(text, "invalidPath")
    path = parser.path()
    parser.end()
    return path


class _Parser:
    """One text's tokens and how far they are read."""

    def __init__(self, text: str, scim_type: ScimType) -> None:
        self._scim_type = scim_type
        self._place = 0
        self._terms = 0
        if len(text) > MAX_LENGTH:
            raise self._wrong(f"It is longer than {MAX_LENGTH} characters.")
        self._tokens = self._read(text)

    def either(self, depth: int) -> Filter:
        """``and`` binds tighter than ``or``."""
        left = self._all(depth)
        while self._word("or"):
            left = Both(left, self._all(depth), either=True)
        return left

    def path(self) -> Path:
        """``attribute[filter].part``."""
        attribute = self._attribute()
        if not self._mark("["):
            return Path(Attribute(attribute.urn, attribute.name), None, attribute.sub)
        if attribute.sub:
            raise self._wrong("A filter stands at an attribute, not at a part of one.")
        where = self.either(1)
        self._require("]")
        kind, sub = self._peek()
        if kind == "part":
            self._place += 1
        return Path(attribute, where, sub[1:].lower() if kind == "part" else "")

    def end(self) -> None:
        """Nothing may be left."""
        if self._place < len(self._tokens):
            raise self._wrong(f"{self._peek()[1]!r} was not expected.")

    def _all(self, depth: int) -> Filter:
        left = self._one(depth)
        while self._word("and"):
            left = Both(left, self._one(depth), either=False)
        return left

    def _one(self, depth: int) -> Filter:
        if depth > MAX_DEPTH:
            raise self._wrong(f"It nests deeper than {MAX_DEPTH}.")
        if self._word("not"):
            self._require("(")
            inner = self.either(depth + 1)
            self._require(")")
            return Not(inner)
        if self._mark("("):
            inner = self.either(depth + 1)
            self._require(")")
            return inner
        return self._term(depth)

    def _term(self, depth: int) -> Filter:
        self._terms += 1
        if self._terms > MAX_TERMS:
            raise self._wrong(f"It has more than {MAX_TERMS} comparisons.")
        attribute = self._attribute()
        if self._mark("["):
            inner = self.either(depth + 1)
            self._require("]")
            return Of(attribute, inner)
        kind, text = self._next()
        operator = text.lower()
        if kind != "word" or operator not in _OPERATORS:
            raise self._wrong(f"{text!r} is not an operator.")
        if operator == "pr":
            return Comparison(attribute, "pr")
        return Comparison(attribute, operator, self._value())  # type: ignore[arg-type]  # one of _OPERATORS

    def _attribute(self) -> Attribute:
        kind, text = self._next()
        if kind != "word":
            raise self._wrong(f"{text!r} is not an attribute.")
        urn, _, rest = text.rpartition(":")
        if urn:
            # the version in a schema's name has a dot of its own
            version = re.match(r"[0-9]+\.[0-9]+$", rest)
            if version:
                raise self._wrong("A schema is not an attribute.")
        name, _, sub = rest.partition(".")
        if not _NAME.fullmatch(name) or (sub and not _NAME.fullmatch(sub)) or rest.endswith("."):
            raise self._wrong(f"{text!r} is not an attribute.")
        return Attribute(urn.lower(), name.lower(), sub.lower())

    def _value(self) -> Value:
        kind, text = self._next()
        try:
            if kind == "string":
                return _storable(json.loads(text))
            if kind == "number":
                return int(text) if "." not in text else float(text)
        except ValueError:
            raise self._wrong(f"{text} is not a value.") from None
        known: dict[str, Value] = {"true": True, "false": False, "null": None}
        if kind == "word" and text.lower() in known:
            return known[text.lower()]
        raise self._wrong(f"{text!r} is not a value.")

    def _read(self, text: str) -> list[tuple[str, str]]:
        tokens, place, stripped = [], 0, text.rstrip()
        while place < len(stripped):
            found = _TOKEN.match(stripped, place)
            if found is None:
                raise self._wrong(f"It cannot be read from character {place} on.")
            tokens.append((str(found.lastgroup), found[str(found.lastgroup)]))
            place = found.end()
        if not tokens:
            raise self._wrong("It is empty.")
        return tokens

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._place] if self._place < len(self._tokens) else ("end", "the end")

    def _next(self) -> tuple[str, str]:
        found = self._peek()
        self._place += 1
        return found

    def _word(self, wanted: str) -> bool:
        kind, text = self._peek()
        if kind != "word" or text.lower() != wanted:
            return False
        self._place += 1
        return True

    def _mark(self, wanted: str) -> bool:
        if self._peek() != ("mark", wanted):
            return False
        self._place += 1
        return True

    def _require(self, wanted: str) -> None:
        if not self._mark(wanted):
            raise self._wrong(f"{wanted!r} was expected, not {self._peek()[1]!r}.")

    def _wrong(self, detail: str) -> ScimError:
        what = "filter" if self._scim_type == "invalidFilter" else "path"
        return ScimError(self._scim_type, f"This is not a {what}. {detail}"[:300])


def _storable(value: Any) -> str:
    """The text, if PostgreSQL can hold it; raises ValueError."""
    if not isinstance(value, str) or "\x00" in value or any(0xD800 <= ord(char) < 0xE000 for char in value):
        raise ValueError
    return value
