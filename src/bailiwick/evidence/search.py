"""Finding evidence, hot and cold alike: events by filter, counts of them, one event, one decision with its input.

Events stand in the order of their sequence numbers, whether the table still has them or the archive. The archive tells
which of its windows the table has no longer; only those are read, and only as far as a page needs them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

import msgspec
from sqlalchemy.exc import DBAPIError

from bailiwick.evidence import hot
from bailiwick.evidence.cold import ColdSearch, ColdWindow, span_of
from bailiwick.evidence.events import Event, decode, leaf_hash
from bailiwick.evidence.inputs import DETAIL, input_aad
from bailiwick.evidence.query import Filter, Order, codes_named
from bailiwick.evidence.stored import COLUMNS, body_of
from bailiwick.kernel.crypto import Sealer, SealError
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import BailiwickError, InvalidRequest, NotFound, Unavailable

__all__ = ["FACETS", "Decision", "Entry", "Facets", "Filter", "Order", "Search", "codes_named"]

QUERY_S = 10.0
FACETS_S = 3.0
FACETS = ("code", "outcome", "server", "principal")
_MOST_VALUES = 50
_COLD_STEP = 14
_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Entry:
    """An event in its place in the ledger. ``leaf``: the hash the tree has for that place."""

    seq: int
    recorded_at: datetime
    leaf: bytes
    body: bytes

    @property
    def event(self) -> Event:
        """The event; raises ``msgspec.MsgspecError`` when the stored bytes were damaged."""
        return decode(self.body)

    @property
    def intact(self) -> bool:
        """Whether the bytes are those that were hashed."""
        return leaf_hash(self.body) == self.leaf

    def to_json(self) -> dict[str, Any]:
        """The entry as plain values. ``intact`` says whether the bytes are those that were hashed."""
        try:
            event: Any = msgspec.json.decode(self.body)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            event = None
        return {
            "seq": self.seq,
            "recorded_at": self.recorded_at.astimezone(UTC).isoformat(),
            "leaf": self.leaf.hex(),
            "intact": self.intact,
            "event": event if isinstance(event, dict) else None,
        }


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision as recorded. ``input_state``: ``present`` (then ``input`` holds its bytes), ``expired`` (no longer, or
    not yet, kept), ``sealed`` (its key is not available), ``none`` (the event names no input)."""

    entry: Entry
    input: bytes | None
    input_state: Literal["present", "expired", "sealed", "none"]


@dataclass(frozen=True, slots=True)
class Facets:
    """How often each value occurs, most frequent first. ``complete`` is False where the time did not suffice for all
    events: then the counts are of the newest ones only, those recorded since ``counted_since``. ``unlisted``: how many
    more values there are."""

    counts: dict[str, list[tuple[str, int]]]
    unlisted: dict[str, int]
    complete: bool
    counted_since: datetime | None

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        values = {
            name: [{"value": value, "count": count} for value, count in counted]
            for name, counted in self.counts.items()
        }
        since = self.counted_since.isoformat() if self.counted_since else None
        return {"complete": self.complete, "counted_since": since, "values": values, "unlisted": self.unlisted}


class Search:
    """Reads the ledger. Callers record that they did (``audit.read``) in the same transaction.

    Without a ``sealer`` decision inputs stay sealed; without ``cold`` there is only the table. ``slots``: how many
    searches may run at once, so that they leave the database to others.
    """

    def __init__(
        self, database: Database, sealer: Sealer | None, cold: ColdSearch | None = None, *, slots: int = 3
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._cold = cold
        self._slots = asyncio.Semaphore(slots)

    def replace_sealer(self, sealer: Sealer) -> None:
        """Use the KEKs as they are after a rotation."""
        self._sealer = sealer

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """One of the searches that may run now; raises ``search_busy`` when none comes free in time."""
        try:
            async with asyncio.timeout(_WAIT_S):
                await self._slots.acquire()
        except TimeoutError:
            raise Unavailable(
                "Too many searches run at once.", reason="search_busy", headers={"Retry-After": "5"}
            ) from None
        try:
            yield
        finally:
            self._slots.release()

    async def events(
        self,
        tx: Transaction,
        zone: str,
        wanted: Filter,
        *,
        order: Order = "newest",
        after: int | None,
        limit: int,
        budget_s: float = QUERY_S,
    ) -> list[Entry]:
        """Events in ledger order, from behind sequence number ``after`` on, at most ``limit``.

        Raises ``query_too_expensive`` when ``budget_s`` seconds do not suffice.
        """
        budget = hot.Budget(budget_s)
        found: dict[int, tuple[datetime, bytes]] = {}
        for alternative in wanted.alternatives():
            rows = await hot.find(tx, zone, alternative, order, after, limit, budget)
            found |= {row["seq"]: (row["recorded_at"], body_of(row)) for row in rows}
        if self._cold is not None:
            await self._add_cold(self._cold, zone, wanted, order, after, limit, found, budget)
        page = sorted(found, reverse=order == "newest")[:limit]
        leaves = await hot.leaves(tx, zone, page) if page else {}
        return [Entry(seq, found[seq][0], leaves.get(seq, b""), found[seq][1]) for seq in page]

    async def count(self, zone: str, wanted: Filter, names: Sequence[str], budget_s: float = FACETS_S) -> Facets:
        """:meth:`facets` in a transaction that is given up where the time does not suffice."""
        counted: Facets | None = None
        try:
            async with self._database.begin() as tx:
                counted = await self.facets(tx, zone, wanted, names, budget_s)
        except DBAPIError:
            if counted is None:  # an aborted transaction cannot be committed, and nothing was written in it
                raise
        assert counted is not None
        return counted

    async def facets(
        self, tx: Transaction, zone: str, wanted: Filter, names: Sequence[str], budget_s: float = FACETS_S
    ) -> Facets:
        """Counts by ``names`` (of :data:`FACETS`) of what a search would find, the newest first while time lasts.

        A transaction of its own: the statement that runs out of time ends it.
        """
        unknown = [name for name in names if name not in FACETS]
        if unknown or not names:
            raise InvalidRequest(f"A facet is one of {', '.join(FACETS)}.")
        if wanted.about is not None:
            raise InvalidRequest("Timelines have no facets.")
        budget = hot.Budget(budget_s)
        counts: list[Counter[str]] = [Counter() for _ in names]
        since: datetime | None = None
        complete = False

        def add(rows: Sequence[tuple[int, str | None, int]]) -> None:
            for facet, value, count in rows:
                counts[facet][value or ""] += count

        try:
            for span in await hot.spans(tx, zone, wanted, "newest", None, budget):
                add(await hot.counts(tx, zone, wanted, names, span, budget))
                since = span.start
            if self._cold is not None:
                windows = await self._cold_windows(self._cold, zone, wanted)
                for first in range(0, len(windows), _COLD_STEP):
                    some = windows[first : first + _COLD_STEP]
                    add(await self._cold.counts(some, wanted, names, budget.left()))
            complete = True
        except BailiwickError as error:
            if error.reason != "query_too_expensive":
                raise
        by_name = dict(zip(names, counts, strict=True))
        ranked = {name: counted.most_common(_MOST_VALUES) for name, counted in by_name.items()}
        unlisted = {name: len(counted) - len(ranked[name]) for name, counted in by_name.items()}
        return Facets(ranked, unlisted, complete, None if complete else since)

    async def event(self, tx: Transaction, zone: str, event_id: UUID) -> Entry:
        """One event; raises :class:`NotFound`."""
        found = await self.events(tx, zone, Filter(event_id=event_id), order="oldest", after=None, limit=1)
        if not found:
            raise NotFound("There is no event by that id.")
        return found[0]

    async def request(self, tx: Transaction, zone: str, request_id: UUID) -> dict[str, Any]:
        """Everything known about one request, in the order it happened; raises :class:`NotFound` for nothing.

        ``timeline`` holds ``{"at", "kind": "event", …}`` and ``{"at", "kind": "answer", …}`` entries.
        """
        events = await self.events(
            tx, zone, Filter(request_id=request_id), order="oldest", after=None, limit=_MOST_OF_A_REQUEST
        )
        answers = await tx.all(
            "SELECT at, caller, method, route, status, duration_us, ip FROM api_requests"
            " WHERE request_id = :id AND zone = :zone ORDER BY at",
            id=str(request_id),
            zone=zone,
        )
        if not events and not answers:
            raise NotFound("Nothing is known about a request by that id.")
        timeline: list[dict[str, Any]] = []
        for found in events:
            entry = found.to_json()
            at = (entry["event"] or {}).get("at") or entry["recorded_at"]
            timeline.append({"at": at, "kind": "event", **entry})
        for row in answers:
            at = row["at"].astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            timeline.append({"kind": "answer", **row, "at": at})
        # an answer is noted when it has left, so at the same instant it comes last
        timeline.sort(key=lambda item: (item["at"], item["kind"] == "answer"))
        return {"request_id": str(request_id), "timeline": timeline}

    async def find_decision(self, zone: str, decision_id: UUID) -> Decision | None:
        """The event of a decision and the input it was made from, None when the ledger has no such decision."""
        async with self._database.begin() as tx:
            wanted = Filter(decision_id=decision_id)
            found = await self.events(tx, zone, wanted, order="oldest", after=None, limit=1)
            if not found:
                return None
            entry = found[0]
            digest = str(entry.event.details.get(DETAIL, ""))
            if not digest:
                return Decision(entry, None, "none")
            sealed = await tx.value(
                "SELECT sealed FROM decision_inputs WHERE zone = :zone AND digest = :digest", zone=zone, digest=digest
            )
        if sealed is None:
            return Decision(entry, None, "expired")
        if self._sealer is None:
            return Decision(entry, None, "sealed")
        try:
            return Decision(entry, self._sealer.open(bytes(sealed), input_aad(zone, digest)), "present")
        except SealError:
            return Decision(entry, None, "sealed")

    async def issued_by_key(self, zone: str, code: str, kid: str, since: float) -> Sequence[Event]:
        """Events of ``code`` whose details name ``kid``, not older than ``since`` (epoch seconds), oldest first."""
        async with self._database.begin() as tx:
            rows = await tx.all(
                f"SELECT {COLUMNS} FROM ledger.events WHERE zone = :zone AND code = :code AND at >= :since"  # noqa: S608
                " ORDER BY seq",
                zone=zone,
                code=code,
                since=datetime.fromtimestamp(since, UTC),
            )
        events = [decode(body_of(row)) for row in rows]
        return [event for event in events if event.details.get("kid") == kid]

    async def dead_letters(self, tx: Transaction, zone: str, *, after: int | None, limit: int) -> list[dict[str, Any]]:
        """What could not be sequenced, newest first. Frames too damaged to tell their zone show in the default zone."""
        rows = await tx.all(
            "SELECT id, source, segment, position, zone, reason, size, encode(sha256(frame), 'hex') AS sha256, at"
            " FROM ledger.dead_letters"
            " WHERE (zone = :zone"
            "  OR (:default AND NOT EXISTS (SELECT FROM zones WHERE zones.name = dead_letters.zone)))"
            " AND (CAST(:after AS bigint) IS NULL OR id < :after) ORDER BY id DESC LIMIT :limit",
            zone=zone,
            default=zone == "default",
            after=after,
            limit=limit,
        )
        return [{**row, "at": row["at"].astimezone(UTC).isoformat()} for row in rows]

    # ------------------------------------------------------------------ the archive

    async def _add_cold(
        self,
        cold: ColdSearch,
        zone: str,
        wanted: Filter,
        order: Order,
        after: int | None,
        limit: int,
        found: dict[int, tuple[datetime, bytes]],
        budget: hot.Budget,
    ) -> None:
        """Add what the archive has of the page to ``found``."""
        windows = await self._cold_windows(cold, zone, wanted)
        if order == "oldest":
            windows.reverse()
        for first in range(0, len(windows), _COLD_STEP):
            page = sorted(found, reverse=order == "newest")[:limit]
            last = page[-1] if len(page) == limit else None
            some = [w for w in windows[first : first + _COLD_STEP] if _reaches(w, order, after, last)]
            if not some:
                continue
            for alternative in wanted.alternatives():
                rows = await cold.events(some, alternative, order, after, limit, budget.left())
                for row in rows:
                    found.setdefault(row.seq, (row.recorded_at, row.body))

    async def _cold_windows(self, cold: ColdSearch, zone: str, wanted: Filter) -> list[ColdWindow]:
        """Windows that only the archive has, newest first."""
        windows = await cold.source.list_windows(zone, wanted.since, wanted.until)
        return sorted((window for window in windows if window.objects), key=span_of, reverse=True)


_MOST_OF_A_REQUEST = 10_000


def _reaches(window: ColdWindow, order: Order, after: int | None, last: int | None) -> bool:
    """Whether a window may hold events behind ``after`` and before ``last``, the end of a page that is full."""
    first, end = span_of(window)
    if order == "newest":
        return (after is None or first < after) and (last is None or end > last)
    return (after is None or end > after) and (last is None or first < last)
