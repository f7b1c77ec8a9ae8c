"""The chapter ``incidents`` of a handover pack: every incident of the window, how soon each was answered, what is left.

An incident passes when it is closed: recovered by measurement, reviewed, every action verified. A window without any
passes only where something looked all the while.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from bailiwick.assurance.ports import Runs
from bailiwick.handover.incidents.metrics import NAMES, medians
from bailiwick.handover.incidents.records import Incident, incident_of, select_all, times
from bailiwick.handover.ports import Statement
from bailiwick.kernel.db import Row, Transaction
from bailiwick.kernel.verdicts import Verdict

WATCH_JOB = "watch-incidents"
"""By which incidents open by themselves. Without it there being none would prove nothing."""

PRODUCER = f"job:{WATCH_JOB}"
MOST = 200
_ACTIONS = 50
_SILENT = timedelta(minutes=10)


# ---------------------------------------------------------------------- rules


def verdict_of(incident: Incident, at: datetime) -> Verdict:
    """Closed passes; what goes on fails; what is over fails once its review is late, and is not due before."""
    if incident.state == "closed" and incident.closed_at is not None and incident.closed_at <= at:
        return Verdict.PASS
    if incident.recovered_at is None or incident.recovered_at > at:
        return Verdict.FAIL
    late = incident.reviewed_at is None and incident.review_due is not None and incident.review_due < at
    return Verdict.FAIL if late else Verdict.NOT_DUE


def verdict_of_actions(actions: Sequence[Row], at: datetime) -> Verdict:
    """Verified passes; overdue fails; what there is time for is not due."""
    left = [each for each in actions if each["state"] != "verified"]
    if not left:
        return Verdict.PASS
    return Verdict.FAIL if any(each["due"] < at for each in left) else Verdict.NOT_DUE


# ---------------------------------------------------------------------- service


class IncidentChapter:
    """Builds it. Of security incidents the numbers are told, and not what they were."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    async def __call__(
        self, tx: Transaction, zone: str, environment: str, since: datetime, until: datetime
    ) -> Sequence[Statement]:
        """One statement of all, one an incident of the window (opened in it, or not closed when it began), one of
        the actions that reviews left."""
        rows = await tx.all(
            f"{select_all()} WHERE zone = :zone AND opened_at <= :until AND drill = ''"
            " AND (opened_at > :since OR closed_at IS NULL OR closed_at > :since) ORDER BY number LIMIT :most",
            zone=zone,
            since=since,
            until=until,
            most=MOST + 1,
        )
        found = [incident_of(row) for row in rows]
        actions = await tx.all(
            "SELECT i.number AS incident, i.class, a.number, a.title, a.owner, a.due, a.state FROM incident_actions a"
            " JOIN incidents i ON i.id = a.incident WHERE i.id = ANY (:ids) ORDER BY i.number, a.number",
            ids=[each.id for each in found],
        )
        told = [_of(each, [row for row in actions if row["incident"] == each.number], since, until) for each in found]
        return [await self._all(tx, zone, found, since, until), *told[:MOST], _actions(actions, since, until)]

    async def _all(
        self, tx: Transaction, zone: str, found: Sequence[Incident], since: datetime, until: datetime
    ) -> Statement:
        ran = await self._runs.of(tx, zone, WATCH_JOB, since, until)
        looked = bool(ran.green) and ran.last_at is not None and until - ran.last_at <= _SILENT
        burning = [each for each in found if each.recovered_at is None or each.recovered_at > until]
        if len(found) > MOST:
            verdict, said = Verdict.ERROR, f"more than {MOST} incidents: take a shorter window"
        elif burning:
            verdict, said = Verdict.FAIL, f"{', '.join(each.name for each in burning)} go on"
        elif not looked:
            verdict, said = Verdict.NO_DATA, f"nothing looked for incidents until the end: {WATCH_JOB} did not run"
        else:
            verdict, said = Verdict.PASS, f"{len(found)} incidents, none goes on"
        figures: dict[str, object] = {"incidents": len(found), "looked": ran.green, "looks_due": ran.due}
        for severity in sorted({each.severity for each in found}):
            figures[severity.value] = medians([each for each in found if each.severity is severity])
        return Statement("incidents", said, verdict, PRODUCER, since, until, figures)


def _of(incident: Incident, actions: Sequence[Row], since: datetime, until: datetime) -> Statement:
    left = sum(each["state"] != "verified" for each in actions)
    said = f"{incident.severity} {incident.heading}: {incident.state}, {left} of {len(actions)} actions left"
    figures: dict[str, object] = {
        "severity": incident.severity.value,
        "class": incident.class_,
        "state": incident.state,
        "opened_at": incident.opened_at.isoformat(),
        **{name: times(incident)[name] for name in NAMES},
        "reviewed_at": incident.reviewed_at.isoformat() if incident.reviewed_at else None,
        "review_late": bool(incident.review and incident.review.get("late")),
        "updates_missed": incident.updates_missed,
        "actions": len(actions),
        "actions_left": left,
        "evidence_pack": incident.pack,
    }
    return Statement(
        incident.name, said, verdict_of(incident, until), incident.recovered_by or PRODUCER,
        max(since, incident.opened_at), until, figures,
    )  # fmt: skip


def _actions(actions: Sequence[Row], since: datetime, until: datetime) -> Statement:
    left = [each for each in actions if each["state"] != "verified"]
    figures: dict[str, object] = {"actions": len(actions), "left": len(left)}
    for each in left[:_ACTIONS]:
        title = "of a security incident" if each["class"] == "security" else each["title"]
        said = f"{each['state']}, due {each['due']:%Y-%m-%d}, {each['owner']}: {title}"
        figures[f"INC-{each['incident']}/{each['number']}"] = said[:200]
    said = f"{len(left)} of {len(actions)} actions of reviews are not verified" if left else "every action is verified"
    return Statement("actions", said, verdict_of_actions(actions, until), PRODUCER, since, until, figures)
