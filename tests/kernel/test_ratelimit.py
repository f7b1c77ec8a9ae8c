from __future__ import annotations

import asyncio
import io
import math
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from redis_server import RedisServer

from bailiwick.kernel import logging as bw_logging
from bailiwick.kernel import ratelimit
from bailiwick.kernel.clock import FakeClock, SystemClock
from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.http import Caller
from bailiwick.kernel.metrics import Metrics
from bailiwick.kernel.ratelimit import HotLimits, Limiter, MachineCounters, RequestLimits, gcra, network_of
from bailiwick.kernel.redis import Redis


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def counters(tmp_path: Path, clock: FakeClock) -> Iterator[MachineCounters]:
    counters = MachineCounters(tmp_path / "limits", clock)
    yield counters
    counters.close()


@given(
    limit=st.integers(1, 5000),
    burst=st.integers(1, 50),
    gaps=st.lists(st.floats(0, 5), min_size=1, max_size=200),
)
def test_no_stretch_of_time_lets_more_through_than_limit_and_burst(limit: int, burst: int, gaps: list[float]) -> None:
    interval, now, tat = 60 / limit, 1000.0, 0.0
    passed = []
    for gap in gaps:
        now += gap
        allowed, tat = gcra(tat, now, interval, burst)
        if allowed:
            passed.append(now)
    for first, start in enumerate(passed):
        for last in range(first, len(passed)):
            assert last - first + 1 <= burst + (passed[last] - start) / interval + 1e-6


@given(st.floats(allow_nan=False), st.integers(1, 1000), st.integers(1, 100))
def test_no_stored_number_locks_a_key_for_longer_than_its_burst(tat: float, limit: int, burst: int) -> None:
    interval = 60 / limit
    _, after = gcra(tat, 500.0, interval, burst)
    allowed, _ = gcra(after, 500.0 + burst * interval + 1e-3, interval, burst)
    assert allowed


def test_the_burst_then_the_rate(counters: MachineCounters, clock: FakeClock) -> None:
    results = [counters.check(b"a", 60, 5) for _ in range(6)]
    assert [result.allowed for result in results] == [True] * 5 + [False]
    assert [result.remaining for result in results] == [4, 3, 2, 1, 0, 0]
    refused = results[-1]
    assert refused.retry_after_s == pytest.approx(1.0)
    assert refused.reset_s == pytest.approx(5.0)
    assert refused.headers() == {
        "RateLimit-Policy": '"minute";q=60;w=60',
        "RateLimit": '"minute";r=0;t=5',
        "X-RateLimit-Limit": "60",
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": "5",
        "Retry-After": "1",
    }
    assert counters.check(b"b", 60, 5).allowed
    clock.advance(1.0)
    assert counters.check(b"a", 60, 5).allowed
    assert not counters.check(b"a", 60, 5).allowed
    clock.advance(3600)
    assert counters.check(b"a", 60, 5).remaining == 4


def test_a_reboot_or_a_wild_number_does_not_lock_anybody_out(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "limits"
    counters = MachineCounters(path, clock)
    counters.check(b"a", 60, 5)
    counters.close()
    content = bytearray(path.read_bytes())
    for start in range(64, len(content), 16):
        fingerprint, _ = struct.unpack_from("<Qd", content, start)
        if fingerprint:
            struct.pack_into("<Qd", content, start, fingerprint, math.nan if start % 32 else 1e300)
    path.write_bytes(content)
    counters = MachineCounters(path, clock)
    counters.check(b"a", 60, 5)
    clock.advance(5.1)
    assert counters.check(b"a", 60, 5).allowed
    counters.close()


@pytest.mark.parametrize("content", [b"", b"short", b"\0" * (64 + 8192 * 128)])
def test_a_file_that_is_no_table_is_replaced(tmp_path: Path, clock: FakeClock, content: bytes) -> None:
    path = tmp_path / "limits"
    path.write_bytes(content)
    counters = MachineCounters(path, clock)
    assert counters.check(b"a", 60, 5).allowed
    counters.close()
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(tmp_path.iterdir()) == [path]


def test_more_keys_than_slots_keep_the_heaviest_counted(
    counters: MachineCounters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ratelimit, "_BUCKETS", 1)
    for _ in range(5):
        counters.check(b"heavy", 60, 5)
    for number in range(100):
        assert counters.check(f"light-{number}".encode(), 60, 5).allowed
    assert not counters.check(b"heavy", 60, 5).allowed


HAMMER = """
import sys
from pathlib import Path
from bailiwick.kernel.clock import SystemClock
from bailiwick.kernel.ratelimit import MachineCounters

counters = MachineCounters(Path(sys.argv[1]), SystemClock())
print("ready", flush=True)
sys.stdin.readline()
print(sum(counters.check(b"shared", 1, 200).allowed for _ in range(400)))
"""


def test_all_processes_of_a_machine_count_together(tmp_path: Path) -> None:
    children = [
        subprocess.Popen(
            [sys.executable, "-c", HAMMER, str(tmp_path / "limits")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    assert sum(int(child.communicate()[0]) for child in children) == 200  # the rate gives one more a minute


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    server = await RedisServer(tmp_path).start()
    yield server
    server.stop()


async def test_redis_counts_for_all_machines_by_the_same_rule(server: RedisServer, tmp_path: Path) -> None:
    first, second = Redis(server.url, SystemClock()), Redis(server.url, SystemClock())
    limiters = [
        Limiter(MachineCounters(tmp_path / f"limits-{number}", SystemClock()), redis)
        for number, redis in enumerate((first, second))
    ]
    results = [await limiters[number % 2].check("a", 1, 6) for number in range(8)]
    assert [result.allowed for result in results] == [True] * 6 + [False] * 2
    assert [result.remaining for result in results] == [5, 4, 3, 2, 1, 0, 0, 0]
    assert 50 < results[-1].retry_after_s <= 60
    assert 350 < results[-1].reset_s <= 360
    assert (await limiters[0].check("b", 6000, 1)).allowed
    await asyncio.sleep(0.03)
    assert (await limiters[1].check("b", 6000, 1)).allowed
    (key,) = [key for key in await first.execute("KEYS", "bw:limit:*") if await first.execute("PTTL", key) > 5000]
    assert 350_000 < await first.execute("PTTL", key) <= 360_001
    await first.execute("SET", key, "9" * 30)
    assert not (await limiters[0].check("a", 1, 6)).allowed
    await first.close()
    await second.close()


async def test_redis_lets_exactly_the_burst_through_whoever_asks_at_once(server: RedisServer, tmp_path: Path) -> None:
    # a call that takes too long is counted by the machine instead, which a busy machine would show here
    clients = [Redis(server.url, SystemClock(), timeout_s=10) for _ in range(3)]
    limiters = [
        Limiter(MachineCounters(tmp_path / f"limits-{number}", SystemClock()), redis)
        for number, redis in enumerate(clients)
    ]
    results = await asyncio.gather(*(limiters[number % 3].check("shared", 1, 40) for number in range(120)))
    assert sum(result.allowed for result in results) == 40
    for redis in clients:
        await redis.close()


class SlowPath:
    """What lies between us and Redis: takes ``delay_s`` to hand on what is sent to it, and what comes back."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.delay_s = 0.0
        self.handed_on = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in self._writers), return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_redis, to_redis = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += [writer, to_redis]
        # what was sent is handed on even when who sent it has gone
        for source, target in ((reader, to_redis), (from_redis, writer)):
            task = asyncio.create_task(self._hand_on(source, target, target is to_redis))
            self._tasks.add(task)

    async def _hand_on(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, inwards: bool) -> None:
        while data := await source.read(65536):
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            target.write(data)
            if inwards and b"EVAL" in data.upper():
                self.handed_on.set()


async def test_a_slow_redis_counts_nothing_that_the_machine_counted(server: RedisServer, tmp_path: Path) -> None:
    path = SlowPath(server.port)
    slow, direct = (
        Redis(await path.start(), SystemClock(), timeout_s=0.5),
        Redis(server.url, SystemClock(), timeout_s=5),
    )
    limiter = Limiter(MachineCounters(tmp_path / "limits", SystemClock()), slow)
    elsewhere = Limiter(MachineCounters(tmp_path / "others", SystemClock()), direct)
    assert (await limiter.check("a", 1, 5)).remaining == 4  # in Redis
    path.delay_s = 0.7
    path.handed_on.clear()
    by_machine = await limiter.check("a", 1, 5)
    assert (by_machine.allowed, by_machine.remaining) == (True, 4), "the machine's own count, from the beginning"
    await asyncio.wait_for(path.handed_on.wait(), 5)
    # the script has reached Redis, after we gave up: this one waits behind it there, and finds the first alone
    await asyncio.sleep(0.1)
    assert (await elsewhere.check("a", 1, 5)).remaining == 3
    path.delay_s = 0
    assert (await limiter.check("a", 1, 5)).remaining == 2, "and Redis counts again"
    await slow.close()
    await direct.close()
    await path.stop()


async def test_redis_going_away_is_nobodys_error(server: RedisServer, tmp_path: Path) -> None:
    redis = Redis(server.url, SystemClock())
    limiter = Limiter(MachineCounters(tmp_path / "limits", SystemClock()), redis)
    assert (await limiter.check("a", 1, 2)).allowed
    server.stop()
    results = [await limiter.check("a", 1, 2) for _ in range(10)]
    assert [result.allowed for result in results] == [True, True] + [False] * 8
    await redis.close()


async def test_a_limit_of_nothing_is_a_mistake(counters: MachineCounters, clock: FakeClock) -> None:
    limiter = Limiter(counters, Redis(None, clock))
    for limit, burst in ((0, None), (5, 0)):
        with pytest.raises(ValueError, match="at least one"):
            await limiter.check("a", limit, burst)


@pytest.mark.parametrize(
    ("ip", "network"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3::9", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("", "unknown"),
        ("nonsense", "unknown"),
    ],
)
def test_networks(ip: str, network: str) -> None:
    assert network_of(ip) == network


def scope(ip: str = "203.0.113.9", **headers: str) -> dict[str, Any]:
    return {
        "path": "/api/v1/users",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "state": {"zone": "default", "ip": ip, "request_id": "r"},
    }


class Requests:
    """The limits as the front uses them; ``status`` is what the application would answer."""

    def __init__(self, counters: MachineCounters, clock: FakeClock, **options: Any) -> None:
        self.metrics = Metrics(CollectorRegistry())
        self.limits = RequestLimits(
            Limiter(counters, Redis(None, clock)),
            self.metrics,
            anonymous_per_minute=3,
            authenticated_per_minute=10,
            **options,
        )

    async def ask(self, asked: dict[str, Any], caller: str | None = None, status: int = 200) -> bool:
        try:
            await self.limits.before(asked)
        except BailiwickError as error:
            assert error.reason == "rate_limited"
            assert int(error.headers["Retry-After"]) >= 1
            return False
        if caller:
            asked["state"]["caller"] = Caller("default", caller, "viewer", "s")
        self.limits.after(asked, status)
        return True


async def test_the_anonymous_count_by_network_and_the_signed_in_by_name(
    counters: MachineCounters, clock: FakeClock
) -> None:
    requests = Requests(counters, clock)
    stream = io.StringIO()
    bw_logging.configure("logfmt", "info", stream=stream)
    try:
        assert [await requests.ask(scope()) for _ in range(4)] == [True, True, True, False]
    finally:
        structlog.reset_defaults()
    assert 'event="rate limit exceeded"' in stream.getvalue()
    assert await requests.ask(scope(ip="203.0.113.10"))
    clock.advance(60)
    # two tokens of one person count together, and only the first use of each against the network
    used = [await requests.ask(scope(authorization=f"Bearer {n % 2}"), "jane.doe") for n in range(13)]
    assert used == [True] * 12 + [False]
    assert await requests.ask(scope(authorization="Bearer 3"), "john")
    text = requests.metrics.collect_text().decode()
    assert 'bailiwick_rate_limited_total{scope="caller"} 1.0' in text
    assert 'bailiwick_rate_limited_total{scope="network"} 1.0' in text


async def test_inventing_credentials_buys_nothing(counters: MachineCounters, clock: FakeClock) -> None:
    requests = Requests(counters, clock)
    passed = [await requests.ask(scope(authorization=f"Bearer forged-{n}"), status=401) for n in range(20)]
    assert passed == [True] * 3 + [False] * 17


async def test_a_refused_credential_counts_as_anonymous_again(counters: MachineCounters, clock: FakeClock) -> None:
    requests = Requests(counters, clock)
    assert await requests.ask(scope(authorization="Bearer a"), "jane")
    assert await requests.ask(scope(authorization="Bearer a"), status=401)
    assert [await requests.ask(scope(authorization="Bearer a"), status=401) for _ in range(3)] == [True, True, False]


async def test_a_credential_is_proven_for_its_zone_only(counters: MachineCounters, clock: FakeClock) -> None:
    requests = Requests(counters, clock)
    assert await requests.ask(scope(authorization="Bearer a"), "jane")
    elsewhere = scope(authorization="Bearer a")
    elsewhere["state"]["zone"] = "blue"
    assert ratelimit.credential_digest(elsewhere) != ratelimit.credential_digest(scope(authorization="Bearer a"))
    assert ratelimit.credential_digest(scope()) is None


async def test_who_can_identify_at_once_need_not_learn(counters: MachineCounters, clock: FakeClock) -> None:
    requests = Requests(counters, clock, identify=lambda _scope: "default:jane")
    assert [await requests.ask(scope(authorization="Bearer a")) for _ in range(11)] == [True] * 10 + [False]
    assert await requests.ask(scope())  # without a credential nobody is asked


async def test_the_proven_are_a_bounded_number(
    counters: MachineCounters, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ratelimit, "_PROVEN_CALLERS", 2)
    requests = Requests(counters, clock)
    for token in "abc":
        assert await requests.ask(scope(authorization=f"Bearer {token}"), token)
    assert not await requests.ask(scope(authorization="Bearer a"), "a")  # forgotten, and the network is used up
    assert await requests.ask(scope(authorization="Bearer c"), "c")


def test_where_it_applies(counters: MachineCounters, clock: FakeClock) -> None:
    limits = Requests(counters, clock).limits
    assert limits.applies("/api/v1/users")
    assert not limits.applies("/oauth/token")
    assert not limits.applies("/health")


# --- the hot path


def test_hot_limits_are_off_until_they_are_set(counters: MachineCounters, clock: FakeClock, monkeypatch: Any) -> None:
    off = HotLimits(counters, Metrics(CollectorRegistry()), clock, 0)
    monkeypatch.setattr(counters, "check", None)  # not even looked at
    for _ in range(1000):
        off.require("gateway", "agent")
        off.require("gateway", "agent", 0)


def test_a_hot_limit_is_each_applications_at_each_place(counters: MachineCounters, clock: FakeClock) -> None:
    limits = HotLimits(counters, Metrics(CollectorRegistry()), clock, 2)

    def passed(place: str, key: str, own: int | None = None) -> int:
        count = 0
        for _ in range(10):
            try:
                limits.require(place, key, own)
            except BailiwickError as error:
                assert (error.status, error.reason) == (429, "rate_limited")
                assert int(error.headers["Retry-After"]) >= 1
                break
            count += 1
        return count

    assert passed("gateway", "a") == 2
    assert passed("token", "a") == 2
    assert passed("gateway", "b") == 2
    assert passed("gateway", "c", 5) == 5, "its own limit counts in place of the installation's"
    assert passed("gateway", "d", 0) == 10
    clock.advance(30)
    assert passed("gateway", "a") == 1


def test_hot_refusals_are_counted_each_and_logged_once_a_minute(counters: MachineCounters, clock: FakeClock) -> None:
    metrics = Metrics(CollectorRegistry())
    limits = HotLimits(counters, metrics, clock, 1)

    def refused(times: int) -> None:
        for _ in range(times):
            with pytest.raises(BailiwickError):
                limits.require("gateway", "a", 1)

    with structlog.testing.capture_logs() as logged:
        limits.require("gateway", "a", 1)
        refused(5)
        assert [(line["event"], line["by"], line["caller"]) for line in logged] == [
            ("rate limit exceeded", "gateway", "a")
        ]
        clock.advance(61)
        limits.require("gateway", "a", 1)
        refused(1)
    assert len(logged) == 2
    assert b'bailiwick_rate_limited_total{scope="gateway"} 6.0' in metrics.collect_text()
