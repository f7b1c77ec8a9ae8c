"""Actions of containment that were done, and whether every worker is known to have them.

The act and its row are one transaction, so there is no half of it. What a dead process leaves open is only whether
every worker had heard: that is found out afterwards, and told either way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from bailiwick.assurance.override_records import Override
from bailiwick.handover.incidents.containment import Preview
from bailiwick.kernel.db import Transaction

LEFT = timedelta(seconds=30)
"""After how long an action that nobody settled belongs to a process that ended: settling takes a second or two."""

_ALIVE = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Unsettled:
    """An action of which it is not known that every worker has it."""

    override: str
    incident: str
    zone: str
    action: str
    done_at: datetime


async def note_containment(tx: Transaction, incident: str, seen: Preview, override: Override, now: datetime) -> None:
    """Keep that it is done, in the transaction that does it."""
    await tx.run(
        "INSERT INTO incident_containments (override, incident, action, sha256, by, done_at, uncut)"
        " VALUES (:override, :incident, :action, :sha256, :by, :now, :uncut)",
        override=override.id,
        incident=incident,
        action=seen.action,
        sha256=seen.sha256,
        by=override.executed_by or "",
        now=now,
        uncut=[*seen.uncut],
    )


async def settled(tx: Transaction, override: str, now: datetime) -> bool:
    """Every worker has it, or is fenced off; whether that was new."""
    return bool(
        await tx.run(
            "UPDATE incident_containments SET settled_at = :now WHERE override = :override AND settled_at IS NULL",
            now=now,
            override=override,
        )
    )


async def containment_of(tx: Transaction, incident: str, action: str, sha256: str, since: datetime) -> str | None:
    """The override by which an action was done under a preview's hash, the last that was done at all, ``since`` then;
    None where it was not."""
    found: str | None = await tx.value(
        "SELECT CASE WHEN action = :action AND sha256 = :sha256 AND done_at >= :since THEN override END"
        " FROM incident_containments WHERE incident = :incident ORDER BY done_at DESC, override DESC LIMIT 1",
        since=since,
        incident=incident,
        action=action,
        sha256=sha256,
    )
    return found


async def unsettled_before(tx: Transaction, moment: datetime) -> Sequence[Unsettled]:
    """What was done before ``moment`` and never settled, oldest first."""
    rows = await tx.all(
        "SELECT c.override, c.incident, i.zone, c.action, c.done_at FROM incident_containments c"
        " JOIN incidents i ON i.id = c.incident WHERE c.settled_at IS NULL AND c.done_at < :moment"
        " ORDER BY c.done_at, c.override",
        moment=moment,
    )
    return [Unsettled(**row) for row in rows]


async def workers_behind(tx: Transaction, zone: str, now: datetime) -> Sequence[str] | None:
    """The live workers that lack a change of the zone; None where no worker lives, of which nothing is known."""
    wanted = await tx.value("SELECT coalesce(max(revision), 0) FROM feed WHERE zone = :zone", zone=zone)
    rows = await tx.all(
        "SELECT id, revision FROM workers WHERE fenced_at IS NULL AND seen_at > :since ORDER BY id",
        since=now - _ALIVE,
    )
    if not rows:
        return None
    return [row["id"] for row in rows if row["revision"] < wanted]
