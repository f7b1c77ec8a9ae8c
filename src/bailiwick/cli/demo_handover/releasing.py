"""Two candidates: a bad one, which its canary refuses and the rollout takes back, and a good one, which stays out."""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import Any

from bailiwick.cli.demo.exchange import Answer
from bailiwick.cli.demo.telling import check
from bailiwick.cli.demo_handover.arms import Arm, load
from bailiwick.cli.demo_handover.preparing import mandate
from bailiwick.cli.demo_handover.stage import ENVIRONMENT, SERVER, Stage

QUIET_WITHIN_S = 5.0
_JUDGED_WITHIN_S = 90.0
_SEEN_FOR_S = 2.0
_COUNTED_WITHIN_S = 130.0


async def refuse_bad(stage: Stage) -> str:
    """It does well with half of the traffic and breaks under all of it: refused by its canary, and taken back."""
    bad = stage.arms.arms["bad"]
    digest = _digest(stage, "bad")
    rollout = await _planned(stage, digest)
    await mandate(stage, "agent")
    async with load(stage.http.session, stage.governed("/payments"), lambda: stage.mandate.token):
        canary = await _passed(stage, digest, bad)
        await _go(stage, rollout)
        await stage.call("eve", "POST", f"/rollouts/{rollout}/start", show=("state",))
        await _until_step(stage, rollout, "own", "begun")
        bad.fails = 2
        stage.teller.note("half of what it answers is an error from now on")
        began = time.monotonic()
        ended = await _over(stage, canary, bad)
        stage.figures["bad_candidate_refused_s"] = round(time.monotonic() - began - _SEEN_FOR_S, 1)
        check((ended["verdict"], ended["reason"]) == ("FAIL", "veto"), "FAIL by veto", ended.text)
        check(stage.figures["bad_candidate_quiet_s"] < QUIET_WITHIN_S, "no traffic within 5 s", str(stage.figures))
        stage.teller.note(
            f"it had {bad.seen} requests, and the last {stage.figures['bad_candidate_quiet_s']:g} s after"
        )
        await _back(stage, rollout)
    again = _start(stage, digest, bad)
    await stage.call("eve", "POST", "/canaries", 409, again, reason="canary_failed", sent={"digest": digest[:19]})
    return "Refused by its canary; the rollout was taken back by its plan, and that was measured."


async def _back(stage: Stage, rollout: str) -> None:
    """Nobody goes on against the canary; taken back by the plan; and the same release is a NO-GO, whoever signs."""
    found = await _until(stage, rollout, "deciding")
    stage.teller.note(f"deciding: {found['told']}")
    on = {"decision": "continue", "why": "we want it out"}
    await stage.call("olga", "POST", f"/rollouts/{rollout}/decide", 409, on, reason="rollout_canary")
    back = {"decision": "roll-back", "why": "half of it fails"}
    began = time.monotonic()
    await stage.call("olga", "POST", f"/rollouts/{rollout}/decide", body=back, show=("state",))
    ended = await _until(stage, rollout, "rolled_back")
    stage.teller.note(f"{ended['state']}: {ended['told']}")
    stage.figures["bad_candidate_rolled_back_s"] = round(time.monotonic() - began, 1)
    check(ended["outcome"] == "rolled_back", "a rollout that was taken back", ended.text)
    check(ended["rollback_s"] <= ended["rollback_within_s"], "within what its plan allows", ended["told"])
    body = {"plan": "payments", "environment": ENVIRONMENT, "digest": ended["digest"]}
    same = str((await stage.call("eve", "POST", "/rollouts", 201, body, show=("name",)))["name"])
    answer = await stage.call("olga", "POST", f"/rollouts/{same}/check", show=("answer",))
    line = _line(answer, "canary")
    stage.teller.note(f"NO-GO: {line['told']}")
    check(line["passes"] is False and line["verdict"] == "FAIL", "a canary line that fails", line)
    given = await stage.call("olga", "POST", f"/rollouts/{same}/no-go", body={"why": "half of it fails"})
    check(given["state"] == "no_go", "an ended rollout", given.text)


async def release_good(stage: Stage) -> str:
    """It passes on real traffic, two sign, the program takes it through, and the environment is live."""
    good = stage.arms.arms["good"]
    digest = _digest(stage, "good")
    rollout = stage.rollout = await _planned(stage, digest)
    began = time.monotonic()
    await mandate(stage, "agent")
    async with load(stage.http.session, stage.governed("/payments"), lambda: stage.mandate.token) as answers:
        await _passed(stage, digest, good)
        await _go(stage, rollout)
        await stage.call("eve", "POST", f"/rollouts/{rollout}/start", show=("state",))
        await _until_step(stage, rollout, "own", "begun")
        binding = (await stage.quietly("admin", "GET", f"/servers/{SERVER}"))["binding"]
        changed = {"endpoint": good.url, "binding": binding}
        await stage.call("admin", "PATCH", f"/servers/{SERVER}", body=changed, sent={"endpoint": good.url})
        said = {"statement": "the server's upstream is the candidate's address"}
        await stage.call("eve", "POST", f"/rollouts/{rollout}/steps/own/confirm", body=said, show=("state",))
        done = await _until(stage, rollout, "done")
    stage.figures["good_candidate_out_s"] = round(time.monotonic() - began, 1)
    again = answers.pop((503, "route_pending"), 0)  # told to ask again while the server's upstream changed
    wrong = {each: count for each, count in answers.items() if each[0] != 200}
    stage.teller.note(f"{again} were told to ask again at the moment when the upstream changed")
    check(not wrong, "callers who saw no failed request", str(wrong))
    stage.figures["requests_during_the_rollout"] = sum(answers.values())
    check(done["outcome"] == "done", "a rollout that is done", done.text)
    where = await stage.call("olga", "GET", f"/environments/{ENVIRONMENT}", show=("stage",))
    check(where["stage"] in ("live", "hypercare") and where["digest"] == digest, "live by this digest", where.text)
    return f"GO by the canary and two persons; {sum(answers.values()):,} requests meanwhile, none failed."


def _digest(stage: Stage, name: str) -> str:
    stage.digests[name] = f"sha256:{hashlib.sha256(f'{name} release'.encode()).hexdigest()}"
    return stage.digests[name]


def _start(stage: Stage, digest: str, candidate: Arm) -> dict[str, Any]:
    return {
        "server": SERVER,
        "digest": digest,
        "plan": "quick",
        "candidate_url": candidate.url,
        "baseline_url": stage.arms.arms["baseline"].url,
        "automatic": False,
    }


async def _planned(stage: Stage, digest: str) -> str:
    """A rollout that waits for its GO: planned, its preflight made and read by another."""
    body = {"plan": "payments", "environment": ENVIRONMENT, "digest": digest}
    name = str((await stage.call("eve", "POST", "/rollouts", 201, body, show=("name", "state")))["name"])
    step = await _until_step(stage, name, "preflight", "acted")
    said = {"statement": "I have read what differs", "record": step["record"]}
    confirm = f"/rollouts/{name}/steps/preflight/confirm"
    await stage.call("eve", "POST", confirm, (403, 409), said, sent={}, show=("reason",))
    await stage.call("olga", "POST", confirm, body=said, show=("state",))
    await _until(stage, name, "pending")
    return name


async def _until_step(stage: Stage, rollout: str, step: str, state: str) -> dict[str, Any]:
    """The step, once it is in that state: it waits for a person then."""

    def of(answer: Answer) -> dict[str, Any]:
        return next(each for phase in answer["phases"] for each in phase["steps"] if each["name"] == step)

    found = await stage.quietly(
        "eve",
        "GET",
        f"/rollouts/{rollout}",
        until=lambda one: of(one)["state"] == state or one["state"] in ("deciding", "stuck", "rolled_back"),
        within=60.0,
    )
    check(of(found)["state"] == state, f"the step {step} {state}", f"{found['state']}: {found['told']}")
    return of(found)


async def _until(stage: Stage, rollout: str, state: str) -> Answer:
    return await stage.quietly(
        "eve",
        "GET",
        f"/rollouts/{rollout}",
        until=lambda one: one["state"] == state,
        within=60.0,
    )


async def _passed(stage: Stage, digest: str, candidate: Arm) -> str:
    """A canary on the callers' traffic that passed its step, and was let go on; its id."""
    begun = await stage.call(
        "eve", "POST", "/canaries", 201, _start(stage, digest, candidate), sent={"digest": digest[:19]}
    )
    passed = await stage.quietly(
        "eve",
        "GET",
        f"/canaries/{begun['id']}",
        until=lambda one: one["passed"] > 0 or one["state"] != "running",
        within=_JUDGED_WITHIN_S,
    )
    check(passed["state"] == "running" and passed["passed"] > 0, "a candidate that passed its step", passed.text)
    stage.teller.note(f"at 50 %: {passed['told']}")
    await stage.call("eve", "POST", f"/canaries/{begun['id']}/promote", show=("state", "verdict"))
    return str(begun["id"])


async def _go(stage: Stage, rollout: str) -> None:
    """GO by two persons who did not plan it, once there is something to measure the budget by."""
    await stage.quietly(  # which is counted each whole minute
        "olga",
        "GET",
        "/slos",
        until=lambda one: all(each["events"] >= 20 for each in one["items"]),
        within=_COUNTED_WITHIN_S,
    )
    first = await stage.call("olga", "POST", f"/rollouts/{rollout}/go", body={"why": "tested"}, show=("answer",))
    check(first["answer"] == "NO-GO", "NO-GO with one signature", first.text)
    await stage.call("eve", "POST", f"/rollouts/{rollout}/go", 403, {"why": "mine"}, show=("reason",))
    signed = await stage.call("mia", "POST", f"/rollouts/{rollout}/go", body={"why": "tested"}, show=("answer",))
    check(signed["answer"] == "GO", "GO", [each for each in signed["lines"] if not each["passes"]])


async def _over(stage: Stage, canary: str, candidate: Arm) -> Answer:
    """A canary that withdrew itself; how long its candidate had traffic after that."""
    ended = await stage.quietly(
        "eve", "GET", f"/canaries/{canary}", until=lambda one: one["state"] == "withdrawn", within=_JUDGED_WITHIN_S
    )
    seen = time.monotonic()
    await asyncio.sleep(_SEEN_FOR_S)
    check(time.monotonic() - candidate.last >= _SEEN_FOR_S / 2, "a candidate without traffic", "one with some")
    stage.figures["bad_candidate_quiet_s"] = round(max(0.0, candidate.last - seen), 2)
    stage.teller.note(f"{ended['state']}: {ended['told']}")
    return ended


def _line(answer: Answer, name: str) -> dict[str, Any]:
    return next(dict(each) for each in answer["lines"] if each["name"] == name)
