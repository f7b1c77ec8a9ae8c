"""Dated occurrences of ceremonies: one row each, and the states it goes through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.kernel.db import Row, Transaction
from bailiwick.kernel.errors import NotFound
from bailiwick.kernel.machine import Machine

State = Literal["scheduled", "pack_built", "held", "done", "signed", "overdue", "missed", "cancelled"]

OCCURRENCE = Machine(
    "ceremony",
    {
        "scheduled": ("pack_built", "overdue", "missed", "cancelled"),
        "pack_built": ("held", "done", "overdue", "missed", "cancelled"),
        "held": ("signed", "overdue"),
        "overdue": ("pack_built", "held", "signed", "missed"),
        "done": (),
        "signed": (),
        "missed": (),
        "cancelled": (),
    },
)
"""``done`` is what the clock did alone. ``overdue`` was not held in time, or its minutes were not signed; it is
``missed`` for good when the next one begins."""


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One date of a ceremony. ``made_by``: version of its document, and of the go-live instant it counts from."""

    id: str
    zone: str
    ceremony: str
    starts_at: datetime
    ends_at: datetime
    made_by: str
    state: State
    noticed: datetime | None
    cut_off: datetime | None
    held_at: datetime | None
    created_at: datetime
    moved_at: datetime

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "id": self.id,
            "ceremony": self.ceremony,
            "starts_at": utc(self.starts_at),
            "ends_at": utc(self.ends_at),
            "state": self.state,
            "cut_off": utc(self.cut_off) if self.cut_off else None,
            "held_at": utc(self.held_at) if self.held_at else None,
            "moved_at": utc(self.moved_at),
        }


def utc(moment: datetime) -> str:
    """RFC 3339 in UTC."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


_SELECT = (
    "SELECT id, zone, ceremony, starts_at, ends_at, made_by, state, noticed, cut_off, held_at, created_at, moved_at"
    " FROM rhythm_occurrences"
)


async def add(tx: Transaction, values: Mapping[str, Any]) -> bool:
    """Write an occurrence down unless it is; whether it was not."""
    return bool(
        await tx.run(
            "INSERT INTO rhythm_occurrences (id, zone, ceremony, starts_at, ends_at, made_by, state, created_at,"
            " moved_at) VALUES (:id, :zone, :ceremony, :starts_at, :ends_at, :made_by, 'scheduled', :now, :now)"
            " ON CONFLICT (zone, ceremony, starts_at) DO NOTHING",
            **values,
        )
    )


async def find(tx: Transaction, zone: str, identifier: str, *, lock: bool = False) -> Occurrence:
    """One occurrence; raises ``not_found``."""
    row = await tx.one(
        f"{_SELECT} WHERE zone = :zone AND id = :id{' FOR UPDATE' if lock else ''}", zone=zone, id=identifier
    )
    if row is None:
        raise NotFound("There is no such occurrence.")
    return _occurrence(row)


async def waiting(tx: Transaction, zone: str) -> list[Occurrence]:
    """Those in which something is still to happen, oldest first."""
    rows = await tx.all(
        f"{_SELECT} WHERE zone = :zone AND state = ANY(:states) ORDER BY starts_at, ceremony",
        zone=zone,
        states=list(OCCURRENCE.waiting),
    )
    return [_occurrence(row) for row in rows]


async def listed(
    tx: Transaction,
    zone: str,
    *,
    ceremony: str = "",
    state: str = "",
    since: datetime | None = None,
    until: datetime | None = None,
    before: str = "g",
    limit: int = 100,
) -> list[Occurrence]:
    """Occurrences with ids before ``before``, newest first: of one ceremony, in one state, that start in a window."""
    rows = await tx.all(
        f"{_SELECT} WHERE zone = :zone AND (:ceremony = '' OR ceremony = :ceremony)"
        " AND (:state = '' OR state = :state)"
        " AND (CAST(:since AS timestamptz) IS NULL OR starts_at >= :since)"
        " AND (CAST(:until AS timestamptz) IS NULL OR starts_at < :until)"
        " AND id < :before ORDER BY id DESC LIMIT :limit",
        zone=zone,
        ceremony=ceremony,
        state=state,
        since=since,
        until=until,
        before=before,
        limit=limit,
    )
    return [_occurrence(row) for row in rows]


async def move(
    tx: Transaction, recorder: Recorder, context: Context, occurrence: Occurrence, state: State, now: datetime
) -> Occurrence:
    """Bring a locked occurrence into ``state``, with its event. Raises ``illegal_transition``."""
    OCCURRENCE.require(occurrence.state, state)
    await tx.run(
        "UPDATE rhythm_occurrences SET state = :state, moved_at = :now,"
        " held_at = CASE WHEN :state IN ('held', 'done') THEN :now ELSE held_at END WHERE id = :id",
        id=occurrence.id,
        state=state,
        now=now,
    )
    await tell(tx, recorder, context, occurrence, state)
    return await find(tx, occurrence.zone, occurrence.id)


async def tell(tx: Transaction, recorder: Recorder, context: Context, occurrence: Occurrence, state: State) -> None:
    """Leave the event of an occurrence's new state."""
    await recorder.record(
        tx,
        codes.RHYTHM_MOVED,
        "failure" if state in {"overdue", "missed"} else "success",
        context,
        subject=Subject(id=occurrence.id, type="ceremony"),
        ceremony=occurrence.ceremony,
        starts_at=utc(occurrence.starts_at),
        state=state,
    )


def _occurrence(row: Row) -> Occurrence:
    return Occurrence(**row)
