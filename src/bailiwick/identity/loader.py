"""What workers keep in memory of the people and applications of a zone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bailiwick.kernel.db import Transaction


@dataclass(frozen=True, slots=True)
class UserEntry:
    """A user's standing now: what tokens are judged by, since the role is not in them."""

    username: str
    role: str
    is_active: bool
    must_change_password: bool
    owns: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ApplicationEntry:
    """An application's standing now. ``grants`` maps server names to the scopes it may ask for."""

    id: str
    zone: str
    name: str
    role: str
    grants: Mapping[str, tuple[str, ...]]
    is_active: bool
    secret_hash: str = field(repr=False)
    rate_limit: int | None = None


async def load_users(tx: Transaction, zone: str, *usernames: str) -> dict[str, UserEntry]:
    """The users of ``zone`` by user name, or those named."""
    rows = await tx.all(
        "SELECT username, role, owns, is_active, must_change_password FROM users"
        " WHERE zone = :zone AND (cast(:usernames AS text[]) IS NULL OR username = ANY(:usernames))",
        zone=zone,
        usernames=[*usernames] or None,
    )
    return {
        row["username"]: UserEntry(
            row["username"], row["role"], row["is_active"], row["must_change_password"], frozenset(row["owns"])
        )
        for row in rows
    }


async def load_applications(tx: Transaction, zone: str, name: str | None = None) -> dict[str, ApplicationEntry]:
    """The applications of ``zone`` by id (their ``client_id``), or the one with that name."""
    rows = await tx.all(
        "SELECT id, zone, name, role, grants, is_active, secret_hash, rate_limit FROM applications"
        " WHERE zone = :zone AND (cast(:name AS text) IS NULL OR name = :name)",
        zone=zone,
        name=name,
    )
    return {
        row["id"]: ApplicationEntry(
            row["id"],
            row["zone"],
            row["name"],
            row["role"],
            {server: tuple(scopes) for server, scopes in row["grants"].items()},
            row["is_active"],
            row["secret_hash"],
            row["rate_limit"],
        )
        for row in rows
    }
