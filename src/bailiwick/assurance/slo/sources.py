"""Counting: good and total of every minute, from wherever a service level is measured.

A minute that could not be measured is left out; a minute in which nothing happened is (0, 0).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from bailiwick.assurance.figures import NoFigure, OwnMetrics, Prometheus, Readings, Selects
from bailiwick.assurance.slo.buckets import Counts
from bailiwick.assurance.slo.openslo import (
    DataSourceSpec,
    LedgerSpec,
    MetricSource,
    MetricSpec,
    Objective,
    RatioMetric,
    RequestsSpec,
    SloSpec,
    SupportSpec,
)
from bailiwick.assurance.slo.windows import MINUTE, floor_minute
from bailiwick.kernel.db import Database, Transaction

_HOLDS: dict[str, Callable[[float, float], bool]] = {
    "lt": lambda value, bound: value < bound,
    "lte": lambda value, bound: value <= bound,
    "gt": lambda value, bound: value > bound,
    "gte": lambda value, bound: value >= bound,
}


class Sources:
    """Counts from every source. ``metrics`` is None in a process that does not see the metrics of all."""

    def __init__(
        self, database: Database, selects: Selects, prometheus: Prometheus, metrics: OwnMetrics | None
    ) -> None:
        self._database = database
        self._selects = selects
        self._prometheus = prometheus
        self._metrics = metrics

    @staticmethod
    def replayable(spec: SloSpec) -> bool:
        """Whether a minute can be counted again later."""
        return all(source.type != "bailiwick/metric" for source in spec.sources())

    async def count(
        self, zone: str, spec: SloSpec, data: Mapping[str, DataSourceSpec], since: datetime, until: datetime
    ) -> Counts:
        """The counts of the minutes from ``since`` to ``until`` (whole minutes, excluded). Raises NoFigure."""
        ratio = spec.indicator.spec.ratio
        if ratio is None:
            assert spec.indicator.spec.threshold is not None
            source = spec.indicator.spec.threshold.source
            values = await self._range(source, data, since, until)
            return {minute: (int(_holds(spec.objective, value)), 1) for minute, value in values.items()}
        kind = ratio.total.source.type
        if kind == "Prometheus":
            return await self._from_prometheus(ratio, data, since, until)
        if kind == "SQL":
            return await self._from_sql(ratio, data, since, until)
        async with self._database.begin() as tx:
            ask = {"bailiwick/ledger": ledger_counts, "bailiwick/requests": _requests, "bailiwick/support": _support}[
                kind
            ]
            part = await ask(tx, zone, (ratio.good or ratio.bad or ratio.total).source, since, until)
            total = await ask(tx, zone, ratio.total.source, since, until)
        return _together(ratio, part, total, since, until)

    def snapshot(self, spec: SloSpec) -> tuple[float | None, float | None]:
        """The values of our own metrics now, of good and of total; of a threshold's metric as the second.

        Raises NoFigure in a process that cannot tell.
        """
        if self._metrics is None:
            raise NoFigure("our own metrics are seen by the work role alone")
        readings = self._metrics.read()
        ratio = spec.indicator.spec.ratio
        if ratio is None:
            assert spec.indicator.spec.threshold is not None
            return None, _reading(readings, spec.indicator.spec.threshold.source)
        total = _reading(readings, ratio.total.source)
        part = _reading(readings, (ratio.good or ratio.bad or ratio.total).source)
        # a series of which nothing was ever counted is not there yet, while the whole is
        return (0.0 if part is None and total is not None else part), total

    async def _range(
        self, source: MetricSource, data: Mapping[str, DataSourceSpec], since: datetime, until: datetime
    ) -> dict[datetime, float]:
        url = data[source.ref or ""].connection.url
        # what a query tells of an instant is of the minute that ends there
        found = await self._prometheus.range(url, source.typed().query, since + MINUTE, until, 60)
        return {floor_minute(at - MINUTE): value for at, value in found.items() if math.isfinite(value)}

    async def _from_prometheus(
        self, ratio: RatioMetric, data: Mapping[str, DataSourceSpec], since: datetime, until: datetime
    ) -> Counts:
        part = await self._range((ratio.good or ratio.bad or ratio.total).source, data, since, until)
        total = await self._range(ratio.total.source, data, since, until)
        both = {minute: (round(part[minute]), round(total[minute])) for minute in part.keys() & total.keys()}
        return {minute: (one if ratio.good else all_ - one, all_) for minute, (one, all_) in both.items()}

    async def _from_sql(
        self, ratio: RatioMetric, data: Mapping[str, DataSourceSpec], since: datetime, until: datetime
    ) -> Counts:
        found = []
        for source in ((ratio.good or ratio.bad or ratio.total).source, ratio.total.source):
            url = data[source.ref].connection.url if source.ref else None
            rows = await self._selects.rows(url, source.typed().query, {"since": since, "until": until})
            try:
                found.append({floor_minute(row["minute"]): int(row["count"]) for row in rows})
            except (KeyError, TypeError, ValueError, AttributeError):
                raise NoFigure("SQL: rows have a minute (timestamptz) and a count") from None
        return _together(ratio, found[0], found[1], since, until)


def of_snapshots(
    spec: SloSpec, before: tuple[float | None, float | None], after: tuple[float | None, float | None]
) -> tuple[int, int] | None:
    """Good and total between two snapshots a minute apart; None where one of them lacks a value."""
    if spec.indicator.spec.ratio is None:
        value = after[1]
        return None if value is None else (int(_holds(spec.objective, value)), 1)
    part, total = _grown(before[0], after[0]), _grown(before[1], after[1])
    if part is None or total is None:
        return None
    return (part if spec.indicator.spec.ratio.good else total - part), total


def _grown(before: float | None, after: float | None) -> int | None:
    if before is None or after is None:
        return None
    return round(after if after < before else after - before)  # a counter that fell began anew


def _holds(objective: Objective, value: float) -> bool:
    assert objective.op is not None and objective.value is not None
    return _HOLDS[objective.op](value, objective.value)


def _reading(readings: Readings, source: MetricSource) -> float | None:
    wanted: MetricSpec = source.typed()
    return readings.sum(wanted.metric, wanted.labels, wanted.le)


def _together(
    ratio: RatioMetric, part: Mapping[datetime, int], total: Mapping[datetime, int], since: datetime, until: datetime
) -> Counts:
    minutes = int((until - since).total_seconds() // 60)
    found = {}
    for number in range(minutes):
        minute = since + number * MINUTE
        one, all_ = part.get(minute, 0), total.get(minute, 0)
        found[minute] = (one if ratio.good else all_ - one, all_)
    return found


async def ledger_counts(
    tx: Transaction, zone: str, source: MetricSource, since: datetime, until: datetime
) -> dict[datetime, int]:
    wanted: LedgerSpec = source.typed()
    rows = await tx.all(
        "SELECT date_trunc('minute', at, 'UTC') AS minute, count(*) AS count FROM ledger.events"
        " WHERE zone = :zone AND at >= :since AND at < :until AND recorded_at >= :recorded"
        " AND (cardinality(CAST(:codes AS text[])) = 0 OR code = ANY(:codes))"
        " AND (cardinality(CAST(:outcomes AS text[])) = 0 OR outcome = ANY(:outcomes))"
        " AND (cardinality(CAST(:servers AS text[])) = 0 OR server = ANY(:servers)) GROUP BY 1",
        zone=zone,
        since=since,
        until=until,
        recorded=since - timedelta(hours=1),  # clocks of machines differ; an event is recorded after it happened
        codes=wanted.codes,
        outcomes=wanted.outcomes,
        servers=wanted.servers,
    )
    return {row["minute"]: row["count"] for row in rows}


async def _requests(
    tx: Transaction, zone: str, source: MetricSource, since: datetime, until: datetime
) -> dict[datetime, int]:
    wanted: RequestsSpec = source.typed()
    faster = wanted.faster_than_ms
    rows = await tx.all(
        "SELECT date_trunc('minute', at, 'UTC') AS minute, count(*) AS count FROM api_requests"
        " WHERE zone = :zone AND at >= :since AND at < :until"
        " AND (cardinality(CAST(:methods AS text[])) = 0 OR method = ANY(:methods))"
        " AND (cardinality(CAST(:routes AS text[])) = 0 OR route = ANY(:routes))"
        " AND status < :status AND duration_us < :faster GROUP BY 1",
        zone=zone,
        since=since,
        until=until,
        methods=wanted.methods,
        routes=wanted.routes,
        status=wanted.status_below or 1000,
        faster=math.ceil(faster * 1000) if faster is not None else 1 << 62,
    )
    return {row["minute"]: row["count"] for row in rows}


async def _support(
    tx: Transaction, zone: str, source: MetricSource, since: datetime, until: datetime
) -> dict[datetime, int]:
    wanted: SupportSpec = source.typed()
    rows = await tx.all(
        "SELECT date_trunc('minute', due_at, 'UTC') AS minute, count(*) AS count FROM support_cases"
        " WHERE zone = :zone AND due_at >= :since AND due_at < :until AND class = :class"
        " AND (NOT :in_time OR done_at <= due_at) GROUP BY 1",
        zone=zone,
        since=since,
        until=until,
        in_time=wanted.in_time,
        **{"class": wanted.of},
    )
    return {row["minute"]: row["count"] for row in rows}
