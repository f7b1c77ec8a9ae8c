"""Key figures: built of stored inputs, held against targets and the month before, and never made up."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from stage import Stage

from bailiwick.app.assurance.slo import KINDS, Services, kpi_routes, services, support_routes
from bailiwick.assurance.book import BadBook
from bailiwick.assurance.kpi import compute, month_of
from bailiwick.assurance.support import due
from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.metrics import Metrics
from bailiwick.kernel.verdicts import Verdict
from people_fixtures import House


async def nowhere(host: str, port: int) -> Sequence[str]:
    raise AssertionError("nothing is to be reached")


def kpi(name: str, inputs: str, *, formula: str = "ratio", target: str = "0.5", more: str = "",
        description: str = "A figure.") -> str:  # fmt: skip
    return f"""
apiVersion: bailiwick/v1
kind: Kpi
metadata: {{name: {name}}}
spec: {{description: "{description}", formula: {formula}, unit: "%", target: {target}, better: higher,
  owner: kpi-review, inputs: {inputs}{more}}}
---
"""


CONVERSION = kpi(
    "conversion",
    "{part: {csv: {file: c.csv, at: day, column: customers}}, total: {csv: {file: c.csv, at: day, column: visitors}}}",
)


@pytest.fixture
async def made(house: House, tmp_path: Path) -> tuple[Stage, Services, Path]:
    stage = Stage(house, KINDS)
    built = services(
        stage.database, stage.clock, stage.ids, stage.recorder, stage.books, nowhere, tmp_path, stage.heard,
        stage.heard, Metrics(CollectorRegistry()), own=None,
    )  # fmt: skip
    return stage, built, tmp_path


async def test_a_month_is_built_beside_the_one_before_and_comes_out_the_same(
    made: tuple[Stage, Services, Path],
) -> None:
    stage, built, files = made
    (files / "c.csv").write_text(
        "day,visitors,customers\n2025-11-30,100,20\n2025-12-01,10,6\n2025-12-31T23:59:59+00:00,10,8\n2026-01-01,9,9\n"
    )
    await stage.apply(CONVERSION)
    december = (datetime(2025, 12, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC))
    november = (datetime(2025, 11, 1, tzinfo=UTC), december[0])
    assert month_of(stage.clock.now()) == december
    for since, until in (november, december):
        await built.kpis.build(stage.context(), since, until)
    async with stage.database.begin() as tx:
        told = await built.kpis.review(tx, "default", *december)
    (figure,) = told["figures"]
    assert (figure["value"], figure["previous"], figure["verdict"]) == (0.7, 0.2, "PASS")
    assert compute(figure["formula"], figure["inputs"]) == figure["value"]
    (again,) = await built.kpis.build(stage.context(), *december)
    assert again.version == 1
    report = await built.register.produce(stage.context(), "kpi-monthly", *december, by="jane")
    stage.clock.advance(60)
    (files / "c.csv").write_text("day,visitors,customers\n2025-12-01,10,1\n")
    (changed,) = await built.kpis.build(stage.context(), *december)
    assert (changed.version, changed.value, changed.verdict) == (2, 0.1, Verdict.FAIL)
    async with stage.database.begin() as tx:
        assert await built.register.again(tx, "default", report) == report.sha256
    assert b"70" in built.register.write(report, "md")


@pytest.mark.parametrize(
    ("text", "verdict", "note"),
    [
        (None, "NO_DATA", "not in the directory"),
        ("day,visitors\n2025-12-01,1\n", "ERROR", "c.csv:2"),
        ("day,visitors,customers\n2025-12-01,many,1\n", "ERROR", "c.csv:2"),
        ("day,visitors,customers\n", "NO_DATA", ""),
        ("day,visitors,customers\n2025-12-01,0,0\n", "NO_DATA", ""),
    ],
)
async def test_a_figure_that_cannot_be_made_is_not_made_up(
    made: tuple[Stage, Services, Path], text: str | None, verdict: str, note: str
) -> None:
    stage, built, files = made
    if text is not None:
        (files / "c.csv").write_text(text)
    await stage.apply(CONVERSION)
    since, until = month_of(stage.clock.now())
    (found,) = await built.kpis.build(stage.context(), since, until)
    assert (found.value, found.verdict) == (None, verdict)
    assert note in found.note
    # a source that fails is told of; what was never set up, or had nothing to count, was never expected
    assert ("kpi/conversion/not-measured" in stage.heard.open_alerts) == (verdict == "ERROR")


async def test_a_figure_that_there_was_and_is_no_more_is_told_of(made: tuple[Stage, Services, Path]) -> None:
    stage, built, files = made
    (files / "c.csv").write_text("day,visitors,customers\n2025-11-30,100,20\n2025-12-31,10,8\n")
    await stage.apply(CONVERSION)
    december = month_of(stage.clock.now())
    await built.kpis.build(stage.context(), *month_of(december[0]))
    (files / "c.csv").unlink()
    (found,) = await built.kpis.build(stage.context(), *december)
    assert (found.verdict, stage.heard.open_alerts["kpi/conversion/not-measured"].rule) == ("NO_DATA", "KpiNotMeasured")
    (files / "c.csv").write_text("day,visitors,customers\n2025-12-31,10,8\n")
    await built.kpis.build(stage.context(), *december)
    assert "kpi/conversion/not-measured" not in stage.heard.open_alerts


async def test_a_month_that_is_not_over_is_refused_and_one_not_built_is_no_data(
    made: tuple[Stage, Services, Path],
) -> None:
    stage, built, _ = made
    await stage.apply(CONVERSION)
    now = stage.clock.now()
    with pytest.raises(BailiwickError) as refused:
        await built.kpis.build(stage.context(), now - timedelta(days=1), now + timedelta(days=1))
    assert refused.value.reason == "window_open"
    async with stage.database.begin() as tx:
        assert (await built.kpis.review(tx, "default", *month_of(now)))["verdict"] == "NO_DATA"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (kpi("a", "{value: {ledger: {codes: [BW1001]}}}", formula="value", description="TBD"), "placeholder"),
        (kpi("a", "{value: {ledger: {codes: [BW1001]}}}", formula="value", target="TBD"), "target"),
        (kpi("a", "{value: {ledger: {codes: [BW1001]}}}"), "needs part and total"),
        (kpi("a", "{value: {ledger: {}, sql: 'SELECT 1'}}", formula="value"), "exactly one"),
        (kpi("a", "{value: {csv: {file: ../x.csv, at: a, column: b}}}", formula="value"), "file"),
        (kpi("a", "{value: {sql: 'SELECT :since, :until', data_source: none}}", formula="value"), "no DataSource"),
    ],
)
async def test_a_figure_that_says_nothing_is_refused(made: tuple[Stage, Services, Path], text: str, told: str) -> None:
    with pytest.raises(BadBook) as refused:
        await made[0].apply(text)
    assert any(told in line for line in refused.value.problems), refused.value.problems


async def test_what_sql_may_not_do(made: tuple[Stage, Services, Path]) -> None:
    stage, built, _ = made
    cast = "CAST(:since AS timestamptz) < CAST(:until AS timestamptz)"
    await stage.apply(
        kpi("writes", f"{{value: {{sql: \"WITH x AS (DELETE FROM api_requests RETURNING 1) SELECT count(*) AS value FROM x WHERE {cast}\"}}}}", formula="value")
        + kpi("many", f"{{value: {{sql: \"SELECT 1 AS value FROM generate_series(1, 2) WHERE {cast}\"}}}}", formula="value")
        + kpi("good", f"{{value: {{sql: \"SELECT 42 AS value WHERE {cast}\"}}}}", formula="value")
    )  # fmt: skip
    found = {each.name: each for each in await built.kpis.build(stage.context(), *month_of(stage.clock.now()))}
    assert "read-only" in found["writes"].note
    assert "one row" in found["many"].note
    assert (found["good"].value, found["good"].verdict) == (42.0, Verdict.PASS)


async def test_the_shipped_figures_can_be_built(made: tuple[Stage, Services, Path]) -> None:
    import bailiwick.assurance

    stage, built, _ = made
    await stage.apply((Path(bailiwick.assurance.__path__[0]) / "shipped" / "kpi.yaml").read_text())
    found = {each.name: each for each in await built.kpis.build(stage.context(), *month_of(stage.clock.now()))}
    wrong = {name: each.note for name, each in found.items() if each.note and "directory of figures" not in each.note}
    assert set(wrong) <= {"mean-time-to-restore"}, wrong  # the alerts' own table
    assert {"conversion", "retention", "payout-sla"} <= found.keys()


# --- support


@pytest.mark.parametrize(
    ("kind", "opened", "wanted"),
    [
        ("critical-fix", "2026-01-10T23:00", "2026-01-11T23:00"),
        ("l3", "2026-01-05T09:00", "2026-01-05T09:30"),
        ("l3", "2026-01-05T16:45", "2026-01-06T09:15"),  # goes on the next morning
        ("l3", "2026-01-09T17:00", "2026-01-12T09:30"),  # Friday evening: Monday
        ("l3", "2026-01-10T12:00", "2026-01-12T09:30"),
        ("l3", "2026-01-05T03:00", "2026-01-05T09:30"),
    ],
)
def test_a_case_is_due_by_its_promise(kind: str, opened: str, wanted: str) -> None:
    at = datetime.fromisoformat(opened).replace(tzinfo=UTC)
    assert due(kind, at) == datetime.fromisoformat(wanted).replace(tzinfo=UTC)  # type: ignore[arg-type]


async def test_cases_are_opened_done_once_and_counted(made: tuple[Stage, Services, Path]) -> None:
    stage, built, _ = made
    stage.serve(
        support_routes(stage.database, built.support, stage.clock), kpi_routes(stage.database, built.kpis, stage.clock)
    )
    token = await stage.people.signed_in("jane")
    opened = await stage.call("POST", "/api/v1/support-cases", {"kind": "l3", "title": "slow"}, token=token)
    assert opened.status == 201, opened.body
    path = f"/api/v1/support-cases/{opened.json()['id']}/done"
    stage.clock.advance(3600)
    done = await stage.call("POST", path, token=token)
    assert done.json()["late"] is True
    assert (await stage.call("POST", path, token=token)).status == 409
    events = [event for event in await stage.people.events() if event.code == "BW7706"]
    assert events[0].details == {"kind": "l3", "in_time": False}
    assert (await stage.call("GET", "/api/v1/support-cases", token=token)).json()["items"][0]["late"] is True
    assert (await stage.call("GET", "/api/v1/kpis", token=token)).status == 200
    assert (await stage.call("POST", "/api/v1/kpis/build", {}, token=token)).status == 200
