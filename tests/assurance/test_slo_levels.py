"""Service levels over a real database: counted to the unit, alerted at the minute, gated, reported and signed."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from stage import Stage

from bailiwick.app.assurance.slo import KINDS, Services, level_routes, report_routes, scheduled, services
from bailiwick.assurance.book import BadBook
from bailiwick.assurance.figures import OwnMetrics
from bailiwick.assurance.slo import buckets
from bailiwick.assurance.slo.levels import judge, levels_of
from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.metrics import Metrics
from bailiwick.kernel.verdicts import Verdict
from people_fixtures import House

MINUTE = timedelta(minutes=1)


def slo(name: str = "errors", *, good: str = "{status_below: 500}", ours: str = "", target: str = "0.999",
        window: str = "duration: 28d, isRolling: true", more: str = "", method: str = "Occurrences",
        kind: str = "bailiwick/requests", total: str = "{}") -> str:  # fmt: skip
    return f"""
apiVersion: openslo/v1
kind: SLO
metadata: {{name: {name}}}
spec:
  service: api
  indicator:
    metadata: {{name: {name}}}
    spec:
      ratioMetric:
        counter: true
        good: {{metricSource: {{type: {kind}, spec: {good}}}}}
        total: {{metricSource: {{type: {kind}, spec: {total}}}}}
  timeWindow: [{{{window}}}]
  budgetingMethod: {method}
  objectives: [{{target: {target}{more}}}]
  bailiwick: {{settle: 1m{ours}}}
---
"""


@dataclass
class Plant:
    """A stage with the part on it, and requests that happen."""

    stage: Stage
    made: Services
    metrics: Metrics

    async def requests(self, at: datetime, good: int, bad: int = 0) -> None:
        """So many requests in the minute of ``at``."""
        async with self.stage.database.begin() as tx:
            await tx.run(
                "INSERT INTO api_requests (at, zone, request_id, method, route, status, duration_us)"
                " SELECT :at, 'default', 'r', 'GET', '/health', CASE WHEN n <= :good THEN 200 ELSE 500 END, 1000"
                " FROM generate_series(1, :all) n",
                at=at,
                good=good,
                all=good + bad,
            )

    async def minutes(self, count: int, good: int, bad: int = 0) -> list[str]:
        """Let ``count`` minutes pass with such requests in each, counting after each; what fires at last."""
        firing: list[str] = []
        for _ in range(count):
            await self.requests(self.stage.clock.now() + timedelta(seconds=20), good, bad)
            self.stage.clock.advance(60)
            firing = (await self.made.levels.run("default"))["firing"]
        return firing

    async def fill(self, name: str, minutes: int, good: int, total: int) -> None:
        """As if it had been measured so for the last ``minutes``."""
        async with self.stage.database.begin() as tx:
            (level,) = [each for each in levels_of(await self.stage.books.current(tx, "default")) if each.name == name]
            end = self.stage.clock.now().replace(second=0, microsecond=0)
            counts = {end - n * MINUTE: (good, total) for n in range(1, minutes + 1)}
            await buckets.enter(tx, "default", name, level.definition, counts, self.stage.clock.now())

    async def state(self, name: str = "errors") -> Any:
        async with self.stage.database.begin() as tx:
            return (await self.made.levels.one(tx, "default", name))[1]


async def nowhere(host: str, port: int) -> Sequence[str]:
    raise AssertionError("nothing is to be reached")


@pytest.fixture
async def plant(house: House, tmp_path: Path) -> Plant:
    stage = Stage(house, KINDS)
    metrics = Metrics(CollectorRegistry())
    made = services(
        stage.database, stage.clock, stage.ids, stage.recorder, stage.books, nowhere, tmp_path, stage.heard,
        stage.heard, metrics, own=OwnMetrics(metrics.collect_text),
    )  # fmt: skip
    async with stage.database.begin() as tx:
        await tx.run("DELETE FROM api_requests")
    return Plant(stage, made, metrics)


# --- counting


async def test_what_is_counted_equals_a_recount_of_the_raw_rows_to_the_unit(plant: Plant) -> None:
    await plant.stage.apply(slo())
    await plant.made.levels.run("default")
    begun, chance = plant.stage.clock.now(), random.Random(7)
    for _ in range(40):
        await plant.minutes(1, chance.randrange(50), chance.randrange(5))
    await plant.minutes(1, 0)
    state = await plant.state()
    async with plant.stage.database.begin() as tx:
        raw = await tx.one(
            "SELECT count(*) AS total, count(*) FILTER (WHERE status < 500) AS good FROM api_requests"
            " WHERE at >= :since AND at < :until",
            since=begun - 2 * MINUTE,
            until=state.at,
        )
    assert raw is not None and raw["total"] > 500
    assert (state.tally.good, state.tally.total) == (raw["good"], raw["total"])


async def test_late_events_are_taken_up_and_a_recount_changes_nothing(plant: Plant) -> None:
    await plant.stage.apply(slo())
    await plant.minutes(30, 10)
    before = await plant.state()
    await plant.requests(plant.stage.clock.now() - 20 * MINUTE, 0, 3)  # later than every count looks back
    context = plant.stage.context()
    assert await plant.made.levels.recount(context) == {"errors": 1}
    after = await plant.state()
    assert (after.tally.good, after.tally.total) == (before.tally.good, before.tally.total + 3)
    assert await plant.made.levels.recount(context) == {"errors": 0}
    # what was known before can still be summed
    async with plant.stage.database.begin() as tx:
        (level,) = levels_of(await plant.stage.books.current(tx, "default"))
        newest = await buckets.cutoff(tx, "default")
        old = await judge(tx, "default", level, plant.stage.clock.now(), upto=newest - 1)
    assert old.tally.total == before.tally.total
    with pytest.raises(Exception, match="permission denied"):
        async with plant.stage.database.begin() as tx:
            await tx.run("UPDATE sli_buckets SET good = total")


async def test_minutes_of_a_down_time_are_counted_afterwards(plant: Plant) -> None:
    await plant.stage.apply(slo())
    await plant.minutes(3, 10)
    for _ in range(400):
        plant.stage.clock.advance(60)
        if _ == 200:
            await plant.requests(plant.stage.clock.now(), 7)
    await plant.made.levels.run("default")
    state = await plant.state()
    assert state.tally.minutes >= 400
    assert state.tally.total == 3 * 10 + 7


async def test_own_metrics_are_counted_by_differences_and_a_gap_is_no_zero(plant: Plant) -> None:
    checks = "{metric: bailiwick_gateway_checks_total}"
    good = '{metric: bailiwick_gateway_checks_total, labels: {outcome: allow, reason: ""}}'
    await plant.stage.apply(slo(kind="bailiwick/metric", good=good, total=checks))
    for number in range(6):
        for _ in range(10):
            plant.metrics.gateway_checks.inc("allow", "")
        plant.metrics.gateway_checks.inc("deny", "policy_denied")
        await plant.made.levels.run("default")
        plant.stage.clock.advance(180 if number == 3 else 60)
    state = await plant.state()
    # six snapshots, of which two stand three minutes apart: four differences
    assert (state.tally.minutes, state.tally.good, state.tally.total) == (4, 40, 44)


async def test_slices_of_time_are_good_or_not_as_a_whole(plant: Plant) -> None:
    sliced = ", timeSliceTarget: 0.9, timeSliceWindow: 5m"
    await plant.stage.apply(slo(method="Timeslices", more=sliced, target="0.5"))
    await plant.minutes(1, 10)
    while plant.stage.clock.now().minute % 5:
        await plant.minutes(1, 0)
    await plant.minutes(5, 9, 1)
    await plant.minutes(5, 8, 2)
    await plant.minutes(6, 0)
    state = await plant.state()
    assert (state.tally.good, state.tally.total) == (2, 3)


async def test_a_service_level_from_events_of_the_ledger(plant: Plant) -> None:
    await plant.stage.apply(slo(kind="bailiwick/ledger", good="{codes: [BW1001]}", total="{codes: [BW1001, BW1002]}"))
    await plant.made.levels.run("default")
    at = plant.stage.clock.now()
    async with plant.stage.people.owner.begin() as tx:
        for number, code in enumerate(["BW1001"] * 5 + ["BW1002"] + ["BW1003"] * 4):
            await tx.run(
                "INSERT INTO ledger.events (zone, seq, id, at, recorded_at, code, outcome, rest)"
                " VALUES ('default', :seq, gen_random_uuid(), :at, :at, :code, 'success', '\\x00')",
                seq=10**6 + number,
                at=at + timedelta(seconds=number),
                code=code,
            )
    await plant.minutes(3, 0)
    state = await plant.state()
    assert (state.tally.good, state.tally.total) == (5, 6)


# --- judging and alerting


async def test_an_outage_pages_at_the_minute_it_should(plant: Plant) -> None:
    """One in ten fails: 14.4 times the budget of an hour (8.64 minutes of it) is burnt with the ninth bad minute."""
    await plant.stage.apply(slo(ours=", leastBurnEvents: 100"))
    await plant.fill("errors", 3 * 1440, 100, 100)
    for ago in range(1, 30):  # what is counted again later is there too
        await plant.requests(plant.stage.clock.now() - ago * MINUTE, 100)
    await plant.made.levels.run("default")
    assert await plant.minutes(3, 100) == []
    keys: list[list[str]] = []
    for _ in range(12):
        keys.append(await plant.minutes(1, 90, 10))
    paged = [number for number, firing in enumerate(keys, 1) if "slo/errors/burn/1h" in firing]
    assert paged == [10, 11, 12], keys  # the ninth bad minute, counted one minute after it ended
    raised = plant.stage.heard.open_alerts["slo/errors/burn/1h"]
    assert (raised.severity, raised.rule, raised.labels["service"]) == ("P1", "SloBurn", "api")
    for _ in range(7):
        keys.append(await plant.minutes(1, 100))
    assert "slo/errors/burn/1h" not in keys[-1], "the short window is clean"
    assert "slo/errors/burn/1h" in plant.stage.heard.cleared


async def test_few_events_do_not_page(plant: Plant) -> None:
    await plant.stage.apply(slo(ours=", leastBurnEvents: 100"))
    await plant.made.levels.run("default")
    assert await plant.minutes(20, 0, 4) == []
    assert "slo/errors/burn/1h" in await plant.minutes(10, 0, 4)


async def test_without_data_the_budget_stands_still_and_somebody_is_told(plant: Plant) -> None:
    await plant.stage.apply(slo())
    await plant.fill("errors", 28 * 1440, 1000, 1000)
    kept = await plant.state()
    assert (kept.verdict, kept.left) == (Verdict.PASS, 1.0)
    plant.stage.clock.advance(86_400)
    frozen = await plant.state()
    assert (frozen.verdict, frozen.left, frozen.at) == (Verdict.STALE, 1.0, kept.at)
    async with plant.stage.database.begin() as tx:
        book = await plant.stage.books.current(tx, "default")
    assert await plant.made.levels.alert("default", book) == ["slo/errors/not-measured"]
    assert plant.stage.heard.cleared == []


async def test_more_good_than_there_was_is_an_error(plant: Plant) -> None:
    await plant.stage.apply(slo(good="{}", total="{status_below: 500}"))
    await plant.made.levels.run("default")
    await plant.minutes(4, 10, 1)
    state = await plant.state()
    assert (state.verdict, state.reason) == (Verdict.ERROR, "impossible")
    assert "slo/errors/not-measured" in plant.stage.heard.open_alerts


async def test_a_source_that_fails_does_not_stop_the_others(plant: Plant) -> None:
    bad = slo("broken", kind="SQL", good="{query: 'SELECT 1/0 AS x WHERE :since < :until'}",
              total="{query: 'SELECT 1/0 AS x WHERE :since < :until'}")  # fmt: skip
    await plant.stage.apply(bad + slo())
    await plant.made.levels.run("default")
    await plant.minutes(4, 10)
    assert (await plant.state()).tally.total > 0
    async with plant.stage.database.begin() as tx:
        assert "division by zero" in (await plant.made.levels.troubles(tx, "default"))["broken"]
    assert (await plant.state("broken")).reason == "absent"
    await plant.minutes(15, 10)
    assert "slo/broken/not-measured" in plant.stage.heard.open_alerts


# --- the gate


async def ask(plant: Plant, change_class: str = "normal", service: str = "api", action: str = "deploy") -> Any:
    async with plant.stage.database.begin() as tx:
        return await plant.made.levels.gate(tx, plant.stage.context(), action, service, change_class)


async def test_an_exhausted_budget_stops_what_it_gates(plant: Plant) -> None:
    await plant.stage.apply(slo())
    await plant.fill("errors", 28 * 1440, 1000, 1000)
    assert ((await ask(plant)).verdict, (await ask(plant)).passes) == (Verdict.PASS, True)
    await plant.stage.apply(slo(good="{status_below: 400}"))  # another definition: nothing of it was measured
    assert (await ask(plant)).verdict is Verdict.NO_DATA
    await plant.fill("errors", 28 * 1440, 998, 1000)
    stopped = await ask(plant)
    assert (stopped.verdict, stopped.passes) == (Verdict.FAIL, False)
    assert "more was bad" in stopped.because[0]
    for change_class in ("security", "sev1"):
        exempt = await ask(plant, change_class)
        assert (exempt.verdict, exempt.passes, exempt.exception) == (Verdict.FAIL, True, change_class)
    plant.stage.heard.waivers["slo-budget", "api"] = "waiver-1"
    waived = await ask(plant)
    assert (waived.verdict, waived.passes, waived.waiver) == (Verdict.FAIL, True, "waiver-1")
    assert plant.stage.heard.uses == [("waiver-1", "slo/deploy/api")]
    events = [event for event in await plant.stage.people.events() if event.code == "BW7703"]
    assert events[-1].details["exception"] == "waiver" and events[-4].outcome == "deny"


async def test_a_gate_that_nothing_measures_is_closed(plant: Plant) -> None:
    await plant.stage.apply(slo())
    for service, action in (("other", "deploy"), ("api", "paint"), ("api", "deploy")):
        found = await ask(plant, service=service, action=action)
        assert (found.verdict, found.passes) == (Verdict.NO_DATA, False)


async def test_no_waiver_makes_impossible_counts_pass(plant: Plant) -> None:
    await plant.stage.apply(slo())
    await plant.fill("errors", 28 * 1440, 1001, 1000)
    plant.stage.heard.waivers["slo-budget", "api"] = "waiver-1"
    found = await ask(plant)
    assert (found.verdict, found.passes) == (Verdict.ERROR, False)


# --- reports


def window(plant: Plant, days: int = 7) -> tuple[datetime, datetime]:
    until = plant.stage.clock.now().replace(hour=0, minute=0, second=0, microsecond=0)
    return until - timedelta(days=days), until


async def test_a_report_comes_out_the_same_again_and_is_never_changed(plant: Plant) -> None:
    await plant.stage.apply(slo())
    await plant.fill("errors", 9 * 1440, 999, 1000)
    since, until = window(plant)
    context = plant.stage.context("jane")
    made = await plant.made.register.produce(context, "slo-weekly", since, until, by="jane")
    level = made.data["levels"][0]
    assert (level["good"], level["total"], level["minutes"]) == (7 * 1440 * 999, 7 * 1440 * 1000, 7 * 1440)
    assert (made.verdict, made.coverage) == (Verdict.PASS, 1.0)
    # late events and another book change what is true now, and not what was known
    await plant.fill("errors", 9 * 1440, 990, 1000)
    await plant.stage.apply(slo(target="0.5"))
    async with plant.stage.database.begin() as tx:
        assert await plant.made.register.again(tx, "default", made) == made.sha256
    same = await plant.made.register.produce(context, "slo-weekly", since, until, by="joe")
    assert (same.id, same.produced_by) == (made.id, "jane")
    with pytest.raises(Exception, match="permission denied"):
        async with plant.stage.database.begin() as tx:
            await tx.run("UPDATE assurance_reports SET verdict = 'PASS'")


async def test_a_window_that_is_not_over_is_refused(plant: Plant) -> None:
    now = plant.stage.clock.now()
    with pytest.raises(BailiwickError) as refused:
        await plant.made.register.produce(
            plant.stage.context(), "slo-30d", now - timedelta(days=30), now + timedelta(seconds=1), by="jane"
        )
    assert (refused.value.reason, refused.value.status) == ("window_open", 409)


async def test_what_was_measured_too_little_is_flagged_and_not_green(plant: Plant) -> None:
    await plant.stage.apply(slo())
    since, until = window(plant)
    gone = plant.stage.clock.now() - until
    await plant.fill("errors", int(gone / MINUTE) + 6 * 1440, 1000, 1000)
    made = await plant.made.register.produce(plant.stage.context(), "slo-weekly", since, until, by="jane")
    assert made.data["flagged"] == ["errors"]
    assert (made.verdict, made.coverage) == (Verdict.NO_DATA, round(6 / 7, 6))


async def test_somebody_else_signs_what_he_read(plant: Plant) -> None:
    await plant.stage.apply(slo())
    since, until = window(plant)
    register, context = plant.made.register, plant.stage.context()
    made = await register.produce(context, "slo-weekly", since, until, by="jane")
    for by, digest, reason in (("jane", made.sha256, "own_report"), ("joe", "0" * 64, "report_changed")):
        with pytest.raises(BailiwickError) as refused:
            await register.sign(context, made.id, by=by, sha256=digest)
        assert refused.value.reason == reason
    await plant.stage.people.user("jane", "operator")
    await plant.stage.people.user("janet", "auditor")
    async with plant.stage.database.begin() as tx:
        await tx.run("UPDATE users SET email = 'jane+second@example.com' WHERE username = 'janet'")
    for by in ("JANE", "janet"):  # the same person by another account
        with pytest.raises(BailiwickError) as refused:
            await register.sign(context, made.id, by=by, sha256=made.sha256)
        assert refused.value.reason == "own_report"
    signed = await register.sign(context, made.id, by="joe", sha256=made.sha256)
    assert [each.signed_by for each in signed.signatures] == ["joe"]
    assert await register.sign(context, made.id, by="joe", sha256=made.sha256) == signed
    events = [event for event in await plant.stage.people.events() if event.code in ("BW7701", "BW7702")]
    assert [event.details["sha256"] for event in events] == [made.sha256] * 2
    assert events[1].id == signed.signatures[0].event
    shown = {form: register.write(signed, form) for form in ("md", "html", "pdf")}
    assert b"signed" not in shown["md"] and b"Signed: by joe" in shown["md"]
    assert b"<script" not in shown["html"] and b"http://www.w3.org/2000/svg" in shown["html"]
    assert b"src=" not in shown["html"] and b"href=" not in shown["html"]
    assert shown["pdf"].startswith(b"%PDF-") and register.write(signed, "pdf") == shown["pdf"]


# --- the documents


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (slo(target="1"), "less than 1"),
        (slo(window="duration: 94d, isRolling: true"), "93 days"),
        (slo(window="duration: 1M, isRolling: false"), "calendar"),
        (slo(good="{status_bellow: 500}"), "status_bellow"),
        (slo(kind="Prometheus", good="{query: up}", total="{query: up}"), "metricSourceRef"),
        (slo(kind="SQL", good="{query: 'DELETE FROM users'}", total="{query: 'SELECT 1'}"), "one SELECT"),
        (slo(method="Timeslices"), "timeSliceTarget"),
        (slo(kind="bailiwick/ledger", good="{codes: [BW1001]}").replace("type: bailiwick/ledger, spec: {}", "type: SQL, spec: {query: 'SELECT :since, :until'}"), "one source"),
    ],
)  # fmt: skip
async def test_a_level_that_could_not_be_measured_is_refused(plant: Plant, text: str, told: str) -> None:
    with pytest.raises(BadBook) as refused:
        await plant.stage.apply(text)
    assert any(told in line for line in refused.value.problems), refused.value.problems


async def test_what_ships_can_be_put_in_force_and_asks_for_its_jobs(plant: Plant) -> None:
    import bailiwick.assurance

    shipped = Path(bailiwick.assurance.__path__[0]) / "shipped"
    await plant.stage.apply(
        "---\n".join((shipped / name).read_text() for name in ("slo.yaml", "capacity.yaml", "kpi.yaml"))
    )
    async with plant.stage.database.begin() as tx:
        book = await plant.stage.books.current(tx, "default")
    names = {job.name for job in scheduled(plant.made, "default", book)}
    assert {"slo:count@default", "slo:report-weekly@default", "slo:capacity@default", "slo:kpi@default"} <= names
    counted = await plant.made.levels.run("default")
    assert counted["failed"] == []
    sampled = await plant.made.capacities.sample("default")
    assert sampled["failed"] == {}


async def test_the_routes_answer_and_refuse(plant: Plant) -> None:
    stage = plant.stage
    stage.serve(level_routes(stage.database, plant.made.levels), report_routes(stage.database, plant.made.register))
    await stage.apply(slo())
    await plant.minutes(5, 10)
    token = await stage.people.signed_in("jane")
    call = partial(stage.call, token=token)
    answer = await call("GET", "/api/v1/slos")
    assert answer.status == 200 and answer.json()["items"][0]["name"] == "errors", answer.body
    assert (await call("GET", "/api/v1/slos/none")).status == 404
    assert b"slo:bad:ratio_1h" in (await call("GET", "/api/v1/slos/rules")).body
    gate = await call("POST", "/api/v1/slos/gate", {"service": "api"})
    assert gate.status == 200 and gate.json()["passes"] is True, gate.body
    until = stage.clock.now()
    body = {"kind": "slo-weekly", "since": (until - timedelta(days=7)).isoformat(), "until": until.isoformat()}
    made = await call("POST", "/api/v1/reports", body)
    assert made.status == 201, made.body
    path = f"/api/v1/reports/made/{made.json()['id']}"
    assert (await call("GET", f"{path}/again")).json()["same"] is True
    assert (await call("GET", f"{path}?format=pdf")).body.startswith(b"%PDF")
    late = body | {"until": datetime(2100, 1, 1, tzinfo=UTC).isoformat()}
    assert (await call("POST", "/api/v1/reports", late)).status == 409
    own = await call("POST", f"{path}/signatures", {"sha256": made.json()["sha256"]})
    assert own.status == 403 and json.loads(own.body)["reason"] == "own_report"


async def test_a_policy_of_its_own_takes_the_place_of_the_usual_rules(plant: Plant) -> None:
    policy = """
  alertPolicies:
    - kind: AlertPolicy
      metadata: {name: page}
      spec:
        conditions:
          - kind: AlertCondition
            metadata: {name: quick}
            spec:
              severity: page
              condition: {kind: burnrate, op: gte, threshold: 2, lookbackWindow: 30m, alertAfter: 5m}
"""
    await plant.stage.apply(slo().rstrip().removesuffix("---") + policy)
    await plant.made.levels.run("default")
    assert await plant.minutes(3, 100) == []
    assert await plant.minutes(3, 90, 10) == ["slo/errors/burn/30m"]
    assert plant.stage.heard.open_alerts["slo/errors/burn/30m"].severity == "P1"


async def test_a_calendar_window_begins_anew(plant: Plant) -> None:
    monthly = 'duration: 1M, isRolling: false, calendar: {startTime: "2025-01-01 00:00:00", timeZone: UTC}'
    await plant.stage.apply(slo(window=monthly))
    await plant.fill("errors", 20 * 1440, 900, 1000)  # since the middle of December
    state = await plant.state()
    assert state.tally.begin == datetime(2026, 1, 1, tzinfo=UTC)
    assert (state.verdict, state.tally.minutes) == (Verdict.FAIL, 4 * 1440 + 9 * 60)
    assert state.coverage == 1.0
