"""What evidence packs show of the identity room's tables."""

from __future__ import annotations

from bailiwick.evidence.pack_control import ControlTable

TABLES = (
    ControlTable(
        "users",
        (
            "id", "zone", "username", "email", "full_name", "role", "own_role", "owns", "external_id",
            "profile", "is_active", "disabled_by",
            "mfa_enabled", "must_change_password", "invitation_expires_at", "last_login_at", "version", "created_at",
            "updated_at",
        ),
        ("username",),
        withheld=("password_hash", "invitation_hash"),
    ),
    ControlTable(
        "identity_providers",
        ("id", "zone", "name", "kind", "enabled", "options", "version", "away_since", "created_at", "updated_at"),
        ("name",),
        withheld=("sealed",),
    ),
    ControlTable(
        "groups",
        (
            "id", "zone", "name", "description", "kind", "role", "owner", "external_id", "source", "version",
            "created_at", "updated_at",
        ),
        ("name",),
    ),
    ControlTable("group_members", ("group_id", "zone", "username", "source", "added_at"), ("group_id", "username")),
    ControlTable(
        "user_identities",
        ("zone", "provider", "subject", "username", "created_at", "last_seen_at"),
        ("provider", "subject"),
    ),
    ControlTable("kept_out", ("zone", "username", "keys", "since", "by"), ("username",)),
    ControlTable(
        "access_reviews",
        ("zone", "username", "verdict", "reviewed_by", "note", "reviewed_at", "due_at"),
        ("username",),
    ),
    ControlTable(
        "login_failures", ("zone", "username", "failures", "last_at", "locked_until"), ("username",)
    ),
    ControlTable(
        "sessions",
        (
            "id", "zone", "username", "method", "ip", "user_agent", "amr", "auth_time", "created_at", "last_seen_at",
            "idle_until", "expires_at", "ended_at", "end_reason", "origin",
        ),
        ("created_at", "id"),
        withheld=("id_token_sealed",),
    ),
    ControlTable(
        "provider_logouts",
        ("zone", "method", "issuer", "subject", "sids", "at", "expires_at"),
        ("at", "issuer"),
        withheld=("token_hash",),
    ),
    ControlTable(
        "factors",
        (
            "id", "zone", "username", "kind", "name", "aaguid", "transports", "backed_up", "sign_count", "created_at",
            "confirmed_at", "last_used_at", "disabled_at",
        ),
        ("username", "id"),
        withheld=("secret_sealed", "last_step", "credential_id", "public_key"),
    ),
    ControlTable(
        "recovery_codes", ("zone", "username", "used_at"), ("username", "used_at"), withheld=("hash",)
    ),
    ControlTable(
        "api_keys",
        (
            "id", "zone", "username", "name", "permissions", "rate_limit", "is_active", "version", "created_at",
            "updated_at", "expires_at", "last_used_at", "ended_at",
        ),
        ("id",),
        withheld=("secret_hash",),
    ),
    ControlTable(
        "applications",
        (
            "id", "zone", "name", "description", "role", "grants", "rate_limit", "owner", "is_active", "version",
            "secret_rotated_at", "created_at", "updated_at",
        ),
        ("name",),
        withheld=("secret_hash",),
    ),
)  # fmt: skip
