"""The scheduler killed at any write neither loses nor doubles a run, also while the book gives it other jobs."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from prometheus_client import CollectorRegistry

from bailiwick.kernel.clock import FakeClock
from bailiwick.kernel.db import Database, libpq_url
from bailiwick.kernel.jobs import JobDefinition, Jobs, known_jobs
from bailiwick.kernel.metrics import Metrics
from unmeasured import unmeasured

START = datetime(2026, 1, 5, 9, 0, 30, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
# every minute of the day: the successor, which has all jobs, writes what the first one had not
EVERY = {(job, minute) for job in ("fixed", "a", "b") for minute in (1, 2)}


@pytest.fixture
def tables(database_url: str) -> str:
    with psycopg.connect(libpq_url(database_url), autocommit=True) as connection:
        for table in ("done", "tried"):
            key = ", PRIMARY KEY (job, due_at)" if table == "done" else ""
            connection.execute(f"CREATE TABLE IF NOT EXISTS bailiwick.{table} (job text, due_at timestamptz{key})")
            connection.execute(f"GRANT ALL ON bailiwick.{table} TO bailiwick_app")
    return database_url


def test_killed_at_any_write_no_run_is_lost_or_doubled(tables: str) -> None:
    script = Path(__file__).with_name("jobs_killed.py")
    done = subprocess.run(
        [sys.executable, str(script), tables], capture_output=True, text=True, timeout=180, env=unmeasured()
    )
    lives = [json.loads(line) for line in done.stdout.splitlines()]
    assert lives and all("rows" in life for life in lives), done.stdout + done.stderr
    assert not lives[-1]["killed"] and len(lives) > 30, "the last life is that which nobody ended"
    for life in lives:
        where = (life["at"], life["after"])
        assert {(job, minute) for job, minute, *_ in life["rows"]} == EVERY, where
        for job, minute, state, attempts, stored, tried in life["rows"]:
            assert (state, stored) == ("succeeded", 1), (where, job, minute)
            # at most the one occurrence that was under way is begun again
            assert 1 <= tried <= 2 and 1 <= attempts <= 2, (where, job, minute)
        assert sum(tried - 1 for *_, tried in life["rows"]) <= 1, where
    assert any(tried == 2 for life in lives for *_, tried in life["rows"])
    assert any(attempts == 2 for life in lives for *_, attempts, _, _ in life["rows"])


async def known(database: Database) -> list[str]:
    async with database.begin() as tx:
        return [each.definition.name for each in await known_jobs(tx)]


async def test_two_processes_that_are_given_another_book_run_each_occurrence_once(tables: str) -> None:
    ran: list[tuple[str, datetime]] = []

    def job(name: str) -> JobDefinition:
        async def run(due: datetime) -> None:
            await asyncio.sleep(0.01)
            ran.append((name, due))

        return JobDefinition(name, MINUTE, run, since=START)

    clock = FakeClock(START)
    databases = [Database(tables, pool_size=4) for _ in range(2)]
    async with databases[0].begin() as tx:
        await tx.run("DELETE FROM job_occurrences")
        await tx.run("DELETE FROM job_definitions")
    one, two = (Jobs(each, clock, Metrics(CollectorRegistry()), [], poll_s=0.01) for each in databases)
    loops = [asyncio.create_task(each.run()) for each in (one, two)]
    try:
        for minute, names in enumerate((["a"], ["a", "b"], ["b"], ["b", "c"])):
            one.replace("book", [job(name) for name in names])
            await asyncio.sleep(0.02)  # the other hears of it later
            two.replace("book", [job(name) for name in names])
            clock.advance(60)
            async with asyncio.timeout(10):
                wanted = {(name, START.replace(second=0) + (minute + 1) * MINUTE) for name in names}
                while not wanted <= set(ran):
                    await asyncio.sleep(0.01)
        async with asyncio.timeout(10):  # the last to write its book down may be the one that ran nothing of it
            while await known(databases[0]) != ["b", "c"]:
                await asyncio.sleep(0.01)
    finally:
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
    assert len(ran) == len(set(ran))
    async with databases[0].begin() as tx:
        assert not await tx.value("SELECT count(*) FROM job_occurrences WHERE attempts > 1")
    for each in databases:
        await each.close()


async def test_what_should_run_is_written_down_by_group(tables: str) -> None:
    async def nothing(due: datetime) -> None: ...

    clock, database = FakeClock(START), Database(tables, pool_size=2)
    async with database.begin() as tx:
        await tx.run("DELETE FROM job_definitions")

    async def known() -> dict[str, tuple[timedelta | str, datetime]]:
        await jobs.tick()
        async with database.begin() as tx:
            return {
                each.definition.name: (each.definition.schedule, each.expected_from) for each in await known_jobs(tx)
            }

    jobs = Jobs(database, clock, Metrics(CollectorRegistry()), [JobDefinition("fixed", "5 4 * * *", nothing)])
    assert await known() == {"fixed": ("5 4 * * *", START)}
    jobs.replace("book", [JobDefinition("a", MINUTE, nothing)])
    clock.advance(60)
    assert await known() == {"a": (MINUTE, START + MINUTE), "fixed": ("5 4 * * *", START)}
    # another process that knows the fixed jobs alone takes nothing away; the same schedule is expected as before
    jobs = Jobs(database, clock, Metrics(CollectorRegistry()), [JobDefinition("fixed", "5 4 * * *", nothing)])
    clock.advance(60)
    assert (await known())["fixed"] == ("5 4 * * *", START) and "a" in await known()
    jobs.replace("book", [JobDefinition("a", 2 * MINUTE, nothing)])
    assert (await known())["a"] == (2 * MINUTE, START + 2 * MINUTE)
    jobs.replace("book", [])
    assert (await known()).keys() == {"fixed"}
    await database.close()
