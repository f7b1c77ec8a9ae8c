"""A snapshot of a real Redis, told by its length and by a mark."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bailiwick.handover.backups.redis_snapshot import RedisAddress, fetch_rdb
from bailiwick.kernel.errors import Unavailable
from ports import free_port


@pytest.fixture(params=["yes", "no"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisAddress]:
    """A Redis that sends snapshots from memory (by a mark), or from its disk (by their length)."""
    port = free_port()
    process = subprocess.Popen(
        [
            "redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path), "--save", "",
            "--requirepass", "word", "--repl-diskless-sync", request.param, "--repl-diskless-sync-delay", "0",
        ],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            asyncio.run(asyncio.sleep(0.05))
        yield RedisAddress("127.0.0.1", port, password="word")
    finally:
        process.terminate()
        process.wait()


async def test_a_snapshot_is_what_redis_itself_can_read(server: RedisAddress, tmp_path: Path) -> None:
    for key in ("counter-1", "counter-2"):
        subprocess.run(
            ["redis-cli", "-p", str(server.port), "-a", "word", "--no-auth-warning", "set", key, "7"],
            check=True, capture_output=True,
        )  # fmt: skip
    target = tmp_path / "redis.rdb"
    size = await fetch_rdb(server, target)
    assert size == target.stat().st_size
    told = subprocess.run(["redis-check-rdb", str(target)], capture_output=True, text=True, check=True).stdout
    assert "2 keys read" in told


async def test_a_wrong_login_is_told(server: RedisAddress, tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as refused:
        await fetch_rdb(RedisAddress(server.host, server.port, password="other"), tmp_path / "redis.rdb")
    assert refused.value.reason == "backup_failed"
