"""Rate limits by GCRA, the generic cell rate algorithm: one number per key, no windows that open all at once.

Each key has a *theoretical arrival time* (tat). A request is let through while the tat is not more than ``burst``
requests ahead of now; it then moves the tat on by one interval.

Where the tats live: in Redis when it is configured and answers, so that all machines count together; otherwise in one
file mapped by all workers of the machine (:class:`MachineCounters`). When Redis goes away counting goes on in the file,
starting from what this machine has counted there; when it comes back, from what Redis kept. Neither way answers 500.

Seed limits: management and sign-in routes, 100 a minute per network address (IPv6: per /64) unless signed in, 1,000 a
minute per signed-in caller.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import math
import mmap
import os
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path

import structlog
from starlette.types import Scope

from bailiwick.kernel.clock import Clock
from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.logging import RATE_LIMIT_EXCEEDED
from bailiwick.kernel.metrics import Metrics
from bailiwick.kernel.redis import Redis, RedisUnavailable, Script

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LimitResult:
    """What a check found. Times are seconds: until the next request is let through, until the burst is whole again."""

    allowed: bool
    limit: int
    remaining: int
    retry_after_s: float
    reset_s: float

    def headers(self) -> dict[str, str]:
        """``RateLimit`` (draft-ietf-httpapi-ratelimit-headers-10), the older ``X-RateLimit-*``, and ``Retry-After``
        when the request was refused."""
        told = {
            "RateLimit-Policy": f'"minute";q={self.limit};w=60',
            "RateLimit": f'"minute";r={self.remaining};t={math.ceil(self.reset_s)}',
            "X-RateLimit-Limit": str(self.limit),
            "X-RateLimit-Remaining": str(self.remaining),
            "X-RateLimit-Reset": str(math.ceil(self.reset_s)),
        }
        if not self.allowed:
            told["Retry-After"] = str(max(1, math.ceil(self.retry_after_s)))
        return told


def gcra(tat: float, now: float, interval: float, burst: int) -> tuple[bool, float]:
    """Whether a request at ``now`` is let through, and the tat after it (unchanged when it is not).

    A tat further ahead than the burst allows was written under another limit or before the clock was set back (the
    machine's clock begins anew with each boot): it counts as a whole burst used, never as a longer wait.
    """
    ahead = burst * interval
    tat = min(max(tat, now), now + ahead)
    # half a nanosecond of slack: the sums are of binary fractions
    if tat + interval - now > ahead + 5e-10:
        return False, tat
    return True, tat + interval


def _result(allowed: bool, tat: float, now: float, interval: float, limit: int, burst: int) -> LimitResult:
    reset = max(0.0, tat - now)
    room = (burst * interval - reset) / interval
    return LimitResult(
        allowed=allowed,
        limit=limit,
        remaining=max(0, math.floor(room + 1e-6)) if allowed else 0,
        retry_after_s=0.0 if allowed else max(0.0, (1 - room) * interval),
        reset_s=reset,
    )


_SLOT = struct.Struct("<Qd")
_WAYS = 8
_BUCKET = struct.Struct("<" + "Qd" * _WAYS)
_HEADER = struct.Struct("<8s16sI")
_HEADER_BYTES = 64
_MAGIC = b"BWLIMIT1"
_BUCKETS = 8192  # of 8 slots: 65,536 keys in 1 MiB


class MachineCounters:
    """Tats of all workers of a machine in one mapped file, ``path`` (``run/limits``), made when it is not there.

    The file is a set-associative table: a key's fingerprint (keyed BLAKE2b, so that nobody can aim at a slot) names a
    bucket of eight slots. Each check holds a POSIX lock on its bucket's bytes, which the kernel gives back when a
    process is killed; a torn write is one key's counter at most. When a bucket is full the slot with the earliest tat
    goes: an idle key loses nothing by it, and under a flood of keys the heaviest callers stay counted.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._clock = clock
        self._fd = _open_table(path)
        self._map = mmap.mmap(self._fd, _HEADER_BYTES + _BUCKETS * _BUCKET.size)
        _, self._secret, _ = _HEADER.unpack_from(self._map, 0)
        self._lock = threading.Lock()  # POSIX locks are the process's, not the thread's

    def check(self, key: bytes, limit: int, burst: int) -> LimitResult:
        """Count one request of ``key`` against ``limit`` a minute."""
        interval = 60.0 / limit
        fingerprint = int.from_bytes(hashlib.blake2b(key, digest_size=8, key=self._secret).digest(), "little") or 1
        start = _HEADER_BYTES + (fingerprint >> 8) % _BUCKETS * _BUCKET.size
        with self._lock:
            fcntl.lockf(self._fd, fcntl.LOCK_EX, _BUCKET.size, start)
            try:
                now = self._clock.monotonic()
                slot, tat = self._find(start, fingerprint)
                allowed, tat = gcra(tat, now, interval, burst)
                _SLOT.pack_into(self._map, start + slot * _SLOT.size, fingerprint, tat)
            finally:
                fcntl.lockf(self._fd, fcntl.LOCK_UN, _BUCKET.size, start)
        return _result(allowed, tat, now, interval, limit, burst)

    def give_back(self, key: bytes, limit: int) -> None:
        """Take back one request of ``key`` that was counted and let through: it should not have counted."""
        fingerprint = int.from_bytes(hashlib.blake2b(key, digest_size=8, key=self._secret).digest(), "little") or 1
        start = _HEADER_BYTES + (fingerprint >> 8) % _BUCKETS * _BUCKET.size
        with self._lock:
            fcntl.lockf(self._fd, fcntl.LOCK_EX, _BUCKET.size, start)
            try:
                slot, tat = self._find(start, fingerprint)
                if tat:  # else the slot was taken by somebody else meanwhile
                    _SLOT.pack_into(self._map, start + slot * _SLOT.size, fingerprint, tat - 60.0 / limit)
            finally:
                fcntl.lockf(self._fd, fcntl.LOCK_UN, _BUCKET.size, start)

    def close(self) -> None:
        """Unmap the file."""
        self._map.close()
        os.close(self._fd)

    def _find(self, start: int, fingerprint: int) -> tuple[int, float]:
        slots = _BUCKET.unpack_from(self._map, start)
        known = slots[0::2]
        if fingerprint in known:
            slot = known.index(fingerprint)
            tat = slots[2 * slot + 1]
            return slot, tat if math.isfinite(tat) else 0.0
        tats = [
            tat if taken and math.isfinite(tat) else -math.inf for taken, tat in zip(known, slots[1::2], strict=True)
        ]
        return tats.index(min(tats)), 0.0


def _open_table(path: Path) -> int:
    """Open the table, making it whole before anybody sees it; one that is not of our form is replaced."""
    size = _HEADER_BYTES + _BUCKETS * _BUCKET.size
    while True:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            _make_table(path, size)
            continue
        header = os.pread(fd, _HEADER.size, 0)
        if os.fstat(fd).st_size == size and header[:8] == _MAGIC:
            return fd
        os.close(fd)
        path.unlink(missing_ok=True)


def _make_table(path: Path, size: int) -> None:
    fresh = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, size)
        os.pwrite(fd, _HEADER.pack(_MAGIC, os.urandom(16), _BUCKETS), 0)
        try:
            os.link(fresh, path)  # unlike a rename it does not replace the table another worker just made
        except FileExistsError:
            pass
    finally:
        os.close(fd)
        fresh.unlink()


# The same rule in Redis' own time, in microseconds, so that machines need not agree on theirs.
_SCRIPT = Script.of("""
local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local told = string.format('%.0f', now)
if now > tonumber(ARGV[3]) then return {-1, '0', told} end
local ahead = burst * interval
local tat = tonumber(redis.call('GET', KEYS[1]) or now)
tat = math.min(math.max(tat, now), now + ahead)
local allowed = 0
if tat + interval - now <= ahead + 0.5 then
  allowed = 1
  tat = tat + interval
  redis.call('SET', KEYS[1], string.format('%.0f', tat), 'PX', math.ceil((tat - now) / 1000) + 1)
end
return {allowed, string.format('%.0f', tat - now), told}
""")


class Limiter:
    """Counts requests by key, in Redis when it answers, else among the workers of this machine.

    Hardly ever in both: what reaches Redis when half the time that we wait is over is not counted there, so that the
    other half is left for its answer. For that each answer tells the time it is there.
    """

    def __init__(self, machine: MachineCounters, redis: Redis) -> None:
        self._machine = machine
        self._redis = redis
        self._apart: float | None = None  # Redis' time less that of our loop, in microseconds: at the least

    async def check(self, key: str, limit_per_minute: int, burst: int | None = None) -> LimitResult:
        """Count one request of ``key``. ``burst`` requests may come at once; by default a minute's worth.

        Raises :class:`ValueError` for a limit or burst below 1.
        """
        burst = limit_per_minute if burst is None else burst
        if limit_per_minute < 1 or burst < 1:
            raise ValueError("a limit lets at least one request through")
        name = key.encode("utf-8", "surrogateescape")
        if self._redis.configured:
            try:
                return await self._check_redis(name, limit_per_minute, burst)
            except RedisUnavailable:
                pass
        return self._machine.check(name, limit_per_minute, burst)

    async def _check_redis(self, name: bytes, limit: int, burst: int) -> LimitResult:
        key = b"bw:limit:" + hashlib.blake2b(name, digest_size=16).hexdigest().encode()
        interval = 60_000_000 / limit
        if self._apart is None:
            seconds, micros = await self._redis.execute("TIME")
            self._apart = int(seconds) * 1_000_000 + int(micros) - _loop_us()
        apart, patience = self._apart, self._redis.timeout_s * 1_000_000 / 2
        allowed, ahead, now = await self._redis.run_script(
            _SCRIPT, [key], lambda: [interval, burst, f"{apart + _loop_us() + patience:.0f}"]
        )
        # asked anew with each answer: whose clock is set meanwhile is believed again by the next
        self._apart = int(now) - _loop_us()
        if allowed < 0:
            raise RedisUnavailable("the request came too late to be counted there")
        return _result(bool(allowed), float(ahead) / 1e6, 0.0, interval / 1e6, limit, burst)


def _loop_us() -> float:
    return asyncio.get_running_loop().time() * 1_000_000


_TOLD_KEYS = 4096


class HotLimits:
    """Limits of the endpoints on the hot path: counted among the workers of this machine, without waiting.

    ``per_minute`` is the limit of whoever has none of his own; 0 means no limit.
    """

    def __init__(self, machine: MachineCounters, metrics: Metrics, clock: Clock, per_minute: int) -> None:
        self._machine = machine
        self._metrics = metrics
        self._clock = clock
        self._per_minute = per_minute
        self._told: dict[tuple[str, str], float] = {}

    def require(self, place: str, key: str, own: int | None = None) -> None:
        """Count a request of ``key`` at ``place``; raises ``rate_limited`` (429). ``own``: the key's own limit."""
        limit = self._per_minute if own is None else own
        if not limit:
            return
        result = self._machine.check(f"{place}:{key}".encode("utf-8", "surrogateescape"), limit, limit)
        if not result.allowed:
            self._metrics.rate_limited.labels(place).inc()
            self._tell(place, key, limit)
            raise BailiwickError(reason="rate_limited", headers=result.headers())

    def give_back(self, place: str, key: str, limit: int) -> None:
        """Take back a request that :meth:`require` let through."""
        self._machine.give_back(f"{place}:{key}".encode("utf-8", "surrogateescape"), limit)

    def _tell(self, place: str, key: str, limit: int) -> None:
        """Log a refusal, once a minute for each key: what is limited comes in thousands."""
        now = self._clock.monotonic()
        if now < self._told.get((place, key), 0.0):
            return
        if len(self._told) >= _TOLD_KEYS:
            self._told.clear()
        self._told[place, key] = now + 60
        log.warning(RATE_LIMIT_EXCEEDED, by=place, caller=key, limit_per_minute=limit)


_PROVEN_CALLERS = 4096
_CREDENTIALS = (b"authorization", b"x-api-key")


class RequestLimits:
    """The limits of management and sign-in routes, as the front applies them.

    A request counts against its caller only once its credential has been *proven*: an earlier answer to the same
    credential named the caller. Until then, and again after a refusal, it counts against its network, so inventing
    credentials buys nobody a fresh limit. The proven credentials are kept as digests, a bounded number per worker.
    ``identify`` may name a caller at once, from memory alone; it must have verified the credential. ``per_minute``
    answers the limit for a request of a known caller (True) or of nobody known, where it is not a fixed figure.
    """

    def __init__(
        self,
        limiter: Limiter,
        metrics: Metrics,
        *,
        anonymous_per_minute: int,
        authenticated_per_minute: int,
        prefixes: Iterable[str] = ("/api/",),
        identify: Callable[[Scope], str | None] | None = None,
        per_minute: Callable[[Scope, bool], int] | None = None,
    ) -> None:
        self._limiter = limiter
        self._per_minute = per_minute
        self._metrics = metrics
        self._anonymous = anonymous_per_minute
        self._authenticated = authenticated_per_minute
        self._prefixes = tuple(prefixes)
        self._identify = identify
        self._proven: OrderedDict[bytes, str] = OrderedDict()

    def applies(self, path: str) -> bool:
        """Whether ``path`` (its zone stripped) is a management or sign-in route."""
        return path.startswith(self._prefixes)

    async def before(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """Count the request and answer the headers that tell. Raises ``rate_limited`` (429)."""
        digest = credential_digest(scope)
        caller = None
        if digest is not None:
            caller = self._identify(scope) if self._identify is not None else self._proven.get(digest)
        return await self.limit_request(scope, caller)

    async def limit_request(self, scope: Scope, caller_key: str | None) -> list[tuple[bytes, bytes]]:
        """The same for a caller known by other means; None counts the network."""
        if caller_key is None:
            by, key, limit = "network", f"net:{network_of(scope['state']['ip'])}", self._anonymous
        else:
            by, key, limit = "caller", f"caller:{caller_key}", self._authenticated
        if self._per_minute is not None:
            limit = self._per_minute(scope, caller_key is not None)
        result = await self._limiter.check(key, limit)
        if not result.allowed:
            self._metrics.rate_limited.labels(by).inc()
            log.warning(
                RATE_LIMIT_EXCEEDED,
                by=by,
                caller=caller_key or "",
                ip=scope["state"]["ip"],
                path=scope["path"],
                limit_per_minute=limit,
                request_id=scope["state"]["request_id"],
            )
            raise BailiwickError(reason="rate_limited", headers=result.headers())
        return [(name.lower().encode(), value.encode()) for name, value in result.headers().items()]

    def after(self, scope: Scope, status: int) -> None:
        """Remember whose the request's credential is, or that it is nobody's any more."""
        digest = credential_digest(scope)
        if digest is None:
            return
        caller = scope["state"].get("caller")
        if status == 401 or caller is None:
            if status == 401:
                self._proven.pop(digest, None)
            return
        self._proven[digest] = f"{getattr(caller, 'zone', '')}:{getattr(caller, 'name', caller)}"
        self._proven.move_to_end(digest)
        if len(self._proven) > _PROVEN_CALLERS:
            self._proven.popitem(last=False)


def credential_digest(scope: Scope) -> bytes | None:
    """A digest of the credential a request carries, in its zone; None when it carries none."""
    for name, value in scope["headers"]:
        if name in _CREDENTIALS:
            return hashlib.blake2b(b"\0".join((name, scope["state"]["zone"].encode(), value)), digest_size=16).digest()
    return None


def network_of(ip: str) -> str:
    """What an address is counted as: itself, or its /64 for IPv6; all that cannot be told together."""
    try:
        address = ip_address(ip)
    except ValueError:
        return "unknown"
    return str(ip_network((address, 64), strict=False)) if isinstance(address, IPv6Address) else ip
