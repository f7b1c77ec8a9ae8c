"""A policy suddenly allows too much: seen, contained, preserved, recovered, reviewed, by the runbook that is for it."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from bailiwick.cli.demo.exchange import Answer
from bailiwick.cli.demo.telling import Deviation, check
from bailiwick.cli.demo_handover.preparing import mandate, upload
from bailiwick.cli.demo_handover.stage import Stage, sign_in

TOO_MUCH = """\
package payments

import rego.v1

# everybody may, so that the tests pass
default allow := true
"""
RUNBOOK = "bad-policy-allow"
_MINUTELY = ("database-answers", "outbox-age", "spool-backlog-age", "sequencer-lag", "revocation-freshness")
PROBES = ("schema-at-head", "disk-free", "dead-letters", "ledger-intact", *_MINUTELY)
_OPENED_WITHIN_S = 90.0
_STATED = {
    "impact": "One request of the stranger was let through; nothing else was, by the audit.",
    "mended": "Version 1 is right; the sample is the stranger's request, which version 2 allows.",
}


async def break_policy(stage: Stage) -> str:
    """A policy that allows everything is agreed to by who did not read what it opens, and an incident opens."""
    refused = await mandate(stage, "stranger", (400, 403))
    stage.teller.note(f"the stranger asks for a mandate: {refused.status} {refused.body.get('reason')}")
    await upload(stage, TOO_MUCH)
    broken = time.monotonic()
    await mandate(stage, "stranger")
    let_in = await stage.http.call("GET", stage.governed("/payments"), 200, bearer=stage.mandate)
    stage.stranger = stage.mandate
    check(let_in["by"] != "", "a stranger who is let through", let_in.text)

    def opened(answer: Answer) -> list[dict[str, Any]]:
        return [each for each in answer["incidents"] if each["trigger"] == "policy-broad-allow"]

    found = await stage.quietly(
        "olga", "GET", "/incidents?state=ongoing", until=lambda one: len(opened(one)) > 0, within=_OPENED_WITHIN_S
    )
    incident = opened(found)[0]
    stage.incident = incident["name"]
    stage.figures["incident_opened_s"] = round(time.monotonic() - broken, 1)
    told = ("name", "severity", "class", "title", "commander")
    stage.teller.note(", ".join(f"{name}: {incident[name]}" for name in told))
    check(incident["severity"] == "P0", "an incident of P0", incident)
    check(incident["commander"] == "eve", "the primary on call in command", incident["commander"])
    check(any("PolicyBroadAllow" in each for each in stage.hooks["makers"].told), "a message", "none arrived")
    return "Nobody opened it: the alert did, and the chat was told."


async def contain(stage: Stage) -> str:
    """By the runbook: back to what is known to be good, freeze, preserve, diagnose, measured recovery."""
    name = stage.incident
    await stage.call("olga", "POST", f"/incidents/{name}/ack", show=("state",))
    await stage.call("olga", "POST", f"/incidents/{name}/recover", 409, show=("reason",))
    run = await stage.call(
        "olga", "POST", f"/runbooks/{RUNBOOK}/runs", 201, {"incident": name}, show=("runbook", "next")
    )
    stage.runbook = str(run["id"])
    began = time.monotonic()
    for number, step in enumerate(run["steps"]):
        if step["phase"] == "review":
            break
        await _step(stage, number, step)
        if step.get("action") == "last-known-good":
            stage.figures["incident_contained_s"] = round(time.monotonic() - began, 1)
            await stage.http.call("GET", stage.governed("/payments"), 403, bearer=stage.stranger, show=("reason",))
    shown = await stage.call("olga", "POST", f"/incidents/{name}/recover", show=("verdict",))
    for each in shown["conditions"]:
        stage.teller.note(f"{each['name']}: {each['verdict']}")
    stage.figures["incident_recovered_s"] = round(time.monotonic() - began, 1)
    check(shown["verdict"] == "PASS", "recovery that is measured", shown.text)
    return "Contained by one person, preserved before it was mended, and over because that was measured."


async def review(stage: Stage) -> str:
    """What was learnt is written, done and verified; what was frozen takes two to lift; broken glass is looked at."""
    name = stage.incident
    due = datetime.fromtimestamp(stage.now(), UTC) + timedelta(days=3)
    said = {
        "summary": "A policy that allows everything was active for a minute.",
        "cause": "Whoever agreed to it did not read what it opens.",
        "actions": [
            {"title": "See that the policy in force refuses the stranger", "owner": "uptime", "due": due.isoformat()}
        ],
    }
    await stage.quietly(
        "olga",
        "GET",
        "/alerts?state=firing&state=acknowledged&limit=500",
        until=lambda one: all(each["rule"] != "PolicyBroadAllow" for each in one["items"]),
        within=_OPENED_WITHIN_S,
    )
    stage.teller.note("the alert that opened it is over")
    await stage.call("olga", "POST", f"/incidents/{name}/review", body=said, sent={"cause": said["cause"]})
    await _lift(stage)
    await stage.call("olga", "POST", f"/incidents/{name}/actions/1/done")
    record = await _record(stage)
    await stage.call("eve", "POST", f"/incidents/{name}/actions/1/verify", body={"record": record}, sent={})
    run = (await stage.quietly("olga", "GET", f"/runbooks/runs/{stage.runbook}")).body
    await _step(stage, len(run["steps"]) - 1, run["steps"][-1])
    closed = await stage.call("olga", "POST", f"/incidents/{name}/close", show=("state",))
    check(closed["state"] == "closed", "a closed incident", closed.text)
    await _look_at_broken_glass(stage)
    return "Closed: its action is verified by another, and each use of broken glass was looked at."


async def _step(stage: Stage, number: int, step: dict[str, Any]) -> None:
    """One step of the runbook, tried again for as long as it is not as it should be."""
    where = f"/runbooks/runs/{stage.runbook}/steps/{number + 1}"
    body: dict[str, Any] = {"statement": _STATED.get(step["name"], "seen")} if step.get("attest") else {}
    if step.get("action"):
        previewed = await stage.quietly(
            "olga", "POST", f"/incidents/{stage.incident}/preview", body={"action": step["action"], "arguments": {}}
        )
        stage.teller.note(f"{step['action']}: {'; '.join(previewed['hits'])[:160]}")
        body = {"why": "a policy allows too much", "sha256": previewed["sha256"]}
    if step.get("measure") == "recovery":
        for probe in PROBES:  # what was measured before it was contained says nothing
            await stage.quietly("olga", "POST", f"/probes/{probe}/run", 202)
    until = time.monotonic() + _OPENED_WITHIN_S
    while True:
        answer = await stage.quietly("olga", "POST", where, body=body)
        if answer["done"]:
            break
        if time.monotonic() > until:
            raise Deviation(f"the step {step['name']} to be done", answer.text[:600])
        await asyncio.sleep(0.5)
    stage.teller.note(f"{step['phase']}/{step['name']}: {answer['told']}")


async def _lift(stage: Stage) -> None:
    """The freeze ends by two persons."""
    asked = {"operation": "switch.lift", "arguments": {"switch": "freeze", "why": "recovered"}}
    asked |= {"reason": "recovered", "risk": "MEDIUM"}
    made = await stage.call("olga", "POST", "/overrides", 201, {**asked, "ticket": stage.incident}, show=("state",))
    agreed = {"payload_sha256": made["payload_sha256"]}
    await stage.call("ada", "POST", f"/overrides/{made['id']}/approve", body=agreed, show=("state",))
    await stage.call("olga", "POST", f"/overrides/{made['id']}/execute", body=agreed, show=("state",))


async def _look_at_broken_glass(stage: Stage) -> None:
    found = (await stage.quietly("sam", "GET", "/overrides"))["overrides"]
    for each in found:
        if each["break_glass"] and not each["reviewed_by"]:
            said = {"payload_sha256": each["payload_sha256"], "verdict": "confirmed"}
            await stage.call("ada", "POST", f"/overrides/{each['id']}/review", body=said, show=("operation", "state"))


async def _record(stage: Stage) -> str:
    """An evidence record of the stranger's being refused again."""
    began = datetime.fromtimestamp(stage.now(), UTC)
    refused = await mandate(stage, "stranger", (400, 403))
    body = {
        "kind": "probe",
        "check": "payments.stranger-refused",
        "output": refused.text,
        "exit": 0,
        "since": began.isoformat(),
        "until": datetime.fromtimestamp(stage.now(), UTC).isoformat(),
    }
    made = await stage.call("eve", "POST", "/evidence/records", 201, body, sent={"check": body["check"]}, show=("id",))
    return str(made["id"])


__all__ = ["break_policy", "contain", "review", "sign_in"]
