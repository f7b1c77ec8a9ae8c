"""What evidence packs show of the inventory's tables."""

from __future__ import annotations

from bailiwick.evidence.pack_control import ControlTable

TABLES = (
    ControlTable("zones", ("name", "description", "state", "version", "created_at"), ("name",), zoned="name"),
    ControlTable(
        "servers",
        (
            "id", "zone", "name", "endpoint", "description", "tags", "binding", "addresses", "resolve_error",
            "resolved_at", "version", "created_at", "updated_at",
        ),
        ("name",),
    ),
    ControlTable(
        "credentials",
        ("id", "zone", "name", "kind", "header", "version", "created_at", "rotated_at"),
        ("name",),
        withheld=("sealed",),
    ),
)  # fmt: skip
"""``server_hosts`` says only what the bindings of ``servers`` say."""
