from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from redis_server import RedisServer

from bailiwick.kernel.clock import FakeClock, SystemClock
from bailiwick.kernel.metrics import Metrics
from bailiwick.kernel.redis import Breaker, Redis, RedisUnavailable, Script, parse_sentinel_url


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    server = await RedisServer(tmp_path).start()
    yield server
    server.stop()


def test_the_breaker_opens_after_five_and_probes_one_at_a_time() -> None:
    clock = FakeClock()
    breaker = Breaker(clock)
    for _ in range(4):
        assert breaker.admit()
        assert not breaker.failed()
    assert breaker.state == "closed"
    assert breaker.admit()
    assert breaker.failed()
    assert breaker.state == "open"
    assert not breaker.admit()
    clock.advance(2.01)
    assert breaker.state == "half-open"
    assert breaker.admit()
    assert not breaker.admit()
    breaker.failed()
    assert breaker.state == "open"
    clock.advance(2.01)
    assert breaker.admit()
    breaker.gave_up()
    assert breaker.admit()
    assert breaker.succeeded()
    assert breaker.state == "closed"
    assert not breaker.succeeded()


async def test_without_a_url_it_is_disabled() -> None:
    redis = Redis(None, SystemClock())
    assert redis.state() == "DISABLED"
    assert await redis.probe() == "DISABLED"
    assert await redis.info() is None
    with pytest.raises(RedisUnavailable):
        await redis.execute("PING")
    await redis.close()


async def test_commands_scripts_and_figures(server: RedisServer) -> None:
    metrics = Metrics(CollectorRegistry())
    redis = Redis(server.url, SystemClock(), metrics, pool_size=7)
    assert redis.state() == "DOWN"  # nobody has asked yet
    assert await redis.probe() == "UP"
    await redis.execute("SET", "a", 1)
    assert await redis.execute("GET", "a") == b"1"
    script = Script.of("return {KEYS[1], ARGV[1]}")
    for _ in range(2):
        assert await redis.run_script(script, [b"k"], lambda: ["v"]) == [b"k", b"v"]
    info = await redis.info()
    assert info is not None
    assert int(str(info["used_memory"])) > 0
    text = metrics.collect_text().decode()
    assert "bailiwick_redis_pool_max 7.0" in text
    assert "bailiwick_redis_pool_in_use 0.0" in text
    await redis.close()


async def test_the_pool_does_not_grow_beyond_its_bound(server: RedisServer) -> None:
    redis = Redis(server.url, SystemClock(), pool_size=3, timeout_s=5)
    await asyncio.gather(*(redis.execute("INCR", "n") for _ in range(200)))
    assert await redis.execute("GET", "n") == b"200"
    info = await redis.info()
    assert info is not None
    assert int(str(info["connected_clients"])) <= 3
    await redis.close()


async def test_being_busy_is_not_being_away(server: RedisServer) -> None:
    redis = Redis(server.url, SystemClock(), pool_size=1, timeout_s=10)
    blocked = asyncio.create_task(redis.execute("BLPOP", "nothing", 0.2))
    await asyncio.sleep(0)
    others = await asyncio.gather(*(redis.execute("PING") for _ in range(8)), return_exceptions=True)
    assert others == [True] * 8
    assert await blocked is None
    slow = asyncio.create_task(redis.execute("BLPOP", "nothing", 5))
    await asyncio.sleep(0)
    others = await asyncio.gather(*(redis.execute("PING") for _ in range(8)), return_exceptions=True)
    assert {type(other) for other in others} <= {RedisUnavailable, bool}
    with pytest.raises(RedisUnavailable):
        await slow
    assert redis.breaker.state == "closed"
    await redis.close()


async def test_a_late_answer_is_never_given_to_the_next(server: RedisServer) -> None:
    redis = Redis(server.url, SystemClock(), pool_size=1, timeout_s=0.1)
    await redis.execute("SET", "secret", "first")
    server.freeze()
    with pytest.raises(RedisUnavailable):
        await redis.execute("GET", "secret")
    server.thaw()
    assert await redis.execute("ECHO", "second") == b"second"
    cancelled = asyncio.create_task(redis.execute("BLPOP", "nothing", 0.05))
    await asyncio.sleep(0.01)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    assert await redis.execute("ECHO", "third") == b"third"
    assert redis.breaker.state == "closed"
    await redis.close()


async def test_it_notices_a_death_and_a_return(server: RedisServer, tmp_path: Path) -> None:
    clock = FakeClock()
    redis = Redis(server.url, clock)
    assert await redis.probe() == "UP"
    server.stop()
    for _ in range(5):
        assert await redis.probe() == "DOWN"
    assert redis.breaker.state == "open"
    again = await RedisServer(tmp_path, server.port).start()
    try:
        assert await redis.probe() == "DOWN"  # nobody asks while the breaker is open
        clock.advance(2.1)
        assert await redis.probe() == "UP"
        assert redis.breaker.state == "closed"
    finally:
        again.stop()
    await redis.close()


@pytest.mark.parametrize(
    ("url", "sentinels", "master", "credentials"),
    [
        ("//a:1,b:2/main", [("a", 1), ("b", 2)], "main", {"db": 0}),
        ("//a/main?db=3", [("a", 26379)], "main", {"db": 3}),
        ("//u%40:p%2Fw@[::1]:5/m", [("::1", 5)], "m", {"db": 0, "username": "u@", "password": "p/w"}),
        ("//:pw@a:1/m", [("a", 1)], "m", {"db": 0, "password": "pw"}),
    ],
)
def test_sentinel_urls(url: str, sentinels: object, master: str, credentials: object) -> None:
    assert parse_sentinel_url(url) == (sentinels, master, credentials)


@pytest.mark.parametrize("url", ["//a:1", "//a:1/m/x", "///m", "//a:x/m", "//u:topsecret@/m"])
def test_malformed_sentinel_urls_are_told_without_their_password(url: str) -> None:
    with pytest.raises(ValueError, match="sentinel") as raised:
        parse_sentinel_url(url)
    assert "topsecret" not in str(raised.value)


async def test_sentinel_leads_to_the_master_and_to_its_successor(tmp_path: Path) -> None:
    master = await RedisServer(tmp_path).start()
    replica = await RedisServer(tmp_path, options=("--replicaof", "127.0.0.1", str(master.port))).start()
    sentinel = await RedisServer(tmp_path).start_sentinel(master.port)
    redis = Redis(f"redis+sentinel://127.0.0.1:{sentinel.port}/main", SystemClock())
    watcher = Redis(f"redis://127.0.0.1:{sentinel.port}", SystemClock())
    try:
        await redis.execute("SET", "a", "1")
        async with asyncio.timeout(20):
            while not await watcher.execute("SENTINEL", "REPLICAS", "main"):
                await asyncio.sleep(0.1)
            master.stop()
            while True:
                try:
                    await redis.execute("SET", "a", "2")
                    break
                except RedisUnavailable:
                    await asyncio.sleep(0.1)
        direct = Redis(replica.url, SystemClock())
        assert await direct.execute("GET", "a") == b"2"
        await direct.close()
    finally:
        for client in (redis, watcher):
            await client.close()
        for server in (sentinel, replica, master):
            server.stop()
