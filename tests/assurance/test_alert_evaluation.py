"""Rules evaluated here, what another alert manager hands in, drills, and the routes of all of it."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest
from alerting import Alerting, channel, route, slack, web
from hypothesis import given
from hypothesis import strategies as st

from bailiwick.assurance.alerting.api import AlertServices
from bailiwick.assurance.alerting.api import routes as alert_routes
from bailiwick.assurance.alerting.expressions import BadExpression, Kept, exported, increase, read
from bailiwick.assurance.alerting.receiver import key_of, read_payload, severity_of
from bailiwick.assurance.alerting.rules import ALERT_RULE, AlertRuleSpec, judge
from bailiwick.assurance.book import BadBook
from bailiwick.assurance.notices.api import routes as notice_routes
from bailiwick.assurance.ports import Found
from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.jobs import JobDefinition, Jobs
from bailiwick.kernel.metrics import Metrics
from bailiwick.kernel.severity import Severity
from bailiwick.kernel.verdicts import Verdict
from people_fixtures import Answer, House

TEXT = """# TYPE http_requests counter
http_requests_total{status="200",worker="a"} 90
http_requests_total{status="500",worker="a"} 6
http_requests_total{status="503",worker="b"} 4
# TYPE up gauge
up 1
"""


class Exported:
    """What the installation exports."""

    def __init__(self) -> None:
        self.text = TEXT

    def __call__(self) -> bytes:
        return self.text.encode()


@pytest.fixture
def export() -> Exported:
    return Exported()


@pytest.fixture
async def alerting(house: House, export: Exported) -> Alerting:
    return Alerting(house, export)


def rule(name: str, source: str, more: str = "") -> str:
    return (
        f"apiVersion: bailiwick/v1\nkind: AlertRule\nmetadata: {{name: {name}}}\nspec: {{{source}, severity: P1,"
        f" owner: uptime, runbook: docs/pay.md, summary: payments fail, description: why,"
        f" labels: {{service: pay, team: ops_owner}}{more}}}\n---\n"
    )


async def evaluate(alerting: Alerting, name: str = "r") -> Verdict:
    async with alerting.database.begin() as tx:
        spec = (await alerting.stage.books.current(tx, "default")).of(ALERT_RULE)[name]
    return (await alerting.evaluator.evaluate("default", name, spec, alerting.clock.now())).verdict


async def states(alerting: Alerting) -> dict[str, str]:
    return {row["key"]: row["state"] for row in await alerting.rows("SELECT key, state FROM alerts ORDER BY id")}


# ---------------------------------------------------------------------- expressions


def computed(text: str, source: str = TEXT) -> float | None:
    from datetime import UTC, datetime

    return read(text).compute(Kept(exported(source), {}, datetime(2026, 1, 5, tzinfo=UTC)))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("up", 1), ("1 + 2 * 3 - 4 / 2", 5), ("(1 + 2) * 3", 9), ("sum(http_requests_total)", 100),
        ('sum(http_requests_total{status=~"5.*"}) / sum(http_requests_total)', 0.1),
        ('max(http_requests_total{status!="200"})', 6), ("count(http_requests_total)", 3), ("avg(up)", 1),
        ("min(http_requests_total) * 2", 8), ("http_requests_total", None), ("sum(nothing)", None), ("up / 0", None),
        ("up + nothing", None), ("count(nothing)", None), ("rate(http_requests_total[5m])", None),
    ],
)  # fmt: skip
def test_expressions_are_computed_and_what_is_not_there_has_no_value(text: str, value: float | None) -> None:
    assert computed(text) == value


@pytest.mark.parametrize(
    "text", ["", "sum(", "up up", "rate(up)", "rate(up[5y])", "sum(up[5m])", "up{a}", 'up{a="b}', "1 +", "((((" * 20,
             "x" * 1001, "sum(1)", "up; drop"]
)  # fmt: skip
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(BadExpression):
        read(text)


@given(st.text(alphabet='sum(rate)[5m]{}=~"! +-*/up1.,\n', max_size=60))
def test_no_text_breaks_the_reader(text: str) -> None:
    try:
        read(text)
    except BadExpression as error:
        assert str(error)


def test_growth_counts_restarts_and_new_series_from_zero() -> None:
    assert increase([{"a": 5}, {"a": 7}, {"a": 1, "b": 3}]) == 2 + 1 + 3


@pytest.mark.parametrize(
    ("value", "verdict"),
    [(None, "NO_DATA"), (float("nan"), "NO_DATA"), (float("inf"), "NO_DATA"), (2.0, "FAIL"), (1.0, "PASS")],
)
def test_only_a_value_is_judged(value: float | None, verdict: str) -> None:
    assert judge(value, ">", 1.0).verdict == verdict


# ---------------------------------------------------------------------- evaluation


async def test_a_condition_has_to_last_before_its_alert_fires(alerting: Alerting, export: Exported) -> None:
    metric = "metric: 'sum(http_requests_total{status=~\"5.*\"}) / sum(http_requests_total)', threshold: 0.05"
    await alerting.stage.apply(rule("r", metric, ", for: 2m"))
    assert await evaluate(alerting) is Verdict.FAIL
    assert await states(alerting) == {"rule/r": "pending"}
    alerting.clock.advance(60)
    export.text = TEXT.replace("} 6", "} 0").replace("} 4", "} 0")
    assert await evaluate(alerting) is Verdict.PASS
    assert await states(alerting) == {"rule/r": "resolved"}
    export.text = TEXT
    for wanted in ("pending", "pending", "firing"):
        alerting.clock.advance(60)
        await evaluate(alerting)
        assert (await alerting.rows("SELECT state FROM alerts ORDER BY id DESC LIMIT 1"))[0]["state"] == wanted
    rows = await alerting.rows("SELECT verdict FROM alert_evaluations ORDER BY due_at")
    assert [row["verdict"] for row in rows] == ["FAIL", "PASS", "FAIL", "FAIL", "FAIL"]


async def test_no_data_freezes_and_a_rule_that_stays_blind_is_told(alerting: Alerting, export: Exported) -> None:
    await alerting.stage.apply(rule("r", "metric: sum(up), compare: '>=', threshold: 1"))
    assert await evaluate(alerting) is Verdict.FAIL
    export.text = ""
    for _ in range(3):
        alerting.clock.advance(60)
        assert await evaluate(alerting) is Verdict.NO_DATA
    assert await states(alerting) == {"rule/r": "firing", "rule/r/blind": "firing"}
    assert (await alerting.rows("SELECT frozen_since FROM alerts WHERE key = 'rule/r'"))[0]["frozen_since"] is not None
    export.text = TEXT.replace("up 1", "up 0")
    alerting.clock.advance(60)
    assert await evaluate(alerting) is Verdict.PASS
    assert await states(alerting) == {"rule/r": "resolved", "rule/r/blind": "resolved"}


async def test_a_rule_over_a_window_is_not_blind_before_it_can_cover_it(alerting: Alerting, export: Exported) -> None:
    """It has only begun; once half of the window was looked at and there still is nothing, nobody would notice."""
    await alerting.stage.apply(rule("r", "metric: 'sum(increase(nobody_tells_this_total[10m]))', threshold: 1"))
    for _ in range(5):
        assert await evaluate(alerting) is Verdict.NO_DATA
        alerting.clock.advance(60)
    assert await states(alerting) == {}
    for _ in range(3):
        assert await evaluate(alerting) is Verdict.NO_DATA
        alerting.clock.advance(60)
    assert await states(alerting) == {"rule/r/blind": "firing"}
    alerting.clock.advance(86_400)  # it was away for a day, and begins anew
    export.text += "\nnobody_tells_this_total 3\n"
    for _ in range(5):
        await evaluate(alerting)
        alerting.clock.advance(60)
    await evaluate(alerting)
    assert await states(alerting) == {"rule/r/blind": "resolved"}


async def test_growth_is_computed_over_what_was_kept(alerting: Alerting, export: Exported) -> None:
    await alerting.stage.apply(rule("r", "metric: 'sum(increase(http_requests_total[2m]))', threshold: 10"))
    found = []
    for total in (90, 90, 95, 140):
        export.text = TEXT.replace("} 90", f"}} {total}")
        found.append(await evaluate(alerting))
        alerting.clock.advance(60)
    assert found == [Verdict.NO_DATA, Verdict.PASS, Verdict.PASS, Verdict.FAIL]


async def test_sql_is_asked_reading_only_and_within_its_time(alerting: Alerting) -> None:
    await alerting.stage.apply(
        rule("r", "sql: \"SELECT count(*) FROM zones WHERE name LIKE 'def%'\", threshold: 0")
        + rule("empty", "sql: SELECT 1 WHERE false, threshold: 0")
        + rule("wrong", "sql: SELECT nothing FROM nowhere, threshold: 0")
        + rule("write", "sql: 'WITH x AS (DELETE FROM outbox RETURNING 1) SELECT count(*) FROM x', threshold: -1")
        + rule("text", "sql: SELECT 'x', threshold: 0")
    )
    assert [await evaluate(alerting, name) for name in ("r", "empty", "wrong", "write", "text")] == [
        Verdict.FAIL, Verdict.NO_DATA, Verdict.ERROR, Verdict.ERROR, Verdict.ERROR,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("found", "verdict"),
    [(None, "NO_DATA"), ("PASS", "PASS"), ("FAIL", "FAIL"), ("STALE", "FAIL"), ("ERROR", "FAIL"), ("NO_DATA", "NO_DATA"),
     ("NOT_DUE", "NO_DATA")],
)  # fmt: skip
async def test_a_verdict_of_a_probe_opens_an_alert_and_only_pass_clears_it(
    alerting: Alerting, found: str | None, verdict: str
) -> None:
    await alerting.stage.apply(rule("r", "probe: pay.health"))
    if found is not None:
        alerting.rota.found["pay.health"] = Found(Verdict(found), None, alerting.clock.now())
    assert await evaluate(alerting) == verdict


@pytest.mark.parametrize(
    "text",
    [
        rule("r", "metric: up, probe: x, threshold: 1"), rule("r", "metric: up"), rule("r", "metric: 'sum(', threshold: 1"),
        rule("r", "sql: DELETE FROM zones, threshold: 1"), rule("r", "sql: 'SELECT 1; SELECT 2', threshold: 1"),
        rule("r", "probe: x, on: [PASS]"), rule("r", "probe: x").replace("team: ops_owner", "team: ''"),
        rule("r", "probe: x").replace("service: pay", "service: ''"), rule("r", "probe: x").replace("docs/pay.md", "''"),
        route("r", "channels: [nowhere]"), channel("c", "slack: {}"), channel("c", "email: {}, slack: {}, secret_name: x"),
        channel("c", "slack: {}, secret_name: x, fallback: c"), channel("c", "slack: {}, secret_name: x, fallback: d"),
        channel("c", "email: {for_people: true}") + channel("d", "email: {for_people: true}"),
        channel("c", "slack: {}, secret_name: x")
        + route("r", "channels: [c], hours: {timezone: Mars/Olympus}"),
    ],
)  # fmt: skip
async def test_documents_that_make_no_sense_are_refused(alerting: Alerting, text: str) -> None:
    with pytest.raises(BadBook):
        await alerting.stage.apply(text)


async def test_each_rule_is_a_job_of_its_own(alerting: Alerting) -> None:
    await alerting.stage.apply(rule("r", "metric: up, threshold: 0, every: 30s"))
    async with alerting.database.begin() as tx:
        book = await alerting.stage.books.current(tx, "default")
    (job,) = alerting.evaluator.jobs("default", book)
    assert (job.name, job.schedule) == ("alerts:r@default", timedelta(seconds=30))
    answer = await job.handler(alerting.clock.now())
    assert answer is not None and answer["verdict"] == "FAIL"
    assert isinstance(book.of(ALERT_RULE)["r"], AlertRuleSpec)


# ---------------------------------------------------------------------- Alertmanager

FIRING: dict[str, Any] = {
    "version": "4", "groupKey": '{}:{alertname="APIDown"}', "truncatedAlerts": 0, "status": "firing",
    "receiver": "bailiwick", "groupLabels": {}, "commonLabels": {}, "commonAnnotations": {},
    "externalURL": "http://am", "somethingNew": {"a": [1]},
    "alerts": [
        {
            "status": "firing", "startsAt": "2026-01-05T08:59:00Z", "endsAt": "0001-01-01T00:00:00Z",
            "generatorURL": "http://prometheus/graph", "fingerprint": "a1b2c3d4e5f60718",
            "labels": {"alertname": "APIDown", "severity": "critical", "pagerduty": "P0", "service": "api", "team": "ops"},
            "annotations": {"summary": "API is down", "description": "all of it", "runbook_url": "https://r.example.com"},
        }
    ],
}  # fmt: skip


def payload(status: str = "firing", **alert: Any) -> bytes:
    one = {**FIRING["alerts"][0], "status": status, **alert}
    if status == "resolved":
        one["endsAt"] = "2026-01-05T09:30:00Z"
    return json.dumps({**FIRING, "status": status, "alerts": [one]}).encode()


async def take(alerting: Alerting, body: bytes) -> dict[str, int]:
    found = await alerting.receiver.take(alerting.stage.context("alertmanager"), read_payload(body))
    return {name: count for name, count in found.document().items() if count}


async def test_what_alertmanager_fires_is_one_alert_however_often_it_is_sent(alerting: Alerting) -> None:
    assert await asyncio.gather(*(take(alerting, payload()) for _ in range(4))) == [{"fired": 1}] * 4
    (row,) = await alerting.rows("SELECT * FROM alerts")
    assert (row["key"], row["rule"], row["severity"], row["summary"], row["source"], row["missing"]) == (
        "alertmanager/a1b2c3d4e5f60718", "APIDown", "P0", "API is down", "alertmanager", ["owner"],
    )  # fmt: skip
    assert (row["group_key"], row["seen"], row["runbook"]) == (FIRING["groupKey"], 4, "https://r.example.com")
    assert await take(alerting, payload("resolved")) == {"resolved": 1}
    assert await take(alerting, payload("resolved")) == {"unknown": 1}
    assert await take(alerting, payload()) == {"echoes": 1}, "the other of a pair sends what is over"
    alerting.clock.advance(300)
    assert await take(alerting, payload()) == {"fired": 1}, "a turn that comes back keeps its beginning"
    assert len(await alerting.rows("SELECT 1 FROM alerts")) == 2


async def test_the_end_of_an_older_turn_ends_no_newer_one(alerting: Alerting) -> None:
    await take(alerting, payload(startsAt="2026-01-05T08:59:30Z"))
    assert await take(alerting, payload("resolved")) == {"unknown": 1}
    assert list((await states(alerting)).values()) == ["firing"]


async def test_what_was_cut_off_is_an_alert_of_its_own(alerting: Alerting) -> None:
    body = json.dumps({**FIRING, "truncatedAlerts": 3}).encode()
    await take(alerting, body)
    summaries = [row["summary"] for row in await alerting.rows("SELECT summary FROM alerts ORDER BY id")]
    assert summaries == ["API is down", "Alertmanager kept 3 alerts of a group from us"]


async def test_bad_labels_make_an_alert_neither_lost_nor_less_urgent(alerting: Alerting) -> None:
    await take(alerting, payload(labels={"x": "a\u0000b\u202e"}, annotations={}, fingerprint=""))
    (row,) = await alerting.rows("SELECT severity, missing, labels, key FROM alerts")
    assert (row["severity"], row["missing"][0], row["labels"]["x"]) == ("P1", "severity", "a\ufffdb\ufffd")
    assert row["key"].startswith("alertmanager/") and len(row["key"]) > 40


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "invalid_request"), (b"[]", "invalid_request"), (b"[" * 100_000, "invalid_request"),
        (b'{"a":' * 50_000, "invalid_request"), (b" " * (1 << 20) + b"{}", "payload_too_large"),
        (json.dumps({**FIRING, "version": "3"}).encode(), "invalid_request"),
        (payload(startsAt="yesterday"), "invalid_request"), (payload(startsAt="2026-01-05T08:59:00"), "invalid_request"),
        (payload(labels={"a": 1}), "invalid_request"), (payload(fingerprint="../x"), "invalid_request"),
        (json.dumps({**FIRING, "alerts": FIRING["alerts"] * 1001}).encode(), "invalid_request"),
        (b"\xff\xfe", "invalid_request"),
    ],
    ids=range(12),
)  # fmt: skip
def test_what_is_no_payload_is_refused(body: bytes, reason: str) -> None:
    with pytest.raises(BailiwickError) as refused:
        read_payload(body)
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("labels", "severity"),
    [({"severity": "critical"}, "P0"), ({"severity": "critical", "pagerduty": "P1"}, "P1"), ({"severity": "Warning"}, "P2"),
     ({"severity": "P3"}, "P3"), ({"severity": "weird"}, "P1"), ({}, "P1")],
)  # fmt: skip
def test_every_scheme_of_severities_has_its_place_in_ours(labels: dict[str, str], severity: str) -> None:
    assert severity_of(labels)[0] is Severity(severity)
    assert key_of(read_payload(payload()).alerts[0]) == "alertmanager/a1b2c3d4e5f60718"


# ---------------------------------------------------------------------- drills


async def test_a_drill_stops_a_job_for_real_and_its_times_are_those_of_alert_and_receipt(alerting: Alerting) -> None:
    ran: list[Any] = []

    async def work(due: Any) -> None:
        ran.append(due)

    from prometheus_client import CollectorRegistry

    job = JobDefinition("sweep", timedelta(minutes=1), work)
    jobs = Jobs(alerting.database, alerting.clock, Metrics(CollectorRegistry()), [job])
    alerting.clock.advance(61)
    await jobs.run_due()
    assert len(ran) == 1
    stale = "SELECT count(*) FROM job_occurrences WHERE state = 'due' AND job = 'sweep'"
    with web(slack) as chat:
        await alerting.stage.apply(
            rule("JobStale", f"sql: \"{stale}\", threshold: 0") + channel("chat", "slack: {}, secret_name: hook")
            + route("all", "labels: {service: pay}, channels: [chat], group_wait: 0s")
        )  # fmt: skip
        context = alerting.stage.context("jane")
        await alerting.secrets.put(context, "hook", f"{chat.url}/services/T0/B0/token", by="root")
        start = alerting.drills.start
        with pytest.raises(BailiwickError) as unknown:
            await start(context, "stop-job", "no-such-job", "JobStale", lasts=timedelta(minutes=15), by="jane")
        assert unknown.value.reason == "drill_refused"
        drill = await start(context, "stop-job", "sweep", "JobStale", lasts=timedelta(minutes=15), by="jane")
        alerting.clock.advance(60)
        await jobs.run_due()
        assert len(ran) == 1, "nobody can run it"
        assert await evaluate(alerting, "JobStale") is Verdict.FAIL
        await alerting.drills.follow()
        alerting.clock.advance(5)
        await alerting.deliver()
        alerting.clock.advance(40)
        (alert,) = await alerting.rows("SELECT id FROM alerts WHERE rule = 'JobStale'")
        await alerting.desk.acknowledge(context, alert["id"], by="jane")
        assert await alerting.drills.follow() == 1
    async with alerting.database.begin() as tx:
        told = (await alerting.drills.get(tx, "default", drill.id)).document()
        figures = await alerting.figures.of(tx, "default")
    assert (told["state"], told["took_s"]) == (
        "acknowledged", {"fired": 60.0, "delivered": 65.0, "acknowledged": 105.0},
    )  # fmt: skip
    assert told["mended_at"] is not None and told["delivery"] and figures.happenings == 1
    await jobs.run_due()
    assert len(ran) == 2, "mended"


async def test_a_drill_without_an_alert_is_missed_and_cannot_be_written_down_otherwise(alerting: Alerting) -> None:
    context = alerting.stage.context("jane")
    drill = await alerting.drills.start(
        context, "kill-part", "w1", "PartRestarted", lasts=timedelta(minutes=5), by="jane"
    )
    assert alerting.killed == [(4242, 9)]
    alerting.clock.advance(301)
    assert await alerting.drills.follow() == 1
    async with alerting.database.begin() as tx:
        assert (await alerting.drills.get(tx, "default", drill.id)).state == "missed"
    alerting.clock.advance(7200)
    async with alerting.database.begin() as tx:
        assert (await alerting.figures.of(tx, "default")).missed == [f"drill {drill.id}"]
    for column in ("fired_at", "delivered_at", "acknowledged_at"):
        with pytest.raises(Exception, match="check"):
            await alerting.rows(f"UPDATE alert_drills SET {column} = now() RETURNING 1")
    for target in ("postgres", "w7", "../x"):
        with pytest.raises(BailiwickError) as refused:
            await alerting.drills.start(context, "kill-part", target, "r", lasts=timedelta(minutes=5), by="jane")
        assert refused.value.reason == "drill_refused"
    assert len(alerting.killed) == 1


# ---------------------------------------------------------------------- routes


class Api:
    def __init__(self, alerting: Alerting) -> None:
        self.house = alerting.stage.people
        stage = alerting.stage
        stage.serve(
            alert_routes(
                AlertServices(
                    alerting.database, alerting.desk, alerting.silences, alerting.receiver, alerting.figures,
                    alerting.drills, alerting.evaluator,
                )
            ),
            notice_routes(alerting.database, stage.recorder, stage.books, alerting.outbox, alerting.secrets),
        )  # fmt: skip
        self.token = ""

    async def __call__(self, method: str, path: str, body: Any = None, **options: Any) -> Answer:
        return await self.house.call(method, f"/api/v1{path}", body, token=options.pop("token", self.token), **options)


@pytest.fixture
async def api(alerting: Alerting) -> Api:
    made = Api(alerting)
    made.token = await made.house.signed_in("root", amr=("pwd", "otp"))
    return made


PAGE = {
    "summary": "the office burns", "description": "smoke", "severity": "P0", "owner": "uptime", "service": "office",
    "team": "ops", "runbook": "leave", "key": "fire",
}  # fmt: skip


async def test_an_alert_is_raised_shown_acknowledged_and_closed_over_the_api(api: Api) -> None:
    raised = await api("POST", "/alerts", PAGE)
    assert raised.status == 201, raised
    path = f"/alerts/{raised.json()['id']}"
    assert (await api("POST", "/alerts", PAGE)).json()["id"] == raised.json()["id"]
    assert (await api("POST", f"{path}/ack", {"note": "running"})).json()["acknowledged_by"] == "root"
    assert (await api("POST", f"{path}/ack", {})).json()["reason"] == "illegal_transition"
    assert (await api("POST", f"{path}/close", {"closed_as": "maybe"})).status in (400, 422)
    assert (await api("POST", f"{path}/close", {"closed_as": "true"})).json()["state"] == "closed"
    shown = (await api("GET", path)).json()
    assert [each["what"] for each in shown["timeline"]] == [
        "fired", "raised", "raised", "acknowledged", "resolved", "closed",
    ]  # fmt: skip
    listed = (await api("GET", "/alerts?state=closed&severity=P0&limit=1")).json()
    assert len(listed["items"]) == 1 and listed["next"]
    assert (await api("GET", f"/alerts?cursor={listed['next']}")).json()["items"] == []
    api.house.clock.advance(1)
    assert (await api("GET", "/alerts/figures")).json()["true"] == 1
    assert (await api("POST", "/alerts", {**PAGE, "runbook": ""})).status in (400, 422)


async def test_silences_drills_and_happenings_over_the_api(api: Api, alerting: Alerting) -> None:
    until = (alerting.clock.now() + timedelta(hours=1)).isoformat()
    silence = {"matchers": ["service=pay"], "ends_at": until, "reason": "a move"}
    made = await api("POST", "/alerts/silences", silence)
    assert (made.status, made.json()["author"]) == (201, "root")
    assert (await api("POST", "/alerts/silences", {**silence, "ends_at": "9999-12-31T23:59:59Z"})).status in (400, 422)
    assert len((await api("GET", "/alerts/silences")).json()["items"]) == 1
    assert (await api("DELETE", f"/alerts/silences/{made.json()['id']}")).json()["ended_by"] == "root"
    assert (await api("GET", "/alerts/silences")).json()["items"] == []
    drill = await api("POST", "/alerts/drills", {"fault": "kill-part", "target": "w1", "rule": "PartRestarted"})
    assert (drill.status, drill.json()["took_s"]) == (201, {})
    assert (await api("GET", f"/alerts/drills/{drill.json()['id']}")).json()["state"] == "injected"
    assert len((await api("GET", "/alerts/drills")).json()["items"]) == 1
    noted = {"kind": "incident", "reference": "INC-1", "began_at": alerting.clock.now().isoformat()}
    assert (await api("POST", "/alerts/happenings", noted)).status == 201
    assert (await api("GET", "/alerts/rules/r/evaluations")).json() == {"items": []}


async def test_notices_channels_and_secrets_over_the_api(api: Api, alerting: Alerting) -> None:
    with web(slack) as chat:
        await alerting.stage.apply(channel("chat", "slack: {}, secret_name: hook"))
        put = await api("PUT", "/notices/secrets/hook", {"value": f"{chat.url}/services/T0/B0/token"})
        assert (put.status, sorted(put.json())) == (200, ["name", "set_at", "set_by", "version"])
        assert (await api("GET", "/notices/channels")).json()["items"][0]["secret_given"] is True
        tested = await api("POST", "/notices/channels/chat/test")
        assert tested.status == 202
        await alerting.deliver()
    path = f"/notices/{tested.json()['id']}"
    assert (await api("GET", path)).json()["deliveries"][0]["state"] == "delivered"
    assert (await api("POST", f"{path}/retry")).json()["reason"] == "illegal_transition"
    assert len((await api("GET", "/notices?state=delivered")).json()["items"]) == 1
    assert "hook" in str((await api("GET", "/notices/secrets")).json())
    assert (await api("DELETE", "/notices/secrets/hook")).status == 204


async def test_a_key_hands_in_alerts_and_nothing_else(api: Api) -> None:
    key = {"x-test-permissions": "alerts:receive"}
    sent = await api("POST", "/alerts/alertmanager", headers=key, raw=payload())
    assert (sent.status, sent.json()["fired"]) == (200, 1)
    assert (await api("POST", "/alerts/alertmanager", headers=key, raw=b"[" * 90_000)).status == 400
    assert (await api("POST", "/alerts/alertmanager", headers=key, raw=b" " * (1 << 21))).status == 413
    assert (await api("GET", "/alerts", headers=key)).status == 403
    viewer = await api.house.signed_in("vera", "viewer")
    for method, path in (("GET", "/alerts"), ("POST", "/alerts/alertmanager"), ("GET", "/notices")):
        assert (await api(method, path, token=viewer)).status == 403
    auditor = await api.house.signed_in("aud", "auditor")
    assert (await api("GET", "/alerts", token=auditor)).status == 200
    assert (await api("POST", "/alerts", PAGE, token=auditor)).status == 403
    assert (await api("PUT", "/notices/secrets/x", {"value": "y"}, token=auditor)).status == 403
