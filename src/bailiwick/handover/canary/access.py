"""Every policy set that is activated is tried by the loop of access, without anybody asking.

What is activated is found in the table of activations, by a job: at once, when the feed tells of a policy, and by the
clock beside it, so that one that was activated while no work role ran is tried as well. An activation waits for
nothing of this and cannot fail by it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from bailiwick.assurance.book import Book
from bailiwick.assurance.durations import span
from bailiwick.assurance.ports import Alerts, Raised
from bailiwick.evidence.events import Actor, Context
from bailiwick.handover.canary.loop import KNOWN, AccessLoop
from bailiwick.handover.canary.records import Result, results_of
from bailiwick.handover.canary.spec import ACCESS_CANARY, AccessCanary
from bailiwick.kernel import modes
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import Conflict
from bailiwick.kernel.jobs import JobDefinition
from bailiwick.kernel.severity import Severity
from bailiwick.kernel.verdicts import Verdict

RUNBOOK = "docs/how-to/canary.md"
TIMEOUT_S = 180.0
_BY = Actor(user="system:access-canary")
_ANSWERS = ("allow", "deny")
_SETTLED_WITHIN_S = 10.0
_ALIVE = timedelta(seconds=60)


# ---------------------------------------------------------------------- rules


def is_due(newest: Result, activated_at: datetime, held: str, again: timedelta, now: datetime) -> bool:
    """Whether a set that is active since ``activated_at`` is to be tried, by its newest result.

    One that passed is not, and one that could not be walked is once it can; one that failed is, now and then, since
    what it failed by may be mended. ``held``: why the loop cannot be walked now.
    """
    if newest.began_at < activated_at:
        return True
    if newest.reason == "held":
        return not held
    return newest.verdict != Verdict.PASS and now - newest.at >= again


# ---------------------------------------------------------------------- service


class AccessWatch:
    """Tries what is activated. ``own_upstream()``: whether our own listener on loopback may be an upstream."""

    def __init__(
        self, database: Database, clock: Clock, alerts: Alerts, loop: AccessLoop, own_upstream: Callable[[], bool]
    ) -> None:
        self._database = database
        self._clock = clock
        self._alerts = alerts
        self._loop = loop
        self._own_upstream = own_upstream

    def scheduled(self, zone: str, book: Book) -> list[JobDefinition]:
        """The job that the book of a zone asks for."""

        def due(spec: AccessCanary) -> Callable[[datetime], Any]:
            async def look(due: datetime) -> dict[str, Any]:
                return await self.look(zone, spec)

            return look

        return [
            JobDefinition(
                job_name(zone), span(spec.every), due(spec), grace=timedelta(hours=1), timeout_s=TIMEOUT_S,
                since=book.documents[ACCESS_CANARY.name, name].applied_at,
            )
            for name, spec in book.of(ACCESS_CANARY).items()
        ]  # fmt: skip

    async def look(self, zone: str, spec: AccessCanary) -> dict[str, Any]:
        """Try the active set of a zone where that is due; what was found."""
        now = self._clock.now()
        async with self._database.begin() as tx:
            active = await _active(tx, zone)
            if active is None or active["kind"] in ("initial", "deactivate"):
                return {"tried": 0}
            found = await results_of(tx, zone, digest=active["hash"])
            newest = next((each for each in found if each.kind == "loop"), None)
            held = await self._held(tx, zone, spec)
        if newest is not None and not is_due(newest, active["activated_at"], held, span(spec.again), now):
            if newest.by != _BY.user:
                await self._tell(zone, spec, newest, active["id"])  # somebody walked it since
            return {"tried": 0}
        await self._settled(zone)
        try:
            result = await self._loop.run(Context(zone, _BY), active["hash"], spec.upstream_url, held=held)
        except Conflict:
            return {"tried": 0}  # another one is active by now, which is tried for itself
        await self._tell(zone, spec, result, active["id"])
        return {"tried": 1, "digest": result.digest, "verdict": result.verdict, "told": result.told}

    async def _held(self, tx: Transaction, zone: str, spec: AccessCanary) -> str:
        """Why the loop, which makes a server and an application, may not be walked now."""
        if thrown := await modes.standing(tx, zone):
            return f"{', '.join(sorted(thrown))} is thrown"
        if not spec.upstream_url and not self._own_upstream():
            return "no upstream_url is given, and loopback may not be an upstream"
        return ""

    async def _settled(self, zone: str) -> None:
        """Wait until every live worker has what was activated; one that does not take it in is found by the loop."""
        waited = 0.0
        while waited < _SETTLED_WITHIN_S:
            async with self._database.begin() as tx:
                behind = await tx.value(
                    "SELECT count(*) FROM workers WHERE fenced_at IS NULL AND seen_at > :since AND revision <"
                    " (SELECT max(revision) FROM feed WHERE zone = :zone AND kind = 'policy')",
                    zone=zone,
                    since=self._clock.now() - _ALIVE,
                )
            if not behind:
                return
            await asyncio.sleep(0.1)
            waited += 0.1

    async def _tell(self, zone: str, spec: AccessCanary, result: Result, activation: int) -> None:
        """Fire and clear: of known decisions that were answered, and of all else. What was not looked at clears
        nothing."""
        known = [each for each in result.steps if str(each["name"]).startswith(KNOWN) and each["actual"] in _ANSWERS]
        walked = [each for each in result.steps if each not in known]
        async with self._database.begin() as tx:
            active = await _active(tx, zone)
            if active is None or active["id"] != activation:
                return  # of another one by now, which is tried for itself
            for rule, severity, steps in (
                ("KnownDecisionChanged", spec.known_severity, known),
                ("AccessLoopFailed", spec.severity, walked),
            ):
                wrong = [f"{each['name']}: {each['actual']}, expected {each['expected']}" for each in steps
                         if not each["holds"]]  # fmt: skip
                if wrong:
                    await self._alerts.fire(tx, Context(zone, _BY), _raised(spec, rule, severity, wrong, result))
                elif steps:
                    await self._alerts.clear(tx, Context(zone, _BY), _key(rule, zone))


def job_name(zone: str) -> str:
    """What the job of a zone is called."""
    return f"access-canary@{zone}"


def _key(rule: str, zone: str) -> str:
    return f"access-canary/{zone}/{rule}"


def _raised(spec: AccessCanary, rule: str, severity: Severity, wrong: Sequence[str], result: Result) -> Raised:
    return Raised(
        _key(rule, result.zone),
        rule,
        severity,
        f"with the policy set {result.digest[:19]}: {'; '.join(wrong)}"[:500],
        spec.owner,
        RUNBOOK,
        {"component": "canary", "policy_set": result.digest},
        {"description": f"Go back to the last known good unless it was meant. Evidence record {result.record}."},
    )


async def _active(tx: Transaction, zone: str) -> Row | None:
    """What was activated last."""
    return await tx.one(
        "SELECT id, hash, kind, activated_at FROM policy_activations WHERE zone = :zone ORDER BY id DESC LIMIT 1",
        zone=zone,
    )


__all__ = ["AccessWatch", "is_due", "job_name"]
