"""How far a zone's log is behind what was published of it, and under which name it goes on after such a loss.

What is missing is noted once, when it is first seen and before anything is added: so many events were kept. A
continuation is a row, an event in the ledger, and a line in every head from then on (``bailiwick_verify.epochs``).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from bailiwick.evidence import codes
from bailiwick.evidence.ledger import Head
from bailiwick.evidence.stored import COLUMNS, body_of
from bailiwick.evidence.tree import MissingHashes, read_hashes, root_at
from bailiwick.kernel.db import Row, Transaction
from bailiwick_verify.checkpoint import parse_checkpoint
from bailiwick_verify.continuation import Statements
from bailiwick_verify.epochs import Continued, kept_of, origin_in, split_origin
from bailiwick_verify.merkle import leaf_hash
from bailiwick_verify.note import VerifierKey, parse_note


@dataclass(frozen=True, slots=True)
class Continuation:
    """The zone's log number ``epoch`` goes on from ``kept`` events, where the log before it had published ``known``.

    ``note``: the last known head of that one. ``event_id`` and ``leaf``: of the statement in the ledger.
    """

    zone: str
    epoch: int
    kept: int
    known: int
    known_root: bytes
    note: bytes
    at: datetime
    event_id: UUID
    leaf: bytes
    approval: str

    def contradicts(self, published: Head) -> str | None:
        """Why a head of an earlier log cannot have been published if that ended where this says; None if it can."""
        if published.epoch != self.epoch - 1:
            return None  # of a log before that one
        if published.size > self.known:
            return f"a head over {published.size} events was published, the log was continued as if {self.known} were"
        if published.size == self.known and published.root != self.known_root:
            return f"the log was continued from another head over {self.known} events than was published"
        return None

    def lines(self, entry: int) -> tuple[str, ...]:
        """What the heads of this log say, once its statement stands at ``entry``: of it, and of those before."""
        earlier = parse_checkpoint(parse_note(self.note).text).continued
        at = self.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        mine = Continued(self.epoch, self.kept, self.known, self.known_root, at, entry, self.leaf)
        return tuple(map(str, (*earlier, mine)))


@dataclass(frozen=True, slots=True)
class LogName:
    """Under which origin heads of a zone are signed, and what lines each carries."""

    origin: str
    lines: Sequence[str] = ()


async def continuations_of(tx: Transaction, zone: str) -> list[Continuation]:
    """Every continuation of the zone's log that this database knows, oldest first."""
    rows = await tx.all(
        "SELECT zone, epoch, kept, known, known_root, note, at, event_id, leaf, approval FROM ledger.continuations"
        " WHERE zone = :zone ORDER BY epoch",
        zone=zone,
    )
    return [_continuation(row) for row in rows]


async def newest_continuation(tx: Transaction, zone: str) -> Continuation | None:
    """The log that the zone has now, None where it is its first."""
    row = await tx.one(
        "SELECT zone, epoch, kept, known, known_root, note, at, event_id, leaf, approval FROM ledger.continuations"
        " WHERE zone = :zone ORDER BY epoch DESC LIMIT 1",
        zone=zone,
    )
    return _continuation(row) if row is not None else None


async def ended_by(tx: Transaction, head: Head) -> Continuation | None:
    """What continues the log that ``head`` is of, None where that is the log of now."""
    newest = await newest_continuation(tx, head.zone)
    return newest if newest is not None and head.epoch < newest.epoch else None


async def log_name(tx: Transaction, continuation: Continuation | None, base: str) -> LogName | None:
    """How heads are signed now of the log that began as ``base``; None while the statement of its continuation is
    still on its way into the ledger. Before the first head of a log, the statement and what was said to its approval
    are kept beside the ledger."""
    if continuation is None:
        return LogName(base)
    origin = origin_in(base, continuation.epoch)
    note = await tx.value(
        "SELECT note FROM ledger.heads WHERE zone = :zone ORDER BY size DESC, at DESC LIMIT 1", zone=continuation.zone
    )
    if note is not None:
        newest = parse_checkpoint(parse_note(bytes(note)).text)
        if newest.origin == origin:
            return LogName(origin, newest.extensions)
    entry = await tx.value(
        "SELECT seq FROM ledger.events WHERE zone = :zone AND id = :id ORDER BY seq LIMIT 1",
        zone=continuation.zone,
        id=continuation.event_id,
    )
    if entry is None:
        return None
    await _keep_entries(tx, continuation, entry)
    return LogName(origin, continuation.lines(entry))


async def _keep_entries(tx: Transaction, continuation: Continuation, entry: int) -> None:
    rows = await tx.all(
        f"SELECT seq, {COLUMNS} FROM ledger.events WHERE zone = :zone AND seq <= :entry AND (seq = :entry"  # noqa: S608
        " OR (code = ANY(:codes) AND position(convert_to(:approval, 'UTF8') IN rest) > 0)) ORDER BY seq",
        zone=continuation.zone,
        entry=entry,
        codes=[codes.APPROVAL_REQUESTED.code, codes.APPROVAL_VOTED.code],
        approval=continuation.approval,
    )
    for row in rows:
        await tx.run(
            "INSERT INTO ledger.continuation_entries (zone, epoch, seq, body) VALUES (:zone, :epoch, :seq, :body)"
            " ON CONFLICT DO NOTHING",
            zone=continuation.zone,
            epoch=continuation.epoch,
            seq=row["seq"],
            body=body_of(row),
        )


async def disagreements(
    tx: Transaction, zone: str, name: LogName, keys: Collection[VerifierKey]
) -> list[tuple[str, int]]:
    """Why the log may not go on as it does under ``name``, each with its position: what an auditor's verifier says.

    Held against the tree are the statements and what was said to their approvals, as they are kept beside the ledger: a
    row about a continuation proves nothing.
    """
    lines = tuple(Continued.parse(line) for line in name.lines)
    statements, found = Statements(), list[tuple[str, int]]()
    rows = await tx.all("SELECT seq, body FROM ledger.continuation_entries WHERE zone = :zone ORDER BY seq", zone=zone)
    try:
        for row in rows:
            body = bytes(row["body"])
            if await read_hashes(tx, zone, 0, row["seq"], row["seq"] + 1) == [leaf_hash(body)]:
                statements.look(row["seq"], body)
        still = [line for line in lines if (kept := kept_of(lines, line.epoch)) is None or line.entry < kept]
        roots = {line.kept: await root_at(tx, zone, line.kept) for line in still}
    except MissingHashes as error:
        return [(str(error), lines[-1].kept if lines else 0)]
    statements.judge(
        lines,
        base_of(name.origin),
        list(keys),
        root_of=roots.__getitem__,
        refuse=lambda why, entry: found.append((why, entry)),
    )
    return found


async def note_loss(tx: Transaction, head: Head, kept: int, now: datetime) -> None:
    """Note that ``kept`` events were there when a published head over more was first seen to be ahead of them."""
    await tx.run(
        "INSERT INTO ledger.losses (zone, epoch, known, note, kept, seen_at)"
        " VALUES (:zone, :epoch, :known, :note, :kept, :now) ON CONFLICT DO NOTHING",
        zone=head.zone,
        epoch=head.epoch,
        known=head.size,
        note=head.note,
        kept=kept,
        now=now,
    )


def base_of(origin: str) -> str:
    """The origin that a log began under."""
    return split_origin(origin)[0]


def _continuation(row: Row) -> Continuation:
    return Continuation(
        row["zone"],
        row["epoch"],
        row["kept"],
        row["known"],
        bytes(row["known_root"]),
        bytes(row["note"]),
        row["at"],
        row["event_id"],
        bytes(row["leaf"]),
        row["approval"],
    )
