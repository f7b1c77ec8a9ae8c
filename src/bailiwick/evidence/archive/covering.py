"""What a manifest stands on: no event missing before it, and a signed head of the zone's tree over all it names."""

from __future__ import annotations

from collections.abc import Sequence

from bailiwick.evidence.ledger import Head, HeadSigner
from bailiwick.evidence.tree import MissingHashes, load_edge, prove, read_hashes, root_at
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Transaction
from bailiwick_verify.checkpoint import open_checkpoint
from bailiwick_verify.merkle import EMPTY_ROOT, consistency_path, verify_consistency
from bailiwick_verify.note import NoteError, VerifierKey

_LEAVES = 100_000


class CannotSeal(Exception):
    """A window does not hold, so it is not sealed; the text says why."""


async def refuse_gaps(tx: Transaction, zone: str, before: int, size: int) -> None:
    """Every position from ``before`` to ``size`` must be in a part or still in a row: a gap is a removed event.

    Raises :class:`CannotSeal`.
    """
    rows = await tx.all(
        "SELECT first_seq, last_seq FROM ledger.archive_objects WHERE zone = :zone AND void_at IS NULL"
        " AND last_seq >= :before AND first_seq < :size ORDER BY first_seq",
        zone=zone,
        before=before,
        size=size,
    )
    at = before
    for first, last in [*((row["first_seq"], row["last_seq"]) for row in rows), (size, size)]:
        if first > at:
            there = await tx.value(
                "SELECT count(*) FROM ledger.events WHERE zone = :zone AND seq >= :first AND seq < :end",
                zone=zone,
                first=at,
                end=first,
            )
            if there != first - at:
                raise CannotSeal(f"events are missing between {at} and {first - 1}")
        at = max(at, last + 1)


async def head_over(
    tx: Transaction,
    zone: str,
    before: int,
    size: int,
    keys: Sequence[VerifierKey],
    signer: HeadSigner,
    clock: Clock,
) -> Head:
    """A signed head over the first ``size`` events: the newest one, or one signed now.

    Signed is only what the tree agrees on: its leaves from ``before`` on (up to there an earlier manifest saw to it)
    make up its upper levels, and it is the beginning of what the newest genuine head was signed over. Raises
    :class:`CannotSeal`, and what ``signer`` raises.
    """
    try:
        edge = await load_edge(tx, zone, before)
        for first in range(before, size, _LEAVES):
            edge.extend(await read_hashes(tx, zone, 0, first, min(first + _LEAVES, size)))
        root = edge.root() if size else EMPTY_ROOT
        newest = await _newest(tx, zone, keys)
        if newest.size < size:
            raise CannotSeal(f"no signed head covers {size} events yet")
        if size:
            if root != await root_at(tx, zone, size):
                raise CannotSeal("the levels of the zone's tree do not agree")
            if newest.root != await root_at(tx, zone, newest.size):
                raise CannotSeal(f"the zone's tree is not the one signed over {newest.size} events")
            path = await prove(tx, zone, newest.size, lambda nodes: consistency_path(size, newest.size, nodes))
            if not verify_consistency(size, newest.size, root, newest.root, path):
                raise CannotSeal(f"{size} events are not the beginning of what was signed over {newest.size}")
    except MissingHashes as error:
        raise CannotSeal(str(error)) from error
    if newest.size == size:
        return newest
    kid, key = await signer.signer(zone)
    said = newest.said
    return Head.sign(zone, size, root, clock.now(), kid, key.under(said.origin), said.extensions)


async def _newest(tx: Transaction, zone: str, keys: Sequence[VerifierKey]) -> Head:
    row = await tx.one(
        "SELECT size, root, at, kid, note FROM ledger.heads WHERE zone = :zone ORDER BY size DESC, at DESC LIMIT 1",
        zone=zone,
    )
    if row is None:
        raise CannotSeal("no head is signed for the zone yet")
    head = Head(zone, row["size"], bytes(row["root"]), row["at"], row["kid"], bytes(row["note"]))
    try:
        said = open_checkpoint(head.note, keys).checkpoint
    except NoteError as error:
        raise CannotSeal(f"the newest head is not genuine: {error}") from error
    if (said.size, said.root) != (head.size, head.root):
        raise CannotSeal("the newest head's columns say other than what was signed")
    return head
