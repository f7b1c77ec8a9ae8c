"""What evidence packs show of this room's tables."""

from __future__ import annotations

from bailiwick.evidence.pack_control import ControlTable

TABLES: tuple[ControlTable, ...] = (
    ControlTable(
        "switches",
        (
            "id",
            "zone",
            "name",
            "target",
            "reason",
            "thrown_by",
            "thrown_at",
            "thrown_as",
            "lifted_at",
            "lifted_by",
        ),
        ("id",),
    ),
)
