"""The sequencer: moves what the spools and the outbox hold into the ledger, each exactly once.

One database transaction carries the rows, the places in the spools up to which they reach, the outbox rows it removes
and the heads it signs; so whatever dies, either all of it happened or none. Heads are signed inside the transaction and
published (written to their file) only after it: no two heads that contradict each other ever leave.

On one machine the holder of ``<spool>/.sequencer`` works and others stand by; between machines, which have spools of
their own and share the outbox, the lock of each zone's tree orders them. Whoever works on without that lock is fenced
by the database: a place that somebody else moved on lets nothing of the same spool in twice.

Where the ledger lacks events that a published head covers (an old backup was restored) nothing is moved into it: the
spools keep what they hold, and workers refuse, until an operator has acknowledged the loss.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import psycopg
import structlog

from bailiwick.evidence.heads import HeadKeeper
from bailiwick.evidence.intake import Intake, is_refusal, put_events, put_others, refused_rows
from bailiwick.evidence.ledger import Head, HeadFiles, HeadSigner, TreeState, lock_tree
from bailiwick.evidence.machine_lock import MachineLock
from bailiwick.evidence.records import OUTBOX, DeadLetter, EventRow, Unparsable, clean, event_row
from bailiwick.evidence.sources import Place, Portion, SourceReader, source_names, waiting
from bailiwick.evidence.spool import abandoned_births, acknowledge_loss, acknowledged_losses, latch_loss, loss_of
from bailiwick.evidence.tree import put_run
from bailiwick.evidence.troubles import STALLS, Figures, Trouble, cause_of, stall_of
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction, libpq_url
from bailiwick.kernel.listening import notified
from bailiwick_verify.merkle import Edge

CHANNEL = "bailiwick_outbox"
_PARTITION_LOCK = 0x70617274  # "part": two sequencers would create the same partition
_PARTITIONS_AHEAD = timedelta(days=2)
_QUIET_ROUNDS = 10  # looked in the thread alone, between rounds of everything else
_MEASURE_S = 2.0
_CONTENDED_S = 60.0
_REMEMBER_GONE = timedelta(hours=1)
_CLOCK_TOLERANCE_S = 5.0  # clocks of two machines that share the ledger differ a little

log = structlog.get_logger(__name__)


class _Again(Exception):
    """Things are not as they were thought to be: forget what was read and look again."""


class _Moved(_Again):
    """Somebody else moved a spool's place on."""


class Sequencer:
    """Runs in the work role.

    ``spool_root``: directory of all sources of this machine. ``direct_url``: the database past any pooler, for LISTEN.
    ``signer`` signs heads, which ``head_files`` keeps. ``input_days``: how long decision inputs live.

    A round costs what hundreds of events in it do, and every commit wakes us: rounds that find something begin
    ``gather_s`` apart at least, so that a stream goes together. What comes alone does not wait.
    ``fault`` is called with the name of every step; the tests die there.
    """

    def __init__(
        self,
        database: Database,
        direct_url: str,
        spool_root: Path,
        head_files: HeadFiles,
        signer: HeadSigner,
        clock: Clock,
        *,
        input_days: int = 30,
        poll_s: float = 0.025,
        gather_s: float = 0.1,
        head_interval_s: float = 0.5,
        batch_events: int = 8000,
        fault: Callable[[str], None] = lambda step: None,
    ) -> None:
        self._database = database
        self._direct_url = direct_url
        self._root = spool_root
        self._heads = HeadKeeper(head_files, signer, clock, interval_s=head_interval_s)
        self._clock = clock
        self._input_days = input_days
        self._poll_s = poll_s
        self._gather_s = gather_s
        self._batch_events = batch_events
        self._fault = fault
        self._readers: dict[str, SourceReader] = {}
        self._places: dict[str, Place] = {}
        self._edges: dict[str, Edge] = {}
        self._partitions_until: datetime | None = None
        self._outbox_waits = True
        self._outbox_asked = float("-inf")
        self._births_looked_at = float("-inf")
        self._listening = False
        self._wake = asyncio.Event()
        self._stirred = threading.Event()  # the same for the thread
        self._more = False
        self._moved_at = clock.monotonic()
        self._lock = MachineLock(spool_root)
        self._reached: dict[str, Place] = {}  # what is known to be in the ledger, for the backlog while it is away
        self._measured_at = float("-inf")
        self._leftovers: set[Path] = set()  # could not be removed although it is in the ledger
        self._looked_at: set[str] = set()  # losses that an operator acknowledged
        self._contended_at = float("-inf")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sequencer-read")
        self.figures = Figures()

    # ------------------------------------------------------------------ running

    async def run(self) -> None:
        """Work until cancelled. A database that is away is tried again with back-off; nothing is lost meanwhile."""
        listener = asyncio.create_task(self._listen())
        pause = 0.1
        loop = asyncio.get_running_loop()
        try:
            while True:
                began = loop.time()
                try:
                    moved = await self.step()
                    pause = 0.1
                    if not self._more:
                        if moved or self._heads.unsigned or not self._at_rest():
                            await self._sleep(self._poll_s)
                        else:
                            await loop.run_in_executor(self._thread, self._watch)
                            self._wake.clear()
                        if moved:
                            await asyncio.sleep(max(0.0, began + self._gather_s - loop.time()))
                except Exception as error:  # noqa: BLE001 - whatever it is, it is named, and tried again
                    await self._stalled(error)
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, 2.0)
        finally:
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)
            self.close()

    async def drain(self) -> None:
        """Move everything that is there now. Raises what :meth:`run` would retry."""
        while await self.step():
            pass

    async def step(self) -> bool:
        """One round; True when it moved anything."""
        self._more = False
        if not self._lead():
            return False
        loop = asyncio.get_running_loop()
        if not self._heads.zones:
            async with self._database.begin() as tx:
                await self._heads.learn_zones(tx)
        held, portions = await loop.run_in_executor(self._thread, self._look)
        if held:
            await self._count_waiting()
            await self._measure()
            return False
        await self._ensure_partitions(self._clock.now())
        if portions is None:
            portions = await loop.run_in_executor(self._thread, self._collect, await self._new_places())
        self._fault("read")
        for portion in portions:
            if portion.lost:
                await loop.run_in_executor(self._thread, self._latch, portion.lost)
        asks_outbox = self._outbox_due()
        moved = False
        if portions or asks_outbox:
            moved = await self._move(portions, asks_outbox)
        heads = await self._heads.sign_waiting(self._database)
        if heads or self._heads.unpublished:
            await self._publish(heads)
        more = any(portion.more for portion in portions)
        self.figures.backlog_bytes = await loop.run_in_executor(self._thread, self._backlog, portions) if more else 0
        self._moved_at = self._clock.monotonic()
        self.figures.troubles.end(*STALLS)
        if not moved:
            self.figures.lag_s = self.figures.backlog_age_s = 0.0
        await self._measure()
        return moved

    def wake(self) -> None:
        """Look at once, outbox included."""
        self._outbox_waits = True
        self._wake.set()
        self._stirred.set()

    def _at_rest(self) -> bool:
        """Whether only the spools are to be looked at: it is its turn, nothing is wrong, and it hears of the outbox."""
        return self.figures.active and self._listening and not self.figures.lost

    def _watch(self) -> None:
        """Return when there is something to read, somebody woke us, or some rounds found nothing.

        As often as before, but in the thread alone: the loop of a machine at rest is not woken forty times a second.
        """
        for _ in range(_QUIET_ROUNDS):
            if self._stirred.wait(self._poll_s) or self._sources() != self._readers.keys() or self._collect({}):
                break
        self._stirred.clear()

    def close(self) -> None:
        """Let go of files and of the machine's sequencer lock."""
        self._stirred.set()
        self._thread.shutdown(wait=True)
        self._forget()
        self._lock.release()
        self.figures.active = False

    def _lead(self) -> bool:
        """Whether this is the sequencer of the machine; one that stands by asks each time."""
        if self._lock.held and self._lock.lost():
            self._forget()
        self.figures.active = self._lock.held or self._lock.take()
        return self.figures.active

    async def _stalled(self, error: BaseException) -> None:
        figures, stall = self.figures, stall_of(error)
        why = cause_of(error)
        if stall is Trouble.SEQUENCING_FAILED:
            log.exception("sequencing failed")
        else:
            log.warning("ledger unreachable", trouble=stall.value, error=why)
        figures.troubles.end(*(STALLS - {stall}))
        figures.troubles.begin(stall, why)
        self._reached.update(self._places)
        self._forget()
        figures.lag_s = max(figures.lag_s, self._clock.monotonic() - self._moved_at)
        figures.lost = loss_of(self._root)
        self._tell()
        with contextlib.suppress(OSError):
            await self._count_waiting()

    async def _count_waiting(self) -> None:
        loop = asyncio.get_running_loop()
        self.figures.backlog_bytes, oldest = await loop.run_in_executor(
            self._thread, waiting, self._root, self._reached | self._places
        )
        self.figures.backlog_age_s = self._age_of(oldest)

    def _age_of(self, moment: datetime | None) -> float:
        return max(0.0, (self._clock.now() - moment).total_seconds()) if moment is not None else 0.0

    def _held(self) -> bool:
        """Whether nothing may be moved: the ledger lacks what a published head covers, and nobody has looked yet."""
        if self.figures.lost and set(self.figures.lost) <= self._heads.ended:
            acknowledge_loss(self._root)  # two persons have
        cut_short = self._heads.cut_short.values()
        self._latch(cut_short)
        self.figures.lost = loss_of(self._root)
        self._tell()
        return any(line in self.figures.lost for line in cut_short)

    def _tell(self) -> None:
        """What is known to be wrong, by its name."""
        figures, heads = self.figures, self._heads
        figures.contradictions = dict(heads.contradictions)
        if heads.newest_at is not None:
            figures.clock_behind_s = max(0.0, (heads.newest_at - self._clock.now()).total_seconds())
        behind = figures.clock_behind_s > _CLOCK_TOLERANCE_S
        contended = self._clock.monotonic() - self._contended_at < _CONTENDED_S
        tell = figures.troubles.tell
        tell(Trouble.EVIDENCE_LOST, figures.lost)
        tell(Trouble.LEDGER_CONTRADICTS_HEAD, [f"{zone}: {why}" for zone, why in heads.contradictions.items()])
        tell(Trouble.HEAD_FILE_BEHIND, heads.behind.values())
        tell(Trouble.HEADS_UNWRITABLE, [heads.unwritable] if heads.unwritable else [])
        tell(Trouble.SPOOL_UNREADABLE, [f"{source}: {why}" for source, why in figures.unreadable.items()])
        tell(Trouble.CLOCK_WENT_BACK, ["the clock stands before the newest event or head"] if behind else [])
        tell(Trouble.SEQUENCER_CONTENDED, ["somebody else reads the same spool"] if contended else [])

    async def _measure(self) -> None:
        """What costs too much for every round."""
        now = self._clock.monotonic()
        if now - self._measured_at < _MEASURE_S:
            return
        self._measured_at = now
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._remove_leftovers)
        async with self._database.begin() as tx:
            await self._heads.look_again(tx)
            self.figures.dead_letters = await tx.value(
                "SELECT count(*) FROM ledger.dead_letters d LEFT JOIN ledger.replays r ON r.dead_letter = d.id"
                " WHERE r.dead_letter IS NULL"
            )
            await tx.run(
                "DELETE FROM spool_positions WHERE source IN"
                " (SELECT source FROM spool_positions WHERE gone AND updated_at < :before)",
                before=self._clock.now() - _REMEMBER_GONE,
            )

    def _forget(self) -> None:
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
        self._places.clear()
        self._edges.clear()
        self._heads.forget()
        self._partitions_until = None
        self._outbox_waits = True

    async def _sleep(self, seconds: float) -> None:
        # in place of asyncio.wait_for, which makes a task each time, forty times a second
        alarm = asyncio.get_running_loop().call_later(seconds, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            alarm.cancel()
        self._wake.clear()

    async def _listen(self) -> None:
        while True:
            with contextlib.suppress(psycopg.Error):
                connection = await psycopg.AsyncConnection.connect(
                    libpq_url(self._direct_url), autocommit=True, connect_timeout=3
                )
                async with connection:
                    await connection.execute(f"LISTEN {CHANNEL}")
                    self._listening = True
                    self.wake()  # whatever was left while nobody listened
                    async for _ in notified(connection):
                        self.wake()
            self._listening = False
            await asyncio.sleep(0.5)

    def _outbox_due(self) -> bool:
        now = self._clock.monotonic()
        if not self._outbox_waits and now - self._outbox_asked < (1.0 if self._listening else 0.1):
            return False
        self._outbox_waits, self._outbox_asked = False, now
        return True

    # ------------------------------------------------------------------ reading the spools

    def _look(self) -> tuple[bool, list[Portion] | None]:
        """Whether nothing may be moved, and what there is to move; None where sources came or went.

        Most rounds find nothing: this is all they cost, one journey to the thread.
        """
        if self._held():
            return True, None
        return False, self._collect({}) if self._sources() == self._readers.keys() else None

    def _sources(self) -> set[str]:
        return source_names(self._root) - {path.name for path in self._leftovers}

    async def _new_places(self) -> dict[str, Place]:
        """Where to go on in sources that were not known yet."""
        names = self._sources()
        for name in self._readers.keys() - names:
            self._readers.pop(name).close()
            self._places.pop(name, None)
        unknown = sorted(names - self._places.keys())
        if not unknown:
            return {}
        async with self._database.begin() as tx:
            rows = await tx.all(
                "SELECT DISTINCT ON (source) source, segment, position, next_sequence, unsure_from, finished, gone"
                " FROM spool_positions WHERE source = ANY(:sources) ORDER BY source, segment DESC",
                sources=unknown,
            )
        stored = {row["source"]: row for row in rows}
        places = {}
        for name in unknown:
            row = stored.get(name)
            if row is not None and row["gone"]:
                self._remove(self._root / name)  # whoever read it to its end died before this
                continue
            reader = self._readers[name] = SourceReader(self._root / name)
            if row is None:
                places[name] = Place(0)
            elif not row["finished"]:
                places[name] = Place(row["segment"], row["position"], row["next_sequence"], row["unsure_from"])
            else:
                places[name] = reader.after(row["segment"]) or Place(row["segment"] + 1)
            for segment in reader.segments():
                if row is not None and segment < places[name].segment:
                    self._remove(reader.path(segment))  # it is in the ledger; whoever put it there died before this
        return places

    def _collect(self, new_places: dict[str, Place]) -> list[Portion]:
        self._places.update(new_places)
        portions = []
        room = self._batch_events
        for name in sorted(self._readers, key=lambda name: name.rpartition(".")[2]):
            if room <= 0:
                break
            try:
                portion = self._readers[name].read(self._places[name], 2 << 20)
            except OSError as error:
                # one bad disk block must not hold up the other workers' evidence; this source is tried every round
                if name not in self.figures.unreadable:
                    log.error("spool cannot be read", source=name, error=str(error))
                self.figures.unreadable[name] = str(error)
                continue
            self.figures.unreadable.pop(name, None)
            if portion:
                portions.append(portion)
                room -= len(portion.events)
        self._bury_unborn()
        return portions

    def _bury_unborn(self) -> None:
        now = self._clock.monotonic()
        if now - self._births_looked_at > 60:
            self._births_looked_at = now
            for path in abandoned_births(self._root):
                shutil.rmtree(path, ignore_errors=True)

    def _backlog(self, portions: Sequence[Portion]) -> int:
        waiting = [portion for portion in portions if portion.more]
        return sum(
            self._readers[p.source].backlog(self._places[p.source]) for p in waiting if p.source in self._readers
        )

    def _latch(self, lost: Iterable[str]) -> None:
        """Stop the workers over what was lost, unless somebody has looked at that already."""
        for what in lost:
            if what in self.figures.lost or what in self._looked_at:
                continue
            if what in acknowledged_losses(self._root):
                self._looked_at.add(what)
            elif what not in loss_of(self._root):
                log.critical("evidence lost", what=what)
                self.figures.troubles.begin(Trouble.EVIDENCE_LOST, what)
                latch_loss(self._root, what)
            self.figures.lost = loss_of(self._root)

    async def _publish(self, heads: Sequence[Head]) -> None:
        """Write heads to their files; one that cannot be written holds up heads, not events."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._heads.publish, heads)

    # ------------------------------------------------------------------ one transaction

    async def _move(self, portions: Sequence[Portion], asks_outbox: bool) -> bool:
        """Commit what was read; True when that was anything."""
        try:
            intake, heads, edges, taken = await self._commit(portions, asks_outbox, set())
        except _Again as again:
            if isinstance(again, _Moved):
                self._contended_at = self._clock.monotonic()
            self._forget()
            self._more = True
            return True
        except psycopg.Error as error:
            if not is_refusal(error):
                raise
            log.error("the database refuses a row; looking for it", error=str(error).splitlines()[0])
            refused = await self._find_refused(portions, asks_outbox)
            if not refused:
                raise
            intake, heads, edges, taken = await self._commit(portions, asks_outbox, refused)
        self._fault("committed")
        self._edges.update(edges)
        for portion in portions:
            self._places[portion.source] = portion.after
        await self._publish(heads)
        self._fault("published")
        await self._clear_finished(portions)
        self.figures.sequenced_total += len(intake.events)
        self.figures.dead_letters_total += len(intake.dead)
        if intake.events:
            oldest = min(row.at for row in intake.events)
            self.figures.lag_s = self.figures.backlog_age_s = self._age_of(oldest)
        if taken >= self._batch_events:
            self._outbox_waits = True
        self._more = self._outbox_waits or any(portion.more for portion in portions)
        return bool(portions) or taken > 0

    async def _commit(
        self, portions: Sequence[Portion], asks_outbox: bool, refused: set[tuple[str, int]]
    ) -> tuple[Intake, list[Head], dict[str, Edge], int]:
        async with self._database.begin() as tx:
            await self._advance(tx, portions)
            intake = Intake()
            for portion in portions:
                intake.events.extend(portion.events)
                intake.inputs.extend(portion.inputs)
                intake.dead.extend(portion.dead)
            taken = await self._take_outbox(tx, intake) if asks_outbox else 0
            intake.set_aside(refused)
            await self._set_aside_unknown_zones(tx, intake)
            zones = sorted({row.zone for row in intake.events})
            states = {zone: await lock_tree(tx, zone, self._edges.get(zone)) for zone in zones}
            self._fault("locked")
            after = await self._append(tx, intake.events, states)
            self._fault("copied")
            now = self._clock.now()
            await put_others(tx, intake, now, now + timedelta(days=self._input_days))
            heads = await self._heads.sign(tx, after)
            self._fault("signed")
        return intake, heads, {zone: state.edge for zone, state in after.items()}, taken

    async def _advance(self, tx: Transaction, portions: Sequence[Portion]) -> None:
        """Note how far each spool was read; the rows lock out, and reveal, anybody who reads the same."""
        for portion in portions:
            same = portion.after.segment == portion.before.segment
            moved = await tx.run(
                "INSERT INTO spool_positions AS p"
                " (source, segment, position, next_sequence, unsure_from, finished, gone, updated_at)"
                " VALUES (:source, :segment, :position, :next_sequence, :unsure_from, :finished, :gone, :now)"
                " ON CONFLICT (source, segment) DO UPDATE SET position = excluded.position,"
                " next_sequence = excluded.next_sequence, unsure_from = excluded.unsure_from,"
                " finished = excluded.finished, gone = excluded.gone, updated_at = excluded.updated_at"
                " WHERE p.position = :before AND NOT p.finished",
                source=portion.source,
                segment=portion.before.segment,
                position=portion.after.offset if same else portion.read_to,
                next_sequence=portion.after.next_sequence if same else -1,
                unsure_from=portion.after.unsure_from if same else -1,
                finished=portion.finished,
                gone=portion.gone,
                before=portion.before.offset,
                now=self._clock.now(),
            )
            if moved == 0:
                raise _Moved

    async def _take_outbox(self, tx: Transaction, intake: Intake) -> int:
        rows = await tx.all(
            "DELETE FROM outbox WHERE id IN (SELECT id FROM outbox ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED)"
            " RETURNING id, zone, event",
            limit=self._batch_events,
        )
        for row in sorted(rows, key=lambda row: row["id"]):
            body = bytes(row["event"])
            try:
                intake.events.append(event_row(OUTBOX, 0, row["id"], row["zone"], body))
            except Unparsable as error:
                intake.dead.append(DeadLetter(OUTBOX, 0, row["id"], clean(row["zone"]), str(error), body))
        return len(rows)

    async def _set_aside_unknown_zones(self, tx: Transaction, intake: Intake) -> None:
        named = {row.zone for row in intake.events} | {row.zone for row in intake.inputs}
        if not named <= set(self._heads.zones):
            cut_short = len(self._heads.cut_short)
            await self._heads.learn_zones(tx)
            if len(self._heads.cut_short) > cut_short:
                raise _Again
        intake.set_aside_zones(self._heads.zones)

    async def _append(
        self, tx: Transaction, events: Sequence[EventRow], states: dict[str, TreeState]
    ) -> dict[str, TreeState]:
        """Number and store the events and grow the trees; answers where each zone's tree stands afterwards."""
        now = self._clock.now()
        rows = []
        for zone, state in states.items():
            first = state.size
            # never before the last one: a partition then holds an unbroken run of every zone, whatever the clock did
            recorded_at = max(now, state.recorded_at) if state.recorded_at else now
            await self._ensure_partitions(recorded_at, tx)
            mine = [event for event in events if event.zone == zone]
            rows += [(event, first + offset, recorded_at) for offset, event in enumerate(mine)]
            await _grow(tx, zone, state.edge, [event.leaf for event in mine])
            states[zone] = replace(state, recorded_at=recorded_at)
        if rows:
            await put_events(tx, rows)
        return states

    async def _ensure_partitions(self, moment: datetime, tx: Transaction | None = None) -> None:
        if self._partitions_until is not None and moment + timedelta(days=1) < self._partitions_until:
            return
        if tx is None:
            async with self._database.begin() as own:
                return await self._ensure_partitions(moment, own)
        await tx.run("SELECT pg_advisory_xact_lock(:lock)", lock=_PARTITION_LOCK)
        until = moment + _PARTITIONS_AHEAD
        await tx.run("SELECT ledger.ensure_partitions(:first, :until)", first=moment, until=until)
        self._partitions_until = until
        return None

    async def _find_refused(self, portions: Sequence[Portion], asks_outbox: bool) -> set[tuple[str, int]]:
        """Which rows the database will not store, found by trying each in a transaction that is given up."""
        refused: set[tuple[str, int]] = set()
        with contextlib.suppress(_Moved):
            async with self._database.begin() as tx:
                intake = Intake()
                for portion in portions:
                    intake.events.extend(portion.events)
                if asks_outbox:
                    await self._take_outbox(tx, intake)
                refused = await refused_rows(tx, intake.events, self._clock.now())
                raise _Moved
        return refused

    # ------------------------------------------------------------------ afterwards

    async def _clear_finished(self, portions: Sequence[Portion]) -> None:
        """Remove segments that are wholly in the ledger, and sources that will never say more.

        The places of the latter are remembered for a while: who read the same spool by mistake is stopped by them.
        """
        for portion in portions:
            reader = self._readers[portion.source]
            if portion.finished:
                reader.close()
                self._remove(reader.path(portion.before.segment))
                self._fault("unlinked")
            if portion.gone:
                self._readers.pop(portion.source).close()
                self._places.pop(portion.source, None)
                self._remove(reader.directory)
                self._fault("removed")

    def _remove(self, path: Path) -> None:
        """Take away what is in the ledger; where that fails it is tried again later, and nothing waits for it."""
        try:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except FileNotFoundError:
            pass  # somebody else was quicker
        except OSError as error:
            self._leftovers.add(path)
            self.figures.troubles.begin(Trouble.SPOOL_UNWRITABLE, f"{path.name}: {error.strerror or error}")

    def _remove_leftovers(self) -> None:
        leftovers, self._leftovers = self._leftovers, set()
        for path in leftovers:
            self._remove(path)
        if not self._leftovers:
            self.figures.troubles.end(Trouble.SPOOL_UNWRITABLE)


async def _grow(tx: Transaction, zone: str, edge: Edge, leaves: Sequence[bytes]) -> None:
    """Append leaf hashes to a zone's tree, in memory and in the table."""
    first = edge.size
    above: dict[int, tuple[int, list[bytes]]] = {}
    for tile in edge.extend(leaves):
        above.setdefault(tile.level + 1, (tile.number, []))[1].append(tile.root)
    await put_run(tx, zone, 0, first, leaves)
    for level, (start, roots) in above.items():
        await put_run(tx, zone, level, start, roots)
