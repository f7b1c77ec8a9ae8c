"""What Envoy counted of the arms of canaries, bucket by bucket. Every work process asks the Envoy of its machine.

The same loop lets the candidates keep their traffic: as long as the database answers and every canary was judged
lately, the lease is renewed (``gateway/lease.py``).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog

from bailiwick.gateway.envoy.admin import Bin, EnvoyAdmin
from bailiwick.gateway.envoy.clusters import CANARY_STATISTICS
from bailiwick.gateway.lease import HELD_S, Lease
from bailiwick.handover.canary.judge import ArmName
from bailiwick.handover.canary.records import Counted, add_points
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row
from bailiwick.kernel.errors import Unavailable
from bailiwick.kernel.jobs import make_due

JOB = "drive-canaries"
ARMS: tuple[ArmName, ...] = ("stable", "baseline", "candidate")
_LOOK_S = 1.0
_JUDGED_EVERY_S = 3.0  # far within what the lease allows, also where buckets are longer
_AFTER_S = 0.01  # a boundary is passed, not met

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Total:
    """What an arm did since Envoy made its cluster."""

    requests: int
    errors: int
    refused: int
    histogram: Mapping[tuple[float, float], int]


@dataclass(frozen=True, slots=True)
class _Sample:
    """The totals at the beginning of a bucket."""

    bucket: int
    phase: int
    at: datetime
    totals: Mapping[ArmName, Total]


def totals_of(canary: str, figures: Mapping[str, Any], histograms: Mapping[str, list[Bin]]) -> dict[ArmName, Total]:
    """The totals of each arm from Envoy's statistics."""

    def count(arm: str, name: str) -> int:
        return int(figures.get(f"cluster.{CANARY_STATISTICS}.{canary}.{arm}.upstream_rq_{name}") or 0)

    return {
        arm: Total(
            count(arm, "completed"),
            count(arm, "5xx"),
            count(arm, "401") + count(arm, "403"),
            {
                (lower, width): counted
                for lower, width, counted in histograms.get(
                    f"cluster.{CANARY_STATISTICS}.{canary}.{arm}.upstream_rq_time", []
                )
            },
        )
        for arm in ARMS
    }


def between(before: Mapping[ArmName, Total], after: Mapping[ArmName, Total]) -> list[Counted] | None:
    """What was counted between two samples, of arms that had requests; None when Envoy began anew meanwhile."""
    found = []
    for arm in ARMS:
        old, new = before[arm], after[arm]
        bins = [
            (lower, width, more)
            for (lower, width), counted in sorted(new.histogram.items())
            if (more := counted - old.histogram.get((lower, width), 0)) != 0
        ]
        each = Counted(arm, new.requests - old.requests, new.errors - old.errors, new.refused - old.refused, bins)
        if min(each.requests, each.errors, each.refused, *(more for _, _, more in bins)) < 0:
            return None
        if each.requests:
            found.append(each)
    return found


class Sampler:
    """Samples, for one process. ``machine`` names the Envoy; ``seconds`` is the time by which buckets are told apart,
    the same on all machines."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        admin: EnvoyAdmin,
        lease: Lease,
        machine: str,
        *,
        seconds: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._clock = clock
        self._admin = admin
        self._lease = lease
        self._machine = machine
        self._seconds = seconds
        self._last: dict[str, _Sample] = {}
        self._asked = 0.0

    async def run(self) -> None:
        """Sample until cancelled."""
        away = False
        try:
            while True:
                pause = _LOOK_S
                try:
                    pause = await self.turn()
                    away = False
                except (Unavailable, OSError) as error:
                    if not away:
                        log.warning("canaries are not sampled", error=str(error))
                    away = True
                await asyncio.sleep(pause)
        finally:
            await self._admin.close()

    async def turn(self) -> float:
        """Look once; in how many seconds to look again. Raises ``Unavailable``, :class:`OSError`."""
        async with self._database.begin() as tx:
            sampled = await tx.all(_SAMPLED)
        self._last = {name: sample for name, sample in self._last.items() if name in {row["id"] for row in sampled}}
        if not sampled:
            return _LOOK_S
        running = [row for row in sampled if row["state"] == "running"]
        unwatched = max((float(row["unwatched"]) for row in running), default=HELD_S)
        if unwatched < HELD_S:
            self._lease.renew(HELD_S - max(unwatched, 0.0))
        due = [row for row in sampled if self._is_due(row)]
        failing = await self._sample(due) if due else False
        now = self._seconds()
        # of one that passed it is judged what went wrong; of one that runs, that nothing did as well
        if failing or (running and now - self._asked >= (_LOOK_S if due else _JUDGED_EVERY_S)):
            self._asked = now
            async with self._database.begin() as tx:
                await make_due(tx, JOB, self._clock.now())
        return min([_LOOK_S, *(_until_next(now, row["bucket_s"]) for row in sampled)])

    def _is_due(self, row: Row) -> bool:
        last = self._last.get(row["id"])
        return last is None or last.bucket != _bucket(self._seconds(), row["bucket_s"])

    async def _sample(self, rows: list[Row]) -> bool:
        """Take a sample of each; whether one that passed answered with an error since the sample before."""
        prefixes = [f"cluster.{CANARY_STATISTICS}.{row['id']}." for row in rows]
        histograms = await self._admin.histograms(*prefixes)
        figures = await self._admin.figures(*prefixes)
        at, seconds, failing = self._clock.now(), self._seconds(), False
        async with self._database.begin() as tx:
            for row in rows:
                sample = _Sample(
                    _bucket(seconds, row["bucket_s"]), row["phase"], at, totals_of(row["id"], figures, histograms)
                )
                before = self._last.get(row["id"])
                self._last[row["id"]] = sample
                if before is not None and (before.phase, before.bucket + 1) == (sample.phase, sample.bucket):
                    counted = between(before.totals, sample.totals) or []
                    await add_points(tx, row["id"], before.phase, before.bucket, self._machine, before.at, counted)
                    failing |= row["state"] == "promoted" and any(each.errors for each in counted)
        return failing


def _bucket(seconds: float, length: float) -> int:
    return math.floor(seconds / length)


def _until_next(seconds: float, length: float) -> float:
    return (_bucket(seconds, length) + 1) * length - seconds + _AFTER_S


# what passed is sampled for as long as its verdict counts: it may yet break under all of the traffic
_SAMPLED = """
SELECT id, phase, state, cast(spec ->> 'bucket_s' AS double precision) AS bucket_s,
       extract(epoch FROM clock_timestamp() - watched_at) AS unwatched
FROM canaries WHERE state = 'running' OR state = 'promoted' AND phased_at > clock_timestamp() - interval '24 hours'
ORDER BY id
"""
