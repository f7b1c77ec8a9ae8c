"""The chapter of a handover pack: how each checklist stood at the end of the window, each item with its evidence."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from bailiwick.handover.ports import Statement
from bailiwick.handover.readiness import store
from bailiwick.handover.readiness.rules import Judged, score, standing
from bailiwick.handover.readiness.service import ReadinessDesk
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.errors import NotFound

PRODUCER = "bailiwick readiness"


class ReadinessChapter:
    """See :class:`~bailiwick.handover.ports.Chapter`."""

    def __init__(self, desk: ReadinessDesk) -> None:
        self._desk = desk

    async def __call__(
        self, tx: Transaction, zone: str, environment: str, since: datetime, until: datetime
    ) -> Sequence[Statement]:
        """A statement for each checklist, and one for each item; none where the book knows no such environment."""
        try:
            held = await self._desk.held(tx, zone, environment)
        except NotFound:
            return []
        judged = await self._desk.judged(tx, zone, held, until)
        run = next(iter(await store.runs(tx, zone, environment, until=until, limit=1)), None)
        record = _record(run.record) if run is not None else ""
        found: list[Statement] = []
        for checklist in held.profile.checklists:
            own = [each for each in judged if each.placed.checklist == checklist]
            stands, counted = standing(own, until), score(own)
            told = (
                f"{counted.green} of {counted.applicable} items are green, {counted.waived} waived,"
                f" {counted.open_must} in the way; {counted.outside} are for another profile"
            )
            found.append(Statement(checklist, told, stands.verdict, PRODUCER, since, until, counted.document(), record))
            found += [_of(each, since, until) for each in own]
        return found


def _of(judged: Judged, since: datetime, until: datetime) -> Statement:
    told = judged.document()
    names = ("area", "owner", "requirement", "applies", "shown_by", "waiver")
    figures = {**{name: told[name] for name in names}, "until": judged.until.isoformat() if judged.until else ""}
    return Statement(
        judged.placed.key,
        f"{judged.placed.item.title}: {judged.told}",
        judged.verdict,
        PRODUCER,
        min(since, judged.at) if judged.at is not None else since,
        until,
        figures,
        _record(judged.record) if judged.record else "",
    )


def _record(identifier: str) -> str:
    return f"sha256:{identifier}"
