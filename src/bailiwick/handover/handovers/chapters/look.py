"""What every chapter looks through: a transaction, a zone, a window; and how it says what it saw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from bailiwick.handover.ports import Statement
from bailiwick.kernel.db import Row, Transaction
from bailiwick.kernel.verdicts import Verdict

INSTALLATION_ZONE = "default"
"""Whose packs tell of the installation as a whole; it is no other zone's business."""

MOST = 60


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a window that ends now, or before."""

    tx: Transaction
    zone: str
    environment: str
    since: datetime
    until: datetime

    def says(
        self,
        name: str,
        told: str,
        verdict: Verdict,
        figures: Mapping[str, object] | None = None,
        *,
        producer: str = "bailiwick",
        since: datetime | None = None,
        record: str = "",
    ) -> Statement:
        """A statement. ``since``: where the window that it is of begins, if not where the pack's does."""
        return Statement(name, told, verdict, producer, since or self.since, self.until, figures or {}, record)

    async def last_run(self, job: str) -> Row | None:
        """The newest run of a job that ended, with its state; None where it never ran."""
        return await self.tx.one(
            "SELECT job, due_at, state, finished_at FROM job_occurrences WHERE job = :job"
            " AND state IN ('succeeded', 'failed', 'missed') AND due_at <= :until ORDER BY due_at DESC LIMIT 1",
            job=job,
            until=self.until,
        )

    async def ran(self, name: str, told: str, job: str, within: timedelta) -> Statement:
        """That a job did what it is for: PASS when its newest run succeeded, and lately."""
        run = await self.last_run(job)
        figures = {"job": job, "within_s": int(within.total_seconds())}
        if run is None:
            return self.says(name, f"{told}: {job} never ran", Verdict.NO_DATA, figures, producer=f"job:{job}")
        at, state = run["finished_at"] or run["due_at"], run["state"]
        verdict = Verdict.PASS if state == "succeeded" else Verdict.FAIL
        if verdict.green and self.until - at > within:
            verdict = Verdict.STALE
        figures |= {"state": state, "at": at}
        return self.says(name, f"{told}: {state} at {at:%Y-%m-%d %H:%M} UTC", verdict, figures, producer=f"job:{job}")


def cut(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows for figures, at most :data:`MOST`, and how many are left out."""
    return {"rows": rows[:MOST]} | ({"left_out": len(rows) - MOST} if len(rows) > MOST else {})


def fails(bad: bool) -> Verdict:
    """FAIL where something is wrong, else PASS."""
    return Verdict.FAIL if bad else Verdict.PASS


def judged(good: bool, there: bool = True) -> Verdict:
    """PASS for what is good, FAIL for what is not, NO_DATA where there is nothing to judge."""
    return Verdict.NO_DATA if not there else fails(not good)
