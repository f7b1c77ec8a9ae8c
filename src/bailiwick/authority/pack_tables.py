"""What evidence packs show of the authority room's tables."""

from __future__ import annotations

from bailiwick.evidence.pack_control import ControlTable

TABLES = (
    ControlTable(
        "zone_keys",
        ("kid", "zone", "purpose", "algorithm", "public_jwk", "state", "created_at", "changed_at"),
        ("created_at", "kid"),
        withheld=("private_sealed",),
    ),
    ControlTable(
        "revocations",
        ("revision", "zone", "kind", "key", "reason", "revoked_by", "revoked_at", "expires_at"),
        ("revision",),
    ),
    ControlTable(
        "workers",
        ("id", "host", "slot", "pid", "revision", "policy_sets", "started_at", "seen_at", "fenced_at"),
        ("id",),
        zoned="",
    ),
)
