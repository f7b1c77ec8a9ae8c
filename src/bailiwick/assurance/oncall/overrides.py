"""Stand-ins as they are stored. None is ever changed: a later one goes before it, or it is withdrawn, which ends it."""

from __future__ import annotations

from datetime import datetime

from bailiwick.assurance.oncall.rota import Override
from bailiwick.assurance.ports import Level
from bailiwick.kernel.db import Row, Transaction

# one that was withdrawn held until then
_SELECT = """
SELECT id, number, rota, level, username, begins_at, least(ends_at, withdrawn_at) AS ends_at, reason, made_by, made_at
FROM oncall_overrides
WHERE zone = :zone AND (withdrawn_at IS NULL OR withdrawn_at > begins_at) AND least(ends_at, withdrawn_at) > :since
  AND (:rota = '' OR rota = :rota) ORDER BY number
"""


async def standing_in(tx: Transaction, zone: str, *, since: datetime, rota: str = "") -> list[Override]:
    """What is not over at ``since``, in the order it was made."""
    return [override_of(row) for row in await tx.all(_SELECT, zone=zone, since=since, rota=rota)]


async def add(
    tx: Transaction,
    zone: str,
    identifier: str,
    rota: str,
    level: Level,
    username: str,
    begins: datetime,
    ends: datetime,
    reason: str,
    by: str,
    now: datetime,
) -> Override:
    """Store one."""
    row = await tx.one(
        "INSERT INTO oncall_overrides (id, zone, rota, level, username, begins_at, ends_at, reason, made_by, made_at)"
        " VALUES (:id, :zone, :rota, :level, :username, :begins, :ends, :reason, :by, :now) RETURNING *",
        id=identifier,
        zone=zone,
        rota=rota,
        level=level,
        username=username,
        begins=begins,
        ends=ends,
        reason=reason,
        by=by,
        now=now,
    )
    assert row is not None
    return override_of(row)


async def withdraw(tx: Transaction, zone: str, identifier: str, by: str, now: datetime) -> Override | None:
    """Take one back that is not over; None where there is none such."""
    row = await tx.one(
        "UPDATE oncall_overrides SET withdrawn_by = :by, withdrawn_at = :now"
        " WHERE zone = :zone AND id = :id AND withdrawn_at IS NULL AND ends_at > :now RETURNING *",
        zone=zone,
        id=identifier,
        by=by,
        now=now,
    )
    return override_of(row) if row is not None else None


def override_of(row: Row) -> Override:
    """A stored one."""
    return Override(
        row["id"],
        row["number"],
        row["rota"],
        row["level"],
        row["username"],
        row["begins_at"],
        row["ends_at"],
        row["reason"],
        row["made_by"],
        row["made_at"],
    )
