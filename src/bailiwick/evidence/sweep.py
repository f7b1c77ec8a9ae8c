"""The sweep: the service checks its own ledger by the clock and says so when it does not hold.

What it finds stays found until a later sweep of the whole ledger passes: a part that holds does not clear a part that
did not.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from bailiwick.evidence import codes
from bailiwick.evidence.archive.reader import ColdEvents
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.evidence.ledger import HeadFiles
from bailiwick.evidence.verify import VerifyReport, verify
from bailiwick.kernel.db import Database
from bailiwick.kernel.errors import BailiwickError

NEWEST_JOB = "verify-newest-events"
WHOLE_JOB = "verify-whole-ledger"
ALERT = "audit_tamper_detected"
NEWEST = 100_000

log = structlog.get_logger(__name__)


class Sweep:
    """Checks every zone. ``cold`` is the archive; ``observe(zone, holds)`` feeds the metrics."""

    def __init__(
        self,
        database: Database,
        head_files: HeadFiles,
        recorder: Recorder,
        *,
        cold: ColdEvents | None = None,
        observe: Callable[[str, bool], None] = lambda zone, holds: None,
    ) -> None:
        self._cold = cold
        self._database = database
        self._head_files = head_files
        self._recorder = recorder
        self._observe = observe
        self.tampered: dict[str, str] = {}

    async def run(self, *, whole: bool) -> dict[str, int]:
        """Check the newest :data:`NEWEST` events of every zone, or all; answers how many were read and what was found.

        Each zone leaves an ``audit.verified`` event. Raises ``Unavailable`` when the database is away, and when the
        archive was, after the zones that do not need it.
        """
        async with self._database.begin() as tx:
            zones = [row["name"] for row in await tx.all("SELECT name FROM zones ORDER BY name")]
        checked = findings = 0
        away: BailiwickError | None = None
        for zone in zones:
            newest = None if whole else NEWEST
            try:
                report = await verify(self._database, zone, self._head_files, newest=newest, cold=self._cold)
            except BailiwickError as error:
                if error.reason != "archive_unavailable":
                    raise
                log.error("ledger could not be checked", zone=zone, why=error.detail)
                away = error
                continue
            checked += report.checked
            findings += report.findings_total
            self._judge(report)
            await self._note(report)
        if away is not None:
            raise away
        return {"zones": len(zones), "checked": checked, "findings": findings}

    def _judge(self, report: VerifyReport) -> None:
        first = report.first_bad
        if first is not None:
            self.tampered[report.zone] = f"{first.kind} at {first.seq}: {first.why}"
            log.critical(ALERT, zone=report.zone, kind=first.kind, seq=first.seq, why=first.why)
        elif report.complete:
            self.tampered.pop(report.zone, None)
        self._observe(report.zone, report.zone not in self.tampered)

    async def _note(self, report: VerifyReport) -> None:
        first = report.first_bad
        async with self._database.begin() as tx:
            await self._recorder.record(
                tx,
                codes.AUDIT_VERIFIED,
                "failure" if first is not None else "success",
                Context(report.zone),
                subject=Subject(id=report.zone, type="ledger"),
                reasons=(ALERT,) if first is not None else (),
                verdict=report.verdict,
                checked=report.checked,
                findings=report.findings_total,
            )
