"""What opens the gate for a release: traffic, of this very release, and nothing that can be done often enough."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from canary_ground import CANDIDATE, DIGEST, OTHER, SHIPPED, Ground
from rollout_desk import Desk, kinds
from stage import Stage

import bailiwick.assurance
from bailiwick.handover.canary.chapter import chapter
from bailiwick.handover.canary.loop import AccessLoop, Ways
from bailiwick.handover.canary.records import Result, add_result
from bailiwick.handover.canary.spec import KINDS
from bailiwick.handover.rollouts.actions import Actions
from bailiwick.kernel.errors import BailiwickError
from people_fixtures import House


@pytest.fixture
async def ground(house: House) -> Ground:
    return await Ground(house).open()


async def found(ground: Ground, verdict: str, *, own: bool = False, count: int = 1, digest: str = DIGEST) -> None:
    """As if loops had been walked, one a second."""
    for _ in range(count):
        ground.people.clock.advance(1)
        now = ground.people.clock.now()
        async with ground.people.database.begin() as tx:
            await add_result(
                tx,
                Result(ground.people.ids(), "default", digest, "loop", None, verdict, "", "", [], now, now, "olga", "",
                       False, own),
            )  # fmt: skip


async def reason_of(awaited: Any) -> str:
    with pytest.raises(BailiwickError) as refused:
        await awaited
    return refused.value.reason


async def passed_step(ground: Ground, canary: str) -> None:
    await ground.see(canary, 50)
    await ground.drive(canary)


async def at_last_step(ground: Ground, **more: Any) -> str:
    """A canary by hand that has passed all of its steps and holds the last."""
    canary = await ground.start(automatic=False, **more)
    for percent in (25, 50, 0):
        await passed_step(ground, canary.id)
        if percent:
            await ground.desk.set("default", "pay", canary.digest, percent)
    return canary.id


# ---------------------------------------------------------------------- loops


async def test_no_number_of_loops_makes_up_for_a_canary_that_failed(ground: Ground) -> None:
    canary = await ground.start()
    await ground.see(canary.id, 1, errors=20)
    await ground.drive(canary.id)
    await found(ground, "PASS", own=True, count=201)
    assert await ground.standing() == ("FAIL", False)
    assert await reason_of(ground.start()) == "canary_failed"
    now = ground.people.clock.now()
    async with ground.people.database.begin() as tx:
        _, history = await chapter(tx, "default", "production", now - timedelta(hours=1), now)
    assert history.told == "202 verdicts, 1 refused"
    assert history.figures["verdicts"][0]["verdict"] == "FAIL"  # type: ignore[index]


async def test_a_loop_alone_speaks_for_nothing_but_what_ran_where_it_was_walked(ground: Ground) -> None:
    await found(ground, "PASS")
    assert await ground.standing() == ("NO_DATA", False)
    await found(ground, "PASS", own=True, digest=OTHER)
    assert await ground.standing(OTHER) == ("PASS", True)
    await found(ground, "FAIL", own=True, digest=OTHER)
    assert await ground.standing(OTHER) == ("FAIL", False)


async def test_a_loop_that_fails_speaks_against_a_canary_that_passed(ground: Ground) -> None:
    await at_last_step(ground)
    assert await ground.standing() == ("PASS", True)
    await found(ground, "FAIL")
    assert await ground.standing() == ("FAIL", False)


class Never:
    """A fixture that nothing may be made by."""

    async def make(self, *_: Any) -> tuple[str, str, str]:
        raise AssertionError("it made something")

    revoke = remove = make


def loop_of(ground: Ground, fixture: Any, release: str = "") -> AccessLoop:
    stage = ground.stage
    return AccessLoop(
        stage.database, stage.clock, stage.ids, stage.recorder, stage.records, fixture,
        lambda zone: Ways("http://127.0.0.1:9", "http://127.0.0.1:9"), release=release,
    )  # fmt: skip


async def test_a_loop_is_not_walked_about_what_runs_elsewhere(ground: Ground) -> None:
    loop = loop_of(ground, Never(), release=OTHER)
    assert await reason_of(loop.run(ground.stage.context("olga"), DIGEST)) == "loop_elsewhere"


@pytest.mark.parametrize(
    ("switch", "reason"), [("freeze", "changes_frozen"), ("read-only", "read_only"), ("provision", "switched_off")]
)
async def test_no_loop_is_walked_while_nothing_may_be_made(ground: Ground, switch: str, reason: str) -> None:
    async with ground.people.owner.begin() as tx:
        await tx.run("SET LOCAL session_replication_role = replica")
        await tx.run(
            "INSERT INTO bailiwick.switches (id, zone, name, reason, thrown_by, thrown_at, thrown_as)"
            " VALUES ('t', 'default', :switch, 'test', 'ada', now(), 'none')",
            switch=switch,
        )
    loop = loop_of(ground, Never(), release=DIGEST)
    assert await reason_of(loop.run(ground.stage.context("olga"), DIGEST)) == reason


# ---------------------------------------------------------------------- doubts


async def test_whoever_withdraws_in_doubt_does_not_begin_anew(ground: Ground) -> None:
    """Each beginning has its own chance of passing by chance; that is what most looks are counted for."""
    canary = await ground.start()
    await ground.see(canary.id, 50, ms=68.5)
    assert (await ground.drive(canary.id)).state == "running"
    await ground.desk.withdraw(ground.stage.context("olga"), canary.id, "it looked odd")
    assert await reason_of(ground.start()) == "canary_failed"
    ground.people.clock.advance(24 * 3600 + 1)
    assert (await ground.start()).state == "running"


async def test_what_was_withdrawn_after_a_good_look_may_begin_anew(ground: Ground) -> None:
    canary = await ground.start()
    await ground.see(canary.id, 50, ms=68.5)
    await ground.drive(canary.id)
    await ground.see(canary.id, 200, ms=55)
    assert (await ground.drive(canary.id)).candidate_percent == 25
    await ground.desk.withdraw(ground.stage.context("olga"), canary.id, "lunch")
    assert (await ground.start()).state == "running"


async def test_a_smaller_step_is_no_way_round_a_look_in_doubt(ground: Ground) -> None:
    canary = await ground.start(automatic=False)
    await passed_step(ground, canary.id)
    await ground.desk.set("default", "pay", DIGEST, 25)
    await ground.see(canary.id, 50, ms=68.5)
    await ground.drive(canary.id)
    assert await reason_of(ground.desk.set("default", "pay", DIGEST, 5)) == "canary_in_doubt"
    await ground.desk.set("default", "pay", DIGEST, 0)
    assert (await ground.now(canary.id)).state == "withdrawn"


# ---------------------------------------------------------------------- weights of rollouts


async def test_to_take_back_what_was_taken_back_is_nothing(ground: Ground) -> None:
    await ground.desk.set("default", "pay", DIGEST, 0)
    canary = await ground.start()
    await ground.desk.withdraw(ground.stage.context("olga"), canary.id, "it looked odd")
    for _ in range(2):
        await ground.desk.set("default", "pay", DIGEST, 0)
    assert (await ground.now(canary.id)).told == "it looked odd"


async def test_a_rollout_moves_the_canary_of_its_own_release_alone(ground: Ground) -> None:
    canary = await ground.start()
    await passed_step(ground, canary.id)
    for percent in (5, 25):
        assert await reason_of(ground.desk.set("default", "pay", OTHER, percent)) == "canary_other"
    await ground.desk.set("default", "pay", OTHER, 0)
    after = await ground.now(canary.id)
    assert (after.state, after.candidate_percent) == ("running", 25)


async def test_what_became_the_servers_upstream_no_weight_takes_back(ground: Ground) -> None:
    canary = await at_last_step(ground)
    await ground.desk.set("default", "pay", DIGEST, 100)
    await ground.people.servers.change(ground.stage.context(), "pay", {"binding": {"upstream_url": CANDIDATE}})
    assert (await ground.drive(canary)).state == "ended"
    await ground.desk.set("default", "pay", DIGEST, 100)  # a step that is done again after a crash
    assert await reason_of(ground.desk.set("default", "pay", DIGEST, 0)) == "canary_upstream"
    await ground.people.servers.change(
        ground.stage.context(), "pay", {"binding": {"upstream_url": "http://stable.test:8080"}}
    )
    await ground.desk.set("default", "pay", DIGEST, 0)


async def test_a_promoted_candidate_that_is_the_upstream_goes_and_is_told_of(ground: Ground) -> None:
    canary = await at_last_step(ground)
    await ground.desk.set("default", "pay", DIGEST, 100)
    await ground.people.servers.change(ground.stage.context(), "pay", {"binding": {"upstream_url": CANDIDATE}})
    assert await reason_of(ground.desk.set("default", "pay", DIGEST, 0)) == "canary_upstream"
    assert (await ground.now(canary)).state == "withdrawn"


async def test_the_last_step_is_the_verdict_and_is_watched_on(ground: Ground) -> None:
    canary = await at_last_step(ground)
    at = await ground.now(canary)
    assert (at.state, at.candidate_percent, at.verdict, at.waits) == ("running", 50, "PASS", True)
    assert await ground.standing() == ("PASS", True)
    assert await ground.weights() == (50, 50, False), (
        "it is not promoted: it keeps its traffic only while it is watched"
    )
    await ground.see(canary, 1, errors=20)
    assert (await ground.drive(canary)).reason == "veto"
    assert await ground.standing() == ("FAIL", False)


async def test_a_verdict_counts_from_when_it_was_shown_not_from_when_it_was_promoted(ground: Ground) -> None:
    canary = await at_last_step(ground)
    ground.people.clock.advance(24 * 3600)
    assert await ground.standing() == ("STALE", False)
    await ground.desk.promote(ground.stage.context("olga"), canary)
    assert await ground.standing() == ("STALE", False)


async def test_a_smaller_step_takes_the_verdict_away_until_it_is_passed_again(ground: Ground) -> None:
    canary = await at_last_step(ground)
    await ground.desk.set("default", "pay", DIGEST, 25)
    assert await ground.standing() == ("NO_DATA", False)
    assert await reason_of(ground.desk.set("default", "pay", DIGEST, 100)) == "canary_unproven"
    await passed_step(ground, canary)
    await ground.desk.set("default", "pay", DIGEST, 50)
    await passed_step(ground, canary)
    assert await ground.standing() == ("PASS", True)


# ---------------------------------------------------------------------- the shipped plan


class Whole(Desk):
    """Rollouts whose canary and weights are the real ones, and a server with one."""

    def __init__(self, house: House, home: Path) -> None:
        stage = Stage(house, [*kinds(), *KINDS])
        self.ground = Ground(house, stage)
        super().__init__(stage, home)

    def engine_on(self, database: Any, **more: Any) -> Any:
        engine, desk = super().engine_on(database, **more), self.ground.desk
        engine._ports = replace(engine._ports, canaries=desk)
        engine._actions = Actions(replace(engine._actions._tools, weights=desk))
        return engine

    def service_on(self, database: Any) -> Any:
        rollouts = super().service_on(database)
        rollouts._facts = replace(rollouts._facts, canaries=self.ground.desk)
        return rollouts

    async def open(self, book: str = "") -> Whole:
        shipped = (Path(bailiwick.assurance.__file__).parent / "shipped/installation/rollouts.yaml").read_text()
        plans = [each for each in yaml.safe_load_all(shipped) if each["metadata"]["name"] == "server-candidate"]
        known = json.dumps(plans).replace('"bailiwick"', '"pay"').replace('"preflight-', '"')  # as the desk knows them
        plan = json.loads(known)
        await super().open("---\n".join(yaml.safe_dump(each) for each in [*yaml.safe_load_all(SHIPPED), *plan]))
        await self.stage.people.user("vera", "product_owner")
        await self.ground.bound()
        return self

    async def begin(self, digest: str) -> str:
        return await self.pending(plan="server-candidate", digest=digest, variables={"server": "pay"})

    async def of_step(self, name: str, step: str) -> Any:
        return next(each for phase in (await self.shown(name))["phases"] for each in phase["steps"]
                    if each["name"] == step)  # fmt: skip


@pytest.fixture
async def whole(house: House, tmp_path: Path) -> Whole:
    return await Whole(house, tmp_path).open()


async def test_the_shipped_plan_takes_a_candidate_over_that_its_canary_holds(whole: Whole) -> None:
    ground = whole.ground
    name = await whole.begin(DIGEST)
    assert _canary_line(await whole.do("olga", f"/{name}/check"))["verdict"] == "NO_DATA"
    await at_last_step(ground)
    assert (await whole.do("olga", f"/{name}/go", {}))["answer"] == "NO-GO"
    assert (await whole.do("vera", f"/{name}/go", {}))["answer"] == "GO"
    await whole.do("pat", f"/{name}/start")
    await whole.engine.tick()
    assert await ground.weights() == (0, 100, True)
    whole.stage.clock.advance(30 * 60 + 1)
    await whole.engine.tick()
    assert (await whole.of_step(name, "own"))["state"] == "begun", (await whole.shown(name))["told"]
    await ground.people.servers.change(ground.stage.context(), "pay", {"binding": {"upstream_url": CANDIDATE}})
    await ground.desk.drive(whole.stage.clock.now())
    await whole.confirm(name, "own", "pat")
    await whole.engine.tick()
    assert await whole.state(name) == "done"


async def test_a_candidate_that_fails_under_the_rollout_is_taken_back_by_it(whole: Whole) -> None:
    """The canary has withdrawn it before anybody decides; taking back finds nothing left to do, and ends."""
    ground = whole.ground
    name = await whole.begin(DIGEST)
    canary = await at_last_step(ground)
    for who in ("olga", "vera"):
        await whole.do(who, f"/{name}/go", {})
    await whole.do("pat", f"/{name}/start")
    await whole.engine.tick()
    await ground.see(canary, 1, errors=30)
    assert (await ground.drive(canary)).reason == "veto"
    await whole.engine.tick()
    shown = await whole.shown(name)
    assert shown["state"] == "deciding" and "canary is FAIL" in shown["told"]
    status, said = await whole.say("olga", "POST", f"/{name}/decide", {"decision": "continue", "why": "it must go"})
    assert (status, said["reason"]) == (409, "rollout_canary")
    whole.stage.clock.advance(5 * 60 + 1)
    await whole.engine.tick()
    assert await whole.state(name) == "rolled_back", (await whole.shown(name))["told"]
    assert await ground.weights() is None


async def test_a_bad_candidate_is_no_go_whoever_signs(whole: Whole) -> None:
    ground = whole.ground
    name = await whole.begin(DIGEST)
    canary = await ground.start(automatic=False)
    await ground.see(canary.id, 1, errors=20)
    await ground.drive(canary.id)
    for who in ("olga", "vera"):
        said = await whole.do(who, f"/{name}/go", {})
    assert said["answer"] == "NO-GO" and _canary_line(said)["verdict"] == "FAIL"
    status, said = await whole.say("pat", "POST", f"/{name}/start")
    assert (status, said["reason"]) == (409, "rollout_no_go")


def _canary_line(said: Any) -> Any:
    return next(line for line in said["lines"] if line["name"] == "canary")
