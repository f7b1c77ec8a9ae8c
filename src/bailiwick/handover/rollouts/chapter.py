"""The chapter of handover packs on releases: what is out, what it would go back to, and what went out before."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from bailiwick.handover.ports import Statement
from bailiwick.handover.rollouts import records
from bailiwick.handover.rollouts.records import Rollout
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.verdicts import Verdict

_PRODUCER = "rollouts"


async def chapter(
    tx: Transaction, zone: str, environment: str, since: datetime, until: datetime
) -> Sequence[Statement]:
    """Versions, the revision it would be rolled back to, and the history of the window."""
    found = [each for each in await records.since(tx, zone, environment, since) if each.planned_at <= until]
    current = await records.last_done(tx, zone, environment)
    before = await records.last_done(tx, zone, environment, before=current.id) if current is not None else None

    def statement(name: str, told: str, verdict: Verdict, **figures: object) -> Statement:
        return Statement(name, told, verdict, _PRODUCER, since, until, figures)

    versions = (
        statement("version", f"{current.digest} went out as {current.name}", Verdict.PASS, **_figures(current))
        if current is not None
        else statement("version", "no rollout has been done here", Verdict.NO_DATA)
    )
    back = (
        statement(
            "rollback-revision", f"{before.digest}, which {before.name} brought", Verdict.PASS, **_figures(before)
        )
        if before is not None
        else statement("rollback-revision", "nothing went out before, so there is none", Verdict.NO_DATA)
    )
    ended = [each for each in found if each.outcome]
    stuck = [each.name for each in found if each.state == "stuck" or "NOT taken back" in each.told]
    verdict = Verdict.FAIL if stuck else Verdict.PASS if ended else Verdict.NO_DATA
    told = f"{len(ended)} ended" + (f"; half-way: {', '.join(stuck)}" if stuck else "")
    history = statement("history", told, verdict, rollouts=[_figures(each) for each in found[:50]])
    return [versions, back, history]


def _figures(rollout: Rollout) -> dict[str, object]:
    return {
        "rollout": rollout.name,
        "digest": rollout.digest,
        "plan": f"{rollout.plan_name} {rollout.plan_version}",
        "state": rollout.state,
        "began": rollout.began_at.isoformat() if rollout.began_at else "",
        "ended": rollout.ended_at.isoformat() if rollout.ended_at else "",
        "rollback_s": rollout.rollback_s if rollout.rollback_s is not None else "",
        "answer": rollout.answer,
    }
