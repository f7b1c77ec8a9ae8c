"""What an outsider can take away: proofs in a zone's tree and receipts (C2SP tlog-proof) of single events."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from bailiwick.evidence.archive.reader import ColdEvents
from bailiwick.evidence.stored import COLUMNS, body_of
from bailiwick.evidence.tree import prove
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.errors import Conflict, InvalidRequest, NotFound
from bailiwick_verify.merkle import consistency_path, inclusion_path
from bailiwick_verify.receipt import Receipt


@dataclass(frozen=True, slots=True)
class SignedTree:
    """The newest head of a zone: its size, and the signed checkpoint as it is served."""

    size: int
    note: bytes


async def newest_head(tx: Transaction, zone: str) -> SignedTree:
    """The newest signed tree of ``zone``; raises :class:`NotFound` while there is none."""
    row = await tx.one(
        "SELECT size, note FROM ledger.heads WHERE zone = :zone ORDER BY size DESC, at DESC LIMIT 1", zone=zone
    )
    if row is None:
        raise NotFound(f"Nothing is signed for zone {zone}.")
    return SignedTree(row["size"], bytes(row["note"]))


async def receipt(tx: Transaction, zone: str, event_id: UUID, cold: ColdEvents | None = None) -> Receipt:
    """The receipt of an event under the newest head. ``cold``: the archive, where an older event is.

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
    head = await newest_head(tx, zone)
    if seq >= head.size:
        raise Conflict("No signed head covers the event yet; one does within a second.")
    path = await prove(tx, zone, head.size, lambda nodes: inclusion_path(seq, head.size, nodes))
    return Receipt(body, seq, tuple(path), head.note)


async def inclusion(tx: Transaction, zone: str, index: int, size: int | None) -> tuple[int, list[bytes]]:
    """The size a proof is for (by default that of the newest head), and the path of the entry in it."""
    newest = (await newest_head(tx, zone)).size
    wanted = newest if size is None else size
    if not 0 <= index < wanted <= newest:
        raise InvalidRequest(f"There is no entry {index} in a tree of {wanted}; {newest} are signed.")
    return wanted, await prove(tx, zone, wanted, lambda nodes: inclusion_path(index, wanted, nodes))


async def consistency(tx: Transaction, zone: str, old: int, new: int | None) -> tuple[int, list[bytes]]:
    """The larger size (by default that of the newest head), and the proof that the tree of ``old`` is its prefix."""
    newest = (await newest_head(tx, zone)).size
    wanted = newest if new is None else new
    if not 0 <= old <= wanted <= newest:
        raise InvalidRequest(f"A tree of {old} does not come before one of {wanted}; {newest} are signed.")
    return wanted, await prove(tx, zone, wanted, lambda nodes: consistency_path(old, wanted, nodes))
