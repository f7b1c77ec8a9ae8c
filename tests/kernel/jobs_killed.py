"""Runs a day in the life of a scheduler again and again, killed at another write each time; tells what was left.

``python jobs_killed.py URL`` forks a child a time, so that everything is imported once. A line of JSON for each.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from prometheus_client import CollectorRegistry

from bailiwick.kernel.clock import FakeClock
from bailiwick.kernel.db import Database, Transaction, libpq_url
from bailiwick.kernel.jobs import JobDefinition, Jobs
from bailiwick.kernel.metrics import Metrics

START = datetime(2026, 1, 5, 9, 0, 30, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
LEASE_S = 0.3


class Deadly(Database):
    """Kills its process at the ``at``-th transaction, just before or just after it is committed."""

    def __init__(self, url: str, at: int, after: bool) -> None:
        super().__init__(url, pool_size=4)
        self.at, self.after, self.count = at, after, 0

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Transaction]:
        self.count += 1
        mine = self.count
        async with super().begin() as tx:
            yield tx
            if mine == self.at and not self.after:
                os.kill(os.getpid(), signal.SIGKILL)
        if mine == self.at and self.after:
            os.kill(os.getpid(), signal.SIGKILL)


def job(database: Database, name: str) -> JobDefinition:
    """A job that writes its run down as ours do: once for each occurrence; and every attempt, for the test to see."""

    async def run(due: datetime) -> dict[str, str]:
        async with database.begin() as tx:
            await tx.run("INSERT INTO done (job, due_at) VALUES (:job, :due) ON CONFLICT DO NOTHING", job=name, due=due)
            await tx.run("INSERT INTO tried (job, due_at) VALUES (:job, :due)", job=name, due=due)
        return {"verdict": "PASS"}

    return JobDefinition(name, MINUTE, run, grace=timedelta(hours=1), since=START)


BOOKS = (["a"], ["b"])
"""The jobs of the book in each minute: one goes and another comes."""


async def live(url: str, at: int, after: bool) -> int:
    """A whole day; how many transactions it took. Does not return where it is killed."""
    database = Deadly(url, at, after)
    clock = FakeClock(START)
    jobs = Jobs(database, clock, Metrics(CollectorRegistry()), [job(database, "fixed")], lease_s=LEASE_S)
    for names in BOOKS:
        jobs.replace("book", [job(database, name) for name in names])
        clock.advance(60)
        await jobs.run_due()
    await database.close()
    return database.count


async def take_over(url: str) -> None:
    """Another process at the end of the day: it has all jobs, and runs what the first one left."""
    database = Database(url, pool_size=4)
    clock = FakeClock(START + len(BOOKS) * MINUTE)
    definitions = [job(database, name) for name in ("fixed", "a", "b")]
    successor = Jobs(database, clock, Metrics(CollectorRegistry()), definitions, lease_s=LEASE_S)
    async with asyncio.timeout(20):
        while True:
            await successor.run_due()
            async with database.begin() as tx:
                if not await tx.value("SELECT count(*) FROM job_occurrences WHERE state IN ('due', 'running')"):
                    break
            await asyncio.sleep(0.05)
    await database.close()


def forked(work: Any) -> int:
    """The wait status of a child that did ``work``."""
    pid = os.fork()
    if pid == 0:
        try:
            asyncio.run(work)
        except BaseException as error:  # a child of a test must not go on as its parent
            print(json.dumps({"error": repr(error)}), flush=True)
            os._exit(1)
        os._exit(0)
    work.close()
    return os.waitpid(pid, 0)[1]


def main(url: str) -> None:
    at, after = 1, False
    while True:
        with psycopg.connect(libpq_url(url), autocommit=True) as connection:
            connection.execute("SET search_path = bailiwick")
            connection.execute("DELETE FROM job_occurrences")
            connection.execute("DELETE FROM job_definitions")
            connection.execute("DELETE FROM done; DELETE FROM tried")
        killed = os.WIFSIGNALED(forked(live(url, at, after)))
        if forked(take_over(url)) != 0:
            return
        with psycopg.connect(libpq_url(url), autocommit=True) as connection:
            connection.execute("SET search_path = bailiwick")
            rows = connection.execute(
                "SELECT o.job, extract(epoch FROM o.due_at - %s) / 60, o.state, o.attempts,"
                " (SELECT count(*) FROM done d WHERE d.job = o.job AND d.due_at = o.due_at),"
                " (SELECT count(*) FROM tried t WHERE t.job = o.job AND t.due_at = o.due_at)"
                " FROM job_occurrences o ORDER BY 1, 2",
                (START,),
            ).fetchall()
        told = [[job, round(float(minute) + 0.5), state, attempts, done, tried]
                for job, minute, state, attempts, done, tried in rows]  # fmt: skip
        print(json.dumps({"at": at, "after": after, "killed": killed, "rows": told}), flush=True)
        if not killed:
            return
        at, after = (at, True) if not after else (at + 1, False)


if __name__ == "__main__":
    main(sys.argv[1])
