"""The persons of a zone as far as ownership goes: who is there, and who holds which role.

Somebody holds a role where it is his own or where a group of his gives it, whichever of them counts for his
permissions: one person may own two planes, and an administrator may own one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from bailiwick.assurance.ports import Person
from bailiwick.kernel.db import Transaction


@dataclass(frozen=True, slots=True)
class Known:
    """Somebody with an account. ``since`` is when it was made."""

    person: Person
    is_active: bool
    roles: frozenset[str]
    since: datetime


@dataclass(frozen=True, slots=True)
class People:
    """Those that were asked for, by user name."""

    known: Mapping[str, Known] = field(default_factory=dict)

    def active(self, username: str) -> Person | None:
        """The person, if he is there and may sign in."""
        found = self.known.get(username)
        return found.person if found is not None and found.is_active else None

    def holders(self, role: str) -> list[Person]:
        """The active persons who hold ``role``, who has been here longest first: newcomers displace nobody."""
        found = [each for each in self.known.values() if each.is_active and role in each.roles]
        return [each.person for each in sorted(found, key=lambda each: (each.since, each.person.username))]


async def people(tx: Transaction, zone: str, names: Collection[str], roles: Collection[str]) -> People:
    """Everybody called one of ``names``, and everybody who holds one of ``roles``."""
    rows = await tx.all(_SELECT, zone=zone, names=sorted(names), roles=sorted(roles))
    return People(
        {
            row["username"]: Known(
                Person(row["username"], row["full_name"], row["email"]),
                row["is_active"],
                frozenset(row["roles"]),
                row["created_at"],
            )
            for row in rows
        }
    )


_SELECT = """
WITH given AS (
  SELECT m.username, array_agg(g.role) AS roles FROM group_members m JOIN groups g ON g.id = m.group_id
  WHERE m.zone = :zone AND g.role IS NOT NULL GROUP BY m.username
)
SELECT u.username, u.full_name, u.email, u.is_active, u.created_at,
       array_remove(ARRAY[u.role, u.own_role] || coalesce(given.roles, '{}'), NULL) AS roles
FROM users u LEFT JOIN given ON given.username = u.username
WHERE u.zone = :zone AND (u.username = ANY(cast(:names AS text[])) OR u.role = ANY(cast(:roles AS text[]))
  OR u.own_role = ANY(cast(:roles AS text[])) OR given.roles && cast(:roles AS text[]))
"""
