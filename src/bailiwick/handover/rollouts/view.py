"""A rollout as people see it: every step with what became of it, every gate, every signature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bailiwick.assurance.durations import span
from bailiwick.handover.rollouts.go import Signature
from bailiwick.handover.rollouts.plans import Phase, Step
from bailiwick.handover.rollouts.records import Rollout
from bailiwick.handover.rollouts.states import Attempt, Way, of_step


def shown(
    rollout: Rollout,
    attempts: Sequence[Attempt],
    decisions: Sequence[Mapping[str, Any]],
    signatures: Sequence[Signature],
    answer: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """All of it, in JSON values."""
    plan = rollout.plan
    return {
        **rollout.document(),
        "title": plan.title,
        "rollback_expected_s": int(span(plan.rollback_expected).total_seconds()),
        "rollback_within_s": int(span(plan.rollback_within).total_seconds()),
        "signatures": [
            {"by": each.by, "role": each.role, "says": each.says, "at": each.at.isoformat()} for each in signatures
        ],
        "last_answer": dict(answer) if answer is not None else None,
        "phases": [_phase(rollout, phase, attempts, decisions) for phase in plan.phases],
        "closing": [_step(rollout, step, attempts, "closing") for step in plan.closing],
        "decisions": [dict(each) for each in decisions],
    }


def _phase(
    rollout: Rollout, phase: Phase, attempts: Sequence[Attempt], decisions: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    gate = phase.gate
    passed = next((each for each in decisions if gate and each["gate"] == gate.name and each["what"] == "passed"), None)
    return {
        "name": phase.name,
        "title": phase.title,
        "window": phase.window,
        "duration": phase.duration,
        "before_go": phase.before_go,
        "steps": [_step(rollout, step, attempts, "forward") for step in phase.steps],
        "gate": {"name": gate.name, "title": gate.title, "passed_at": passed["at"] if passed else None}
        if gate is not None
        else None,
    }


def _step(rollout: Rollout, step: Step, attempts: Sequence[Attempt], way: Way) -> dict[str, Any]:
    made = of_step(attempts, step.name, way)
    last = made[-1] if made else None
    back = of_step(attempts, step.name, "back") if way == "forward" else []
    return {
        "name": step.name,
        "title": step.title,
        "kind": step.do.kind,
        "owner": str(rollout.plan.owner_of(step, step)),
        "duration": step.duration,
        "state": last.state if last is not None else "",
        "attempts": len(made),
        "took_s": int((last.ended_at - last.begun_at).total_seconds())
        if last is not None and last.ended_at is not None
        else None,
        "by": last.by if last is not None else "",
        "told": last.told if last is not None else "",
        "record": last.record if last is not None else "",
        "verification": last.verification if last is not None else "",
        "approval": last.approval if last is not None else "",
        "back": back[-1].state if back else ("" if step.back is not None else None),
    }
