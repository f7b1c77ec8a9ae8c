"""What a handover pack says of canaries: how the release that is out did before it went, and what else was judged.

A verdict counts for a day, for going out. What a pack says a week later is what was so when it went out; and that a
candidate was refused is no fault of what is out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from bailiwick.handover.canary.records import Result, newest_results, tally
from bailiwick.handover.ports import Statement
from bailiwick.handover.rollouts.records import Rollout, last_done
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.verdicts import Verdict

PRODUCER = "canary"
_TOLD = 50


async def chapter(
    tx: Transaction, zone: str, environment: str, since: datetime, until: datetime
) -> Sequence[Statement]:
    """The release that is out, and every verdict of the window. Canaries are of a zone, not of an environment."""
    found = await tally(tx, zone, since, until, _TOLD)
    out = await last_done(tx, zone, environment)
    history = Statement(
        name="history",
        told=f"{found.verdicts} verdicts, {found.refused} refused",
        verdict=Verdict.PASS if found.verdicts else Verdict.NO_DATA,
        producer=PRODUCER,
        since=since,
        until=until,
        figures={"verdicts": [_figures(each) for each in found.newest]},
    )
    began = None if out is None else out.began_at
    before = [] if out is None or began is None else await newest_results(tx, zone, out.digest, began)
    if out is None or began is None:
        # what runs here since before we knew of it had no canary: that can be waived, and no verdict ever is
        nothing = "no rollout has been done here"
        return [Statement("no-rollout", nothing, Verdict.NO_DATA, PRODUCER, since, until), history]
    return [replace(_of_release(out, before, since, until), waivable=False), history]


def _of_release(out: Rollout, results: Sequence[Result], since: datetime, until: datetime) -> Statement:
    """How it was judged last before it began to go out; ``results`` are the newest of each kind of its digest then."""
    judged = next((each for each in results if each.kind == "traffic"), None) or next(
        (each for each in results if each.own), None
    )
    if judged is None:
        told = f"{out.name} brought {out.digest[:19]}, of which there was no verdict"
        return Statement("release", told, Verdict.NO_DATA, PRODUCER, since, until)
    told = f"{out.name} brought {out.digest[:19]}: {judged.verdict}, {judged.told}"
    return Statement("release", told, Verdict(judged.verdict), PRODUCER, since, until, _figures(judged))


def _figures(each: Result) -> dict[str, object]:
    return {
        "digest": each.digest,
        "kind": each.kind,
        "verdict": each.verdict,
        "told": each.told[:200],
        "at": each.at.isoformat(),
        "canary": each.canary or "",
        "record": each.record,
        "shortened": each.shortened,
    }
