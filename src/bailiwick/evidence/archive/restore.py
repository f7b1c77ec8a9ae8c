"""Back into the ledger: sealed events become rows again, byte for byte, for as long as somebody needs them there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from bailiwick.evidence import codes
from bailiwick.evidence.archive.lives import lock_zone
from bailiwick.evidence.archive.proof import Unproven, prove_window
from bailiwick.evidence.archive.reader import ColdDamaged, ColdEvents, ColdWindow
from bailiwick.evidence.archive.windows import Window
from bailiwick.evidence.events import Context, Recorder, Subject, leaf_hash
from bailiwick.evidence.intake import put_events
from bailiwick.evidence.records import EventRow, event_row
from bailiwick.evidence.tree import read_hashes
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import Conflict, InvalidRequest, NotFound

SOURCE = "archive"
_PORTION = 5000
LONGEST_DAYS = 90


@dataclass(frozen=True, slots=True)
class Restored:
    """What came back. ``until``: when the rows may leave again."""

    windows: int
    events: int
    until: datetime


class Restorer:
    """Restores windows. ``fault`` is called with the name of every step; the tests die there."""

    def __init__(
        self,
        database: Database,
        cold: ColdEvents,
        recorder: Recorder,
        clock: Clock,
        *,
        fault: Callable[[str], None] = lambda step: None,
    ) -> None:
        self._database = database
        self._cold = cold
        self._recorder = recorder
        self._clock = clock
        self._fault = fault

    async def restore(
        self,
        context: Context,
        since: datetime,
        until: datetime,
        *,
        by: str,
        days: int = 7,
        most_events: int | None = None,
    ) -> Restored:
        """Put the events recorded from ``since`` to ``until`` back, whole windows at a time, for ``days`` days.

        Windows that are in the table are left as they are. Each window is one transaction: it is back whole or not at
        all. Raises ``not_found`` where nothing is sealed in that time, ``archive_unproven`` where the archive does not
        hold it, ``archive_unavailable``, ``invalid_request`` for more than ``most_events`` at once.
        """
        if until <= since or not 1 <= days <= LONGEST_DAYS:
            raise InvalidRequest(f"The time must not be empty, and days are 1 to {LONGEST_DAYS}.")
        sealed = [
            window
            for window in await self._cold.list_windows(context.zone, None, None, include_hot=True)
            if Window(window.start).end > since and window.start < until
        ]
        if not sealed:
            raise NotFound("No event is sealed in that time.")
        cold = [window for window in sealed if not window.hot]
        if most_events is not None and sum(window.events for window in cold) > most_events:
            raise InvalidRequest(f"These are more than {most_events:,} events: restore them by the command line.")
        kept_until = self._clock.now() + timedelta(days=days)
        events = 0
        for window in cold:
            try:
                await prove_window(self._database, self._cold, context.zone, Window(window.start))
                events += await self._window(context, window, by, kept_until)
            except (Unproven, ColdDamaged) as error:
                raise Conflict(str(error), reason="archive_unproven") from error
        return Restored(len(cold), events, kept_until)

    async def _window(self, context: Context, window: ColdWindow, by: str, kept_until: datetime) -> int:
        zone, span = context.zone, Window(window.start)
        async with self._database.begin() as tx:
            await lock_zone(tx, zone)
            await tx.run(
                "SELECT ledger.ensure_partitions(CAST(:start AS timestamptz), CAST(:end AS timestamptz))",
                start=span.start,
                end=span.end,
            )
            there = {
                row["seq"]
                for row in await tx.all(
                    "SELECT seq FROM ledger.events WHERE zone = :zone AND recorded_at >= :start AND recorded_at < :end",
                    zone=zone,
                    start=span.start,
                    end=span.end,
                )
            }
            restored = 0
            for part in window.objects:
                portion: list[tuple[EventRow, int, datetime]] = []
                async for row in self._cold.rows(part):
                    if row.seq in there:
                        continue
                    portion.append((event_row(SOURCE, 0, row.seq, zone, row.body), row.seq, row.recorded_at))
                    if len(portion) == _PORTION:
                        restored += await _put(tx, zone, portion)
                        portion = []
                restored += await _put(tx, zone, portion)
                self._fault("part")
            await tx.run(
                "INSERT INTO ledger.restores (zone, window_start, events, restored_by, restored_at, until)"
                # after the drop by the database's clock, which is what said when that was
                " VALUES (:zone, :start, :events, :by, clock_timestamp(), :until)",
                zone=zone,
                start=span.start,
                events=restored,
                by=by,
                until=kept_until,
            )
            await self._recorder.record(
                tx,
                codes.ARCHIVE_RESTORED,
                "success",
                context,
                subject=Subject(id=str(span), type="archive"),
                events=restored,
            )
        return restored


async def _put(tx: Transaction, zone: str, portion: list[tuple[EventRow, int, datetime]]) -> int:
    """Store rows, each held against the tree once more."""
    if not portion:
        return 0
    hashes = await read_hashes(tx, zone, 0, portion[0][1], portion[-1][1] + 1)
    for row, seq, _ in portion:
        if leaf_hash(row.body) != hashes[seq - portion[0][1]]:
            raise Unproven(f"event {seq} is not the one that the tree has there")
    await put_events(tx, portion)
    return len(portion)
