"""Where a zone's archive stands: what is sealed, where it lies, what is due, what is held."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from bailiwick.evidence.archive.lives import holds_on, lives_of
from bailiwick.evidence.archive.places import Places
from bailiwick.evidence.archive.windows import Window
from bailiwick.kernel.db import Row, Transaction
from bailiwick.kernel.errors import NotFound


async def status(tx: Transaction, places: Places, zone: str, now: datetime) -> dict[str, Any]:
    """The archive of ``zone`` as plain values. ``overdue_s``: by how much the next window to be sealed is late."""
    lives, version = await lives_of(tx, zone)
    sealed = await tx.one(
        "SELECT count(*) AS manifests, count(DISTINCT window_start) AS windows, coalesce(sum(events), 0) AS events,"
        " max(window_start) AS newest, max(sealed_at) AS sealed_at FROM ledger.archives WHERE zone = :zone",
        zone=zone,
    )
    stored = await tx.one(
        "SELECT count(*) FILTER (WHERE local) AS local, count(*) FILTER (WHERE remote) AS remote,"
        " coalesce(sum(size) FILTER (WHERE local), 0) AS local_bytes,"
        " coalesce(sum(size) FILTER (WHERE remote), 0) AS remote_bytes FROM ledger.archive_objects o"
        " WHERE zone = :zone AND version IS NOT NULL AND void_at IS NULL AND NOT EXISTS (SELECT FROM"
        "  ledger.tombstones t WHERE t.zone = o.zone AND t.window_start = o.window_start)",
        zone=zone,
    )
    cold = await tx.value(
        "SELECT count(DISTINCT a.window_start) FROM ledger.archives a JOIN ledger.dropped_partitions d"
        " ON d.window_start = a.window_start WHERE a.zone = :zone",
        zone=zone,
    )
    purged = await tx.value("SELECT count(*) FROM ledger.tombstones WHERE zone = :zone", zone=zone)
    assert sealed is not None and stored is not None
    newest = Window(sealed["newest"]) if sealed["newest"] is not None else None
    due = newest.following.end + timedelta(days=lives.seal_days) if newest is not None else None
    return {
        "zone": zone,
        "lives": {
            "seal_days": lives.seal_days,
            "hot_days": lives.hot_days,
            "local_days": lives.local_days,
            "archive_days": lives.archive_days,
            "version": version,
        },
        "sealed": {
            "windows": sealed["windows"],
            "manifests": sealed["manifests"],
            "events": int(sealed["events"]),
            "newest_window": str(newest) if newest is not None else None,
            "sealed_at": sealed["sealed_at"],
        },
        "objects": {
            "local": {"place": places.local.place, "count": stored["local"], "bytes": int(stored["local_bytes"])},
            "remote": {
                "place": places.remote.place if places.remote is not None else None,
                "count": stored["remote"],
                "bytes": int(stored["remote_bytes"]),
            },
        },
        "windows_out_of_the_database": cold,
        "windows_purged": purged,
        "next_due": due,
        "overdue_s": max(0.0, (now - due).total_seconds()) if due is not None else 0.0,
        "holds": len(await holds_on(tx, zone)),
    }


async def windows(tx: Transaction, zone: str, before: int, limit: int) -> list[dict[str, Any]]:
    """The manifests of a zone with an ordinal below ``before``, newest first."""
    rows = await tx.all(
        "SELECT a.ordinal, a.window_start, a.version, a.first_seq, a.last_seq, a.events, a.sealed_at, a.sha256,"
        " (SELECT coalesce(sum(size), 0) FROM ledger.archive_objects o WHERE o.zone = a.zone"
        "  AND o.window_start = a.window_start AND o.version = a.version AND o.void_at IS NULL) AS bytes,"
        " EXISTS (SELECT FROM ledger.tombstones t WHERE t.zone = a.zone AND t.window_start = a.window_start) AS purged"
        " FROM ledger.archives a WHERE zone = :zone AND ordinal < :before ORDER BY ordinal DESC LIMIT :limit",
        zone=zone,
        before=before,
        limit=limit,
    )
    return [_window(row) for row in rows]


async def manifest(tx: Transaction, zone: str, ordinal: int) -> bytes:
    """The signed note of a manifest; raises ``not_found``."""
    note = await tx.value(
        "SELECT note FROM ledger.archives WHERE zone = :zone AND ordinal = :ordinal", zone=zone, ordinal=ordinal
    )
    if note is None:
        raise NotFound("There is no manifest by that number.")
    return bytes(note)


def _window(row: Row) -> dict[str, Any]:
    return {
        "ordinal": row["ordinal"],
        "window": str(Window(row["window_start"])),
        "start": row["window_start"],
        "version": row["version"],
        "first": row["first_seq"],
        "last": row["last_seq"],
        "events": row["events"],
        "bytes": int(row["bytes"]),
        "sealed_at": row["sealed_at"],
        "sha256": bytes(row["sha256"]).hex(),
        "purged": row["purged"],
    }
