"""The one Redis client: bounded, timed, behind a circuit breaker, and optional.

Redis holds counters shared by several machines and nothing that cannot be lost. Whoever asks gets an answer or
:class:`RedisUnavailable` within the timeout, and has another way: when Redis is away nothing answers 500. After five
failures in a row nobody asks for two seconds, then one probe at a time does.

``redis://``, ``rediss://``, ``unix://`` and ``redis+sentinel://[user:password@]host:port,host:port/master[?db=n]``.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import structlog

from bailiwick.kernel.clock import Clock
from bailiwick.kernel.metrics import Metrics

if TYPE_CHECKING:
    # the library takes 20 MB in every process; who configures no Redis does without
    import redis.asyncio as aioredis

State = Literal["UP", "DOWN", "DISABLED"]
T = TypeVar("T")

OPENS_AFTER = 5
STAYS_OPEN_S = 2.0

log = structlog.get_logger(__name__)


class RedisUnavailable(Exception):
    """Redis is not configured, does not answer in time, or the breaker is open. Use the other way."""


class Breaker:
    """Closed until ``opens_after`` failures in a row, then open for ``stays_open_s``, then one probe at a time."""

    def __init__(self, clock: Clock, opens_after: int = OPENS_AFTER, stays_open_s: float = STAYS_OPEN_S) -> None:
        self._clock = clock
        self._opens_after = opens_after
        self._stays_open_s = stays_open_s
        self._failures = 0
        self._open_until = 0.0
        self._probing = False

    @property
    def state(self) -> Literal["closed", "open", "half-open"]:
        """What a caller would meet now."""
        if self._failures < self._opens_after:
            return "closed"
        return "open" if self._clock.monotonic() < self._open_until else "half-open"

    def admit(self) -> bool:
        """Whether a call may go out now. After True, tell :meth:`succeeded`, :meth:`failed` or :meth:`gave_up`."""
        state = self.state
        if state == "closed":
            return True
        if state == "open" or self._probing:
            return False
        self._probing = True
        return True

    def succeeded(self) -> bool:
        """A call was answered. True when that closed the breaker."""
        closed = self._failures >= self._opens_after
        self._failures, self._probing = 0, False
        return closed

    def failed(self) -> bool:
        """A call failed. True when that opened the breaker for the first time."""
        self._failures += 1
        self._probing = False
        if self._failures >= self._opens_after:
            self._open_until = self._clock.monotonic() + self._stays_open_s
        return self._failures == self._opens_after

    def gave_up(self) -> None:
        """The caller went away before the answer, which says nothing about Redis."""
        self._probing = False


class Redis:
    """The client of one process. ``url`` None means Redis is not used: every call raises :class:`RedisUnavailable`.

    ``pool_size`` connections at most; who finds none free waits until ``timeout_s``, which bounds every call.
    Raises :class:`ValueError` for a URL it cannot read.
    """

    def __init__(
        self,
        url: str | None,
        clock: Clock,
        metrics: Metrics | None = None,
        *,
        pool_size: int = 32,
        timeout_s: float = 0.25,
    ) -> None:
        self.configured = url is not None
        self.breaker = Breaker(clock)
        self.timeout_s = timeout_s  # how long a call may take
        self._client = _connect(url, pool_size, timeout_s) if url is not None else None
        self._free = asyncio.Semaphore(pool_size)
        self._pool_size = pool_size
        self._in_use = 0
        self._answered = False
        if metrics is not None and self.configured:
            metrics.redis_pool_max.set(pool_size)
            metrics.before_flush(lambda: metrics.redis_pool_in_use.set(self._in_use))

    def state(self) -> State:
        """``UP`` when the last call was answered; a client nobody has used yet is ``DOWN`` until :meth:`probe`."""
        if not self.configured:
            return "DISABLED"
        return "UP" if self._answered else "DOWN"

    async def probe(self) -> State:
        """Ask Redis now, within the breaker, and tell the state."""
        try:
            await self.execute("PING")
        except RedisUnavailable:
            pass
        return self.state()

    async def execute(self, *command: str | bytes | int | float) -> Any:
        """The answer to one command. Raises :class:`RedisUnavailable`."""
        return await self._call(lambda client: client.execute_command(*command))  # type: ignore[no-untyped-call]

    async def run_script(
        self, script: Script, keys: list[bytes], arguments: Callable[[], list[str | bytes | int | float]]
    ) -> Any:
        """The answer of a Lua script, sent in full only when Redis lacks it. Raises :class:`RedisUnavailable`.

        ``arguments`` is asked once there is a connection for it, since what it answers may tell the time.
        """

        async def evaluate(client: aioredis.Redis) -> Any:
            from redis.exceptions import NoScriptError

            args = arguments()
            try:
                return await client.evalsha(script.sha1, len(keys), *keys, *args)
            except NoScriptError:
                return await client.eval(script.source, len(keys), *keys, *args)

        return await self._call(evaluate)

    async def info(self) -> dict[str, object] | None:
        """Redis' own figures, or None when it does not answer."""
        try:
            return dict(await self._call(lambda client: client.info()))
        except RedisUnavailable:
            return None

    async def close(self) -> None:
        """Give the connections back."""
        if self._client is not None:
            await self._client.aclose()

    async def _call(self, ask: Callable[[aioredis.Redis], Awaitable[T]]) -> T:
        client = self._client
        if client is None:
            raise RedisUnavailable("Redis is not configured")
        await self._take_slot()
        try:
            if not self.breaker.admit():
                raise RedisUnavailable("the breaker is open")
            return await self._watched(ask, client)
        finally:
            self._in_use -= 1
            self._free.release()

    async def _take_slot(self) -> None:
        # waiting here, and not in the library's pool, keeps "we are busy" apart from "Redis is away"
        try:
            await asyncio.wait_for(self._free.acquire(), self.timeout_s)
        except TimeoutError:
            raise RedisUnavailable("every connection is in use") from None
        self._in_use += 1

    async def _watched(self, ask: Callable[[aioredis.Redis], Awaitable[T]], client: aioredis.Redis) -> T:
        from redis.exceptions import RedisError

        try:
            async with asyncio.timeout(self.timeout_s):
                result = await ask(client)
        except (RedisError, OSError) as error:  # a timeout is an OSError
            self._answered = False
            if self.breaker.failed():
                log.error("redis is away; counters are per machine until it answers", cause=type(error).__name__)
            raise RedisUnavailable(type(error).__name__) from error
        except BaseException:
            self.breaker.gave_up()
            raise
        self._answered = True
        if self.breaker.succeeded():
            log.info("redis answers again")
        return result


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and the name Redis keeps it under."""

    source: str
    sha1: str

    @classmethod
    def of(cls, source: str) -> Script:
        """The script of ``source``."""
        return cls(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


def _connect(url: str, pool_size: int, timeout_s: float) -> aioredis.Redis:
    import redis.asyncio as aioredis
    from redis.asyncio.retry import Retry
    from redis.asyncio.sentinel import Sentinel
    from redis.backoff import NoBackoff

    options: dict[str, Any] = {
        "max_connections": pool_size,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),  # the breaker decides about asking again
    }
    scheme, _, rest = url.partition("://")
    if scheme != "redis+sentinel":
        return aioredis.Redis.from_url(url, **options)
    sentinels, master, credentials = parse_sentinel_url(f"//{rest}")
    manager = Sentinel(  # type: ignore[no-untyped-call]
        sentinels, sentinel_kwargs={"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}, **credentials
    )
    return cast("aioredis.Redis", manager.master_for(master, **options))


def parse_sentinel_url(url: str) -> tuple[list[tuple[str, int]], str, dict[str, Any]]:
    """The sentinels, the master's name and the credentials of what follows ``redis+sentinel:``.

    Raises :class:`ValueError`, without the URL in it, since that may hold a password.
    """
    parts = urlsplit(url)
    user_info, _, hosts = parts.netloc.rpartition("@")
    master = parts.path.strip("/")
    if not master or "/" in master or not hosts:
        raise ValueError("a sentinel URL is redis+sentinel://host:port,host:port/master")
    sentinels = []
    for host in hosts.split(","):
        name, _, port = host.rpartition(":") if not host.endswith("]") and ":" in host else (host, "", "26379")
        if not name or not port.isdigit():
            raise ValueError("a sentinel is host:port")
        sentinels.append((name.strip("[]"), int(port)))
    user, _, password = user_info.partition(":")
    credentials: dict[str, Any] = {"db": int(dict(parse_qsl(parts.query)).get("db", "0"))}
    if user:
        credentials["username"] = unquote(user)
    if password:
        credentials["password"] = unquote(password)
    return sentinels, master, credentials
