"""Who is there to approve something: the active persons of a zone, by role."""

from __future__ import annotations

from collections.abc import Sequence

from bailiwick.kernel.db import Transaction
from bailiwick.kernel.permissions import Role


async def holders(tx: Transaction, zone: str, roles: Sequence[Role]) -> list[str]:
    """The user names, in order, of active persons with one of ``roles``, by themselves or by a group."""
    rows = await tx.all(
        "SELECT username FROM users WHERE zone = :zone AND is_active"
        " AND (role = ANY(:roles) OR owns && cast(:roles AS text[])) ORDER BY username",
        zone=zone,
        roles=[str(role) for role in roles],
    )
    return [row["username"] for row in rows]
