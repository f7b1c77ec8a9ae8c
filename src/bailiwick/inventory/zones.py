"""Zones: the boundary that owns keys, policy, servers and a ledger.

Zones are made, changed and archived from the default zone only: the administrators of another zone rule inside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.inventory.ports import AdministratorMaker, KeyMaker, Settle
from bailiwick.kernel import feed
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import Conflict, Denied, NotFound

DEFAULT_ZONE = "default"
ZONE_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"

VersionGuard = Callable[[int], None]
"""Told the version of the row about to change; raises to refuse (If-Match)."""


def any_version(_version: int) -> None:
    """The guard of a caller who did not say which version he means."""


@dataclass(frozen=True, slots=True)
class Zone:
    """One zone. ``state`` is ``active`` or ``archived``."""

    name: str
    description: str
    state: str
    version: int
    created_at: datetime

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "name": self.name,
            "description": self.description,
            "state": self.state,
            "version": self.version,
            "created_at": self.created_at,
        }


@dataclass(frozen=True, slots=True)
class NewZone:
    """A zone just made. ``password`` is its administrator's one-time password, known only here."""

    zone: Zone
    administrator: str | None
    password: str | None


async def require_active(tx: Transaction, zone: str) -> None:
    """Hold ``zone`` active until the transaction ends: every mutation in a zone begins with this.

    Raises ``NotFound``, or ``Denied`` with ``zone_archived``.
    """
    state = await tx.value("SELECT state FROM zones WHERE name = :zone FOR SHARE", zone=zone)
    if state is None:
        raise NotFound(f"There is no zone {zone}.")
    if state != "active":
        raise Denied(reason="zone_archived")


class Zones:
    """Makes, changes, archives and lists zones."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        recorder: Recorder,
        keys: KeyMaker,
        settle: Settle,
        administrators: AdministratorMaker | None = None,
    ) -> None:
        """``administrators`` makes a new zone's first user; without it a zone starts with none."""
        self._database = database
        self._clock = clock
        self._recorder = recorder
        self._keys = keys
        self._settle = settle
        self._administrators = administrators

    async def create(self, context: Context, name: str, description: str = "") -> NewZone:
        """A new zone with its keys and administrator; raises ``Conflict`` (``already_exists``)."""
        _require_default(context)
        async with self._database.begin() as tx:
            row = await tx.one(
                "INSERT INTO zones (name, description, created_at) VALUES (:name, :description, :now)"
                " ON CONFLICT DO NOTHING RETURNING *",
                name=name,
                description=description,
                now=self._clock.now(),
            )
            if row is None:
                raise Conflict(f"The zone {name} exists already.", reason="already_exists")
            await self._keys.create(tx, name, context)
            password = await self._administrators(tx, name) if self._administrators is not None else None
            await self._record(tx, codes.ZONE_CREATED, context, name)
            await feed.announce(tx, name, "zone", name)
        return NewZone(_zone(row), "admin" if password is not None else None, password)

    async def list(self, context: Context, after: str, limit: int) -> tuple[list[Zone], str | None]:
        """Zones by name after ``after``, at most ``limit``, and the name the next page starts after.

        Outside the default zone a caller sees his own zone only.
        """
        async with self._database.begin() as tx:
            rows = await tx.all(
                "SELECT * FROM zones WHERE name > :after AND (:own = :default OR name = :own)"
                " ORDER BY name LIMIT :limit",
                after=after,
                own=context.zone,
                default=DEFAULT_ZONE,
                limit=limit + 1,
            )
        found = [_zone(row) for row in rows[:limit]]
        return found, found[-1].name if len(rows) > limit else None

    async def get(self, context: Context, name: str) -> Zone:
        """One zone; raises ``NotFound``, also for another zone than the caller's own outside the default zone."""
        if context.zone not in {DEFAULT_ZONE, name}:
            raise NotFound(f"There is no zone {name}.")
        async with self._database.begin() as tx:
            row = await tx.one("SELECT * FROM zones WHERE name = :name", name=name)
        if row is None:
            raise NotFound(f"There is no zone {name}.")
        return _zone(row)

    async def change(self, context: Context, name: str, description: str, guard: VersionGuard = any_version) -> Zone:
        """Describe a zone anew."""
        _require_default(context)
        async with self._database.begin() as tx:
            current = await _locked(tx, name)
            guard(current.version)
            if current.state != "active":
                raise Denied(reason="zone_archived")
            row = await tx.one(
                "UPDATE zones SET description = :description, version = version + 1 WHERE name = :name RETURNING *",
                description=description,
                name=name,
            )
            assert row is not None
            await self._record(tx, codes.ZONE_CHANGED, context, name)
            await feed.announce(tx, name, "zone", name)
        return _zone(row)

    async def archive(self, context: Context, name: str, guard: VersionGuard = any_version) -> Zone:
        """End a zone: nothing in it changes, is issued or let through any more. Again on an archived zone: no change.

        Raises ``Conflict`` for the default zone.
        """
        _require_default(context)
        if name == DEFAULT_ZONE:
            raise Conflict("The default zone cannot be archived.")
        async with self._database.begin() as tx:
            current = await _locked(tx, name)
            guard(current.version)
            if current.state == "archived":
                return current
            row = await tx.one(
                "UPDATE zones SET state = 'archived', version = version + 1 WHERE name = :name RETURNING *", name=name
            )
            assert row is not None
            await self._record(tx, codes.ZONE_ARCHIVED, context, name)
            revision = await feed.announce(tx, name, "zone", name)
        await self._settle.settle(revision, context)
        return _zone(row)

    async def _record(self, tx: Transaction, kind: codes.EventType, context: Context, name: str) -> None:
        await self._recorder.record(tx, kind, "success", context, subject=Subject(id=name, type="zone"))


def _require_default(context: Context) -> None:
    if context.zone != DEFAULT_ZONE:
        raise Denied("Zones are governed from the default zone.")


async def _locked(tx: Transaction, name: str) -> Zone:
    row = await tx.one("SELECT * FROM zones WHERE name = :name FOR UPDATE", name=name)
    if row is None:
        raise NotFound(f"There is no zone {name}.")
    return _zone(row)


def _zone(row: Row) -> Zone:
    return Zone(row["name"], row["description"], row["state"], row["version"], row["created_at"])
