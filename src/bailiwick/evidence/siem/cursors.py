"""How far each sink is in the ledger of each zone, what may have arrived twice, and what was refused for good."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bailiwick.evidence.siem.destination import Item
from bailiwick.evidence.stored import COLUMNS, body_of
from bailiwick.kernel.db import Row, Transaction


@dataclass(frozen=True, slots=True)
class Cursor:
    """A sink's place in a zone. ``next_seq``: the first event not acknowledged; ``sent_seq``: the first never sent.

    ``size``: how many events the zone's ledger has. ``generation`` counts replays.
    """

    zone: str
    next_seq: int
    sent_seq: int
    generation: int
    size: int
    delivered: int = 0
    filtered: int = 0

    @property
    def lag(self) -> int:
        """How many events the sink has not taken yet."""
        return max(0, self.size - self.next_seq)


class CursorMoved(Exception):
    """Somebody else moved the cursor: a replay was asked for, or another process leads."""


_SIZE = (
    "coalesce((SELECT h.first + h.count FROM ledger.hashes h WHERE h.zone = c.zone AND h.level = 0"
    " ORDER BY h.first DESC LIMIT 1), 0)"
)


async def cursors(tx: Transaction, sink: str) -> list[Cursor]:
    """The cursors of a sink by zone."""
    rows = await tx.all(
        f"SELECT c.*, {_SIZE} AS size FROM siem_cursors c WHERE sink = :sink ORDER BY zone",  # noqa: S608 - fixed
        sink=sink,
    )
    return [_cursor(row) for row in rows]


async def add_zones(tx: Transaction, sink: str, now: datetime) -> None:
    """Give a sink of all zones a cursor in every zone that came later: it gets that zone from its first event on."""
    await tx.run(
        "INSERT INTO siem_cursors (sink, zone, next_seq, sent_seq, updated_at)"
        " SELECT :sink, name, 0, 0, :now FROM zones ON CONFLICT DO NOTHING",
        sink=sink,
        now=now,
    )


async def place(tx: Transaction, sink: str, zone: str, seq: int, now: datetime) -> None:
    """Begin in a zone at event ``seq``."""
    await tx.run(
        "INSERT INTO siem_cursors (sink, zone, next_seq, sent_seq, updated_at) VALUES (:sink, :zone, :seq, :seq, :now)",
        sink=sink,
        zone=zone,
        seq=seq,
        now=now,
    )


async def mark_sent(tx: Transaction, sink: str, cursor: Cursor, first: int, end: int, now: datetime) -> int:
    """Note, before it happens, that events ``first`` to ``end - 1`` are sent; how many of them newly become repeats.

    Raises :class:`CursorMoved`.
    """
    row = await tx.one(
        "UPDATE siem_cursors SET sent_seq = greatest(sent_seq, :end) FROM"
        " (SELECT sent_seq AS before FROM siem_cursors WHERE sink = :sink AND zone = :zone FOR UPDATE) old"
        " WHERE sink = :sink AND zone = :zone AND generation = :generation RETURNING old.before",
        sink=sink,
        zone=cursor.zone,
        generation=cursor.generation,
        end=end,
    )
    if row is None:
        raise CursorMoved
    again = int(min(row["before"], end)) - first
    if again <= 0 or not await note_repeat(tx, sink, cursor.zone, first, first + again, now):
        return 0
    return again


async def note_repeat(tx: Transaction, sink: str, zone: str, first: int, end: int, now: datetime) -> bool:
    """Say in the delivery report that events ``first`` to ``end - 1`` may arrive more than once.

    False when that is said already: while a destination is away, a batch is tried again and again.
    """
    times = await tx.value(
        "INSERT INTO siem_repeats (sink, zone, first_seq, end_seq, at) VALUES (:sink, :zone, :first, :end, :now)"
        " ON CONFLICT (sink, zone, first_seq, end_seq) DO UPDATE SET times = siem_repeats.times + 1, at = :now"
        " RETURNING times",
        sink=sink,
        zone=zone,
        first=first,
        end=end,
        now=now,
    )
    return bool(times == 1)


async def advance(
    tx: Transaction, sink: str, cursor: Cursor, before: int, end: int, delivered: int, filtered: int, now: datetime
) -> None:
    """Move on from event ``before`` to ``end``. Raises :class:`CursorMoved` unless the cursor stands at ``before``."""
    moved = await tx.run(
        "UPDATE siem_cursors SET next_seq = :end, sent_seq = greatest(sent_seq, :end), updated_at = :now,"
        " delivered = delivered + :delivered, filtered = filtered + :filtered"
        " WHERE sink = :sink AND zone = :zone AND generation = :generation AND next_seq = :before",
        sink=sink,
        zone=cursor.zone,
        generation=cursor.generation,
        before=before,
        end=end,
        delivered=delivered,
        filtered=filtered,
        now=now,
    )
    if not moved:
        raise CursorMoved


async def rewind(tx: Transaction, sink: str, zone: str, seq: int, now: datetime) -> int:
    """Go back to event ``seq``, unless the cursor stands before it already; how many events are sent again."""
    before = await tx.value(
        "SELECT next_seq FROM siem_cursors WHERE sink = :sink AND zone = :zone FOR UPDATE", sink=sink, zone=zone
    )
    if before is None or before <= seq:
        return 0
    await tx.run(
        "UPDATE siem_cursors SET next_seq = :seq, generation = generation + 1, updated_at = :now"
        " WHERE sink = :sink AND zone = :zone",
        sink=sink,
        zone=zone,
        seq=seq,
        now=now,
    )
    return int(before - seq)


async def bury(tx: Transaction, sink: str, item: Item, reason: str, now: datetime) -> None:
    """Set an event aside that the destination refuses. It stands in the ledger; only its place is kept here."""
    await tx.run(
        "INSERT INTO siem_dead_letters (sink, zone, seq, event, reason, at)"
        " VALUES (:sink, :zone, :seq, :event, :reason, :now)"
        " ON CONFLICT (sink, zone, seq) DO UPDATE SET reason = excluded.reason, at = excluded.at,"
        " retry_at = NULL, delivered_at = NULL",
        sink=sink,
        zone=item.zone,
        seq=item.seq,
        event=item.id,
        reason=reason[:500].replace("\x00", ""),
        now=now,
    )


async def dead_letters(tx: Transaction, sink: str, *, after: int, limit: int) -> list[dict[str, Any]]:
    """Dead letters that were not delivered after all, oldest first."""
    rows = await tx.all(
        "SELECT id, zone, seq, event, reason, at, retry_at FROM siem_dead_letters"
        " WHERE sink = :sink AND delivered_at IS NULL AND id > :after ORDER BY id LIMIT :limit",
        sink=sink,
        after=after,
        limit=limit,
    )
    return [dict(row) for row in rows]


async def repeats(tx: Transaction, sink: str, *, after: int, limit: int) -> list[dict[str, Any]]:
    """Runs of the ledger that were sent more than once, oldest first."""
    rows = await tx.all(
        "SELECT id, zone, first_seq, end_seq, times, at FROM siem_repeats WHERE sink = :sink AND id > :after"
        " ORDER BY id LIMIT :limit",
        sink=sink,
        after=after,
        limit=limit,
    )
    return [dict(row) for row in rows]


@dataclass(frozen=True, slots=True)
class Entry:
    """An event as it was stored. ``body``: its canonical bytes."""

    seq: int
    id: str
    at: datetime
    code: str
    outcome: str
    body: bytes


async def read_events(tx: Transaction, zone: str, first: int, limit: int) -> list[Entry]:
    """Events of a zone from ``first`` on, those there are."""
    rows = await tx.all(
        f"SELECT seq, {COLUMNS} FROM ledger.events WHERE zone = :zone AND seq >= :first"  # noqa: S608 - fixed parts
        " ORDER BY seq LIMIT :limit",
        zone=zone,
        first=first,
        limit=limit,
    )
    return [entry_of(row) for row in rows]


async def wanted_again(tx: Transaction, sink: str, limit: int) -> list[tuple[int, str, Entry]]:
    """Dead letters that somebody wants sent once more: their numbers, zones and events."""
    rows = await tx.all(
        f"SELECT d.id AS letter, e.* FROM (SELECT seq, {COLUMNS} FROM ledger.events) e"  # noqa: S608 - fixed parts
        " JOIN siem_dead_letters d ON d.zone = e.zone AND d.seq = e.seq"
        " WHERE d.sink = :sink AND d.retry_at IS NOT NULL AND d.delivered_at IS NULL ORDER BY d.id LIMIT :limit",
        sink=sink,
        limit=limit,
    )
    return [(row["letter"], row["zone"], entry_of(row)) for row in rows]


def entry_of(row: Row) -> Entry:
    """The event of a row with ``seq`` and the columns that make an event."""
    return Entry(row["seq"], str(row["id"]), row["at"], row["code"], row["outcome"], body_of(row))


async def oldest_needed(tx: Transaction, zone: str) -> int | None:
    """The first event of ``zone`` that some enabled sink has not taken yet: whoever removes events keeps from there on.

    None when no sink reads the zone.
    """
    value = await tx.value(
        "SELECT min(c.next_seq) FROM siem_cursors c JOIN siem_sinks s ON s.id = c.sink"
        " WHERE c.zone = :zone AND s.enabled",
        zone=zone,
    )
    return None if value is None else int(value)


def _cursor(row: Row) -> Cursor:
    return Cursor(
        row["zone"],
        row["next_seq"],
        row["sent_seq"],
        row["generation"],
        int(row["size"]),
        row["delivered"],
        row["filtered"],
    )
