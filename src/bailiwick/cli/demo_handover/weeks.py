"""A week passes: hypercare by its slots, validation, and the checkpoint a week after going live."""

from __future__ import annotations

import time

from bailiwick.cli.demo.telling import check
from bailiwick.cli.demo_handover.stage import ENVIRONMENT, Stage, sign_in_all

STRIDE = "18h"
_STRIDE_S = 18 * 3600
_WEEK_S = 7 * 86_400


async def let_pass(stage: Stage) -> str:
    """The same installation, with a clock that strides; whatever came due is done before it strides on."""
    await stage.installation.stop()
    await stage.installation.start(lambda line: None, "--clock-stride", STRIDE)
    began = time.monotonic()
    # to where a stride ends, so that what is judged then was looked at just then
    until = -(-(stage.now() + _WEEK_S) // _STRIDE_S) * _STRIDE_S
    ran = await stage.done("clock", "advance", f"{int(until - stage.now()) + 1}s")
    stage.figures["week_s"] = round(time.monotonic() - began, 1)
    stage.teller.note(ran.output.splitlines()[-1])
    check("SIMULATED" in ran.output, "a clock that says it is simulated", ran.output)
    await sign_in_all(stage)
    await stage.call("olga", "GET", f"/environments/{ENVIRONMENT}", show=("stage", "live_at"))
    return "A week is over; from now on everything says that its clock was simulated."


async def hypercare(stage: Stage) -> str:
    """Three days of slots, each filled by measuring, and two suites of validation."""
    found = await stage.call("olga", "GET", f"/environments/{ENVIRONMENT}/hypercare", show=("verdict", "figures"))
    for each in found["slots"]:
        stage.teller.note(f"slot {each['at']}: {each['verdict']}, {each['told']}")
    check(found["verdict"] == "PASS", "hypercare that may end", found["blockers"])
    checked = await stage.call("olga", "GET", f"/environments/{ENVIRONMENT}/validation", show=("verdict",))
    for each in checked["suites"]:
        stage.teller.note(f"{each['name']}: {each['verdict']}, {each['told']}")
    check(checked["verdict"] == "PASS", "validation that passes", checked["suites"])
    ran = await stage.done("hypercare", "show", ENVIRONMENT)
    stage.teller.note(ran.output.splitlines()[0])
    return "No slot was missed, none was typed in: hypercare may end."


async def checkpoint(stage: Stage) -> str:
    """T+7 was judged by the clock when its instant came."""
    found = await stage.call("olga", "GET", "/checkpoints/T7", show=("checkpoint",))
    check(bool(found["results"]), "a result of T+7", found.text)
    newest = found["results"][0]
    stage.teller.note(f"T+7 of {newest['due_at']}: {newest['verdict']}")
    check(newest["verdict"] == "PASS", "PASS", newest)
    later = await stage.call("olga", "POST", "/checkpoints/T14/evaluate", body={}, show=("verdict",))
    check(later["verdict"] == "NOT_DUE", "T+14 that is not due", later.text)
    return "T+7 passes; T+14 is not due yet, and nothing makes it so."
