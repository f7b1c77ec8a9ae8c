"""How well alerting goes: the figures of a window, computed from what was recorded.

The targets are the seed's: less than 5 % false alerts, P0 and P1 answered within 15 minutes and the others within an
hour, and nothing that happened without an alert. An alert that nobody judged yet leaves the share of false ones
unknown, and what is unknown is not green.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from bailiwick.assurance.alerting.alerts import find
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import InvalidRequest
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.severity import Severity
from bailiwick.kernel.verdicts import Verdict

WINDOW = timedelta(days=7)
MOST_FALSE = 0.05
MISSED_AFTER = timedelta(hours=1)
"""How long after something happened its alert may come."""

HappeningKind = Literal["test", "drill", "incident"]


@dataclass(frozen=True, slots=True)
class Fact:
    """One alert that fired in the window, as far as figures go."""

    severity: Severity
    fired_at: datetime
    acknowledged_at: datetime | None
    resolved_at: datetime | None
    closed_as: str | None


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that should have been alerted on."""

    kind: str
    reference: str
    began_at: datetime
    alert: str | None


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of a window. Shares are 0 to 1 and times are seconds; None where there is nothing to compute from."""

    since: datetime
    until: datetime
    verdict: Verdict
    reasons: Sequence[str]
    alerts: int
    by_severity: dict[str, int]
    true: int
    false: int
    duplicate: int
    unjudged: int
    precision: float | None
    noise: float | None
    false_share: float | None
    mtta_s: float | None
    mttr_s: float | None
    mtta_by_severity: dict[str, float]
    late: int
    happenings: int
    missed: Sequence[str]

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {name: getattr(self, name) for name in self.__slots__}


# ---------------------------------------------------------------------- rules


def answer_within(severity: Severity) -> timedelta:
    """What the seed calls a timely response: 15 minutes for P0 and P1, an hour for the others."""
    return timedelta(minutes=15) if severity in (Severity.P0, Severity.P1) else timedelta(hours=1)


def late(fact: Fact, now: datetime) -> bool:
    """Whether nobody acknowledged in time; what was over before nobody had to."""
    limit = fact.fired_at + answer_within(fact.severity)
    ends = [each for each in (fact.acknowledged_at, fact.resolved_at) if each is not None]
    return min(ends, default=now) > limit


def compute(facts: Sequence[Fact], happenings: Sequence[Happening], since: datetime, until: datetime) -> Figures:
    """The figures of the alerts that fired, and of what happened, between ``since`` and ``until``."""
    true, false, duplicate = (sum(fact.closed_as == each for fact in facts) for each in ("true", "false", "duplicate"))
    unjudged = sum(fact.closed_as is None for fact in facts)
    judged = true + false + duplicate
    missed = [
        f"{each.kind} {each.reference}"
        for each in happenings
        if each.alert is None and until - each.began_at >= MISSED_AFTER
    ]
    late_ones = sum(late(fact, until) for fact in facts)
    false_share = false / judged if judged else None
    failures = [f"missed: {each}" for each in missed]
    if late_ones:
        failures.append(f"{late_ones} acknowledged too late, or not yet")
    if false_share is not None and false_share >= MOST_FALSE:
        failures.append(f"{false_share:.1%} false alerts, of less than {MOST_FALSE:.0%}")
    blanks = [f"{unjudged} alerts nobody judged"] if unjudged else []
    if not facts and not happenings:
        blanks.append("neither an alert nor anything to be alerted on: nothing shows that alerting works")
    return Figures(
        since,
        until,
        Verdict.FAIL if failures else Verdict.NO_DATA if blanks else Verdict.PASS,
        [*failures, *blanks],
        len(facts),
        {str(severity): sum(fact.severity is severity for fact in facts) for severity in Severity},
        true,
        false,
        duplicate,
        unjudged,
        true / (true + false) if true + false else None,
        (false + duplicate) / judged if judged else None,
        false_share,
        _mean(_acknowledged(facts)),
        _mean((fact.resolved_at - fact.fired_at).total_seconds() for fact in facts if fact.resolved_at is not None),
        {
            str(severity): mean
            for severity in Severity
            if (mean := _mean(_acknowledged([fact for fact in facts if fact.severity is severity]))) is not None
        },
        late_ones,
        len(happenings),
        missed,
    )


def _acknowledged(facts: Sequence[Fact]) -> list[float]:
    return [(f.acknowledged_at - f.fired_at).total_seconds() for f in facts if f.acknowledged_at is not None]


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return round(sum(found) / len(found), 3) if found else None


# ---------------------------------------------------------------------- store and service


class AlertFigures:
    """Computes figures, and takes in what should have been alerted on: the ``Happenings`` port."""

    def __init__(self, database: Database, clock: Clock, ids: Ids, recorder: Recorder) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder

    async def of(
        self, tx: Transaction, zone: str, *, until: datetime | None = None, window: timedelta = WINDOW
    ) -> Figures:
        """The figures of the ``window`` before ``until`` (default: now)."""
        until = until or self._clock.now()
        since = until - window
        rows = await tx.all(
            "SELECT severity, fired_at, acknowledged_at, resolved_at, closed_as FROM alerts"
            " WHERE zone = :zone AND fired_at >= :since AND fired_at < :until ORDER BY id",
            zone=zone,
            since=since,
            until=until,
        )
        facts = [Fact(Severity(row["severity"]), *(row[name] for name in Fact.__slots__[1:])) for row in rows]
        rows = await tx.all(
            "SELECT kind, reference, began_at, alert FROM alert_happenings"
            " WHERE zone = :zone AND began_at >= :since AND began_at < :until ORDER BY began_at, reference",
            zone=zone,
            since=since,
            until=until,
        )
        return compute(facts, [Happening(**row) for row in rows], since, until)

    async def happened(
        self,
        tx: Transaction,
        context: Context,
        kind: HappeningKind,
        reference: str,
        began_at: datetime,
        alert: str | None,
    ) -> None:
        """Note a test, drill or incident, or what alert told of one that is noted. Raises ``not_found``."""
        if began_at > self._clock.now():
            raise InvalidRequest("What has happened did not begin in the future.")
        if alert is not None:
            await find(tx, context.zone, alert)
        user = context.actor.user or context.actor.application or "bailiwick"
        await tx.run(
            "INSERT INTO alert_happenings (id, zone, kind, reference, began_at, alert, noted_at, noted_by)"
            " VALUES (:id, :zone, :kind, :reference, :began_at, :alert, :now, :by)"
            " ON CONFLICT (zone, kind, reference) DO UPDATE"
            " SET alert = coalesce(EXCLUDED.alert, alert_happenings.alert)",
            id=self._ids(),
            zone=context.zone,
            kind=kind,
            reference=reference,
            began_at=began_at,
            alert=alert,
            now=self._clock.now(),
            by=user,
        )
        await self._recorder.record(
            tx,
            codes.ALERT_HAPPENING,
            "success",
            context,
            subject=Subject(id=reference, type=kind),
            kind=kind,
            alert=alert or "",
        )
