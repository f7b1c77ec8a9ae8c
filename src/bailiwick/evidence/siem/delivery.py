"""Delivery to all sinks: who leads which, what each one tells, when somebody must be woken.

Any number of work processes may run this. Whoever holds a sink's advisory lock delivers to it; the lock belongs to a
database connection of its own and ends with it. Should two believe to lead for a moment, the cursor still moves in one
order only (its place is compared when it moves), and events arrive twice, never too few.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
import structlog
from pydantic import ValidationError

from bailiwick.evidence.events import Recorder
from bailiwick.evidence.siem import cursors
from bailiwick.evidence.siem.breaker import Pace
from bailiwick.evidence.siem.destination import Batch, Destination, Stop
from bailiwick.evidence.siem.kinds import build
from bailiwick.evidence.siem.operations import FULL_EVENTS, NEAR_CAPACITY_EVENTS
from bailiwick.evidence.siem.outgoing import Means
from bailiwick.evidence.siem.runner import Cold, Figures, Runner, Work
from bailiwick.evidence.siem.sinks import Sink, all_sinks, unseal
from bailiwick.kernel.crypto import Sealer, SealError
from bailiwick.kernel.db import Database, libpq_url
from bailiwick.kernel.errors import Unavailable
from bailiwick.kernel.metrics import Metrics

NEAR_CAPACITY = "SIEMQueueNearCapacity"
FULL = "SIEMQueueFull"
_LOCK = 0x7369656D  # "siem": first half of the advisory lock of a sink
_BREAKER = {"closed": 0, "half-open": 1, "open": 2}

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Led:
    """A sink this process delivers to."""

    sink: Sink
    runner: Runner
    task: asyncio.Task[None]


class Delivery:
    """Runs in the work role. ``direct_url``: the database past any pooler, for the locks.

    ``cold`` reads events that are no longer in the hot ledger. ``random`` answers 0 to 1. ``fault`` is called with the
    name of every step; the tests die there.
    """

    def __init__(
        self,
        database: Database,
        direct_url: str,
        sealer: Sealer,
        recorder: Recorder,
        metrics: Metrics,
        means: Means,
        *,
        random: Callable[[], float],
        pace: Pace | None = None,
        cold: Cold | None = None,
        fault: Callable[[str], None] = lambda step: None,
    ) -> None:
        self._database = database
        self._direct_url = direct_url
        self._sealer = sealer
        self._means = means
        self._clock = means.clock
        self._metrics = metrics
        self._pace = pace or Pace()
        self._work = Work(database, means.clock, recorder, metrics, self._pace, random, cold, fault)
        self._locks: psycopg.AsyncConnection[Any] | None = None
        self._led: dict[str, _Led] = {}
        self._shown: set[str] = set()
        self.figures: dict[str, Figures] = {}

    def replace_sealer(self, sealer: Sealer) -> None:
        """Use the KEKs as they are after a rotation."""
        self._sealer = sealer

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            while True:
                try:
                    await self.look()
                except (Unavailable, psycopg.Error) as error:
                    log.warning("siem sinks cannot be read", error=str(error).splitlines()[0])
                    await self._lose_locks()
                except Exception:
                    log.exception("siem sinks cannot be looked at")
                await asyncio.sleep(self._pace.look_s)
        finally:
            await self.close()

    async def close(self) -> None:
        """Let go of everything."""
        await self._lose_locks()

    async def look(self) -> None:
        """Read the sinks: begin with new ones, leave those that are gone, take up changes, tell how all are."""
        async with self._database.begin() as tx:
            sinks = {sink.id: sink for sink in await all_sinks(tx)}
        if self._locks is not None:
            await self._locks.execute("SELECT 1")  # the lock is ours only as long as this works
        for identifier, led in list(self._led.items()):
            now = sinks.get(identifier)
            if now is None or not now.enabled or now.version != led.sink.version or led.task.done():
                await self._leave(led)
                if now is None or not now.enabled:
                    self._forget(led.sink)
            else:
                led.runner.asked(now.drain_at, now.drain_batch)
        for sink in sinks.values():
            if sink.enabled and sink.id not in self._led and await self._lead(sink):
                self._begin(sink)
        for led in list(self._led.values()):
            await self._tell(led)

    def trouble(self) -> str | None:
        """What an operator must know before relying on what the destinations have, or None."""
        told = []
        for label, figures in sorted(self.figures.items()):
            if figures.stopped is not None:
                told.append(f"{label} is stopped: {figures.stopped}")
            elif figures.lag_events >= FULL_EVENTS:
                told.append(f"{FULL}: {label} is {figures.lag_events} events behind")
        return "; ".join(told) or None

    def facts(self) -> dict[str, Any]:
        """How each sink is."""
        return {
            label: {
                "lag_events": figures.lag_events,
                "lag_s": round(figures.lag_s, 1),
                "breaker": figures.breaker,
                "dead_letters": figures.dead_letters,
                "stopped": figures.stopped is not None,
            }
            for label, figures in sorted(self.figures.items())
        }

    # ------------------------------------------------------------------ leading

    async def _lead(self, sink: Sink) -> bool:
        if self._locks is None or self._locks.closed:
            self._locks = await psycopg.AsyncConnection.connect(
                libpq_url(self._direct_url), autocommit=True, connect_timeout=3
            )
        found = await self._locks.execute("SELECT pg_try_advisory_lock(%s, hashtext(%s))", (_LOCK, sink.id))
        row = await found.fetchone()
        return bool(row and row[0])

    def _begin(self, sink: Sink) -> None:
        figures = self.figures.setdefault(sink.label, Figures())
        key = b""
        try:
            secrets = unseal(self._sealer, sink)
            key = bytes.fromhex(secrets.pop("redaction_key"))
            destination: Destination = build(sink.kind, sink.options, secrets, self._means)
        except (SealError, ValidationError, ValueError, KeyError) as error:
            destination = _Unusable(f"the sink's own row cannot be used: {type(error).__name__}")
        runner = Runner(sink, destination, key, self._work, figures)
        self._led[sink.id] = _Led(sink, runner, asyncio.create_task(runner.run(), name=f"siem {sink.label}"))

    async def _leave(self, led: _Led) -> None:
        del self._led[led.sink.id]
        led.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(led.task, return_exceptions=True)
        if self._locks is not None and not self._locks.closed:
            await self._locks.execute("SELECT pg_advisory_unlock(%s, hashtext(%s))", (_LOCK, led.sink.id))

    async def _lose_locks(self) -> None:
        locks, self._locks = self._locks, None
        for led in list(self._led.values()):
            await self._leave(led)
        if locks is not None:
            with contextlib.suppress(psycopg.Error):
                await locks.close()

    # ------------------------------------------------------------------ telling

    async def _tell(self, led: _Led) -> None:
        figures, sink, now = led.runner.figures, led.sink, self._clock.now()
        async with self._database.begin() as tx:
            found = await cursors.cursors(tx, sink.id)
            oldest: datetime | None = None
            for cursor in found:
                if cursor.lag:
                    since = await tx.value(
                        "SELECT recorded_at FROM ledger.events WHERE zone = :zone AND seq >= :seq ORDER BY seq LIMIT 1",
                        zone=cursor.zone,
                        seq=cursor.next_seq,
                    )
                    oldest = min(oldest or since, since) if since is not None else oldest
            figures.lag_events = sum(cursor.lag for cursor in found)
            figures.lag_s = max(0.0, (now - oldest).total_seconds()) if oldest is not None else 0.0
            figures.dead_letters = await tx.value(
                "SELECT count(*) FROM siem_dead_letters WHERE sink = :sink AND delivered_at IS NULL", sink=sink.id
            )
            await tx.run(
                "INSERT INTO siem_state (sink, holder, breaker, failures, last_error, last_error_at, delivered_at,"
                " seen_at) SELECT id, :holder, :breaker, :failures, :error, :error_at, :delivered_at, :now"
                " FROM siem_sinks WHERE id = :sink ON CONFLICT (sink) DO UPDATE SET holder = excluded.holder,"
                " breaker = excluded.breaker, failures = excluded.failures, seen_at = excluded.seen_at,"
                " last_error = coalesce(excluded.last_error, siem_state.last_error),"
                " last_error_at = coalesce(excluded.last_error_at, siem_state.last_error_at),"
                " delivered_at = coalesce(excluded.delivered_at, siem_state.delivered_at)",
                sink=sink.id,
                holder=self._means.host,
                breaker=figures.breaker,
                failures=figures.failures,
                error=figures.last_error,
                error_at=figures.last_error_at,
                delivered_at=figures.delivered_at,
                now=now,
            )
        self._show(sink.label, figures)
        self._alert(sink.label, figures)

    def _show(self, label: str, figures: Figures) -> None:
        metrics = self._metrics
        metrics.siem_lag_events.labels(label).set(figures.lag_events)
        metrics.siem_lag_seconds.labels(label).set(figures.lag_s)
        metrics.siem_dead_letters.labels(label).set(figures.dead_letters)
        metrics.siem_breaker.labels(label).set(_BREAKER[figures.breaker])
        metrics.siem_stopped.labels(label).set(figures.stopped is not None)

    def _alert(self, label: str, figures: Figures) -> None:
        """Say once that a sink is far behind, and once that it no longer is."""
        behind = figures.lag_events
        reached = max((limit for limit in (NEAR_CAPACITY_EVENTS, FULL_EVENTS) if behind >= limit), default=0)
        if reached > figures.alerted:
            if reached == FULL_EVENTS:
                log.critical(FULL, sink=label, behind=behind, lag_s=round(figures.lag_s))
            else:
                log.error(NEAR_CAPACITY, sink=label, behind=behind, lag_s=round(figures.lag_s))
        elif behind < figures.alerted * 0.8:
            log.info("siem sink is no longer far behind", sink=label, behind=behind)
        else:
            return
        figures.alerted = reached

    def _forget(self, sink: Sink) -> None:
        self._show(sink.label, Figures())
        self.figures.pop(sink.label, None)


class _Unusable:
    """Stands in for a destination that cannot be built."""

    max_bytes, max_events, window = 1, 1, 1

    def __init__(self, why: str) -> None:
        self._why = why

    async def send(self, batch: Batch) -> None:
        """Nothing is sent."""
        raise Stop(self._why)

    async def close(self) -> None:
        """Nothing is held."""
