"""The pack, four signatures, the acceptance, the statement; and whether anybody can check it without us."""

from __future__ import annotations

import time
import zipfile
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bailiwick.cli.demo.telling import check
from bailiwick.cli.demo_handover.readying import look, not_green
from bailiwick.cli.demo_handover.stage import Stage

SIGNERS = {"engineering": "erik", "operations": "otto", "security": "sam", "management": "mia"}
PLAN = "bau"
CONTROL = "handover-statement"
WAIVED = {
    "rollouts/rollback-revision": "the first release has none before it to go back to",
}
"""What a first release cannot show; anything else that is not PASS ends the story."""


async def prepare(stage: Stage) -> str:
    """Readiness again; the other runbook gone through, an alarm drill held, a document read."""
    found = not_green(await look(stage))
    check(not found, "readiness that still passes", found)
    alerts = (await stage.quietly("olga", "GET", "/alerts?limit=500"))["items"]
    for each in alerts:
        if each["state"] in ("firing", "acknowledged") and each["severity"] in ("P0", "P1"):
            stage.teller.note(f"open: {each['severity']} {each['rule']}: {each['summary']}")
            if each["rule"] == "notices/dead":  # of the first moments, when the shipped channels were in force
                said = {"closed_as": "true", "note": "that channel is not in the book any more"}
                await stage.call("eve", "POST", f"/alerts/{each['id']}/close", body=said, show=("state",))
    run = await stage.call("eve", "POST", "/runbooks/audit-tamper/runs", 201, {"dry": True}, show=("runbook", "dry"))
    for number, _ in enumerate(run["steps"]):
        await stage.quietly(
            "eve", "POST", f"/runbooks/runs/{run['id']}/steps/{number + 1}", body={"statement": "walked through"}
        )
    await stage.call("eve", "POST", "/documents/incidents/review", body={"statement": "I have read it."})
    return "Readiness still passes; the runbook for a tampered ledger was gone through."


async def build(stage: Stage) -> str:
    """Every statement with its evidence; what cannot be shown yet is waived, by name, with an end."""
    found = await _built(stage)
    red = _red(found)
    unknown = {name: told for name, told in red.items() if name not in WAIVED}
    check(not unknown, "nothing red but what is known", unknown)
    for name, told in red.items():
        stage.teller.note(f"{name}: {told}; waived: {WAIVED[name]}")
        await _waive(stage, name)
    if red:
        found = await _built(stage)
    left = [each["name"] for each in _statements(found) if each["verdict"] != "PASS" and not each["waiver"]]
    check(not left, "no statement that is neither PASS nor waived", left)
    counted = Counter("waived" if each["waiver"] else each["verdict"] for each in _statements(found))
    stage.handover = found
    stage.figures["statements"] = sum(counted.values())
    stage.figures["statements_waived"] = counted["waived"]
    return f"{sum(counted.values())} statements, {counted['PASS']} PASS, {counted['waived']} waived by name."


async def sign(stage: Stage) -> str:
    """Four teams, four persons, none of whom built it or made what is in it."""
    path, sha256 = f"/handovers/{stage.handover['id']}", str(stage.handover["sha256"])
    own = {"team": "engineering", "sha256": sha256}
    await stage.call("admin", "POST", f"{path}/sign", 403, own, sent={"team": "engineering"}, show=("reason",))
    await stage.call("olga", "POST", f"{path}/accept", 409, {"sha256": sha256}, sent={}, show=("reason",))
    for team, who in SIGNERS.items():
        said = {"team": team, "sha256": sha256}
        signed = await stage.call(who, "POST", f"{path}/sign", body=said, sent={"team": team}, show=("state",))
    check(signed["state"] == "signed", "a pack that is signed", signed.text)
    return "Each signed its SHA-256, by a second factor used just now."


async def accept(stage: Stage) -> str:
    """At one instant on-call, alert routes and accountability change hands, and the statement is made."""
    path, sha256 = f"/handovers/{stage.handover['id']}", str(stage.handover["sha256"])
    waits = await stage.quietly("olga", "GET", f"{path}/statement")
    check(waits["statement"] is None and not waits["unmet"], "nothing in the way", waits["unmet"])
    before = await stage.quietly("olga", "GET", "/oncall")
    await stage.call("olga", "POST", f"{path}/accept", body={"sha256": sha256}, sent={}, show=("state",))
    made = await stage.quietly("olga", "GET", f"{path}/statement")
    check(made["statement"] is not None, "the handover statement", made.text)
    stage.teller.note(str(made["statement"]["text"]))
    where = await stage.call("olga", "GET", "/environments/production", show=("stage",))
    check(where["stage"] == "bau_active", "bau_active", where.text)
    after = await stage.quietly("olga", "GET", "/oncall")
    check(before.text != after.text, "another on call", after.text)
    return "Accepted: who is on call, whereto alerts go and who answers is another from that instant on."


async def verify(stage: Stage) -> str:
    """Without us, from the pack and the log's key alone; then a copy in which one thing was changed."""
    out = stage.directory / "handover.zip"
    await stage.done("handover", "pack", stage.handover["id"], "-o", str(out), who="admin")
    key = stage.directory / "verifier-key"
    key.write_text(stage.log_key)
    began = time.monotonic()
    ran = await stage.command("pack", str(out), "--key", str(key), "--accepted", program="bailiwick-verify")
    stage.figures["verify_s"] = round(time.monotonic() - began, 1)
    for line in ran.output.splitlines()[:6]:
        stage.teller.note(line)
    check(ran.output.startswith("SIMULATED") and ran.code == 1, "SIMULATED, exit 1", f"{ran.code}: {ran.output[:600]}")
    bad = stage.directory / "tampered.zip"
    name = tamper(out, bad)
    ran = await stage.command("pack", str(bad), "--key", str(key), "--accepted", program="bailiwick-verify")
    for line in ran.output.splitlines()[:3]:
        stage.teller.note(line)
    check(ran.output.startswith("FAIL") and ran.code == 1, "FAIL, exit 1", f"{ran.code}: {ran.output[:600]}")
    check(name in ran.output, f"{name} named", ran.output[:600])
    return "All of it holds, and says that its clock was simulated; one word changed is found and named."


def tamper(source: Path, target: Path) -> str:
    """Copy a pack, and let one verdict be another in the copy; the name of the file that was changed."""
    name = next(each for each in zipfile.ZipFile(source).namelist() if each.endswith("handover/handover.json"))
    with zipfile.ZipFile(source) as read, zipfile.ZipFile(target, "w") as write:
        for item in read.infolist():
            data = read.read(item.filename)
            if item.filename == name:
                changed = data.replace(b'"PASS"', b'"FAIL"', 1)
                check(changed != data, "something to change", name)
                data = changed
            write.writestr(item, data)
    return name.rpartition("/")[2]


async def _built(stage: Stage) -> dict[str, Any]:
    began = time.monotonic()
    made = await stage.call("admin", "POST", "/handovers", 201, {"plan": PLAN}, show=("id", "verdict"))
    stage.figures["pack_built_s"] = round(time.monotonic() - began, 1)
    return (await stage.quietly("admin", "GET", f"/handovers/{made['id']}")).body


def _statements(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {**each, "name": f"{chapter['name']}/{each['name']}"}
        for chapter in found["document"]["chapters"]
        for each in chapter["statements"]
    ]


def _red(found: dict[str, Any]) -> dict[str, str]:
    return {
        each["name"]: f"{each['verdict']}: {each['told']}"
        for each in _statements(found)
        if each["verdict"] != "PASS" and not each["waiver"]
    }


async def _waive(stage: Stage, name: str) -> None:
    until = datetime.fromtimestamp(stage.now(), UTC) + timedelta(days=20)
    asked = {
        "control": CONTROL,
        "scope": f"production/{name}",
        "reason": WAIVED[name],
        "risk": "LOW",
        "compensating": "operations knows of it and looks weekly",
        "owner": "uptime",
        "plan": "shown by the end of the waiver",
        "valid_until": until.isoformat(),
    }
    made = await stage.quietly("admin", "POST", "/waivers", 201, asked)
    await stage.quietly("ada", "POST", f"/waivers/{made['id']}/approve", body={})


__all__ = ["accept", "build", "prepare", "sign", "verify"]
