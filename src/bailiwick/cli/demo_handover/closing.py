"""What the week left to be done: the database's log is stored up to now, the week's service levels are reported."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from bailiwick.cli.demo.exchange import Answer
from bailiwick.cli.demo.telling import check
from bailiwick.cli.demo_handover.stage import ENVIRONMENT, Stage

_COVERED = timedelta(minutes=10)
_STORED_WITHIN_S = 60.0


async def close_week(stage: Stage) -> str:
    """A backup, with the log behind it; and a report on the service levels since production went live."""
    await asyncio.gather(_store(stage), _report(stage))
    return "Whatever was committed is stored beside the backup; what was promised was measured, and kept."


async def _store(stage: Stage) -> None:
    await stage.done("backup", "run")

    def covered(answer: Answer) -> bool:
        until = answer.body.get("log_covered_until")
        return until is not None and stage.now() - datetime.fromisoformat(until).timestamp() < _COVERED.total_seconds()

    found = await stage.quietly("olga", "GET", "/backups", until=covered, within=_STORED_WITHIN_S)
    check(covered(found), "a log that is stored up to now", found["log_covered_until"])
    stage.teller.note(f"the log is stored: everything until {found['log_covered_until'][:19]} UTC")


async def _report(stage: Stage) -> None:
    live = (await stage.quietly("olga", "GET", f"/environments/{ENVIRONMENT}"))["live_at"]
    since, until = (
        moment.replace(second=0, microsecond=0)
        for moment in (datetime.fromisoformat(live), datetime.fromtimestamp(stage.now(), UTC))
    )
    asked = {"kind": "slo-weekly", "since": since.isoformat(), "until": until.isoformat()}
    made = await stage.call("admin", "POST", "/reports", 201, asked, show=("verdict", "coverage"))
    check(made["verdict"] == "PASS", "service levels that were kept", made.text[:600])


__all__ = ["close_week"]
