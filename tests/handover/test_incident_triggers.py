"""Every shipped trigger, broken where it looks: metrics that go wrong, by Prometheus' own rule engine, Alertmanager's
webhook and the watch, until an incident stands. What ships and what is broken here are compared."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from incident_desk import Desk, kinds
from stage import Stage

from bailiwick.assurance.alerting.receiver import Receiver, read_payload
from bailiwick.assurance.durations import span
from bailiwick.assurance.shipped import shipped
from bailiwick.handover.incidents.documents import TRIGGER, Trigger
from bailiwick.kernel.severity import Severity
from people_fixtures import House

sys.path.insert(0, str(Path(__file__).parent.parent / "deploy"))

from test_alert_rules import FILES, FIRES, QUIET, alerts_at, rules_of

# Trigger → what is broken for it, and the incident that must stand: severity and class. The first six are the table of
# Caracal's response to incidents; then our own; then P0 to P3 for every other alert.
BREAKS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "audit-tamper": (("AuditTamperDetected",), "P0", "security"),
    "revocation-stale": (("RevocationStale", "RevocationLag"), "P0", "security"),
    "check-unavailable": (("CheckUnavailable",), "P0", "availability"),
    "dead-letter-growth": (("DeadLetterGrowth",), "P0", "evidence"),
    "secret-exposed": (("SecretExposed",), "P0", "security"),
    "policy-broad-allow": (("PolicyBroadAllow",), "P0", "security"),
    "break-glass": (("BreakGlassDisputed",), "P1", "security"),
    "p0-alert": (("APIDown", "DatabaseDown"), "P0", "availability"),
    "p1-alert": (("HighLatency",), "P1", "availability"),
    "p2-alert": (("PolicyErrors",), "P2", "operations"),
    "p3-alert": (("PolicyNewlyAllows",), "P3", "operations"),
}
BY_PROMETHEUS = [(trigger, alert) for trigger, (alerts, *_) in BREAKS.items() for alert in alerts if alert in FIRES]


def triggers() -> dict[str, Trigger]:
    return {each.name: TRIGGER.read(each.spec) for each in shipped("default") if each.kind == TRIGGER.name}


@pytest.fixture
async def desk(house: House, tmp_path: Path) -> Desk:
    return await Desk(Stage(house, kinds()), tmp_path).open()


def test_each_shipped_trigger_is_broken_here_and_no_other() -> None:
    assert set(BREAKS) == set(triggers())
    for name, (alerts, severity, class_) in BREAKS.items():
        trigger = triggers()[name]
        assert (trigger.severity, trigger.class_) == (Severity(severity), class_), name
        # each alert that ships under a name the trigger has is broken, and not only one of them
        assert {each for each in trigger.alerts if each in FIRES} <= set(alerts), name
    broken = {name for name, _ in BY_PROMETHEUS} | {"break-glass"}
    assert broken == set(triggers())


@pytest.mark.parametrize(("trigger", "alert"), BY_PROMETHEUS)
async def test_what_goes_wrong_opens_an_incident(desk: Desk, tmp_path: Path, trigger: str, alert: str) -> None:
    series, lasts = FIRES[alert]
    file, rule = next((file, each) for file in FILES for each in rules_of(file) if each["alert"] == alert)
    assert not alerts_at(tmp_path, file, series, alert, QUIET - 1), "while all is well nothing fires"
    assert await desk.look() == {"opened": 0, "lines": 0, "overdue": 0, "settled": 0}
    assert alerts_at(tmp_path, file, series, alert, QUIET + lasts + 2), "when it breaks it fires"
    await handed_in(desk, rule)
    waits = span(triggers()[trigger].sustained)
    if waits:
        assert (await desk.look())["opened"] == 0, "what does not last opens none"
        desk.stage.clock.advance((waits + timedelta(seconds=1)).total_seconds())
    assert (await desk.look())["opened"] == 1
    (incident,) = await desk.ongoing()
    _, severity, class_ = BREAKS[trigger]
    assert (incident["trigger"], incident["severity"], incident["class"]) == (trigger, severity, class_)
    assert (incident["commander"], incident["scribe"]) == ("olga", "kim")
    assert (await desk.look())["opened"] == 0, "it stands once"


async def test_broken_glass_that_is_disputed_opens_an_incident(desk: Desk) -> None:
    name = await desk.opened(severity="P2")
    status, done = await desk.contain(name, "freeze")
    assert status == 200
    override = done["override"]
    body = {"verdict": "disputed", "payload_sha256": override["payload_sha256"], "comment": "it was not needed"}
    status, said = await desk.say("kim", "POST", f"/overrides/{override['id']}/review", body)
    assert status == 200, said
    await desk.look()
    opened = {each["trigger"]: each for each in await desk.ongoing()}
    _, severity, class_ = BREAKS["break-glass"]
    assert (opened["break-glass"]["severity"], opened["break-glass"]["class"]) == (severity, class_)


async def handed_in(desk: Desk, rule: dict[str, Any]) -> None:
    """As Alertmanager hands in what Prometheus fires."""
    now = desk.stage.clock.now()
    labels = {**rule["labels"], "alertname": rule["alert"]}
    alert = {
        "status": "firing",
        "labels": labels,
        "annotations": rule["annotations"],
        "startsAt": now.isoformat().replace("+00:00", "Z"),
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus.example.com/graph",
        "fingerprint": "ab12",
    }
    payload = {"version": "4", "groupKey": "{}", "status": "firing", "receiver": "bailiwick", "alerts": [alert]}
    receiver = Receiver(desk.stage.database, desk.stage.clock, desk.alerts)
    context = desk.stage.context("alertmanager")
    taken = await receiver.take(context, read_payload(json.dumps(payload).encode()))
    assert taken.document()["fired"] == 1
