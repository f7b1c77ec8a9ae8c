"""Following the ledger live: what comes, who is cut off, and that nothing of another zone is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI, Request
from ledger_world import World
from searching import Client, event, ledgered

from bailiwick.evidence import tail
from bailiwick.evidence.api import routes
from bailiwick.evidence.search import Search
from bailiwick.evidence.tail import EventStream, Tails
from bailiwick.kernel.errors import Unauthenticated
from bailiwick.kernel.http import Caller
from bailiwick.kernel.problems import install

pytestmark = pytest.mark.made_up_events

STREAM = "/api/v1/audit/events/stream"


class Doors:
    """Who may: changed while a stream is open."""

    def __init__(self) -> None:
        self.role = "auditor"
        self.reason = ""


@pytest.fixture
def doors() -> Doors:
    return Doors()


@pytest.fixture
async def tails(world: World) -> AsyncIterator[Tails]:
    made = Tails(world.database, most=3, poll_s=0.02, queue=50)
    yield made
    made.close()


@pytest.fixture
def client(world: World, doors: Doors, tails: Tails) -> Client:
    app = FastAPI()
    install(app)

    async def authenticate(request: Request) -> Caller:
        if doors.reason:
            raise Unauthenticated(reason=doors.reason)
        return Caller(request.state.zone, "olga", doors.role, "session-1")

    app.state.authenticate = authenticate
    app.include_router(
        routes(world.database, Search(world.database, None), world.recorder, world.head_files, tails=tails)
    )

    async def front(scope: Any, receive: Any, send: Any) -> None:
        zone = dict(scope["headers"]).get(b"x-zone", b"default").decode()
        await app({**scope, "state": {"zone": zone, "request_id": world.ids(), "ip": "192.0.2.1"}}, receive, send)

    return Client(front, {})


async def test_what_is_recorded_comes_as_it_is_searched(world: World, client: Client) -> None:
    await ledgered(world, [event(world, user="before")])
    async with client.stream("GET", STREAM) as stream:
        await stream.until(b": following\n\n")
        assert stream.status == 200 and stream.headers["content-type"].startswith("text/event-stream")
        assert stream.headers["cache-control"] == "no-store" and "content-length" not in stream.headers
        await ledgered(world, [event(world, user="jane", note="ü\n")])
        await ledgered(world, [event(world, user="joe")])
        await stream.until(b"event: event", 3)
    found = (await client("GET", "/api/v1/audit/events", params={"order": "oldest"})).json["events"]
    assert stream.events == found[1:4]
    names = [each["event"]["name"] for each in stream.events]
    assert sorted(names) == ["audit.read", "gateway.request.allowed", "gateway.request.allowed"], (
        "listening is told too"
    )
    assert [f"id: {each['seq']}\n".encode() in stream.buffer for each in stream.events] == [True] * 3


async def test_filters_hold_and_zones_are_apart(world: World, client: Client) -> None:
    params = {"user": "jane", "name": "gateway.*"}
    async with client.stream("GET", STREAM, params=params) as stream:
        await stream.until(b": following")
        await ledgered(world, [event(world, user="jane", zone="acme")], "acme")
        await ledgered(world, [event(world, user="joe"), event(world, user="jane"), event(world, application="jane")])
        await stream.until(b"event: event")
        await ledgered(world, [event(world, user="jane", session="last")])
        await stream.until(b'"session":"last"')
    assert [(each["event"]["zone"], each["event"]["actor"]["user"]) for each in stream.events] == [
        ("default", "jane")
    ] * 2


async def test_one_reader_serves_all(world: World, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    behind = tail.hot.behind

    async def counted(tx: Any, zones: Any, *more: Any) -> Any:
        asked.append(list(zones))
        return await behind(tx, zones, *more)

    monkeypatch.setattr(tail.hot, "behind", counted)
    async with (
        client.stream("GET", STREAM, params={"user": "jane"}) as one,
        client.stream("GET", STREAM, params={"user": "jane"}) as two,
        client.stream("GET", STREAM, headers={"x-zone": "acme"}) as other,
    ):
        for each in (one, two, other):
            await each.until(b": following")
        start = len(asked)
        began = time.monotonic()
        await ledgered(world, [event(world, user="jane")])
        for each in (one, two):
            await each.until(b"event: event")
        polls, most = len(asked) - start, (time.monotonic() - began) / 0.02 + 2
        assert polls <= most, "a poll serves every listener"
        assert asked[-1] == ["acme", "default"]
        # one more than may is refused
        refused = await client("GET", STREAM)
        assert (refused.status, refused.json["reason"]) == (503, "search_busy")
        assert refused.headers["retry-after"] == "30"
    async with client.stream("GET", STREAM) as again:
        await again.until(b": following")


async def test_who_comes_back_misses_nothing_and_sees_nothing_twice(world: World, client: Client) -> None:
    await ledgered(world, [event(world, user="jane", n=n) for n in range(450)])
    params = {"user": "jane"}
    async with client.stream("GET", STREAM, params=params, headers={"last-event-id": "9"}) as stream:
        await stream.until(b"event: event", 440)
        await ledgered(world, [event(world, user="jane", n=450)])
        await stream.until(b"event: event", 441)
    assert [each["event"]["details"]["n"] for each in stream.events] == list(range(10, 451))
    for bad in ("99999999", "abc", "-1", "1" * 19):
        refused = await client("GET", STREAM, headers={"last-event-id": bad})
        assert (refused.status, refused.json["reason"]) == (400, "invalid_request"), bad


@pytest.mark.parametrize("reason", ["token_expired", "session_ended", "account_disabled"])
async def test_a_credential_that_ends_ends_the_tail_within_a_second(
    world: World, client: Client, doors: Doors, reason: str
) -> None:
    async with client.stream("GET", STREAM) as stream:
        await stream.until(b": following")
        began = time.monotonic()
        doors.reason = reason
        assert await stream.ended() == reason
        assert time.monotonic() - began < 1.0
    assert (await client("GET", STREAM)).status == 401


async def test_losing_the_permission_ends_the_tail(client: Client, doors: Doors) -> None:
    async with client.stream("GET", STREAM) as stream:
        await stream.until(b": following")
        doors.role = "viewer"
        assert await stream.ended() == "permission_denied"
    assert (await client("GET", STREAM)).status == 403


async def test_a_process_that_stops_ends_its_tails(client: Client, tails: Tails) -> None:
    async with client.stream("GET", STREAM) as stream:
        await stream.until(b": following")
        tails.close()
        assert await stream.ended() == "not_ready"


async def test_a_tail_of_so_many_seconds_is_done(client: Client) -> None:
    async with client.stream("GET", STREAM, params={"seconds": "1"}) as stream:
        assert await stream.ended() == "done"
    async with client.stream("GET", STREAM, params={"seconds": "0"}) as stream:
        assert await stream.ended() == "done"
    for params in ({"seconds": "-1"}, {"seconds": "nan"}, {"seconds": "x"}, {"user": "\x00"}, {"order": "newest"}):
        assert (await client("GET", STREAM, params=params)).status == 400


async def test_a_slow_reader_is_cut_off_with_a_reason(world: World, client: Client) -> None:
    async with client.stream("GET", STREAM, params={"user": "jane"}) as stream:
        await stream.until(b": following")
        stream.reads.clear()
        await ledgered(world, [event(world, user="jane", n=n) for n in range(120)])
        await asyncio.sleep(0.3)  # for the reader to have put what has room
        stream.reads.set()
        assert await stream.ended() == "slow_reader"
    told = [each["event"]["details"]["n"] for each in stream.events]
    assert 50 <= len(told) < 120 and told == list(range(len(told))), "what he got has no gap"


async def test_a_reader_who_takes_nothing_is_let_go(world: World, tails: Tails) -> None:
    async def still() -> None: ...

    stalled = asyncio.Event()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            stalled.set()
            await asyncio.Event().wait()

    async def receive() -> Any:
        await asyncio.Event().wait()

    stream = EventStream(tails, "default", lambda event, body: True, still, stall_s=0.1)
    async with asyncio.timeout(5):
        await stream({"type": "http"}, receive, send)  # type: ignore[arg-type]
    assert stalled.is_set() and not tails._listeners


async def test_silence_is_broken_by_heartbeats_that_tell_the_place(world: World, tails: Tails) -> None:
    await ledgered(world, [event(world, user="jane") for _ in range(3)])
    sent: list[bytes] = []
    enough = asyncio.Event()

    async def still() -> None: ...

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))
        if b"".join(sent).count(b": heartbeat") >= 2:
            enough.set()

    async def receive() -> Any:
        await enough.wait()
        return {"type": "http.disconnect"}

    stream = EventStream(tails, "default", lambda event, body: False, still, heartbeat_s=0.05)
    async with asyncio.timeout(5):
        await stream({"type": "http"}, receive, send)  # type: ignore[arg-type]
    assert b": heartbeat\nid: 2\n\n" in b"".join(sent)


async def test_a_database_that_is_away_is_waited_for(
    world: World, client: Client, tails: Tails, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bailiwick.kernel.errors import Unavailable

    behind, away = tail.hot.behind, True

    async def sometimes(*arguments: Any) -> Any:
        if away:
            raise Unavailable(reason="database_unavailable")
        return await behind(*arguments)

    monkeypatch.setattr(tail.hot, "behind", sometimes)
    async with client.stream("GET", STREAM, params={"user": "jane"}) as stream:
        await stream.until(b": following")
        await ledgered(world, [event(world, user="jane")])
        away = False
        await stream.until(b"event: event")


async def test_damaged_events_do_not_stop_the_reader(world: World) -> None:
    tails = Tails(world.database, poll_s=3600)
    await ledgered(world, [event(world, user="jane")])
    async with tails.listen("default", lambda event, body: True) as listener:
        await tails.poll()
        await ledgered(world, [event(world, user="jane") for _ in range(3)])
        world.do("UPDATE ledger.events SET rest = %s WHERE seq = 2", b"\xff\x00")
        assert await tails.poll() is False
        assert [listener.queue.get_nowait()[0] for _ in range(listener.queue.qsize())] == [1, 3]
        assert listener.seen == 3
