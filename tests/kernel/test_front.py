from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID

import pytest
import structlog
from asgi import Answer, call
from fastapi import APIRouter, FastAPI, Request, WebSocket
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from starlette.responses import PlainTextResponse, StreamingResponse

from bailiwick.kernel import logging as bw_logging
from bailiwick.kernel import problems
from bailiwick.kernel.clock import SystemClock
from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.front import SECURITY_HEADERS, Addresses, Front, RequestRecord
from bailiwick.kernel.http import Caller
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.metrics import Metrics


async def hot(scope: Any, receive: Any, send: Any) -> None:
    if scope["path"] == "/hot/broken":
        raise RuntimeError("hot and broken")
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message.get("body", b"")
        more = message.get("more_body", False)
    told = json.dumps({**scope["state"], "length": len(body)}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": told})


def api() -> FastAPI:
    app = FastAPI()
    problems.install(app)
    router = APIRouter(prefix="/api/v1")

    @router.get("/servers/{name}")
    async def server(name: str, request: Request) -> dict[str, Any]:
        request.state.caller = Caller("default", "jane.doe", "viewer", "s1")
        return {"name": name, "zone": request.state.zone, "id": request.state.request_id, "ip": request.state.ip}

    @router.post("/echo")
    async def echo(request: Request) -> dict[str, int]:
        return {"length": len(await request.body())}

    @router.post("/json")
    async def of_json(body: dict[str, Any]) -> dict[str, int]:
        return {"length": len(body)}

    @router.get("/broken")
    async def broken() -> None:
        raise RuntimeError("Bearer Zq9planted")

    @router.get("/half")
    async def half() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"one"
            raise RuntimeError("midway")

        return StreamingResponse(parts())

    @router.get("/page")
    async def page() -> PlainTextResponse:
        return PlainTextResponse("x", headers={"Content-Security-Policy": "default-src 'self'"})

    app.include_router(router)
    return app


class Limits:
    def __init__(self) -> None:
        self.learned: list[int] = []
        self.refuse = False

    def applies(self, path: str) -> bool:
        return path.startswith("/api/")

    async def before(self, _scope: Any) -> list[tuple[bytes, bytes]]:
        if self.refuse:
            raise BailiwickError(reason="rate_limited", headers={"Retry-After": "3"})
        return [(b"x-ratelimit-limit", b"100")]

    def after(self, _scope: Any, status: int) -> None:
        self.learned.append(status)


class House:
    def __init__(self, **options: Any) -> None:
        self.metrics = Metrics(CollectorRegistry())
        self.records: list[RequestRecord] = []
        self.front = Front(
            options.pop("app", None) or api(),
            {("POST", "/hot"): hot, ("GET", "/hot/broken"): hot},
            ids=Ids(),
            clock=SystemClock(),
            metrics=self.metrics,
            on_request=self.records.append,
            **options,
        )

    async def call(self, method: str, path: str, *args: Any, **kwargs: Any) -> Answer:
        return await call(self.front, method, path, *args, **kwargs)

    def count(self, method: str, route: str, status: int) -> bool:
        line = f'http_requests_total{{method="{method}",route="{route}",status="{status}"}} 1.0'
        return line in self.metrics.collect_text().decode()


@pytest.fixture
def house() -> House:
    return House()


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    bw_logging.configure("logfmt", "info", stream=stream)
    yield stream
    structlog.reset_defaults()


async def test_every_answer_has_the_seven_headers_and_our_request_id(house: House) -> None:
    for answer in (
        await house.call("GET", "/api/v1/servers/pay"),
        await house.call("POST", "/hot", b"{}"),
        await house.call("GET", "/nothing"),
        await house.call("GET", "/z/BAD ZONE/x"),
    ):
        assert len(SECURITY_HEADERS) == 7
        assert SECURITY_HEADERS[0][0] == b"strict-transport-security"
        for name, value in SECURITY_HEADERS:
            assert answer.headers[name.decode()] == value.decode()
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert UUID(answer.headers["x-request-id"]).version == 7


async def test_a_page_may_have_its_own_policy_once(house: House) -> None:
    answer = await house.call("GET", "/api/v1/page")
    assert answer.headers["content-security-policy"] == "default-src 'self'"


@pytest.mark.parametrize(
    ("path", "zone", "status"),
    [
        ("/api/v1/servers/a", "default", 200),
        ("/z/blue/api/v1/servers/a", "blue", 200),
        ("/z/blue-2/api/v1/servers/a", "blue-2", 200),
        ("/z/-x/api/v1/servers/a", "default", 404),
        ("/z/Blue/api/v1/servers/a", "default", 404),
        ("/z//api/v1/servers/a", "default", 404),
        ("/z/" + "x" * 64 + "/api/v1/servers/a", "default", 404),
        ("/z/blue", "blue", 404),
        ("/z/blue/z/red/api/v1/servers/a", "blue", 404),
        ("/z/blue\n/api/v1/servers/a", "default", 404),
    ],
)
async def test_zones(house: House, path: str, zone: str, status: int) -> None:
    answer = await house.call("GET", path)
    assert answer.status == status
    if status == 200:
        assert answer.json["zone"] == zone
        assert answer.json["id"] == answer.headers["x-request-id"]
    else:
        assert answer.json["reason"] == "not_found"
        assert answer.json["instance"] == path
    assert house.records[0].zone == zone


async def test_hot_routes_of_a_zone_and_their_body(house: House) -> None:
    answer = await house.call(
        "POST", "/z/blue/hot", [b"ab", b"c"], {"X-Request-ID": "mine-1", "X-Forwarded-For": "9.9.9.9, 1.2.3.4"}
    )
    assert answer.json["length"] == 3
    assert answer.json["zone"] == "blue"
    assert answer.json["client_request_id"] == "mine-1"
    assert answer.json["ip"] == "1.2.3.4"
    assert answer.json["path"] == "/z/blue/hot"
    assert house.count("POST", "/hot", 200)


@pytest.mark.parametrize("bad", ["", "a b", "x" * 129, "a\tb", "\xff"])
async def test_a_request_id_that_is_not_printable_is_not_kept(house: House, bad: str) -> None:
    answer = await house.call("POST", "/hot", headers={"X-Request-ID": bad})
    assert answer.json["client_request_id"] == ""


TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    ("header", "trace"),
    [
        (f"00-{TRACE}-b7ad6b7169203331-01", TRACE),
        (f"01-{TRACE}-b7ad6b7169203331-01-later", TRACE),
        (f"ff-{TRACE}-b7ad6b7169203331-01", ""),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", ""),
        (f"00-{TRACE}-{'0' * 16}-01", ""),
        (f"00-{TRACE.upper()}-b7ad6b7169203331-01", ""),
        ("nonsense", ""),
    ],
)
async def test_the_trace_id_comes_from_a_valid_traceparent(house: House, header: str, trace: str) -> None:
    answer = await house.call("POST", "/hot", headers={"traceparent": header})
    assert answer.json["trace_id"] == trace


@pytest.mark.parametrize(
    ("peer", "forwarded", "trusted", "address"),
    [
        ("", b"203.0.113.9", (), "203.0.113.9"),
        ("", b"6.6.6.6, 203.0.113.9", (), "203.0.113.9"),
        ("", b"203.0.113.9, 10.0.0.5", ("10.0.0.0/8",), "203.0.113.9"),
        ("", b"6.6.6.6, 203.0.113.9, 10.0.0.5, 10.0.0.6", ("10.0.0.0/8",), "203.0.113.9"),
        ("", b"not-an-address, 10.0.0.5", ("10.0.0.0/8",), "10.0.0.5"),
        ("", b"", (), ""),
        ("", b"garbage", (), ""),
        ("198.51.100.7", b"6.6.6.6", (), "198.51.100.7"),
        ("127.0.0.1", b"6.6.6.6", ("127.0.0.0/8",), "6.6.6.6"),
        ("", b"::ffff:203.0.113.9", (), "203.0.113.9"),
        ("", b"[2001:db8::1]", (), "2001:db8::1"),
        ("fe80::1%eth0", b"", (), "fe80::1"),
    ],
)
def test_the_callers_address(peer: str, forwarded: bytes, trusted: tuple[str, ...], address: str) -> None:
    addresses = Addresses(trusted)
    assert addresses.of(peer, forwarded) == address
    assert addresses.of(peer, forwarded) == address


@given(st.binary(max_size=300))
def test_no_forwarded_header_raises(forwarded: bytes) -> None:
    assert isinstance(Addresses(["10.0.0.0/8", "::/0"]).of("", forwarded), str)


async def test_what_breaks_answers_a_problem_and_is_logged_once_without_secrets(
    house: House, logged: io.StringIO
) -> None:
    for path in ("/api/v1/broken", "/hot/broken"):
        answer = await house.call("GET", path)
        assert (answer.status, answer.json["reason"]) == (500, "internal_error")
        assert answer.json["request_id"] == answer.headers["x-request-id"]
        assert b"Zq9" not in answer.body
        assert answer.headers["x-request-id"] in logged.getvalue()
    lines = logged.getvalue().splitlines()
    assert len(lines) == 2
    assert all("level=ERROR" in line and "Traceback" in line and "Zq9planted" not in line for line in lines)


async def test_an_answer_that_breaks_midway_is_not_ended_properly(house: House) -> None:
    with pytest.raises(RuntimeError, match="midway"):
        await house.call("GET", "/api/v1/half")
    assert house.count("GET", "/api/v1/half", 200)


@pytest.mark.parametrize("path", ["/api/v1/echo", "/api/v1/json", "/hot"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_too_large_is_413(path: str, chunked: bool) -> None:
    house = House(max_body_bytes=1000)
    headers = {"content-type": "application/json"}
    fits = await house.call("POST", path, [b"{", b'"a":1' + b" " * 900, b"}"], headers, chunked=chunked)
    assert fits.status == 200
    answer = await house.call("POST", path, [b"{" + b" " * 600, b" " * 600 + b"}"], headers, chunked=chunked)
    assert (answer.status, answer.json["reason"]) == (413, "payload_too_large")
    assert answer.headers["connection"] == "close"
    assert answer.complete
    assert house.records[-1].status == 413


@pytest.mark.parametrize("chunked", [False, True])
async def test_one_route_may_take_more_than_the_others_and_not_without_end(chunked: bool) -> None:
    large = [("POST", re.compile("/api/v1/echo"), 2000)]
    house = House(max_body_bytes=1000, large_bodies=large)
    for path, size, status in (
        ("/api/v1/echo", 1500, 200), ("/api/v1/echo", 2500, 413), ("/api/v1/json", 1500, 413), ("/hot", 1500, 413),
        ("/z/default/api/v1/echo", 1500, 200), ("/z/default/api/v1/echo", 2500, 413),
    ):  # fmt: skip
        body = [b"{" + b" " * (size // 2), b" " * (size // 2 - 2) + b"}"]
        answer = await house.call("POST", path, body, {"content-type": "application/json"}, chunked=chunked)
        assert answer.status == status, (path, size)


async def test_a_nonsense_length_is_refused(house: House) -> None:
    for length in ("-1", "1e3", "9" * 30):
        answer = await house.call("POST", "/hot", headers={"content-length": length})
        assert answer.status == 413


async def test_a_caller_that_goes_away_is_counted_and_nothing_else(house: House, logged: io.StringIO) -> None:
    gone = asyncio.Event()
    gone.set()
    answer = await call(house.front, "POST", "/api/v1/echo", [], chunked=True, disconnect_after=gone)
    assert answer.status in {0, 500}
    assert "ERROR" not in logged.getvalue()


async def test_records_tell_of_the_request(house: House) -> None:
    await house.call("GET", "/api/v1/servers/pay", headers={"X-Forwarded-For": "203.0.113.9"})
    await house.call("BREW", "/api/v1/unknown")
    first, second = house.records
    assert (first.route, first.status, first.caller, first.ip) == (
        "/api/v1/servers/{name}",
        200,
        "jane.doe",
        "203.0.113.9",
    )
    assert 0 < first.duration_us < 5_000_000
    assert (second.method, second.route, second.status) == ("other", "unmatched", 404)
    assert house.count("GET", "/api/v1/servers/{name}", 200)


async def test_slow_requests_are_logged(logged: io.StringIO) -> None:
    house = House(slow_ms=0)
    await house.call("GET", "/api/v1/servers/pay")
    assert 'event="slow request"' in logged.getvalue()
    assert "duration=0.0" in logged.getvalue()


async def test_an_answer_that_lasts_is_not_slow(logged: io.StringIO) -> None:
    app = FastAPI()

    @app.get("/follow")
    async def follow(request: Request) -> str:
        request.state.long_lived = True
        return "over"

    house = House(app=app, slow_ms=0)
    assert (await house.call("GET", "/follow")).status == 200
    assert "slow request" not in logged.getvalue()
    assert house.records[-1].status == 200


async def test_limits_apply_to_the_api_and_not_to_hot_routes() -> None:
    limits = Limits()
    house = House(limits=limits)
    assert (await house.call("GET", "/api/v1/servers/a")).headers["x-ratelimit-limit"] == "100"
    assert "x-ratelimit-limit" not in (await house.call("POST", "/hot")).headers
    limits.refuse = True
    refused = await house.call("GET", "/api/v1/servers/a")
    assert (refused.status, refused.json["reason"], refused.headers["retry-after"]) == (429, "rate_limited", "3")
    assert limits.learned == [200]


async def test_other_origins_are_refused_unless_configured(house: House) -> None:
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "GET"}
    assert "access-control-allow-origin" not in (await house.call("OPTIONS", "/api/v1/page", headers=asked)).headers
    opened = House(cors_origins=["https://a.example"])
    answer = await opened.call("OPTIONS", "/api/v1/page", headers=asked)
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, "https://a.example")
    asked["Origin"] = "https://b.example"
    assert (await opened.call("OPTIONS", "/api/v1/page", headers=asked)).status == 400


@pytest.mark.parametrize("path", ["/api/v1/page", "/nowhere", "/z/UPPER/api", "/hot", "/api/v1/servers/a"])
async def test_every_answer_has_the_seven_headers_and_tells_an_allowed_origin(path: str) -> None:
    limits = Limits()
    limits.refuse = True
    opened = House(cors_origins=["https://a.example"], limits=limits)
    for method in ("GET", "POST", "DELETE"):
        for origin, told in (("https://a.example", "https://a.example"), ("https://b.example", None), ("null", None)):
            answer = await opened.call(method, path, headers={"Origin": origin})
            assert {name.decode() for name, _ in SECURITY_HEADERS} <= answer.headers.keys()
            assert answer.headers.get("access-control-allow-origin") == told, (method, answer.status)
            assert answer.headers["vary"] == "Origin"
            assert "unsafe-inline" not in answer.headers["content-security-policy"]


async def test_streams_pass_piece_by_piece() -> None:
    released = asyncio.Event()

    async def parts() -> AsyncIterator[bytes]:
        yield b"one"
        await released.wait()
        yield b"two"

    app = FastAPI()

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(parts())

    house = House(app=app)
    sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    scope = {"type": "http", "method": "GET", "path": "/stream", "raw_path": b"/stream", "query_string": b"",
             "headers": [], "client": None, "scheme": "http", "server": ("x", 80), "asgi": {}}  # fmt: skip

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    task = asyncio.create_task(house.front(scope, receive, sent.put))
    assert (await sent.get())["type"] == "http.response.start"
    assert (await sent.get())["body"] == b"one"
    released.set()
    assert (await sent.get())["body"] == b"two"
    await task


async def test_websockets_pass_with_their_names() -> None:
    app = FastAPI()

    @app.websocket("/live")
    async def live(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(socket.state.zone)
        await socket.close()

    house = House(app=app)
    sent: list[dict[str, Any]] = []
    inbox = [{"type": "websocket.connect"}]

    async def receive() -> dict[str, Any]:
        return inbox.pop()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/live", "raw_path": b"/live", "headers": [], "client": None,
             "query_string": b"", "scheme": "ws", "subprotocols": [], "asgi": {"version": "3.0"}}  # fmt: skip
    await house.front(scope, receive, send)
    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.send", "websocket.close"]
    assert sent[1]["text"] == "default"
