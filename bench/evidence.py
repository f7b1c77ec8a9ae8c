"""From the spool to the ledger: how fast, how large, how soon signed, how fast checked and found again.

Three workers' spools are filled as fast as they take it while a sequencer in a process of its own moves them into the
ledger; then plain INSERT with autocommit and plain COPY store the same rows into the same server, for comparison.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

from bailiwick.authority.keys import KeyStore
from bailiwick.evidence import codes
from bailiwick.evidence.events import Actor, Context, Network, Recorder, encode
from bailiwick.evidence.export import export_log
from bailiwick.evidence.frames import Kind
from bailiwick.evidence.ledger import HeadFiles, LedgerKeys
from bailiwick.evidence.sequencer import Sequencer
from bailiwick.evidence.spool import Spool
from bailiwick.kernel.clock import SystemClock
from bailiwick.kernel.crypto import Sealer
from bailiwick.kernel.db import Database
from bailiwick.kernel.embedded_postgres import throwaway_postgres
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.migrate import migrate
from bailiwick_verify.log import Folder, verify_log
from bailiwick_verify.note import VerifierKey
from bench.common import report

WORKERS = 3
_KEK = bytes(32)
_WAITING = 64  # requests of a worker that wait for their evidence at once


def event_body(recorder: Recorder, ids: Ids, n: int) -> bytes:
    """An event such as the gateway leaves."""
    actor = Actor(application=f"agent-{n % 200}", mandate=ids(), session="", user="")
    context = Context("default", actor, Network("192.0.2.7", "payments-client/2.4 (linux)"), ids())
    return encode(
        recorder.make(
            codes.GATEWAY_ALLOWED,
            "allow",
            context,
            server=f"server-{n % 20}",
            policy_set="sha256:" + "a" * 64,
            input="b" * 64,
            credential="payments-key",
            method="GET",
            path=f"/payments/{n}",
            operation="GET /payments/{id}",
            scope="payments:read",
        )
    )


def with_new(body: bytes, now: str, ids: Ids) -> bytes:
    """The event as if it happened ``now``, of a request of its own: indexes must not find repeats to save room on."""
    for member, value in ((b'"at":"', now), (b'"id":"', ids()), (b'"request_id":"', ids())):
        start = body.index(member) + len(member)
        body = body[:start] + value.encode() + body[start + len(value) :]
    return body


def worker(root: str, slot: str, count: int, out: Any) -> None:
    """A process that records ``count`` events, :data:`_WAITING` at a time, and tells how long appends took."""

    async def run() -> None:
        ids, clock = Ids(), SystemClock()
        recorder = Recorder(clock, ids)
        bodies = [event_body(recorder, ids, n) for n in range(2000)]
        spool = Spool(Path(root), slot, ids())
        await spool.start()
        took: list[float] = []

        async def one(first: int) -> None:
            for n in range(first, count, _WAITING):
                body = with_new(bodies[n % 2000], recorder.now(), ids)
                started = time.perf_counter()
                await spool.append(Kind.EVENT, "default", body)
                took.append(time.perf_counter() - started)

        await asyncio.gather(*(one(first) for first in range(_WAITING)))
        await spool.close()
        out.put(took[:: max(1, len(took) // 2000)])

    asyncio.run(run())


def sequence(url: str, root: str, heads: str, until: int, out: Any) -> None:
    """The sequencer in a process of its own, until the ledger holds ``until`` events; tells how late heads came."""

    async def run() -> None:
        database, clock = Database(url, pool_size=4), SystemClock()
        keys = LedgerKeys(database, Sealer({"k": _KEK}, active="k"), clock)
        sequencer = Sequencer(database, url, Path(root), HeadFiles(Path(heads)), keys, clock)
        task = asyncio.create_task(sequencer.run())
        while sequencer.figures.sequenced_total < until:
            await asyncio.sleep(0.02)
        done = time.perf_counter()
        await asyncio.sleep(1.0)  # for the last head
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await database.close()
        out.put(done)

    asyncio.run(run())


async def prepare(url: str) -> None:
    """A zone with its keys."""
    database, clock, ids = Database(url, pool_size=2), SystemClock(), Ids()
    async with database.begin() as tx:
        await tx.run("INSERT INTO zones (name, created_at) VALUES ('default', now())")
        store = KeyStore(database, Sealer({"k": _KEK}, active="k"), clock, Recorder(clock, ids))
        await store.create(tx, "default")
    await database.close()


async def measure(events: int) -> dict[str, float | int]:
    """All figures."""
    context = multiprocessing.get_context("spawn")
    figures: dict[str, float | int] = {}
    with tempfile.TemporaryDirectory(prefix="bw-bench-") as home:
        async with throwaway_postgres() as server:
            url = await server.fresh()
            await asyncio.to_thread(migrate, url)
            await prepare(url)
            answers, done = context.Queue(), context.Queue()
            root, heads, each = f"{home}/spool", f"{home}/heads", events // WORKERS
            mover = context.Process(target=sequence, args=(url, root, heads, each * WORKERS, done))
            mover.start()
            await asyncio.sleep(1.5)
            started = time.perf_counter()
            workers = [context.Process(target=worker, args=(root, f"w{n}", each, answers)) for n in range(WORKERS)]
            for process in workers:
                process.start()
            appends = [took for _ in workers for took in await asyncio.to_thread(answers.get)]
            finished = await asyncio.to_thread(done.get)
            for process in (*workers, mover):
                process.join()
            figures["ingest_eps"] = round(each * WORKERS / (finished - started))
            figures["append_p50_ms"] = round(statistics.median(appends) * 1000, 3)
            figures |= await asyncio.to_thread(in_the_database, url, each * WORKERS)
            figures |= await checked(url, Path(home) / "export")
    return figures


def in_the_database(url: str, events: int) -> dict[str, float | int]:
    """Sizes, the delay of heads, look-ups, and what storing the same rows plainly costs."""
    with psycopg.connect(url, autocommit=True) as connection:

        def value(sql: str) -> Any:
            row = connection.execute(sql).fetchone()
            return row[0] if row is not None else None

        connection.execute("VACUUM ANALYZE ledger.events")
        rows = value("SELECT count(*) FROM ledger.events")
        size = value(
            "SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = 'ledger.events'::regclass"
        )
        hashes = value("SELECT pg_total_relation_size('ledger.hashes')")
        late = value(
            "SELECT percentile_cont(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM h.at + interval '1 second' - e.at))"
            " FROM (SELECT seq, at FROM ledger.events TABLESAMPLE SYSTEM (5)) e CROSS JOIN LATERAL"
            " (SELECT at FROM ledger.heads WHERE size > e.seq ORDER BY size, at LIMIT 1) h"
        )
        sample = connection.execute("SELECT request_id FROM ledger.events ORDER BY random() LIMIT 200").fetchall()
        took = []
        for (request_id,) in sample:
            begun = time.perf_counter()
            connection.execute("SELECT * FROM ledger.events WHERE request_id = %s", (request_id,)).fetchall()
            took.append(time.perf_counter() - begun)
        connection.execute("CREATE TABLE plain (LIKE ledger.events)")
        few = connection.execute("SELECT * FROM ledger.events LIMIT 2000").fetchall()
        marks = ",".join(["%s"] * len(few[0]))
        begun = time.perf_counter()
        for row in few:
            connection.execute(f"INSERT INTO plain VALUES ({marks})", row)
        insert = len(few) / (time.perf_counter() - begun)
        many = few * 20
        begun = time.perf_counter()
        with connection.cursor() as cursor, cursor.copy("COPY plain FROM STDIN") as copy:
            for row in many:
                copy.write_row(row)
        copied = len(many) / (time.perf_counter() - begun)
    return {
        "lost": events - rows,
        "bytes_per_event_hot": round(size / rows),
        "bytes_per_event_hashes": round(hashes / rows, 1),
        "tree_head_p99_ms": round(float(late or 0) * 1000),
        "search_request_ms": round(statistics.median(took) * 1000, 3),
        "insert_baseline_eps": round(insert),
        "copy_baseline_eps": round(copied),
    }


async def checked(url: str, folder: Path) -> dict[str, float | int]:
    """Export everything and check it with the verifier alone."""
    database = Database(url, pool_size=2)
    await export_log(database, "default", folder)
    await database.close()
    keys = [VerifierKey.parse(line) for line in (folder / "verifier-keys").read_text().splitlines()]
    found, _ = await asyncio.to_thread(verify_log, Folder(folder), keys)
    if found.verdict != "PASS":
        raise RuntimeError(f"the ledger does not hold: {found.findings}")
    return {"verify_eps_per_core": round(found.checked / found.seconds)}


def main(arguments: list[str]) -> None:
    """``python -m bench evidence``."""
    parser = argparse.ArgumentParser(prog="python -m bench evidence")
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args(arguments)
    figures = asyncio.run(measure(given.events))
    method = f"{given.events} events by {WORKERS} workers, {_WAITING} waiting each; one sequencer; PostgreSQL beside"
    report("evidence", figures, given.json, path="spool to ledger, no HTTP", method=method)
