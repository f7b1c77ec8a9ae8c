"""Dead letters: what could not be sequenced, to be looked at and, once its cause is gone, replayed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from bailiwick.evidence.records import OUTBOX, Unparsable, event_row
from bailiwick.kernel import outbox
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.errors import Conflict, NotFound


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter. ``data`` is what was found, at most 1 MiB of it; ``size`` how much it was."""

    id: int
    source: str
    segment: int
    position: int
    zone: str
    reason: str
    size: int
    data: bytes
    at: datetime
    replayed_at: datetime | None


async def find(tx: Transaction, letter: int) -> Letter:
    """One dead letter; raises :class:`NotFound`."""
    row = await tx.one(
        "SELECT d.id, source, segment, position, zone, reason, size, frame, d.at, r.at AS replayed_at"
        " FROM ledger.dead_letters d LEFT JOIN ledger.replays r ON r.dead_letter = d.id WHERE d.id = :id",
        id=letter,
    )
    if row is None:
        raise NotFound(f"There is no dead letter {letter}.")
    return Letter(
        row["id"],
        row["source"],
        row["segment"],
        row["position"],
        row["zone"],
        row["reason"],
        row["size"],
        bytes(row["frame"]),
        row["at"],
        row["replayed_at"],
    )


async def replay(tx: Transaction, letter: Letter, now: datetime) -> str:
    """Put the event of a dead letter on its way into the ledger once more; answers its id.

    Raises :class:`Conflict` when it was replayed before, is no whole event, or its zone is still unknown. The dead
    letter stays: what was wrong once is evidence too.
    """
    if letter.replayed_at is not None:
        raise Conflict(f"Dead letter {letter.id} was replayed at {letter.replayed_at.isoformat()}.")
    if letter.size != len(letter.data):
        raise Conflict(f"Of dead letter {letter.id} only {len(letter.data)} of {letter.size} bytes were kept.")
    try:
        row = event_row(OUTBOX, 0, 0, letter.zone, letter.data)
    except Unparsable as error:
        raise Conflict(f"Dead letter {letter.id} still is no event: {error}.") from None
    if not await tx.value("SELECT 1 FROM zones WHERE name = :zone", zone=letter.zone):
        raise Conflict(f"There is still no zone {letter.zone}.")
    done = await tx.run(
        "INSERT INTO ledger.replays (dead_letter, at) VALUES (:id, :now) ON CONFLICT DO NOTHING", id=letter.id, now=now
    )
    if not done:
        raise Conflict(f"Dead letter {letter.id} is being replayed by somebody else.")
    await outbox.put(tx, letter.zone, letter.data)
    return str(row.id)
