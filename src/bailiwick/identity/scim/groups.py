"""Groups as SCIM resources. What role a group gives is ours to say, so SCIM neither shows nor changes it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from bailiwick.evidence.events import Context
from bailiwick.identity.groups import Groups, Members
from bailiwick.identity.scim.errors import ScimError
from bailiwick.identity.scim.patch import member_ids, patched_group, steps
from bailiwick.identity.scim.queries import Query, meta
from bailiwick.identity.scim.schemas import GROUP_URN
from bailiwick.identity.scim.sql import Column, Table
from bailiwick.identity.scim.values import line, part
from bailiwick.inventory.zones import VersionGuard
from bailiwick.kernel.db import Database, Row
from bailiwick.kernel.errors import NotFound

_HAS_MEMBER = (
    "EXISTS (SELECT 1 FROM group_members m JOIN users u ON u.zone = m.zone AND u.username = m.username"
    " WHERE m.group_id = g.id AND {})"
)
COLUMNS: Mapping[str, Column] = {
    "id": Column("g.id", "exact"),
    "externalid": Column("g.external_id", "exact"),
    "displayname": Column("g.name"),
    "members": Column("u.id", "exact", _HAS_MEMBER),
    "members.value": Column("u.id", "exact", _HAS_MEMBER),
    "members.display": Column("u.username", "text", _HAS_MEMBER),
    "meta.created": Column("g.created_at", "time"),
    "meta.lastmodified": Column("g.updated_at", "time"),
}
_MEMBERS = (
    "(SELECT json_agg(json_build_object('value', u.id, 'display', u.username) ORDER BY u.username)"
    " FROM group_members m JOIN users u ON u.zone = m.zone AND u.username = m.username WHERE m.group_id = g.id)"
)
_TABLE = Table("groups", "g", GROUP_URN, COLUMNS, "g.name", _MEMBERS, "members", "There is no such group.")


class ScimGroups:
    """Reads and changes groups for a SCIM client. ``widen`` says whether he may give more than there was."""

    related_as = _TABLE.related_as

    def __init__(self, database: Database, groups: Groups) -> None:
        self._database = database
        self._groups = groups

    async def create(self, context: Context, body: Mapping[str, Any], base: str, *, widen: bool) -> dict[str, Any]:
        """A new group, which gives no role until an administrator says so."""
        named = await self._named(context.zone, member_ids(part(body, "members") or []), strict=True)
        group = await self._groups.create(
            context,
            _name(part(body, "displayname")),
            external_id=line(part(body, "externalid"), "externalId") or None,
            members=set(named.values()),
            source="scim",
            widen=widen,
        )
        return await self.get(context.zone, group.id, base)

    async def replace(
        self, context: Context, identifier: str, body: Mapping[str, Any], guard: VersionGuard, *, widen: bool
    ) -> None:
        """PUT: the members are those named."""
        named = await self._named(context.zone, member_ids(part(body, "members") or []), strict=True)
        patch = {
            "name": _name(part(body, "displayname")),
            "external_id": line(part(body, "externalid"), "externalId") or None,
        }
        only = Members(only=frozenset(named.values()))
        await self._require(context.zone, identifier)
        await self._groups.change(context, identifier, patch, only, guard, source="scim", widen=widen)

    async def patch(
        self, context: Context, identifier: str, body: Mapping[str, Any], guard: VersionGuard, *, widen: bool
    ) -> None:
        """PATCH: a member more or less costs the same in a group of any size."""
        wanted = patched_group(steps(body, GROUP_URN))
        patch: dict[str, Any] = {}
        if "displayName" in wanted.changes:
            patch["name"] = _name(wanted.changes["displayName"])
        if "externalId" in wanted.changes:
            patch["external_id"] = line(wanted.changes["externalId"], "externalId") or None
        await self._require(context.zone, identifier)
        members = await self._members(context.zone, wanted.members)
        await self._groups.change(context, identifier, patch, members, guard, source="scim", widen=widen)

    async def delete(self, context: Context, identifier: str, guard: VersionGuard) -> None:
        """Delete the group; the role it gave is gone."""
        await self._require(context.zone, identifier)
        await self._groups.delete(context, identifier, guard)

    async def get(self, zone: str, identifier: str, base: str, *, whole: bool = True) -> dict[str, Any]:
        """One group, with its members if ``whole``; raises ``NotFound``."""
        async with self._database.begin() as tx:
            return _document(await _TABLE.get(tx, zone, identifier, whole=whole), base)

    async def list(self, zone: str, query: Query, base: str) -> tuple[Sequence[dict[str, Any]], int]:
        """One page of the groups the query asks for, and how many there are."""
        async with self._database.begin() as tx:
            rows, total = await _TABLE.find(tx, zone, query)
        return [_document(row, base) for row in rows], total

    async def _require(self, zone: str, identifier: str) -> None:
        """Refuse an id that is none: our own routes take names too."""
        async with self._database.begin() as tx:
            if not await tx.value("SELECT 1 FROM groups WHERE zone = :zone AND id = :id", zone=zone, id=identifier):
                raise NotFound(_TABLE.missing)

    async def _members(self, zone: str, wanted: Members) -> Members:
        """The same change, of user names."""
        come = await self._named(zone, (wanted.only or frozenset()) | wanted.add, strict=True)
        go = await self._named(zone, wanted.remove, strict=False)
        only = None if wanted.only is None else frozenset(come[each] for each in wanted.only)
        return Members(only, frozenset(come[each] for each in wanted.add), frozenset(go.values()))

    async def _named(self, zone: str, ids: Collection[str], *, strict: bool) -> dict[str, str]:
        if not ids:
            return {}
        if any("\x00" in each or not each.isascii() for each in ids):
            raise ScimError("invalidValue", "A member's value is the id of a user.")
        async with self._database.begin() as tx:
            rows = await tx.all(
                "SELECT id, username FROM users WHERE zone = :zone AND id = ANY(:ids)", zone=zone, ids=sorted(ids)
            )
        named = {row["id"]: row["username"] for row in rows}
        if strict and len(named) < len(set(ids)):
            raise ScimError("invalidValue", "A member is no user there is.")
        return named


def _name(value: Any) -> str:
    name = line(value, "displayName")
    if not name.strip():
        raise ScimError("invalidValue", "A group has a displayName.")
    return name


def _document(row: Row, base: str) -> dict[str, Any]:
    members = [{**each, "type": "User", "$ref": f"{base}/Users/{each['value']}"} for each in row["related"] or []]
    return {
        "schemas": [GROUP_URN],
        "id": row["id"],
        "displayName": row["name"],
        **({"externalId": row["external_id"]} if row["external_id"] is not None else {}),
        **({"members": members} if members else {}),
        "meta": meta("Group", base, row["id"], row["created_at"], row["updated_at"], row["version"]),
    }
