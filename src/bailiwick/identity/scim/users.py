"""Users as SCIM resources: our row as the standard's document, and the standard's document as a change of our row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bailiwick.evidence.events import Context
from bailiwick.identity.imports import Imports
from bailiwick.identity.scim.errors import ScimError
from bailiwick.identity.scim.patch import patched_user, steps
from bailiwick.identity.scim.queries import Query, meta
from bailiwick.identity.scim.schemas import USER_URN
from bailiwick.identity.scim.sql import Column, Table
from bailiwick.identity.scim.values import line, part
from bailiwick.identity.standing import NO_ROLE, RANKS, highest
from bailiwick.identity.users import NewUser, User, Users, user_of
from bailiwick.inventory.zones import VersionGuard
from bailiwick.kernel.db import Database, Row
from bailiwick.kernel.errors import NotFound
from bailiwick.kernel.fields import EMAIL_PATTERN, USER_NAME_PATTERN, matches

_IN_GROUP = (
    "EXISTS (SELECT 1 FROM group_members m JOIN groups g ON g.id = m.group_id"
    " WHERE m.zone = u.zone AND m.username = u.username AND {})"
)
COLUMNS: Mapping[str, Column] = {
    "id": Column("u.id", "exact"),
    "externalid": Column("u.external_id", "exact"),
    "username": Column("u.username"),
    "displayname": Column("u.full_name"),
    "name.formatted": Column("u.full_name"),
    "name.givenname": Column("(u.profile->>'givenName')"),
    "name.familyname": Column("(u.profile->>'familyName')"),
    "title": Column("(u.profile->>'title')"),
    "active": Column("u.is_active", "boolean"),
    "emails": Column("u.email"),
    "emails.value": Column("u.email"),
    "emails.type": Column("(CASE WHEN u.email <> '' THEN 'work' END)"),
    "emails.primary": Column("(u.email <> '')", "boolean"),
    "roles": Column("coalesce(u.own_role, u.role)"),
    "roles.value": Column("coalesce(u.own_role, u.role)"),
    "groups": Column("g.id", "exact", _IN_GROUP),
    "groups.value": Column("g.id", "exact", _IN_GROUP),
    "groups.display": Column("g.name", "text", _IN_GROUP),
    "meta.created": Column("u.created_at", "time"),
    "meta.lastmodified": Column("u.updated_at", "time"),
}
_GROUPS = (
    "(SELECT json_agg(json_build_object('value', g.id, 'display', g.name) ORDER BY g.name) FROM group_members m"
    " JOIN groups g ON g.id = m.group_id WHERE m.zone = u.zone AND m.username = u.username)"
)
_TABLE = Table("users", "u", USER_URN, COLUMNS, "u.username", _GROUPS, "groups", "There is no such user.")


class ScimUsers:
    """Reads and changes users for a SCIM client. ``widen`` says whether he may give more than there was."""

    related_as = _TABLE.related_as

    def __init__(self, database: Database, users: Users, imports: Imports) -> None:
        self._database = database
        self._imports = imports
        self._users = users

    async def create(self, context: Context, body: Mapping[str, Any], base: str, *, widen: bool) -> dict[str, Any]:
        """A new user, who gets no invitation: he comes by the provider that sends him."""
        wanted = _wanted(body, fill=True)
        user = await self._imports.create(
            context,
            NewUser(
                _username(body),
                wanted["email"],
                wanted.get("role", "viewer"),
                wanted["full_name"],
                is_active=wanted.get("is_active", True),
                external_id=wanted["external_id"],
                profile=wanted["profile"],
                invite=False,
                cause="scim",
            ),
            widen=widen,
        )
        return _document(user, [], base)

    async def replace(
        self, context: Context, identifier: str, body: Mapping[str, Any], guard: VersionGuard, *, widen: bool
    ) -> None:
        """PUT: what is not named is emptied, but for the state and the role, which only a named one changes."""
        username = await self._username(context.zone, identifier)
        _require_same_name(_username(body), username)
        await self._users.change(context, username, _wanted(body, fill=True), guard, widen=widen, scim=True)

    async def patch(
        self, context: Context, identifier: str, body: Mapping[str, Any], guard: VersionGuard, *, widen: bool
    ) -> None:
        """PATCH: the steps are taken from the user as he is while he is locked.

        ``active: false`` ends everything he has open, everywhere, before this returns; ``active: true`` takes back no
        more than that (``user_disabled_here``).
        """
        username = await self._username(context.zone, identifier)
        todo = steps(body, USER_URN)

        def patched(user: User) -> Mapping[str, Any]:
            after = patched_user(_own(user), todo)
            _require_same_name(_username(after), username)
            return _wanted(after, fill=False)

        await self._users.change(context, username, patched, guard, widen=widen, scim=True)

    async def delete(self, context: Context, identifier: str, guard: VersionGuard) -> None:
        """Delete the user with all he has."""
        await self._users.delete(context, await self._username(context.zone, identifier), guard)

    async def get(self, zone: str, identifier: str, base: str, *, whole: bool = True) -> dict[str, Any]:
        """One user, with his groups if ``whole``; raises ``NotFound``."""
        async with self._database.begin() as tx:
            return _row_document(await _TABLE.get(tx, zone, identifier, whole=whole), base)

    async def list(self, zone: str, query: Query, base: str) -> tuple[Sequence[dict[str, Any]], int]:
        """One page of the users the query asks for, and how many there are."""
        async with self._database.begin() as tx:
            rows, total = await _TABLE.find(tx, zone, query)
        return [_row_document(row, base) for row in rows], total

    async def _username(self, zone: str, identifier: str) -> str:
        async with self._database.begin() as tx:
            username = await tx.value(
                "SELECT username FROM users WHERE zone = :zone AND id = :id", zone=zone, id=identifier
            )
        if username is None:
            raise NotFound(_TABLE.missing)
        return str(username)


def _own(user: User) -> dict[str, Any]:
    """What a client may write of the user, as a resource."""
    name = {key: user.profile[key] for key in ("givenName", "familyName") if user.profile.get(key)}
    return {
        "userName": user.username,
        "active": user.is_active,
        **({"externalId": user.external_id} if user.external_id is not None else {}),
        **({"displayName": user.full_name} if user.full_name else {}),
        **({"name": name} if name else {}),
        **({"title": user.profile["title"]} if user.profile.get("title") else {}),
        "emails": [{"value": user.email, "type": "work", "primary": True}] if user.email else [],
        "roles": [{"value": user.own_role, "primary": True}] if user.own_role != NO_ROLE else [],
    }


def _document(user: User, groups: list[dict[str, Any]], base: str) -> dict[str, Any]:
    told = {key: value for key, value in _own(user).items() if value != []}
    if groups:
        told["groups"] = [{**each, "$ref": f"{base}/Groups/{each['value']}"} for each in groups]
    return {
        "schemas": [USER_URN],
        "id": user.id,
        **told,
        "meta": meta("User", base, user.id, user.created_at, user.updated_at, user.version),
    }


def _row_document(row: Row, base: str) -> dict[str, Any]:
    return _document(user_of(row), row["related"] or [], base)


def _wanted(body: Mapping[str, Any], *, fill: bool) -> dict[str, Any]:
    """What ``body`` makes of a user, as :meth:`Users.change` takes it. ``fill`` makes a missing name of its parts."""
    given = part(body, "name")
    if given is not None and not isinstance(given, Mapping):
        raise ScimError("invalidValue", "name is an object.")
    name = {key: line(part(given or {}, key.lower()), f"name.{key}") for key in ("givenName", "familyName")}
    profile = {**name, "title": line(part(body, "title"), "title")}
    shown = line(part(body, "displayname"), "displayName")
    if not shown and fill:
        formatted = line(part(given or {}, "formatted"), "name.formatted")
        shown = formatted or " ".join(filter(None, (name["givenName"], name["familyName"])))[:200]
    external_id = line(part(body, "externalid"), "externalId")
    wanted: dict[str, Any] = {
        "email": _email(part(body, "emails")),
        "full_name": shown,
        "external_id": external_id or None,
        "profile": {key: value for key, value in profile.items() if value},
    }
    active = part(body, "active")
    if active is not None:
        wanted["is_active"] = _truth(active)
    roles = part(body, "roles")
    if roles is not None:
        wanted["role"] = _role(roles)
    return wanted


def _username(body: Mapping[str, Any]) -> str:
    name = part(body, "username")
    if not isinstance(name, str) or not matches(USER_NAME_PATTERN, name):
        raise ScimError("invalidValue", "userName is 1 to 100 letters, digits and . _ @ + - after a letter or digit.")
    return name


def _require_same_name(wanted: str, username: str) -> None:
    if wanted.casefold() != username.casefold():
        raise ScimError("mutability", "userName never changes: the evidence of what he did stands under it.")


def _email(emails: Any) -> str:
    given = emails if isinstance(emails, list) else [] if emails is None else [emails]
    found = [each if isinstance(each, Mapping) else {"value": each} for each in given]
    found = [each for each in found if part(each, "value") not in (None, "")]
    if not found:
        return ""
    primary = [each for each in found if part(each, "primary") in (True, "true", "True")]
    address = part((primary or found)[-1 if primary else 0], "value")
    if not isinstance(address, str) or len(address) > 254 or not matches(EMAIL_PATTERN, address):
        raise ScimError("invalidValue", "That is no e-mail address.")
    return address


def _truth(value: Any) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"  # Entra quotes them
    if not isinstance(value, bool):
        raise ScimError("invalidValue", "active is true or false.")
    return value


def _role(roles: Any) -> str:
    given = roles if isinstance(roles, list) else [roles]
    named = [part(each, "value") if isinstance(each, Mapping) else each for each in given]
    for each in named:
        if not isinstance(each, str) or each not in RANKS:
            raise ScimError("invalidValue", "A role is one of " + ", ".join(RANKS) + ".")
    return highest(named)
