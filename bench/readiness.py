"""A run of a readiness checklist of 120 items, as the command makes it: how long it takes, with what is found kept.

A third of the items asks a server that answers, a third the installation's own database, and a third servers that never
answer, so that their own time-outs (10 s) end them. Every item leaves a result, an evidence record and its event.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import CollectorRegistry

from bailiwick.app.assurance import build_assurance
from bailiwick.app.foundations import Foundations
from bailiwick.app.handover.readiness import desk_of
from bailiwick.assurance.book import read_text
from bailiwick.evidence.approvals import recorder_note
from bailiwick.evidence.events import Actor, Context, Recorder
from bailiwick.evidence.evidence_records import EvidenceRecords
from bailiwick.identity.holders import holders
from bailiwick.identity.persons import Persons
from bailiwick.kernel.clock import SystemClock
from bailiwick.kernel.crypto import KekFile
from bailiwick.kernel.db import Database
from bailiwick.kernel.embedded_postgres import Throwaway
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.metrics import Metrics
from bailiwick.kernel.migrate import migrate
from bailiwick.kernel.paths import Layout
from bailiwick.kernel.quorum import Quorum
from bailiwick.kernel.settings import Settings
from bench.common import report


def main(argv: list[str]) -> int:
    """Measure, and print what was measured."""
    parser = argparse.ArgumentParser(prog="bench readiness", description=__doc__)
    parser.add_argument("--items", type=int, default=120)
    parser.add_argument("--hanging", type=int, default=40, help="items that nobody answers")
    parser.add_argument("--out", help="where the JSON is written besides")
    asked = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="bw-bench-", dir="/tmp") as home:
        figures, more = asyncio.run(_measured(Path(home), asked.items, asked.hanging))
    report("readiness", figures, asked.out, **more)
    return 0 if more["holds"] else 1


async def _measured(home: Path, items: int, hanging: int) -> tuple[dict[str, float], dict[str, Any]]:
    layout = Layout(home)
    layout.create()
    postgres = Throwaway(layout)
    await postgres.start()
    try:
        return await _run(layout, postgres.url("postgres"), items, hanging)
    finally:
        await postgres.stop()


async def _run(layout: Layout, url: str, items: int, hanging: int) -> tuple[dict[str, float], dict[str, Any]]:
    await asyncio.to_thread(migrate, url)
    kek = KekFile(layout.secrets / "kek")
    kek.ensure()
    settings = Settings(data_dir=layout.data_dir, allow_upstream_networks=("127.0.0.0/8",))  # type: ignore[call-arg]
    clock, ids, database = SystemClock(), Ids(), Database(url, pool_size=3)
    recorder = Recorder(clock, ids)
    metrics = Metrics(CollectorRegistry())
    base = Foundations(settings, layout, clock, ids, kek.load(), database, url, recorder, metrics)
    quorum = Quorum(database, clock, ids, recorder_note(recorder), holders, [], Persons())
    house = build_assurance(base, quorum, EvidenceRecords(clock, recorder)).house
    context = Context("default", Actor(user="os:bench"))

    async def quick(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        await writer.drain()
        writer.close()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    servers = [await asyncio.start_server(each, "127.0.0.1", 0) for each in (quick, silent)]
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    try:
        async with database.begin() as tx:
            await tx.run("INSERT INTO zones (name, created_at) VALUES ('default', now()) ON CONFLICT DO NOTHING")
        await house.books.ship(context, read_text(_book(items, hanging, ports), "bench"))
        desk = desk_of(house)
        began = time.perf_counter()
        run, view = await desk.run(context, "bench", "os:bench")
        took = time.perf_counter() - began
        began = time.perf_counter()
        async with database.begin() as tx:
            await desk.view(tx, "default", "bench")
        viewed = time.perf_counter() - began
        async with database.begin() as tx:
            kept = await tx.value("SELECT count(*) FROM readiness_results WHERE looked AND record <> ''")
    finally:
        for server in servers:
            server.close()
        await database.close()
    figures: dict[str, float] = {
        "items": items,
        "hanging": hanging,
        "run_s": round(took, 2),
        "looks_s": round(max((each.at - run.started_at).total_seconds() for each in view.judged if each.at), 2),
        "view_ms": round(viewed * 1000, 1),
        "results_with_evidence": kept,
    }
    verdicts = dict(Counter(str(each.verdict) for each in view.judged))
    return figures, {"target": "120 items within 30 s", "verdicts": verdicts, "holds": took <= 30 and kept == items}


def _book(items: int, hanging: int, ports: list[int]) -> str:
    """A checklist of ``items`` items, of which ``hanging`` are not answered."""

    def check(number: int) -> dict[str, Any]:
        if number < hanging:
            return {"type": "http", "url": f"http://127.0.0.1:{ports[1]}/{number}"}
        if number % 2:
            return {"type": "sql", "query": "SELECT count(*) > 0 FROM zones"}
        return {"type": "http", "url": f"http://127.0.0.1:{ports[0]}/{number}"}

    made = [
        {"key": f"item-{number}", "title": f"Item {number}", "probe": {"check": check(number), "timeout": "10s"}}
        for number in range(items)
    ]
    areas = [
        {"key": f"area-{first}", "title": "Area", "role": "ops_owner", "items": made[first : first + 60]}
        for first in range(0, items, 60)
    ]
    documents = [
        ("Checklist", "bench", {"owner": "uptime", "title": "Bench", "areas": areas}),
        ("ReadinessProfile", "bench", {"owner": "uptime", "profile": "single", "checklists": ["bench"]}),
    ]
    return yaml.safe_dump_all(
        {"apiVersion": "bailiwick/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}
        for kind, name, spec in documents
    )
