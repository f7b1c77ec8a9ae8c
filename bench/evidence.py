"""From the spool to the ledger: how fast, how large, how soon signed, how fast checked and found again.

Three workers' spools are filled as fast as they take it while a sequencer in a process of its own moves them into the
ledger. Then they are filled at half that rate, for how soon an event is signed for: a backlog would measure itself.
Then plain INSERT with autocommit and plain COPY store the same rows into the same server, for comparison.
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
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
from bailiwick.evidence.ledger import Head, HeadFiles, LedgerKeys
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


def worker(root: str, slot: str, count: int, rate: float, out: Any) -> None:
    """A process that records ``count`` events, :data:`_WAITING` at a time and at most ``rate`` a second (0: as fast as
    they are taken), and tells how long appends took."""

    async def run() -> None:
        ids, clock = Ids(), SystemClock()
        recorder = Recorder(clock, ids)
        bodies = [event_body(recorder, ids, n) for n in range(2000)]
        spool = Spool(Path(root), slot, ids())
        await spool.start()
        took: list[float] = []
        begun = time.perf_counter()

        async def one(first: int) -> None:
            for n in range(first, count, _WAITING):
                if rate and (early := begun + n / rate - time.perf_counter()) > 0:
                    await asyncio.sleep(early)
                body = with_new(bodies[n % 2000], recorder.now(), ids)
                started = time.perf_counter()
                await spool.append(Kind.EVENT, "default", body)
                took.append(time.perf_counter() - started)

        await asyncio.gather(*(one(first) for first in range(_WAITING)))
        await spool.close()
        out.put(took[:: max(1, len(took) // 2000)])

    asyncio.run(run())


class TimedHeads(HeadFiles):
    """Head files that note when each head could be read by others: (events it covers, Unix time)."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.published: list[tuple[int, float]] = []

    def store(self, head: Head) -> None:
        super().store(head)
        self.published.append((head.size, time.time()))


def sequence(url: str, root: str, heads: str, first: int, total: int, out: Any) -> None:
    """The sequencer in a process of its own: tells when the ledger held ``first`` events, and, when it holds ``total``,
    when each head was published."""

    async def run() -> None:
        files = TimedHeads(Path(heads))
        database, clock = Database(url, pool_size=4), SystemClock()
        keys = LedgerKeys(database, Sealer({"k": _KEK}, active="k"), clock)
        sequencer = Sequencer(database, url, Path(root), files, keys, clock)
        task = asyncio.create_task(sequencer.run())
        while sequencer.figures.sequenced_total < first:
            await asyncio.sleep(0.02)
        out.put(time.perf_counter())
        while sequencer.figures.sequenced_total < total:
            await asyncio.sleep(0.02)
        await asyncio.sleep(1.0)  # for the last head
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await database.close()
        out.put(files.published)

    asyncio.run(run())


async def prepare(url: str) -> None:
    """A zone with its keys."""
    database, clock, ids = Database(url, pool_size=2), SystemClock(), Ids()
    async with database.begin() as tx:
        await tx.run("INSERT INTO zones (name, created_at) VALUES ('default', now())")
        store = KeyStore(database, Sealer({"k": _KEK}, active="k"), clock, Recorder(clock, ids))
        await store.create(tx, "default")
    await database.close()


async def measure(events: int, searched: int) -> dict[str, float | int]:
    """All figures: those of the way into the ledger, and the two of others that belong beside them."""
    from bench import archive, search  # they stand on this module

    figures = await into_the_ledger(events)
    figures["cold_ratio"] = (await archive.measure(events))["cold_ratio"]
    if searched:
        found = await search.measure(searched)
        figures |= {name: found[name] for name in ("search_request_ms", "search_subject_day_ms")}
    return figures


async def into_the_ledger(events: int) -> dict[str, float | int]:
    """From the spools on."""
    context = multiprocessing.get_context("spawn")
    figures: dict[str, float | int] = {}
    with tempfile.TemporaryDirectory(prefix="bw-bench-") as home:
        async with throwaway_postgres() as server:
            url = await server.fresh()
            await asyncio.to_thread(migrate, url)
            await prepare(url)
            answers, done = context.Queue(), context.Queue()
            root, heads, each = f"{home}/spool", f"{home}/heads", events // WORKERS
            paced = each // 3
            mover = context.Process(
                target=sequence, args=(url, root, heads, each * WORKERS, (each + paced) * WORKERS, done)
            )
            mover.start()
            await asyncio.sleep(1.5)
            started = time.perf_counter()
            workers = [context.Process(target=worker, args=(root, f"w{n}", each, 0.0, answers)) for n in range(WORKERS)]
            for process in workers:
                process.start()
            appends = [took for _ in workers for took in await asyncio.to_thread(answers.get)]
            finished = await asyncio.to_thread(done.get)
            ingest = each * WORKERS / (finished - started)
            rate = ingest / 2 / WORKERS
            workers += [
                context.Process(target=worker, args=(root, f"p{n}", paced, rate, answers)) for n in range(WORKERS)
            ]
            for process in workers[WORKERS:]:
                process.start()
            slow = [took for _ in range(WORKERS) for took in await asyncio.to_thread(answers.get)]
            published = await asyncio.to_thread(done.get)
            for process in (*workers, mover):
                process.join()
            figures["ingest_eps"] = round(ingest)
            figures["append_p50_ms"] = round(statistics.median(slow) * 1000, 3)
            figures["append_p50_saturated_ms"] = round(statistics.median(appends) * 1000, 3)
            figures["tree_head_p99_ms"] = await asyncio.to_thread(head_latency, url, each * WORKERS, published)
            figures |= await asyncio.to_thread(in_the_database, url, (each + paced) * WORKERS)
            figures |= await checked(url, Path(home) / "export")
    return figures


def head_latency(url: str, first: int, published: list[tuple[int, float]]) -> int:
    """The 99th percentile, in ms, from an event's own time to the first published head over it, from ``first`` on."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT seq, extract(epoch FROM at)::float8 FROM ledger.events WHERE seq >= %s AND seq %% 7 = 0", (first,)
        ).fetchall()
    sizes = [size for size, _ in published]
    late: list[float] = [published[bisect.bisect_right(sizes, seq)][1] - at for seq, at in rows]
    return round(statistics.quantiles(late, n=100)[98] * 1000)


def in_the_database(url: str, events: int) -> dict[str, float | int]:
    """Sizes, look-ups, and what storing the same rows plainly costs."""
    with psycopg.connect(url, autocommit=True) as connection:

        def value(sql: str) -> Any:
            row = connection.execute(sql).fetchone()
            return row[0] if row is not None else None

        connection.execute("VACUUM ANALYZE ledger.events")
        # the service's own events (a key was made, …) stand beside those that were sent
        rows = value(f"SELECT count(*) FROM ledger.events WHERE code = '{codes.GATEWAY_ALLOWED.code}'")
        size = value(
            "SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = 'ledger.events'::regclass"
        )
        hashes = value("SELECT pg_total_relation_size('ledger.hashes')")
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
    parser.add_argument("--searched", type=int, default=10_000_000, help="events searched among; 0: skip")
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args(arguments)
    figures = asyncio.run(measure(given.events, given.searched))
    method = (
        f"{given.events} events by {WORKERS} workers, {_WAITING} waiting each; one sequencer; PostgreSQL beside;"
        f" searched among {given.searched}"
    )
    report("evidence", figures, given.json, path="spool to ledger, no HTTP", method=method)
