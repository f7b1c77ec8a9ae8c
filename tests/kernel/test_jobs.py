from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from bailiwick.kernel.clock import FakeClock, SystemClock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import NotFound, Unavailable
from bailiwick.kernel.jobs import JobDefinition, Jobs
from bailiwick.kernel.metrics import Metrics

START = datetime(2026, 1, 5, 9, 0, 30, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


async def nothing(_due: datetime) -> None: ...


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    async with database.begin() as tx:
        await tx.run("DELETE FROM job_occurrences")
    yield database
    await database.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(START)


def jobs_of(database: Database, clock: Any, *definitions: JobDefinition, **options: Any) -> Jobs:
    return Jobs(database, clock, Metrics(CollectorRegistry()), definitions, **options)


def figures(jobs: Jobs) -> str:
    return jobs._metrics.collect_text().decode()


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("schedule", "after", "until", "due"),
    [
        (MINUTE, "2026-01-05T09:00:30", "2026-01-05T09:02:00", ["2026-01-05T09:01:00", "2026-01-05T09:02:00"]),
        (MINUTE, "2026-01-05T09:02:00", "2026-01-05T09:02:59", []),
        ("0 2 * * *", "2026-01-05T02:00:00", "2026-01-07T02:00:00", ["2026-01-06T02:00:00", "2026-01-07T02:00:00"]),
        ("0 2 * * *", "2026-01-05T01:59:59", "2026-01-05T02:00:00.5", ["2026-01-05T02:00:00"]),
        ("0 2 * * *", "2026-01-05T01:00:00", "2026-01-05T01:59:59.999", []),
        ("30 3 1-7 * *", "2026-01-05T00:00:00", "2026-01-06T12:00:00", ["2026-01-05T03:30:00", "2026-01-06T03:30:00"]),
        (timedelta(days=1), "2026-01-05T00:00:00", "2026-01-06T00:00:00", ["2026-01-06T00:00:00"]),
    ],
)
def test_when_a_job_is_due(schedule: Any, after: str, until: str, due: list[str]) -> None:
    definition = JobDefinition("j", schedule, nothing)
    assert definition.due_between(at(after), at(until)) == [at(moment) for moment in due]


@given(
    st.one_of(
        st.integers(1, 90_000).map(lambda s: timedelta(seconds=s)), st.sampled_from(["*/7 * * * *", "5 4 * * 0"])
    ),
    st.lists(st.integers(0, 20_000), min_size=2, max_size=6).map(sorted),
)
def test_looking_in_steps_finds_what_looking_once_finds(schedule: Any, steps: list[int]) -> None:
    definition = JobDefinition("j", schedule, nothing)
    moments = [START + timedelta(seconds=step) for step in steps]
    whole = definition.due_between(moments[0], moments[-1], 10**6)
    stepwise = [
        due for first, last in itertools.pairwise(moments) for due in definition.due_between(first, last, 10**6)
    ]
    assert whole == stepwise == sorted(set(whole))


@pytest.mark.parametrize(
    "schedule", ["", "* * * *", "61 * * * *", "@daily", "* * * * * *", timedelta(0), timedelta(-1)]
)
def test_a_schedule_that_cannot_be_read_is_refused(schedule: Any) -> None:
    with pytest.raises(ValueError, match=r"cron|second"):
        JobDefinition("j", schedule, nothing)


async def test_two_jobs_of_one_name_are_refused(database: Database, clock: FakeClock) -> None:
    with pytest.raises(ValueError, match="two jobs"):
        jobs_of(database, clock, JobDefinition("j", MINUTE, nothing), JobDefinition("j", 2 * MINUTE, nothing))


async def test_every_run_leaves_a_row_with_what_it_found(database: Database, clock: FakeClock) -> None:
    seen: list[datetime] = []

    async def sweep(due: datetime) -> Mapping[str, Any]:
        seen.append(due)
        return {"removed": 0, "token": "Zq9planted", "odd": "\x00 \ud800 \\u0000", "nan": float("nan")}

    jobs = jobs_of(database, clock, JobDefinition("sweep", MINUTE, sweep), JobDefinition("quiet", MINUTE, nothing))
    assert await jobs.run_due() == 0  # a new job does not catch up on the time before it was there
    clock.advance(60)
    assert await jobs.run_due() == 2
    assert await jobs.run_due() == 0
    (one,) = await jobs.recent("sweep")
    assert one.due_at == seen[0] == at("2026-01-05T09:01:00")
    assert (one.state, one.attempts, one.finished_at) == ("succeeded", 1, clock.now())
    assert one.detail["removed"] == 0
    assert "Zq9" not in str(one.detail)
    (quiet,) = await jobs.recent("quiet")
    assert (quiet.state, quiet.detail) == ("succeeded", {})
    text = figures(jobs)
    assert 'bailiwick_job_runs_total{job="sweep",outcome="succeeded"} 1.0' in text
    assert 'bailiwick_job_runs_total{job="sweep",outcome="failed"} 0.0' in text
    clock.advance(45)
    await jobs.tick()
    assert 'bailiwick_job_last_success_age_seconds{job="sweep"} 45.0' in figures(jobs)


async def test_a_failure_is_kept_without_its_secrets(database: Database, clock: FakeClock) -> None:
    async def broken(_due: datetime) -> None:
        raise RuntimeError("could not connect: password=Zq9planted")

    async def endless(_due: datetime) -> None:
        await asyncio.Event().wait()

    async def own_timeout(_due: datetime) -> None:
        raise TimeoutError("upstream")

    jobs = jobs_of(
        database,
        clock,
        JobDefinition("broken", MINUTE, broken),
        JobDefinition("endless", MINUTE, endless, timeout_s=0.05),
        JobDefinition("own", MINUTE, own_timeout),
    )
    clock.advance(60)
    assert await jobs.run_due() == 3
    found = {one.job: (one.state, one.detail["error"]) for one in await jobs.recent()}
    assert found == {
        "broken": ("failed", "RuntimeError: could not connect: password=[redacted]"),
        "endless": ("failed", "TimeoutError: no end within 0.05 s"),
        "own": ("failed", "TimeoutError: upstream"),
    }
    clock.advance(10)
    await jobs.tick()
    assert 'bailiwick_job_last_success_age_seconds{job="broken"} 40.0' in figures(jobs)


async def test_what_a_down_time_missed_is_written_and_only_the_recent_is_run(
    database: Database, clock: FakeClock
) -> None:
    definition = JobDefinition("report", timedelta(hours=1), nothing, grace=timedelta(minutes=90))
    clock.advance(3600)
    assert await jobs_of(database, clock, definition).run_due() == 0
    first = jobs_of(database, clock, definition)
    clock.advance(3600)
    assert await first.run_due() == 1  # 11:00
    clock.advance(5 * 3600)  # nothing ran until 16:00:30
    later = jobs_of(database, clock, definition)
    assert await later.run_due() == 2
    states = [(one.due_at.hour, one.state) for one in await later.recent()]
    assert states == [
        (16, "succeeded"),
        (15, "succeeded"),
        (14, "missed"),
        (13, "missed"),
        (12, "missed"),
        (11, "succeeded"),
    ]
    assert 'bailiwick_job_runs_total{job="report",outcome="missed"} 3.0' in figures(later)


async def test_a_long_down_time_writes_a_bounded_number(database: Database, clock: FakeClock) -> None:
    definition = JobDefinition("beat", MINUTE, nothing, grace=MINUTE)
    first = jobs_of(database, clock, definition)
    clock.advance(60)
    assert await first.run_due() == 1
    clock.advance(30 * 24 * 3600)
    assert await first.run_due() == 1
    rows = await first.recent(limit=500)
    assert len(rows) == 101
    assert rows[-2].detail == {"earlier_occurrences_not_listed": True}
    assert rows[-1].state == "succeeded"


async def test_a_due_row_nobody_took_in_time_is_missed(database: Database, clock: FakeClock) -> None:
    jobs = jobs_of(database, clock, JobDefinition("late", timedelta(hours=1), nothing, grace=timedelta(minutes=5)))
    clock.advance(3600)
    await jobs.tick()
    clock.advance(600)
    assert await jobs.run_due() == 0
    assert [one.state for one in await jobs.recent()] == ["missed"]


async def test_one_leader_writes_and_two_processes_share_the_work(database: Database, clock: FakeClock) -> None:
    gate, running = asyncio.Event(), []

    async def slow(_due: datetime) -> None:
        running.append(1)
        await gate.wait()

    definitions = [JobDefinition(name, MINUTE, slow) for name in ("a", "b", "c")]
    first, second = jobs_of(database, clock, *definitions), jobs_of(database, clock, *definitions)
    clock.advance(121)  # two occurrences of each
    async with database.begin() as tx:
        assert await tx.value("SELECT pg_try_advisory_xact_lock(:lock)", lock=0x6A6F6273)
        assert not await first.tick()
    await asyncio.gather(first.tick(), second.tick())
    both = asyncio.gather(first.run_due(), first.run_due(), second.run_due(), second.run_due())
    async with asyncio.timeout(5):
        while len(running) < 3:
            await asyncio.sleep(0.01)
    assert await first.run_due() == 0  # one occurrence of a job at a time
    assert len(running) == 3
    gate.set()
    assert sum(await both) + await first.run_due() == 6
    assert {one.state for one in await first.recent()} == {"succeeded"}
    assert all(one.attempts == 1 for one in await first.recent())


async def test_a_job_can_be_asked_for_and_keeps_its_schedule(database: Database, clock: FakeClock) -> None:
    jobs = jobs_of(database, clock, JobDefinition("sweep", MINUTE, nothing))
    clock.advance(40)  # 09:01:10, and nobody has looked since 09:00:30
    assert await jobs.trigger("sweep") == clock.now()
    await jobs.trigger("sweep")
    assert await jobs.run_due() == 2
    assert [one.due_at.second for one in await jobs.recent()] == [10, 0]
    with pytest.raises(NotFound):
        await jobs.trigger("nothing")


async def test_history_is_pruned_but_never_what_the_schedule_stands_on(database: Database, clock: FakeClock) -> None:
    jobs = jobs_of(database, clock, JobDefinition("daily", timedelta(days=1), nothing, grace=timedelta(days=1)))
    for _ in range(100):
        clock.advance(24 * 3600)
        await jobs.run_due()
    rows = await jobs.recent(limit=500)
    assert 89 <= len(rows) <= 91
    clock.advance(400 * 24 * 3600)
    await jobs.run_due()
    rows = await jobs.recent(limit=500)
    assert rows[0].state == "succeeded"
    assert len(rows) == 100  # the newest of the down-time; what was before it went


KILLED = """
import asyncio, sys
from datetime import timedelta
from prometheus_client import CollectorRegistry
from bailiwick.kernel.clock import SystemClock
from bailiwick.kernel.db import Database
from bailiwick.kernel.jobs import JobDefinition, Jobs
from bailiwick.kernel.metrics import Metrics

async def main():
    async def hang(due):
        print("running", flush=True)
        await asyncio.Event().wait()
    jobs = Jobs(Database(sys.argv[1]), SystemClock(), Metrics(CollectorRegistry()),
                [JobDefinition("hang", timedelta(days=1), hang)], lease_s=float(sys.argv[2]), poll_s=0.05)
    await jobs.trigger("hang")
    await jobs.run()

asyncio.run(main())
"""


def start_hanging(url: str, lease_s: float) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, url, str(lease_s)], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "running\n"
    return child


async def test_a_killed_processs_occurrence_is_run_again_after_its_lease(database: Database, database_url: str) -> None:
    ran = asyncio.Event()

    async def again(_due: datetime) -> dict[str, bool]:
        ran.set()
        return {"again": True}

    jobs = jobs_of(database, SystemClock(), JobDefinition("hang", timedelta(days=1), again), lease_s=0.9, poll_s=0.05)
    child = await asyncio.to_thread(start_hanging, database_url, 0.9)
    loop = asyncio.create_task(jobs.run())
    with pytest.raises(TimeoutError):  # while it lives it renews its lease, and nobody takes it
        await asyncio.wait_for(ran.wait(), 1.5)
    child.kill()
    child.communicate()
    await asyncio.wait_for(ran.wait(), 5)
    async with asyncio.timeout(5):
        while (await jobs.recent())[0].state != "succeeded":
            await asyncio.sleep(0.02)
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)
    (one,) = await jobs.recent()
    assert (one.attempts, one.detail) == (2, {"again": True})


async def test_stopping_gives_the_work_back_at_once(database: Database, clock: FakeClock) -> None:
    running, stopped = asyncio.Event(), []

    async def slow(_due: datetime) -> None:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(1)

    jobs = jobs_of(database, clock, JobDefinition("slow", MINUTE, slow), poll_s=0.02)
    clock.advance(60)
    loop = asyncio.create_task(jobs.run())
    await asyncio.wait_for(running.wait(), 5)
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)
    (one,) = await jobs.recent()
    assert (one.state, one.attempts, stopped) == ("due", 0, [1])
    assert await jobs_of(database, clock, JobDefinition("slow", MINUTE, nothing)).run_due() == 1


async def test_a_lost_lease_stops_the_handler_and_stores_nothing(database: Database, clock: FakeClock) -> None:
    running, stopped = asyncio.Event(), asyncio.Event()

    async def slow(_due: datetime) -> None:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    jobs = jobs_of(database, clock, JobDefinition("slow", MINUTE, slow), lease_s=0.3)
    clock.advance(60)
    work = asyncio.create_task(jobs.run_due())
    await asyncio.wait_for(running.wait(), 5)
    async with database.begin() as tx:
        await tx.run("UPDATE job_occurrences SET holder = 'another'")
    await asyncio.wait_for(stopped.wait(), 5)
    assert await work == 1
    (one,) = await jobs.recent()
    assert one.state == "running"


async def test_after_three_deaths_the_occurrence_has_failed(database: Database, clock: FakeClock) -> None:
    jobs = jobs_of(database, clock, JobDefinition("deadly", MINUTE, nothing))
    clock.advance(60)
    await jobs.tick()
    async with database.begin() as tx:
        await tx.run("UPDATE job_occurrences SET state = 'running', attempts = 3, lease_until = now() - interval '1 s'")
    assert await jobs.run_due() == 0
    (one,) = await jobs.recent()
    assert (one.state, one.detail) == ("failed", {"error": "every process that ran it ended"})
    assert 'bailiwick_job_runs_total{job="deadly",outcome="failed"} 1.0' in figures(jobs)


class Faulty(Database):
    """Loses the answers of transactions that ``lose`` is told of: before they begin, or after they were committed."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.lose: Callable[[int], str] = lambda number: ""
        self.number = 0

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Transaction]:
        self.number += 1
        fate = self.lose(self.number)
        if fate == "before":
            raise Unavailable("The database does not answer.", reason="database_unavailable")
        async with super().begin() as tx:
            yield tx
        if fate == "after":
            raise Unavailable("The database went away.", reason="database_unavailable")


@pytest.mark.parametrize("fate", ["before", "after"])
async def test_an_outage_as_it_ends_does_not_keep_a_job_from_the_next(
    database_url: str, database: Database, clock: FakeClock, fate: str
) -> None:
    """The outcome is written once the database is back, and what was done is not done again."""
    ran: list[datetime] = []
    faulty = Faulty(database_url)

    async def handler(due: datetime) -> None:
        ran.append(due)
        began = faulty.number
        faulty.lose = lambda number: fate if number <= began + 3 else ""

    jobs = Jobs(faulty, clock, Metrics(CollectorRegistry()), [JobDefinition("j", MINUTE, handler)], poll_s=0.01)
    clock.advance(61)
    async with asyncio.timeout(10):  # its lease is of 30 s
        assert await jobs.run_due() == 1
    clock.advance(60)
    async with asyncio.timeout(10):
        faulty.lose = lambda number: ""
        assert await jobs.run_due() == 1
    assert len(ran) == len(set(ran)) == 2
    await faulty.close()


async def test_a_claim_of_which_nothing_was_heard_is_given_back(
    database_url: str, database: Database, clock: FakeClock
) -> None:
    ran: list[datetime] = []
    faulty = Faulty(database_url)

    async def handler(due: datetime) -> None:
        ran.append(due)

    jobs = Jobs(faulty, clock, Metrics(CollectorRegistry()), [JobDefinition("j", MINUTE, handler)], poll_s=0.01)
    clock.advance(61)
    faulty.lose = lambda number: "after" if number == 2 else ""  # the first one writes what came due
    with pytest.raises(Unavailable):
        await jobs.run_due()
    async with database.begin() as tx:
        assert await tx.value("SELECT state FROM job_occurrences") == "running"
    assert ran == [] and await jobs.run_due() == 1
    async with database.begin() as tx:
        row = await tx.one("SELECT state, attempts FROM job_occurrences")
    assert row == {"state": "succeeded", "attempts": 1} and len(ran) == 1
    await faulty.close()


async def test_the_loop_lives_through_an_outage(database: Database, clock: FakeClock) -> None:
    ran = asyncio.Event()

    async def handler(_due: datetime) -> None:
        ran.set()

    away = Database("postgresql://nobody@127.0.0.1:1/none")
    jobs = jobs_of(away, clock, JobDefinition("j", MINUTE, handler), poll_s=0.02)
    clock.advance(60)
    loop = asyncio.create_task(jobs.run())
    await asyncio.sleep(0.1)
    assert not loop.done()
    jobs._database = database
    await asyncio.wait_for(ran.wait(), 5)
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)
    await away.close()


@pytest.mark.parametrize("schedule", [timedelta(seconds=1), timedelta(minutes=7), "*/5 * * * *", "11 4 * * *"])
@pytest.mark.parametrize("second", [0, 1, 59.5, 86_399])
def test_nothing_comes_due_before_the_next_instant_and_that_does(schedule: timedelta | str, second: float) -> None:
    """What lets a look be skipped: between an instant and the next one nothing is due."""

    async def nothing(due: datetime) -> None:
        raise AssertionError

    job = JobDefinition("j", schedule, nothing)
    moment = datetime(2026, 2, 28, tzinfo=UTC) + timedelta(seconds=second)
    following = job.next_after(moment)
    assert following > moment
    assert job.due_between(moment, following - timedelta(microseconds=1)) == []
    assert job.due_between(moment, following) == [following]
