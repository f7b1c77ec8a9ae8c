"""Values in memory: whether one satisfies a filter, for PATCH, and what is a line of text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bailiwick.identity.scim.errors import ScimError
from bailiwick.identity.scim.filters import Both, Comparison, Filter, Not

_LINE = re.compile(r"[^\x00-\x1f\x7f\x80-\x9f\u2028\u2029\ud800-\udfff]*")


def satisfies(value: Mapping[str, Any], found: Filter) -> bool:
    """Whether ``value``, one value of a complex attribute, satisfies ``found``."""
    match found:
        case Both(left, right, True):
            return satisfies(value, left) or satisfies(value, right)
        case Both(left, right):
            return satisfies(value, left) and satisfies(value, right)
        case Not(inner):
            return not satisfies(value, inner)
        case Comparison():
            return _compare(part(value, found.attribute.dotted), found)
    raise ScimError("invalidFilter", "A filter inside a filter's brackets is not offered.")


def part(value: Mapping[str, Any], name: str) -> Any:
    """The member of ``value`` by that name in any letter case, None when there is none."""
    return next((each for key, each in value.items() if key.lower() == name), None)


def equals(found: Filter) -> dict[str, Any] | None:
    """What a value must be for a filter of nothing but ``eq`` joined by ``and``; None for another filter."""
    match found:
        case Both(left, right, False):
            one, other = equals(left), equals(right)
            return None if one is None or other is None else {**one, **other}
        case Comparison(attribute, "eq", value):
            return {attribute.dotted: value}
    return None


def _compare(have: Any, found: Comparison) -> bool:
    wanted, operator = found.value, found.operator
    if operator == "pr":
        return have not in (None, "")
    if isinstance(have, bool) and isinstance(wanted, str):
        wanted = {"true": True, "false": False}.get(wanted.lower(), wanted)
    if isinstance(have, str) and isinstance(wanted, str):
        have, wanted = have.lower(), wanted.lower()
    match operator:
        case "eq":
            return bool(have == wanted)
        case "ne":
            return bool(have != wanted)
    if not isinstance(have, str) or not isinstance(wanted, str):
        return False
    match operator:
        case "co":
            return wanted in have
        case "sw":
            return have.startswith(wanted)
        case "ew":
            return have.endswith(wanted)
        case "gt":
            return have > wanted
        case "ge":
            return have >= wanted
        case "lt":
            return have < wanted
    return have <= wanted


def line(value: Any, what: str) -> str:
    """A line of text, empty for none; raises ``ScimError``."""
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > 200 or not _LINE.fullmatch(value):
        raise ScimError("invalidValue", f"{what} is a line of at most 200 characters.")
    return value
