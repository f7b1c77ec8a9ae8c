"""One sink at work: from its cursors to its destination, in order, nothing missing.

Before a batch leaves, the cursor's ``sent_seq`` says so; after its acknowledgement, ``next_seq`` moves. Whatever dies
between the two, the batch is sent again with the same event ids and is noted as a repeat. Several batches may wait for
their acknowledgement; the cursor moves in their order, and when one fails all behind it are sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec
import psycopg
import structlog

from bailiwick.evidence import codes
from bailiwick.evidence.codes import EVENT_TYPES
from bailiwick.evidence.events import Context, Outcome, Recorder, Subject, decode
from bailiwick.evidence.siem import cursors
from bailiwick.evidence.siem.breaker import Breaker, Pace
from bailiwick.evidence.siem.cursors import Cursor, CursorMoved, Entry
from bailiwick.evidence.siem.destination import Batch, Destination, Item, Refused, Retry, Stop
from bailiwick.evidence.siem.selection import redact
from bailiwick.evidence.siem.sinks import Sink, mapping_of
from bailiwick.evidence.tree import tree_size
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import Unavailable
from bailiwick.kernel.metrics import Metrics
from bailiwick.kernel.redaction import redact_text

FAILING = "SIEMExportFailures"
_SUSPECT = 10  # so many refused in a row, and none taken: it is not the events
_TURN = 50  # batches of one zone before the next has its turn
_RETRIED = 100

Cold = Callable[[str, int, int], Awaitable[Sequence[Entry]]]
"""Events that left the hot ledger: (zone, first, limit) answers those from ``first`` on without a gap, or fewer."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Figures:
    """What a sink tells about itself. ``oldest_at``: when the oldest event it has not taken was recorded."""

    lag_events: int = 0
    lag_s: float = 0.0
    dead_letters: int = 0
    delivered: int = 0
    failed: int = 0
    repeated: int = 0
    last_error: str | None = None
    last_error_at: datetime | None = None
    delivered_at: datetime | None = None
    stopped: str | None = None
    breaker: str = "closed"
    failures: int = 0
    alerted: int = 0


@dataclass(slots=True)
class _Flight:
    """A batch that was sent. ``acknowledged``: what is waited for, None when it is there."""

    batch: Batch
    acknowledged: asyncio.Task[None] | None
    started: float


@dataclass(slots=True)
class Work:
    """What a runner works with; the same for all sinks."""

    database: Database
    clock: Clock
    recorder: Recorder
    metrics: Metrics
    pace: Pace
    random: Callable[[], float]
    cold: Cold | None = None
    fault: Callable[[str], None] = field(default=lambda step: None)


class Runner:
    """Delivers to one sink until cancelled. ``key``: what hashes in redactions are keyed with."""

    def __init__(self, sink: Sink, destination: Destination, key: bytes, work: Work, figures: Figures) -> None:
        self._sink = sink
        self._destination = destination
        self._key = key
        self._work = work
        self._clock = work.clock
        self._mapping = mapping_of(sink.format)
        self._breaker = Breaker(work.pace, work.random)
        self._wake = asyncio.Event()
        self._refused_in_a_row = 0
        self._drain_at = sink.drain_at
        self._drain_batch = sink.drain_batch
        self.figures = figures
        self.figures.stopped = sink.stopped

    # ------------------------------------------------------------------ running

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            while True:
                wait = await self.round()
                self._show_breaker()
                if wait > 0:
                    await self._pause(wait)
                    self._breaker.probing()
        finally:
            await self._destination.close()

    def asked(self, drain_at: datetime | None, batch: int | None) -> None:
        """Somebody asked for everything at once: forget what was waited for."""
        if drain_at is not None and drain_at != self._drain_at:
            self._drain_at, self._drain_batch = drain_at, batch
            self._breaker.reset()
            self._refused_in_a_row = 0
            self._wake.set()

    async def round(self) -> float:
        """Once through all zones; how many seconds to wait before the next."""
        pace = self._work.pace
        try:
            moved = await self._zones()
        except Retry as failure:
            return self._failed(str(failure), failure.after_s)
        except Stop as stop:
            await self._stop(str(stop))
            return pace.stopped_s
        except CursorMoved:
            log.info("siem cursor was moved", sink=self._sink.label)
            return pace.poll_s
        except (Unavailable, psycopg.OperationalError):
            log.warning("siem waits for the database", sink=self._sink.label)
            return pace.base_s
        except Exception as error:
            log.exception("siem delivery failed", sink=self._sink.label)
            return self._failed(f"{type(error).__name__}: {error}", None)
        return 0.0 if moved else pace.poll_s

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)
        self._wake.clear()

    async def _zones(self) -> bool:
        sink = self._sink
        async with self._work.database.begin() as tx:
            if sink.all_zones:
                await cursors.add_zones(tx, sink.id, self._clock.now())
            found = await cursors.cursors(tx, sink.id)
            waiting = [
                cursor
                for cursor in found
                if cursor.lag and await self._due(tx, cursor.zone, cursor.next_seq, cursor.size)
            ]
        moved = await self._dead_letters()
        for cursor in waiting:
            await self._zone(cursor)
            moved = True
        if self._drain_at is not None and not any(cursor.lag for cursor in found):
            await self._drained()
        return moved

    async def _due(self, tx: Transaction, zone: str, first: int, size: int) -> bool:
        """Whether a batch is full or its oldest event, ``first``, was kept back long enough."""
        if self._drain_at is not None or size - first >= self._sink.batch_size or not self._sink.linger_s:
            return True
        since = await tx.value(
            "SELECT recorded_at FROM ledger.events WHERE zone = :zone AND seq = :seq", zone=zone, seq=first
        )
        return since is None or (self._clock.now() - since).total_seconds() >= self._sink.linger_s

    async def _drained(self) -> None:
        async with self._work.database.begin() as tx:
            await tx.run(
                "UPDATE siem_sinks SET drain_at = NULL, drain_batch = NULL WHERE id = :id AND drain_at = :at",
                id=self._sink.id,
                at=self._drain_at,
            )
        self._drain_at = self._drain_batch = None

    # ------------------------------------------------------------------ one zone

    async def _zone(self, cursor: Cursor) -> None:
        flying: deque[_Flight] = deque()
        position, size, turns = cursor.next_seq, cursor.size, 0
        try:
            while True:
                window = self._destination.window if self._breaker.state == "closed" else 1
                while len(flying) < window and position < size and turns < _TURN:
                    batch = await self._read(cursor, position)
                    position, turns = batch.end, turns + 1
                    try:
                        flying.append(await self._launch(cursor, batch))
                    except Refused as refused:
                        while flying:  # what left before it comes first
                            await self._land(cursor, flying.popleft())
                        await self._take_apart(cursor, batch, refused)
                if not flying:
                    return
                if await self._over(flying[0]):
                    await self._land(cursor, flying.popleft())
                elif position == size:
                    size = await self._grown(cursor.zone, size)
        finally:
            await _abandon(flying)

    async def _over(self, flight: _Flight) -> bool:
        """Whether a flight has ended, after waiting for it a while: others may leave meanwhile."""
        if flight.acknowledged is not None:
            await asyncio.wait([flight.acknowledged], timeout=self._work.pace.poll_s)
        return flight.acknowledged is None or flight.acknowledged.done()

    async def _grown(self, zone: str, known: int) -> int:
        """The size of the zone's ledger, as soon as there is another batch to be sent from ``known`` on."""
        async with self._work.database.begin() as tx:
            size = await tree_size(tx, zone)
            return size if size > known and await self._due(tx, zone, known, size) else known

    async def _launch(self, cursor: Cursor, batch: Batch) -> _Flight:
        started = self._clock.monotonic()
        if not batch.items:
            return _Flight(batch, None, started)
        if batch.items[0].defect:
            raise Refused(batch.items[0].defect)
        async with self._work.database.begin() as tx:
            again = await cursors.mark_sent(tx, self._sink.id, cursor, batch.first, batch.end, self._clock.now())
        if again:
            self.figures.repeated += again
            self._work.metrics.siem_repeated.labels(self._sink.label).inc(again)
        self._work.fault("marked")
        pending = await self._destination.send(batch)
        self._work.fault("sent")
        return _Flight(batch, None if pending is None else asyncio.ensure_future(pending), started)

    async def _land(self, cursor: Cursor, flight: _Flight) -> None:
        batch = flight.batch
        if flight.acknowledged is not None:
            try:
                await flight.acknowledged
            finally:
                await _abandon([flight])
        self._work.fault("acknowledged")
        await self._advance(cursor, batch, delivered=len(batch.items))
        self._work.fault("advanced")
        if batch.items:
            self._work.metrics.siem_send_seconds.observe(self._clock.monotonic() - flight.started)
            await self._succeeded(len(batch.items))

    async def _advance(self, cursor: Cursor, batch: Batch, *, delivered: int, buried: str | None = None) -> None:
        now = self._clock.now()
        async with self._work.database.begin() as tx:
            if buried is not None:
                await cursors.bury(tx, self._sink.id, batch.items[0], buried, now)
            filtered = batch.end - batch.first - len(batch.items)
            await cursors.advance(tx, self._sink.id, cursor, batch.first, batch.end, delivered, filtered, now)

    async def _take_apart(self, cursor: Cursor, batch: Batch, refused: Refused) -> None:
        """Find what is wrong with a refused batch: halve it, or cut where the destination pointed."""
        parts: list[tuple[Batch, Refused | None]] = [(batch, refused)]
        while parts:
            part, why = parts.pop()
            if why is None:
                try:
                    await self._land(cursor, await self._launch(cursor, part))
                except Refused as again:
                    parts.append((part, again))
            elif len(part.items) == 1:
                await self._bury(cursor, part, str(why))
            else:
                at = len(part.items) // 2 if why.index is None else min(max(why.index, 1), len(part.items) - 1)
                left, right = part.split(at)
                parts += [(right, None), (left, None)]

    async def _bury(self, cursor: Cursor, batch: Batch, why: str) -> None:
        why = redact_text(why)
        if self._refused_in_a_row >= _SUSPECT:
            raise Stop(f"the destination refuses everything, lately: {why}")
        self._refused_in_a_row += 1
        await self._advance(cursor, batch, delivered=0, buried=why)
        self.figures.dead_letters += 1
        log.error("siem event refused", sink=self._sink.label, event_id=batch.items[0].id, why=why)

    # ------------------------------------------------------------------ reading

    async def _read(self, cursor: Cursor, first: int) -> Batch:
        """The next batch, from event ``first`` on. Raises :class:`Stop` when it cannot be read whole."""
        sink, destination = self._sink, self._destination
        limit = min(self._drain_batch or sink.batch_size, destination.max_events)
        async with self._work.database.begin() as tx:
            entries: Sequence[Entry] = await cursors.read_events(tx, cursor.zone, first, limit)
        if (not entries or entries[0].seq != first) and self._work.cold is not None:
            entries = await self._work.cold(cursor.zone, first, limit)
        items: list[Item] = []
        position, size = first, 0
        for entry in entries:
            if entry.seq != position:
                break
            item = self._item(cursor.zone, entry)
            if item is not None:
                if items and (item.defect or size + len(item.body) > destination.max_bytes):
                    break  # too much for this batch; what cannot be sent stands in one of its own
                items.append(item)
                size += len(item.body)
            position += 1
            if item is not None and item.defect:
                break
        if position == first:
            raise Stop(f"event {first} of zone {cursor.zone} is not in the ledger: it was archived or taken away")
        return Batch(cursor.zone, first, position, tuple(items))

    def _item(self, zone: str, entry: Entry) -> Item | None:
        """The event as the sink wants it, None when it does not."""
        kind = EVENT_TYPES.get(entry.code)
        name = kind.name if kind is not None else ""
        if not self._sink.selection.takes(entry.code, name, entry.outcome):
            return None
        body, defect = entry.body, ""
        if self._sink.redact or self._mapping is not None:
            try:
                body = self._changed(body)
            except Exception as error:  # noqa: BLE001 - one event that cannot be told must not hold up the others
                body, defect = b"", f"cannot be put into the sink's form: {type(error).__name__}"
        return Item(zone, entry.seq, entry.id, entry.at, entry.code, name, entry.outcome, body, defect)

    def _changed(self, body: bytes) -> bytes:
        event = msgspec.json.decode(body)
        if self._sink.redact:
            event = redact(event, self._sink.redact, self._key)
        if self._mapping is not None:
            event = self._mapping(decode(msgspec.json.encode(event)))
        return msgspec.json.encode(event, order="deterministic")

    # ------------------------------------------------------------------ dead letters

    async def _dead_letters(self) -> bool:
        """Send the dead letters again that somebody asked for; True when there were any."""
        async with self._work.database.begin() as tx:
            wanted = await cursors.wanted_again(tx, self._sink.id, _RETRIED)
        for letter, zone, entry in wanted:
            item = self._item(zone, entry)
            try:
                if item is not None:
                    if item.defect:
                        raise Refused(item.defect)
                    async with self._work.database.begin() as tx:  # a refusal may have been of others beside it
                        await cursors.note_repeat(tx, self._sink.id, zone, item.seq, item.seq + 1, self._clock.now())
                    pending = await self._destination.send(Batch(zone, item.seq, item.seq + 1, (item,)))
                    if pending is not None:
                        await pending
                    await self._succeeded(1)
            except Refused as refused:
                await self._letter(letter, str(refused))
            else:
                await self._letter(letter, None)
        return bool(wanted)

    async def _letter(self, letter: int, refused: str | None) -> None:
        async with self._work.database.begin() as tx:
            if refused is None:
                await tx.run(
                    "UPDATE siem_dead_letters SET delivered_at = :now WHERE id = :id",
                    id=letter,
                    now=self._clock.now(),
                )
            else:
                await tx.run(
                    "UPDATE siem_dead_letters SET retry_at = NULL, reason = :why WHERE id = :id",
                    id=letter,
                    why=redact_text(refused)[:500].replace("\x00", ""),
                )

    # ------------------------------------------------------------------ how it went

    async def _succeeded(self, events: int) -> None:
        self._breaker.succeeded()
        self._refused_in_a_row = 0
        figures = self.figures
        figures.delivered += events
        figures.delivered_at = self._clock.now()
        self._work.metrics.siem_delivered.labels(self._sink.label).inc(events)
        self._show_breaker()
        if figures.stopped is not None:
            async with self._work.database.begin() as tx:
                await tx.run("UPDATE siem_sinks SET stopped = NULL, stopped_at = NULL WHERE id = :id", id=self._sink.id)
                await self._record(tx, codes.SIEM_RESUMED)
            figures.stopped = None
            log.info("siem sink delivers again", sink=self._sink.label)

    def _failed(self, why: str, after_s: float | None) -> float:
        wait = self._breaker.failed(after_s)
        self._note(why)
        log.warning(
            FAILING,
            sink=self._sink.label,
            why=self.figures.last_error,
            failures=self._breaker.failures,
            breaker=self._breaker.state,
            again_in_s=round(wait, 1),
        )
        return wait

    async def _stop(self, why: str) -> None:
        self._note(why)
        if self.figures.stopped is None:
            log.critical(FAILING, sink=self._sink.label, why=self.figures.last_error, stopped=True)
        now = self._clock.now()
        try:
            async with self._work.database.begin() as tx:
                first = await tx.run(
                    "UPDATE siem_sinks SET stopped = :why, stopped_at = :now WHERE id = :id AND stopped IS NULL",
                    why=self.figures.last_error,
                    now=now,
                    id=self._sink.id,
                )
                if first:
                    await self._record(tx, codes.SIEM_STOPPED, why=self.figures.last_error or "")
        except Unavailable:
            return  # told again at the next attempt
        self.figures.stopped = self.figures.last_error

    def _note(self, why: str) -> None:
        figures = self.figures
        figures.failed += 1
        figures.last_error = redact_text(why)[:500].replace("\x00", "")
        figures.last_error_at = self._clock.now()
        self._work.metrics.siem_failed.labels(self._sink.label).inc()

    def _show_breaker(self) -> None:
        self.figures.breaker = self._breaker.state
        self.figures.failures = self._breaker.failures

    async def _record(self, tx: Transaction, kind: codes.EventType, **details: Any) -> None:
        sink = self._sink
        outcome: Outcome = "success" if kind is codes.SIEM_RESUMED else "failure"
        await self._work.recorder.record(
            tx, kind, outcome, Context(sink.zone), subject=Subject(id=sink.name, type="siem-sink"), **details
        )


async def _abandon(flights: Sequence[_Flight] | deque[_Flight]) -> None:
    """Wait for none of these any more."""
    tasks = [flight.acknowledged for flight in flights if flight.acknowledged is not None]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
