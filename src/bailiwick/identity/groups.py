"""Groups: who belongs together, and the role that this gives. A group of the kind ``team`` signs off.

A member's role is the highest of his own and his groups' (``identity/standing.py``). Sessions that are open follow:
tokens carry no role, so what a change of a group takes away is gone everywhere before the change is answered.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from sqlalchemy.exc import IntegrityError

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.identity.persons import note_influence
from bailiwick.identity.ports import Revoke
from bailiwick.identity.standing import RoleChange, lock_administrators, settle_roles
from bailiwick.inventory.zones import VersionGuard, any_version, require_active
from bailiwick.kernel import feed
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import Conflict, Denied, InvalidRequest, NotFound
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.modes import Switch, require_on

Kind = Literal["group", "team"]

# what a PATCH may name, and nothing else
CHANGEABLE = ("name", "description", "kind", "role", "owner", "external_id")
_TOLD_MEMBERS = 50  # in one event
_ANNOUNCED = 200  # people one by one; of more, the zone is read anew


@dataclass(frozen=True, slots=True)
class Group:
    """One group as stored. ``owner`` is the user who answers for it, ``members`` how many there are."""

    id: str
    zone: str
    name: str
    description: str
    kind: str
    role: str | None
    owner: str | None
    external_id: str | None
    source: str
    members: int
    version: int
    created_at: datetime
    updated_at: datetime

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "id": self.id,
            "name": self.name,
            "description": self.description,
            "kind": self.kind,
            "role": self.role,
            "owner": self.owner,
            "external_id": self.external_id,
            "source": self.source,
            "members": self.members,
            "version": self.version,
            "created_at": self.created_at,
            "updated_at": self.updated_at,
        }


@dataclass(frozen=True, slots=True)
class Members:
    """A change of who is in a group: the ``only`` ones from now on, if said; then who comes, then who goes."""

    only: frozenset[str] | None = None
    add: frozenset[str] = frozenset()
    remove: frozenset[str] = frozenset()

    def adding(self, usernames: Iterable[str]) -> Members:
        """This, and afterwards those come."""
        named = frozenset(usernames)
        return replace(self, add=self.add | named, remove=self.remove - named)

    def removing(self, usernames: Iterable[str]) -> Members:
        """This, and afterwards those go."""
        named = frozenset(usernames)
        return replace(self, add=self.add - named, remove=self.remove | named)

    def __bool__(self) -> bool:
        return self.only is not None or bool(self.add or self.remove)


NOBODY = Members()


class Groups:
    """Creates, changes, lists and deletes groups, and says who is in them."""

    def __init__(self, database: Database, clock: Clock, ids: Ids, recorder: Recorder, revocations: Revoke) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._revocations = revocations

    async def create(
        self,
        context: Context,
        name: str,
        *,
        description: str = "",
        kind: Kind = "group",
        role: str | None = None,
        owner: str | None = None,
        external_id: str | None = None,
        members: Collection[str] = (),
        source: str = "api",
        widen: bool = True,
    ) -> Group:
        """A new group with its members.

        ``source`` says who keeps it; ``widen`` False refuses what would raise anybody's role. Raises ``Conflict``
        (``already_exists``), ``InvalidRequest`` for members or an owner there are not, and ``Denied``.
        """
        now = self._clock.now()
        async with self._database.begin() as tx:
            await self._begin(tx, context)
            await require_on(tx, context.zone, Switch.PROVISION, Switch.READ_ONLY)
            await _require_users(tx, context.zone, [owner] if owner else [])
            row = await tx.one(
                "INSERT INTO groups (id, zone, name, description, kind, role, owner, external_id, source, created_at,"
                " updated_at) VALUES (:id, :zone, :name, :description, :kind, :role, :owner, :external_id, :source,"
                " :now, :now) ON CONFLICT DO NOTHING RETURNING *",
                id=self._ids(),
                zone=context.zone,
                name=name,
                description=description,
                kind=kind,
                role=role,
                owner=owner,
                external_id=external_id,
                source=source,
                now=now,
            )
            if row is None:
                raise Conflict("The name of the group is taken.", reason="already_exists")
            subject = Subject(id=name, type="group")
            await self._recorder.record(
                tx, codes.GROUP_CREATED, "success", context, subject=subject, kind=kind, role=role or ""
            )
            moved = await self._move(tx, context, row, Members().adding(members), source, now)
            await self._announce(tx, context, await _settled(tx, context.zone, moved if role else (), widen=widen))
            return await _read(tx, context.zone, row["id"])

    async def change(
        self,
        context: Context,
        identifier: str,
        patch: dict[str, Any],
        members: Members = NOBODY,
        guard: VersionGuard = any_version,
        *,
        source: str = "api",
        widen: bool = True,
    ) -> Group:
        """Change the members of :data:`CHANGEABLE` that ``patch`` names, and who is in the group.

        ``identifier`` is its id or its name. What anybody loses by it is gone everywhere before this returns.
        Raises as :meth:`create` does, ``NotFound``, and ``Conflict`` when the last administrator would go.
        """
        now = self._clock.now()
        async with self._database.begin() as tx:
            await self._begin(tx, context)
            row = await _locked(tx, context.zone, identifier)
            guard(row["version"])
            if members.only is not None or members.add or patch:  # taking somebody out ends authority
                await require_on(tx, context.zone, Switch.PROVISION, Switch.READ_ONLY)
            changed = [member for member in CHANGEABLE if member in patch and patch[member] != row[member]]
            if "owner" in changed and patch["owner"]:
                await _require_users(tx, context.zone, [patch["owner"]])
            if changed:
                row = await self._update(tx, row, {name: patch[name] for name in changed}, now)
            subject = Subject(id=row["name"], type="group")
            if changed:
                await self._recorder.record(
                    tx,
                    codes.GROUP_CHANGED,
                    "success",
                    context,
                    subject=subject,
                    kind=row["kind"],
                    role=row["role"] or "",
                    changed=changed,
                )
            moved = await self._move(tx, context, row, members, source, now)
            affected = set(moved) if row["role"] else set()
            if "role" in changed:
                affected = set(moved) | set(await _usernames(tx, row["id"]))
            if moved and not changed:
                await tx.run(
                    "UPDATE groups SET version = version + 1, updated_at = :now WHERE id = :id", now=now, id=row["id"]
                )
            changes = await _settled(tx, context.zone, affected, widen=widen)
            group = await _read(tx, context.zone, row["id"])
            revision = await self._announce(tx, context, changes)
        if revision is not None and any(change.narrows for change in changes):
            await self._revocations.settle(revision, context)
        return group

    async def delete(self, context: Context, identifier: str, guard: VersionGuard = any_version) -> None:
        """Delete a group; the role it gave is gone everywhere before this returns. Raises ``NotFound``."""
        async with self._database.begin() as tx:
            await self._begin(tx, context)
            row = await _locked(tx, context.zone, identifier)
            guard(row["version"])
            affected = await _usernames(tx, row["id"]) if row["role"] else []
            await tx.run("DELETE FROM groups WHERE id = :id", id=row["id"])
            await self._recorder.record(
                tx,
                codes.GROUP_DELETED,
                "success",
                context,
                subject=Subject(id=row["name"], type="group"),
                kind=row["kind"],
                role=row["role"] or "",
            )
            changes = await _settled(tx, context.zone, affected, widen=False)
            revision = await self._announce(tx, context, changes)
        if revision is not None:
            await self._revocations.settle(revision, context)

    async def get(self, zone: str, identifier: str) -> Group:
        """One group by id or name; raises ``NotFound``."""
        async with self._database.begin() as tx:
            return await _read(tx, zone, identifier)

    async def list(self, zone: str, after: str, limit: int) -> tuple[list[Group], str | None]:
        """Groups by name after ``after``, at most ``limit``, and the name the next page starts after."""
        async with self._database.begin() as tx:
            rows = await tx.all(
                f"{_SELECT} WHERE g.zone = :zone AND g.name > :after ORDER BY g.name LIMIT :limit",
                zone=zone,
                after=after,
                limit=limit + 1,
            )
        found = [_group(row) for row in rows[:limit]]
        return found, found[-1].name if len(rows) > limit else None

    async def members(
        self, zone: str, identifier: str, after: str, limit: int
    ) -> tuple[Sequence[dict[str, Any]], str | None]:
        """Who is in a group, by user name after ``after``; raises ``NotFound``."""
        async with self._database.begin() as tx:
            group = await _read(tx, zone, identifier)
            rows = await tx.all(
                "SELECT m.username, u.full_name, u.is_active, m.source, m.added_at FROM group_members m JOIN users u"
                " ON u.zone = m.zone AND u.username = m.username WHERE m.group_id = :id AND m.username > :after"
                " ORDER BY m.username LIMIT :limit",
                id=group.id,
                after=after,
                limit=limit + 1,
            )
        found = [dict(row) for row in rows[:limit]]
        return found, found[-1]["username"] if len(rows) > limit else None

    async def _begin(self, tx: Transaction, context: Context) -> None:
        await require_active(tx, context.zone)
        await lock_administrators(tx, context.zone)

    async def _update(self, tx: Transaction, row: Row, wanted: dict[str, Any], now: datetime) -> Row:
        values = {name: wanted.get(name, row[name]) for name in CHANGEABLE}
        try:
            fresh = await tx.one(
                "UPDATE groups SET name = :name, description = :description, kind = :kind, role = :role,"
                " owner = :owner, external_id = :external_id, version = version + 1, updated_at = :now"
                " WHERE id = :id RETURNING *",
                **values,
                now=now,
                id=row["id"],
            )
        except IntegrityError:
            raise Conflict("The name of the group is taken.", reason="already_exists") from None
        assert fresh is not None
        return fresh

    async def _move(
        self, tx: Transaction, context: Context, row: Row, members: Members, source: str, now: datetime
    ) -> Sequence[str]:
        """Change who is in the group, with the events of it; answers who came or went."""
        if not members:
            return ()
        coming = ((members.only or frozenset()) | members.add) - members.remove
        await _require_users(tx, context.zone, coming)
        added = await tx.all(
            "INSERT INTO group_members (group_id, zone, username, source, added_at)"
            " SELECT :id, :zone, name, :source, :now FROM unnest(cast(:names AS text[])) AS name"
            " ON CONFLICT (group_id, username) DO UPDATE SET source = excluded.source"
            " RETURNING username, xmax = 0 AS fresh",
            id=row["id"],
            zone=context.zone,
            source=source,
            now=now,
            names=sorted(coming),
        )
        came = sorted(each["username"] for each in added if each["fresh"])
        removed = await tx.all(
            "DELETE FROM group_members WHERE group_id = :id AND (username = ANY(:gone)"
            " OR (:only AND NOT username = ANY(:kept))) RETURNING username",
            id=row["id"],
            gone=sorted(members.remove),
            only=members.only is not None,
            kept=sorted(coming),
        )
        went = sorted(each["username"] for each in removed)
        for told in _chunks(came):
            await self._recorder.record(
                tx,
                codes.GROUP_MEMBERS_ADDED,
                "success",
                context,
                subject=Subject(id=row["name"], type="group"),
                members=told,
                source=source,
            )
        for told in _chunks(went):
            await self._recorder.record(
                tx,
                codes.GROUP_MEMBERS_REMOVED,
                "success",
                context,
                subject=Subject(id=row["name"], type="group"),
                members=told,
                source=source,
            )
        return [*came, *went]

    async def _announce(self, tx: Transaction, context: Context, changes: Sequence[RoleChange]) -> int | None:
        for change in changes:
            if change.widens:
                await note_influence(tx, context, change.username, "raised", self._clock.now())
        if len(changes) > _ANNOUNCED:
            return await feed.announce(tx, context.zone, "zone", context.zone)
        revision = None
        for change in changes:
            revision = await feed.announce(tx, context.zone, "user", change.username)
        return revision


_SELECT = "SELECT g.*, (SELECT count(*) FROM group_members m WHERE m.group_id = g.id) AS members FROM groups g"


async def _settled(tx: Transaction, zone: str, usernames: Collection[str], *, widen: bool) -> Sequence[RoleChange]:
    changes = await settle_roles(tx, zone, usernames)
    if not widen and any(change.widens for change in changes):
        raise Denied(
            "This gives somebody a higher role, which needs the permission users:write.", permission="users:write"
        )
    return changes


async def _require_users(tx: Transaction, zone: str, usernames: Collection[str]) -> None:
    """Refuse names of people there are not."""
    if not usernames:
        return
    rows = await tx.all(
        "SELECT name FROM unnest(cast(:names AS text[])) AS name WHERE NOT EXISTS"
        " (SELECT 1 FROM users WHERE zone = :zone AND username = name) LIMIT 5",
        zone=zone,
        names=sorted(usernames),
    )
    if rows:
        raise InvalidRequest("There is no user " + ", ".join(row["name"] for row in rows) + ".")


async def _usernames(tx: Transaction, identifier: str) -> list[str]:
    rows = await tx.all("SELECT username FROM group_members WHERE group_id = :id", id=identifier)
    return [row["username"] for row in rows]


async def _locked(tx: Transaction, zone: str, identifier: str) -> Row:
    row = await tx.one(
        "SELECT * FROM groups WHERE zone = :zone AND (id = :id OR lower(name) = lower(:id)) ORDER BY id <> :id"
        " LIMIT 1 FOR UPDATE",
        zone=zone,
        id=identifier,
    )
    if row is None:
        raise NotFound(f"There is no group {identifier}.")
    return row


async def _read(tx: Transaction, zone: str, identifier: str) -> Group:
    row = await tx.one(
        f"{_SELECT} WHERE g.zone = :zone AND (g.id = :id OR lower(g.name) = lower(:id)) ORDER BY g.id <> :id LIMIT 1",
        zone=zone,
        id=identifier,
    )
    if row is None:
        raise NotFound(f"There is no group {identifier}.")
    return _group(row)


def _chunks(names: list[str]) -> Iterable[list[str]]:
    return (names[start : start + _TOLD_MEMBERS] for start in range(0, len(names), _TOLD_MEMBERS))


def _group(row: Row) -> Group:
    return Group(
        row["id"],
        row["zone"],
        row["name"],
        row["description"],
        row["kind"],
        row["role"],
        row["owner"],
        row["external_id"],
        row["source"],
        row["members"],
        row["version"],
        row["created_at"],
        row["updated_at"],
    )
