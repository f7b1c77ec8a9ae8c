"""PATCH (RFC 7644 §3.5.2) as the standard has it, and as Entra and Okta say it.

Entra writes ``Add`` for ``add`` and ``"False"`` for ``false``, names attributes by dotted keys in an object without a
path, and removes members by value; Okta sends whole objects without a path. All of it is one list of steps here, each a
path with one value, applied in order to a copy: a request is done wholly or not at all.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bailiwick.identity.groups import Members
from bailiwick.identity.scim.errors import ScimError
from bailiwick.identity.scim.filters import Both, Comparison, Filter, Path, parse_path
from bailiwick.identity.scim.schemas import ENTERPRISE_URN, PASSED_BY
from bailiwick.identity.scim.values import equals, part, satisfies

PATCH_URN = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
MAX_OPERATIONS = 1000

Op = Literal["add", "replace", "remove"]

_SINGLE = {"externalid": "externalId", "username": "userName", "displayname": "displayName", "title": "title",
           "active": "active"}  # fmt: skip
_NAME_PARTS = {"formatted": "formatted", "givenname": "givenName", "familyname": "familyName"}
_MULTI = {"emails": "emails", "roles": "roles"}
_READ_ONLY = frozenset(("id", "meta", "schemas", "groups"))


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do at one path."""

    op: Op
    path: Path
    value: Any


def steps(body: Mapping[str, Any], urn: str) -> list[Step]:
    """The steps of a PATCH of a resource with the schema ``urn``; raises ``ScimError``."""
    told = part(body, "operations")
    if not isinstance(told, list) or not told:
        raise ScimError("invalidSyntax", "A PATCH has Operations.")
    if len(told) > MAX_OPERATIONS:
        raise ScimError("tooMany", f"A PATCH has at most {MAX_OPERATIONS} operations.")
    return [step for operation in told for step in _steps(operation, urn)]


def patched_user(resource: Mapping[str, Any], todo: list[Step]) -> dict[str, Any]:
    """The user ``resource`` after the steps."""
    after = copy.deepcopy(dict(resource))
    for step in todo:
        _apply(after, step)
    return after


@dataclass(frozen=True, slots=True)
class GroupPatch:
    """What a PATCH makes of a group. ``members`` are ids."""

    changes: Mapping[str, Any]
    members: Members


def patched_group(todo: list[Step]) -> GroupPatch:
    """What the steps make of a group: its members are never read whole for it."""
    changes: dict[str, Any] = {}
    members = Members()
    for step in todo:
        name = step.path.attribute.name
        if name == "members":
            members = _members(members, step)
        elif name == "displayname":
            if step.op == "remove" or not isinstance(step.value, str):
                raise ScimError("invalidValue", "A group has a displayName.")
            changes["displayName"] = step.value
        elif name == "externalid":
            changes["externalId"] = None if step.op == "remove" else step.value
        elif name not in _READ_ONLY:
            raise ScimError("invalidPath", f"A group has no {name}.")
    return GroupPatch(changes, members)


def _steps(operation: Any, urn: str) -> Iterator[Step]:
    if not isinstance(operation, Mapping):
        raise ScimError("invalidSyntax", "An operation is an object.")
    op, path, value = _op(part(operation, "op")), part(operation, "path"), part(operation, "value")
    if path not in (None, ""):
        if not isinstance(path, str):
            raise ScimError("invalidPath", "A path is a text.")
        if path.lower() == ENTERPRISE_URN or path.lower().startswith(ENTERPRISE_URN + ":"):
            return
        if path.lower() == urn.lower():
            path = None
        else:
            yield _step(op, path, value, urn)
            return
    if op == "remove":
        raise ScimError("noTarget", "What is removed is named by a path.")
    if not isinstance(value, Mapping):
        raise ScimError("invalidValue", "Without a path the value is an object.")
    for key, inner in value.items():
        if not isinstance(key, str) or key.lower() in _READ_ONLY:
            continue  # Okta repeats the id
        if key.lower() == urn.lower() and isinstance(inner, Mapping):
            yield from _steps({"op": op, "value": inner}, urn)
        elif key.lower() != ENTERPRISE_URN and not key.lower().startswith(ENTERPRISE_URN + ":"):
            yield _step(op, key, inner, urn)


def _op(told: Any) -> Op:
    for op in ("add", "replace", "remove"):
        if isinstance(told, str) and told.lower() == op:
            return op
    raise ScimError("invalidSyntax", "An operation adds, replaces or removes.")


def _step(op: Op, text: str, value: Any, urn: str) -> Step:
    path = parse_path(text)
    if path.attribute.urn and path.attribute.urn != urn.lower():
        raise ScimError("invalidPath", "The path names a schema that the resource does not have.")
    if op != "remove" and value is None:
        op = "remove"  # null is the absence of a value (RFC 7643 §2.5)
    return Step(op, path, value)


def _apply(after: dict[str, Any], step: Step) -> None:
    name = step.path.attribute.name
    if name in _READ_ONLY:
        raise ScimError("mutability", f"{name} cannot be written.")
    if name in _SINGLE:
        if step.path.sub or step.path.where is not None:
            raise ScimError("invalidPath", f"{_SINGLE[name]} has no parts.")
        _set(after, _SINGLE[name], step)
    elif name == "name":
        _apply_name(after, step)
    elif name in _MULTI:
        after[_MULTI[name]] = _apply_many(after.get(_MULTI[name]) or [], step)
    elif name not in PASSED_BY:
        raise ScimError("invalidPath", f"A user has no {name}.")


def _set(within: dict[str, Any], name: str, step: Step) -> None:
    if step.op == "remove":
        if name in ("userName", "active"):
            raise ScimError("mutability", f"{name} cannot be removed.")
        within.pop(name, None)
    else:
        within[name] = step.value


def _apply_name(after: dict[str, Any], step: Step) -> None:
    if step.path.where is not None:
        raise ScimError("invalidPath", "name has one value.")
    if step.path.sub:
        if step.path.sub in _NAME_PARTS:
            _set(after.setdefault("name", {}), _NAME_PARTS[step.path.sub], step)
        return
    if step.op == "remove":
        after.pop("name", None)
        return
    if not isinstance(step.value, Mapping):
        raise ScimError("invalidValue", "name is an object.")
    for key, value in step.value.items():
        if str(key).lower() in _NAME_PARTS:
            after.setdefault("name", {})[_NAME_PARTS[str(key).lower()]] = value


def _apply_many(values: list[Any], step: Step) -> list[Any]:
    path = step.path
    if path.where is None and not path.sub:
        given = step.value if isinstance(step.value, list) else [step.value]
        if step.op == "remove":
            return [] if step.value is None else [each for each in values if not _named(each, given)]
        if step.op == "replace":
            return list(given)
        return [*(each for each in values if not _named(each, given)), *given]
    where = path.where
    chosen = [each for each in values if isinstance(each, dict) and (where is None or satisfies(each, where))]
    if step.op == "remove":
        if not path.sub:
            return [each for each in values if each not in chosen]
        for each in chosen:
            each.pop(path.sub, None)
        return values
    if not chosen:
        made = equals(where) if where is not None else {}
        if made is None or (step.op == "replace" and where is not None):
            raise ScimError("noTarget", "No value is as the path says.")
        chosen = [dict(made)]
        values = [*values, *chosen]
    for each in chosen:
        if path.sub:
            each[path.sub] = step.value
        elif isinstance(step.value, Mapping):
            each.update(step.value)
        else:
            raise ScimError("invalidValue", "The value is an object.")
    return values


def _named(value: Any, given: list[Any]) -> bool:
    """Whether a value of an attribute is one of those given."""
    key = part(value, "value") if isinstance(value, Mapping) else value
    return key is not None and any(
        (part(each, "value") if isinstance(each, Mapping) else each) == key for each in given
    )


def _members(members: Members, step: Step) -> Members:
    if step.path.where is not None:
        if step.op != "remove" or step.path.sub:
            raise ScimError("invalidPath", "Members are added and removed whole.")
        return members.removing(_ids_of(step.path.where))
    if step.path.sub:
        raise ScimError("invalidPath", "Members are added and removed whole.")
    if step.op == "remove" and step.value is None:
        return Members(only=frozenset())
    named = member_ids(step.value)
    match step.op:
        case "add":
            return members.adding(named)
        case "remove":
            return members.removing(named)
    return Members(only=frozenset(named))


def _ids_of(where: Filter) -> list[str]:
    match where:
        case Both(left, right, True):
            return [*_ids_of(left), *_ids_of(right)]
        case Comparison(attribute, "eq", str(value)) if attribute.dotted == "value":
            return [value]
    raise ScimError("invalidFilter", 'Members are picked by value, as in members[value eq "…"].')


def member_ids(value: Any) -> list[str]:
    """The ids in what a client sent as members; raises ``ScimError``."""
    given = value if isinstance(value, list) else [value]
    ids = [part(each, "value") if isinstance(each, Mapping) else each for each in given]
    if not all(isinstance(each, str) for each in ids):
        raise ScimError("invalidValue", "A member is an object with the id of a user as its value.")
    return [str(each) for each in ids]
