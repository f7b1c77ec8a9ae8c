"""From an item to what its probe finds: every item of an environment at once, each within its own time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from pydantic import ValidationError

from bailiwick.assurance.durations import span
from bailiwick.assurance.probes.looks import look
from bailiwick.assurance.probes.means import Asked, Means
from bailiwick.assurance.probes.reading import Found, LookFailed, Reading, failed, read
from bailiwick.assurance.probes.spec import InternalCheck, SqlCheck
from bailiwick.assurance.thresholds import Threshold
from bailiwick.handover.readiness.checks import (
    CorsCheck,
    DnsNamesCheck,
    HeadersCheck,
    KubernetesCheck,
    MonitoringCheck,
    RateLimitCheck,
    RedisCheck,
    ReportCheck,
    TlsHostsCheck,
    Unbound,
    bound,
    read_check,
)
from bailiwick.handover.readiness.documents import OPTIONAL, ItemProbe, Placed
from bailiwick.handover.readiness.means.hosts import dns_names, tls_hosts
from bailiwick.handover.readiness.means.kubernetes import kubernetes
from bailiwick.handover.readiness.means.monitoring import monitoring
from bailiwick.handover.readiness.means.redis import redis
from bailiwick.handover.readiness.means.reports import report
from bailiwick.handover.readiness.means.web import cors, headers, rate_limit
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.verdicts import Verdict

log = structlog.get_logger(__name__)

_AT_ONCE = 128
_OF_OUR_DATABASE = 4
_GRACE_S = 5.0
_LEAST_S = 20.0
"""How long a run takes at most, beside the longest time of an item."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What the look at one item found, and when that was."""

    reading: Reading
    started_at: datetime
    finished_at: datetime


async def measure_all(
    lines: Sequence[Placed],
    values: Mapping[str, Any],
    thresholds: Mapping[str, Threshold],
    means: Means,
    clock: Clock,
    zone: str,
) -> dict[str, Measured]:
    """Look at every item of ``lines`` that has a probe, by its key. Whatever goes wrong is a reading; what had no time
    left in the run is one too."""
    anything, ours = asyncio.Semaphore(_AT_ONCE), asyncio.Semaphore(_OF_OUR_DATABASE)
    began = clock.now()

    async def one(probe: ItemProbe) -> Measured:
        slots = ours if probe.check.get("type") in ("sql", "internal") else anything
        async with slots:
            started = clock.now()
            reading = await measure(probe, values, thresholds, means, zone, started)
            return Measured(reading, started, max(started, clock.now()))

    asked = {line.key: line.item.probe for line in lines if line.item.probe is not None}
    tasks = {key: asyncio.create_task(one(probe)) for key, probe in asked.items()}
    if not tasks:
        return {}
    longest = max(span(probe.timeout).total_seconds() for probe in asked.values())
    try:
        await asyncio.wait(tasks.values(), timeout=max(_LEAST_S, longest + _GRACE_S))
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
    late = Measured(failed("the run had no time left for it"), began, max(began, clock.now()))
    return {
        key: task.result() if not task.cancelled() and task.exception() is None else late for key, task in tasks.items()
    }


async def measure(
    probe: ItemProbe,
    values: Mapping[str, Any],
    thresholds: Mapping[str, Threshold],
    means: Means,
    zone: str,
    now: datetime,
) -> Reading:
    """Look and judge, and keep nothing. Whatever goes wrong is a reading; what the environment does not say is
    NO_DATA."""
    window = span(probe.window) if probe.window else None
    try:
        limit = probe.limit(thresholds)
        check = read_check(bound(probe.check, dict(values), OPTIONAL))
    except Unbound as error:
        told = f"the environment does not say {', '.join(error.names)}"
        return Reading(Verdict.NO_DATA, detail=told, output=told.encode())
    except LookupError:
        return failed(f"there is no threshold {probe.threshold}")
    except ValidationError as error:
        first = error.errors()[0]
        return failed(f"{'.'.join(map(str, first['loc']))}: {first['msg']}"[:300])
    asked = Asked(zone, now, window, span(probe.timeout).total_seconds())
    try:
        return read(await _look(check, means, asked), limit, window)
    except LookFailed as error:
        return failed(str(error), limit, window)
    except BailiwickError as error:
        return failed(error.detail, limit, window)
    except TimeoutError:
        return failed(f"the look did not end within {asked.timeout_s + _GRACE_S:g} s", limit, window)
    except Exception as error:  # a fault of ours must be a red item, not a silent one
        log.exception("an item could not be looked at", type=probe.check.get("type"))
        return failed(f"a fault of the probe itself: {type(error).__name__}", limit, window)


async def _look(check: Any, means: Means, asked: Asked) -> Found:
    async with asyncio.timeout(asked.timeout_s + _GRACE_S):
        match check:
            case KubernetesCheck():
                return await kubernetes(check, means, asked)
            case RedisCheck():
                return await redis(check, means, asked)
            case MonitoringCheck():
                return await monitoring(check, means, asked)
            case HeadersCheck():
                return await headers(check, means, asked)
            case CorsCheck():
                return await cors(check, means, asked)
            case RateLimitCheck():
                return await rate_limit(check, means, asked)
            case TlsHostsCheck():
                return await tls_hosts(check, means, asked)
            case DnsNamesCheck():
                return await dns_names(check, means, asked)
            case ReportCheck():
                return await report(check, means, asked)
    if isinstance(check, InternalCheck | SqlCheck):
        async with asyncio.timeout(asked.timeout_s):
            return await look(check, means, asked)
    return await look(check, means, asked)
