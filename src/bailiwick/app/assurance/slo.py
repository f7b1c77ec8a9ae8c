"""Service levels, capacities, key figures and their reports, as they stand in an installation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from bailiwick.app.house import House, Part
from bailiwick.app.siem import reach_of
from bailiwick.assurance.book import Book, Kind
from bailiwick.assurance.books import Books
from bailiwick.assurance.capacity import CAPACITY, Capacities
from bailiwick.assurance.figures import OwnMetrics, Prometheus, Selects
from bailiwick.assurance.inputs import Inputs
from bailiwick.assurance.kpi import KPI, Kpis, month_of
from bailiwick.assurance.ports import Alerts, Waivers
from bailiwick.assurance.reports import SIGNED_BY_MACHINE, ReportRegister
from bailiwick.assurance.slo.api import capacity_routes, kpi_routes, level_routes, report_routes, support_routes
from bailiwick.assurance.slo.levels import Levels
from bailiwick.assurance.slo.openslo import DATA_SOURCE, SLO
from bailiwick.assurance.slo.reports import SloReports
from bailiwick.assurance.slo.sources import Sources
from bailiwick.assurance.support import Support
from bailiwick.evidence.events import Actor, Context, Recorder
from bailiwick.evidence.siem.outgoing import Reach
from bailiwick.identity.persons import Persons
from bailiwick.inventory.resolver import Resolver
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.jobs import JobDefinition
from bailiwick.kernel.metrics import Metrics

KINDS: tuple[Kind[Any], ...] = (SLO, DATA_SOURCE, CAPACITY, KPI)


@dataclass(frozen=True, slots=True)
class Services:
    """What the part does, for routes, jobs and commands."""

    levels: Levels
    capacities: Capacities
    kpis: Kpis
    register: ReportRegister
    support: Support


def services(
    database: Database,
    clock: Clock,
    ids: Ids,
    recorder: Recorder,
    books: Books,
    reach: Reach,
    figures: Path,
    alerts: Alerts,
    waivers: Waivers,
    metrics: Metrics,
    *,
    own: OwnMetrics | None,
) -> Services:
    """Build them. ``figures`` is the directory of CSV files; ``own`` is None where the metrics of all processes cannot
    be seen."""
    selects, prometheus = Selects(database), Prometheus(reach)
    sources = Sources(database, selects, prometheus, own)
    inputs = Inputs(database, selects, prometheus, own, figures)
    capacities = Capacities(database, clock, books, inputs, alerts, metrics)
    kpis = Kpis(database, clock, recorder, books, inputs, alerts)
    kinds = [*SloReports(books).kinds(), *capacities.kinds(), *kpis.kinds()]
    return Services(
        Levels(database, clock, recorder, books, sources, alerts, waivers, metrics),
        capacities,
        kpis,
        ReportRegister(database, clock, ids, recorder, kinds, Persons()),
        Support(database, clock, ids, recorder),
    )


def services_of(house: House, *, own: OwnMetrics | None) -> Services:
    """The same, out of the house."""
    base = house.base
    return services(
        base.database,
        base.clock,
        base.ids,
        base.recorder,
        house.books,
        reach_of(Resolver(base.database, base.clock, base.recorder, base.settings)),
        base.layout.data_dir / "figures",
        house.alerts,
        house.waivers,
        base.metrics,
        own=own,
    )


def build(house: House) -> Part:
    """The part of an installation."""
    base = house.base
    made = services_of(house, own=OwnMetrics(base.metrics.collect_text))
    return Part(
        routers=lambda: (
            level_routes(base.database, made.levels),
            capacity_routes(base.database, made.capacities),
            kpi_routes(base.database, made.kpis, base.clock),
            report_routes(base.database, made.register),
            support_routes(base.database, made.support, base.clock),
        ),
        scheduled=lambda zone, book: scheduled(made, zone, book),
    )


def scheduled(made: Services, zone: str, book: Book) -> Iterable[JobDefinition]:
    """What is done by the clock for one zone."""
    context = Context(zone, Actor(application=SIGNED_BY_MACHINE))

    async def count(due: datetime) -> Mapping[str, Any]:
        return await made.levels.run(zone)

    async def recount(due: datetime) -> Mapping[str, Any]:
        return {"entries": await made.levels.recount(context)}

    async def sample(due: datetime) -> Mapping[str, Any]:
        return await made.capacities.sample(zone)

    async def report(kind: str, since: datetime, until: datetime) -> Mapping[str, Any]:
        found = await made.register.produce(context, kind, since, until, by=SIGNED_BY_MACHINE)
        return {"report": found.id, "sha256": found.sha256, "verdict": found.verdict}

    async def weekly(due: datetime) -> Mapping[str, Any]:
        until = _midnight(due)
        return await report("slo-weekly", until - timedelta(days=7), until)

    async def thirty_days(due: datetime) -> Mapping[str, Any]:
        until = _midnight(due)
        return await report("slo-30d", until - timedelta(days=30), until)

    async def capacity(due: datetime) -> Mapping[str, Any]:
        until = _midnight(due)
        return await report("capacity-weekly", until - timedelta(days=7), until)

    async def figures(due: datetime) -> Mapping[str, Any]:
        since, until = month_of(due)
        await made.kpis.build(context, since, until)
        return await report("kpi-monthly", since, until)

    def job(name: str, schedule: timedelta | str, handler: Any, grace: timedelta) -> JobDefinition:
        return JobDefinition(f"slo:{name}@{zone}", schedule, handler, grace=grace)

    day = timedelta(days=1)
    if book.of(SLO):
        yield job("count", timedelta(minutes=1), count, timedelta(minutes=5))
        yield job("recount", "17 3 * * *", recount, day)
        yield job("report-weekly", "30 4 * * 1", weekly, 6 * day)
        yield job("report-30d", "40 4 1 * *", thirty_days, 20 * day)
    if book.of(CAPACITY):
        yield job("capacity", timedelta(hours=1), sample, timedelta(minutes=30))
        yield job("report-capacity", "50 4 * * 1", capacity, 6 * day)
    if book.of(KPI):
        yield job("kpi", "10 5 1 * *", figures, 20 * day)


def _midnight(at: datetime) -> datetime:
    return at.replace(hour=0, minute=0, second=0, microsecond=0)
