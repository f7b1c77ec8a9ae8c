"""The lock after too many wrong passwords or codes. It knows names, not users: an unknown name locks the same way."""

from __future__ import annotations

from datetime import datetime, timedelta

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.kernel.db import Transaction

MAX_FAILURES = 10
LOCK = timedelta(minutes=15)

_SELECT_LOCK = "SELECT locked_until FROM login_failures WHERE zone = :zone AND username = :username"


async def locked_until(
    tx: Transaction, zone: str, username: str, now: datetime, *, lock: bool = False
) -> datetime | None:
    """Until when nobody signs in by that name, None when it is not locked."""
    until: datetime | None = await tx.value(
        f"{_SELECT_LOCK} FOR UPDATE" if lock else _SELECT_LOCK, zone=zone, username=username
    )
    return until if until is not None and until > now else None


async def counted_names(tx: Transaction, zone: str, *names: str) -> list[str]:
    """Those of ``names`` under which failures are counted now: for most people none."""
    rows = await tx.all(
        "SELECT username FROM login_failures WHERE zone = :zone AND username = ANY(:names)", zone=zone, names=[*names]
    )
    return [row["username"] for row in rows]


async def forget_failures(tx: Transaction, zone: str, username: str) -> None:
    """Forget failed sign-ins, and with them a lock: the person has proved himself."""
    await tx.run("DELETE FROM login_failures WHERE zone = :zone AND username = :username", zone=zone, username=username)


async def count_failure(tx: Transaction, recorder: Recorder, context: Context, username: str, now: datetime) -> None:
    """Count a failed attempt, which locks the name when it is the last one allowed."""
    row = await tx.one(
        "INSERT INTO login_failures AS f (zone, username, failures, last_at) VALUES (:zone, :username, 1, :now)"
        " ON CONFLICT (zone, username) DO UPDATE SET last_at = :now,"
        " failures = CASE WHEN f.last_at <= :forgotten THEN 1 ELSE f.failures + 1 END,"
        " locked_until = CASE WHEN f.last_at > :forgotten AND f.failures + 1 >= :most"
        " THEN cast(:until AS timestamptz) END"
        " RETURNING failures, locked_until",
        zone=context.zone,
        username=username,
        now=now,
        forgotten=now - LOCK,
        most=MAX_FAILURES,
        until=now + LOCK,
    )
    if row is not None and row["locked_until"] is not None:
        await recorder.record(
            tx,
            codes.AUTH_ACCOUNT_LOCKED,
            "failure",
            context,
            subject=Subject(id=username, type="user"),
            failures=row["failures"],
            minutes=int(LOCK.total_seconds() // 60),
        )
