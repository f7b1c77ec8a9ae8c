"""Copies: what is sealed on this machine goes to object storage at once, and leaves the machine when its time is up.

The local copy goes only when the remote one was seen to be the object. Without object storage the local folder keeps
everything to the end of its life.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import structlog

from bailiwick.evidence.archive.lives import lives_of
from bailiwick.evidence.archive.places import Places
from bailiwick.evidence.archive.proof import Unproven, check_digest
from bailiwick.evidence.archive.reader import ColdEvents
from bailiwick.evidence.archive.store import Digest, digest_of_bytes, make_private
from bailiwick.evidence.archive.windows import LENGTH, Window
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database

log = structlog.get_logger(__name__)


def manifest_name(zone: str, window: Window, version: int) -> str:
    """The name of a manifest's object."""
    return f"{zone}/{window.folder}/manifest-{version}.note"


async def replicate(
    database: Database, places: Places, zone: str, pause: Callable[[], None], fault: Callable[[str], None]
) -> None:
    """Copy to the remote store what is only here; ``pause`` raises when it is time to stop."""
    remote = places.remote
    if remote is None:
        return
    async with database.begin() as tx:
        parts = await tx.all(
            "SELECT name, size, sha256 FROM ledger.archive_objects o WHERE zone = :zone AND version IS NOT NULL"
            " AND void_at IS NULL AND local AND NOT remote AND NOT EXISTS (SELECT FROM ledger.tombstones t"
            "  WHERE t.zone = o.zone AND t.window_start = o.window_start) ORDER BY window_start, first_seq",
            zone=zone,
        )
        manifests = await tx.all(
            "SELECT ordinal, window_start, version, note FROM ledger.archives WHERE zone = :zone AND NOT remote"
            " ORDER BY ordinal",
            zone=zone,
        )
    for row in parts:
        pause()
        digest = Digest(row["size"], bytes(row["sha256"]))
        await remote.put(row["name"], places.local.path(row["name"]), digest)
        fault("copied")
        async with database.begin() as tx:
            await tx.run(
                "UPDATE ledger.archive_objects SET remote = true WHERE zone = :zone AND name = :name",
                zone=zone,
                name=row["name"],
            )
    file = places.work / f"{zone}.copy"
    for row in manifests:
        note = bytes(row["note"])
        await asyncio.to_thread(_write, file, note)
        name = manifest_name(zone, Window(row["window_start"]), row["version"])
        await remote.put(name, file, digest_of_bytes(note), replace=True)
        async with database.begin() as tx:
            await tx.run(
                "UPDATE ledger.archives SET remote = true WHERE zone = :zone AND ordinal = :ordinal",
                zone=zone,
                ordinal=row["ordinal"],
            )
    await asyncio.to_thread(file.unlink, missing_ok=True)


async def expire_local(database: Database, places: Places, cold: ColdEvents, clock: Clock) -> dict[str, int]:
    """Remove local copies past their life whose remote copy is proven; how many, and how many had to stay."""
    removed = kept = 0
    if places.remote is None:
        return {"removed": 0, "kept": 0}
    async with database.begin() as tx:
        zones = [row["name"] for row in await tx.all("SELECT name FROM zones ORDER BY name")]
        lives = {zone: (await lives_of(tx, zone))[0] for zone in zones}
    for zone in zones:
        before = clock.now() - timedelta(days=lives[zone].local_days) - LENGTH
        for window in await cold.list_windows(zone, None, None, include_hot=True):
            if window.start > before:
                continue
            for part in window.objects:
                if not (part.local and part.remote):
                    continue
                try:
                    await check_digest(places.remote, part)
                except Unproven as error:
                    log.error("local archive object kept", zone=zone, name=part.name, why=str(error))
                    kept += 1
                    continue
                async with database.begin() as tx:
                    await tx.run(
                        "UPDATE ledger.archive_objects SET local = false WHERE zone = :zone AND name = :name",
                        zone=zone,
                        name=part.name,
                    )
                await places.local.delete(part.name)
                removed += 1
    return {"removed": removed, "kept": kept}


def _write(file: Path, data: bytes) -> None:
    make_private(file.parent)
    file.write_bytes(data)
