"""The states of a rollout, and what comes next in one: pure functions of the plan, the attempts and the clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from bailiwick.handover.rollouts.plans import Deed, Gate, Phase, Plan, Step

State = Literal[
    "planned",  # what comes before the Go/No-Go is being done
    "pending",  # it waits for signatures
    "go",
    "running",
    "waiting",  # for a person: to do a step, or to say what became of one
    "deciding",  # a trigger fired or a step failed: on, or back, before the timer ends
    "rolling_back",
    "stuck",  # taking back did not work: a person has to see to it
    "done",
    "rolled_back",
    "abandoned",
    "no_go",
]
Way = Literal["forward", "back", "closing"]

WORKED = ("planned", "running", "waiting", "deciding", "rolling_back")
"""States in which the work role has something to do."""
CHANGING = ("running", "waiting", "deciding", "rolling_back", "stuck")
"""States from the start on until it is over."""
AHEAD = ("running", "waiting", "deciding")
"""States in which it goes on, or may."""
OPEN = ("begun", "acted")
OUTCOMES = {"done": "done", "rolled_back": "rolled_back", "abandoned": "abandoned", "no_go": "abandoned"}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a step. ``acted_at``: when its action was done, after which only its verification is left.

    ``record`` and ``verification``: the evidence records of both. ``approval``: the request that it waits for.
    """

    number: int
    step: str
    way: Way
    state: Literal["begun", "acted", "passed", "failed", "lost"]
    begun_at: datetime
    acted_at: datetime | None = None
    since: datetime | None = None
    ended_at: datetime | None = None
    by: str = ""
    told: str = ""
    record: str = ""
    verification: str = ""
    approval: str = ""

    @property
    def open(self) -> bool:
        """Whether its outcome is not known yet."""
        return self.state in OPEN


@dataclass(frozen=True, slots=True)
class Due:
    """What comes next: a deed of a step, or passing the gate of a phase; neither: there is nothing left."""

    step: Step | None = None
    deed: Deed | None = None
    way: Way = "forward"
    gate: tuple[Phase, Gate] | None = None


def of_step(attempts: Sequence[Attempt], step: str, way: Way) -> list[Attempt]:
    """The attempts at one thing, oldest first."""
    return [each for each in attempts if each.step == step and each.way == way]


def passed(attempts: Sequence[Attempt], step: str, way: Way) -> bool:
    """Whether it was done."""
    return any(each.state == "passed" for each in of_step(attempts, step, way))


def counting(plan: Plan, attempts: Sequence[Attempt], after: int) -> list[Attempt]:
    """The attempts without those preflights, up to the attempt ``after``, that were to be made anew."""
    anew = {step.name for step in plan.steps(before_go=True) if step.do.kind == "preflight"}
    return [each for each in attempts if each.number > after or each.step not in anew]


def next_forward(plan: Plan, attempts: Sequence[Attempt], gates: Sequence[str], *, before_go: bool) -> Due:
    """The next step or gate, in the order of the plan, of what comes before the GO or after it."""
    for phase in plan.phases:
        if phase.before_go is not before_go:
            continue
        for step in phase.steps:
            if not passed(attempts, step.name, "forward"):
                return Due(step, step)
        if phase.gate is not None and phase.gate.name not in gates:
            return Due(gate=(phase, phase.gate))
    return Due()


def next_back(plan: Plan, attempts: Sequence[Attempt]) -> Due:
    """What is taken back next: the newest step that was begun, whatever became of it; then what closes."""
    begun: dict[str, int] = {}
    for attempt in attempts:
        if attempt.way == "forward":
            begun[attempt.step] = max(begun.get(attempt.step, 0), attempt.number)
    for name in sorted(begun, key=lambda each: -begun[each]):
        step = plan.step(name)
        if step is not None and step.back is not None and not passed(attempts, name, "back"):
            return Due(step, step.back, "back")
    for step in plan.closing:
        if not passed(attempts, step.name, "closing"):
            return Due(step, step, "closing")
    return Due()


def current_gate(plan: Plan, due: Due) -> Gate:
    """The decision point that counts while ``due`` is next."""
    if due.gate is not None:
        return due.gate[1]
    phase = plan.phase_of(due.step.name) if due.step is not None else plan.phases[-1]
    return phase.gate if phase is not None and phase.gate is not None else plan.gate


def confirmers(attempts: Sequence[Attempt], steps: Sequence[str]) -> set[str]:
    """Who confirmed any of ``steps``."""
    return {each.by for each in attempts if each.step in steps and each.by}
