"""The chapter of a handover pack: how each checklist stood at the end of the window, and each item that counts.

An item that has to hold is a statement of its own, by its evidence and the waiver that lets it pass. Those that ought
to hold, and those that another profile is held to, are listed and counted in the figures of their checklist: they
stand in nobody's way, so none of them takes a waiver.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from bailiwick.handover.ports import Statement
from bailiwick.handover.readiness import store
from bailiwick.handover.readiness.rules import Judged, score, standing
from bailiwick.handover.readiness.service import ReadinessDesk
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.errors import NotFound

PRODUCER = "bailiwick readiness"
MOST_LISTED = 60  # with what is told of each, they fit into the figures of a statement
_MOST_TOLD = 100


class ReadinessChapter:
    """See :class:`~bailiwick.handover.ports.Chapter`."""

    def __init__(self, desk: ReadinessDesk) -> None:
        self._desk = desk

    async def __call__(
        self, tx: Transaction, zone: str, environment: str, since: datetime, until: datetime
    ) -> Sequence[Statement]:
        """A statement for each checklist, and one for each item of it that has to hold; none where the book knows no
        such environment."""
        try:
            held = await self._desk.held(tx, zone, environment)
        except NotFound:
            return []
        judged = await self._desk.judged(tx, zone, held, until)
        reviews = await store.reviews(tx, zone, environment, until)
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
            figures = {**counted.document(), **_listed(own)}
            found.append(Statement(checklist, told, stands.verdict, PRODUCER, since, until, figures, record))
            found += [_of(each, reviews, since, until) for each in own if each.must]
        return found


# ---------------------------------------------------------------------- rules


def _listed(own: Sequence[Judged]) -> dict[str, object]:
    """What is not green and in nobody's way, by name: open items that ought to hold, and those of another profile."""
    should = [
        {"item": each.placed.item.key, "verdict": str(each.verdict), "waiver": each.waiver,
         "told": each.told[:_MOST_TOLD]}
        for each in own
        if each.applies and not each.must and not each.verdict.green
    ]  # fmt: skip
    outside = [each.placed.item.key for each in own if not each.applies]
    left_out = max(0, len(should) - MOST_LISTED) + max(0, len(outside) - MOST_LISTED)
    listed: dict[str, object] = {"ought_to_hold": should[:MOST_LISTED], "of_another_profile": outside[:MOST_LISTED]}
    return listed | ({"left_out": left_out} if left_out else {})


def _of(judged: Judged, reviews: Mapping[str, str], since: datetime, until: datetime) -> Statement:
    told = judged.document()
    figures = {
        **{name: told[name] for name in ("area", "owner", "requirement", "shown_by", "waiver")},
        "until": judged.until.isoformat() if judged.until else "",
    }
    review = reviews.get(judged.record)
    return Statement(
        judged.placed.key,
        f"{judged.placed.item.title}: {judged.told}",
        judged.verdict,
        PRODUCER,
        min(since, judged.at) if judged.at is not None else since,
        until,
        figures,
        _record(judged.record) if judged.record else "",
        beside=[_record(review)] if review else (),
        waivable=judged.placed.item.waivable,
        waiver=judged.waiver,
    )


def _record(identifier: str) -> str:
    return f"sha256:{identifier}"
