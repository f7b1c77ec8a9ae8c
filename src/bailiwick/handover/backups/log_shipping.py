"""The write-ahead log, streamed to this machine as it is written and stored segment by segment.

``pg_receivewal`` reads the log through a replication slot, which keeps on the server what was not read yet; so nothing
has to be configured there, and nothing is lost while this process is away. Segments that are complete are zipped,
stored under a name with their SHA-256, and removed here. Where the newest work has waited for too long in a segment
that is not full, a new one is begun: that bounds what a loss of the machine costs (the RPO).

What is told as *covered* is proven by places in the log: everything committed by then lies in the store. A published
head of a ledger is stored once the log that its events are in is: a restore to the end never falls behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import shutil
import signal
import subprocess
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog

from bailiwick.evidence.archive.store import ObjectStore, digest_of, digest_of_bytes
from bailiwick.handover.backups.segments import HISTORY, SEGMENT, Segment, lsn, object_name
from bailiwick.handover.backups.server import Server
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database
from bailiwick.kernel.errors import BailiwickError, Unavailable
from bailiwick.kernel.metrics import Metrics
from bailiwick.kernel.processes import Child, run_to_end

SLOT = "bailiwick_backup"
_REMOVED = "has already been removed"
_MARKS = 10_000

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Mark:
    """At ``at`` the log was durable up to ``place``, and ``heads`` were published."""

    at: datetime
    place: int
    heads: Mapping[str, bytes]


class LogShipping:
    """Runs beside the work of this machine. ``folder``: where segments come in; nobody else writes there.

    ``switch_s``: how long work may wait for its segment to be full; ``poll_s``: how often segments are looked for.
    """

    def __init__(
        self,
        server: Server,
        store: ObjectStore,
        database: Database,
        clock: Clock,
        metrics: Metrics,
        folder: Path,
        heads: Path,
        *,
        switch_s: float = 240.0,
        poll_s: float = 5.0,
    ) -> None:
        self._server = server
        self._store = store
        self._database = database
        self._clock = clock
        self._metrics = metrics
        self._folder = folder
        self._heads = heads
        self._switch_s = switch_s
        self._poll_s = poll_s
        self._marks: deque[_Mark] = deque(maxlen=_MARKS)
        self._stored_heads: dict[str, bytes] = {}
        self._stored_until = 0
        self._covered: datetime | None = None
        self._segment_bytes = 0

    async def run(self) -> None:
        """Receive and store until cancelled."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        receiving = asyncio.create_task(self._receive())
        try:
            while True:
                trouble = ""
                try:
                    await self.ship()
                except (BailiwickError, OSError) as error:
                    trouble = getattr(error, "detail", "") or str(error)
                    log.warning("log for backups is not stored", error=trouble)
                with contextlib.suppress(Unavailable):
                    await self._tell(trouble)
                await asyncio.sleep(self._poll_s)
        finally:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)

    async def ship(self) -> int:
        """Store what is complete; how many files were. Raises :class:`Unavailable`, ``ObjectTaken`` and OSError."""
        if not self._segment_bytes:
            self._segment_bytes = (await self._server.facts()).segment_bytes
        # in this order: what the heads cover was committed before they were read, and so lies before that place
        heads, now = await asyncio.to_thread(self._read_heads), self._clock.now()
        flushed = lsn(await self._server.flushed())
        if flushed <= self._stored_until:
            self._covered = now  # nothing was written since
        elif not self._marks or self._marks[-1].place < flushed:
            self._marks.append(_Mark(now, flushed, heads))
        count = 0
        for path in sorted(self._folder.iterdir()):
            if SEGMENT.fullmatch(path.name) or HISTORY.fullmatch(path.name):
                await self._store_one(path)
                count += 1
        while self._marks and self._marks[0].place <= self._stored_until:
            mark = self._marks.popleft()
            self._covered = mark.at
            if not self._marks or self._marks[0].place > self._stored_until:
                await self._store_heads(mark.heads)
        if self._marks and (now - self._marks[0].at).total_seconds() >= self._switch_s:
            await self._server.switch()
        return count

    def _read_heads(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self._heads.glob("*.head"))}

    async def _store_heads(self, heads: Mapping[str, bytes]) -> None:
        for name, note in heads.items():
            if self._stored_heads.get(name) == note:
                continue
            path = self._folder / ".head"
            path.write_bytes(note)
            await self._store.put(f"heads/{name}", path, digest_of_bytes(note), replace=True)
            self._stored_heads[name] = note

    async def _store_one(self, path: Path) -> None:
        zipped = path.with_name(f".{path.name}.gz")
        try:
            await asyncio.to_thread(_zip, path, zipped)
            digest = await asyncio.to_thread(digest_of, zipped)
            await self._store.put(object_name(path.name, digest.sha256.hex()), zipped, digest)
        finally:
            zipped.unlink(missing_ok=True)
        if SEGMENT.fullmatch(path.name):
            end = Segment.named(path.name, self._segment_bytes).end(self._segment_bytes)
            self._stored_until = max(self._stored_until, end)
        await asyncio.to_thread(path.unlink)

    async def _tell(self, trouble: str) -> None:
        if self._covered is not None:
            self._metrics.backup_log_age.set(max(0.0, (self._clock.now() - self._covered).total_seconds()))
        async with self._database.begin() as tx:
            await tx.run(
                "INSERT INTO backup_log (place, covered_until, stored_at, trouble)"
                " VALUES (:place, :until, :now, :trouble)"
                " ON CONFLICT (place) DO UPDATE SET trouble = excluded.trouble, stored_at = excluded.stored_at,"
                " covered_until = greatest(backup_log.covered_until, excluded.covered_until)",
                place=self._store.place,
                until=self._covered,
                now=self._clock.now(),
                trouble=trouble[:500],
            )
            # made by whatever process: a command's own figures nobody scrapes
            row = await tx.one(
                "SELECT (SELECT max(finished_at) FROM backups WHERE state = 'complete') AS backup, (SELECT"
                " max(finished_at) FROM backup_drills WHERE kind = 'restore' AND verdict = 'PASS') AS drill"
            )
        for gauge, at in ((self._metrics.backup_success, "backup"), (self._metrics.restore_drill, "drill")):
            if row is not None and row[at] is not None:
                gauge.set(row[at].timestamp())

    # ------------------------------------------------------------------ receiving

    async def _receive(self) -> None:
        """Keep ``pg_receivewal`` running. Where another machine holds the slot it ends, and is tried again."""
        pause = 0.5
        while True:
            try:
                began = self._clock.monotonic()
                told = await self._receive_once()
                if self._clock.monotonic() - began > 60:
                    pause = 0.5
                if _REMOVED in told:
                    # what is left here of an earlier life is older than what the server kept for the slot
                    for path in self._folder.glob("*.partial"):
                        path.unlink()
                log.warning("log for backups is not received", error=told[-300:])
            except OSError as error:
                log.warning("log for backups cannot be received", error=str(error))
            await asyncio.sleep(pause)
            pause = min(pause * 2, 30.0)

    async def _receive_once(self) -> str:
        slot = ["--slot", SLOT]
        await run_to_end(self._server.command("pg_receivewal", [*slot, "--create-slot", "--if-not-exists"]))
        words = self._folder / ".receivewal.log"
        arguments = [*slot, "--directory", str(self._folder), "--synchronous", "--no-loop"]
        with words.open("wb") as stderr:
            receiver = self._server.command("pg_receivewal", arguments)
            child = Child.spawn(receiver, stdout=stderr, stderr=subprocess.STDOUT)
        try:
            await child.wait()
        finally:
            await child.stop(((signal.SIGINT, 5.0),))
        return words.read_text(errors="replace").strip()


def _zip(source: Path, target: Path) -> None:
    with (
        source.open("rb") as reading,
        target.open("wb") as raw,
        gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=1, mtime=0, filename="") as writing,
    ):
        shutil.copyfileobj(reading, writing, 1 << 20)
