"""Signing and publishing heads, never two that contradict each other.

A head is signed in the transaction that holds the zone's tree, and only if the table continues what was published
last, and what it holds as signed last. Once it does not (hashes were cut off or rewritten, an old backup was restored),
nothing is signed for the zone any more until people have looked. Nor is a head signed before the one before it was
published: the file is never more than one behind. No head is dated before an earlier one, whatever the clock says. A
zone in which nothing happens gets a head every hour: its absence is how a log that was stopped is noticed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from bailiwick.evidence.continued import Continuation, disagreements, log_name, newest_continuation, note_loss
from bailiwick.evidence.ledger import Head, HeadFiles, HeadSigner, NoLedgerKey, TreeState, ledger_keys, lock_tree
from bailiwick.evidence.tree import MissingHashes, root_at, tree_size
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.crypto import SealError
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import Unavailable

_SIGN_RETRY_S = 5.0
IDLE_INTERVAL_S = 3600.0
_BEGINNING = datetime.min.replace(tzinfo=UTC)

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Zone:
    """What is remembered about a zone: its published head, one that is committed and not published yet, when one was
    last tried and last signed, whether events wait for one, whether the table was seen to continue it, and which of the
    log's continuations was last seen to be agreed to."""

    published: Head | None
    unpublished: Head | None = None
    tried_at: float = float("-inf")
    signed_at: float = float("-inf")
    unsigned: bool = True
    continued: bool = False
    judged: int = 1


class HeadKeeper:
    """Signs at most one head per zone in ``interval_s`` seconds, so that no event waits longer than that for one.

    ``contradictions`` tells, by zone, why nothing is signed any more; ``cut_short`` which of these zones lack events
    that a published head covers; ``behind`` whose published head was older than it can have been left; ``unwritable``
    why a head could not be published; ``newest_at`` the latest time that a head or event is known to have; ``ended``
    what of ``cut_short`` two persons have agreed to go on without.
    """

    def __init__(self, files: HeadFiles, signer: HeadSigner, clock: Clock, *, interval_s: float) -> None:
        self._files = files
        self._signer = signer
        self._clock = clock
        self._interval_s = interval_s
        self._zones: dict[str, _Zone] = {}
        self.contradictions: dict[str, str] = {}
        self.cut_short: dict[str, str] = {}
        self.behind: dict[str, str] = {}
        self.ended: set[str] = set()
        self.unwritable: str | None = None
        self.newest_at: datetime | None = None

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
                published = self._files.load(zone)
            except (ValueError, OSError) as error:
                self._zones[zone] = _Zone(None)
                self._contradict(zone, f"the published head cannot be read: {error}")
                continue
            await self._compare(tx, zone, published)
            self._zones[zone] = _Zone(published)

    async def _compare(self, tx: Transaction, zone: str, published: Head | None) -> None:
        """Hold the published head against the table before anything is added to it.

        Needs no lock: the file is written after the table, which only grows.
        """
        continuation = await newest_continuation(tx, zone)
        if published is not None and self._is_over(zone, published, continuation):
            return
        size = published.size if published is not None else -1
        behind = await tx.value(
            "SELECT count(*) FROM (SELECT FROM ledger.heads WHERE zone = :zone AND size > :size LIMIT 2) AS newer",
            zone=zone,
            size=size,
        )
        if behind > 1:
            held = f"is over {size} events" if published is not None else "is gone"
            self.behind[zone] = f"zone {zone}: the published head {held}, later ones were signed"
        if published is not None and size > (held_now := await tree_size(tx, zone)):
            await self._cut(tx, zone, published, held_now, held_now)

    def _is_over(self, zone: str, published: Head, continuation: Continuation | None) -> bool:
        """Whether the published head is of a log that has ended; what was held against the table for it is over then,
        unless the continuation is from another head."""
        if continuation is None or published.epoch >= continuation.epoch:
            return False
        if (why := continuation.contradicts(published)) is not None:
            self._contradict(zone, why)
            return True
        self.ended.add(_lacking(zone, published.size))
        self.cut_short.pop(zone, None)
        return True

    async def _agreed(self, tx: Transaction, zone: str, memory: _Zone, continuation: Continuation) -> bool:
        """Whether two persons had the log go on, as the ledger itself tells; what was held against it then ends."""
        published = memory.published
        over = published is not None and self._is_over(zone, published, continuation)
        if over and published is not None and continuation.contradicts(published) is not None:
            return False
        keys = (await ledger_keys(tx, zone)).values()
        name = await log_name(tx, continuation, next(iter(keys)).name)
        if name is None:
            return False  # its statement is on the way
        for why, entry in await disagreements(tx, zone, name, keys):
            return self._contradict(zone, f"the log goes on without agreement, at {entry}: {why}")
        memory.judged = continuation.epoch
        if over and self.contradictions.pop(zone, None) is not None:
            log.info("ledger continued", zone=zone, log=name.origin, lost=continuation.known - continuation.kept)
        return True

    async def look_again(self, tx: Transaction) -> None:
        """Let events go on, and see about heads, where somebody had a log continued that something is held against."""
        for zone in list(self.contradictions):
            memory = self._zones.get(zone)
            if memory is None or memory.published is None:
                continue
            if self._is_over(zone, memory.published, await newest_continuation(tx, zone)):
                memory.unsigned = True

    async def _cut(self, tx: Transaction, zone: str, published: Head, size: int, kept: int) -> None:
        why = f"a head over {published.size} events was published, the table holds {size}"
        self.cut_short[zone] = _lacking(zone, published.size)
        self._contradict(zone, why)
        await note_loss(tx, published, kept, self._clock.now())

    def forget(self) -> None:
        """Start over from the files and the table."""
        self._zones.clear()

    async def sign(self, tx: Transaction, states: Mapping[str, TreeState]) -> list[Head]:
        """Heads over the locked trees ``states`` for the zones whose turn it is."""
        heads = []
        for zone, state in states.items():
            self._zones[zone].unsigned = True
            self._note_time(state.recorded_at)
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

    @property
    def unpublished(self) -> bool:
        """Whether a head is committed that stands in no file yet."""
        return self.unwritable is not None or any(memory.unpublished is not None for memory in self._zones.values())

    @property
    def unsigned(self) -> bool:
        """Whether events wait for their head."""
        return any(memory.unsigned for memory in self._zones.values())

    def publish(self, heads: Sequence[Head]) -> None:
        """Write committed heads to their files, and those again that could not be written before."""
        for head in heads:
            self._zones[head.zone].unpublished = head
            self._zones[head.zone].unsigned = False
        for zone, memory in self._zones.items():
            if memory.unpublished is None:
                continue
            try:
                self._publish(memory, memory.unpublished)
            except OSError as error:
                self.unwritable = f"zone {zone}: {error.strerror or error}"
                return
        self.unwritable = None

    def _publish(self, memory: _Zone, head: Head) -> None:
        published = memory.published
        if published is None or head.order > published.order:
            if published is not None and published.epoch < head.epoch:
                self._files.keep_ended(published)
            self._files.store(head)
            memory.published = head
        memory.unpublished = None

    def _due(self, memory: _Zone) -> bool:
        return memory.unpublished is None and self._clock.monotonic() - memory.tried_at >= self._interval_s

    def _note_time(self, *moments: datetime | None) -> None:
        for moment in moments:
            if moment is not None and (self.newest_at is None or moment > self.newest_at):
                self.newest_at = moment

    async def _sign_one(self, tx: Transaction, zone: str, state: TreeState) -> Head | None:
        memory = self._zones[zone]
        now = memory.tried_at = self._clock.monotonic()
        continuation = await newest_continuation(tx, zone)
        judged = continuation is None or memory.judged >= continuation.epoch
        if continuation is not None and not judged and not await self._agreed(tx, zone, memory, continuation):
            return None
        if not await self._continues(tx, zone, state, memory, continuation):
            memory.unsigned = False
            return None
        if state.size == state.head_size and now - memory.signed_at < IDLE_INTERVAL_S:
            return await _stored_head(tx, zone, state.size)
        self._note_time(state.recorded_at, state.head_at, memory.published.at if memory.published else None)
        at = max(
            self._clock.now(), state.head_at or _BEGINNING, memory.published.at if memory.published else _BEGINNING
        )
        try:
            kid, signer = await self._signer.signer(zone)
        except (NoLedgerKey, SealError, Unavailable) as error:
            # events do not wait for a key
            log.error("head cannot be signed", zone=zone, error=str(error))
            memory.tried_at += _SIGN_RETRY_S
            return None
        name = await log_name(tx, continuation, signer.key.name)
        if name is None:
            return None
        head = Head.sign(zone, state.size, state.edge.root(), at, kid, signer.under(name.origin), name.lines)
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

    async def _continues(
        self, tx: Transaction, zone: str, state: TreeState, memory: _Zone, continuation: Continuation | None
    ) -> bool:
        published = memory.published
        if published is not None and self._is_over(zone, published, continuation):
            published = None
        if zone in self.contradictions:
            return False
        if state.head_size > state.size:
            why = f"a head over {state.head_size} events was signed, the table holds {state.size}"
            return self._contradict(zone, why)
        if published is None:
            return True
        if published.size > state.size:
            await self._cut(tx, zone, published, state.size, max(state.head_size, 0))
            return False
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
        if zone not in self.contradictions:
            log.critical("ledger contradicts its published head", zone=zone, why=why)
        self.contradictions[zone] = why
        return False


def _lacking(zone: str, size: int) -> str:
    return f"zone {zone}: the ledger lacks events of the {size} under its published head"


async def _stored_head(tx: Transaction, zone: str, size: int) -> Head | None:
    row = await tx.one(
        "SELECT at, root, kid, note FROM ledger.heads WHERE zone = :zone AND size = :size ORDER BY at DESC LIMIT 1",
        zone=zone,
        size=size,
    )
    return Head(zone, size, bytes(row["root"]), row["at"], row["kid"], bytes(row["note"])) if row is not None else None
