"""Two drills before anything goes live: an alarm is rung and answered, and PostgreSQL is killed and comes back."""

from __future__ import annotations

import time
from collections.abc import Callable

from bailiwick.cli.demo.exchange import Answer
from bailiwick.cli.demo.telling import check
from bailiwick.cli.demo_handover.stage import Stage

RULE = "PartRestarted"
_KILLED = "guard"
_RUNG_WITHIN_S = 60.0


async def ring(stage: Stage) -> str:
    """A part is killed on purpose: the rule sees it, the chat of who is on call is told, who is on call answers."""
    asked = {"fault": "kill-part", "target": _KILLED, "rule": RULE, "lasts_s": 600}
    drill = await stage.call("olga", "POST", "/alerts/drills", 201, asked, show=("state",))
    where = f"/alerts/drills/{drill['id']}"
    told = await _until(stage, where, lambda one: one["delivered_at"] is not None)
    alert = (await stage.quietly("eve", "GET", f"/alerts/{told['alert']}")).body
    message = next((each for each in stage.hooks["makers"].told if alert["id"] in each), "")
    check(bool(message), "the alarm in the chat of who is on call", f"{len(stage.hooks['makers'].told)} others")
    stage.teller.note(f"the chat: [{alert['severity']}] {alert['summary']}")
    on_call = (await stage.quietly("eve", "GET", "/oncall")).text
    check('"eve"' in on_call, "eve on call", on_call[:300])
    await stage.call("eve", "POST", f"/alerts/{alert['id']}/ack", body={}, show=("state",))
    ended = await _until(stage, where, lambda one: one["state"] == "acknowledged")
    for name in ("fired", "delivered", "acknowledged"):
        stage.figures[f"alarm_{name}_s"] = round(ended["took_s"][name], 1)
    steps = ", ".join(f"{name} after {took:.1f} s" for name, took in ended["took_s"].items())
    stage.teller.note(steps)
    return "Nobody pretended: a real fault, seen by a rule, told to the chat, answered by who is on call."


async def fail_over(stage: Stage) -> str:
    """The database is killed while everything runs, and how long that is felt is measured."""
    began = time.monotonic()
    await stage.done("drill", "failover", "postgres")
    stage.figures["failover_drill_s"] = round(time.monotonic() - began, 1)
    held = (await stage.quietly("olga", "GET", "/backups/drills"))["items"]
    newest = next(each for each in held if each["kind"] == "failover")
    stage.figures["failover_rto_s"] = round(newest["rto_s"], 1)
    stage.teller.note(f"postgres was killed: all was served again after {newest['rto_s']:.1f} s, nothing was lost")
    check(newest["verdict"] == "PASS", "a failover drill that passes", newest)
    return "The database came back by itself, with everything that was acknowledged before."


async def _until(stage: Stage, where: str, holds: Callable[[Answer], bool]) -> Answer:
    found = await stage.quietly("olga", "GET", where, until=holds, within=_RUNG_WITHIN_S)
    check(holds(found), f"a drill that goes on within {_RUNG_WITHIN_S:g} s", found.text)
    return found


__all__ = ["RULE", "fail_over", "ring"]
