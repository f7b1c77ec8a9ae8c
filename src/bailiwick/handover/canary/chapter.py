"""What a handover pack says of canaries."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from bailiwick.handover.canary.records import results_of
from bailiwick.handover.ports import Statement
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.verdicts import Verdict


async def chapter(
    tx: Transaction, zone: str, environment: str, since: datetime, until: datetime
) -> Sequence[Statement]:
    """Every verdict of the window about a release, newest first. Canaries are of a zone, not of an environment."""
    found = [each for each in await results_of(tx, zone, since=since, limit=500) if each.at <= until]
    return [
        Statement(
            name=f"{each.kind} canary of {each.digest[:19]}",
            told=f"{each.reason}: {each.told}" if each.reason else each.told,
            verdict=Verdict(each.verdict),
            producer=each.by,
            since=each.began_at,
            until=each.at,
            figures={"digest": each.digest, "canary": each.canary or "", "steps": [dict(step) for step in each.steps]},
            record=f"sha256:{each.record}",
        )
        for each in found
    ]
