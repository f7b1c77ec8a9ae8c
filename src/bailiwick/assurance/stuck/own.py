"""The state machines of our own work, each with the query that tells where everything is that waits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from datetime import datetime

from bailiwick.assurance.alerting.alerts import ALERT
from bailiwick.assurance.canary_states import CANARY
from bailiwick.assurance.environment_states import STAGES
from bailiwick.assurance.handover_states import HANDOVER
from bailiwick.assurance.incident_states import INCIDENT
from bailiwick.assurance.notices.notices import DELIVERY
from bailiwick.assurance.override_records import MACHINE as OVERRIDE
from bailiwick.assurance.reconciliation.findings import LIFECYCLE as FINDING
from bailiwick.assurance.rhythm.occurrences import OCCURRENCE
from bailiwick.assurance.rollout_states import ROLLOUT
from bailiwick.assurance.tasks import MACHINE as TASK
from bailiwick.assurance.unused import MACHINE as UNUSED
from bailiwick.assurance.waivers import MACHINE as WAIVER
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.errors import Conflict
from bailiwick.kernel.jobs import make_due
from bailiwick.kernel.machine import Machine

Requeue = Callable[[Transaction, str, str, datetime], Awaitable[str]]
"""Start (item, in state) again at an instant; what came of it."""


@dataclass(frozen=True, slots=True)
class Own:
    """``sql`` answers item, state, entered_at and owner of all that waits, for ``:zone`` as of ``:until``; what waits
    for an instant that is known came into its state then. ``resting``: states that may be left and need not be."""

    machine: Machine
    sql: str
    requeue: Requeue | None = None
    resting: Collection[str] = ()

    @property
    def waiting(self) -> tuple[str, ...]:
        """The states in which something is still to happen."""
        return tuple(state for state in self.machine.waiting if state not in self.resting)


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
        # the database's clock dates them, so it tells their age
        """
        SELECT id::text AS item, 'waiting' AS state,
               cast(:until AS timestamptz) - (clock_timestamp() - at) AS entered_at, '' AS owner
        FROM outbox WHERE zone = :zone""",
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
        FINDING,
        # an accepted one waits from the end of its waiver on: a run over its period opens it again
        """
        SELECT f.id AS item, f.state, coalesce((
                 SELECT max(m.at) FROM reconciliation_moves m WHERE m.finding = f.id AND m.state = f.state), f.found_at)
               AS entered_at, coalesce(f.acknowledged_by, '') AS owner
        FROM reconciliation_findings f
        WHERE f.zone = :zone AND (f.state IN ('open', 'acknowledged') OR f.state = 'resolved' AND f.verified_at IS NULL)
        UNION ALL
        SELECT f.id, f.state,
               CASE w.state WHEN 'approved' THEN w.valid_until ELSE least(w.valid_until, w.changed_at) END,
               coalesce(f.accepted_by, '')
        FROM reconciliation_findings f JOIN waivers w ON w.id = f.waiver
        WHERE f.zone = :zone AND f.state = 'accepted' AND NOT (w.state = 'approved' AND w.valid_until > :until)""",
    ),
    "waivers": Own(
        WAIVER,
        """
        SELECT id AS item, state, entered_at, owner FROM (
          SELECT id, owner, zone, settled_at,
            CASE WHEN state <> 'approved' THEN state WHEN valid_until <= :until THEN 'expired'
                 WHEN valid_from <= :until THEN 'active' ELSE state END AS state,
            CASE WHEN state <> 'approved' THEN changed_at WHEN valid_until <= :until THEN valid_until
                 ELSE valid_from END AS entered_at
          FROM waivers) AS standing
        WHERE zone = :zone AND settled_at IS NULL
          AND state IN ('draft', 'submitted', 'approved', 'active', 'expired')""",
    ),
    "overrides": Own(
        OVERRIDE,
        """
        SELECT o.id AS item, CASE WHEN votes.enough THEN 'checked' ELSE 'requested' END AS state,
               CASE WHEN votes.enough THEN votes.last ELSE o.requested_at END AS entered_at, o.requested_by AS owner
        FROM overrides o JOIN approvals a ON a.id = o.approval CROSS JOIN LATERAL (
          SELECT count(*) FILTER (WHERE approves) >= a.needed AS enough, max(at) AS last
          FROM approval_votes v WHERE v.approval = a.id) AS votes
        WHERE o.zone = :zone AND o.state = 'requested' AND a.ended IS NULL AND a.expires_at > :until
        UNION ALL
        SELECT id, state, coalesce(executed_at, requested_at), coalesce(executed_by, requested_by) FROM overrides
        WHERE zone = :zone AND state IN ('executing', 'review_due')""",
    ),
    "notices": Own(
        DELIVERY,
        # what could not be delivered in all the time that we keep looks at is let go
        """
        SELECT d.id AS item, d.state, coalesce(CASE d.state WHEN 'dead' THEN (
                 SELECT max(a.at) FROM notice_attempts a WHERE a.delivery = d.id) END, d.created_at) AS entered_at,
               n.recipient AS owner
        FROM notice_deliveries d JOIN notices n ON n.id = d.notice
        WHERE d.zone = :zone AND (d.state = 'due' OR d.state = 'dead' AND d.created_at > :since)""",
        resting=("not_set_up",),
    ),
    "alerts": Own(
        ALERT,
        """
        SELECT id AS item, state, owner, CASE state
                 WHEN 'pending' THEN coalesce(pending_until, began_at) WHEN 'firing' THEN coalesce(fired_at, began_at)
                 WHEN 'acknowledged' THEN coalesce(acknowledged_at, began_at)
                 ELSE coalesce(resolved_at, began_at) END AS entered_at
        FROM alerts WHERE zone = :zone AND state IN ('pending', 'firing', 'acknowledged')
           OR zone = :zone AND state = 'resolved' AND resolved_at > :since""",
    ),
    "tasks": Own(
        TASK,
        """
        SELECT id AS item, state, due AS entered_at, owner FROM assurance_tasks
        WHERE zone = :zone AND ended_at IS NULL""",
    ),
    "ceremonies": Own(
        OCCURRENCE,
        """
        SELECT id AS item, state, ceremony AS owner, CASE state
                 WHEN 'scheduled' THEN starts_at WHEN 'pack_built' THEN ends_at
                 WHEN 'held' THEN coalesce(held_at, moved_at) ELSE moved_at END AS entered_at
        FROM rhythm_occurrences WHERE zone = :zone AND state IN ('scheduled', 'pack_built', 'held', 'overdue')""",
    ),
    "incidents": Own(
        INCIDENT,
        """
        SELECT 'INC-' || number AS item, state, commander AS owner, CASE state
                 WHEN 'open' THEN opened_at WHEN 'contained' THEN contained_at
                 WHEN 'recovered' THEN recovered_at ELSE reviewed_at END AS entered_at
        FROM incidents WHERE zone = :zone AND state <> 'closed'""",
    ),
    "rollouts": Own(
        ROLLOUT,
        """
        SELECT 'RO-' || number AS item, state, entered_at, coalesce(nullif(started_by, ''), planned_by) AS owner
        FROM rollouts WHERE zone = :zone AND outcome = ''""",
    ),
    "canaries": Own(
        CANARY,
        # of the step it is at, each of which has a time of its own
        """
        SELECT id AS item, state, phase_at AS entered_at, started_by AS owner FROM canaries
        WHERE zone = :zone AND state IN ('running', 'promoted')""",
    ),
    "environments": Own(
        STAGES,
        """
        SELECT e.name AS item, e.stage AS state, coalesce(m.at, e.live_at) AS entered_at, coalesce(m.by, '') AS owner
        FROM environments e LEFT JOIN LATERAL (
          SELECT at, by FROM environment_moves m WHERE m.zone = e.zone AND m.environment = e.name AND m.after = e.stage
          ORDER BY m.number DESC LIMIT 1) AS m ON true
        WHERE e.zone = :zone AND e.stage IN ('live', 'hypercare')""",
        resting=("planned",),
    ),
    "handovers": Own(
        HANDOVER,
        # signed since the last of the four signatures
        """
        SELECT h.id AS item, h.state, CASE h.state WHEN 'proposed' THEN h.built_at ELSE coalesce(
                 (SELECT max(s.at) FROM handover_signatures s WHERE s.handover = h.id), h.built_at) END AS entered_at,
               h.built_by AS owner
        FROM handovers h WHERE h.zone = :zone AND h.ended_at IS NULL""",
    ),
    "unused-reviews": Own(
        UNUSED,
        """
        SELECT id AS item, state, disable_at AS entered_at, owner FROM unused_reviews
        WHERE zone = :zone AND state = 'listed'""",
        resting=("disabled",),
    ),
}
