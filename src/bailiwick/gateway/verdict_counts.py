"""How many verdicts the gateway gave, counted beside the ledger, so that the two can be held against each other.

A worker counts in a file that it maps into its memory: an increment and nothing else on the hot path, and the operating
system keeps the file when the process is killed. The counts go to the database every few seconds, as totals by the
worker's run, so that telling them twice changes nothing; what a killed worker left is told by whichever worker of the
machine looks next. Only a machine that loses power loses counts, and then the ledger holds more than was counted, which
the reconciliation ``gateway`` tells of.
"""

from __future__ import annotations

import asyncio
import fcntl
import mmap
import struct
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

import structlog

from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import Unavailable

Counted = tuple[str, str, str]
"""The zone, the hour (``2026-01-05T09``, UTC), and ``allow`` or ``deny``."""

_KEY = 120
_SLOT = struct.Struct(f"<Q{_KEY}s")
_WORDS = _SLOT.size // 8
_SUFFIX = ".counts"
_EVERY_S = 10.0

log = structlog.get_logger(__name__)


class VerdictCounts:
    """The counts of one process. ``run`` is unlike that of any other. Raises :class:`OSError`."""

    def __init__(self, directory: Path, run: str, *, slots: int = 8192) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.run = run
        self._path = directory / (run + _SUFFIX)
        made = self._path.with_suffix(".new")
        self._file: BinaryIO = made.open("x+b")
        self._file.truncate(slots * _SLOT.size)
        fcntl.flock(self._file, fcntl.LOCK_EX)  # held as long as we live
        made.rename(self._path)  # named only now, so that nobody takes it for one that was left
        self._map = mmap.mmap(self._file.fileno(), 0)
        self._words = memoryview(self._map).cast("Q")
        self._at: dict[Counted, int] = {}
        self._free = list(range(slots - 1, 0, -1))

    def add(self, zone: str, hour: str, outcome: str) -> None:
        """One more verdict."""
        at = self._at.get((zone, hour, outcome))
        if at is None:
            at = self._begin((zone, hour, outcome))
        self._words[at] += 1

    def totals(self) -> dict[Counted, int]:
        """What was counted."""
        return {counted: self._words[at] for counted, at in self._at.items() if at}

    def forget(self, before: str) -> None:
        """Let go of hours before ``before``, which are kept elsewhere."""
        for counted in [each for each in self._at if each[1] < before]:
            number = self._at.pop(counted) // _WORDS
            if number:
                _SLOT.pack_into(self._map, number * _SLOT.size, 0, b"")
                self._free.append(number)

    def close(self, *, kept: bool) -> None:
        """Stop counting; ``kept``: everything is in the database, so that nothing needs to be left."""
        self._words.release()
        self._map.close()
        if kept:
            self._path.unlink(missing_ok=True)
        self._file.close()

    def _begin(self, counted: Counted) -> int:
        key = "\0".join(counted).encode()
        number = self._free.pop() if self._free and len(key) <= _KEY else 0
        if number:
            _SLOT.pack_into(self._map, number * _SLOT.size, 0, key)
        else:  # the first slot has no key: what has no room is counted nowhere, and found by the reconciliation
            log.error("no room to count verdicts", zone=counted[0])
        self._at[counted] = number * _WORDS
        return number * _WORDS


def left_behind(directory: Path) -> Iterator[tuple[Path, Mapping[Counted, int]]]:
    """The files of processes that are gone, with what they counted. Remove each once it is kept."""
    for path in sorted(directory.glob("*" + _SUFFIX)):
        try:
            with path.open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield path, _read(file.read())
        except (BlockingIOError, FileNotFoundError):
            continue  # its process lives, or somebody else was first


def _read(text: bytes) -> dict[Counted, int]:
    found: dict[Counted, int] = {}
    for count, key in _SLOT.iter_unpack(text[: len(text) // _SLOT.size * _SLOT.size]):
        parts = key.rstrip(b"\0").decode("utf-8", "replace").split("\0")
        if len(parts) == 3 and count:
            found[parts[0], parts[1], parts[2]] = count
    return found


async def keep(tx: Transaction, run: str, totals: Mapping[Counted, int]) -> None:
    """Keep the totals of a run; a total only grows."""
    for (zone, hour, outcome), count in totals.items():
        await tx.run(
            "INSERT INTO gateway_counts (zone, hour, outcome, run, verdicts) VALUES (:zone, :hour, :outcome, :run,"
            " :count) ON CONFLICT (zone, hour, outcome, run) DO UPDATE"
            " SET verdicts = greatest(gateway_counts.verdicts, excluded.verdicts)",
            zone=zone,
            hour=datetime.fromisoformat(f"{hour}:00:00+00:00"),
            outcome=outcome,
            run=run,
            count=count,
        )


class CountKeeper:
    """Carries the counts of a worker, and those that dead ones left beside it, to the database."""

    def __init__(self, database: Database, clock: Clock, counts: VerdictCounts, directory: Path) -> None:
        self._database = database
        self._clock = clock
        self._counts = counts
        self._directory = directory
        self._told: Mapping[Counted, int] = {}

    async def run(self) -> None:
        """Carry them every few seconds, until cancelled."""
        while True:
            try:
                await self.carry()
            except (Unavailable, OSError) as error:
                log.warning("verdict counts wait in their file", error=str(error))
            await asyncio.sleep(_EVERY_S)

    async def carry(self) -> None:
        """Carry what there is now. Raises ``Unavailable``."""
        totals = self._counts.totals()
        changed = {counted: count for counted, count in totals.items() if self._told.get(counted) != count}
        if changed:
            async with self._database.begin() as tx:
                await keep(tx, self._counts.run, changed)
        self._told = totals
        last = self._clock.now().astimezone(UTC) - timedelta(hours=1)
        self._counts.forget(last.strftime("%Y-%m-%dT%H"))
        for path, left in left_behind(self._directory):
            async with self._database.begin() as tx:
                await keep(tx, path.stem, left)
            path.unlink(missing_ok=True)

    async def close(self) -> None:
        """Carry the last of them; what cannot be carried stays in its file for who comes next."""
        try:
            await self.carry()
            self._counts.close(kept=True)
        except (Unavailable, OSError):
            self._counts.close(kept=False)
