"""What evidence packs show of this room's tables."""

from __future__ import annotations

from bailiwick.evidence.pack_control import ControlTable


def _table(name: str, shown: str) -> ControlTable:
    """A table of the whole installation with its columns as words, by the first of which it is in order."""
    return ControlTable(name, tuple(shown.split()), (shown.split()[0],), zoned="")


TABLES: tuple[ControlTable, ...] = (
    # --- backups
    _table(
        "backups",
        "id state place started_at finished_at asked_by bytes start_lsn stop_lsn timeline manifest_sha256 heads error "
        "expired_at",
    ),
    _table("backup_log", "place covered_until segment stored_at trouble"),
    _table("backup_restores", "id backup place to_moment ended_lsn restored_at restored_by heads"),
    _table("backup_drills", "id kind verdict started_at finished_at held_by backup rto_s rpo_s checks record"),
)
