"""A ledger whose clock is in the past, its archive in a folder, and what a test does to both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from ledger_world import World

from bailiwick.evidence.archive.places import Places
from bailiwick.evidence.archive.reader import ColdEvents
from bailiwick.evidence.archive.seal import Archivist, Bounds
from bailiwick.evidence.archive.store import FolderStore, ObjectStore
from bailiwick.evidence.archive.windows import Window
from bailiwick.evidence.stored import COLUMNS, body_from
from bailiwick.kernel.clock import FakeClock

START = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
ARCHIVE_TABLES = (
    "archives", "archive_objects", "archive_lives", "dropped_partitions", "restores", "holds", "tombstones",
)  # fmt: skip


class Died(BaseException):
    """The process ends at this step."""


class ArchiveWorld(World):
    """``clock`` is a fake one that starts on Monday 2026-01-05, 09:00; zones are as old as that."""

    clock: FakeClock

    @classmethod
    async def begin(cls, url: str, root: Path) -> ArchiveWorld:
        from databases import empty  # as in World.make

        made = await World.make(url, root)
        await made.close()
        world = cls(url, root, FakeClock(START))
        with psycopg.connect(url, autocommit=True) as connection:
            empty(connection, *("ledger." + name for name in ARCHIVE_TABLES))
        world.do("UPDATE bailiwick.zones SET created_at = %s", START)
        world.remote = None
        return world

    remote: ObjectStore | None = None

    @property
    def places(self) -> Places:
        return Places(FolderStore(self.root / "archive"), self.remote, self.root / "archive" / ".work")

    @property
    def cold(self) -> ColdEvents:
        places = self.places
        return ColdEvents(self.database, places.local, places.remote, places.cache)

    def archivist(self, *, fault: Callable[[str], None] = lambda step: None, **bounds: Any) -> Archivist:
        return Archivist(
            self.database, self.places, self.keys, self.recorder, self.clock, bounds=Bounds(**bounds), fault=fault
        )

    async def day(self, *counts: int, zone: str = "default", **more: Any) -> None:
        """So many events in each of the windows that follow, and past the last one."""
        for count in counts:
            if count:
                await self.filled(count, zone=zone, **more)
            self.clock.advance(12 * 3600)
        await self.sequence()

    async def sequence(self) -> None:
        """Put what waits in the outbox into the ledger and sign for every zone."""
        sequencer = self.sequencer()
        await sequencer.drain()
        sequencer.close()

    def wait(self, **how_long: float) -> None:
        self.clock.advance(timedelta(**how_long).total_seconds())

    def bodies(self, zone: str = "default") -> dict[int, bytes]:
        """The events in the table by position."""
        rows = self.rows(f"SELECT seq, {COLUMNS} FROM ledger.events WHERE zone = %s ORDER BY seq", zone)
        return {row[0]: body_from(*row[1:]) for row in rows}

    async def archived(self, zone: str = "default") -> dict[int, bytes]:
        """The events in the archive by position, as rebuilt."""
        return {
            row.seq: row.body
            for window in await self.cold.list_windows(zone, None, None, include_hot=True)
            for part in window.objects
            async for row in self.cold.rows(part)
        }

    def objects(self, suffix: str = ".parquet") -> list[Path]:
        return sorted(path for path in (self.root / "archive").rglob(f"*{suffix}") if ".work" not in path.parts)

    def late(self, recorded_at: datetime, count: int = 1, zone: str = "default") -> Sequence[str]:
        """Move the newest events of a zone to an earlier time of recording, as a clock that was wrong would have."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(
                "SELECT ledger.ensure_partitions(%s, %s)", (recorded_at, recorded_at + timedelta(hours=1))
            )
            rows = connection.execute(
                "UPDATE ledger.events SET recorded_at = %s WHERE zone = %s AND seq > (SELECT max(seq) - %s"
                " FROM ledger.events WHERE zone = %s) RETURNING id::text",
                (recorded_at, zone, count, zone),
            ).fetchall()
        return [row[0] for row in rows]


def window(days: float = 0) -> Window:
    """The window in which the world's clock starts, and those after it."""
    return Window.holding(START + timedelta(days=days))


__all__ = ["START", "ArchiveWorld", "Died", "window"]
