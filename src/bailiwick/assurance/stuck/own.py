"""The state machines of our own work, each with the query that tells where everything is that waits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from bailiwick.kernel.db import Transaction
from bailiwick.kernel.errors import Conflict
from bailiwick.kernel.jobs import make_due
from bailiwick.kernel.machine import Machine

Requeue = Callable[[Transaction, str, str, datetime], Awaitable[str]]
"""Start (item, in state) again at an instant; what came of it."""


@dataclass(frozen=True, slots=True)
class Own:
    """``sql`` answers item, state, entered_at and owner of all that is not final, for ``:zone``."""

    machine: Machine
    sql: str
    requeue: Requeue | None = None


async def _job_again(tx: Transaction, item: str, state: str, now: datetime) -> str:
    """Jobs bear being run twice (``kernel/jobs.py``). One that runs is not doubled: its lease tells when it died."""
    if state == "running":
        raise Conflict("It runs; when its process has died, another takes it over by itself.", reason="not_idempotent")
    job, _, _ = item.rpartition(" ")
    await make_due(tx, job, now)
    return "due now"


OWN_MACHINES: dict[str, Own] = {
    "jobs": Own(
        Machine(
            "job",
            {
                "due": ("running", "missed"),
                "running": ("succeeded", "failed", "due"),
                "succeeded": (),
                "failed": (),
                "missed": (),
            },
        ),
        """
        SELECT job || ' ' || to_char(due_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS item, state,
               CASE state WHEN 'running' THEN coalesce(started_at, due_at) ELSE due_at END AS entered_at, '' AS owner
        FROM job_occurrences WHERE state IN ('due', 'running')
          AND (job LIKE '%@' || :zone OR :zone = 'default' AND job NOT LIKE '%@%')""",
        _job_again,
    ),
    "approvals": Own(
        Machine(
            "approval",
            {
                "open": ("executed", "rejected", "withdrawn", "expired"),
                **dict.fromkeys(("executed", "rejected", "withdrawn", "expired"), ()),
            },
        ),
        """
        SELECT id AS item, 'open' AS state, requested_at AS entered_at, requested_by AS owner FROM approvals
        WHERE zone = :zone AND ended IS NULL""",
    ),
    "outbox": Own(
        Machine("event", {"waiting": ("sequenced",), "sequenced": ()}),
        "SELECT id::text AS item, 'waiting' AS state, at AS entered_at, '' AS owner FROM outbox WHERE zone = :zone",
    ),
    # a cursor that has all there is has nothing to wait for; one that has not, moves or is stuck
    "siem-cursors": Own(
        Machine("cursor", {"behind": ("level",), "level": ()}),
        """
        SELECT s.name AS item, 'behind' AS state, c.updated_at AS entered_at, '' AS owner
        FROM siem_cursors c JOIN siem_sinks s ON s.id = c.sink
        WHERE c.zone = :zone AND s.enabled AND c.next_seq < coalesce(
          (SELECT max(first + count) FROM ledger.hashes h WHERE h.zone = c.zone AND h.level = 0), 0)""",
    ),
    "siem-dead-letters": Own(
        Machine("dead letter", {"dead": ("delivered",), "delivered": ()}),
        """
        SELECT d.id::text AS item, 'dead' AS state, d.at AS entered_at, s.name AS owner
        FROM siem_dead_letters d JOIN siem_sinks s ON s.id = d.sink WHERE d.zone = :zone AND d.delivered_at IS NULL""",
    ),
    "findings": Own(
        Machine(
            "finding",
            {"open": ("acknowledged",), "acknowledged": ("resolved",), "resolved": ("verified",), "verified": ()},
        ),
        """
        SELECT f.id AS item, f.state, coalesce((
                 SELECT max(m.at) FROM reconciliation_moves m WHERE m.finding = f.id AND m.state = f.state), f.found_at)
               AS entered_at, coalesce(f.acknowledged_by, '') AS owner
        FROM reconciliation_findings f
        WHERE f.zone = :zone AND (f.state IN ('open', 'acknowledged') OR f.state = 'resolved' AND f.verified_at IS NULL)
        """,
    ),
}
