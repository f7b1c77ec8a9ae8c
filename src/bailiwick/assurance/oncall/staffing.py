"""Whether there ever was anybody to be called."""

from __future__ import annotations

from bailiwick.assurance.book import Book
from bailiwick.assurance.oncall.rota import ROTA
from bailiwick.kernel.db import Transaction


async def never_staffed(tx: Transaction, book: Book) -> bool:
    """Whether nobody ever set up who is called: all rotas are as we ship them, no account (also of those who left) has
    a role that they call, nobody ever stood in, and nobody was ever called.

    That nobody is on call is told by ``owners check`` and by readiness then, and calls nobody.
    """
    rotas = book.of(ROTA)
    if not rotas or not all(book.documents[ROTA.name, name].as_shipped for name in rotas):
        return False
    roles = sorted({str(level.role) for rota in rotas.values() for level in rota.levels.values() if level.role})
    return not await tx.value(_ANYBODY, zone=book.zone, roles=roles)


_ANYBODY = """
SELECT EXISTS (SELECT FROM users WHERE zone = :zone AND (role = ANY (:roles) OR own_role = ANY (:roles)))
    OR EXISTS (SELECT FROM group_members m JOIN groups g ON g.id = m.group_id
               WHERE m.zone = :zone AND g.role = ANY (:roles))
    OR EXISTS (SELECT FROM oncall_overrides WHERE zone = :zone)
    OR EXISTS (SELECT FROM escalation_steps WHERE zone = :zone AND state = 'done')
"""
