"""Figures of what stands around us: database, Redis, disk, machine.

The work role samples them, so that every alert we ship can be computed from our own ``/metrics``. When a part does not
answer its ``_up`` is 0 and its other figures are NaN: an alert that compares them with a limit stays quiet, one that
asks for them sees that they are not there.
"""

from __future__ import annotations

import asyncio
import math
import os
from pathlib import Path
from typing import Protocol

from bailiwick.kernel.db import Database
from bailiwick.kernel.errors import Unavailable
from bailiwick.kernel.metrics import Metrics

_DATABASE = """
SELECT (SELECT sum(numbackends) FROM pg_stat_database)::int AS used,
       current_setting('max_connections')::int AS allowed,
       sum(blks_hit)::float / nullif(sum(blks_hit) + sum(blks_read), 0) AS hit_ratio,
       pg_database_size(current_database()) AS size
FROM pg_stat_database WHERE datname = current_database()
"""


class RedisInfo(Protocol):
    """What is asked of the Redis client: ``INFO`` as a mapping, or None when there is no answer."""

    @property
    def configured(self) -> bool:
        """Whether the installation uses Redis at all."""
        ...

    async def info(self) -> dict[str, object] | None:
        """Redis' own figures."""
        ...


class Figures:
    """Samples the surroundings into ``metrics``."""

    def __init__(self, metrics: Metrics, database: Database, redis: RedisInfo, data_dir: Path) -> None:
        self._metrics = metrics
        self._database = database
        self._redis = redis
        self._data_dir = data_dir
        self._cpu = _cpu_times()

    async def run(self, every_s: float = 5.0) -> None:
        """Sample until cancelled."""
        while True:
            await self.sample()
            await asyncio.sleep(every_s)

    async def sample(self) -> None:
        """Read everything once; a part that is away is a figure too, never an exception."""
        await asyncio.gather(self.sample_database(), self.sample_redis())
        self.sample_machine()

    async def sample_database(self) -> None:
        """Connections, cache hits and size."""
        metrics = self._metrics
        try:
            async with self._database.begin() as tx:
                row = await tx.one(_DATABASE)
        except Unavailable:
            row = None
        metrics.database_up.set(0 if row is None else 1)
        metrics.database_connections.set(math.nan if row is None else row["used"])
        metrics.database_connections_max.set(math.nan if row is None else row["allowed"])
        metrics.database_cache_hit_ratio.set(math.nan if row is None or row["hit_ratio"] is None else row["hit_ratio"])
        metrics.database_bytes.set(math.nan if row is None else row["size"])

    async def sample_redis(self) -> None:
        """Hit ratio and memory."""
        metrics = self._metrics
        metrics.redis_configured.set(1 if self._redis.configured else 0)
        if not self._redis.configured:
            return
        info = await self._redis.info()
        metrics.redis_up.set(0 if info is None else 1)
        hits, misses = _number(info, "keyspace_hits"), _number(info, "keyspace_misses")
        looked_up = hits + misses
        metrics.redis_hit_ratio.set(hits / looked_up if looked_up > 0 else math.nan)
        metrics.redis_memory_bytes.set(_number(info, "used_memory"))
        metrics.redis_memory_max_bytes.set(_number(info, "maxmemory"))

    def sample_machine(self) -> None:
        """Disk, processors and memory."""
        disk = os.statvfs(self._data_dir)
        self._metrics.disk_free_ratio.set(disk.f_bavail / disk.f_blocks if disk.f_blocks else math.nan)
        busy, total = _cpu_times()
        elapsed = total - self._cpu[1]
        self._metrics.cpu_used_ratio.set((busy - self._cpu[0]) / elapsed if elapsed > 0 else math.nan)
        self._cpu = (busy, total)
        self._metrics.memory_used_ratio.set(_memory_used_ratio())


def _number(info: dict[str, object] | None, name: str) -> float:
    value = (info or {}).get(name)
    return float(value) if isinstance(value, int | float) else math.nan


def _cpu_times() -> tuple[int, int]:
    """Busy and total clock ticks of all processors since the machine started."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    idle = fields[3] + fields[4]
    return sum(fields) - idle, sum(fields)


def _memory_used_ratio() -> float:
    lines = Path("/proc/meminfo").read_text().splitlines()
    sizes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return 1 - sizes["MemAvailable"] / sizes["MemTotal"]
