"""Capacity: what each resource uses by the clock, how that grows, and in how many days it meets its limit."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

from pydantic import Field, model_validator

from bailiwick.assurance.book import Book, Kind, canonical
from bailiwick.assurance.books import Books
from bailiwick.assurance.figures import NoFigure
from bailiwick.assurance.inputs import Inputs, Source
from bailiwick.assurance.ports import Alerts, Raised
from bailiwick.assurance.report.model import Block, Chart, Heading, Report, Table, number
from bailiwick.assurance.reports import ReportKind
from bailiwick.assurance.slo.openslo import DATA_SOURCE, DataSourceSpec
from bailiwick.assurance.trends import backtest, days_to, theil_sen
from bailiwick.evidence.events import Actor, Context
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import NotFound
from bailiwick.kernel.fields import Body, Line, Text
from bailiwick.kernel.metrics import Metrics
from bailiwick.kernel.severity import Severity
from bailiwick.kernel.verdicts import Verdict, worst

DAY, WEEK = timedelta(days=1), timedelta(days=7)
LOOK_BACK = 12 * WEEK
LEAST_WEEKS = 4
STALE_AFTER = timedelta(hours=3)


class CapacitySpec(Body):
    """A resource: where its use is read, how much there may be of it, and how early somebody wants to know."""

    description: Text = ""
    unit: Line = ""
    use: Source
    limit: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    limit_from: Source | None = None
    warn_days: Annotated[int, Field(ge=1, le=1000)] = 30
    owner: Line = "capacity-planning"
    runbook: Line = "docs/how-to/service-levels.md"

    @model_validator(mode="after")
    def _one(self) -> CapacitySpec:
        if (self.limit is None) == (self.limit_from is None):
            raise ValueError("a resource has either limit or limit_from")
        return self

    @property
    def definition(self) -> str:
        """The digest of what is read."""
        return hashlib.sha256(canonical(self.use.model_dump(mode="json"))).hexdigest()


def _check(book: Book) -> Iterator[str]:
    sources = book.of(DATA_SOURCE)
    for name, spec in book.of(CAPACITY).items():
        for source in (spec.use, spec.limit_from):
            if source is not None and source.data_source is not None and source.data_source not in sources:
                yield f"Capacity {name}: there is no DataSource {source.data_source!r}"


CAPACITY = Kind("Capacity", CapacitySpec, check=_check)


@dataclass(frozen=True, slots=True)
class Point:
    """What was used at an instant, and how much there was."""

    at: datetime
    value: float
    capacity: float | None


@dataclass(frozen=True, slots=True)
class Forecast:
    """What the points of a resource amount to. Days are from the newest point; ``soonest`` and ``latest`` bound them
    with 95 % confidence (None: never). ``note``: why its use could not be read."""

    verdict: Verdict
    reason: str
    value: float | None
    limit: float | None
    slope: float | None
    days: float | None
    soonest: float | None
    latest: float | None
    error: float | None
    weeks: int
    note: str = ""

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            name: round(value, 6) if isinstance(value := getattr(self, name), float) else value
            for name in self.__slots__
        }


def forecast(points: Sequence[Point], now: datetime, warn_days: int, broken: str = "") -> Forecast:
    """When the resource is used up, of points in the order of time. The highest value of each day counts. ``broken``:
    why it could not be read when it was read last; what it was before does not make that green."""
    weeks = len({(now - point.at) // WEEK for point in points})
    last = points[-1] if points else None
    limit = last.capacity if last is not None else None

    def told(verdict: Verdict, reason: str, **more: Any) -> Forecast:
        blank = dict.fromkeys(("slope", "days", "soonest", "latest", "error"))
        value = last.value if last is not None else None
        return Forecast(verdict, reason, value=value, limit=limit, weeks=weeks, note=broken, **(blank | more))

    if broken:
        return told(Verdict.ERROR, "not_read")
    if last is None:
        return told(Verdict.NO_DATA, "absent")
    if now - last.at > STALE_AFTER:
        return told(Verdict.STALE, "stale")
    if limit is not None and last.value >= limit:
        return told(Verdict.FAIL, "used_up", days=0.0, soonest=0.0, latest=0.0)
    if weeks < LEAST_WEEKS:
        return told(Verdict.NO_DATA, "too_few_points")
    highest: dict[int, Point] = {}
    for point in points:
        day = (now - point.at) // DAY
        if day not in highest or point.value > highest[day].value:
            highest[day] = point
    daily = [((each.at - last.at) / DAY, each.value) for each in sorted(highest.values(), key=lambda each: each.at)]
    trend = theil_sen(daily)
    found: dict[str, Any] = {"slope": trend.slope, "error": backtest(daily)}
    if limit is None:
        return told(Verdict.NO_DATA, "no_limit", **found)
    level = max(trend.at(0.0), 0.0)
    days = days_to(limit, level, trend.slope)
    found |= {"days": days, "soonest": days_to(limit, level, trend.high), "latest": days_to(limit, level, trend.low)}
    if days is not None and days < warn_days:
        return told(Verdict.FAIL, "limit_near", **found)
    return told(Verdict.PASS, "room_enough", **found)


class Capacities:
    """Keeps the points of all zones, and says where they lead."""

    def __init__(
        self, database: Database, clock: Clock, books: Books, inputs: Inputs, alerts: Alerts, metrics: Metrics
    ) -> None:
        self._database = database
        self._clock = clock
        self._books = books
        self._inputs = inputs
        self._alerts = alerts
        self._metrics = metrics

    async def sample(self, zone: str) -> dict[str, Any]:
        """Read every resource once, and raise or clear its alerts: the job of every hour."""
        now = self._clock.now()
        async with self._database.begin() as tx:
            book = await self._books.current(tx, zone)
        data, failed, near = book.of(DATA_SOURCE), {}, []
        for name, spec in book.of(CAPACITY).items():
            point, broken = None, ""
            try:
                point = await self._read(zone, spec, data, now)
            except NoFigure as error:
                failed[name] = broken = str(error)[:500]
            async with self._database.begin() as tx:
                await self._keep(tx, zone, name, spec, now, point, broken)
                if await self._alert(tx, zone, name, spec):
                    near.append(name)
        return {"resources": len(book.of(CAPACITY)), "failed": failed, "near": near}

    async def _read(self, zone: str, spec: CapacitySpec, data: Mapping[str, DataSourceSpec], now: datetime) -> Point:
        """What is used now, and the limit. Raises NoFigure."""
        since, limit = now - timedelta(hours=1), spec.limit
        value = await self._inputs.read(zone, spec.use, data, since, now)
        if spec.limit_from is not None:
            limit = await self._inputs.read(zone, spec.limit_from, data, since, now)
            if limit is None:
                raise NoFigure("the source of the limit answered no number")
        if value is None or not math.isfinite(value):
            raise NoFigure("the source answered no number")
        return Point(now, value, limit if limit else None)

    async def put(self, tx: Transaction, zone: str, name: str, spec: CapacitySpec, point: Point) -> None:
        """Keep a point."""
        await self._keep(tx, zone, name, spec, point.at, point, "")

    async def _keep(
        self, tx: Transaction, zone: str, name: str, spec: CapacitySpec, at: datetime, point: Point | None, error: str
    ) -> None:
        await tx.run(
            "INSERT INTO capacity_points (zone, resource, definition, at, value, capacity, error)"
            " VALUES (:zone, :name, :definition, :at, :value, :capacity, :error) ON CONFLICT DO NOTHING",
            zone=zone,
            name=name,
            definition=spec.definition,
            at=at,
            value=point.value if point else None,
            capacity=point.capacity if point else None,
            error=error,
        )

    async def points(
        self, tx: Transaction, zone: str, name: str, spec: CapacitySpec, until: datetime, since: datetime | None = None
    ) -> list[Point]:
        """The points up to an instant, oldest first, of the last twelve weeks."""
        rows = await tx.all(
            "SELECT at, value, capacity FROM capacity_points WHERE zone = :zone AND resource = :name"
            " AND definition = :definition AND at >= :since AND at <= :until AND value IS NOT NULL ORDER BY at",
            zone=zone,
            name=name,
            definition=spec.definition,
            since=since or until - LOOK_BACK,
            until=until,
        )
        return [Point(row["at"], row["value"], row["capacity"]) for row in rows]

    async def state(
        self, tx: Transaction, zone: str, name: str, spec: CapacitySpec, at: datetime
    ) -> tuple[Forecast, list[Point]]:
        """Where a resource stood at an instant, and its points up to then."""
        points = await self.points(tx, zone, name, spec, at)
        broken = await tx.value(
            "SELECT error FROM capacity_points WHERE zone = :zone AND resource = :name AND definition = :definition"
            " AND at <= :at ORDER BY at DESC LIMIT 1",
            zone=zone,
            name=name,
            definition=spec.definition,
            at=at,
        )
        return forecast(points, at, spec.warn_days, broken or ""), points

    async def all(self, tx: Transaction, zone: str) -> list[tuple[str, CapacitySpec, Forecast]]:
        """Every resource with its forecast."""
        now, book = self._clock.now(), await self._books.current(tx, zone)
        return [
            (name, spec, (await self.state(tx, zone, name, spec, now))[0]) for name, spec in book.of(CAPACITY).items()
        ]

    async def one(self, tx: Transaction, zone: str, name: str) -> tuple[CapacitySpec, Forecast, list[Point]]:
        """One resource with its points; raises :class:`NotFound`."""
        now, spec = self._clock.now(), (await self._books.current(tx, zone)).of(CAPACITY).get(name)
        if spec is None:
            raise NotFound("There is no resource by that name.")
        found, points = await self.state(tx, zone, name, spec, now)
        return spec, found, points

    def kinds(self) -> list[ReportKind]:
        """The weekly report."""
        return [ReportKind("capacity-weekly", self._build, show)]

    async def _build(
        self, tx: Transaction, zone: str, since: datetime, until: datetime, cutoff: int | None, revision: int | None
    ) -> dict[str, Any]:
        book = await (self._books.current(tx, zone) if revision is None else self._books.at(tx, zone, revision))
        found = []
        for name, spec in book.of(CAPACITY).items():
            stood, points = await self.state(tx, zone, name, spec, until)
            found.append(
                {
                    "name": name,
                    "description": spec.description,
                    "unit": spec.unit,
                    "owner": spec.owner,
                    "points": len(points),
                    **stood.document(),
                    "series": [[point.at.isoformat(), point.value] for point in points[:: max(1, len(points) // 120)]],
                }
            )
        return {
            "zone": zone,
            "since": since.isoformat(),
            "until": until.isoformat(),
            "cutoff": 0,
            "revision": book.revision,
            "verdict": str(worst(Verdict(each["verdict"]) for each in found)),
            "resources": found,
        }

    async def _alert(self, tx: Transaction, zone: str, name: str, spec: CapacitySpec) -> bool:
        now, context = self._clock.now(), Context(zone, Actor(application="bailiwick"))
        found, _ = await self.state(tx, zone, name, spec, now)
        await self._alert_blind(tx, context, name, spec, found)
        days = math.inf if found.verdict.green and found.days is None else found.days
        if days is not None:
            self._metrics.capacity_days.labels(zone, name).set(days)
        key = f"capacity/{name}"
        if found.verdict is Verdict.FAIL:
            severity = Severity.P1 if found.days is not None and found.days < spec.warn_days / 4 else Severity.P2
            told = f"{name} meets its limit in {found.days:.0f} days, at {found.value:g} of {found.limit:g} now"
            raised = Raised(key, "CapacityLimitNear", severity, told, spec.owner, spec.runbook, {"component": name},
                            {"description": spec.description or told})  # fmt: skip
            await self._alerts.fire(tx, context, raised)
            return True
        if found.verdict is Verdict.PASS:
            await self._alerts.clear(tx, context, key)
        return False

    async def _alert_blind(
        self, tx: Transaction, context: Context, name: str, spec: CapacitySpec, found: Forecast
    ) -> None:
        """An alert while the use of a resource cannot be read."""
        key = f"capacity/{name}/not-measured"
        if found.verdict is not Verdict.ERROR:
            await self._alerts.clear(tx, context, key)
            return
        told = f"the use of {name} cannot be read: {found.note}"[:200]
        raised = Raised(key, "CapacityNotMeasured", Severity.P2, told, spec.owner, spec.runbook, {"component": name},
                        {"description": spec.description or told})  # fmt: skip
        await self._alerts.fire(tx, context, raised)


def show(data: Mapping[str, Any]) -> Report:
    """The report for people."""
    rows = [
        (
            each["name"],
            Verdict(each["verdict"]),
            number(each["value"], each["unit"]),
            number(each["limit"], each["unit"]),
            number(each["slope"], each["unit"], 3),
            told_days(each),
            number(each["error"], "%", 3),
        )
        for each in data["resources"]
    ]
    columns = ("resource", "verdict", "used", "limit", "a day", "days to limit", "forecast error")
    blocks: list[Block] = [Heading("Resources"), Table(columns, rows, (2, 3, 4, 5, 6))]
    for each in data["resources"]:
        points = [(datetime.fromisoformat(at), value) for at, value in each["series"]]
        title = each["description"] or each["name"]
        blocks += [Heading(each["name"]), Chart(title, points, each["unit"], each["limit"], "limit")]
    return Report("Capacity", [("Zone", data["zone"])], Verdict(data["verdict"]), blocks)


def told_days(found: Mapping[str, Any]) -> str:
    """Days to the limit with their bounds, for people."""
    if found["slope"] is None and found["days"] is None:
        return "–"
    if found["days"] is None:
        return "never"
    latest = "never" if found["latest"] is None else f"{found['latest']:.0f}"
    soonest = "–" if found["soonest"] is None else f"{found['soonest']:.0f}"
    return f"{found['days']:.0f} ({soonest} to {latest})"
