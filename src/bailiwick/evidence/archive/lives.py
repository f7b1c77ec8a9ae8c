"""How long evidence stays in which form, per zone, and the holds that keep it longer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from bailiwick.evidence import codes
from bailiwick.evidence.archive.windows import Window
from bailiwick.evidence.events import Actor, Context, Recorder, Subject
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import BailiwickError, Conflict, InvalidRequest, NotFound
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.permissions import Permission
from bailiwick.kernel.quorum import Action, Approval, Quorum

LONGEST_DAYS = 36_500
RELEASE = Action("archive.hold.release", Permission.ARCHIVE_HOLD)


@dataclass(frozen=True, slots=True)
class Lives:
    """Days from the end of a window: until it is sealed, leaves the database, this machine's disk, and everything."""

    seal_days: int = 7
    hot_days: int = 7
    local_days: int = 90
    archive_days: int = 365

    def check(self) -> None:
        """Raises ``invalid_request`` unless each is at least the one before it."""
        if not 1 <= self.seal_days <= self.hot_days <= self.local_days <= self.archive_days <= LONGEST_DAYS:
            raise InvalidRequest("Each of seal_days, hot_days, local_days and archive_days is at least the one before.")


@dataclass(frozen=True, slots=True)
class Hold:
    """Evidence of ``zone`` recorded from ``since`` to ``until`` (None: without limit) is not destroyed."""

    id: str
    zone: str
    since: datetime | None
    until: datetime | None
    reason: str
    placed_by: str
    placed_at: datetime
    released_by: str | None
    released_at: datetime | None

    def payload(self) -> dict[str, Any]:
        """What is approved when it is let go."""
        since, until = (moment.isoformat() if moment else "" for moment in (self.since, self.until))
        return {"hold": self.id, "placed_by": self.placed_by, "reason": self.reason, "since": since, "until": until}

    def covers(self, window: Window) -> bool:
        """Whether it keeps anything of the window."""
        return (
            self.released_at is None
            and (self.since is None or self.since < window.end)
            and (self.until is None or self.until > window.start)
        )


async def lives_of(tx: Transaction, zone: str) -> tuple[Lives, int]:
    """The lives of a zone, and their version: 0 where the zone has none of its own."""
    row = await tx.one(
        "SELECT seal_days, hot_days, local_days, archive_days, version FROM ledger.archive_lives WHERE zone = :zone",
        zone=zone,
    )
    if row is None:
        return Lives(), 0
    return Lives(row["seal_days"], row["hot_days"], row["local_days"], row["archive_days"]), row["version"]


async def holds_on(tx: Transaction, zone: str) -> list[Hold]:
    """The holds that keep evidence of a zone now."""
    rows = await tx.all("SELECT * FROM ledger.holds WHERE zone = :zone AND released_at IS NULL ORDER BY id", zone=zone)
    return [_hold(row) for row in rows]


async def refuse_held(tx: Transaction, zone: str, first: Window, last: Window) -> None:
    """Raises ``legal_hold`` when a hold keeps anything from ``first`` to ``last``."""
    for hold in await holds_on(tx, zone):
        window = first
        while window <= last:
            if hold.covers(window):
                raise Conflict(
                    f"Hold {hold.id} of {hold.placed_by} keeps the window {window}.", reason="legal_hold", hold=hold.id
                )
            window = window.following


async def lock_zone(tx: Transaction, zone: str) -> None:
    """Order whoever seals, purges, or holds evidence of a zone, until the transaction ends."""
    await tx.run("SELECT pg_advisory_xact_lock(CAST(:lock AS int), hashtext(:zone))", lock=_ZONE_LOCK, zone=zone)


_ZONE_LOCK = 0x61726368  # "arch"


class Keeping:
    """Changes lives and holds; each change leaves its event."""

    def __init__(self, database: Database, clock: Clock, ids: Ids, recorder: Recorder, quorum: Quorum) -> None:
        self._quorum = quorum
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder

    async def change_lives(self, context: Context, lives: Lives, by: str, expected: int | None = None) -> int:
        """Give the context's zone lives of its own; their version. ``expected``: the version it must have now."""
        lives.check()
        async with self._database.begin() as tx:
            await lock_zone(tx, context.zone)
            _, version = await lives_of(tx, context.zone)
            if expected is not None and version != expected:
                raise BailiwickError(reason="version_mismatch", current_version=version)
            await tx.run(
                "INSERT INTO ledger.archive_lives (zone, seal_days, hot_days, local_days, archive_days, changed_by,"
                " changed_at) VALUES (:zone, :seal_days, :hot_days, :local_days, :archive_days, :by, :now)"
                " ON CONFLICT (zone) DO UPDATE SET seal_days = excluded.seal_days, hot_days = excluded.hot_days,"
                " local_days = excluded.local_days, archive_days = excluded.archive_days,"
                " version = archive_lives.version + 1, changed_by = excluded.changed_by,"
                " changed_at = excluded.changed_at",
                zone=context.zone,
                by=by,
                now=self._clock.now(),
                **asdict(lives),
            )
            await self._record(tx, codes.ARCHIVE_LIVES_CHANGED, context, context.zone, "zone", **asdict(lives))
        return version + 1

    async def place(
        self, context: Context, since: datetime | None, until: datetime | None, reason: str, by: str
    ) -> Hold:
        """Keep the evidence of the context's zone recorded in that time, from now on."""
        if since is not None and until is not None and until <= since:
            raise InvalidRequest("The hold ends before it begins.")
        hold = Hold(self._ids(), context.zone, since, until, reason, by, self._clock.now(), None, None)
        async with self._database.begin() as tx:
            await lock_zone(tx, context.zone)
            await tx.run(
                "INSERT INTO ledger.holds (id, zone, since, until, reason, placed_by, placed_at)"
                " VALUES (:id, :zone, :since, :until, :reason, :placed_by, :placed_at)",
                **{name: getattr(hold, name) for name in Hold.__slots__ if not name.startswith("released")},
            )
            await self._record(
                tx,
                codes.ARCHIVE_HOLD_PLACED,
                context,
                hold.id,
                "hold",
                reason=reason,
                since=since.isoformat() if since is not None else "",
                until=until.isoformat() if until is not None else "",
            )
        return hold

    async def propose_release(
        self, context: Context, hold_id: str, reason: str, *, by: str, signed_in: bool = True
    ) -> Approval:
        """Ask that a hold be let go, which lifts a block and so takes somebody else too.

        Raises ``not_found``, and ``conflict`` when it was let go already.
        """
        async with self._database.begin() as tx:
            hold = await _standing(tx, context.zone, hold_id)
            return await self._quorum.request(
                tx, context, context.zone, RELEASE.name, hold.payload(), by=by, reason=reason, signed_in=signed_in
            )

    async def release_approved(self) -> dict[str, Any]:
        """Let go of the holds whose release was approved; how many, and why others not."""
        released, refused = 0, {}
        async with self._database.begin() as tx:
            approvals = await self._quorum.ready(tx, RELEASE.name)
        for approval in approvals:
            try:
                await self._release(approval)
                released += 1
            except BailiwickError as error:
                refused[approval.id] = str(error)
        return {"released": released, "refused": refused}

    async def _release(self, approval: Approval) -> None:
        by = approval.requested_by
        context = Context(approval.zone, Actor(user=by))
        async with self._database.begin() as tx:
            await lock_zone(tx, approval.zone)
            hold = await _standing(tx, approval.zone, str(approval.payload["hold"]))
            await self._quorum.execute(tx, context, approval.zone, approval.id, RELEASE.name, hold.payload(), by)
            await tx.run(
                "UPDATE ledger.holds SET released_by = :by, released_at = :now WHERE id = :id",
                by=by,
                now=self._clock.now(),
                id=hold.id,
            )
            await self._record(
                tx,
                codes.ARCHIVE_HOLD_RELEASED,
                context,
                hold.id,
                "hold",
                reason=approval.reason,
                approved_by=[vote.person for vote in approval.votes if vote.approves],
            )

    async def holds(self, zone: str) -> list[Hold]:
        """Every hold of a zone, newest first, those let go included."""
        async with self._database.begin() as tx:
            rows = await tx.all("SELECT * FROM ledger.holds WHERE zone = :zone ORDER BY id DESC LIMIT 500", zone=zone)
        return [_hold(row) for row in rows]

    async def _record(
        self, tx: Transaction, kind: codes.EventType, context: Context, subject: str, sort: str, **details: Any
    ) -> None:
        await self._recorder.record(tx, kind, "success", context, subject=Subject(subject, sort), **details)


async def _standing(tx: Transaction, zone: str, hold_id: str) -> Hold:
    row = await tx.one("SELECT * FROM ledger.holds WHERE zone = :zone AND id = :id", zone=zone, id=hold_id)
    if row is None:
        raise NotFound("There is no hold by that id.")
    if row["released_at"] is not None:
        raise Conflict("The hold was released already.")
    return _hold(row)


def _hold(row: Row) -> Hold:
    return Hold(**{name: row[name] for name in Hold.__slots__})
