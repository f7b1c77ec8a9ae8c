"""A snapshot of Redis: the RDB that a replica would be given, asked for as ``redis-cli --rdb`` does.

Over the protocol (``SYNC``; redis.io, "Replication protocol"), since the server's disk is not ours to read.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from bailiwick.kernel.errors import Unavailable

_MAGIC = b"REDIS"
_MARK = 40
_PORTION = 1 << 16


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where a Redis master is, and how to log in there."""

    host: str
    port: int
    username: str = ""
    password: str = ""
    tls: bool = False


async def fetch_rdb(address: RedisAddress, target: Path, limit_s: float = 600.0) -> int:
    """Write a snapshot to ``target``; its bytes. Raises :class:`Unavailable` (``backup_failed``)."""
    try:
        async with asyncio.timeout(limit_s):
            context = ssl.create_default_context() if address.tls else None
            reader, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
            try:
                if address.password:
                    words = ["AUTH", *([address.username] if address.username else []), address.password]
                    writer.write(_command(*words))
                    if not (await reader.readline()).startswith(b"+OK"):
                        raise Unavailable("Redis does not take the login.", reason="backup_failed")
                writer.write(_command("SYNC"))
                with target.open("wb") as stream:
                    size = await _receive(reader, stream)
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
        raise Unavailable(f"Redis gives no snapshot: {type(error).__name__}.", reason="backup_failed") from error
    with target.open("rb") as stream:
        begins = stream.read(len(_MAGIC))
    if begins != _MAGIC:
        raise Unavailable("What Redis gave is no snapshot.", reason="backup_failed")
    return size


async def _receive(reader: asyncio.StreamReader, stream: BinaryIO) -> int:
    """The payload behind the header: of a told length, or up to a mark that the header names."""
    while (header := await reader.readline()) in {b"\n", b"\r\n"}:
        pass  # it is alive, and still at work
    if not header.startswith(b"$"):
        raise Unavailable("Redis does not let this login replicate.", reason="backup_failed")
    if header.startswith(b"$EOF:"):
        return await _until(reader, stream, header[5 : 5 + _MARK])
    left = size = int(header[1:])
    while left:
        portion = await reader.read(min(left, _PORTION))
        if not portion:
            raise asyncio.IncompleteReadError(b"", left)
        stream.write(portion)
        left -= len(portion)
    return size


async def _until(reader: asyncio.StreamReader, stream: BinaryIO, mark: bytes) -> int:
    size, held = 0, b""
    while not held.endswith(mark):
        portion = await reader.read(_PORTION)
        if not portion:
            raise asyncio.IncompleteReadError(b"", None)
        held += portion
        keep = max(0, len(held) - _MARK)
        if not held.endswith(mark):
            stream.write(held[:keep])
            size, held = size + keep, held[keep:]
    stream.write(held[:-_MARK])
    return size + len(held) - _MARK


def _command(*words: str) -> bytes:
    """A command in RESP."""
    parts = [word.encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
