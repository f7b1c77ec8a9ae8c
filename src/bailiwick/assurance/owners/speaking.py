"""Who may speak for an owner role: whoever holds it, and whoever acts in its place."""

from __future__ import annotations

from datetime import datetime

from bailiwick.assurance.book import Book
from bailiwick.assurance.owners.activities import ACTIVITY
from bailiwick.assurance.owners.parties import party
from bailiwick.assurance.ports import Owners
from bailiwick.kernel.db import Transaction


async def speaks_for(tx: Transaction, owners: Owners, book: Book, username: str, role: str, at: datetime) -> bool:
    """Whether somebody speaks for ``role`` at ``at``.

    He holds it, himself or by a group; or he is the deputy who acts at that time, as ownership has it, for an activity
    of ``book`` that the role is accountable for. No other role stands in for it, an administrator's neither.
    """
    if any(person.username == username for person in await owners.holders(tx, book.zone, role, at)):
        return True
    for name, activity in book.of(ACTIVITY).items():
        named = party(activity.accountable)
        if named.kind == "role" and named.name == role:
            person = await owners.accountable(tx, book.zone, f"activity:{name}", at)
            if person is not None and person.username == username:
                return True
    return False
