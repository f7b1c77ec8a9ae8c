"""What a client asks of a list, and which attributes it wants to see (RFC 7644 §3.4.2, §3.9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bailiwick.identity.scim.errors import ScimError
from bailiwick.identity.scim.filters import Attribute, Filter, parse_filter, parse_path
from bailiwick.identity.scim.schemas import MAX_RESULTS

_ALWAYS = frozenset(("id", "schemas"))
_MAX_NAMES = 100
_MAX_START = 2**31


@dataclass(frozen=True, slots=True)
class Shown:
    """Which attributes are answered: only those, or all but those. Names are dotted, in lower case."""

    only: frozenset[str] | None = None
    but: frozenset[str] = frozenset()

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Shown:
        """As ``attributes`` and ``excludedAttributes`` say; raises ``ScimError``."""
        only, but = query.get("attributes"), query.get("excludedAttributes")
        return cls(_names(only) if only else None, _names(but) if but else frozenset())

    def shows(self, name: str) -> bool:
        """Whether anything of the attribute is answered."""
        if name in _ALWAYS:
            return True
        if self.only is not None:
            return any(each == name or each.startswith(name + ".") for each in self.only)
        return name not in self.but

    def cut(self, resource: Mapping[str, Any]) -> dict[str, Any]:
        """The resource with what is to be seen of it."""
        return {key: self._part(key.lower(), value) for key, value in resource.items() if self.shows(key.lower())}

    def _part(self, name: str, value: Any) -> Any:
        if self.only is not None and name not in self.only and name not in _ALWAYS:
            return _each(value, lambda key: f"{name}.{key}" in (self.only or ()))
        return _each(value, lambda key: f"{name}.{key}" not in self.but)


@dataclass(frozen=True, slots=True)
class Query:
    """One page of a list, ``start`` counting from 1."""

    filter: Filter | None
    sort_by: Attribute | None
    descending: bool
    start: int
    count: int
    shown: Shown

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Query:
        """As the parameters say; raises ``ScimError``."""
        asked, sort = query.get("filter"), query.get("sortBy")
        direction = query.get("sortOrder", "ascending").lower()
        if direction not in ("ascending", "descending"):
            raise ScimError("invalidValue", "sortOrder is ascending or descending.")
        return cls(
            parse_filter(asked) if asked else None,
            _attribute(sort) if sort else None,
            direction == "descending",
            min(max(1, _whole(query.get("startIndex", "1"))), _MAX_START),
            min(max(0, _whole(query.get("count", "100"))), MAX_RESULTS),
            Shown.of(query),
        )

    def shows(self, name: str) -> bool:
        """Whether anything of the attribute is answered."""
        return self.shown.shows(name)


def meta(kind: str, base: str, identifier: str, created: datetime, changed: datetime, version: int) -> dict[str, Any]:
    """The ``meta`` of a resource."""
    return {
        "resourceType": kind,
        "created": instant(created),
        "lastModified": instant(changed),
        "location": f"{base}/{kind}s/{identifier}",
        "version": f'W/"{version}"',
    }


def instant(at: datetime) -> str:
    """A time as SCIM writes it, to the millisecond."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _names(text: str) -> frozenset[str]:
    names = text.split(",")
    if len(names) > _MAX_NAMES:
        raise ScimError("tooMany", f"At most {_MAX_NAMES} attributes are named.")
    # a URN before the name changes nothing: no resource has an attribute twice
    return frozenset(_attribute(name).dotted for name in names if name.strip())


def _attribute(text: str) -> Attribute:
    path = parse_path(text)
    if path.where is not None:
        raise ScimError("invalidPath", "This takes an attribute and no filter.")
    return Attribute(path.attribute.urn, path.attribute.name, path.sub)


def _whole(text: str) -> int:
    try:
        if len(text) > 20:
            raise ValueError
        return int(text)
    except ValueError:
        raise ScimError("invalidValue", "startIndex and count are whole numbers.") from None


def _each(value: Any, keep: Any) -> Any:
    if isinstance(value, list):
        return [_each(each, keep) for each in value]
    if isinstance(value, dict):
        return {key: inner for key, inner in value.items() if keep(key.lower())}
    return value
