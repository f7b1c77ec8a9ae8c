"""Service levels: how long judging takes over the buckets of a hundred million events, and whether counts are exact.

Buckets of a whole window are generated and every level judged through the program. With ``--rows`` that many access log
rows are written and counted as the minute's job would, and the sums compared with a recount of the rows.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from prometheus_client import CollectorRegistry

from bailiwick.app.assurance.slo import KINDS, Services, services
from bailiwick.assurance.book import read_text
from bailiwick.assurance.books import Books
from bailiwick.assurance.slo import buckets
from bailiwick.assurance.slo.levels import Level, judge, levels_of
from bailiwick.evidence.approvals import recorder_note
from bailiwick.evidence.events import Actor, Context, Recorder
from bailiwick.identity.holders import holders
from bailiwick.kernel.clock import FakeClock
from bailiwick.kernel.db import Database
from bailiwick.kernel.embedded_postgres import throwaway_postgres
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.metrics import Metrics
from bailiwick.kernel.migrate import migrate
from bailiwick.kernel.quorum import Quorum
from bench.common import report

NOW = datetime(2026, 11, 1, tzinfo=UTC)
DAYS = 30
DOCUMENT = """
apiVersion: openslo/v1
kind: SLO
metadata: {{name: {name}}}
spec:
  service: bench
  indicator:
    metadata: {{name: {name}}}
    spec:
      ratioMetric:
        good: {{metricSource: {{type: bailiwick/requests, spec: {{status_below: 500}}}}}}
        total: {{metricSource: {{type: bailiwick/requests, spec: {{}}}}}}
  timeWindow: [{{duration: 30d, isRolling: true}}]
  budgetingMethod: {method}
  objectives: [{{target: 0.999{slices}}}]
---
"""


async def nowhere(host: str, port: int) -> list[str]:
    """Nothing is reached."""
    raise OSError(host)


async def put_in_force(database: Database, books: Books) -> list[Level]:
    """Two levels, one of occurrences and one of slices."""
    sliced = ", timeSliceTarget: 0.99, timeSliceWindow: 5m"
    text = DOCUMENT.format(name="events", method="Occurrences", slices="") + DOCUMENT.format(
        name="slices", method="Timeslices", slices=sliced
    )
    async with database.begin() as tx:
        await tx.run("INSERT INTO zones (name, created_at) VALUES ('default', now())")
    await books.ship(Context("default", Actor(application="bench")), read_text(text, "bench.yaml"))
    async with database.begin() as tx:
        return levels_of(await books.current(tx, "default"))


async def judged(database: Database, levels: list[Level], events: int) -> dict[str, Any]:
    """Fill the buckets of the window and judge each level several times."""
    chance, minutes = random.Random(7), DAYS * 1440
    each = events // minutes
    for level in levels:
        counts = {NOW - timedelta(minutes=n): (each - chance.randrange(3), each) for n in range(1, minutes + 1)}
        async with database.begin() as tx:
            await buckets.enter(tx, "default", level.name, level.definition, counts, NOW)
    took: dict[str, float] = {}
    for level in levels:
        times = []
        for _ in range(7):
            begun = time.perf_counter()
            async with database.begin() as tx:
                state = await judge(tx, "default", level, NOW)
            times.append(time.perf_counter() - begun)
            assert state.tally.events == each * minutes, state
        took[f"judge_{level.name}_ms"] = round(statistics.median(times) * 1000, 1)
    return {"events": each * minutes, "buckets": minutes, **took}


async def recounted(database: Database, made: Services, clock: FakeClock, level: Level, rows: int) -> dict[str, Any]:
    """Write rows over six hours, count them as the job does, and compare with the rows."""
    hours = 6
    begin = NOW + timedelta(hours=1)
    with psycopg.connect(database.url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("SET search_path = bailiwick")
        connection.execute(
            "INSERT INTO api_requests (at, zone, request_id, method, route, status, duration_us)"
            " SELECT %s + random() * %s, 'default', 'r', 'GET', '/x', CASE WHEN random() < 0.001 THEN 500 ELSE 200 END,"
            " 1000 FROM generate_series(1, %s)",
            (begin, timedelta(hours=hours), rows),
        )
        connection.execute("ANALYZE api_requests")
    clock.advance((begin - clock.now()).total_seconds())
    await made.levels.run("default")
    clock.advance(hours * 3600 + 300)
    started = time.perf_counter()
    await made.levels.run("default")
    took = time.perf_counter() - started
    async with database.begin() as tx:
        (tally,) = await buckets.tallies(
            tx, "default", level.name, level.definition, [begin - timedelta(minutes=5)], clock.now()
        )
        raw = await tx.one("SELECT count(*) AS total, count(*) FILTER (WHERE status < 500) AS good FROM api_requests")
    assert raw is not None
    exact = (tally.good, tally.total) == (raw["good"], raw["total"])
    return {"rows": raw["total"], "counted_rows": tally.total, "exact": exact, "count_s": round(took, 2)}


async def run(url: str, events: int, rows: int) -> dict[str, Any]:
    """Everything, on a database of its own."""
    database, clock, ids = Database(url, pool_size=4), FakeClock(NOW), Ids()
    recorder = Recorder(clock, ids)
    quorum = Quorum(database, clock, ids, recorder_note(recorder), holders, [])
    books = Books(database, clock, recorder, quorum, KINDS)
    # an outage is not simulated here: nobody is called, and no gate is asked
    nobody: Any = None
    made = services(
        database, clock, ids, recorder, books, nowhere, Path(tempfile.gettempdir()), nobody, nobody,
        Metrics(CollectorRegistry()), own=None,
    )  # fmt: skip
    try:
        levels = await put_in_force(database, books)
        figures = await judged(database, levels, events)
        return figures | (await recounted(database, made, clock, levels[0], rows) if rows else {})
    finally:
        await database.close()


async def measured(events: int, rows: int) -> dict[str, Any]:
    """The same, on a server of its own."""
    async with throwaway_postgres() as server:
        url = server.url("postgres")
        await asyncio.to_thread(migrate, url)
        return await run(url, events, rows)


def main(arguments: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench slo", description=__doc__)
    parser.add_argument("--events", type=int, default=100_000_000)
    parser.add_argument("--rows", type=int, default=0, help="rows of the access log to count and compare")
    parser.add_argument("--out", metavar="FILE", help="write the JSON to FILE; - is standard output alone")
    options = parser.parse_args(arguments)
    figures = asyncio.run(measured(options.events, options.rows))
    report("slo", figures, options.out)
    return 0 if figures.get("exact", True) else 1
