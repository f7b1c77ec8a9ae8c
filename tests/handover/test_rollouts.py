"""Rollouts: signed, started, done step by step, stopped by what fires, taken back in time; nobody is talked past."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from rollout_desk import DIGEST, PLAN, Desk, kinds
from sqlalchemy.exc import DBAPIError
from stage import Stage

from bailiwick.assurance.ports import Found
from bailiwick.cli.rollout import _answered, _show
from bailiwick.handover.rollouts import records
from bailiwick.handover.rollouts.chapter import chapter
from bailiwick.handover.rollouts.view import shown
from bailiwick.kernel.severity import Severity
from bailiwick.kernel.verdicts import Verdict
from people_fixtures import House


@pytest.fixture
async def desk(house: House, tmp_path: Path) -> Desk:
    return await Desk(Stage(house, kinds()), tmp_path).open()


def step_of(shown: Any, name: str) -> Any:
    return next(each for phase in shown["phases"] for each in phase["steps"] if each["name"] == name)


# --- a whole one


async def test_a_good_release_goes_out_step_by_step(desk: Desk) -> None:
    name = await desk.started()
    await desk.finish(name)
    shown = await desk.shown(name)
    assert (shown["state"], shown["outcome"]) == ("done", "done"), shown["told"]
    assert desk.done() == [f"one hello world {DIGEST}", "two"]
    assert desk.known.weights == [("pay", 50)] and desk.known.live == [("production", DIGEST)]
    assert [each["what"] for each in shown["decisions"]] == ["passed", "passed"]
    for phase in shown["phases"]:
        for step in phase["steps"]:
            assert step["state"] == "passed" and step["record"], step
    # every step left an evidence record that says what was run and what it wrote
    (acted, _), (verified, _) = await desk.records(name, "one")
    assert (acted.exit, acted.command[0], verified.exit) == (0, "step", 0)
    assert step_of(shown, "one")["verification"]
    names = await desk.names()
    assert names[0] == "rollout.planned" and names[-1] == "rollout.ended"
    assert names.count("rollout.step.begun") == names.count("rollout.step.ended") == 7
    async with desk.stage.database.begin() as tx:
        (fact,) = await desk.rollouts.of(tx, "default", "production", desk.stage.clock.now() - timedelta(days=1))
    assert (fact.digest, fact.outcome) == (DIGEST, "done")


async def test_a_bad_step_waits_for_a_decision_and_none_in_time_is_rollback(desk: Desk) -> None:
    desk.script("step-two", "echo it breaks; exit 7")
    name = await desk.started()
    await desk.engine.tick()
    shown = await desk.shown(name)
    assert shown["state"] == "deciding" and "two failed: exit 7" in shown["told"]
    assert desk.stage.heard.tasks[f"rollout/{shown['id']}/decide"].owner == "role:ops_owner"
    assert await desk.stage.people.value("SELECT state FROM alerts WHERE rule = 'RolloutDecision'") == "firing"
    # a failed step is no matter of opinion
    status, said = await desk.say("olga", "POST", f"/{name}/decide", {"decision": "continue", "why": "I trust it"})
    assert (status, said["reason"]) == (409, "rollout_not_waiting")
    desk.stage.clock.advance(599)
    await desk.engine.tick()
    assert await desk.state(name) == "deciding"
    desk.stage.clock.advance(2)
    status, said = await desk.say("olga", "POST", f"/{name}/decide", {"decision": "retry", "why": "again"})
    assert (status, said["reason"]) == (409, "rollout_decision_late")
    await desk.engine.tick()
    shown = await desk.shown(name)
    assert (shown["state"], shown["outcome"]) == ("rolled_back", "rolled_back")
    # newest first, the step that failed too, then what closes
    assert desk.done()[2:] == ["undo-two", "undo-one", "old"]
    assert shown["rollback_s"] == 0 and "rolled back in 0 s" in shown["told"]
    assert [each["what"] for each in shown["decisions"]] == ["fired", "no decision"]
    assert desk.stage.heard.tasks[f"rollout/{shown['id']}/review"].title.endswith("Post-mortem")
    assert f"rollout/{shown['id']}/decide" not in desk.stage.heard.tasks
    assert await desk.stage.people.value("SELECT state FROM alerts WHERE rule = 'RolloutDecision'") == "resolved"


async def test_a_failed_step_can_be_done_again(desk: Desk) -> None:
    desk.script("step-two", "exit 1")
    name = await desk.started()
    await desk.engine.tick()
    status, said = await desk.say("fay", "POST", f"/{name}/decide", {"decision": "retry", "why": "x"})
    assert (status, said["reason"]) == (403, "rollout_role")  # an owner, and not of this
    desk.script("step-two", "exit 0")
    await desk.do("olga", f"/{name}/decide", {"decision": "retry", "why": "mended"})
    await desk.finish(name)
    assert await desk.state(name) == "done"
    assert step_of(await desk.shown(name), "two")["attempts"] == 2


async def test_what_is_not_verified_has_failed(desk: Desk) -> None:
    desk.script("verify-one", "exit 1")
    name = await desk.started()
    await desk.engine.tick()
    shown = await desk.shown(name)
    assert shown["state"] == "deciding" and "not verified" in shown["told"]
    assert desk.done() == [f"one hello world {DIGEST}"]


# --- triggers


async def test_a_trigger_makes_somebody_decide_and_he_may_go_on(desk: Desk) -> None:
    desk.script("step-two", 'while [ ! -f "$HOME/go-on" ]; do sleep 0.02; done')
    name = await desk.started()
    running = asyncio.create_task(desk.engine.tick())
    async with asyncio.timeout(20):
        while len(desk.done()) < 2:
            await asyncio.sleep(0.01)
        desk.known.found["error-rate"] = Found(Verdict.FAIL, 9.0, desk.stage.clock.now())
        while await desk.state(name) != "deciding":  # while the command still runs
            await asyncio.sleep(0.02)
        (desk.home / "go-on").touch()
        await running
    shown = await desk.shown(name)
    assert shown["fired"] == ["errors: probe error-rate is FAIL"] and step_of(shown, "two")["state"] == "acted"
    await desk.do("olga", f"/{name}/decide", {"decision": "continue", "why": "it is the old version's"})
    await desk.finish(name)
    assert await desk.state(name) == "done"


async def test_a_probe_without_data_is_not_quiet(desk: Desk) -> None:
    name = await desk.started()
    desk.known.found["error-rate"] = Found(Verdict.NO_DATA, None, desk.stage.clock.now())
    await desk.engine.tick()
    assert await desk.state(name) == "waiting"  # this trigger says on which verdicts, and the phase is through
    other = PLAN.replace(", fires_on: [FAIL, ERROR]", "")
    assert other != PLAN
    desk.known.found.clear()
    from bailiwick.assurance.book import read_text
    from bailiwick.handover.rollouts.plans import PLAN as KIND

    spec = KIND.read(next(each.spec for each in read_text(other, "x") if each.kind == KIND.name))
    assert set(spec.phases[1].gate.triggers[0].fires_on) == set(Verdict) - {Verdict.PASS}  # type: ignore[union-attr]


async def test_an_alert_by_name_fires(desk: Desk) -> None:
    name = await desk.started()
    await desk.fires("APIDown")
    await desk.engine.tick()
    assert await desk.state(name) == "deciding" and desk.done() == []
    await desk.do("olga", f"/{name}/decide", {"decision": "roll-back", "why": "no"})
    await desk.engine.tick()
    assert await desk.state(name) == "rolled_back" and desk.done() == ["old"]


@pytest.mark.parametrize("verdict", [each for each in Verdict if each is not Verdict.PASS])
async def test_nobody_goes_on_against_a_canary(desk: Desk, verdict: Verdict) -> None:
    name = await desk.started()
    await desk.engine.tick()
    desk.known.canary = type(desk.known.canary)(verdict, desk.stage.clock.now())
    await desk.engine.tick()
    assert await desk.state(name) == "deciding"
    for who in ("olga", "ada"):
        status, said = await desk.say(who, "POST", f"/{name}/decide", {"decision": "continue", "why": "I say so"})
        assert (status, said["reason"]) == (409, "rollout_canary")
    desk.stage.clock.advance(301)
    await desk.engine.tick()
    assert await desk.state(name) == "rolled_back"
    assert desk.known.weights == [("pay", 50), ("pay", 0)]


async def test_a_person_takes_it_back_and_a_running_command_is_stopped(desk: Desk) -> None:
    desk.script("step-two", "sleep 600")
    name = await desk.started()
    running = asyncio.create_task(desk.engine.tick())
    async with asyncio.timeout(20):
        while len(desk.done()) < 2:
            await asyncio.sleep(0.01)
        began = time.monotonic()
        await desk.do("fay", f"/{name}/rollback", {"why": "I see something"})
        await running
    assert time.monotonic() - began < 10
    assert await desk.state(name) == "rolled_back"
    assert desk.done()[2:] == ["undo-two", "undo-one", "old"]


async def test_what_cannot_be_taken_back_says_so_until_somebody_sees_to_it(desk: Desk) -> None:
    desk.script("step-undo-one", "exit 1")
    name = await desk.started()
    await desk.engine.tick()
    await desk.do("olga", f"/{name}/rollback", {"why": "no"})
    await desk.engine.tick()
    shown = await desk.shown(name)
    assert (shown["state"], shown["blocked_on"], shown["outcome"]) == ("stuck", "one", "")
    assert await desk.stage.people.value("SELECT severity FROM alerts WHERE rule = 'RolloutStuck'") == "P0"
    await desk.engine.tick()
    assert desk.done().count("undo-one") == 1  # not again and again
    desk.stage.clock.advance(1801)
    await desk.confirm(name, "one", "pat", statement="undone by hand")
    await desk.engine.tick()
    shown = await desk.shown(name)
    assert shown["state"] == "rolled_back" and "longer than 30m" in shown["told"]
    assert await desk.stage.people.value("SELECT state FROM alerts WHERE rule = 'RolloutStuck'") == "resolved"


# --- people


async def test_steps_of_people_are_theirs_and_another_s(desk: Desk) -> None:
    name = await desk.started()
    await desk.engine.tick()
    shown = await desk.shown(name)
    assert shown["state"] == "waiting" and "security_owner" in shown["told"]
    assert desk.stage.heard.tasks[f"rollout/{shown['id']}/look/forward"].owner == "role:security_owner"
    status, said = await desk.say("olga", "POST", f"/{name}/steps/look/confirm", {"statement": "well"})
    assert (status, said["reason"], said["role"]) == (403, "rollout_role", "security_owner")
    assert (await desk.say("viv", "POST", f"/{name}/steps/look/confirm", {"statement": "well"}))[0] == 403
    assert (await desk.say("aud", "POST", f"/{name}/steps/look/confirm", {"statement": "well"}))[0] == 403
    # not the step whose turn it is
    status, said = await desk.say("olga", "POST", f"/{name}/steps/again/confirm", {"statement": "well"})
    assert (status, said["reason"]) == (409, "rollout_not_waiting")
    await desk.stage.people.value("UPDATE users SET owns = '{ops_owner}' WHERE username = 'sue' RETURNING 1")
    await desk.confirm(name, "look", "sue")
    await desk.engine.tick()
    status, said = await desk.say("sue", "POST", f"/{name}/steps/again/confirm", {"statement": "well"})
    assert (status, said["reason"]) == (403, "rollout_same_person")
    # nor by a second account
    people = desk.stage.people
    await people.value("UPDATE users SET external_id = 'E7' WHERE username IN ('sue', 'olga') RETURNING 1")
    status, said = await desk.say("olga", "POST", f"/{name}/steps/again/confirm", {"statement": "well"})
    assert (status, said["reason"]) == (403, "rollout_same_person")
    await desk.confirm(name, "again", "omar")
    ((record, said),) = await desk.records(name, "look")
    assert (record.kind, record.producer.name, said) == ("attestation", "sue", b"I did")


async def test_a_person_may_say_that_it_is_not_well(desk: Desk) -> None:
    name = await desk.started()
    await desk.engine.tick()
    await desk.confirm(name, "look", "sue", failed=True, statement="sign-in is broken")
    assert await desk.state(name) == "deciding"
    desk.stage.clock.advance(301)
    await desk.engine.tick()
    assert await desk.state(name) == "rolled_back"


async def test_a_key_says_nothing_that_a_person_has_to(desk: Desk) -> None:
    async def by_key(who: str, path: str, body: Any = None) -> tuple[int, str]:
        token = await desk.stage.people.signed_in(who)
        answer = await desk.stage.call(
            "POST", f"/api/v1/rollouts/{path}", body, token=token, headers={"x-test-key": "k1"}
        )
        return answer.status, answer.json().get("reason", "")

    name = await desk.planned()
    body = {"statement": "read", "record": (await desk.shown(name))["phases"][0]["steps"][0]["record"]}
    assert await by_key("pam", f"{name}/steps/preflight/confirm", body) == (403, "person_needed")
    await desk.confirm(name, "preflight", "pam", record=body["record"])
    await desk.engine.tick()
    # to sign and to decide takes a proof of who it is, which no key has
    assert await by_key("olga", f"{name}/go", {}) == (403, "session_needed")
    await desk.do("olga", f"/{name}/go", {})
    await desk.do("sue", f"/{name}/go", {})
    assert (await by_key("pat", f"{name}/start"))[0] == 200
    await desk.engine.tick()
    for failed in (False, True):
        body = {"statement": "well", "failed": failed}
        assert await by_key("sue", f"{name}/steps/look/confirm", body) == (403, "person_needed")
    assert await desk.state(name) == "waiting"


# --- what waits for an approval


@pytest.fixture
async def changing(desk: Desk) -> Desk:
    """The second step changes the plan itself, which takes two persons."""
    changes = PLAN.replace("{kind: command, argv: [step, two]}", "{kind: book, path: book}")
    changes = changes.replace("[{command: [verify, two]}]", "[{command: [verify, one]}]")
    await desk.replan(changes)
    (desk.home / "book").mkdir()
    (desk.home / "book" / "all.yaml").write_text(changes.replace("title: A release", "title: Another"))
    await desk.stage.people.user("abe")
    return desk


async def approvals(desk: Desk) -> list[Any]:
    return list(await desk.stage.quorum.list("default", "g", 100))


async def test_a_book_that_nobody_is_there_to_ask_for_takes_two_others(
    changing: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = changing
    name = await desk.started()
    await desk.engine.tick()
    (waits,) = await approvals(desk)
    shown = await desk.shown(name)
    assert shown["told"] == f"waits for approval {waits.id}" and step_of(shown, "two")["approval"] == waits.id
    assert (waits.needed, waits.requested_by, waits.requester_id) == (2, "pat", "")

    async def planned(*what: Any) -> None:
        raise AssertionError("what only waits is planned again")

    with monkeypatch.context() as patched:
        patched.setattr(desk.stage.books, "plan", planned)
        await desk.engine.tick()
        await desk.engine_on(desk.stage.database).tick()
    for who in ("ada", "abe"):
        assert await desk.state(name) == "running"
        await desk.stage.quorum.vote(
            desk.stage.context(who), "default", waits.id, person=who, role="admin", approves=True,
            payload_sha256=waits.payload_sha256,
        )  # fmt: skip
        await desk.engine.tick()
    assert await desk.state(name) == "waiting" and step_of(await desk.shown(name), "two")["state"] == "passed"


@pytest.mark.parametrize("how", ["rejected", "withdrawn", "expired"])
async def test_an_approval_that_is_not_given_fails_its_step(changing: Desk, how: str) -> None:
    desk = changing
    name = await desk.started()
    await desk.engine.tick()
    (waits,) = await approvals(desk)
    context = desk.stage.context("ada")
    if how == "rejected":
        await desk.stage.quorum.vote(
            context, "default", waits.id, person="ada", role="admin", approves=False,
            payload_sha256=waits.payload_sha256,
        )  # fmt: skip
    elif how == "withdrawn":
        await desk.stage.quorum.withdraw(context, "default", waits.id, person="ada", role="admin")
    else:
        desk.stage.clock.advance(72 * 3600)
    for _ in range(3):
        await desk.engine.tick()
        shown = await desk.shown(name)
        assert shown["state"] == "deciding" and f"approval {waits.id} is {how}" in shown["told"]
        assert len(await approvals(desk)) == 1, "nobody is asked again until somebody says so"
    await desk.do("olga", f"/{name}/decide", {"decision": "retry", "why": "they have talked"})
    await desk.engine.tick()
    newest, _ = await approvals(desk)
    assert (await desk.shown(name))["told"] == f"waits for approval {newest.id}"


async def test_one_rollout_changes_an_environment_at_a_time(desk: Desk) -> None:
    first, second = await desk.started(), await desk.go()
    status, said = await desk.say("pat", "POST", f"/{second}/start")
    assert (status, said["reason"]) == (409, "rollout_going")
    assert await desk.state(second) == "go" and await desk.state(first) == "waiting"
    elsewhere = await desk.go(environment="staging")
    await desk.do("pat", f"/{elsewhere}/start")


async def test_a_freeze_holds_the_next_step_and_lets_it_be_taken_back(desk: Desk) -> None:
    desk.script("step-one", "touch $HOME/ran")
    name = await desk.started()
    await desk.freeze()
    await desk.engine.tick()
    shown = await desk.shown(name)
    assert shown["state"] == "running" and "frozen" in shown["told"] and desk.done() == []
    await desk.thaw()
    await desk.engine.tick()
    assert await desk.state(name) == "waiting"
    await desk.freeze()
    await desk.do("olga", f"/{name}/rollback", {"why": "no"})
    await desk.engine.tick()
    assert await desk.state(name) == "rolled_back" and "undo-one" in desk.done()


# --- what is asked wrongly


async def test_what_is_planned_must_be_there(desk: Desk) -> None:
    body = {"plan": "release", "environment": "production", "digest": DIGEST}
    for wrong in (
        {"plan": "none"}, {"environment": "moon"}, {"digest": "sha256:ab"}, {"variables": {"what": "x"}},
        {"variables": {"who": "--delete"}}, {"variables": {"who": "$(reboot)"}}, {"variables": {"who": "a\u0000"}},
    ):  # fmt: skip
        status, said = await desk.say("pat", "POST", "", {**body, **wrong})
        assert status in (400, 404), said
    assert (await desk.say("viv", "POST", "", body))[0] == 403
    assert (await desk.say("sue", "POST", "", body))[0] == 403
    assert (await desk.say("aud", "GET", ""))[1]["rollouts"] == []


async def test_what_was_planned_and_what_has_ended_does_not_change(desk: Desk) -> None:
    name = await desk.go()
    await desk.do("olga", f"/{name}/abandon", {"why": "later"})
    for wrong in (
        "UPDATE rollouts SET state = 'running'",
        "UPDATE rollouts SET digest = 'sha256:" + "0" * 64 + "'",
        "UPDATE rollout_answers SET go = true",
        "DELETE FROM rollout_signatures",
        "UPDATE rollout_attempts SET state = 'passed', told = 'yes'",
        "DELETE FROM rollouts",
    ):
        with pytest.raises(DBAPIError):
            async with desk.stage.database.begin() as tx:
                await tx.run(wrong)


# --- programs


async def test_a_command_that_hangs_is_ended_with_all_it_started(desk: Desk) -> None:
    await desk.replan(PLAN.replace("argv: [step, two]", "argv: [step, two], timeout: 1s"))
    desk.script("step-two", "(sleep 300; echo no >> $HOME/done) & echo $! > $HOME/child; sleep 300")
    name = await desk.started()
    began = time.monotonic()
    await desk.engine.tick()
    assert time.monotonic() - began < 15
    shown = await desk.shown(name)
    assert shown["state"] == "deciding" and "did not end in time" in shown["told"]
    child = int((desk.home / "child").read_text())
    assert not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split(")")[1]


async def test_ten_megabytes_of_output_are_read_and_the_beginning_kept(desk: Desk) -> None:
    desk.script("step-one", "head -c 10485760 /dev/zero | tr '\\0' x")
    name = await desk.started()
    await desk.engine.tick()
    assert await desk.state(name) == "waiting"
    record, kept = (await desk.records(name, "one"))[0]
    assert record.output.bytes == 10 * (1 << 20) and record.output.truncated
    assert len(kept) == 1 << 20


async def test_a_secret_in_an_output_is_kept_nowhere(desk: Desk) -> None:
    secret = "hunter2-hunter2-hunter2"
    desk.script("step-one", f"echo password={secret}; echo Authorization: Bearer {secret}")
    desk.script("step-two", f"echo password={secret}; exit 1")
    name = await desk.started()
    await desk.engine.tick()
    assert await desk.state(name) == "deciding"
    async with desk.stage.database.begin() as tx:
        for row in await tx.all("SELECT data FROM ledger.evidence_outputs"):
            assert secret.encode() not in bytes(row["data"])
        told = await tx.all("SELECT told FROM rollout_attempts UNION ALL SELECT told FROM rollouts")
    assert secret not in str(told) + str(await desk.stage.people.events()) + json.dumps(await desk.shown(name))


async def test_only_what_the_operator_allows_is_run(desk: Desk) -> None:
    await desk.replan(PLAN.replace("argv: [step, two]", "argv: [/bin/sh, -c, reboot]"))
    name = await desk.started()
    await desk.engine.tick()
    shown = await desk.shown(name)
    assert shown["state"] == "deciding" and "program_not_allowed" in shown["told"]


async def test_kubectl_records_the_difference_before_it_applies(desk: Desk) -> None:
    other = PLAN.replace("{kind: command, argv: [step, two]}", "{kind: kubectl, path: k8s/api}")
    other = other.replace("[{command: [verify, two]}]", "[{command: [verify, one]}]")
    await desk.replan(other)
    desk.script("kubectl-diff", "echo '+ replicas: 5'; exit 1")
    name = await desk.started()
    await desk.engine.tick()
    assert desk.done("kubectl") == ["diff -f k8s/api", "apply -f k8s/api"], await desk.shown(name)
    assert b"+ replicas: 5" in (await desk.records(name, "two"))[0][1]
    # a difference that cannot be told is no difference to apply
    desk.script("kubectl-diff", "exit 2")
    other = await desk.go(environment="staging")
    await desk.do("pat", f"/{other}/start")
    await desk.engine.tick()
    assert await desk.state(other) == "deciding" and len(desk.done("kubectl")) == 3


async def test_alerts_of_our_own_are_no_trigger(desk: Desk) -> None:
    desk.script("step-two", "exit 1")
    await desk.started()
    await desk.engine.tick()
    rules = await desk.stage.people.value("SELECT array_agg(rule || severity) FROM alerts")
    assert rules == ["RolloutDecisionP1"]
    await desk.fires("Other", Severity.P0)
    from bailiwick.handover.rollouts.engine import OWN_ALERTS

    assert set(OWN_ALERTS) == {"RolloutDecision", "RolloutStuck"}


async def test_a_rollout_is_readable_in_a_terminal(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.script("step-two", "exit 1")
    name = await desk.started()
    await desk.engine.tick()
    async with desk.stage.database.begin() as tx:
        rollout = await records.find(tx, "default", name)
        found = shown(
            rollout,
            await records.attempts_of(tx, rollout.id),
            await records.decisions_of(tx, rollout.id),
            await records.signatures_of(tx, rollout.id, rollout.round),
            await records.newest_answer(tx, rollout.id),
        )
    _show(found)
    _answered((await desk.shown(name))["last_answer"], json_=False)
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines), lines
    assert lines[0].startswith(f"{name} DECIDING production sha256:ab") and any(
        "FAILED   two" in line for line in lines
    )
    assert any(line.startswith("decide by 2026-01-05 09:10") for line in lines)
    assert any(line.startswith("  ok PASS     canary") for line in lines)


async def test_whatever_a_person_does_leaves_its_event(desk: Desk) -> None:
    async def left(what: Any) -> set[str]:
        before = len(await desk.names())
        await what
        return set((await desk.names())[before:])

    name = await desk.pending()
    desk.script("step-two", "exit 1")
    assert await left(desk.do("pat", f"/{name}/check")) == {"rollout.answered"}
    assert await left(desk.do("olga", f"/{name}/go", {})) == {"rollout.signed", "rollout.answered"}
    assert "rollout.moved" in await left(desk.do("sue", f"/{name}/go", {}))
    assert {"rollout.started", "rollout.answered"} <= await left(desk.do("pat", f"/{name}/start"))
    assert {"rollout.triggered", "rollout.step.begun", "rollout.step.ended"} <= await left(desk.engine.tick())
    body = {"decision": "retry", "why": "x"}
    assert "rollout.decided" in await left(desk.do("olga", f"/{name}/decide", body))
    assert "rollout.decided" in await left(desk.do("olga", f"/{name}/rollback", {"why": "x"}))
    assert "rollout.ended" in await left(desk.engine.tick())
    assert await left(desk.pending(environment="staging")) >= {"rollout.planned", "rollout.step.ended"}
    last = (await desk.say("aud", "GET", "?environment=staging"))[1]["rollouts"][0]["name"]
    assert "rollout.ended" in await left(desk.do("olga", f"/{last}/abandon", {"why": "x"}))
    other = await desk.pending()
    assert {"rollout.signed", "rollout.ended"} <= await left(desk.do("fay", f"/{other}/no-go", {"why": "x"}))


async def test_a_handover_pack_tells_of_what_is_out_and_what_was(desk: Desk) -> None:
    async def told() -> dict[str, Verdict]:
        now = desk.stage.clock.now()
        async with desk.stage.database.begin() as tx:
            found = await chapter(tx, "default", "production", now - timedelta(days=30), now)
        return {each.name: each.verdict for each in found}

    assert set((await told()).values()) == {Verdict.NO_DATA}
    await desk.finish(await desk.started())
    assert await told() == {
        "version": Verdict.PASS, "rollback-revision": Verdict.NO_DATA, "history": Verdict.PASS,
    }  # fmt: skip
    name = await desk.planned()
    await desk.do("olga", f"/{name}/go", {})
    await desk.do("sue", f"/{name}/go", {})
    await desk.do("pat", f"/{name}/start")
    await desk.finish(name)
    assert set((await told()).values()) == {Verdict.PASS}


async def test_the_loop_works_on_all_that_go_on_and_gives_them_back(desk: Desk) -> None:
    desk.script("step-two", "sleep 0.2")
    first, second = await desk.started(), await desk.go(environment="staging")
    await desk.do("pat", f"/{second}/start")
    loop = asyncio.create_task(desk.engine.run())
    async with asyncio.timeout(30):
        while {await desk.state(first), await desk.state(second)} != {"waiting"}:
            await asyncio.sleep(0.05)
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)
    assert sorted(each.split()[0] for each in desk.done()) == ["one", "one", "two", "two"]
    assert await desk.stage.people.value("SELECT count(*) FROM rollouts WHERE lease_until IS NOT NULL") == 0
