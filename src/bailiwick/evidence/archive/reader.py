"""Reading what was sealed: which windows there are, their parts as local files, their events by SQL.

A search over old evidence asks :meth:`ColdEvents.list_windows`, fetches with :meth:`ColdEvents.paths` (objects that are
only in the bucket are copied into a cache, and every file is held against its manifest's SHA-256), and queries
:meth:`ColdEvents.duckdb_relation`, whose columns are those of ``ledger.events``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from uuid import UUID

import duckdb

from bailiwick.evidence.archive import parquet
from bailiwick.evidence.archive.parquet import Row
from bailiwick.evidence.archive.store import Digest, FolderStore, ObjectMissing, ObjectStore, digest_of, make_private
from bailiwick.evidence.archive.windows import Window
from bailiwick.evidence.stored import read_bodies
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.db import Row as DatabaseRow
from bailiwick.kernel.errors import BailiwickError, Conflict
from bailiwick.kernel.ids import made_at

CACHE_BYTES = 5_000_000_000
_OBJECTS = (
    "SELECT zone, name, window_start, version, first_seq, last_seq, first_at, last_at, events, size, sha256, local,"
    " remote FROM ledger.archive_objects WHERE zone = :zone AND version IS NOT NULL AND void_at IS NULL"
    " AND NOT EXISTS (SELECT FROM ledger.tombstones t WHERE t.zone = archive_objects.zone"
    " AND t.window_start = archive_objects.window_start)"
)


@dataclass(frozen=True, slots=True)
class ColdObject:
    """One sealed part: a run of positions ``first_seq`` to ``last_seq``, none missing."""

    zone: str
    name: str
    window_start: datetime
    version: int
    first_seq: int
    last_seq: int
    first_at: datetime
    last_at: datetime
    events: int
    digest: Digest
    local: bool
    remote: bool


@dataclass(frozen=True, slots=True)
class ColdWindow:
    """Twelve hours of a zone (by the time of recording) that are sealed and not purged.

    ``hot``: its rows stand in ``ledger.events`` too, so that whoever reads both must not count them twice.
    """

    zone: str
    start: datetime
    objects: tuple[ColdObject, ...]
    hot: bool

    @property
    def events(self) -> int:
        """How many there are."""
        return sum(part.events for part in self.objects)


class ColdDamaged(Exception):
    """An object is missing or is not what its manifest says. ``name`` is which, the text says why."""

    def __init__(self, part: ColdObject, why: str) -> None:
        self.part = part
        super().__init__(f"{part.name}: {why}")


class ColdEvents:
    """Sealed evidence. ``local`` is this machine's folder, ``remote`` the object storage if there is one; ``cache``
    holds what was fetched from there and may be emptied at any time."""

    def __init__(
        self, database: Database, local: FolderStore, remote: ObjectStore | None = None, cache: Path | None = None
    ) -> None:
        self._database = database
        self.local = local
        self.remote = remote
        self.cache = cache if cache is not None else local.root / ".cache"
        self._seen: dict[Path, tuple[int, int, int, bytes]] = {}

    async def list_windows(
        self, zone: str, since: datetime | None, until: datetime | None, *, include_hot: bool = False
    ) -> list[ColdWindow]:
        """The sealed windows with events whose own time lies in ``since`` (inclusive) to ``until`` (exclusive).

        Oldest first. Windows whose rows are in the hot table are left out unless ``include_hot``.
        """
        async with self._database.begin() as tx:
            rows = await tx.all(
                f"{_OBJECTS} AND (CAST(:since AS timestamptz) IS NULL OR last_at >= :since)"
                " AND (CAST(:until AS timestamptz) IS NULL OR first_at < :until) ORDER BY window_start, first_seq",
                zone=zone,
                since=since,
                until=until,
            )
            cold = await cold_windows(tx, zone)
        return [
            window for window in _grouped(zone, [_object(row) for row in rows], cold) if include_hot or not window.hot
        ]

    async def covering(self, zone: str, first: int, last: int) -> list[ColdObject]:
        """The objects that hold any of the positions ``first`` to ``last``, in order."""
        async with self._database.begin() as tx:
            rows = await tx.all(
                f"{_OBJECTS} AND last_seq >= :first AND first_seq <= :last ORDER BY first_seq",
                zone=zone,
                first=first,
                last=last,
            )
        return [_object(row) for row in rows]

    async def window(self, zone: str, window: Window) -> list[ColdObject]:
        """The objects of one window, in order."""
        async with self._database.begin() as tx:
            rows = await tx.all(
                f"{_OBJECTS} AND window_start = :start ORDER BY first_seq", zone=zone, start=window.start
            )
        return [_object(row) for row in rows]

    async def bodies(self, zone: str, first: int, end: int) -> dict[int, bytes]:
        """The exact bytes of the events ``first`` to ``end - 1`` that are sealed, by position.

        Raises ``archive_unproven`` when an object is not what was sealed, ``archive_unavailable``.
        """
        found: dict[int, bytes] = {}
        try:
            for part in await self.covering(zone, first, end - 1):
                path = await self.path(part)
                found |= await asyncio.to_thread(parquet.bodies, path, first, end)
        except (ColdDamaged, parquet.PartError) as error:
            raise Conflict(str(error), reason="archive_unproven") from error
        return found

    async def find(self, zone: str, event_id: str) -> Row | None:
        """One sealed event with its exact bytes, None when it is not sealed.

        An id tells when it was made (UUIDv7), so the windows of that time are looked through first, then what else is
        on this machine. Raises ``archive_unproven``, ``archive_unavailable``.
        """
        wanted = UUID(event_id)
        try:
            at = made_at(wanted)
        except ValueError:  # of no age of this world
            at = None
        at = at or datetime.min.replace(tzinfo=UTC) + timedelta(days=1)
        nearby = timedelta(minutes=5)
        everything = [
            part for window in await self.list_windows(zone, None, None, include_hot=True) for part in window.objects
        ]
        near = [part for part in everything if part.first_at <= at + nearby and part.last_at >= at - nearby]
        for parts in (near, [part for part in everything if part.local and part not in near]):
            try:
                paths = [await self.path(part) for part in parts]
                row = await asyncio.to_thread(parquet.find, paths, wanted) if paths else None
            except (ColdDamaged, parquet.PartError) as error:
                raise Conflict(str(error), reason="archive_unproven") from error
            if row is not None:
                return row
        return None

    async def paths(self, windows: Sequence[ColdWindow]) -> list[Path]:
        """The parts of these windows as files, each checked; raises ``archive_unproven``, ``archive_unavailable``."""
        try:
            return [await self.path(part) for window in windows for part in window.objects]
        except ColdDamaged as error:
            raise Conflict(str(error), reason="archive_unproven") from error

    async def path(self, part: ColdObject, *, fresh: bool = False) -> Path:
        """One part as a file; raises :class:`ColdDamaged`, ``archive_unavailable``.

        A file that was compared with its digest is not read again while it stays the same file; ``fresh`` reads it.
        """
        if part.local:
            path = self.local.path(part.name)
            why = await asyncio.to_thread(self._wrong, path, part.digest, fresh)
            if why is None:
                return path
            if self.remote is None or not part.remote:
                raise ColdDamaged(part, why)
        if self.remote is None:
            raise ColdDamaged(part, "it is in object storage only, and none is configured")
        cached = self.cache / f"{part.digest.sha256.hex()}.parquet"
        if await asyncio.to_thread(self._wrong, cached, part.digest, fresh) is None:
            return cached
        await asyncio.to_thread(make_private, self.cache)
        new = cached.with_suffix(".new")
        try:
            got = await self.remote.fetch(part.name, new)
        except ObjectMissing:
            raise ColdDamaged(part, "the object is missing") from None
        if got != part.digest:
            new.unlink(missing_ok=True)
            raise ColdDamaged(part, "the object is not the one in its manifest (SHA-256)")
        new.replace(cached)
        await asyncio.to_thread(_prune, self.cache, cached)
        return cached

    def _wrong(self, path: Path, digest: Digest, fresh: bool) -> str | None:
        """Why a file is not the object, None when it is."""
        try:
            status = path.stat()
            # the time of a change of the inode cannot be set back by whoever writes the file
            seen = (status.st_ino, status.st_size, status.st_ctime_ns, digest.sha256)
            if fresh or self._seen.get(path) != seen:
                self._seen.pop(path, None)
                if digest_of(path) != digest:
                    return "the object is not the one in its manifest (SHA-256)"
                self._seen[path] = seen
        except FileNotFoundError:
            return "the object is missing"
        except OSError as error:
            raise BailiwickError(f"{path} cannot be read: {error.strerror}.", reason="archive_unavailable") from error
        return None

    async def rows(self, part: ColdObject) -> AsyncIterator[Row]:
        """Every event of a part with its exact bytes; raises :class:`ColdDamaged`, ``archive_unavailable``."""
        reading = parquet.rows(await self.path(part))
        try:
            while portion := await asyncio.to_thread(_take, reading):
                for row in portion:
                    yield row
        except parquet.PartError as error:
            raise ColdDamaged(part, str(error)) from error

    @staticmethod
    def duckdb_relation(paths: Sequence[Path]) -> duckdb.DuckDBPyRelation:
        """The events of several parts with the columns ``seq, id, at, recorded_at, code, outcome, principal, server,
        request_id, decision_id, body`` as in ``ledger.events``.

        Times are UTC without a zone, ``body`` is the event's exact bytes, rebuilt only where it is asked for. The
        connection behind it reads these files alone. Raises ``duckdb.Error``.
        """
        return parquet.relation(parquet.connect(*{path.parent for path in paths}), paths)

    @staticmethod
    def open_parts(paths: Sequence[Path]) -> duckdb.DuckDBPyConnection:
        """The same as a connection of its own with the view ``cold``, for whoever writes SQL."""
        connection = parquet.connect(*{path.parent for path in paths})
        parquet.relation(connection, paths).create_view("cold")
        return connection


async def kept_bodies(tx: Transaction, cold: ColdEvents | None, zone: str, start: int, end: int) -> list[bytes]:
    """The bytes of the events ``start`` to ``end - 1`` from the table and the archive, in ledger order; fewer when some
    are not kept. Raises as :meth:`ColdEvents.bodies` does."""
    hot = await read_bodies(tx, zone, start, end)
    if cold is None or len(hot) == end - start:
        return hot
    rows = await tx.all(
        "SELECT seq FROM ledger.events WHERE zone = :zone AND seq >= :start AND seq < :end ORDER BY seq",
        zone=zone,
        start=start,
        end=end,
    )
    found = await cold.bodies(zone, start, end) | {row["seq"]: body for row, body in zip(rows, hot, strict=True)}
    return [found[seq] for seq in sorted(found)]


async def cold_windows(tx: Transaction, zone: str) -> set[datetime]:
    """The windows of ``zone`` whose partition was dropped and whose rows are not back: those that are cold only."""
    rows = await tx.all(
        "SELECT d.window_start, max(d.dropped_at) AS dropped_at FROM ledger.dropped_partitions d"
        " GROUP BY d.window_start HAVING NOT EXISTS (SELECT FROM ledger.restores r WHERE r.zone = :zone"
        "  AND r.window_start = d.window_start AND r.restored_at > max(d.dropped_at))",
        zone=zone,
    )
    return {row["window_start"] for row in rows}


def _grouped(zone: str, parts: Sequence[ColdObject], cold: set[datetime]) -> list[ColdWindow]:
    grouped: dict[datetime, list[ColdObject]] = {}
    for part in parts:
        grouped.setdefault(part.window_start, []).append(part)
    return [ColdWindow(zone, start, tuple(group), start not in cold) for start, group in grouped.items()]


def _object(values: DatabaseRow) -> ColdObject:
    return ColdObject(
        values["zone"],
        values["name"],
        values["window_start"],
        values["version"],
        values["first_seq"],
        values["last_seq"],
        values["first_at"],
        values["last_at"],
        values["events"],
        Digest(values["size"], bytes(values["sha256"])),
        values["local"],
        values["remote"],
    )


def _prune(cache: Path, newest: Path) -> None:
    """Let the files longest not fetched go while there are too many bytes of them."""
    files = sorted((path for path in cache.glob("*.parquet") if path != newest), key=lambda path: path.stat().st_mtime)
    left = sum(path.stat().st_size for path in files)
    for path in files:
        if left <= CACHE_BYTES:
            return
        left -= path.stat().st_size
        path.unlink(missing_ok=True)


def _take(reading: Iterator[Row]) -> list[Row]:
    return list(islice(reading, 2000))
