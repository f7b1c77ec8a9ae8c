"""Signing and publishing heads, never two that contradict each other.

A head is signed in the transaction that holds the zone's tree, and only if the table continues what was published
last. Once it does not (hashes were cut off or rewritten, an old backup was restored), the zone's events are still kept,
but nothing is signed for it any more until people have looked. A zone in which nothing happens gets a head every hour:
its absence is how a log that was stopped is noticed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import structlog

from bailiwick.evidence.ledger import Head, HeadFiles, HeadSigner, NoLedgerKey, TreeState, lock_tree
from bailiwick.evidence.tree import MissingHashes, root_at
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.crypto import SealError
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import Unavailable

_SIGN_RETRY_S = 5.0
IDLE_INTERVAL_S = 3600.0

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Zone:
    """What is remembered about a zone: its published head, when one was last tried and last signed, whether events wait
    for one, and whether the table was seen to continue the published head."""

    published: Head | None
    tried_at: float = float("-inf")
    signed_at: float = float("-inf")
    unsigned: bool = True
    continued: bool = False


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

    async def sign(self, tx: Transaction, states: Mapping[str, TreeState]) -> list[Head]:
        """Heads over the locked trees ``states`` for the zones whose turn it is."""
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
        idle_since = self._clock.monotonic() - IDLE_INTERVAL_S
        waiting = sorted(
            zone
            for zone, memory in self._zones.items()
            if self._due(memory) and (memory.unsigned or memory.signed_at <= idle_since)
        )
        if not waiting:
            return []
        heads = []
        async with database.begin() as tx:
            for zone in waiting:
                head = await self._sign_one(tx, zone, await lock_tree(tx, zone, None))
                if head is not None:
                    heads.append(head)
        return heads

    def publish(self, heads: Sequence[Head]) -> None:
        """Write committed heads to their files."""
        for head in heads:
            memory = self._zones[head.zone]
            if memory.published is None or (head.size, head.at) > (memory.published.size, memory.published.at):
                self._files.store(head)
                memory.published = head
            memory.unsigned = False

    def _due(self, memory: _Zone) -> bool:
        return self._clock.monotonic() - memory.tried_at >= self._interval_s

    async def _sign_one(self, tx: Transaction, zone: str, state: TreeState) -> Head | None:
        memory = self._zones[zone]
        now = memory.tried_at = self._clock.monotonic()
        if not await self._continues(tx, zone, state, memory):
            memory.unsigned = False
            return None
        if state.size == state.head_size and now - memory.signed_at < IDLE_INTERVAL_S:
            return await _stored_head(tx, zone, state.size)
        at = self._clock.now()
        try:
            kid, signer = await self._signer.signer(zone)
        except (NoLedgerKey, SealError, Unavailable) as error:
            # events do not wait for a key
            log.error("head cannot be signed", zone=zone, error=str(error))
            memory.tried_at += _SIGN_RETRY_S
            return None
        head = Head.sign(zone, state.size, state.edge.root(), at, kid, signer)
        await tx.run(
            "INSERT INTO ledger.heads (zone, size, at, root, kid, note) VALUES (:zone, :size, :at, :root, :kid, :note)"
            " ON CONFLICT DO NOTHING",
            zone=zone,
            size=head.size,
            at=head.at,
            root=head.root,
            kid=kid,
            note=head.note,
        )
        memory.signed_at = now
        return head

    async def _continues(self, tx: Transaction, zone: str, state: TreeState, memory: _Zone) -> bool:
        if zone in self.contradictions:
            return False
        published = memory.published
        if published is None:
            return True
        if published.size > state.size:
            why = f"a head over {published.size} events was published, the table holds {state.size}"
            return self._contradict(zone, why)
        if memory.continued and not state.reloaded:
            return True
        try:
            same = published.size == state.size and state.edge.root() == published.root
            memory.continued = same or await root_at(tx, zone, published.size) == published.root
        except MissingHashes as error:
            return self._contradict(zone, str(error))
        if not memory.continued:
            return self._contradict(zone, f"the table contradicts the head published over {published.size} events")
        return True

    def _contradict(self, zone: str, why: str) -> bool:
        log.critical("ledger contradicts its published head", zone=zone, why=why)
        self.contradictions[zone] = why
        return False


async def _stored_head(tx: Transaction, zone: str, size: int) -> Head | None:
    row = await tx.one(
        "SELECT at, root, kid, note FROM ledger.heads WHERE zone = :zone AND size = :size ORDER BY at DESC LIMIT 1",
        zone=zone,
        size=size,
    )
    return Head(zone, size, bytes(row["root"]), row["at"], row["kid"], bytes(row["note"])) if row is not None else None
