"""The step of a rollout that activates a policy: it waits for whoever has to agree, as anybody else does."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import pytest
from policy_stage import SEED, Stage, allowing

from bailiwick.evidence.events import Actor, Context
from bailiwick.handover.rollouts.actions import Actions, Tools
from bailiwick.handover.rollouts.plans import Deed
from bailiwick.handover.rollouts.records import Rollout
from bailiwick.handover.rollouts.states import Attempt

OPEN = allowing("sark.authz", "true")


@dataclass
class Step:
    """Version 2 is activated, on behalf of whoever started the rollout."""

    stage: Stage
    approval: str = ""
    asked: int = 0

    async def activate(self, *what: Any) -> Any:
        self.asked += 1
        return await self.stage.policies.activate(*what)

    async def act(self) -> Any:
        policies = cast(Any, SimpleNamespace(activate=self.activate))
        nothing = [cast(Any, None)] * 5
        tools = Tools(cast(Any, None), self.stage.clock, *nothing, policies=policies, quorum=self.stage.quorum)
        rollout = cast(Rollout, SimpleNamespace(id="r1", zone=self.stage.zone, started_by="alice"))
        attempt = Attempt(1, "policy", "forward", "begun", self.stage.clock.now(), approval=self.approval)
        deed = Deed(title="Activate", do={"kind": "policy", "policy": "authorization", "version": "2"})  # type: ignore[arg-type]
        done = await Actions(tools).act(rollout, deed, attempt)
        self.approval = done.approval or self.approval  # as the engine keeps it
        return done


async def test_it_waits_until_two_others_agree_and_then_is_done_once(stage: Stage) -> None:
    await stage.person("ben")
    before = await stage.put("authorization", SEED)
    await stage.put("authorization", OPEN, activate=False)
    step = Step(stage)
    waits = await step.act()
    assert waits.ok is None and waits.told.startswith("waits for approval ")
    assert (await step.act()).told == waits.told, "looking again asks for nothing more"
    assert step.asked == 1, "nor is anything prepared again"
    approval = {"id": waits.told.split()[-1]}
    approval["payload_sha256"] = (await stage.quorum.get(stage.zone, approval["id"])).document()["payload_sha256"]
    for person in ("ada", "ben"):
        assert await stage.active_hash() == before
        await stage.approve(approval, person)
    done = await step.act()
    assert done.ok is True and "authorization 2 is active" in done.told
    assert await stage.active_hash() != before


@pytest.mark.parametrize("how", ["rejected", "withdrawn", "expired"])
async def test_what_is_not_agreed_to_fails_and_is_not_asked_for_again(stage: Stage, how: str) -> None:
    before = await stage.put("authorization", SEED)
    await stage.put("authorization", OPEN, activate=False)
    step = Step(stage)
    approval = await stage.quorum.get(stage.zone, (await step.act()).approval)
    context = Context(stage.zone, Actor(user="ada"))
    if how == "rejected":
        await stage.quorum.vote(
            context, stage.zone, approval.id, person="ada", role="admin", approves=False,
            payload_sha256=approval.payload_sha256,
        )  # fmt: skip
    elif how == "withdrawn":
        await stage.quorum.withdraw(context, stage.zone, approval.id, person="ada", role="admin")
    else:
        stage.clock.advance(24 * 3600)
    for _ in range(3):
        failed = await step.act()
        assert failed.ok is False and f"approval {approval.id} is {how}" in failed.told
    async with stage.database.begin() as tx:
        asked = await tx.value("SELECT count(*) FROM approvals WHERE zone = :zone", zone=stage.zone)
    assert (asked, step.asked, await stage.active_hash()) == (1, 1, before)


async def test_a_version_that_is_not_there_fails_the_step(stage: Stage) -> None:
    await stage.put("authorization", SEED)
    failed = await Step(stage).act()
    assert failed.ok is False and failed.told.startswith("not_found: ")
