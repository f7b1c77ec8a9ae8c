"""The handover statement, and what has to be so before it is made. A pure function of facts; no prose sets anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from bailiwick.handover.ports import OpenIncident, Stage, Standing
from bailiwick.kernel.severity import Severity

STATEMENT = (
    "The platform has been successfully handed over to the BAU operating model. Ownerships are assigned, the"
    " operational rhythm is established, and control points are defined. Open risks will be tracked and closed via the"
    " roadmap and waiver register."
)
"""Section 7 of the operating handoff, word for word."""

RHYTHM = ("weekly", "bi-weekly", "monthly")
CHECKPOINT_DAYS = (7, 14, 30)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is so at the moment of acceptance.

    ``accountable``: who answers for each activity of the book, and of the four planes, empty for nobody. ``next``: when
    an attended ceremony of each cadence is held next, None for never. ``checkpoints``: the days after go-live on which
    there is one. ``untracked``: open risks that nobody owns or that have no day; ``lapsed``: waivers past their end and
    not remedied.
    """

    stage: Stage | None
    hypercare: Standing | None
    readiness: Standing | None
    incidents: Sequence[OpenIncident]
    accountable: Mapping[str, str]
    next: Mapping[str, datetime | None]
    checkpoints: frozenset[int]
    untracked: Sequence[str] = ()
    lapsed: Sequence[str] = ()
    unheeded: Sequence[str] = field(default_factory=tuple)  # statements of the pack that are not green


def unmet(facts: Facts) -> list[str]:
    """Each condition that does not hold, in a line; empty when the statement may be made."""
    return [*_handed_over(facts), *_owned(facts), *_rhythm(facts), *_control_points(facts), *_risks(facts)]


def _handed_over(facts: Facts) -> list[str]:
    found = [f"statement {each} is neither PASS nor waived" for each in facts.unheeded]
    if facts.stage is None:
        found.append("nobody declared the environment")
    elif facts.stage != "hypercare":
        found.append(f"the environment is {facts.stage}, not in hypercare")
    for name, standing in (("hypercare", facts.hypercare), ("readiness", facts.readiness)):
        if standing is None:
            found.append(f"{name} is not known")
        elif not standing.passes:
            told = ", ".join(point.name for point in standing.blockers[:5])
            found.append(f"{name} is {standing.verdict}{f': {told}' if told else ''}")
    severe = [each for each in facts.incidents if each.severity in (Severity.P0, Severity.P1)]
    return found + [f"incident {each.id} ({each.severity}) is open: {each.title}" for each in severe]


def _owned(facts: Facts) -> list[str]:
    if not facts.accountable:
        return ["no activity has an owner"]
    return [f"nobody answers for {name}" for name, person in sorted(facts.accountable.items()) if not person]


def _rhythm(facts: Facts) -> list[str]:
    return [f"no {cadence} review is to be held" for cadence in RHYTHM if facts.next.get(cadence) is None]


def _control_points(facts: Facts) -> list[str]:
    return [f"there is no checkpoint T+{day}" for day in CHECKPOINT_DAYS if day not in facts.checkpoints]


def _risks(facts: Facts) -> list[str]:
    risks = [f"risk {name} has no owner or day" for name in facts.untracked]
    return risks + [f"waiver {name} is past its end" for name in facts.lapsed]
