"""What an outsider can take away: proofs in a zone's tree and receipts (C2SP tlog-proof) of single events."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from bailiwick.evidence.archive.reader import ColdEvents
from bailiwick.evidence.stored import COLUMNS, body_of
from bailiwick.evidence.tree import prove
from bailiwick.kernel.db import Row, Transaction
from bailiwick.kernel.errors import Conflict, InvalidRequest, NotFound
from bailiwick_verify.merkle import consistency_path, inclusion_path
from bailiwick_verify.note import parse_note, parse_signature_line
from bailiwick_verify.receipt import Receipt


@dataclass(frozen=True, slots=True)
class SignedTree:
    """The newest head of a zone: its size, and the signed checkpoint as it is served."""

    size: int
    note: bytes


async def newest_head(tx: Transaction, zone: str) -> SignedTree:
    """The newest signed tree of ``zone``; raises :class:`NotFound` while there is none."""
    row = await tx.one(
        "SELECT size, root, note FROM ledger.heads WHERE zone = :zone ORDER BY size DESC, at DESC LIMIT 1", zone=zone
    )
    if row is None:
        raise NotFound(f"Nothing is signed for zone {zone}.")
    return await _with_cosignatures(tx, zone, row)


async def signed_size(tx: Transaction, zone: str) -> int:
    """How many events of ``zone`` a head covers; raises :class:`NotFound` while there is none."""
    size = await tx.value("SELECT max(size) FROM ledger.heads WHERE zone = :zone", zone=zone)
    if size is None:
        raise NotFound(f"Nothing is signed for zone {zone}.")
    return int(size)


async def cosigned_head(tx: Transaction, zone: str) -> SignedTree | None:
    """The newest head that a quorum of witnesses cosigned, with their signatures; None where there is none."""
    row = await tx.one(
        "SELECT h.size, h.root, h.note FROM ledger.heads h JOIN"
        " (SELECT size, root FROM ledger.cosigned WHERE zone = :zone ORDER BY size DESC LIMIT 1) c USING (size, root)"
        " WHERE h.zone = :zone ORDER BY h.at DESC LIMIT 1",
        zone=zone,
    )
    return await _with_cosignatures(tx, zone, row) if row is not None else None


async def heads_by_the_hour(tx: Transaction, zone: str, after: datetime, most: int | None) -> list[bytes]:
    """The first and the last head of every hour since ``after``, oldest first, of at most ``most`` hours.

    Enough to tell a missing hour: heads signed in different hours with nothing between them are among these.
    """
    rows = await tx.all(
        "WITH RECURSIVE hours AS ("
        "  (SELECT date_trunc('hour', at, 'UTC') AS start FROM ledger.heads WHERE zone = :zone AND at > :after"
        "   ORDER BY at LIMIT 1)"
        "  UNION ALL SELECT (SELECT date_trunc('hour', at, 'UTC') FROM ledger.heads"
        "   WHERE zone = :zone AND at >= start + interval '1 hour' ORDER BY at LIMIT 1) FROM hours"
        "   WHERE start IS NOT NULL"
        " ) SELECT DISTINCT h.at, h.size, h.note FROM"
        " (SELECT start FROM hours WHERE start IS NOT NULL LIMIT CAST(:most AS int)) s, LATERAL ("
        "  (SELECT at, size, note FROM ledger.heads WHERE zone = :zone AND at >= start AND at > :after"
        "   AND at < start + interval '1 hour' ORDER BY at, size LIMIT 1)"
        "  UNION (SELECT at, size, note FROM ledger.heads WHERE zone = :zone AND at >= start"
        "   AND at < start + interval '1 hour' ORDER BY at DESC, size DESC LIMIT 1)) h ORDER BY h.at, h.size",
        zone=zone,
        after=after,
        most=most,
    )
    return [bytes(row["note"]) for row in rows]


async def _with_cosignatures(tx: Transaction, zone: str, head: Row) -> SignedTree:
    rows = await tx.all(
        "SELECT DISTINCT ON (witness) line FROM ledger.cosignatures"
        " WHERE zone = :zone AND size = :size AND root = :root ORDER BY witness, at DESC",
        zone=zone,
        size=head["size"],
        root=head["root"],
    )
    note = bytes(head["note"])
    if rows:
        lines = [parse_signature_line(row["line"]) for row in rows]
        note = bytes(parse_note(note).with_signatures(lines))
    return SignedTree(head["size"], note)


async def receipt(tx: Transaction, zone: str, event_id: UUID, cold: ColdEvents | None = None) -> Receipt:
    """The receipt of an event under the newest head that witnesses cosigned, or else under the newest.

    ``cold``: the archive, where an older event is.

    Raises :class:`NotFound`, and :class:`Conflict` for an event so new that no head covers it yet.
    """
    row = await tx.one(
        f"SELECT seq, {COLUMNS} FROM ledger.events WHERE id = :id AND zone = :zone ORDER BY seq LIMIT 1",  # noqa: S608
        id=event_id,
        zone=zone,
    )
    if row is not None:
        seq, body = row["seq"], body_of(row)
    elif cold is not None and (sealed := await cold.find(zone, str(event_id))) is not None:
        seq, body = sealed.seq, sealed.body
    else:
        raise NotFound("There is no event by that id.")
    head = await cosigned_head(tx, zone)
    if head is None or seq >= head.size:
        head = await newest_head(tx, zone)
    if seq >= head.size:
        raise Conflict("No signed head covers the event yet; one does within a second.")
    path = await prove(tx, zone, head.size, lambda nodes: inclusion_path(seq, head.size, nodes))
    return Receipt(body, seq, tuple(path), head.note)


async def inclusion(tx: Transaction, zone: str, index: int, size: int | None) -> tuple[int, list[bytes]]:
    """The size a proof is for (by default that of the newest head), and the path of the entry in it."""
    newest = await signed_size(tx, zone)
    wanted = newest if size is None else size
    if not 0 <= index < wanted <= newest:
        raise InvalidRequest(f"There is no entry {index} in a tree of {wanted}; {newest} are signed.")
    return wanted, await prove(tx, zone, wanted, lambda nodes: inclusion_path(index, wanted, nodes))


async def consistency(tx: Transaction, zone: str, old: int, new: int | None) -> tuple[int, list[bytes]]:
    """The larger size (by default that of the newest head), and the proof that the tree of ``old`` is its prefix."""
    newest = await signed_size(tx, zone)
    wanted = newest if new is None else new
    if not 0 <= old <= wanted <= newest:
        raise InvalidRequest(f"A tree of {old} does not come before one of {wanted}; {newest} are signed.")
    return wanted, await prove(tx, zone, wanted, lambda nodes: consistency_path(old, wanted, nodes))
