"""The one Redis client: bounded, with a breaker. Redis is optional, so nothing here ever makes a request fail.

``BAILIWICK_REDIS_URL`` is ``redis://``, ``rediss://`` or ``redis+sentinel://host:port,host:port/master``. While Redis
is away the breaker answers at once and callers use what they have in this machine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

import redis.asyncio as redis
from redis.asyncio.sentinel import Sentinel
from redis.exceptions import RedisError

from bailiwick.kernel.clock import Clock

T = TypeVar("T")

FAILURES_TO_OPEN = 5
OPEN_S = 2.0
_TIMEOUT_S = 0.25


class RedisAway(Exception):
    """Redis did not answer, or the breaker is open."""


class RedisClient:
    """Calls Redis through a breaker. ``url`` None: not configured, and every call raises :class:`RedisAway`."""

    def __init__(self, url: str | None, clock: Clock, *, pool_size: int = 20) -> None:
        self._clock = clock
        self._pool_size = pool_size
        self._client = _connect(url, pool_size) if url else None
        self._failures = 0
        self._open_until = float("-inf")

    @property
    def configured(self) -> bool:
        """Whether an address was given."""
        return self._client is not None

    async def call(self, use: Callable[[redis.Redis], Awaitable[T]]) -> T:
        """The answer of ``use(client)``; raises :class:`RedisAway`.

        After five failures in a row calls fail at once for two seconds; then one is let through to try.
        """
        if self._client is None or self._clock.monotonic() < self._open_until:
            raise RedisAway
        if self._failures >= FAILURES_TO_OPEN:
            self._open_until = self._clock.monotonic() + OPEN_S  # only this call tries; the others wait it out
        try:
            async with asyncio.timeout(_TIMEOUT_S * 2):
                answer = await use(self._client)
        except (RedisError, OSError, TimeoutError) as error:
            self._failures += 1
            if self._failures >= FAILURES_TO_OPEN:
                self._open_until = self._clock.monotonic() + OPEN_S
            raise RedisAway from error
        self._failures, self._open_until = 0, float("-inf")
        return answer

    async def state(self) -> str:
        """``UP``, ``DOWN`` or ``DISABLED``."""
        if self._client is None:
            return "DISABLED"
        try:
            await self.call(lambda client: client.ping())
        except RedisAway:
            return "DOWN"
        return "UP"

    async def info(self) -> dict[str, object] | None:
        """``INFO`` as a mapping; None when Redis is away."""
        try:
            return await self.call(lambda client: client.info())
        except RedisAway:
            return None

    def pool(self) -> tuple[int, int]:
        """Connections in use, and allowed."""
        if self._client is None:
            return 0, 0
        held: Any = getattr(self._client.connection_pool, "_in_use_connections", ())
        return len(held), self._pool_size

    async def close(self) -> None:
        """Give the connections back."""
        if self._client is not None:
            await self._client.aclose()


def _connect(url: str, pool_size: int) -> redis.Redis:
    options: dict[str, Any] = {
        "max_connections": pool_size,
        "socket_timeout": _TIMEOUT_S,
        "socket_connect_timeout": _TIMEOUT_S,
        "retry_on_timeout": False,
    }
    if not url.startswith("redis+sentinel://"):
        return redis.Redis.from_url(url, **options)
    parts = urlsplit(url)
    address = parts.netloc.rpartition("@")[2]
    hosts = [host.rpartition(":") for host in address.split(",")]
    nodes = [(name, int(port)) for name, _, port in hosts]
    sentinel: Any = Sentinel(nodes, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S)  # type: ignore[no-untyped-call]
    return sentinel.master_for(parts.path.strip("/") or "mymaster", password=parts.password, **options)  # type: ignore[no-any-return]
