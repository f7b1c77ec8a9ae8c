"""Capacities: trends that outliers do not move, days to a limit, and what is not known."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from stage import Stage

from bailiwick.app.assurance.slo import KINDS, Services, capacity_routes, services
from bailiwick.assurance.capacity import CAPACITY, Forecast, Point, forecast
from bailiwick.assurance.figures import OwnMetrics
from bailiwick.assurance.trends import backtest, days_to, theil_sen
from bailiwick.kernel.metrics import Metrics
from bailiwick.kernel.verdicts import Verdict
from people_fixtures import House

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


def growing(slope: float, at_now: float, *, days: int = 56, noise: float = 0.0, limit: float | None = 1000.0,
            every: timedelta = 6 * HOUR) -> list[Point]:  # fmt: skip
    """Points up to now that grow by ``slope`` a day."""
    chance, count = random.Random(3), int(timedelta(days=days) / every)
    return [
        Point(NOW - n * every, at_now - slope * (n * every / timedelta(days=1)) + chance.gauss(0, noise), limit)
        for n in range(count, -1, -1)
    ]


@pytest.mark.parametrize(("slope", "level"), [(2.0, 500.0), (0.5, 990.0), (10.0, 700.0), (7.3, 123.0)])
def test_a_line_meets_its_limit_when_it_does(slope: float, level: float) -> None:
    found = forecast(growing(slope, level), NOW, 30)
    wanted = (1000 - level) / slope
    assert found.days == pytest.approx(wanted, rel=0.05)
    assert found.verdict is (Verdict.FAIL if wanted < 30 else Verdict.PASS)
    assert found.error == pytest.approx(0, abs=0.01)


def test_noise_and_outliers_do_not_move_it_and_widen_its_bounds() -> None:
    points = growing(4.0, 600.0, noise=15.0)
    for place in (20, 77, 140):
        points[place] = Point(points[place].at, 950.0, 1000.0)  # load tests
    found = forecast(points, NOW, 30)
    assert found.days is not None and found.soonest is not None and found.latest is not None
    assert found.days == pytest.approx(100, rel=0.15)
    assert found.soonest < found.days < found.latest
    assert found.error is not None and 0 < found.error < 0.1


def test_what_does_not_grow_never_meets_its_limit() -> None:
    found = forecast(growing(-1.0, 500.0), NOW, 30)
    assert (found.verdict, found.days, found.latest) == (Verdict.PASS, None, None)


@pytest.mark.parametrize(
    ("points", "told"),
    [
        ([], (Verdict.NO_DATA, "absent")),
        (growing(2.0, 500.0, days=20), (Verdict.NO_DATA, "too_few_points")),
        (growing(2.0, 500.0, days=22), (Verdict.PASS, "room_enough")),
        (growing(2.0, 500.0)[:-1], (Verdict.STALE, "stale")),
        (growing(2.0, 500.0, limit=None), (Verdict.NO_DATA, "no_limit")),
        (growing(2.0, 1000.0), (Verdict.FAIL, "used_up")),
        (growing(2.0, 1000.0, days=1), (Verdict.FAIL, "used_up")),
    ],
)
def test_what_is_not_known_is_not_green(points: list[Point], told: tuple[Verdict, str]) -> None:
    found = forecast(points, NOW, 30)
    assert (found.verdict, found.reason) == told


@given(
    st.lists(st.tuples(st.integers(-100, 100), st.floats(-1e6, 1e6)), min_size=2, max_size=40).filter(
        lambda points: len({time for time, _ in points}) > 1
    )
)
def test_a_slope_lies_between_its_bounds(points: list[tuple[float, float]]) -> None:
    trend = theil_sen(points)
    assert trend.low <= trend.slope <= trend.high


def test_days_to_a_limit() -> None:
    assert days_to(10, 4, 2) == 3
    assert days_to(10, 10, 2) == 0
    assert days_to(10, 4, 0) is None
    assert backtest([(0, 1), (1, 2), (2, 3)]) is None
    with pytest.raises(ValueError, match="two different times"):
        theil_sen([(1, 1), (1, 2)])


# --- over a database


async def nowhere(host: str, port: int) -> Sequence[str]:
    raise AssertionError("nothing is to be reached")


RESOURCE = """
apiVersion: bailiwick/v1
kind: Capacity
metadata: {name: connections}
spec:
  use: {metric: {metric: bailiwick_database_connections}}
  limit_from: {metric: {metric: bailiwick_database_connections_max}}
"""


@pytest.fixture
async def made(house: House, tmp_path: Path) -> tuple[Stage, Services, Metrics]:
    stage, metrics = Stage(house, KINDS), Metrics(CollectorRegistry())
    own = OwnMetrics(metrics.collect_text)
    built = services(
        stage.database, stage.clock, stage.ids, stage.recorder, stage.books, nowhere, tmp_path, stage.heard,
        stage.heard, metrics, own=own,
    )  # fmt: skip
    await stage.apply(RESOURCE)
    return stage, built, metrics


async def test_points_are_kept_by_the_clock_and_a_limit_that_comes_near_is_told(
    made: tuple[Stage, Services, Metrics],
) -> None:
    stage, built, metrics = made
    metrics.database_connections_max.set(100)
    for day in range(55):
        metrics.database_connections.set(20 + day)
        stage.clock.advance(86_400)
        assert (await built.capacities.sample("default"))["failed"] == {}
    raised = stage.heard.open_alerts["capacity/connections"]
    assert (raised.rule, raised.severity, raised.owner) == ("CapacityLimitNear", "P2", "capacity-planning")
    async with stage.database.begin() as tx:
        found: Forecast = (await built.capacities.all(tx, "default"))[0][2]
    assert (found.verdict, found.days) == (Verdict.FAIL, pytest.approx(26, rel=0.05))
    metrics.database_connections_max.set(10_000)
    stage.clock.advance(3600)
    await built.capacities.sample("default")
    assert "capacity/connections" in stage.heard.cleared
    assert b'bailiwick_capacity_days_to_limit{resource="connections",zone="default"}' in metrics.collect_text()


async def test_a_resource_that_cannot_be_read_is_an_error_and_somebody_is_told(
    made: tuple[Stage, Services, Metrics],
) -> None:
    stage, built, metrics = made
    metrics.database_connections_max.set(100)
    metrics.database_connections.set(20)
    broken = RESOURCE.replace("connections}", "broken}", 1).replace(
        "use: {metric: {metric: bailiwick_database_connections}}",
        "use: {sql: 'SELECT 1/0 AS value WHERE :since < :until'}",
    )
    await stage.apply(RESOURCE + "---" + broken)
    for _ in range(24 * 25):  # of what is read all the time somebody sees that it stops
        stage.clock.advance(3600)
        async with stage.database.begin() as tx:
            spec = (await stage.books.current(tx, "default")).of(CAPACITY)["connections"]
            await built.capacities.put(tx, "default", "connections", spec, Point(stage.clock.now(), 20.0, 100.0))
    told = await built.capacities.sample("default")
    assert list(told["failed"]) == ["broken"] and "division by zero" in told["failed"]["broken"]
    raised = stage.heard.open_alerts["capacity/broken/not-measured"]
    assert (raised.rule, raised.severity, raised.owner) == ("CapacityNotMeasured", "P2", "capacity-planning")
    assert "division by zero" in raised.summary

    async def verdicts() -> dict[str, tuple[str, str]]:
        async with stage.database.begin() as tx:
            found = await built.capacities.all(tx, "default")
        return {name: (state.verdict, state.reason) for name, _, state in found}

    assert await verdicts() == {"broken": ("ERROR", "not_read"), "connections": ("PASS", "room_enough")}
    # a series that goes away is no zero, and what it was an hour ago is not green now
    metrics.database_connections.set(float("nan"))
    stage.clock.advance(3600)
    await built.capacities.sample("default")
    assert (await verdicts())["connections"] == ("ERROR", "not_read")
    assert "capacity/connections/not-measured" in stage.heard.open_alerts
    until = stage.clock.now()
    report = await built.register.produce(
        stage.context(), "capacity-weekly", until - timedelta(days=7), until, by="jane"
    )
    assert report.verdict is Verdict.ERROR
    metrics.database_connections.set(20)
    stage.clock.advance(3600)
    await built.capacities.sample("default")
    assert "capacity/connections/not-measured" not in stage.heard.open_alerts
    assert (await verdicts())["connections"][0] == "PASS"
    async with stage.database.begin() as tx:
        assert await built.register.again(tx, "default", report) == report.sha256


async def test_a_report_of_a_week_comes_out_the_same_again(made: tuple[Stage, Services, Metrics]) -> None:
    stage, built, _ = made
    until = stage.clock.now()
    async with stage.database.begin() as tx:
        spec = (await stage.books.current(tx, "default")).of(CAPACITY)["connections"]
        for n in range(60):
            point = Point(until - timedelta(hours=12 * n), 50.0 - n / 4, 100.0)
            await built.capacities.put(tx, "default", "connections", spec, point)
    report = await built.register.produce(
        stage.context(), "capacity-weekly", until - timedelta(days=7), until, by="jane"
    )
    assert report.verdict is Verdict.PASS
    assert report.data["resources"][0]["days"] == pytest.approx(100, rel=0.05)
    stage.clock.advance(86_400)
    async with stage.database.begin() as tx:
        await built.capacities.put(tx, "default", "connections", spec, Point(stage.clock.now(), 99.0, 100.0))
        assert await built.register.again(tx, "default", report) == report.sha256
    for form in ("md", "html", "pdf"):
        assert built.register.write(report, form)


async def test_the_routes(made: tuple[Stage, Services, Metrics]) -> None:
    stage, built, _ = made
    stage.serve(capacity_routes(stage.database, built.capacities))
    token = await stage.people.signed_in("jane")
    answer = await stage.call("GET", "/api/v1/capacity", token=token)
    assert answer.json()["items"][0]["verdict"] == "NO_DATA", answer.body
    assert (await stage.call("GET", "/api/v1/capacity/connections", token=token)).status == 200
    assert (await stage.call("GET", "/api/v1/capacity/none", token=token)).status == 404
