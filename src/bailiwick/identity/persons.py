"""Which accounts are one person: for the two-person rule, which counts people and not accounts.

Two accounts are one person's when anything that names a human being is the same in both: the id, the mail address
(without what stands behind a ``+``), what a directory calls him, or what an identity provider calls him (who is then
known to it by one account only, so that this can only come of a restored database). Beside that,
an account that another one made, gave its role or could have entered (by an invitation, a reset, a changed address)
may be that other one's tool; for a while the two count as one, whichever of them asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Literal

from bailiwick.evidence.events import Context
from bailiwick.kernel.db import Row, Transaction
from bailiwick.kernel.quorum import Standing

How = Literal["made", "raised", "entered"]


def mailbox(address: str) -> str:
    """The mailbox that an address leads to: in lower case, without a tag behind ``+``."""
    local, at, domain = address.casefold().rpartition("@")
    return f"{local.partition('+')[0]}{at}{domain}"


def keys_of(row: Row) -> frozenset[str]:
    """What names the human being behind an account."""
    found = {f"id:{row['id']}", f"login:{row['username'].casefold()}"}
    if row["email"]:
        found |= {f"mail:{mailbox(row['email'])}"}
    if row["external_id"]:
        found |= {f"external:{row['external_id'].casefold()}"}
    return frozenset(found | {f"idp:{each}" for each in row["identities"]})


def keys_of_arrival(provider: str, subject: str, username: str, email: str) -> frozenset[str]:
    """The same of somebody for whom a provider vouches, before he has an account."""
    found = {f"idp:{provider}/{subject}", f"external:{subject.casefold()}", f"login:{username.casefold()}"}
    return frozenset(found | ({f"mail:{mailbox(email)}"} if email else set()))


async def keys_of_account(tx: Transaction, zone: str, username: str) -> frozenset[str]:
    """The same of an account there is."""
    row = await tx.one(_ACCOUNTS, zone=zone, names=[username])
    return keys_of(row) if row is not None else frozenset()


def same(one: Row, others: Iterable[Row]) -> set[str]:
    """The names of those of ``others`` that are the same person as ``one``."""
    mine = keys_of(one)
    return {other["username"] for other in others if mine & keys_of(other)}


async def note_influence(tx: Transaction, context: Context, username: str, how: How, at: datetime) -> None:
    """Keep that who acts made, raised or could have entered the account ``username``; of his own nothing is kept."""
    by = context.actor.user
    if by and by.casefold() != username.casefold():
        await tx.run(
            "INSERT INTO account_influence (zone, username, by, how, at) VALUES (:zone, :username, :by, :how, :at)",
            zone=context.zone,
            username=username,
            by=by,
            how=how,
            at=at,
        )


class Persons:
    """Answers :class:`~bailiwick.kernel.quorum.People` from the accounts."""

    async def standing(self, tx: Transaction, zone: str, name: str) -> Standing | None:
        """The account by that name."""
        row = await tx.one(
            "SELECT id, role, owns, is_active FROM users WHERE zone = :zone AND username = :name", zone=zone, name=name
        )
        return Standing(row["id"], row["role"], row["is_active"], frozenset(row["owns"])) if row is not None else None

    async def related(
        self, tx: Transaction, zone: str, name: str, others: Sequence[str], since: datetime | None
    ) -> Mapping[str, str]:
        """Who of ``others`` counts as the person of ``name``."""
        rows = await tx.all(_ACCOUNTS, zone=zone, names=[name, *others])
        own = next((row for row in rows if row["username"] == name), None)
        rest = [row for row in rows if row["username"] != name]
        found: dict[str, str] = {}
        if since is not None:
            for row in await tx.all(_INFLUENCED, zone=zone, name=name, since=since):
                if row["username"] in others:
                    found[row["username"]] = "approval_related_account"
        if own is not None:
            found |= dict.fromkeys(same(own, rest), "approval_same_person")
        return found


_ACCOUNTS = """
SELECT u.id, u.username, u.email, u.external_id,
  array(SELECT i.provider || '/' || i.subject FROM user_identities i
        WHERE i.zone = u.zone AND i.username = u.username) AS identities
FROM users u WHERE u.zone = :zone AND u.username = ANY(:names)
"""
# down the chain (a made account may have made the next), and up it: who made whoever made this one
_INFLUENCED = """
WITH RECURSIVE down (username) AS (
  SELECT cast(:name AS text)
  UNION
  SELECT i.username FROM down d JOIN account_influence i ON i.zone = :zone AND i.at >= :since AND i.by = d.username
), up (username) AS (
  SELECT cast(:name AS text)
  UNION
  SELECT i.by FROM up u JOIN account_influence i ON i.zone = :zone AND i.at >= :since AND i.username = u.username
)
SELECT username FROM down WHERE username <> :name UNION SELECT username FROM up WHERE username <> :name
"""
