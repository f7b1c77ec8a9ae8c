"""Searching a large ledger: how long the questions of an analyst take at ten million events.

The events are COPYed into a server of its own as the sequencer would have put them there, a week of them; each question
is asked through the search of the product (statements, planning, decoding included) and its median told.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg

from bailiwick.evidence import codes
from bailiwick.evidence.events import Actor, Context, Event, Network, Recorder, Subject, encode, leaf_hash
from bailiwick.evidence.query import About, Filter
from bailiwick.evidence.records import event_row
from bailiwick.evidence.search import FACETS, Search
from bailiwick.evidence.timelines import Timelines
from bailiwick.kernel.clock import FakeClock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.embedded_postgres import throwaway_postgres
from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.migrate import migrate
from bench.common import report

DAYS = 7
AGENTS, PEOPLE, SERVERS = 2000, 500, 40
_TYPES = {
    "zone": "text", "seq": "int8", "id": "uuid", "at": "timestamptz", "recorded_at": "timestamptz", "code": "text",
    "outcome": "text", "request_id": "uuid", "principal": "text", "server": "text", "rest": "bytea",
}  # fmt: skip
_AGAIN = 40
_RUN = 4000


class Maker:
    """Makes the events of a week in order. One in fifty is an administrator's act and has a subject."""

    def __init__(self, start: datetime, step: timedelta) -> None:
        self.clock = FakeClock(start)
        self.step = step
        self.ids = Ids(now_ms=lambda: int(self.clock.time() * 1000))
        self.recorder = Recorder(self.clock, self.ids)
        self.random = random.Random(20261121)

    def make(self, n: int) -> Event:
        """The ``n``\\ th event."""
        self.clock.advance(self.step.total_seconds())
        pick = self.random.random
        if n % 50 == 0:
            actor = Actor(user=f"person-{int(pick() * PEOPLE)}", session=self.ids())
            context = Context("default", actor, Network("192.0.2.9", "Mozilla/5.0"), self.ids())
            subject = Subject(id=f"server-{int(pick() * SERVERS)}", type="server")
            return self.recorder.make(codes.SERVER_CHANGED, "success", context, subject=subject, version=n % 7)
        actor = Actor(application=f"agent-{int(pick() ** 2 * AGENTS)}", mandate=self.ids())
        network = Network(f"192.0.2.{int(pick() * 200)}", "payments-client/2.4 (linux)")
        context = Context("default", actor, network, self.ids())
        refused = pick() < 0.03
        return self.recorder.make(
            codes.GATEWAY_DENIED if refused else codes.GATEWAY_ALLOWED,
            "deny" if refused else "allow",
            context,
            server=f"server-{int(pick() * SERVERS)}",
            policy_set="sha256:" + "a" * 64,
            reasons=("policy_denied",) if refused else (),
            input="b" * 64,
            credential="payments-key",
            method="GET",
            path=f"/payments/{n}",
            operation="GET /payments/{id}",
            scope="payments:read",
        )


def fill(url: str, events: int, sample: list[Event]) -> None:
    """COPY ``events`` events of the last week into the ledger; keeps some in ``sample``."""
    end = datetime.now(UTC) - timedelta(minutes=1)
    start = end - timedelta(days=DAYS)
    maker = Maker(start, timedelta(days=DAYS) / events)
    keep = max(100, events // 200)
    with psycopg.connect(url, autocommit=True) as connection, psycopg.connect(url, autocommit=True) as beside:
        leaves: list[bytes] = []
        connection.execute("INSERT INTO bailiwick.zones (name, created_at) VALUES ('default', now())")
        connection.execute("SELECT ledger.ensure_partitions(%s, %s)", (start, end + timedelta(days=1)))
        with (
            connection.cursor() as cursor,
            cursor.copy(f"COPY ledger.events ({', '.join(_TYPES)}) FROM STDIN (FORMAT BINARY)") as copy,
        ):
            copy.set_types(list(_TYPES.values()))
            for seq in range(events):
                event = maker.make(seq)
                body = encode(event)
                row = event_row("w0", 0, seq, "default", body)
                recorded_at = row.at + timedelta(milliseconds=30)
                values = {"seq": seq, "recorded_at": recorded_at}
                copy.write_row([values[name] if name in values else getattr(row, name) for name in _TYPES])
                leaves.append(leaf_hash(body))
                if len(leaves) == _RUN or seq + 1 == events:
                    run = (seq + 1 - len(leaves), len(leaves), b"".join(leaves))
                    beside.execute("INSERT INTO ledger.hashes VALUES ('default', 0, %s, %s, %s)", run)
                    leaves.clear()
                if seq % keep in {50, 51}:  # an administrator's act and an agent's
                    sample.append(event)
        connection.execute("VACUUM ANALYZE ledger.events, ledger.hashes")


async def timed(ask: Callable[[Event], Awaitable[object]], sample: list[Event]) -> float:
    """The median of asking about each, in milliseconds; -1 where it takes longer than a search may."""
    took = []
    for event in sample:
        begun = time.perf_counter()
        try:
            await ask(event)
        except BailiwickError:
            return -1.0
        took.append(time.perf_counter() - begun)
    return round(statistics.median(took) * 1000, 2)


async def ask(url: str, sample: list[Event]) -> dict[str, float]:
    """Every question, through the search."""
    database = Database(url, pool_size=2)
    search = Search(database, None)

    async def page(wanted: Filter, **more: Any) -> None:
        async with database.begin() as tx:
            await search.events(tx, "default", wanted, after=None, limit=100, **more)

    async def tale(event: Event, wanted: Filter) -> None:
        async def owner(tx: Transaction, zone: str, session: str) -> str | None:
            return event.actor.user

        async with database.begin() as tx:
            timelines = Timelines(search, owner)
            await timelines.page(tx, "default", wanted, order="oldest", after=None, limit=100)

    def day(event: Event) -> dict[str, Any]:
        begin = datetime.fromisoformat(event.at).replace(hour=0, minute=0, second=0, microsecond=0)
        return {"since": begin, "until": begin + timedelta(days=1)}

    chosen = random.Random(1).sample(sample, min(_AGAIN, len(sample)))
    agents = [event for event in chosen if event.actor.application]
    people = [event for event in sample if event.actor.user][:_AGAIN] or chosen
    few = chosen[:3]
    try:
        return {
            "search_request_ms": await timed(lambda e: page(Filter(request_id=UUID(e.request_id))), chosen),
            "search_event_ms": await timed(lambda e: page(Filter(event_id=UUID(e.id))), chosen),
            "search_subject_day_ms": await timed(lambda e: page(Filter(principal=e.principal, **day(e))), agents),
            "search_subject_ms": await timed(lambda e: page(Filter(principal=e.principal)), agents),
            "search_rare_subject_day_ms": await timed(lambda e: page(Filter(principal=e.principal, **day(e))), people),
            "search_nobody_day_ms": await timed(lambda e: page(Filter(principal="nobody", **day(e))), chosen),
            "search_acted_upon_day_ms": await timed(
                lambda e: page(Filter(subject_type="server", subject_id="server-7", **day(e))), chosen
            ),
            "search_server_denied_day_ms": await timed(
                lambda e: page(Filter(server="server-7", outcome="deny", **day(e))), chosen[:10]
            ),
            "search_newest_ms": await timed(lambda e: page(Filter()), chosen[:10]),
            "search_day_oldest_ms": await timed(lambda e: page(Filter(**day(e)), order="oldest"), chosen[:10]),
            "search_session_ms": await timed(lambda e: tale(e, Filter(session=e.actor.session)), people[:10]),
            "search_mandate_ms": await timed(lambda e: tale(e, Filter(mandate=e.actor.mandate)), agents[:3]),
            "timeline_user_ms": await timed(lambda e: page(Filter(about=About("user", e.actor.user))), people[:10]),
            "search_text_hour_ms": await timed(
                lambda e: page(Filter(text="nothing like it", since=at(e), until=at(e) + timedelta(hours=1))), few
            ),
            "facets_day_ms": await timed(lambda e: search.count("default", Filter(**day(e)), FACETS), few),
        }
    finally:
        await database.close()


def at(event: Event) -> datetime:
    """When it happened."""
    return datetime.fromisoformat(event.at)


def sizes(url: str) -> dict[str, float]:
    """Bytes per event: the rows, and each index."""
    with psycopg.connect(url, autocommit=True) as connection:
        rows = connection.execute("SELECT count(*), sum(length(rest)) FROM ledger.events").fetchone()
        assert rows is not None
        total = connection.execute(
            "SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = 'ledger.events'::regclass"
        ).fetchone()
        found = connection.execute(
            "SELECT parent.relname, sum(pg_relation_size(i.inhrelid)) FROM pg_inherits i"
            " JOIN pg_class parent ON parent.oid = i.inhparent JOIN pg_index x ON x.indexrelid = parent.oid"
            " WHERE x.indrelid = 'ledger.events'::regclass GROUP BY 1 ORDER BY 1"
        ).fetchall()
    assert total is not None
    figures = {
        "bytes_per_event_hot": float(round(total[0] / rows[0], 1)),
        "bytes_of_rest": float(round(rows[1] / rows[0], 1)),
    }
    return figures | {f"bytes_{name}": float(round(size / rows[0], 1)) for name, size in found}


async def measure(events: int) -> dict[str, float]:
    """All figures."""
    async with throwaway_postgres() as server:
        url = await server.fresh()
        await asyncio.to_thread(migrate, url)
        sample: list[Event] = []
        begun = time.perf_counter()
        await asyncio.to_thread(fill, url, events, sample)
        filled = time.perf_counter() - begun
        return {**await ask(url, sample), **sizes(url), "filled_s": round(filled, 1)}


def main(arguments: list[str]) -> None:
    """``python -m bench search``."""
    parser = argparse.ArgumentParser(prog="python -m bench search")
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args(arguments)
    figures = asyncio.run(measure(given.events))
    method = f"{given.events} events of {DAYS} days; pages of 100; medians of {_AGAIN} or fewer different questions"
    report("search", figures, given.json, path="search over PostgreSQL, no HTTP", method=method)
