"""What evidence packs show of this room's tables."""

from __future__ import annotations

from bailiwick.evidence.pack_control import ControlTable

TABLES: tuple[ControlTable, ...] = (
    ControlTable(
        "assurance_documents",
        ("zone", "kind", "name", "version", "revision", "spec", "sha256", "in_force", "applied_at", "applied_by"),
        ("zone", "kind", "name", "version"),
    ),
)
