"""Letting a disabled account in again, which lifts a block and so takes two persons.

Who agrees sees whose account it is, what it may, and what else would change with it, as the account stands: a change of
it in between asks anew. Whom it concerns does not agree to it, nor does an account of his.

SCIM is the provider's word on who works here: the account by which it comes may take back its own ``active: false``
alone. What was disabled here, by a person or because nobody used it, or by another account, it does not undo.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from bailiwick.evidence.approvals import asker_of
from bailiwick.evidence.events import Context
from bailiwick.kernel.agreement import given
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.permissions import Permission
from bailiwick.kernel.quorum import Action, Approval, Quorum, Terms

ENABLE = Action("user.enable", Permission.OVERRIDES_APPROVE, life=timedelta(hours=24))
HERE = "here"


def provider(context: Context) -> str:
    """How it is kept that SCIM disabled an account, and by whose account; where nothing says, it was :data:`HERE`."""
    return f"scim:{context.actor.user}"


async def agreed(
    quorum: Quorum,
    tx: Transaction,
    context: Context,
    *,
    identifier: str,
    username: str,
    version: int,
    change: Mapping[str, Any],
    shown: Mapping[str, Any],
) -> Approval:
    """The approval of enabling that account with ``change``, ``executed`` where it was given; else what is waited for.

    Called in the transaction that enables it, with the account locked.
    """
    by, signed_in = asker_of(context)
    return await given(
        quorum,
        tx,
        context,
        context.zone,
        ENABLE.name,
        {"user": identifier, "username": username, "version": version, "change": dict(change)},
        shown,
        by=by,
        reason=f"enable {username}",
        signed_in=signed_in,
        terms=Terms(roles=("admin", "security_owner"), window=timedelta(hours=24), concerns=username),
    )
