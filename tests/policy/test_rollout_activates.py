"""The step of a rollout that activates a policy: it waits for whoever has to agree, as anybody else does."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

from policy_stage import SEED, Stage, allowing

from bailiwick.handover.rollouts.actions import Actions, Tools
from bailiwick.handover.rollouts.plans import Deed
from bailiwick.handover.rollouts.records import Rollout

OPEN = allowing("sark.authz", "true")


@dataclass
class Step:
    """Version 2 is activated, on behalf of whoever started the rollout."""

    stage: Stage

    async def act(self) -> Any:
        tools = Tools(cast(Any, None), self.stage.clock, *[cast(Any, None)] * 5, policies=self.stage.policies)
        rollout = cast(Rollout, SimpleNamespace(id="r1", zone=self.stage.zone, started_by="alice"))
        attempt = SimpleNamespace(step="policy", way="forward", begun_at=self.stage.clock.now(), since=None)
        deed = Deed(title="Activate", do={"kind": "policy", "policy": "authorization", "version": "2"})  # type: ignore[arg-type]
        return await Actions(tools).act(rollout, deed, cast(Any, attempt))


async def test_it_waits_until_two_others_agree_and_then_is_done_once(stage: Stage) -> None:
    await stage.person("ben")
    before = await stage.put("authorization", SEED)
    await stage.put("authorization", OPEN, activate=False)
    step = Step(stage)
    waits = await step.act()
    assert waits.ok is None and waits.told.startswith("waits for approval ")
    assert (await step.act()).told == waits.told, "looking again asks for nothing more"
    approval = {"id": waits.told.split()[-1]}
    approval["payload_sha256"] = (await stage.quorum.get(stage.zone, approval["id"])).document()["payload_sha256"]
    for person in ("ada", "ben"):
        assert await stage.active_hash() == before
        await stage.approve(approval, person)
    done = await step.act()
    assert done.ok is True and "authorization 2 is active" in done.told
    assert await stage.active_hash() != before


async def test_a_version_that_is_not_there_fails_the_step(stage: Stage) -> None:
    await stage.put("authorization", SEED)
    failed = await Step(stage).act()
    assert failed.ok is False and failed.told.startswith("not_found: ")
