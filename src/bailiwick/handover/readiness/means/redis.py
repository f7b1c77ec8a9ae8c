"""Looks at a Redis and its sentinels by their protocol (RESP2; redis.io, "Redis serialization protocol")."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from bailiwick.assurance.durations import span
from bailiwick.assurance.probes.means import Asked, Means
from bailiwick.assurance.probes.reading import Found, LookFailed
from bailiwick.assurance.thresholds import Unit
from bailiwick.evidence.siem.destination import Retry, Stop
from bailiwick.evidence.siem.outgoing import reached
from bailiwick.handover.readiness.checks import RedisCheck
from bailiwick.handover.readiness.strength import weakness

_MOST = 1 << 20


class Refused(Exception):
    """The server answers with an error; its text begins with the kind, as ``NOAUTH``."""


@dataclass(frozen=True, slots=True)
class _At:
    host: str
    port: int
    username: str = ""
    password: str = ""
    tls: bool = False


async def redis(check: RedisCheck, means: Means, asked: Asked) -> Found:
    """What the check names of a Redis. That it cannot be reached is an error."""
    try:
        async with asyncio.timeout(asked.timeout_s):
            if check.what == "sentinels":
                return await _sentinels(check, means)
            at = _address(check, means)
            if check.what == "password":
                wrong = weakness(at.password, check.at_least)
                return Found(detail="it is long and random enough", wrong=wrong, holds=not wrong)
            if check.what == "auth":
                return await _auth(means, at)
            return await _figures(check, means, at)
    except TimeoutError:
        raise LookFailed(f"no answer within {asked.timeout_s:g} s") from None
    except Refused as error:
        raise LookFailed(f"Redis refuses: {error}"[:300]) from None
    except (Stop, Retry) as error:
        raise LookFailed(str(error)) from None
    except (OSError, asyncio.IncompleteReadError, ValueError) as error:
        raise LookFailed(f"Redis: {type(error).__name__}: {error}"[:300]) from None


async def _auth(means: Means, at: _At) -> Found:
    """Without the password it must refuse; with it, answer."""
    stranger = _At(at.host, at.port, tls=at.tls)
    async with _connected(means, stranger) as ask:
        try:
            await ask("PING")
        except Refused as error:
            if not str(error).startswith(("NOAUTH", "NOPERM", "DENIED")):
                raise
        else:
            return Found(wrong="it answers whoever asks, without a password", output=b"PING without password: PONG")
    if not at.password:
        return Found(wrong="the address holds no password")
    async with _connected(means, at) as ask:
        await ask("PING")
    return Found(detail="a stranger is refused, the password is taken", holds=True)


async def _figures(check: RedisCheck, means: Means, at: _At) -> Found:
    async with _connected(means, at) as ask:
        told = _info(await ask("INFO"))
        config = _pairs(await ask("CONFIG", "GET", "*"))
    output = "\n".join(f"{name}: {told[name]}" for name in sorted(told) if name in _KEPT).encode()
    match check.what:
        case "answers":
            return Found(detail=f"version {told.get('redis_version', '?')}", output=output, holds=True)
        case "eviction":
            policy = config.get("maxmemory-policy", "")
            wrong = "" if policy == "noeviction" else f"maxmemory-policy is {policy or 'not told'}: counters may vanish"
            return Found(detail=f"maxmemory-policy {policy}", output=output, wrong=wrong, holds=not wrong)
        case "memory":
            limit = int(config.get("maxmemory", "0"))
            wrong = "no limit is set" if not limit else "" if limit <= check.most else f"the limit is {limit} bytes"
            return Found(float(limit), Unit.BYTES, f"maxmemory {limit}", output, wrong=wrong, holds=not wrong)
        case _:
            return _persistence(check, told, config, output)


def _persistence(check: RedisCheck, told: dict[str, str], config: dict[str, str], output: bytes) -> Found:
    words = config.get("save", "").split()
    seconds = [int(each) for each in words[::2]]
    within = span(check.within).total_seconds()
    wrong = ""
    if not seconds or min(seconds) > within:
        wrong = f"a snapshot is not made every {check.within}"
    elif told.get("rdb_last_bgsave_status") != "ok":
        wrong = "the last snapshot failed"
    return Found(detail=f"save {' '.join(words)}", output=output, wrong=wrong, holds=not wrong)


async def _sentinels(check: RedisCheck, means: Means) -> Found:
    """Enough of them must answer, agree on the master, and see it up."""

    async def one(address: str) -> tuple[str, str]:
        host, _, port = address.rpartition(":")
        try:
            async with _connected(means, _At(host, int(port))) as ask:
                state = _pairs(await ask("SENTINEL", "MASTER", check.master))
        except (Refused, OSError, Stop, Retry, asyncio.IncompleteReadError) as error:
            return address, f"? {type(error).__name__}"
        down = {"s_down", "o_down"} & set(state.get("flags", "").split(","))
        master = f"{state.get('ip')}:{state.get('port')}"
        return address, f"? {master} is down" if down else master

    seen = await asyncio.gather(*(one(address) for address in check.sentinels))
    masters = {said for _, said in seen if not said.startswith("?")}
    agreeing = sum(not said.startswith("?") for _, said in seen)
    output = "\n".join(f"{address}: {said}" for address, said in seen).encode()
    wrong = ""
    if agreeing < check.at_least:
        wrong = f"{agreeing} of {len(seen)} sentinels see a master that is up, and {check.at_least} should"
    elif len(masters) > 1:
        wrong = f"they do not agree: {', '.join(sorted(masters))}"
    return Found(float(agreeing), Unit.COUNT, f"{agreeing} sentinels agree", output, wrong=wrong, holds=not wrong)


# ---------------------------------------------------------------------- the protocol


def _address(check: RedisCheck, means: Means) -> _At:
    if check.url_file is None:
        raise LookFailed("the check names no address")
    try:
        parts = urlsplit(means.readable(check.url_file).read_text(encoding="utf-8").strip())
        port = parts.port or 6379
    except (OSError, UnicodeDecodeError, ValueError):
        raise LookFailed(f"{check.url_file} holds no address of a Redis") from None
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise LookFailed(f"{check.url_file} holds no address of a Redis")
    return _At(
        parts.hostname, port, unquote(parts.username or ""), unquote(parts.password or ""), parts.scheme == "rediss"
    )


@asynccontextmanager
async def _connected(means: Means, at: _At) -> AsyncIterator[Any]:
    """A way to ask; the address is checked, and a certificate is too."""
    address = (await reached(means.reach, at.host, at.port))[0]
    context = ssl.create_default_context() if at.tls else None
    reader, writer = await asyncio.open_connection(
        address, at.port, ssl=context, server_hostname=at.host if at.tls else None
    )

    async def ask(*words: str) -> Any:
        parts = (b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in words)
        writer.write(b"*%d\r\n" % len(words) + b"".join(parts))
        await writer.drain()
        return await _reply(reader)

    try:
        if at.password:
            await ask("AUTH", *([at.username] if at.username else []), at.password)
        yield ask
    finally:
        writer.close()


async def _reply(reader: asyncio.StreamReader, depth: int = 0) -> Any:
    line = (await reader.readuntil(b"\r\n"))[:-2]
    kind, rest = line[:1], line[1:]
    if kind == b"-":
        raise Refused(rest.decode("utf-8", "replace"))
    if kind == b"$":
        size = int(rest)
        if size > _MOST:
            raise ValueError("the answer is too large")
        return None if size < 0 else (await reader.readexactly(size + 2))[:-2].decode("utf-8", "replace")
    if kind == b"*":
        count = int(rest)
        if count > 10_000 or depth > 4:
            raise ValueError("the answer is too large")
        return [await _reply(reader, depth + 1) for _ in range(max(0, count))]
    if kind in (b"+", b":"):
        return rest.decode("utf-8", "replace")
    raise ValueError("this is no Redis")


def _info(text: Any) -> dict[str, str]:
    return dict(line.split(":", 1) for line in str(text).splitlines() if ":" in line)


def _pairs(answer: Any) -> dict[str, str]:
    if not isinstance(answer, list):
        raise ValueError("this is no Redis")
    return dict(zip(answer[::2], answer[1::2], strict=False))


_KEPT = frozenset(
    {
        "redis_version", "role", "used_memory", "maxmemory", "maxmemory_policy", "rdb_last_save_time",
        "rdb_last_bgsave_status", "aof_enabled", "connected_clients", "connected_slaves", "uptime_in_seconds",
    }
)  # fmt: skip
