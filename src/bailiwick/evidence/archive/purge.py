"""Removing: rows that the archive proves, and archives whose life is over.

Rows leave the database a partition at a time, through a function that belongs to the owner of the schema (the app may
not remove evidence), and only right after every object of every zone's window was read again and compared with its
signed manifest and with the tree. A legal hold does not stop that: nothing is lost by it.

The end of evidence is another matter. Somebody asks for it, somebody else approves exactly that, no hold may cover any
of it, and it is proven once more before it goes, so that what a tombstone says was destroyed is what was sealed. The
tombstones and their event are committed first; objects go afterwards, and a run that dies in between is taken up. The
hashes of the tree and the manifests stay: every proof about what is left still works, and what is gone can be named.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from sqlalchemy.exc import DBAPIError

from bailiwick.evidence import codes
from bailiwick.evidence.archive.lives import holds_on, lives_of, lock_zone, refuse_held
from bailiwick.evidence.archive.places import Places
from bailiwick.evidence.archive.proof import Unproven, prove_window
from bailiwick.evidence.archive.reader import ColdEvents, cold_windows
from bailiwick.evidence.archive.windows import Window
from bailiwick.evidence.events import Actor, Context, Recorder, Subject
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import BailiwickError, Conflict
from bailiwick.kernel.modes import Switch, frozen_zones, require_on
from bailiwick.kernel.permissions import Permission
from bailiwick.kernel.quorum import Action, Approval, Quorum

log = structlog.get_logger(__name__)

PURGE = Action("archive.purge", Permission.ARCHIVE_PURGE)
_PARTITION = re.compile(r"events_(\d{8})_(\d\d)")


# ---------------------------------------------------------------------- rows


class HotRows:
    """Drops partitions whose time in the database is over. ``fault`` is called with the name of every step."""

    def __init__(
        self,
        database: Database,
        cold: ColdEvents,
        recorder: Recorder,
        clock: Clock,
        *,
        fault: Callable[[str], None] = lambda step: None,
    ) -> None:
        self._database = database
        self._cold = cold
        self._recorder = recorder
        self._clock = clock
        self._fault = fault

    async def drop_due(self) -> dict[str, Any]:
        """Drop every partition that is due and proven; how many, their events, and why others had to stay."""
        dropped = events = 0
        kept: dict[str, str] = {}
        for window in await self._due():
            try:
                events += await self.drop(window)
                dropped += 1
            except (Unproven, Conflict) as error:
                kept[str(window)] = str(error)
                log.error("partition kept", window=str(window), why=str(error))
        return {"dropped": dropped, "events": events, "kept": kept}

    async def drop(self, window: Window) -> int:
        """Prove a window of every zone and drop its partition; how many rows went.

        Raises :class:`Unproven` or ``conflict`` and drops nothing otherwise.
        """
        async with self._database.begin() as tx:
            rows = await tx.all(
                "SELECT zone, count(*) AS events FROM ledger.events WHERE recorded_at >= :start AND recorded_at < :end"
                " GROUP BY zone ORDER BY zone",
                start=window.start,
                end=window.end,
            )
        for row in rows:
            proven = await prove_window(self._database, self._cold, row["zone"], window, everywhere=True)
            if proven != row["events"]:
                raise Unproven(
                    f"zone {row['zone']}, {window}: {row['events']} rows are there, {proven} are proven in the archive"
                )
        self._fault("proven")
        try:
            async with self._database.begin() as tx:
                await tx.run(
                    "UPDATE ledger.archive_objects SET proven_at = now() WHERE window_start = :start"
                    " AND version IS NOT NULL AND void_at IS NULL",
                    start=window.start,
                )
                gone = int(await tx.value("SELECT ledger.drop_archived_partition(:start)", start=window.start))
                self._fault("dropped")
                for row in rows:
                    await self._recorder.record(
                        tx,
                        codes.ARCHIVE_HOT_DROPPED,
                        "success",
                        Context(row["zone"]),
                        subject=Subject(id=str(window), type="archive"),
                        events=row["events"],
                    )
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) in {"55000", "55P03", "40P01"}:
                raise Conflict(str(error.orig).splitlines()[0]) from error
            raise
        return max(gone, 0)

    async def _due(self) -> list[Window]:
        """The partitions past the longest life in the database of any zone, oldest first, without those restored."""
        now = self._clock.now()
        async with self._database.begin() as tx:
            zones = [row["name"] for row in await tx.all("SELECT name FROM zones")]
            longest = max([(await lives_of(tx, zone))[0].hot_days for zone in zones], default=7)
            names = await tx.all(
                "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
                " WHERE i.inhparent = 'ledger.events'::regclass"
            )
            restored = {
                row["window_start"]
                for row in await tx.all("SELECT window_start FROM ledger.restores WHERE until > :now", now=now)
            }
        starts = [
            datetime.strptime("".join(found.groups()), "%Y%m%d%H").replace(tzinfo=UTC)
            for row in names
            if (found := _PARTITION.fullmatch(row["relname"]))
        ]
        due = now - timedelta(days=longest)
        return [Window(start) for start in sorted(starts) if Window(start).end <= due and start not in restored]


# ---------------------------------------------------------------------- the end


@dataclass(frozen=True, slots=True)
class Ending:
    """Windows of a zone whose life is over."""

    zone: str
    before: datetime
    manifests: Sequence[Row]

    @property
    def windows(self) -> list[Window]:
        """Which, oldest first."""
        return sorted({Window(row["window_start"]) for row in self.manifests})

    def payload(self) -> dict[str, Any]:
        """What is approved: small enough to be read, and bound to every manifest by their hash."""
        windows = self.windows
        hashed = hashlib.sha256(b"".join(bytes(row["sha256"]) for row in self.manifests)).hexdigest()
        return {
            "before": self.before.astimezone(UTC).isoformat(),
            "windows": len(windows),
            "first_window": str(windows[0]),
            "last_window": str(windows[-1]),
            "events": int(sum(row["events"] for row in self.manifests)),
            "manifests_sha256": hashed,
        }


class Endings:
    """Ends the life of archives, by two persons."""

    def __init__(
        self,
        database: Database,
        places: Places,
        cold: ColdEvents,
        recorder: Recorder,
        clock: Clock,
        quorum: Quorum,
        *,
        fault: Callable[[str], None] = lambda step: None,
    ) -> None:
        self._database = database
        self._places = places
        self._cold = cold
        self._recorder = recorder
        self._clock = clock
        self._quorum = quorum
        self._fault = fault

    async def propose(
        self, context: Context, before: datetime, reason: str, *, by: str, signed_in: bool = True
    ) -> Approval:
        """Ask that the windows of the context's zone that ended before ``before`` be destroyed.

        Raises ``legal_hold``, and ``conflict`` when their life is not over or there are none.
        """
        async with self._database.begin() as tx:
            lives, _ = await lives_of(tx, context.zone)
            if before > self._clock.now() - timedelta(days=lives.archive_days):
                raise Conflict(f"Evidence of this zone is kept for {lives.archive_days} days.")
            ending = await self._ending(tx, context.zone, before)
            return await self._quorum.request(
                tx, context, context.zone, PURGE.name, ending.payload(), by=by, reason=reason, signed_in=signed_in
            )

    async def run(self) -> dict[str, Any]:
        """Do what was approved, and go on with what a run that died left; what was done, and why other things not."""
        done: dict[str, Any] = {"purged": 0, "objects": 0, "refused": {}}
        async with self._database.begin() as tx:
            approvals = await self._quorum.ready(tx, PURGE.name)
        for approval in approvals:
            try:
                done["purged"] += await self.execute(approval)
            except (Unproven, BailiwickError) as error:
                done["refused"][approval.id] = str(error)
                log.error("approved purge not done", approval=approval.id, zone=approval.zone, why=str(error))
        done["objects"] = await self._remove()
        return done

    async def execute(self, approval: Approval) -> int:
        """Prove the windows once more, then leave the tombstones; how many windows.

        Raises what :meth:`Quorum.execute` raises, ``legal_hold``, :class:`Unproven`.
        """
        before = datetime.fromisoformat(str(approval.payload["before"]))
        async with self._database.begin() as tx:
            windows = (await self._ending(tx, approval.zone, before)).windows
        for window in windows:
            await prove_window(self._database, self._cold, approval.zone, window)
        self._fault("proven")
        by = approval.requested_by
        context = Context(approval.zone, Actor(user=by))
        async with self._database.begin() as tx:
            await lock_zone(tx, approval.zone)
            await require_on(tx, approval.zone, Switch.FREEZE, Switch.READ_ONLY)
            ending = await self._ending(tx, approval.zone, before)
            await self._quorum.execute(tx, context, approval.zone, approval.id, PURGE.name, ending.payload(), by)
            positions = [row for row in ending.manifests if row["events"]]
            event = await self._recorder.record(
                tx,
                codes.ARCHIVE_PURGED,
                "success",
                context,
                subject=Subject(id=approval.id, type="approval"),
                approved_by=[vote.person for vote in approval.votes if vote.approves],
                reason=approval.reason,
                first=min((row["first_seq"] for row in positions), default=-1),
                last=max((row["last_seq"] for row in positions), default=-1),
                **ending.payload(),
            )
            for window in ending.windows:
                await self._bury(tx, ending, window, approval.id, event.id)
            self._fault("buried")
        self._fault("committed")
        return len(windows)

    async def _bury(self, tx: Transaction, ending: Ending, window: Window, approval: str, event_id: str) -> None:
        mine = [row for row in ending.manifests if row["window_start"] == window.start]
        held = [row for row in mine if row["events"]]
        await tx.run(
            "INSERT INTO ledger.tombstones (zone, window_start, first_seq, last_seq, events, manifest_sha256, approval,"
            " event_id, purged_at) VALUES (:zone, :start, :first, :last, :events, :sha256, :approval, :event_id, :now)",
            zone=ending.zone,
            start=window.start,
            first=min((row["first_seq"] for row in held), default=None),
            last=max((row["last_seq"] for row in held), default=None),
            events=sum(row["events"] for row in mine),
            sha256=bytes(mine[-1]["sha256"]),
            approval=approval,
            event_id=event_id,
            now=self._clock.now(),
        )

    async def _remove(self) -> int:
        """Remove the objects of buried windows; a hold placed since then still stops it."""
        async with self._database.begin() as tx:
            rows = await tx.all(
                "SELECT zone, window_start FROM ledger.tombstones WHERE removed_at IS NULL ORDER BY zone, window_start"
            )
        removed = 0
        for row in rows:
            zone, window = row["zone"], Window(row["window_start"])
            async with self._database.begin() as tx:
                await lock_zone(tx, zone)
                if zone in await frozen_zones(tx):
                    log.warning("purged window kept while the zone is frozen", zone=zone, window=str(window))
                    continue
                if any(hold.covers(window) for hold in await holds_on(tx, zone)):
                    log.warning("purged window kept by a later hold", zone=zone, window=str(window))
                    continue
                objects = await tx.all(
                    "SELECT name, remote FROM ledger.archive_objects WHERE zone = :zone AND window_start = :start",
                    zone=zone,
                    start=window.start,
                )
                for part in objects:
                    await self._places.local.delete(part["name"])
                    if self._places.remote is not None:
                        await self._places.remote.delete(part["name"])
                    elif part["remote"]:
                        raise Conflict(f"{part['name']} is in object storage, and none is configured.")
                    removed += 1
                    self._fault("object")
                await tx.run(
                    "UPDATE ledger.tombstones SET removed_at = :now WHERE zone = :zone AND window_start = :start",
                    now=self._clock.now(),
                    zone=zone,
                    start=window.start,
                )
        return removed

    async def _ending(self, tx: Transaction, zone: str, before: datetime) -> Ending:
        rows = await tx.all(
            "SELECT a.window_start, a.sha256, a.first_seq, a.last_seq, a.events FROM ledger.archives a"
            " WHERE zone = :zone AND window_start + interval '12 hours' <= :before AND NOT EXISTS (SELECT"
            "  FROM ledger.tombstones t WHERE t.zone = a.zone AND t.window_start = a.window_start) ORDER BY ordinal",
            zone=zone,
            before=before,
        )
        if not rows:
            raise Conflict("Nothing sealed ended before then.")
        ending = Ending(zone, before, rows)
        windows = ending.windows
        await refuse_held(tx, zone, windows[0], windows[-1])
        held_by_rows = {window.start for window in windows} - await cold_windows(tx, zone)
        standing = await tx.value(
            "SELECT min(recorded_at) FROM ledger.events WHERE zone = :zone AND recorded_at < :before",
            zone=zone,
            before=windows[-1].end,
        )
        if standing is not None and Window.holding(standing).start in held_by_rows:
            raise Conflict("Rows of these windows are still in the database.")
        return ending
