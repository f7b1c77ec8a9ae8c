"""Rate limits by GCRA: one number a key, exact bursts, no windows that reset for everybody at once.

Counters are shared: through Redis where it is configured and answers, else through one memory-mapped file by all
workers of the machine. Limits that cannot be counted in Redis are counted here; nothing fails because of a counter.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import mmap
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import structlog
from starlette.types import Scope

from bailiwick.kernel.clock import Clock
from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.redis import RedisAway, RedisClient

log = structlog.get_logger(__name__)

_SLOT = struct.Struct("<Qd")  # fingerprint of the key, theoretical arrival time
_PROBES = 8

# KEYS[1]; ARGV: emission interval, burst tolerance (both seconds). Answers allowed, seconds to wait, remaining time
_SCRIPT = """
local t = redis.call('TIME'); local now = t[1] + t[2] / 1000000
local tat = tonumber(redis.call('GET', KEYS[1]) or now)
if tat < now then tat = now end
local interval, tolerance = tonumber(ARGV[1]), tonumber(ARGV[2])
if tat - now > tolerance then return {0, tostring(tat - now - tolerance), tostring(tat - now)} end
tat = tat + interval
redis.call('SET', KEYS[1], tostring(tat), 'PX', math.ceil((tat - now) * 1000) + 1000)
return {1, '0', tostring(tat - now)}
"""


@dataclass(frozen=True, slots=True)
class LimitResult:
    """What a limit answered. Times are seconds."""

    allowed: bool
    limit: int
    remaining: int
    retry_after_s: int
    reset_s: int

    def headers(self) -> dict[str, str]:
        """What the caller is told."""
        told = {
            "x-ratelimit-limit": str(self.limit),
            "x-ratelimit-remaining": str(self.remaining),
            "x-ratelimit-reset": str(self.reset_s),
        }
        if not self.allowed:
            told["retry-after"] = str(self.retry_after_s)
        return told


class MachineCounters:
    """Arrival times of all keys in one memory-mapped file, for every worker of the machine.

    Keys are 64-bit fingerprints in an open table. A full neighbourhood gives the place of its oldest key away, which
    can only make a limit too generous for a moment. One flock orders writers; it is held for a microsecond.
    """

    def __init__(self, path: Path, slots: int = 65_536) -> None:
        self._slots = slots
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(self._fd, slots * _SLOT.size)
        self._memory = mmap.mmap(self._fd, slots * _SLOT.size)

    def take(self, key: str, interval: float, tolerance: float, now: float) -> tuple[bool, float]:
        """Count one arrival; (allowed, seconds by which the key is ahead of ``now``)."""
        fingerprint = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little") or 1
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            place, tat = self._find(fingerprint, now)
            ahead = max(tat - now, 0.0)
            if ahead > tolerance:
                return False, ahead
            _SLOT.pack_into(self._memory, place, fingerprint, now + ahead + interval)
            return True, ahead + interval
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the file."""
        self._memory.close()
        os.close(self._fd)

    def _find(self, fingerprint: int, now: float) -> tuple[int, float]:
        oldest, oldest_tat = -1, math.inf
        for probe in range(_PROBES):
            place = ((fingerprint + probe) % self._slots) * _SLOT.size
            known, tat = _SLOT.unpack_from(self._memory, place)
            if known == fingerprint:
                return place, tat
            if tat < oldest_tat:
                oldest, oldest_tat = place, tat
        return oldest, now


class Limiter:
    """Counts arrivals against a limit per minute."""

    def __init__(self, clock: Clock, counters: MachineCounters, redis: RedisClient) -> None:
        self._clock = clock
        self._counters = counters
        self._redis = redis

    async def check(self, key: str, per_minute: int) -> LimitResult:
        """Count one arrival for ``key``; the burst is a full minute's worth."""
        interval, tolerance = 60.0 / per_minute, 60.0 - 60.0 / per_minute
        try:
            allowed, ahead = await self._by_redis(key, interval, tolerance)
        except RedisAway:
            allowed, ahead = self._counters.take(key, interval, tolerance + 1e-9, self._clock.monotonic())
        remaining = max(0, int((60.0 - ahead) / interval + 1e-6))
        retry = 0 if allowed else max(1, math.ceil(ahead - tolerance))
        return LimitResult(allowed, per_minute, remaining if allowed else 0, retry, math.ceil(ahead))

    async def _by_redis(self, key: str, interval: float, tolerance: float) -> tuple[bool, float]:
        place = "bailiwick:limit:" + hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
        allowed, _, ahead = await self._redis.call(
            lambda client: client.eval(_SCRIPT, 1, place, str(interval), str(tolerance))
        )
        return bool(allowed), float(ahead)


class RequestLimiter:
    """The front's limits on management and sign-in routes: by caller when the token is good, else by network.

    ``identify(token, zone)`` answers (caller name, role) or None; ``limit_of(zone, role)`` the requests a minute.
    """

    def __init__(
        self,
        limiter: Limiter,
        identify: Callable[[str, str], tuple[str, str] | None],
        limit_of: Callable[[str, str | None], int],
        *,
        count: Callable[[str], None] = lambda _: None,
        exempt: Mapping[str, str] | None = None,
    ) -> None:
        self._limiter = limiter
        self._identify = identify
        self._limit_of = limit_of
        self._count = count
        self._exempt = exempt or {}

    def applies(self, path: str) -> bool:
        """The management API, without what has limits of its own."""
        return path.startswith("/api/v1/") and path not in self._exempt

    async def before(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """Count the request; the headers that tell. Raises ``rate_limited``."""
        state: dict[str, Any] = scope["state"]
        zone, token = state["zone"], _token(scope)
        known = self._identify(token, zone) if token else None
        if known is not None:
            key, limit, kind = f"caller/{zone}/{known[0]}", self._limit_of(zone, known[1]), "caller"
        else:
            key, limit, kind = f"network/{network_of(state['ip'])}", self._limit_of(zone, None), "network"
        result = await self._limiter.check(key, limit)
        headers = result.headers()
        if not result.allowed:
            self._count(kind)
            log.warning("rate limit exceeded", scope=kind, limit=limit, ip=state["ip"])
            raise BailiwickError(reason="rate_limited", headers=headers)
        return [(name.encode(), value.encode()) for name, value in headers.items()]

    def after(self, scope: Scope, status: int) -> None:
        """Nothing more to learn."""


def network_of(ip: str) -> str:
    """What is counted as one network: an IPv4 address, an IPv6 /64; ``unknown`` share one limit."""
    try:
        address = ip_address(ip)
    except ValueError:
        return "unknown"
    return str(address) if address.version == 4 else str(ip_network((address, 64), strict=False))


def _token(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return bytes(value[7:]).decode("latin-1")
    return ""
