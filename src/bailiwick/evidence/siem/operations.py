"""What operators do with sinks: see how far each is, have it deliver at once, send things again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.evidence.siem import cursors
from bailiwick.evidence.siem.sinks import Sink, all_sinks, find
from bailiwick.evidence.tree import tree_size
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import Conflict, InvalidRequest

UNATTENDED_AFTER = timedelta(seconds=15)
NEAR_CAPACITY_EVENTS = 10_000
FULL_EVENTS = 50_000

State = Literal["delivering", "behind", "failing", "stopped", "unattended", "disabled"]
Start = int | datetime | Literal["beginning"]


@dataclass(frozen=True, slots=True)
class SinkStatus:
    """How a sink is. ``unattended``: no process has delivered to it lately. Only ``delivering`` is green."""

    sink: Sink
    state: State
    lag_events: int
    lag_s: float
    dead_letters: int
    delivered: int
    filtered: int
    repeated: int
    breaker: str
    failures: int
    last_error: str | None
    last_error_at: datetime | None
    delivered_at: datetime | None
    seen_at: datetime | None
    holder: str | None
    zones: tuple[cursors.Cursor, ...]

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        plain = {name: getattr(self, name) for name in self.__slots__ if name not in {"sink", "zones"}}
        zones = [
            {"zone": each.zone, "next_seq": each.next_seq, "size": each.size, "lag_events": each.lag}
            for each in self.zones
        ]
        head = {"name": self.sink.name, "kind": self.sink.kind, "stopped": self.sink.stopped}
        return {**head, **plain, "lag_s": round(self.lag_s, 1), "zones": zones}


class Operations:
    """Asks deliveries for things by way of the database, wherever they run.

    ``reads_cold``: events that left the hot ledger can still be sent.
    """

    def __init__(self, database: Database, clock: Clock, recorder: Recorder, *, reads_cold: bool = False) -> None:
        self._database = database
        self._clock = clock
        self._recorder = recorder
        self._reads_cold = reads_cold

    async def status(self, zone: str) -> list[SinkStatus]:
        """How each sink of a zone is, by name."""
        async with self._database.begin() as tx:
            return [await self._status(tx, sink) for sink in await all_sinks(tx, zone)]

    async def drain(self, context: Context, name: str, batch_size: int | None = None) -> dict[str, int]:
        """Have a sink deliver everything now: not waiting for more, nor for its breaker, nor for what stopped it.

        Answers, by zone, the ledger's size that its cursor must reach. ``batch_size`` holds until then.
        """
        async with self._database.begin() as tx:
            sink = await find(tx, context.zone, name, lock=True)
            if not sink.enabled:
                raise Conflict(f"The sink {name} is disabled.")
            await tx.run(
                "UPDATE siem_sinks SET drain_at = :now, drain_batch = :batch, stopped = NULL, stopped_at = NULL"
                " WHERE id = :id",
                now=self._clock.now(),
                batch=batch_size,
                id=sink.id,
            )
            found = await cursors.cursors(tx, sink.id)
            await self._record(tx, codes.SIEM_DRAINED, context, sink, behind=sum(cursor.lag for cursor in found))
        return {cursor.zone: cursor.size for cursor in found}

    async def replay(
        self, context: Context, name: str, start: Start, zone: str | None = None
    ) -> dict[str, dict[str, int]]:
        """Send again what a sink was sent from ``start`` on: a place in the ledger, an instant, or the beginning.

        Answers, by zone, from where and how many events. A cursor never moves forward by this: nothing is skipped.
        """
        now = self._clock.now()
        async with self._database.begin() as tx:
            sink = await find(tx, context.zone, name, lock=True)
            zones = [cursor.zone for cursor in await cursors.cursors(tx, sink.id)]
            if zone is not None:
                if zone not in zones:
                    raise InvalidRequest(f"The sink {name} does not send the zone {zone}.")
                zones = [zone]
            elif isinstance(start, int) and len(zones) > 1:
                raise InvalidRequest("A place in the ledger needs a zone, since the sink sends several.")
            done = {}
            for each in zones:
                seq = await self._place(tx, each, start)
                done[each] = {"from": seq, "events": await cursors.rewind(tx, sink.id, each, seq, now)}
            total = sum(part["events"] for part in done.values())
            await self._record(tx, codes.SIEM_REPLAYED, context, sink, events=total, start=str(start))
        return done

    async def retry(self, context: Context, name: str, letter: int | None = None) -> int:
        """Have the dead letters of a sink, or one of them, sent once more; answers how many."""
        async with self._database.begin() as tx:
            sink = await find(tx, context.zone, name, lock=True)
            count = await tx.run(
                "UPDATE siem_dead_letters SET retry_at = :now WHERE sink = :sink AND delivered_at IS NULL"
                " AND (CAST(:letter AS bigint) IS NULL OR id = :letter)",
                now=self._clock.now(),
                sink=sink.id,
                letter=letter,
            )
            await self._record(tx, codes.SIEM_DEAD_LETTERS_RETRIED, context, sink, letters=count)
        return count

    async def dead_letters(self, zone: str, name: str, *, after: int = 0, limit: int = 100) -> list[dict[str, Any]]:
        """What a sink's destination refused for good, oldest first."""
        async with self._database.begin() as tx:
            sink = await find(tx, zone, name)
            return await cursors.dead_letters(tx, sink.id, after=after, limit=limit)

    async def repeats(self, zone: str, name: str, *, after: int = 0, limit: int = 100) -> list[dict[str, Any]]:
        """The delivery report: runs of the ledger that a sink was sent more than once, oldest first."""
        async with self._database.begin() as tx:
            sink = await find(tx, zone, name)
            return await cursors.repeats(tx, sink.id, after=after, limit=limit)

    async def _place(self, tx: Transaction, zone: str, start: Start) -> int:
        oldest = await tx.value("SELECT min(seq) FROM ledger.events WHERE zone = :zone", zone=zone)
        if self._reads_cold and not isinstance(start, int):
            # the parts of a window are read whole: some events more than were asked for, and none fewer
            sealed = await tx.value(
                "SELECT min(first_seq) FROM ledger.archive_objects WHERE zone = :zone AND version IS NOT NULL"
                " AND void_at IS NULL AND (local OR remote) AND (CAST(:start AS timestamptz) IS NULL"
                " OR window_start + interval '12 hours' > :start)",
                zone=zone,
                start=None if start == "beginning" else start,
            )
            if sealed is not None and (oldest is None or sealed < oldest):
                return int(sealed)
        size = await tree_size(tx, zone)
        if isinstance(start, int):
            if not self._reads_cold and oldest is not None and start < oldest:
                raise Conflict(f"Event {start} of zone {zone} has left the hot ledger; the oldest there is {oldest}.")
            return start
        if start == "beginning":
            return size if oldest is None else int(oldest)
        found = await tx.value(
            "SELECT min(seq) FROM ledger.events WHERE zone = :zone AND recorded_at >= :start", zone=zone, start=start
        )
        return size if found is None else int(found)

    async def _status(self, tx: Transaction, sink: Sink) -> SinkStatus:
        found = await cursors.cursors(tx, sink.id)
        row = await tx.one(
            "SELECT s.*, (SELECT count(*) FROM siem_dead_letters d WHERE d.sink = :sink AND d.delivered_at IS NULL)"
            " AS dead, (SELECT coalesce(sum(end_seq - first_seq), 0) FROM siem_repeats r WHERE r.sink = :sink)"
            " AS repeated FROM (SELECT 1) one LEFT JOIN siem_state s ON s.sink = :sink",
            sink=sink.id,
        )
        assert row is not None
        lag = sum(cursor.lag for cursor in found)
        return SinkStatus(
            sink,
            self._state(sink, row, lag),
            lag,
            await self._lag_s(tx, found),
            int(row["dead"]),
            sum(cursor.delivered for cursor in found),
            sum(cursor.filtered for cursor in found),
            int(row["repeated"]),
            row["breaker"] or "closed",
            row["failures"] or 0,
            row["last_error"],
            row["last_error_at"],
            row["delivered_at"],
            row["seen_at"],
            row["holder"],
            tuple(found),
        )

    def _state(self, sink: Sink, row: Row, lag: int) -> State:
        if not sink.enabled:
            return "disabled"
        if sink.stopped is not None:
            return "stopped"
        if row["seen_at"] is None or self._clock.now() - row["seen_at"] > UNATTENDED_AFTER:
            return "unattended"
        if row["failures"]:
            return "failing"
        return "behind" if lag >= NEAR_CAPACITY_EVENTS else "delivering"

    async def _lag_s(self, tx: Transaction, found: list[cursors.Cursor]) -> float:
        oldest = 0.0
        for cursor in found:
            if cursor.lag:
                since = await tx.value(
                    "SELECT recorded_at FROM ledger.events WHERE zone = :zone AND seq >= :seq ORDER BY seq LIMIT 1",
                    zone=cursor.zone,
                    seq=cursor.next_seq,
                )
                if since is not None:
                    oldest = max(oldest, (self._clock.now() - since).total_seconds())
        return oldest

    async def _record(
        self, tx: Transaction, kind: codes.EventType, context: Context, sink: Sink, **details: Any
    ) -> None:
        await self._recorder.record(
            tx, kind, "success", context, subject=Subject(id=sink.name, type="siem-sink"), **details
        )
