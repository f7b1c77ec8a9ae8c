"""What the tests of searching share: events of every shape, an archive of Parquet files, and a client that streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import duckdb
from ledger_world import World
from samples import sample_details

from bailiwick.evidence import codes
from bailiwick.evidence.cold import ColdSearch
from bailiwick.evidence.events import Actor, Context, Event, Network, Subject, encode
from bailiwick.evidence.frames import Kind


async def ledgered(world: World, events: Sequence[Event], zone: str = "default") -> None:
    """Put these events into the ledger, under a head."""
    spool = await world.spool()
    for future in [spool.append(Kind.EVENT, zone, encode(event)) for event in events]:
        await future
    await spool.close()
    await sequenced(world)


def bodies_of(world: World, code: str) -> list[dict[str, Any]]:
    """The events in the ledger whose codes begin so, in order."""
    return [json.loads(body) for body in world.bodies(f"WHERE code LIKE '{code}%'")]


async def sequenced(world: World) -> None:
    sequencer = world.sequencer()
    await sequencer.drain()
    sequencer.close()


def event(world: World, kind: codes.EventType = codes.GATEWAY_ALLOWED, **more: Any) -> Event:
    """An event with the actor, network and names that are given."""
    actor = Actor(**{name: more.pop(name) for name in Actor.__struct_fields__ if name in more})
    network = Network(**{name: more.pop(name) for name in Network.__struct_fields__ if name in more})
    names = {name: more.pop(name, "") for name in ("request_id", "client_request_id", "trace_id")}
    context = Context(more.pop("zone", "default"), actor, network, **names)
    subject = more.pop("subject", None)
    outcome = more.pop("outcome", "allow")
    said = sample_details(kind) | more
    return world.recorder.make(kind, outcome, context, subject=Subject(*subject) if subject else None, **said)


# ---------------------------------------------------------------------- an archive


@dataclass(frozen=True)
class Part:
    first_seq: int
    last_seq: int
    path: Path


@dataclass(frozen=True)
class Window:
    objects: tuple[Part, ...]


@dataclass
class Archive:
    """Windows that were moved out of the table."""

    world: World
    home: Path
    windows: list[Window] = field(default_factory=list)
    opened: list[Path] = field(default_factory=list)

    def move(self, first: int, last: int, zone: str = "default", *, keep: bool = False) -> None:
        """Move the events ``first`` to ``last`` into one Parquet file; ``keep`` leaves the rows where they are."""
        self.home.mkdir(exist_ok=True)
        rows = self.world.rows(
            "SELECT seq, id::text, at AT TIME ZONE 'UTC', recorded_at AT TIME ZONE 'UTC', code, outcome, principal,"
            " server, request_id::text, CASE WHEN code = ANY(%s) THEN id::text END FROM ledger.events"
            " WHERE zone = %s AND seq BETWEEN %s AND %s ORDER BY seq",
            list(codes.DECISIONS),
            zone,
            first,
            last,
        )
        bodies = self.world.bodies(f"WHERE zone = '{zone}' AND seq BETWEEN {first} AND {last}")
        rows = [[*row, body] for row, body in zip(rows, bodies, strict=True)]
        path = self.home / f"{zone}-{first}.parquet"
        with duckdb.connect() as connection:
            connection.execute(
                'CREATE TABLE part (seq BIGINT, id UUID, "at" TIMESTAMP, recorded_at TIMESTAMP, code VARCHAR,'
                " outcome VARCHAR, principal VARCHAR, server VARCHAR, request_id UUID, decision_id UUID, body BLOB)"
            )
            connection.executemany("INSERT INTO part VALUES (?,?,?,?,?,?,?,?,?,?,?)", rows)
            connection.execute(f"COPY part TO '{path}' (FORMAT parquet)")
        if not keep:
            self.world.do("DELETE FROM ledger.events WHERE zone = %s AND seq BETWEEN %s AND %s", zone, first, last)
        self.windows.append(Window((Part(first, last, path),)))

    async def list_windows(self, zone: str, since: datetime | None, until: datetime | None) -> list[Window]:
        return [window for window in self.windows if window.objects[0].path.name.startswith(f"{zone}-")]

    async def paths(self, windows: Sequence[Window]) -> list[Path]:
        return [part.path for window in windows for part in window.objects]

    def open(self, paths: Sequence[Path]) -> duckdb.DuckDBPyConnection:
        self.opened += paths
        connection = duckdb.connect()
        connection.read_parquet([str(path) for path in paths]).create_view("cold")
        return connection

    def search(self) -> ColdSearch:
        return ColdSearch(self, self.open)


# ---------------------------------------------------------------------- a client


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Stream:
    """An answer that is still coming."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.buffer = b""
        self.complete = False
        self.changed = asyncio.Condition()
        self.reads = asyncio.Event()
        self.reads.set()

    async def until(self, wanted: bytes, times: int = 1) -> bytes:
        """Everything up to now, once ``wanted`` has come so often."""
        async with asyncio.timeout(15), self.changed:
            await self.changed.wait_for(lambda: self.buffer.count(wanted) >= times or self.complete)
        assert self.buffer.count(wanted) >= times, self.buffer[-2000:]
        return self.buffer

    async def ended(self) -> str:
        """The reason in the last word."""
        async with asyncio.timeout(15), self.changed:
            await self.changed.wait_for(lambda: self.complete)
        last = self.buffer.rpartition(b"event: end\ndata: ")[2]
        return str(json.loads(last)["reason"])

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events that came."""
        blocks = self.buffer.decode().split("\n\n")
        return [json.loads(b.partition("\ndata: ")[2]) for b in blocks if "\nevent: event\n" in f"\n{b}"]


class Client:
    """Calls an ASGI application; what it answers may come as it comes."""

    def __init__(self, app: Any, headers: Mapping[str, str]) -> None:
        self._app = app
        self.headers = dict(headers)

    async def __call__(self, method: str, path: str, body: Any = None, **more: Any) -> Reply:
        async with self.stream(method, path, body, **more) as stream, stream.changed:
            async with asyncio.timeout(30):
                await stream.changed.wait_for(lambda: stream.complete)
        return Reply(stream.status, stream.headers, stream.buffer)

    @asynccontextmanager
    async def stream(
        self, method: str, path: str, body: Any = None, params: Any = None, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[Stream]:
        stream, gone = Stream(), asyncio.Event()
        content = json.dumps(body).encode() if body is not None else b""
        sent = {**self.headers, "content-type": "application/json", **(headers or {})}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": urlencode(params or {}).encode(),
            "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
            "client": ("192.0.2.1", 1234),
            "server": ("api", 80),
        }
        asked = False

        async def receive() -> dict[str, Any]:
            nonlocal asked
            if asked:
                await gone.wait()
                return {"type": "http.disconnect"}
            asked = True
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            await stream.reads.wait()
            async with stream.changed:
                if message["type"] == "http.response.start":
                    stream.status = message["status"]
                    stream.headers = {n.decode().lower(): v.decode() for n, v in message["headers"]}
                else:
                    stream.buffer += message.get("body", b"")
                    stream.complete = not message.get("more_body", False)
                stream.changed.notify_all()

        task = asyncio.create_task(self._app(scope, receive, send))
        task.add_done_callback(lambda _: asyncio.ensure_future(_over(stream)))
        try:
            yield stream
        finally:
            gone.set()
            stream.reads.set()
            async with asyncio.timeout(10):
                await task


async def _over(stream: Stream) -> None:
    async with stream.changed:
        stream.complete = True
        stream.changed.notify_all()
