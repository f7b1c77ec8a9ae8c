"""What a handover pack says of an environment: where it stands, what was validated, how hypercare went."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from bailiwick.assurance.rhythm.occurrences import utc
from bailiwick.handover.environments.hypercare import Hypercare
from bailiwick.handover.environments.states import EnvironmentStates, moves
from bailiwick.handover.environments.validation import Validation
from bailiwick.handover.ports import Statement
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.verdicts import Verdict

_PRODUCER = "environments:keep"
_LIVE = frozenset({"live", "hypercare", "bau_active"})


class EnvironmentChapter:
    """Where it stands, and by which steps it came there."""

    def __init__(self, states: EnvironmentStates) -> None:
        self._states = states

    async def __call__(
        self, tx: Transaction, zone: str, environment: str, since: datetime, until: datetime
    ) -> Sequence[Statement]:
        found = await self._states.require(tx, zone, environment)
        stage = Verdict.PASS if found.stage in _LIVE else Verdict.NOT_DUE
        steps = await moves(tx, zone, environment)
        told = [
            Statement(
                "stage", f"{environment} is {found.stage}", stage, _PRODUCER, since, until,
                figures={
                    "platform": found.spec.platform, "purpose": found.spec.purpose, "profile": found.spec.profile,
                    "has": ", ".join(found.spec.has) or "-", "digest": found.digest or "-",
                    "live_at": found.live_at.isoformat() if found.live_at else "-",
                },
            )
        ]  # fmt: skip
        told += [
            Statement(
                f"step-{each['number']}", f"{each['before']} to {each['after']}: {each['told']}", Verdict.PASS,
                each["by"] or _PRODUCER, since, until, figures={"at": each["at"].isoformat()},
            )
            for each in steps
        ]  # fmt: skip
        for life in found.lives:
            how = f"rollout {life.rollout}" if life.rollout else f"approval {life.approval}"
            told.append(
                Statement(
                    f"release-{life.number}", f"{life.digest or 'a release of unknown digest'} by {how}", Verdict.PASS,
                    life.by or _PRODUCER, since, until, figures={"at": life.at.isoformat()},
                )
            )  # fmt: skip
        return told


class ValidationChapter:
    """How the suites of the newest release stand, and hypercare, slot by slot where one is not green."""

    def __init__(self, states: EnvironmentStates, validation: Validation, hypercare: Hypercare) -> None:
        self._states = states
        self._validation = validation
        self._hypercare = hypercare

    async def __call__(
        self, tx: Transaction, zone: str, environment: str, since: datetime, until: datetime
    ) -> Sequence[Statement]:
        told = []
        for name, point in (await self._validation.points(tx, zone, environment)).items():
            figures = {"waiver": point.waiver} if point.waiver else {}
            told.append(
                Statement(
                    f"validation-{name}",
                    point.told,
                    point.verdict,
                    _PRODUCER,
                    since,
                    until,
                    figures,
                    _named(point.record),
                    waiver=point.waiver,
                )
            )
        standing = await self._hypercare.standing(tx, zone, environment)
        figures_of = dict(standing.figures)
        told.append(
            Statement(
                "hypercare", f"{figures_of.get('green', 0)} of {figures_of.get('slots', 0)} slots are green",
                standing.verdict, _PRODUCER, since, until, figures_of,
            )
        )  # fmt: skip
        found = await self._states.require(tx, zone, environment)
        for slot in await self._hypercare.slots(tx, zone, found):
            if slot.verdict not in (Verdict.PASS, Verdict.NOT_DUE):
                waived = {"waiver": slot.waiver} if slot.waiver else {}
                told.append(
                    Statement(
                        f"slot-{utc(slot.at)}", slot.told, slot.verdict, _PRODUCER, since, until, waived,
                        _named(slot.record), waiver=slot.waiver,
                    )
                )  # fmt: skip
        return told


def _named(record: str) -> str:
    return f"sha256:{record}" if record else ""
