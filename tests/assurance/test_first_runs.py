"""What could not be there yet calls nobody, and what should be there and is not does: probes, jobs, rules."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from stage import Stage

from bailiwick.assurance.probes.internal import FIRST_TOLD_S, internals
from bailiwick.assurance.probes.means import Means
from bailiwick.assurance.probes.runner import Probes
from bailiwick.assurance.probes.spec import PROBE, Probe
from bailiwick.assurance.thresholds import THRESHOLD
from bailiwick.evidence.sweep import NEWEST_JOB
from bailiwick.kernel.metrics import parts_began
from bailiwick.kernel.verdicts import Verdict
from people_fixtures import House


async def _nowhere(host: str, port: int) -> Sequence[str]:
    raise AssertionError("nothing is reached")


class Watch:
    """A probe of the ledger's verification and one of the workers' freshness, run when a test says so."""

    def __init__(self, stage: Stage, home: Path) -> None:
        self.stage, self.figures = stage, dict[str, list[float]]()
        self.status = home / "status.json"
        looks = internals(
            stage.database, stage.clock, lambda: self.figures, list, None, lambda: parts_began(self.status)
        )
        means = Means(_nowhere, stage.clock, "", home, internals=looks)
        self.probes = Probes(
            stage.database, stage.clock, stage.ids, stage.recorder, stage.books, stage.records, stage.heard, means
        )

    def started(self, ago_s: float, restarts: int = 0) -> None:
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - ago_s))
        parts = [{"name": "w1", "since": since, "restarts": restarts}, {"name": "x", "since": None, "restarts": 0}]
        self.status.write_text(json.dumps({"parts": parts}))

    async def look(self, what: str, argument: str = "") -> tuple[Verdict, bool]:
        """The verdict, and whether the alert of the probe is open."""
        check = {"type": "internal", "what": what, **({"argument": argument} if argument else {})}
        said = {"summary": "s", "owner": "uptime", "severity": "P0", "every": "1m", "check": check}
        if what not in ("ledger_intact",):
            said["expect"] = {"comparison": "<", "value": 100, "unit": "s"}
        probe = Probe.model_validate(said)
        due = self.stage.clock.now()
        limit = None
        if probe.expect is not None:
            from bailiwick.assurance.probes.reading import Limit

            limit = Limit(probe.expect.value, probe.expect.comparison, probe.expect.unit)
        made = await self.probes.run(self.stage.context(), what.replace("_", "-"), probe, limit, due=due)
        self.stage.clock.advance(1)
        return made.verdict, f"probe/{what.replace('_', '-')}" in self.stage.heard.open_alerts

    async def scheduled(self, every_s: int = 600, grace_s: float = 3600.0) -> None:
        """The scheduler says from now on that the job should run."""
        async with self.stage.people.owner.begin() as tx:
            await tx.run(
                "INSERT INTO bailiwick.job_definitions (job, grp, schedule, grace_s, timeout_s, known_at)"
                " VALUES (:job, '', :schedule, :grace, 600, :now)",
                job=NEWEST_JOB,
                schedule=f"{every_s}s",
                grace=grace_s,
                now=self.stage.clock.now(),
            )

    async def ended(self, state: str) -> None:
        async with self.stage.people.owner.begin() as tx:
            await tx.run(
                "INSERT INTO bailiwick.job_occurrences (job, due_at, state, finished_at, detail)"
                " VALUES (:job, :now, :state, :now, '{}')",
                job=NEWEST_JOB,
                now=self.stage.clock.now(),
                state=state,
            )


@pytest.fixture
async def watch(house: House, tmp_path: Path) -> Watch:
    return Watch(Stage(house, (PROBE, THRESHOLD)), tmp_path)


LOOKS = [("ledger_intact", ""), ("ledger_verified_age", ""), ("job_age", NEWEST_JOB)]


@pytest.mark.parametrize(("what", "argument"), LOOKS)
async def test_a_job_before_its_first_run_is_not_late_and_not_green(watch: Watch, what: str, argument: str) -> None:
    await watch.scheduled()
    assert await watch.look(what, argument) == (Verdict.NO_DATA, False)
    watch.stage.clock.advance(600)
    assert await watch.look(what, argument) == (Verdict.NO_DATA, False)  # due, and within its grace
    watch.stage.clock.advance(3600)
    assert await watch.look(what, argument) == (Verdict.NO_DATA, True)


@pytest.mark.parametrize(("what", "argument"), LOOKS)
@pytest.mark.parametrize("how", ["failed", "missed", "nobody"])
async def test_one_that_failed_or_that_nobody_schedules_is(watch: Watch, what: str, argument: str, how: str) -> None:
    if how != "nobody":
        await watch.scheduled()
        await watch.ended(how)
    assert await watch.look(what, argument) == (Verdict.NO_DATA, True)


async def test_an_open_alert_is_not_cleared_by_what_is_early(watch: Watch) -> None:
    assert await watch.look("ledger_intact") == (Verdict.NO_DATA, True)
    await watch.scheduled()
    assert await watch.look("ledger_intact") == (Verdict.NO_DATA, True)


async def test_what_processes_tell_may_be_missing_while_they_begin(watch: Watch) -> None:
    watch.started(FIRST_TOLD_S / 3)
    assert await watch.look("feed_age") == (Verdict.NO_DATA, False)
    assert await watch.look("sequencer_lag") == (Verdict.NO_DATA, False)
    watch.figures["bailiwick_feed_fresh_timestamp_seconds"] = [time.time() - 500]
    assert await watch.look("feed_age") == (Verdict.FAIL, True)  # what is told counts at once


@pytest.mark.parametrize("how", ["later", "restarted", "unsupervised", "nonsense"])
async def test_and_not_after_that(watch: Watch, how: str) -> None:
    if how == "later":
        watch.started(FIRST_TOLD_S + 5)
    elif how == "restarted":  # what ends again and again has not only begun
        watch.started(1, restarts=1)
    elif how == "nonsense":
        watch.status.write_text('{"parts": [{"since": 3}]}')
    assert await watch.look("feed_age") == (Verdict.NO_DATA, True)
    assert await watch.look("sequencer_lag") == (Verdict.NO_DATA, True)


def test_the_grace_of_a_first_run_ends(watch: Watch) -> None:
    """So that the constant is not made longer than a worker may be behind."""
    assert timedelta(seconds=FIRST_TOLD_S) <= timedelta(seconds=30)
