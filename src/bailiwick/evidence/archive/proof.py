"""Proving that the archive holds what it says: signatures, the chain, every object's bytes, every event's leaf hash."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from bailiwick.evidence.archive import parquet
from bailiwick.evidence.archive.manifest import Manifest, ManifestError, open_manifest, sha256_of
from bailiwick.evidence.archive.reader import ColdDamaged, ColdEvents, ColdObject
from bailiwick.evidence.archive.store import ObjectMissing, ObjectStore
from bailiwick.evidence.archive.windows import Window
from bailiwick.evidence.ledger import ledger_keys
from bailiwick.evidence.tree import MissingHashes, read_hashes, root_at
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick_verify.note import VerifierKey

MOST_FINDINGS = 50
_LEAVES = 20_000


class Unproven(Exception):
    """The archive does not hold what it says; the text says where and why."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A manifest as the table has it, opened."""

    ordinal: int
    window: Window
    manifest: Manifest
    sha256: bytes
    purged: bool


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that does not hold: which window, and a sentence."""

    window: str
    why: str


@dataclass(slots=True)
class ArchiveReport:
    """The answer of :func:`verify_archive`. ``verdict`` is PASS, FAIL, or NO_DATA where nothing is sealed.

    ``events`` were compared one by one with the tree; ``purged`` windows are gone by a tombstone.
    """

    zone: str
    verdict: Literal["PASS", "FAIL", "NO_DATA"] = "PASS"
    manifests: int = 0
    objects: int = 0
    events: int = 0
    bytes: int = 0
    purged: int = 0
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)
    findings_total: int = 0

    def add(self, window: object, why: str) -> None:
        """Note what does not hold."""
        self.findings_total += 1
        self.verdict = "FAIL"
        if len(self.findings) < MOST_FINDINGS:
            self.findings.append(Finding(str(window), why))

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {**asdict(self), "seconds": round(self.seconds, 3)}


async def check_leaves(database: Database, zone: str, part: Path, first: int, last: int) -> int:
    """Compare every event of a part, as rebuilt, with the zone's tree; how many there are.

    Raises :class:`Unproven` unless they are exactly the positions ``first`` to ``last``.
    """
    reading, expected = parquet.leaves(part), first
    try:
        while portion := await asyncio.to_thread(_take, reading):
            async with database.begin() as tx:
                hashes = await read_hashes(tx, zone, 0, expected, min(expected + len(portion), last + 1))
            for offset, (seq, leaf) in enumerate(portion):
                if seq != expected + offset or seq > last:
                    raise Unproven(f"position {expected + offset} is not where it should be")
                if leaf != hashes[offset].hex():
                    raise Unproven(f"event {seq} is not the one that the tree has there")
            expected += len(portion)
    except (parquet.PartError, MissingHashes) as error:
        raise Unproven(str(error)) from error
    if expected != last + 1:
        raise Unproven(f"events {expected} to {last} are missing")
    return expected - first


def _take(reading: Iterator[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return list(islice(reading, _LEAVES))


async def load_manifests(
    tx: Transaction, zone: str, keys: Sequence[VerifierKey], window: Window | None = None
) -> list[Sealed]:
    """The manifests of a zone, or of one window of it, in the order of sealing; raises :class:`Unproven`."""
    rows = await tx.all(
        "SELECT a.*, EXISTS (SELECT FROM ledger.tombstones t WHERE t.zone = a.zone AND t.window_start = a.window_start)"
        " AS purged FROM ledger.archives a WHERE zone = :zone"
        " AND (CAST(:start AS timestamptz) IS NULL OR window_start = :start) ORDER BY ordinal",
        zone=zone,
        start=window.start if window else None,
    )
    return [_opened(row, keys) for row in rows]


def _opened(row: Row, keys: Sequence[VerifierKey]) -> Sealed:
    window, note = Window(row["window_start"]), bytes(row["note"])
    try:
        manifest = open_manifest(note, keys)
    except ManifestError as error:
        raise Unproven(f"the manifest of {window}, version {row['version']}: {error}") from error
    said = (manifest.zone, manifest.ordinal, manifest.version, manifest.events, manifest.tree_size, manifest.root)
    told = (row["zone"], row["ordinal"], row["version"], row["events"], row["tree_size"], bytes(row["root"]).hex())
    starts = datetime.fromisoformat(manifest.window_start)
    if said != told or starts != row["window_start"] or sha256_of(note) != bytes(row["sha256"]):
        raise Unproven(f"the manifest of {window}: its columns say other than what was signed")
    return Sealed(row["ordinal"], window, manifest, bytes(row["sha256"]), row["purged"])


async def prove_window(
    database: Database, cold: ColdEvents, zone: str, window: Window, *, everywhere: bool = False
) -> int:
    """Read every object of a window again and compare it with its signed manifest and with the tree; events proven.

    ``everywhere``: where there are two copies, both. Raises :class:`Unproven`, ``archive_unavailable``.
    """
    async with database.begin() as tx:
        keys = list((await ledger_keys(tx, zone)).values())
        manifests = await load_manifests(tx, zone, keys, window)
    if not manifests:
        raise Unproven(f"zone {zone}: the window {window} is not sealed")
    listed = {part.name: part for sealed in manifests for part in sealed.manifest.parts}
    objects = {part.name: part for part in await cold.window(zone, window)}
    if listed.keys() != objects.keys():
        raise Unproven(f"zone {zone}, {window}: the objects known are not those of the signed manifests")
    proven = 0
    for name, part in objects.items():
        said = listed[name]
        if (said.digest, said.first, said.last) != (part.digest, part.first_seq, part.last_seq):
            raise Unproven(f"{name}: what is known of the object is not what was signed")
        proven += await prove_part(database, cold, part, everywhere=everywhere)
    return proven


async def prove_part(database: Database, cold: ColdEvents, part: ColdObject, *, everywhere: bool = False) -> int:
    """Compare an object's bytes with its digest and its events with the tree; raises :class:`Unproven`."""
    try:
        if everywhere and part.local:
            await check_digest(cold.local, part)
        if everywhere and part.remote and cold.remote is not None:
            await check_digest(cold.remote, part)
        path = await cold.path(part, fresh=True)
    except ColdDamaged as error:
        raise Unproven(str(error)) from error
    return await check_leaves(database, part.zone, path, part.first_seq, part.last_seq)


async def check_digest(store: ObjectStore, part: ColdObject) -> None:
    """Ask a store what it holds; raises :class:`Unproven` when that is not the object."""
    try:
        found = await store.digest(part.name)
    except ObjectMissing:
        raise Unproven(f"{part.name}: the object is missing at {store.place}") from None
    if found != part.digest:
        raise Unproven(f"{part.name}: the object at {store.place} is not the one in its manifest (SHA-256)")


async def verify_archive(
    database: Database,
    cold: ColdEvents,
    zone: str,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
) -> ArchiveReport:
    """Check the archive of ``zone``: the chain of its manifests whole, and every object of the windows from ``since``
    to ``until`` (by the time of recording; None: all). Raises ``archive_unavailable`` where a store does not answer."""
    began, report = time.monotonic(), ArchiveReport(zone)
    async with database.begin() as tx:
        keys = list((await ledger_keys(tx, zone)).values())
        rows = await tx.all("SELECT ordinal FROM ledger.archives WHERE zone = :zone ORDER BY ordinal", zone=zone)
        try:
            manifests = await load_manifests(tx, zone, keys)
        except Unproven as error:
            report.add("manifests", str(error))
            manifests = []
        await _check_chain(tx, zone, manifests, report)
    report.manifests = len(rows)
    wanted = {
        sealed.window: sealed.purged
        for sealed in manifests
        if (since is None or sealed.window.end > since) and (until is None or sealed.window.start < until)
    }
    for window, purged in sorted(wanted.items()):
        if purged:
            report.purged += 1
            continue
        try:
            report.events += await prove_window(database, cold, zone, window, everywhere=True)
        except Unproven as error:
            report.add(window, str(error))
        for part in await cold.window(zone, window):
            report.objects += 1
            report.bytes += part.digest.size
    if report.verdict == "PASS" and not rows:
        report.verdict = "NO_DATA"
    report.seconds = time.monotonic() - began
    return report


async def _check_chain(tx: Transaction, zone: str, manifests: Sequence[Sealed], report: ArchiveReport) -> None:
    previous, following = "", None
    for expected, sealed in enumerate(manifests):
        manifest = sealed.manifest
        if sealed.ordinal != expected:
            report.add(sealed.window, f"manifest {expected} of the zone is missing")
            return
        if manifest.previous != previous:
            report.add(sealed.window, "the manifest does not name the one before it")
        previous = sealed.sha256.hex()
        if manifest.version == 1:
            if following is not None and sealed.window != following:
                report.add(following, "the window has no manifest")
            following = sealed.window.following
        try:
            if (await root_at(tx, zone, manifest.tree_size)).hex() != manifest.root:
                report.add(sealed.window, "the zone's tree is not the one the manifest was made under")
        except MissingHashes as error:
            report.add(sealed.window, str(error))
