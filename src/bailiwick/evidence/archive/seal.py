"""Sealing: windows whose time has come go into the archive, and a signed manifest says so.

For each window of a zone, oldest first:

    1  a part is written from the rows, each row held against the tree, and read back and held against it again
    2  the part is put into the local store, then noted           } until the window's rows are through
    3  the manifest is signed and put beside the parts
    4  one transaction makes manifest and parts count, and records the event
    5  parts and manifest are copied to the remote store

Whatever dies between two of these, the next run goes on: parts that were noted are kept, one that was only put is put
again under the same name or lies about unnamed, a manifest that nobody committed is taken up or replaced. A run is
bounded in bytes and time and goes on where the last one stopped. Rows that come late to a sealed window go into parts
of their own under a further version of its manifest.

Nothing is removed here. A window that does not hold (rows missing, or not those of the tree) is not sealed: that is
an alert, and its rows stay.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.exc import IntegrityError

from bailiwick.evidence import codes
from bailiwick.evidence.archive import parquet
from bailiwick.evidence.archive.covering import CannotSeal, head_over, refuse_gaps
from bailiwick.evidence.archive.lives import lives_of, lock_zone
from bailiwick.evidence.archive.manifest import MOST_PARTS, Manifest, ManifestError, Part, open_manifest, sha256_of
from bailiwick.evidence.archive.parquet import Row
from bailiwick.evidence.archive.places import Places
from bailiwick.evidence.archive.proof import Unproven, check_leaves
from bailiwick.evidence.archive.store import (
    Digest,
    ObjectMissing,
    ObjectTaken,
    digest_of,
    digest_of_bytes,
    make_private,
)
from bailiwick.evidence.archive.tiers import manifest_name, replicate
from bailiwick.evidence.archive.windows import Window, windows_between
from bailiwick.evidence.events import Context, Recorder, Subject, leaf_hash, rfc3339
from bailiwick.evidence.ledger import HeadSigner, NoLedgerKey, ledger_keys
from bailiwick.evidence.stored import COLUMNS, body_from
from bailiwick.evidence.tree import MissingHashes, read_hashes
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.crypto import SealError
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import BailiwickError
from bailiwick_verify.note import VerifierKey

log = structlog.get_logger(__name__)

_FETCH = 5000


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much one run does at most: bytes of events and seconds; of one part, which is worked on in memory, ``rows``
    events and ``part_bytes`` of them."""

    bytes: int = 10_000_000_000
    seconds: float = 7200.0
    rows: int = parquet.ROWS
    part_bytes: int = 128_000_000


@dataclass(slots=True)
class Sealing:
    """What a run did. ``more``: it stopped at its bounds. ``failed``: windows not sealed, by ``zone window``."""

    windows: int = 0
    events: int = 0
    read: int = 0
    stored: int = 0
    late: int = 0
    more: bool = False
    failed: dict[str, str] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values, for the history of the job."""
        return {
            "windows": self.windows,
            "events": self.events,
            "bytes_read": self.read,
            "bytes_stored": self.stored,
            "late_events": self.late,
            "more": self.more,
            "failed": self.failed or {},
        }


class SealFailed(Exception):
    """Some windows could not be sealed; the rest were."""


class _Enough(Exception):
    """The run's bounds are reached."""


class Archivist:
    """Seals windows into ``places``. ``observe(zone, age_s)`` is told how long the oldest unsealed window is overdue;
    ``fault`` is called with the name of every step; the tests die there."""

    def __init__(
        self,
        database: Database,
        places: Places,
        signer: HeadSigner,
        recorder: Recorder,
        clock: Clock,
        *,
        bounds: Bounds = Bounds(),
        observe: Callable[[str, float], None] = lambda zone, age_s: None,
        fault: Callable[[str], None] = lambda step: None,
    ) -> None:
        self._database = database
        self._places = places
        self._signer = signer
        self._recorder = recorder
        self._clock = clock
        self._bounds = bounds
        self._observe = observe
        self._fault = fault

    async def run(self, zone: str | None = None, *, only: Window | None = None) -> Sealing:
        """Seal what is due, in every zone or one; then copy to the remote store what is not there yet.

        Raises :class:`SealFailed` after the rest was done when a window failed, ``Unavailable`` without a database.
        """
        run = _Run(self, Sealing())
        async with self._database.begin() as tx:
            zones = [row["name"] for row in await tx.all("SELECT name FROM zones ORDER BY name")]
        for name in zones if zone is None else [zone]:
            try:
                await run.zone(name)
            except _Enough:
                run.done.more = True
                break
        if run.done.failed:
            raise SealFailed("; ".join(f"{what}: {why}" for what, why in run.done.failed.items()))
        return run.done


class _Run:
    """One run over the zones."""

    def __init__(self, sealer: Archivist, done: Sealing) -> None:
        self._s = sealer
        self.done = done
        self._began = sealer._clock.monotonic()

    async def zone(self, zone: str) -> None:
        """Seal what is due in a zone, oldest window first, since each manifest names the one before."""
        s, database, now = self._s, self._s._database, self._s._clock.now()
        async with database.begin() as tx:
            lives, _ = await lives_of(tx, zone)
            due_until = now - timedelta(days=lives.seal_days)
            first = await _first_unsealed(tx, zone)
        window: Window | None = None
        try:
            await self._late(zone, first)
            for window in windows_between(first, due_until) if first is not None else ():
                await self._window(zone, window)
                self.done.windows += 1
            window = None
            await replicate(s._database, s._places, zone, self._within_bounds, s._fault)
        except (CannotSeal, Unproven, parquet.PartError, NoLedgerKey, SealError, BailiwickError, OSError) as error:
            what = f"{zone} {window}" if window else zone
            log.error("archive window could not be sealed", zone=zone, window=str(window or ""), why=str(error))
            self.done.failed = {**(self.done.failed or {}), what: str(error)}
        finally:
            async with database.begin() as tx:
                waiting = await _first_unsealed(tx, zone)
            overdue = (due_until - waiting.end).total_seconds() if waiting is not None else 0.0
            self._s._observe(zone, max(0.0, overdue))

    # --- one window

    async def _late(self, zone: str, first_unsealed: Window | None) -> None:
        """Rows that came to windows that are sealed already."""
        if first_unsealed is None:
            return
        async with self._s._database.begin() as tx:
            # up to the first position that no part has nothing can be late
            base = await tx.value(
                "SELECT min(last_seq) + 1 FROM ledger.archive_objects o WHERE zone = :zone AND version IS NOT NULL"
                " AND void_at IS NULL AND NOT EXISTS (SELECT FROM ledger.archive_objects n WHERE n.zone = o.zone"
                "  AND n.version IS NOT NULL AND n.void_at IS NULL AND n.first_seq = o.last_seq + 1)",
                zone=zone,
            )
            rows = await tx.all(
                "WITH late AS (SELECT seq, date_bin('12 hours', recorded_at, '2000-01-01 00:00:00+00') AS start"
                "  FROM ledger.events WHERE zone = :zone AND seq >= :base AND recorded_at < :until)"
                " SELECT DISTINCT start FROM late l WHERE NOT EXISTS (SELECT FROM ledger.archive_objects o"
                "  WHERE o.zone = :zone AND o.window_start = l.start AND o.version IS NOT NULL AND o.void_at IS NULL"
                "  AND l.seq BETWEEN o.first_seq AND o.last_seq) AND EXISTS (SELECT FROM ledger.archives a"
                "  WHERE a.zone = :zone AND a.window_start = l.start)",
                zone=zone,
                base=base or 0,
                until=first_unsealed.start,
            )
        for row in rows:
            before = self.done.events
            await self._window(zone, Window(row["start"]))
            self.done.late += self.done.events - before
            log.warning("late events sealed", zone=zone, window=str(Window(row["start"])))

    async def _window(self, zone: str, window: Window) -> None:
        while True:
            noted = await self._noted(zone, window)
            complete = await self._parts(zone, window, noted)
            await self._finish(zone, window)
            if complete:
                return

    async def _noted(self, zone: str, window: Window) -> int:
        """How many parts an earlier run left for the next manifest; those that are not there any more are void."""
        async with self._s._database.begin() as tx:
            rows = await tx.all(
                "SELECT name, size, sha256 FROM ledger.archive_objects WHERE zone = :zone AND window_start = :start"
                " AND version IS NULL AND void_at IS NULL",
                zone=zone,
                start=window.start,
            )
        good = 0
        for row in rows:
            try:
                there = await self._s._places.local.digest(row["name"]) == Digest(row["size"], bytes(row["sha256"]))
            except ObjectMissing:
                there = False
            if there:
                good += 1
                continue
            async with self._s._database.begin() as tx:
                await tx.run(
                    "UPDATE ledger.archive_objects SET void_at = now() WHERE zone = :zone AND name = :name",
                    zone=zone,
                    name=row["name"],
                )
        return good

    async def _parts(self, zone: str, window: Window, count: int) -> bool:
        """Write parts from the rows that no part holds; False when the manifest is full before they are through."""
        work = self._s._places.work
        await asyncio.to_thread(make_private, work)
        lines = work / f"{zone}-{window.start:%Y%m%dT%H}.ndjson"
        try:
            after = -1
            while count < MOST_PARTS:
                self._within_bounds()
                if not await self._lines(zone, window, after, lines):
                    return True
                after = await self._part(zone, window, lines)
                count += 1
        finally:
            await asyncio.to_thread(lines.unlink, missing_ok=True)
        return False

    def _within_bounds(self) -> None:
        took = self._s._clock.monotonic() - self._began
        if self.done.read >= self._s._bounds.bytes or took >= self._s._bounds.seconds:
            raise _Enough

    async def _lines(self, zone: str, window: Window, after: int, target: Path) -> int:
        """Write the next unbroken run of rows of the window as lines, each row held against the tree."""
        count, expected, until = 0, None, self.done.read + self._s._bounds.part_bytes
        with target.open("wb") as stream:
            async with self._s._database.begin() as tx:
                async for rows in _rows_without_part(tx, zone, window, after):
                    if count and rows[0].seq != expected:
                        break
                    leaves = await self._tree(tx, zone, rows[0].seq, rows[-1].seq + 1)
                    for row in rows:
                        full = count >= self._s._bounds.rows or self.done.read >= until
                        if full or (expected is not None and row.seq != expected):
                            return count
                        leaf = leaves[row.seq - rows[0].seq]
                        if leaf_hash(row.body) != leaf:
                            raise CannotSeal(f"event {row.seq} is not the one that was recorded in its place")
                        stream.write(row.line(leaf))
                        self.done.read += len(row.body)
                        count, expected = count + 1, row.seq + 1
        return count

    async def _tree(self, tx: Transaction, zone: str, first: int, end: int) -> list[bytes]:
        try:
            return await read_hashes(tx, zone, 0, first, end)
        except MissingHashes as error:
            raise CannotSeal(str(error)) from error

    async def _part(self, zone: str, window: Window, lines: Path) -> int:
        s = self._s
        made = lines.with_suffix(".parquet")
        try:
            written = await asyncio.to_thread(parquet.write, lines, made)
            self._s._fault("written")
            await check_leaves(s._database, zone, made, written.first_seq, written.last_seq)
            digest = await asyncio.to_thread(digest_of, made)
            stem = f"events-{written.first_seq}-{written.last_seq}-{digest.sha256.hex()[:16]}"
            name = f"{zone}/{window.folder}/{stem}.parquet"
            await s._places.local.put(name, made, digest)
            s._fault("put")
        finally:
            await asyncio.to_thread(made.unlink, missing_ok=True)
        async with s._database.begin() as tx:
            await tx.run(
                "INSERT INTO ledger.archive_objects AS o (zone, name, window_start, first_seq, last_seq, first_at,"
                " last_at, events, size, sha256) VALUES (:zone, :name, :start, :first, :last, :first_at, :last_at,"
                " :events, :size, :sha256) ON CONFLICT (zone, name) DO UPDATE SET void_at = NULL"
                " WHERE o.version IS NULL",
                zone=zone,
                name=name,
                start=window.start,
                first=written.first_seq,
                last=written.last_seq,
                first_at=written.first_at,
                last_at=written.last_at,
                events=written.events,
                size=digest.size,
                sha256=digest.sha256,
            )
        s._fault("noted")
        self.done.events += written.events
        self.done.stored += digest.size
        return written.last_seq

    # --- its manifest

    async def _finish(self, zone: str, window: Window) -> None:
        """Sign the manifest over the parts noted and make them count."""
        s = self._s
        async with s._database.begin() as tx:
            last = await tx.one(
                "SELECT ordinal, sha256, tree_size FROM ledger.archives WHERE zone = :zone"
                " ORDER BY ordinal DESC LIMIT 1",
                zone=zone,
            )
            version = 1 + await tx.value(
                "SELECT count(*) FROM ledger.archives WHERE zone = :zone AND window_start = :start",
                zone=zone,
                start=window.start,
            )
            parts = await tx.all(
                "SELECT name, first_seq, last_seq, first_at, last_at, events, size, sha256 FROM ledger.archive_objects"
                " WHERE zone = :zone AND window_start = :start AND version IS NULL AND void_at IS NULL"
                " ORDER BY first_seq LIMIT :most",
                zone=zone,
                start=window.start,
                most=MOST_PARTS,
            )
            if not parts and version > 1:
                return
            before = int(last["tree_size"]) if last is not None else 0
            size = max([before, *(row["last_seq"] + 1 for row in parts)])
            await refuse_gaps(tx, zone, before, size)
            keys = list((await ledger_keys(tx, zone)).values())
            head = await head_over(tx, zone, before, size, keys, s._signer, s._clock)
        listed = tuple(
            Part(
                row["events"],
                row["first_seq"],
                rfc3339(row["first_at"]),
                row["last_seq"],
                rfc3339(row["last_at"]),
                row["name"],
                bytes(row["sha256"]).hex(),
                row["size"],
            )
            for row in parts
        )
        manifest = Manifest(
            checkpoint=head.note.decode(),
            events=sum(part.events for part in listed),
            first=listed[0].first if listed else None,
            last=listed[-1].last if listed else None,
            ordinal=int(last["ordinal"]) + 1 if last is not None else 0,
            parts=listed,
            previous=bytes(last["sha256"]).hex() if last is not None else "",
            root=head.root.hex(),
            sealed_at=rfc3339(s._clock.now()),
            simulated_clock=s._clock.simulated,
            tree_size=size,
            version=version,
            window_end=rfc3339(window.end),
            window_start=rfc3339(window.start),
            zone=zone,
        )
        _, signer = await s._signer.signer(zone)
        s._fault("signed")
        note = await self._put_manifest(window, manifest, manifest.signed(signer), keys)
        s._fault("manifest")
        await self._commit(zone, window, open_manifest(note, keys), note)
        s._fault("committed")
        await self._tidy(zone, window)

    async def _tidy(self, zone: str, window: Window) -> None:
        """Remove what runs that died left beside the objects of a window."""
        async with self._s._database.begin() as tx:
            parts = await tx.all(
                "SELECT name FROM ledger.archive_objects WHERE zone = :zone AND window_start = :start"
                " AND void_at IS NULL",
                zone=zone,
                start=window.start,
            )
            versions = await tx.all(
                "SELECT version FROM ledger.archives WHERE zone = :zone AND window_start = :start",
                zone=zone,
                start=window.start,
            )
        known = {row["name"] for row in parts} | {manifest_name(zone, window, row["version"]) for row in versions}
        await self._s._places.local.tidy(f"{zone}/{window.folder}", known)

    async def _put_manifest(
        self, window: Window, manifest: Manifest, note: bytes, keys: Sequence[VerifierKey]
    ) -> bytes:
        """Put a manifest beside its parts; the note that stands there afterwards, perhaps that of a run that died."""
        local, name = self._s._places.local, manifest_name(manifest.zone, window, manifest.version)
        file = self._s._places.work / f"{manifest.zone}.note"
        await asyncio.to_thread(file.write_bytes, note)
        try:
            try:
                await local.put(name, file, digest_of_bytes(note))
            except ObjectTaken:
                there = await asyncio.to_thread(local.path(name).read_bytes)
                try:
                    if open_manifest(there, keys).agrees_with(manifest):
                        return there
                except ManifestError:
                    pass
                await local.put(name, file, digest_of_bytes(note), replace=True)
        finally:
            await asyncio.to_thread(file.unlink, missing_ok=True)
        return note

    async def _commit(self, zone: str, window: Window, manifest: Manifest, note: bytes) -> None:
        s = self._s
        try:
            async with s._database.begin() as tx:
                await lock_zone(tx, zone)
                await tx.run(
                    "INSERT INTO ledger.archives (zone, ordinal, window_start, version, first_seq, last_seq, events,"
                    " tree_size, root, note, sha256, sealed_at) VALUES (:zone, :ordinal, :start, :version, :first,"
                    " :last, :events, :tree_size, :root, :note, :sha256, :sealed_at)",
                    zone=zone,
                    ordinal=manifest.ordinal,
                    start=window.start,
                    version=manifest.version,
                    first=manifest.first,
                    last=manifest.last,
                    events=manifest.events,
                    tree_size=manifest.tree_size,
                    root=bytes.fromhex(manifest.root),
                    note=note,
                    sha256=sha256_of(note),
                    sealed_at=datetime.fromisoformat(manifest.sealed_at),
                )
                counted = await tx.run(
                    "UPDATE ledger.archive_objects SET version = :version WHERE zone = :zone AND name = ANY(:names)"
                    " AND version IS NULL AND void_at IS NULL",
                    version=manifest.version,
                    zone=zone,
                    names=[part.name for part in manifest.parts],
                )
                if counted != len(manifest.parts):
                    raise CannotSeal("the parts of the manifest are not those that were noted")
                await s._recorder.record(
                    tx,
                    codes.ARCHIVE_SEALED,
                    "success",
                    Context(zone),
                    subject=Subject(id=str(window), type="archive"),
                    manifest=sha256_of(note).hex(),
                    version=manifest.version,
                    events=manifest.events,
                    objects=len(manifest.parts),
                    bytes=sum(part.size for part in manifest.parts),
                )
        except IntegrityError as error:
            raise CannotSeal("another process sealed at the same time") from error


async def _first_unsealed(tx: Transaction, zone: str) -> Window | None:
    """The window after the newest sealed one; before any was, the first the zone can have events in."""
    newest = await tx.value("SELECT max(window_start) FROM ledger.archives WHERE zone = :zone", zone=zone)
    if newest is not None:
        return Window(newest).following
    first = await tx.one(
        "SELECT least((SELECT created_at FROM zones WHERE name = :zone),"
        " (SELECT min(recorded_at) FROM ledger.events WHERE zone = :zone)) AS at",
        zone=zone,
    )
    return Window.holding(first["at"].astimezone(UTC)) if first is not None and first["at"] is not None else None


async def _rows_without_part(tx: Transaction, zone: str, window: Window, after: int) -> AsyncIterator[list[Row]]:
    """The rows of a window that no part holds, in order."""
    connection = tx.driver
    async with connection.cursor(name="archive_rows", binary=True) as cursor:
        await cursor.execute(
            f"SELECT seq, recorded_at, {COLUMNS} FROM ledger.events e WHERE zone = %s AND seq > %s"  # noqa: S608
            " AND recorded_at >= %s AND recorded_at < %s AND NOT EXISTS (SELECT FROM ledger.archive_objects o"
            " WHERE o.zone = e.zone AND o.window_start = %s AND o.void_at IS NULL"
            " AND e.seq BETWEEN o.first_seq AND o.last_seq) ORDER BY seq",
            (zone, after, window.start, window.end, window.start),
        )
        while rows := await cursor.fetchmany(_FETCH):
            yield [Row(row[0], row[1], body_from(*row[2:])) for row in rows]  # type: ignore[arg-type]
