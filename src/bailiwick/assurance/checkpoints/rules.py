"""What a checkpoint asks, and the three rules: pure functions of facts and an instant.

The floors are those of the operating model (T+7, T+14, T+30); a document may ask for more, never for less.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from bailiwick.assurance.book import Kind
from bailiwick.assurance.ports import CapacityFact, Drill, OpenWaiver, Run, SloFact
from bailiwick.kernel.fields import Body, Line, Name
from bailiwick.kernel.verdicts import Verdict, worst

Rule = Literal["waivers", "automation", "measured"]
GRAVE = frozenset({"HIGH", "CRITICAL"})


class ChecksOf(Body):
    """The check of each document of a kind: the name of its job, with ``{name}`` and ``{zone}`` in it."""

    kind: Name
    job: Annotated[Line, Field(min_length=1)]


class Checkpoint(Body):
    """Something that must be so ``after_days`` days after ``platform`` went live. ``owner``: an activity of the RACI.

    ``automation`` looks at the runs of ``checks``, by the names of their jobs (``{zone}`` is the zone's), and of
    those that ``checks_of`` finds for the documents in force, over ``run_days``; and at the newest drill (of each
    of ``drills``, where rules are named). ``measured`` looks at the days of valid samples of every objective and at
    the weekly points of every resource.
    """

    title: Annotated[Line, Field(min_length=1)]
    after_days: Annotated[int, Field(ge=0, le=3660)]
    platform: Name = "default"
    rule: Rule
    owner: Annotated[Line, Field(min_length=1)]
    checks: Annotated[list[Annotated[Line, Field(min_length=1)]], Field(max_length=20)] = Field(default_factory=list)
    checks_of: Annotated[list[ChecksOf], Field(max_length=20)] = Field(default_factory=list)
    drills: Annotated[list[Annotated[Line, Field(min_length=1)]], Field(max_length=20)] = Field(default_factory=list)
    run_days: Annotated[int, Field(ge=7, le=90)] = 7
    run_percent: Annotated[int, Field(ge=95, le=100)] = 95
    sample_days: Annotated[int, Field(ge=28, le=366)] = 28
    weekly_points: Annotated[int, Field(ge=4, le=52)] = 4

    @model_validator(mode="after")
    def _whole(self) -> Checkpoint:
        if self.rule == "automation" and not self.checks and not self.checks_of:
            raise ValueError("of automation names the checks whose runs it looks at")
        if self.rule == "measured" and self.after_days < self.sample_days:
            raise ValueError("of measurement is due no sooner than its days of samples can be over")
        return self


def _weaker(before: Checkpoint | None, after: Checkpoint | None) -> bool:
    return before is not None and before != after


CHECKPOINT = Kind("Checkpoint", Checkpoint, two_persons=_weaker)


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about one thing."""

    subject: str
    verdict: Verdict
    told: str
    figures: Mapping[str, int | str] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "subject": self.subject,
            "verdict": str(self.verdict),
            "told": self.told,
            "figures": dict(self.figures),
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """An approved plan for closing a waiver, that was in force at the instant asked about."""

    id: str
    waiver: str
    due: date


def judge(findings: Iterable[Finding]) -> Verdict:
    """The verdict of all; of none, NO_DATA."""
    return worst(each.verdict for each in findings)


def waivers(found: Sequence[OpenWaiver] | None, plans: Sequence[Plan], at: datetime) -> list[Finding]:
    """T+7: no HIGH or CRITICAL waiver is open without a plan that a second person approved and that is not past."""
    if found is None:
        return [Finding("waivers", Verdict.NO_DATA, "There is no register of waivers to ask.")]
    grave = [each for each in found if each.risk in GRAVE]
    planned = {plan.waiver: plan for plan in plans if plan.due >= at.astimezone(UTC).date()}
    told = [
        Finding(f"waiver {each.id}", Verdict.PASS, f"{each.control}: closed by plan {planned[each.id].id}")
        if each.id in planned
        else Finding(f"waiver {each.id}", Verdict.FAIL, f"{each.control}: {each.risk}, open, and no approved plan")
        for each in grave
    ]
    figures = {"open": len(found), "grave": len(grave)}
    return [Finding("waivers", Verdict.PASS, f"{len(found)} open, {len(grave)} of them grave", figures), *told]


def checks(spec: Checkpoint, zone: str, names: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The jobs that are looked at, by what asks for them. ``names``: the documents in force, by kind."""
    found = {check: [check.replace("{zone}", zone)] for check in spec.checks}
    for each in spec.checks_of:
        jobs = [each.job.replace("{name}", name).replace("{zone}", zone) for name in names.get(each.kind, ())]
        found[f"every {each.kind}"] = jobs
    return found


def automation(
    spec: Checkpoint,
    wanted: Mapping[str, Sequence[str]],
    runs: Mapping[str, Run | None],
    drills: Sequence[Drill] | None,
) -> list[Finding]:
    """T+14: every check ran on time in its share of due slots, and an injected fault had its alert delivered.

    ``wanted``: the jobs looked at, by what asks for them (:func:`checks`); what asks for none finds nothing.
    """
    told: list[Finding] = []
    for asked, jobs in wanted.items():
        if not jobs:
            told.append(Finding(asked, Verdict.NO_DATA, "There is none in force."))
        told += [_runs(job, runs.get(job), spec.run_percent) for job in jobs]
    if drills is None:
        return [*told, Finding("drill", Verdict.NO_DATA, "Nobody keeps alarm drills.")]
    for rule in spec.drills or [""]:
        found = [each for each in drills if not rule or each.rule == rule]
        told.append(_drill(f"drill {rule}".strip(), found))
    return told


def _runs(name: str, run: Run | None, percent: int) -> Finding:
    if run is None or run.due <= 0:
        return Finding(name, Verdict.NO_DATA, "It was never due.")
    figures = {"due": run.due, "on_time": run.on_time, "green": run.green}
    if run.on_time > run.due:
        return Finding(name, Verdict.ERROR, "It ran more often than it was due.", figures)
    # whole numbers: 95 % is 95 %, and no float rounds 94.99 up to it
    enough = 100 * run.on_time >= percent * run.due
    share = f"{run.on_time} of {run.due} due slots on time"
    return Finding(name, Verdict.PASS if enough else Verdict.FAIL, f"{share}, wanted {percent} %", figures)


def _drill(subject: str, found: Sequence[Drill]) -> Finding:
    if not found:
        return Finding(subject, Verdict.NO_DATA, "No fault was injected to see the alarm go.")
    newest = max(found, key=lambda each: each.injected_at)
    delivered = newest.delivered_at is not None and newest.delivered_at >= newest.injected_at
    if newest.fired_at is None or not delivered:
        what = "delivered nothing" if newest.fired_at is not None else "raised no alert"
        return Finding(subject, Verdict.FAIL, f"The newest drill, {newest.id}, {what}.")
    assert newest.delivered_at is not None  # as delivered says
    seconds = int((newest.delivered_at - newest.injected_at) / timedelta(seconds=1))
    return Finding(subject, Verdict.PASS, f"Drill {newest.id} was delivered after {seconds} s.", {"seconds": seconds})


def measured(
    spec: Checkpoint, slos: Sequence[SloFact] | None, capacity: Sequence[CapacityFact] | None
) -> list[Finding]:
    """T+30: every objective has its days of valid samples and a report; every resource its weekly points and one."""
    told: list[Finding] = []
    if not slos:
        told.append(Finding("service levels", Verdict.NO_DATA, "No objective is measured."))
    told += [
        _enough(f"slo {slo.slo}", slo.valid_days, spec.sample_days, "days of valid samples", slo.reports)
        for slo in slos or ()
    ]
    if not capacity:
        told.append(Finding("capacity", Verdict.NO_DATA, "No resource is measured."))
    for each in capacity or ():
        subject = f"capacity {each.resource}"
        told.append(_enough(subject, each.weekly_points, spec.weekly_points, "weekly points", each.reports))
    return told


def _enough(subject: str, there: int, wanted: int, what: str, reports: int) -> Finding:
    figures = {"there": there, "wanted": wanted, "reports": reports}
    if there < wanted:
        return Finding(subject, Verdict.NO_DATA, f"{there} of {wanted} {what}", figures)
    if reports < 1:
        return Finding(subject, Verdict.FAIL, f"{there} {what}, and no report was published", figures)
    return Finding(subject, Verdict.PASS, f"{there} {what}, {reports} reports", figures)
