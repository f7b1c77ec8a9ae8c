"""Whether a value in memory satisfies a filter: for PATCH, which picks among the values of an attribute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bailiwick.identity.scim.errors import ScimError
from bailiwick.identity.scim.filters import Both, Comparison, Filter, Not


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
