"""Signing and publishing heads, never two that contradict each other.

A head is signed in the transaction that holds the zone's chain, and only if the table continues what was published
last. Once it does not (rows were cut off or rewritten, an old backup was restored), the zone's events are still kept,
but nothing is signed for it any more until people have looked.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import structlog

from bailiwick.evidence.ledger import (
    ChainState,
    Head,
    HeadFiles,
    HeadSigner,
    NoLedgerKey,
    chain_at,
    head_text,
    lock_chain,
)
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.crypto import SealError
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import Unavailable

_SIGN_RETRY_S = 5.0

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Zone:
    """What is remembered about a zone: its published head, when one was last signed, whether events wait for one."""

    published: Head | None
    signed_at: float = float("-inf")
    unsigned: bool = True
    contradiction: str = ""


class HeadKeeper:
    """Signs at most one head per zone in ``interval_s`` seconds, so that no event waits longer than that for one.

    ``contradictions`` tells, by zone, why nothing is signed any more.
    """

    def __init__(self, files: HeadFiles, signer: HeadSigner, clock: Clock, *, interval_s: float) -> None:
        self._files = files
        self._signer = signer
        self._clock = clock
        self._interval_s = interval_s
        self._zones: dict[str, _Zone] = {}
        self.contradictions: dict[str, str] = {}

    @property
    def zones(self) -> Collection[str]:
        """The zones known."""
        return self._zones.keys()

    async def learn_zones(self, tx: Transaction) -> None:
        """Take in the zones there are; each may have events that nobody signed for."""
        for row in await tx.all("SELECT name FROM zones"):
            zone = row["name"]
            if zone in self._zones:
                continue
            try:
                self._zones[zone] = _Zone(self._files.load(zone))
            except ValueError as error:
                self._zones[zone] = _Zone(None)
                self._contradict(zone, f"the published head cannot be read: {error}")

    def forget(self) -> None:
        """Start over from the files and the table."""
        self._zones.clear()

    async def sign(self, tx: Transaction, states: Mapping[str, ChainState]) -> list[Head]:
        """Heads over the locked chains ``states`` for the zones whose turn it is."""
        heads = []
        for zone, state in states.items():
            self._zones[zone].unsigned = True
            if self._due(self._zones[zone]):
                head = await self._sign_one(tx, zone, state)
                if head is not None:
                    heads.append(head)
        return heads

    async def sign_waiting(self, database: Database) -> list[Head]:
        """Heads for the zones whose last events had to wait."""
        waiting = sorted(zone for zone, memory in self._zones.items() if memory.unsigned and self._due(memory))
        if not waiting:
            return []
        heads = []
        async with database.begin() as tx:
            for zone in waiting:
                head = await self._sign_one(tx, zone, await lock_chain(tx, zone))
                if head is not None:
                    heads.append(head)
        return heads

    def publish(self, heads: Sequence[Head]) -> None:
        """Write committed heads to their files."""
        for head in heads:
            memory = self._zones[head.zone]
            if memory.published is None or head.size > memory.published.size:
                self._files.store(head)
                memory.published = head
            memory.unsigned = False

    def _due(self, memory: _Zone) -> bool:
        return self._clock.monotonic() - memory.signed_at >= self._interval_s

    async def _sign_one(self, tx: Transaction, zone: str, state: ChainState) -> Head | None:
        memory = self._zones[zone]
        memory.signed_at = self._clock.monotonic()
        if (state.size == 0 and memory.published is None) or not await self._continues(tx, zone, state, memory):
            memory.unsigned = False
            return None
        if state.size == state.head_size:
            return await _stored_head(tx, zone, state.size)
        at = self._clock.now()
        try:
            kid, signature = await self._signer.sign(zone, head_text(zone, state.size, state.chain, at))
        except (NoLedgerKey, SealError, Unavailable) as error:
            # events do not wait for a key
            log.error("head cannot be signed", zone=zone, error=str(error))
            memory.signed_at += _SIGN_RETRY_S
            return None
        head = Head(zone, state.size, state.chain, at, kid, signature)
        await tx.run(
            "INSERT INTO ledger.heads (zone, size, chain, at, kid, signature)"
            " VALUES (:zone, :size, :chain, :at, :kid, :signature)",
            zone=zone,
            size=head.size,
            chain=head.chain,
            at=head.at,
            kid=kid,
            signature=signature,
        )
        return head

    async def _continues(self, tx: Transaction, zone: str, state: ChainState, memory: _Zone) -> bool:
        if zone in self.contradictions:
            return False
        published = memory.published
        if published is None:
            return True
        if published.size > state.size:
            why = f"a head over {published.size} events was published, the table holds {state.size}"
            return self._contradict(zone, why)
        known = state.chain if published.size == state.size else await chain_at(tx, zone, published.size)
        if published.chain != known:
            return self._contradict(zone, f"the table contradicts the head published over {published.size} events")
        return True

    def _contradict(self, zone: str, why: str) -> bool:
        log.critical("ledger contradicts its published head", zone=zone, why=why)
        self.contradictions[zone] = why
        return False


async def _stored_head(tx: Transaction, zone: str, size: int) -> Head | None:
    row = await tx.one(
        "SELECT chain, at, kid, signature FROM ledger.heads WHERE zone = :zone AND size = :size", zone=zone, size=size
    )
    if row is None:
        return None
    return Head(zone, size, bytes(row["chain"]), row["at"], row["kid"], bytes(row["signature"]))
