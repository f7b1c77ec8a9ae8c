"""The end of an account."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.identity.enabling import HERE
from bailiwick.identity.kept_out import keep_out
from bailiwick.identity.login.lockout import forget_failures
from bailiwick.identity.ports import Revoke
from bailiwick.identity.sessions import end_sessions
from bailiwick.identity.standing import administrates, require_an_administrator
from bailiwick.kernel import feed
from bailiwick.kernel.db import Transaction

if TYPE_CHECKING:
    from bailiwick.identity.users import User


async def remove_user(
    tx: Transaction, context: Context, user: User, recorder: Recorder, revocations: Revoke, now: datetime
) -> int:
    """Delete the locked ``user``, and end what he had; answers the feed revision to settle. Called last.

    The caller holds :func:`lock_administrators`. Who was disabled here stays so, whoever makes him an account again.
    Raises ``Conflict`` for the last administrator.
    """
    if user.disabled_by == HERE:
        await keep_out(tx, context, user.username, now)
    administrated = await administrates(tx, context.zone, user.username)
    ended = await end_sessions(tx, context.zone, user.username, now=now, reason="user deleted")
    keys = await tx.all(
        "DELETE FROM api_keys WHERE zone = :zone AND username = :u RETURNING id", zone=context.zone, u=user.username
    )
    await tx.run("DELETE FROM sessions WHERE zone = :zone AND username = :u", zone=context.zone, u=user.username)
    await forget_failures(tx, context.zone, user.username)
    await tx.run("DELETE FROM users WHERE id = :id", id=user.id)
    if administrated:
        await require_an_administrator(tx, context.zone)
    await recorder.record(
        tx,
        codes.USER_DELETED,
        "success",
        context,
        subject=Subject(id=user.username, type="user"),
        role=user.role,
        sessions_ended=len(ended),
    )
    # a namesake made later must find nothing of his in the workers' memory
    for key in keys:
        await feed.announce(tx, context.zone, "api_key", key["id"])
    await feed.announce(tx, context.zone, "user", user.username)
    return await revocations.revoke(tx, context, "user", user.username, "user deleted")
