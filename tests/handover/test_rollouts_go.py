"""Go or No-Go: every condition is broken by itself, and each makes it NO-GO; of GO and NO-GO at once NO-GO wins."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rollout_desk import DIGEST, PLAN, Desk, kinds
from stage import Stage

from bailiwick.assurance.ports import GateAnswer
from bailiwick.evidence.events import Actor, Context
from bailiwick.handover.ports import OpenIncident, Point, Standing
from bailiwick.handover.rollouts.go import Facts, Preflight, Signature, answer, sha256_of
from bailiwick.handover.rollouts.migrations import statements
from bailiwick.identity.persons import note_influence
from bailiwick.kernel.db import Database
from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.http import Caller
from bailiwick.kernel.severity import Severity
from bailiwick.kernel.verdicts import Verdict
from people_fixtures import House

NOW = datetime(2026, 1, 5, 9, tzinfo=UTC)
DAY = timedelta(hours=24)
RED = [each for each in Verdict if each is not Verdict.PASS]


def facts(**more: Any) -> Facts:
    return Facts(
        **{
            "digest": DIGEST,
            "planned_by": "pat",
            "required": ["ops_owner", "security_owner"],
            "readiness": Standing(Verdict.PASS, NOW),
            "canary": Standing(Verdict.PASS, NOW - timedelta(hours=1)),
            "budget": GateAnswer(Verdict.PASS, True),
            "incidents": [],
            "frozen": "",
            "preflight": Preflight(Verdict.PASS, NOW),
            "signatures": [Signature("olga", "ops_owner", "GO", NOW), Signature("sue", "security_owner", "GO", NOW)],
            **more,
        }
    )


def failing(found: Facts, now: datetime = NOW) -> set[str]:
    said = answer(found, now)
    assert said.go is all(line.passes for line in said.lines)
    return {line.name for line in said.lines if not line.passes}


def test_nothing_missing_is_go() -> None:
    said = answer(facts(), NOW)
    assert said.go and said.until <= NOW + DAY and all(line.verdict.green for line in said.lines)


def signed(by: str, role: str, says: str = "GO", at: datetime = NOW) -> Signature:
    return Signature(by, role, says, at)


OLGA = signed("olga", "ops_owner")
WAIVED = Point("item", Verdict.FAIL, waiver="WV-1")
BROKEN: list[tuple[str, dict[str, Any]]] = [
    *[("readiness", {"readiness": Standing(verdict, NOW)}) for verdict in RED],
    ("readiness", {"readiness": Standing(Verdict.PASS, NOW, blockers=[Point("item", Verdict.FAIL)])}),
    ("readiness", {"readiness": Standing(Verdict.PASS, NOW - DAY, until=NOW)}),
    *[("canary", {"canary": Standing(verdict, NOW)}) for verdict in RED],
    ("canary", {"canary": Standing(Verdict.PASS, NOW - DAY)}),
    ("canary", {"canary": Standing(Verdict.PASS, NOW, until=NOW)}),
    # a waiver on the canary changes nothing
    ("canary", {"canary": Standing(Verdict.PASS, NOW, blockers=[WAIVED])}),
    ("canary", {"canary": Standing(Verdict.FAIL, NOW, blockers=[WAIVED])}),
    ("canary", {"canary": Standing(Verdict.PASS, NOW, waived=[WAIVED])}),
    # what stands in the way does, whatever is said of a waiver
    ("readiness", {"readiness": Standing(Verdict.PASS, NOW, blockers=[WAIVED])}),
    *[("error budget", {"budget": GateAnswer(verdict, False, ("spent",))}) for verdict in RED],
    ("incidents", {"incidents": [OpenIncident("INC-1", Severity.P0, "down", NOW)]}),
    ("incidents", {"incidents": [OpenIncident("INC-1", Severity.P1, "slow", NOW)]}),
    ("freeze", {"frozen": "frozen until Monday"}),
    ("preflight", {"preflight": None}),
    *[("preflight", {"preflight": Preflight(verdict, NOW)}) for verdict in RED],
    ("preflight", {"preflight": Preflight(Verdict.PASS, NOW - DAY)}),
    ("signature of security_owner", {"signatures": [OLGA]}),
    # one person for both
    ("signature of security_owner", {"signatures": [OLGA, signed("olga", "security_owner")]}),
    # who planned it
    ("signature of security_owner", {"signatures": [OLGA, signed("pat", "security_owner")]}),
    ("signature of security_owner", {"signatures": [OLGA, signed("sue", "security_owner", at=NOW - DAY)]}),
    ("signature of security_owner", {"signatures": [OLGA, signed("sue", "finance_owner")]}),
    ("signature of x", {"signatures": [OLGA, signed("sue", "security_owner"), signed("fay", "x", "NO-GO")]}),
]


@pytest.mark.parametrize(("line", "broken"), BROKEN)
def test_each_condition_alone_is_no_go(line: str, broken: dict[str, Any]) -> None:
    assert failing(facts(**broken)) == {line}


@pytest.mark.parametrize(
    "told",
    [
        {"same": {"sue": {"olga"}}},
        {"same": {"sue": {"pat"}}},
        {"same": {"olga": {"sue"}, "sue": {"olga"}}},
        {"gone": {"sue"}},
    ],
)
def test_accounts_of_one_person_and_people_who_left_do_not_count(told: dict[str, Any]) -> None:
    assert failing(facts(**told)) == {"signature of security_owner"}


def test_what_a_waiver_may_pass_passes_by_its_id() -> None:
    said = answer(facts(readiness=Standing(Verdict.PASS, NOW, waived=[WAIVED])), NOW)
    assert said.go and "item by waiver WV-1" in said.lines[0].told and said.lines[0].exception == "waiver"
    said = answer(facts(budget=GateAnswer(Verdict.FAIL, True, ("spent",), "waiver", "WV-2")), NOW)
    assert said.go and "WV-2" in said.lines[2].told


def test_lesser_incidents_do_not_stop_it() -> None:
    assert answer(facts(incidents=[OpenIncident("INC-1", Severity.P2, "x", NOW)]), NOW).go


def test_an_answer_ends_with_what_it_stands_on() -> None:
    said = answer(facts(canary=Standing(Verdict.PASS, NOW, until=NOW + timedelta(hours=2))), NOW)
    assert said.until == NOW + timedelta(hours=2)
    old = facts(signatures=[replace(OLGA, at=NOW - timedelta(hours=20)), signed("sue", "security_owner")])
    assert answer(old, NOW).until == NOW + timedelta(hours=4)


VERDICTS = st.sampled_from(list(Verdict))


@given(
    readiness=VERDICTS, canary=VERDICTS, budget=VERDICTS, passes=st.booleans(), preflight=st.none() | VERDICTS,
    frozen=st.sampled_from(["", "why"]), age=st.integers(0, 48), severity=st.none() | st.sampled_from(list(Severity)),
    signers=st.lists(st.tuples(st.sampled_from(["olga", "sue", "pat"]), st.sampled_from(["ops_owner", "security_owner"]),
                               st.sampled_from(["GO", "NO-GO"])), max_size=5),
)  # fmt: skip
def test_go_takes_all_of_it(
    readiness: Verdict, canary: Verdict, budget: Verdict, passes: bool, preflight: Verdict | None, frozen: str,
    age: int, severity: Severity | None, signers: list[tuple[str, str, str]],
) -> None:  # fmt: skip
    found = facts(
        readiness=Standing(readiness, NOW), canary=Standing(canary, NOW - timedelta(hours=age)),
        budget=GateAnswer(budget, passes), frozen=frozen,
        preflight=Preflight(preflight, NOW) if preflight else None,
        incidents=[OpenIncident("INC-1", severity, "x", NOW)] if severity else [],
        signatures=[Signature(by, role, says, NOW) for by, role, says in signers],
    )  # fmt: skip
    if answer(found, NOW).go:
        assert (readiness, canary, passes, preflight, frozen) == (Verdict.PASS, Verdict.PASS, True, Verdict.PASS, "")
        assert age < 24 and severity not in (Severity.P0, Severity.P1)
        assert "NO-GO" not in [says for *_, says in signers]
        assert len({by for by, *_ in signers} - {"pat"}) == 2


# --- pressed by people


@pytest.fixture
async def desk(house: House, tmp_path: Path) -> Desk:
    return await Desk(Stage(house, kinds()), tmp_path).open()


async def test_go_is_signed_by_distinct_people_of_the_roles(desk: Desk) -> None:
    name = await desk.pending()
    said = await desk.do("olga", f"/{name}/go", {"why": "well tested"})
    assert said["answer"] == "NO-GO" and [line["name"] for line in said["lines"] if not line["passes"]] == [
        "signature of security_owner"
    ]
    for who, body, reason in (
        ("fay", {}, "rollout_role"),
        ("ada", {}, "rollout_role"),  # an administrator owns nothing
        ("sue", {"role": "ops_owner"}, "rollout_role"),
        ("omar", {"role": "finance_owner"}, "rollout_role"),
        ("omar", {}, "rollout_role"),  # that role has signed
    ):
        status, refused = await desk.say(who, "POST", f"/{name}/go", body)
        assert (status, refused["reason"]) == (403, reason), who
    status, refused = await desk.say("omar", "POST", f"/{name}/go", {"role": "ops_owner"})
    assert status == 409
    # the same person in another role
    await desk.stage.people.value("UPDATE users SET owns = '{security_owner}' WHERE username = 'olga' RETURNING 1")
    status, refused = await desk.say("olga", "POST", f"/{name}/go", {"role": "security_owner"})
    assert (status, refused["reason"]) == (403, "rollout_same_person")
    assert (await desk.do("olga", f"/{name}/go", {}))["answer"] == "NO-GO"  # asked again, not signed again
    for who in ("pat", "viv", "aud"):
        assert (await desk.say(who, "POST", f"/{name}/go", {}))[0] == 403
    assert (await desk.do("sue", f"/{name}/go", {}))["answer"] == "GO"
    assert await desk.state(name) == "go"


async def test_two_accounts_of_one_person_are_one_signature(desk: Desk) -> None:
    people = desk.stage.people
    name = await desk.pending()
    await people.value("UPDATE users SET email = 'Olga+second@example.com' WHERE username = 'sue' RETURNING 1")
    await desk.do("olga", f"/{name}/go", {})
    status, refused = await desk.say("sue", "POST", f"/{name}/go", {})
    assert (status, refused["reason"]) == (403, "rollout_same_person")
    # an account that who planned it could enter is his tool for a day
    await people.value("UPDATE users SET email = 'sue@example.com' WHERE username = 'sue' RETURNING 1")
    async with desk.stage.database.begin() as tx:
        await note_influence(tx, desk.stage.context("pat"), "sue", "entered", desk.stage.clock.now())
    status, refused = await desk.say("sue", "POST", f"/{name}/go", {})
    assert (status, refused["reason"]) == (403, "rollout_same_person")


async def test_what_becomes_known_of_who_signed_counts_at_the_start(desk: Desk) -> None:
    people = desk.stage.people
    name = await desk.go()
    await people.value("UPDATE users SET external_id = 'E1' WHERE username IN ('olga', 'sue') RETURNING 1")
    status, said = await desk.say("pat", "POST", f"/{name}/start")
    assert (status, said["lines"]) == (409, ["signature of security_owner: sue signed, which does not count"])
    await people.value("UPDATE users SET external_id = NULL RETURNING 1")
    await people.value("UPDATE users SET role = 'viewer' WHERE username = 'olga' RETURNING 1")
    assert (await desk.say("pat", "POST", f"/{name}/start"))[1]["reason"] == "rollout_no_go"
    # the role is free again, and everybody signs anew
    await desk.do("omar", f"/{name}/go", {})
    shown = await desk.shown(name)
    assert (shown["state"], shown["round"]) == ("pending", 2)
    assert (await desk.do("sue", f"/{name}/go", {}))["answer"] == "GO"
    await desk.do("pat", f"/{name}/start")


async def test_who_planned_it_does_not_read_its_preflight_by_another_account(desk: Desk) -> None:
    name = await desk.planned()
    record = (await desk.shown(name))["phases"][0]["steps"][0]["record"]
    await desk.stage.people.value("UPDATE users SET email = 'PAT+x@example.com' WHERE username = 'pam' RETURNING 1")
    body = {"statement": "read", "record": record}
    status, refused = await desk.say("pam", "POST", f"/{name}/steps/preflight/confirm", body)
    assert (status, refused["reason"]) == (403, "rollout_same_person")


async def test_who_planned_it_signs_nothing(desk: Desk) -> None:
    made = await desk.do("olga", "", {"plan": "release", "environment": "production", "digest": DIGEST})
    await desk.engine.tick()
    record = (await desk.shown(made["name"]))["phases"][0]["steps"][0]["record"]
    body = {"statement": "read", "record": record}
    status, refused = await desk.say("olga", "POST", f"/{made['name']}/steps/preflight/confirm", body)
    assert (status, refused["reason"]) == (403, "rollout_same_person")
    await desk.do("pam", f"/{made['name']}/steps/preflight/confirm", body)
    await desk.engine.tick()
    status, refused = await desk.say("olga", "POST", f"/{made['name']}/go", {})
    assert (status, refused["reason"]) == (403, "rollout_same_person")


async def test_the_use_of_a_waiver_is_noted_where_readiness_passes_by_it(desk: Desk) -> None:
    now, uses = desk.stage.clock.now(), desk.stage.heard.uses
    name = await desk.pending()
    desk.known.ready = Standing(Verdict.FAIL, now, blockers=[Point("tls", Verdict.FAIL)], waived=[WAIVED])
    assert (await desk.do("pat", f"/{name}/check"))["answer"] == "NO-GO"
    assert uses == []  # it let nothing pass
    desk.known.ready = Standing(Verdict.PASS, now, waived=[WAIVED, Point("more", Verdict.STALE, waiver="WV-1")])
    said = await desk.do("olga", f"/{name}/go", {})
    line = next(each for each in said["lines"] if each["name"] == "readiness")
    assert line["exception"] == "waiver" and "more by waiver WV-1" in line["told"]
    await desk.do("sue", f"/{name}/go", {})
    await desk.do("pat", f"/{name}/start")
    assert uses == [("WV-1", f"rollout/{name}")] * 3  # of both signatures and of the start


def broken(known: Any, now: datetime) -> list[tuple[str, Callable[[], None]]]:
    """Every condition that others tell of, and how to break it."""
    return [
        ("readiness", lambda: setattr(known, "ready", Standing(Verdict.STALE, now))),
        ("canary", lambda: setattr(known, "canary", Standing(Verdict.NO_DATA, now))),
        ("error budget", lambda: setattr(known, "budget", GateAnswer(Verdict.NO_DATA, False, ("no level",)))),
        ("incidents", lambda: known.incidents.append(OpenIncident("INC-1", Severity.P1, "x", now))),
    ]


@pytest.mark.parametrize("which", range(4))
async def test_what_broke_after_the_signatures_stops_the_start(desk: Desk, which: int) -> None:
    name = await desk.go()
    line, breaks = broken(desk.known, desk.stage.clock.now())[which]
    breaks()
    status, said = await desk.say("pat", "POST", f"/{name}/start")
    assert (status, said["reason"]) == (409, "rollout_no_go") and said["lines"][0].startswith(line)
    assert await desk.state(name) == "go" and desk.done() == []
    refused = await desk.do("pat", f"/{name}/check")
    assert refused["answer"] == "NO-GO"


async def test_a_freeze_is_no_go_by_switch_and_by_window(desk: Desk) -> None:
    name = await desk.pending()
    await desk.freeze()
    said = await desk.do("pat", f"/{name}/check")
    assert next(line["name"] for line in said["lines"] if not line["passes"]) == "freeze"
    await desk.thaw()
    now = desk.stage.clock.now()
    window = f"""---
apiVersion: bailiwick/v1
kind: FreezeWindow
metadata: {{name: holidays}}
spec: {{environments: [production], since: "{now.isoformat()}", until: "{(now + DAY / 2).isoformat()}", why: Feast}}
"""
    await desk.replan(PLAN + window)
    said = await desk.do("pat", f"/{name}/check")
    assert "holidays" in next(line["told"] for line in said["lines"] if line["name"] == "freeze")
    elsewhere = await desk.pending(environment="staging")
    said = await desk.do("pat", f"/{elsewhere}/check")
    assert next(line for line in said["lines"] if line["name"] == "freeze")["passes"]
    desk.stage.clock.advance(12 * 3600 + 1)
    said = await desk.do("pat", f"/{name}/check")
    assert next(line for line in said["lines"] if line["name"] == "freeze")["passes"]


async def test_a_go_is_a_day_old_and_then_none(desk: Desk) -> None:
    name = await desk.go()
    desk.stage.clock.advance(24 * 3600 + 1)
    status, said = await desk.say("pat", "POST", f"/{name}/start")
    assert (status, said["reason"]) == (409, "rollout_expired")
    shown = await desk.shown(name)
    assert (shown["state"], shown["round"], shown["signatures"]) == ("pending", 2, [])
    desk.fresh()
    said = await desk.do("olga", f"/{name}/go", {})
    # the preflight is as old, and everybody signs anew
    assert {line["name"] for line in said["lines"] if not line["passes"]} == {
        "preflight", "signature of security_owner",
    }  # fmt: skip


async def test_a_preflight_that_is_too_old_is_made_anew_and_everybody_signs_again(desk: Desk) -> None:
    name = await desk.go()
    first = (await desk.shown(name))["phases"][0]["steps"][0]["record"]
    desk.stage.clock.advance(24 * 3600 + 1)
    desk.fresh()
    assert (await desk.say("pat", "POST", f"/{name}/start"))[1]["reason"] == "rollout_expired"
    line = next(each for each in (await desk.do("pat", f"/{name}/check"))["lines"] if each["name"] == "preflight")
    assert line["verdict"] == "STALE" and line["told"].endswith("decide retry makes it anew")
    body = {"decision": "retry", "why": "it is of yesterday"}
    assert (await desk.say("pam", "POST", f"/{name}/decide", body))[0] == 403
    shown = await desk.do("olga", f"/{name}/decide", body)
    assert (shown["state"], shown["answer"], shown["round"]) == ("planned", "", 3)
    # until it is made, and read, there is none
    for _ in range(2):
        line = next(each for each in (await desk.do("pat", f"/{name}/check"))["lines"] if each["name"] == "preflight")
        assert line["verdict"] == "NO_DATA"
        await desk.engine.tick()
    step = (await desk.shown(name))["phases"][0]["steps"][0]
    assert (step["state"], step["attempts"]) == ("acted", 2) and step["record"] != first
    confirm = f"/{name}/steps/preflight/confirm"
    status, said = await desk.say("pam", "POST", confirm, {"statement": "read", "record": first})
    assert (status, said["reason"]) == (409, "approval_changed")
    await desk.do("pam", confirm, {"statement": "read", "record": step["record"]})
    await desk.engine.tick()
    assert await desk.state(name) == "pending"
    await desk.do("olga", f"/{name}/go", {})
    assert (await desk.do("sue", f"/{name}/go", {}))["answer"] == "GO"
    await desk.do("pat", f"/{name}/start")
    await desk.finish(name)
    assert await desk.state(name) == "done"


async def test_a_go_is_given_back_for_another_preflight(desk: Desk) -> None:
    name = await desk.go()
    await desk.do("olga", f"/{name}/decide", {"decision": "retry", "why": "the configuration changed"})
    assert (await desk.shown(name))["signatures"] == []
    status, said = await desk.say("pat", "POST", f"/{name}/start")
    assert (status, said["reason"]) == (409, "rollout_no_go")


async def test_no_go_ends_it_and_stays(desk: Desk) -> None:
    name = await desk.go()
    await desk.do("fay", f"/{name}/no-go", {"why": "the books are open"})
    shown = await desk.shown(name)
    assert (shown["state"], shown["outcome"]) == ("no_go", "abandoned") and "fay" in shown["told"]
    for who, path, body in (("olga", "go", {}), ("pat", "start", None), ("pat", "check", None)):
        assert (await desk.say(who, "POST", f"/{name}/{path}", body))[0] == 409


async def test_no_go_after_the_start_takes_it_back(desk: Desk) -> None:
    name = await desk.started()
    await desk.engine.tick()
    await desk.do("fay", f"/{name}/no-go", {"why": "I see something"})
    await desk.engine.tick()
    assert await desk.state(name) == "rolled_back" and "undo-one" in desk.done()


async def test_the_answer_is_kept_as_it_was(desk: Desk) -> None:
    name = await desk.go()
    shown = await desk.shown(name)
    kept = shown["last_answer"]
    document = {key: value for key, value in kept.items() if key != "sha256"}
    assert sha256_of(document) == kept["sha256"] == shown["answer"]
    assert document["digest"] == DIGEST and document["plan_sha256"] == shown["plan_sha256"]


@pytest.mark.parametrize("round_", range(4))
async def test_go_and_no_go_at_once_is_no_go(desk: Desk, round_: int, database_url: str) -> None:
    """Two services with connections of their own press at the same moment, and one more starts it."""
    name = await desk.pending()
    await desk.do("olga", f"/{name}/go", {})
    databases = [Database(database_url, pool_size=2) for _ in range(3)]
    go, no_go, start = (desk.service_on(each) for each in databases)

    async def pressed(what: Any) -> str:
        try:
            await what
        except BailiwickError as error:
            return error.reason
        return "done"

    def context(who: str) -> Context:
        return Context("default", Actor(user=who))

    async def later(what: Callable[[], Any], after: float) -> str:
        await asyncio.sleep(after)
        return await pressed(what())

    sue = Caller("default", "sue", "security_owner", "s")
    gap = 0.004 * (round_ % 3 - 1)
    said = await asyncio.gather(
        later(lambda: go.go(context("sue"), sue, name, None, ""), max(0.0, gap)),
        later(lambda: no_go.no_go(context("fay"), name, "stop"), max(0.0, -gap)),
        later(lambda: start.start(context("pat"), name), 0.003 * round_),
    )
    assert said[1] == "done"
    await desk.engine.tick()
    shown = await desk.shown(name)
    assert shown["state"] in ("no_go", "rolled_back") and shown["outcome"] != "done"
    assert not [each for each in desk.done() if each.startswith("one")]
    assert said[0] in ("done", "rollout_no_go", "rollout_not_waiting")
    for each in databases:
        await each.close()


# --- preflight


async def test_a_preflight_that_shows_a_difference_is_read_by_another(desk: Desk) -> None:
    desk.script("migrations", "echo 'ALTER TABLE t ADD COLUMN c int; DROP TABLE old;'")
    name = await desk.planned()
    shown = await desk.shown(name)
    step = shown["phases"][0]["steps"][0]
    assert shown["state"] == "planned" and step["state"] == "acted"
    assert "2 statements (1 take something away)" in step["told"]
    _, text = (await desk.records(name, "preflight"))[0]
    assert b"+replicas: 4" in text and b"! DROP TABLE old" in text and b"  ALTER TABLE t" in text
    body = {"statement": "read", "record": "0" * 64}
    status, said = await desk.say("pam", "POST", f"/{name}/steps/preflight/confirm", body)
    assert (status, said["reason"]) == (409, "approval_changed")
    said = await desk.do("pat", f"/{name}/check")
    assert next(line for line in said["lines"] if line["name"] == "preflight")["verdict"] == "NO_DATA"
    await desk.do("pam", f"/{name}/steps/preflight/confirm", {**body, "record": step["record"]})
    await desk.engine.tick()
    assert await desk.state(name) == "pending"


async def test_a_preflight_like_the_release_before_needs_nobody(desk: Desk) -> None:
    await desk.finish(await desk.started())
    name = await desk.planned()
    shown = await desk.shown(name)
    assert shown["state"] == "pending", shown["told"]
    assert "0 lines differ" in shown["phases"][0]["steps"][0]["told"]
    (desk.home / "rendered").write_text("replicas: 5\n")
    other = await desk.planned()
    assert await desk.state(other) == "planned"
    _, text = (await desk.records(other, "preflight"))[0]
    assert b"-replicas: 4" in text and b"+replicas: 5" in text


async def test_what_migrations_print_is_kept_as_it_is_and_read_by_another(desk: Desk) -> None:
    await desk.finish(await desk.started())
    for printed in ("-- don't worry\nDROP TABLE users;\n-- it's done\n", "-- nothing to see\n", "no migrations\n"):
        (desk.home / "printed").write_text(printed)
        desk.script("migrations", 'cat "$HOME/printed"')
        name = await desk.planned()
        shown = await desk.shown(name)
        assert (shown["state"], step_state(shown)) == ("planned", "acted"), printed
        _, text = (await desk.records(name, "preflight"))[0]
        assert printed.encode() in text and (b"! DROP TABLE users" in text) is ("DROP" in printed)


async def test_a_changed_line_of_dashes_is_a_difference(desk: Desk) -> None:
    (desk.home / "rendered").write_text("a\n--\nb\n")
    await desk.finish(await desk.started())
    (desk.home / "rendered").write_text("a\nb\n")
    name = await desk.planned()
    shown = await desk.shown(name)
    assert "1 lines differ" in shown["phases"][0]["steps"][0]["told"] and step_state(shown) == "acted"


@pytest.mark.parametrize("what", ["lines", "bytes", "statements"])
async def test_more_than_a_person_can_read_is_no_preflight(desk: Desk, what: str) -> None:
    lines = {"lines": "x\n" * 20_001, "bytes": "y" * (1 << 20), "statements": "replicas: 4\n"}[what]
    (desk.home / "rendered").write_text(lines)
    desk.script("migrations", "yes 'SELECT 1;' | head -100000" if what == "statements" else "")
    shown = await desk.shown(await desk.planned())
    assert shown["blocked_on"] == "preflight" and "more than" in shown["told"]


@pytest.mark.parametrize("program", ["render", "migrations", "smoke"])
async def test_a_preflight_that_fails_stops_it_before_anything(desk: Desk, program: str) -> None:
    desk.script(program, "echo broken; exit 1")
    name = await desk.planned()
    shown = await desk.shown(name)
    assert shown["state"] == "planned" and shown["blocked_on"] == "preflight" and program in shown["told"]
    assert (await desk.say("olga", "POST", f"/{name}/go", {}))[0] == 409
    desk.script(program, "")
    await desk.do("olga", f"/{name}/decide", {"decision": "retry", "why": "mended"})
    await desk.engine.tick()
    assert step_state(await desk.shown(name)) == "acted"


def step_state(shown: Any) -> str:
    return str(shown["phases"][0]["steps"][0]["state"])


@pytest.mark.parametrize(
    ("sql", "dangerous"),
    [
        ("CREATE TABLE t (id int); -- drop it", False),
        ("/* drop */ ALTER TABLE t ADD COLUMN c int", False),
        ("ALTER TABLE t ADD COLUMN c int NOT NULL DEFAULT 0", False),
        ("ALTER TABLE t ADD COLUMN c int NOT NULL", True),
        ("ALTER TABLE t DROP COLUMN c", True),
        ("alter table t rename column a to b", True),
        ("ALTER TABLE t ALTER COLUMN c TYPE bigint", True),
        ("ALTER TABLE t ALTER COLUMN c SET NOT NULL", True),
        ("TRUNCATE t", True),
        ("ALTER TABLE t ADD CONSTRAINT x CHECK (a > 0)", True),
        ("ALTER TABLE t ADD CONSTRAINT x CHECK (a > 0) NOT VALID", False),
        ("INSERT INTO t VALUES ('drop; table')", False),
        ("UPDATE t SET a = 1", True),
        ("UPDATE ONLY public.t AS old SET a = 1", True),
        ("INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET b = 1", False),
        ("ALTER TABLE t ALTER c TYPE int", True),
        ('ALTER TABLE t ALTER "my c" SET DATA TYPE int', True),
        ("ALTER TABLE t SET SCHEMA old", True),
        ("ALTER TABLE t ADD CHECK (a > 0)", True),
        ("ALTER TABLE t ADD COLUMN c numeric(10, 2) NOT NULL", True),
        ("ALTER TABLE t ADD a int DEFAULT 0, ADD b int NOT NULL", True),
        ("CREATE TABLE t (a int NOT NULL, b numeric(10, 2) NOT NULL)", False),
        ("CREATE UNIQUE INDEX ON t (a)", True),
        ("DO $$ BEGIN DROP TABLE t; END $$", True),
        ("DO LANGUAGE plpgsql 'BEGIN PERFORM f(); END'", True),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $x$ TRUNCATE t; SELECT 1 $x$", True),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $x$ SELECT 1; SELECT ';' $x$", False),
        ("EXECUTE gone", True),
        ("CALL clean()", True),
        ("GRANT EXECUTE ON FUNCTION f() TO x", False),
        ("CREATE TRIGGER x AFTER INSERT ON t EXECUTE FUNCTION f()", False),
        ("WITH gone AS (DELETE FROM t RETURNING *) INSERT INTO u SELECT * FROM gone", True),
        ("DROP/* now */TABLE t", True),
        ("/* /* nested */ not yet */ CREATE TABLE t (a int)", False),
        (r"INSERT INTO t VALUES (E'it\'s; drop table x')", False),
        ("INSERT INTO t VALUES (E'a''; drop table x')", False),
        ("CREATE TABLE a$b$c (x int)", False),
        (r"\i other.sql", True),
        ("this is no SQL, it's a log", True),
        ("ALTER TABLE t " + ", ".join(f"ADD COLUMN column_{i} int" for i in range(40)) + ", DROP COLUMN z", True),
    ],
)
def test_what_takes_something_away_is_seen(sql: str, dangerous: bool) -> None:
    (found,) = statements(sql)
    assert found.danger is dangerous and len(found.text) <= 300


@pytest.mark.parametrize(
    ("sql", "seen"),
    [
        ("-- don't worry\nDROP TABLE users;\n-- it's done\n", ["DROP TABLE users"]),
        ("/* it's */ DROP TABLE a; /* done */ DROP TABLE b", ["DROP TABLE a", "DROP TABLE b"]),
        ("INSERT INTO t VALUES ('it\\'); DROP TABLE x; --')", [r"INSERT INTO t VALUES ('it\')", "DROP TABLE x"]),
        ("CREATE TABLE a$b$c (x int); DROP TABLE a$b$c", ["CREATE TABLE a$b$c (x int)", "DROP TABLE a$b$c"]),
        ("SELECT '--'; DROP TABLE t -- '", ["SELECT '--'", "DROP TABLE t"]),
        ("SELECT $a$ $b$ ; $a$; SELECT $$;$$;;", ["SELECT $a$ $b$ ; $a$", "SELECT $$;$$"]),
        ('SELECT "a;""b";\0\n \n', ['SELECT "a;""b"']),
    ],
)
def test_no_statement_hides_behind_what_is_no_quotation(sql: str, seen: list[str]) -> None:
    assert [each.text for each in statements(sql)] == seen


PIECES = st.sampled_from([*"""' '' " $$ $a$ -- /* */ ; E' \\ ( ) , drop add null""".split(), " ", "\n", "not null"])


@given(st.lists(PIECES, max_size=60))
def test_any_text_is_read(pieces: list[str]) -> None:
    for each in statements("".join(pieces)):
        assert each.text.strip() and "\n" not in each.text


@pytest.mark.parametrize(
    "piece",
    ["'", "/*", "$a$", "$a ", "E'\\", "add constraint ", "add c not null ", "update ", "alter x ", "a;", "(", "--\n"],
)
def test_a_script_is_read_once(piece: str) -> None:
    """It takes a fraction of a second; where time grew with the square of the length, it would take many minutes."""
    began = time.monotonic()
    statements(piece * ((1 << 18) // len(piece)))
    assert time.monotonic() - began < 30
