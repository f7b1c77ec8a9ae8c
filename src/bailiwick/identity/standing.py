"""What role holds for a person: his own, or the highest that a group of his gives; and the planes he owns beside it.

``users.role`` is always the one that holds, so that whoever reads it (sign-in, the workers' memory, approvals) needs
no second look; ``users.own_role`` keeps the person's own where a group lifts it. Owner roles add up: ``users.owns``
has those that his own role or a group of his gives beside the one that holds, and he may what any of them may.
:func:`settle_roles` keeps the three right after every change of a role, a group or a membership, in the same
transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from bailiwick.kernel.db import Transaction
from bailiwick.kernel.errors import Conflict
from bailiwick.kernel.permissions import OWNER_ROLES, held

NO_ROLE = "none"
"""Signed in, and everything denied: somebody whom a provider vouches for and nobody gave a role."""

RoleName = Literal[
    "admin",
    "operator",
    "auditor",
    "viewer",
    "ops_owner",
    "security_owner",
    "finance_owner",
    "product_owner",
]
"""The roles that a person may be given."""

RANKS = (
    NO_ROLE,
    "viewer",
    "auditor",
    "product_owner",
    "finance_owner",
    "operator",
    "security_owner",
    "ops_owner",
    "admin",
)
"""From the lowest. They do not all include each other: operators and auditors may different things, and of somebody who
is both, the operator's role holds."""

_SETTLE = """
WITH own AS (
  SELECT id, zone, username, role AS before, owns AS owned, coalesce(own_role, role) AS own FROM users
  WHERE zone = :zone AND username = ANY(:usernames) ORDER BY username FOR UPDATE
), wanted AS (
  SELECT own.*, (cast(:ranks AS text[]))[greatest(
    array_position(cast(:ranks AS text[]), own.own),
    (SELECT max(array_position(cast(:ranks AS text[]), g.role)) FROM group_members m JOIN groups g ON g.id = m.group_id
     WHERE m.zone = own.zone AND m.username = own.username))] AS holds,
    ARRAY(SELECT own.own WHERE own.own = ANY(:planes) UNION SELECT g.role FROM group_members m
     JOIN groups g ON g.id = m.group_id WHERE m.zone = own.zone AND m.username = own.username AND g.role = ANY(:planes)
     ORDER BY 1) AS planes
  FROM own
)
UPDATE users u SET role = w.holds, own_role = nullif(w.own, w.holds), owns = array_remove(w.planes, w.holds)
FROM wanted w WHERE u.id = w.id AND (u.role <> w.holds OR u.own_role IS DISTINCT FROM nullif(w.own, w.holds)
  OR u.owns <> array_remove(w.planes, w.holds))
RETURNING u.username, w.before, w.holds, w.owned, u.owns, u.is_active,
  u.is_active AND (u.password_hash IS NOT NULL OR EXISTS
    (SELECT 1 FROM user_identities i WHERE i.zone = u.zone AND i.username = u.username)) AS can_sign_in
"""

# who administers and has a way in: a password, or a provider that knows him
_ADMINISTRATORS = (
    "FROM users u WHERE zone = :zone AND role = 'admin' AND is_active AND (password_hash IS NOT NULL OR EXISTS"
    " (SELECT 1 FROM user_identities i WHERE i.zone = u.zone AND i.username = u.username))"
)


@dataclass(frozen=True, slots=True)
class RoleChange:
    """The role that held for a person and the planes he owned beside it, and those of now."""

    username: str
    before: str
    after: str
    is_active: bool
    owned: frozenset[str] = frozenset()
    owns: frozenset[str] = frozenset()

    @property
    def widens(self) -> bool:
        """Whether it gives something."""
        return not held(self.after, self.owns) <= held(self.before, self.owned)

    @property
    def narrows(self) -> bool:
        """Whether it takes something away from somebody who has it."""
        return self.is_active and (self.after != self.before or not self.owned <= self.owns)


def highest(roles: Collection[str]) -> str:
    """The highest of ``roles`` by :data:`RANKS`; :data:`NO_ROLE` of none."""
    return max(roles, key=RANKS.index, default=NO_ROLE)


async def lock_administrators(tx: Transaction, zone: str) -> None:
    """Let nobody else change who administers ``zone`` until the transaction ends: two must not both be the last."""
    await tx.run("SELECT pg_advisory_xact_lock(hashtext('bailiwick.administrators'), hashtext(:zone))", zone=zone)


async def administrates(tx: Transaction, zone: str, username: str) -> bool:
    """Whether ``username`` is an administrator who can sign in."""
    found = await tx.value(f"SELECT 1 {_ADMINISTRATORS} AND username = :username", zone=zone, username=username)
    return found is not None


async def require_an_administrator(tx: Transaction, zone: str) -> None:
    """Refuse what left ``zone`` without an administrator who can sign in. Raises ``Conflict``."""
    left = await tx.value(f"SELECT EXISTS (SELECT 1 {_ADMINISTRATORS})", zone=zone)
    if not left:
        raise Conflict("This is the last administrator who can sign in; make another one first.")


async def settle_roles(tx: Transaction, zone: str, usernames: Collection[str]) -> Sequence[RoleChange]:
    """Bring the roles of ``usernames`` in line with their own roles and their groups'; answers whose changed.

    The caller announces each of them. Raises ``Conflict`` when it takes the zone's last administrator's role.
    """
    if not usernames:
        return ()
    planes = [str(role) for role in OWNER_ROLES]
    rows = await tx.all(_SETTLE, zone=zone, usernames=sorted(usernames), ranks=[*RANKS], planes=planes)
    changes = [
        RoleChange(
            row["username"],
            row["before"],
            row["holds"],
            row["is_active"],
            frozenset(row["owned"]),
            frozenset(row["owns"]),
        )
        for row in rows
    ]
    if any(row["before"] == "admin" != row["holds"] and row["can_sign_in"] for row in rows):
        await require_an_administrator(tx, zone)
    return changes
