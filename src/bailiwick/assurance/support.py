"""Support cases: what was asked of those who support the platform, when it was due, and when it was done.

Two promises: a critical fault is mended within 24 hours, and engineering answers an escalation to it (L3) within 30
minutes of its business hours. How well they are kept is counted as any service level is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Any, Literal

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import Conflict, NotFound
from bailiwick.kernel.ids import Ids

Class = Literal["critical-fix", "l3"]
FIXED_WITHIN = timedelta(hours=24)
ANSWERED_WITHIN = timedelta(minutes=30)
OPENS, CLOSES = time(9), time(17)
"""Business hours, UTC, Monday to Friday."""


@dataclass(frozen=True, slots=True)
class Case:
    """One case. ``done_at`` is when the fault was mended, or the escalation answered."""

    id: str
    kind: Class
    title: str
    opened_by: str
    opened_at: datetime
    due_at: datetime
    done_at: datetime | None
    done_by: str

    def document(self, now: datetime) -> dict[str, Any]:
        """The JSON form."""
        late = (self.done_at or now) > self.due_at
        return {name: getattr(self, name) for name in self.__slots__} | {"late": late}


def due(kind: Class, opened_at: datetime) -> datetime:
    """When a case opened at an instant is due."""
    return opened_at + FIXED_WITHIN if kind == "critical-fix" else in_business_hours(opened_at, ANSWERED_WITHIN)


def in_business_hours(since: datetime, length: timedelta) -> datetime:
    """The instant at which ``length`` of business hours has passed since ``since``."""
    at = since.astimezone(UTC)
    while True:
        opens, closes = datetime.combine(at, OPENS, UTC), datetime.combine(at, CLOSES, UTC)
        at = max(at, opens)
        if at.weekday() < 5 and at < closes:
            if at + length <= closes:
                return at + length
            length -= closes - at
        at = datetime.combine(at + timedelta(days=1), time(0), UTC)


class Support:
    """Keeps the cases of all zones."""

    def __init__(self, database: Database, clock: Clock, ids: Ids, recorder: Recorder) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder

    async def open(self, context: Context, kind: Class, title: str, *, by: str) -> Case:
        """Note a new case."""
        now, identifier = self._clock.now(), self._ids()
        due_at = due(kind, now)
        async with self._database.begin() as tx:
            await tx.run(
                "INSERT INTO support_cases (id, zone, class, title, opened_by, opened_at, due_at)"
                " VALUES (:id, :zone, :kind, :title, :by, :now, :due)",
                id=identifier,
                zone=context.zone,
                kind=kind,
                title=title,
                by=by,
                now=now,
                due=due_at,
            )
            await self._recorder.record(
                tx,
                codes.SUPPORT_CASE_OPENED,
                "success",
                context,
                subject=Subject(id=identifier, type="support-case"),
                kind=kind,
                due=due_at.isoformat(),
            )
            return await self.get(tx, context.zone, identifier)

    async def done(self, context: Context, identifier: str, *, by: str) -> Case:
        """Note that it is done, now. Raises :class:`NotFound`, and ``conflict`` for one that was done."""
        now = self._clock.now()
        async with self._database.begin() as tx:
            changed = await tx.run(
                "UPDATE support_cases SET done_at = :now, done_by = :by"
                " WHERE zone = :zone AND id = :id AND done_at IS NULL",
                zone=context.zone,
                id=identifier,
                now=now,
                by=by,
            )
            case = await self.get(tx, context.zone, identifier)
            if not changed:
                raise Conflict("The case was done before.")
            await self._recorder.record(
                tx,
                codes.SUPPORT_CASE_DONE,
                "success",
                context,
                subject=Subject(id=identifier, type="support-case"),
                kind=case.kind,
                in_time=now <= case.due_at,
            )
            return case

    async def get(self, tx: Transaction, zone: str, identifier: str) -> Case:
        """One case; raises :class:`NotFound`."""
        row = await tx.one(f"{_SELECT} AND id = :id", zone=zone, id=identifier)
        if row is None:
            raise NotFound("There is no support case by that id.")
        return _case(row)

    async def list(self, tx: Transaction, zone: str, before: str = "g", limit: int = 100) -> Sequence[Case]:
        """Cases newest first."""
        rows = await tx.all(
            f"{_SELECT} AND id < :before ORDER BY id DESC LIMIT :limit", zone=zone, before=before, limit=limit
        )
        return [_case(row) for row in rows]


_SELECT = (
    "SELECT id, class AS kind, title, opened_by, opened_at, due_at, done_at, done_by FROM support_cases"
    " WHERE zone = :zone"
)


def _case(row: Row) -> Case:
    return Case(**row)
