"""What evidence packs show of this room's tables."""

from __future__ import annotations

from bailiwick.evidence.pack_control import ControlTable

TABLES: tuple[ControlTable, ...] = (
    # --- backups: of the whole installation
    ControlTable(
        "backups",
        (
            "id", "state", "place", "started_at", "finished_at", "asked_by", "bytes", "start_lsn", "stop_lsn",
            "timeline", "manifest_sha256", "heads", "error", "expired_at",
        ),  # fmt: skip
        ("id",),
        zoned="",
    ),
    ControlTable(
        "backup_log", ("place", "covered_until", "segment", "stored_at", "trouble"), ("place",), zoned=""
    ),
    ControlTable(
        "backup_restores",
        ("id", "backup", "place", "to_moment", "ended_lsn", "restored_at", "restored_by", "heads"),
        ("id",),
        zoned="",
    ),
    ControlTable(
        "backup_drills",
        (
            "id", "kind", "verdict", "started_at", "finished_at", "held_by", "backup", "rto_s", "rpo_s", "checks",
            "record",
        ),  # fmt: skip
        ("id",),
        zoned="",
    ),
)
