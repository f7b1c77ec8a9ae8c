"""What was active changes by two persons only, but for the way back to what has proven itself: each way around it is
tried once, and refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

import pytest
from policy_stage import NOBODY, PAYMENTS, SEED, Stage, allowing, codes
from sqlalchemy.exc import DBAPIError

from bailiwick.evidence.events import Actor, Context
from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.permissions import STEP_UP, Permission
from bailiwick.kernel.quorum import Approval
from bailiwick.policy.agreement import ACTIVATE, MARK
from bailiwick.policy.policies import Change

OPEN = allowing("sark.authz", "true")


async def asked(stage: Stage, version: int | None = 2) -> Approval:
    """alice asks for the second version, which lets everybody do everything."""
    await stage.put("authorization", SEED)
    await stage.put("authorization", OPEN, activate=False)
    return await again(stage, version)


async def again(stage: Stage, version: int | None = 2) -> Approval:
    done = await stage.policies.activate(stage.context, "authorization", version)
    assert isinstance(done, Approval), done
    return done


async def refusal(awaited: Coroutine[Any, Any, Any]) -> str:
    with pytest.raises(BailiwickError) as refused:
        await awaited
    return refused.value.reason


# --- what takes two


async def test_the_first_set_of_a_zone_is_one_persons_to_activate(stage: Stage) -> None:
    async with stage.client() as client:
        form, files = {"name": "authorization"}, {"file": ("authorization.rego", SEED.encode())}
        first = await client.post("/api/v1/policies", data=form, files=files)
    assert (first.status_code, first.json()["active"], first.json()["activation"]["approval"]) == (201, True, None)


async def test_another_set_waits_and_is_activated_when_it_is_sent_again(stage: Stage) -> None:
    stage.surroundings = PAYMENTS
    seed = await stage.put("authorization", SEED)
    async with stage.client() as client:
        form = {"name": "authorization", "activate": "true"}
        files = {"file": ("authorization.rego", OPEN)}
        waits = await client.post("/api/v1/policies", data=form, files=files)
        told = waits.json()
        assert (waits.status_code, told["active"], told["version"]) == (202, False, 2)
        approval = told["approval"]
        assert (approval["action"], approval["needed"], approval["candidates"]) == ("policy.activate", 1, ["ada"])
        payload = approval["payload"]
        assert (payload["active_set"], payload["change"]) == (seed, "activate")
        assert payload["changes"] == ["authorization 1 → 2"]
        assert "user olga: read payments" in payload["pairs"] and payload["newly_allowed"] >= len(payload["pairs"])
        assert await stage.active_hash() == seed
        # asked for again by anybody it is the same request
        for call in (
            client.post("/api/v1/policies/authorization/activate"),
            client.post("/api/v1/policies", data=form, files=files),
        ):
            same = await call
            assert (same.status_code, same.json()["approval"]["id"]) == (202, approval["id"])
        await stage.approve(approval)
        done = await client.post("/api/v1/policies/authorization/activate")
    assert (done.status_code, done.json()["policy_set"]) == (200, payload["policy_set"])
    assert done.json()["approval"] == approval["id"]
    event = (await stage.outbox(codes.POLICY_ACTIVATED))[-1]
    assert (event.details["approval"], event.details["approved_by"]) == (approval["id"], ["ada"])


async def test_with_nobody_else_it_waits_and_says_whom_to_invite(stage: Stage) -> None:
    async with stage.database.begin() as tx:
        await tx.run("UPDATE users SET is_active = false WHERE zone = :zone AND username = 'ada'", zone=stage.zone)
    waits = (await asked(stage)).document()
    assert waits["candidates"] == []
    assert "invite somebody who is admin or security_owner" in waits["blocked"]


async def test_a_security_owner_may_approve_and_an_operator_may_not(stage: Stage) -> None:
    await stage.person("olga", "operator")
    await stage.person("sec", "security_owner")
    waits = await asked(stage)
    assert set(waits.candidates) == {"ada", "sec"}
    assert await refusal(stage.approve(waits, "olga", "operator")) == "permission_denied"
    await stage.approve(waits, "sec", "security_owner")
    assert isinstance(await stage.policies.activate(stage.context, "authorization", 2), Change)


async def test_taking_a_policy_out_takes_two(stage: Stage) -> None:
    await stage.put("authorization", SEED)
    await stage.put("deny", 'package deny\nimport rego.v1\ndeny contains "never" if true\n')
    standing = await stage.active_hash()
    async with stage.client() as client:
        waits = await client.post("/api/v1/policies/deny/deactivate")
    assert (waits.status_code, waits.json()["approval"]["payload"]["changes"]) == (202, ["-deny 1"])
    assert await stage.active_hash() == standing


async def test_an_empty_set_is_no_way_to_a_first_one(stage: Stage) -> None:
    """Who could empty the set and then fill it alone would need nobody."""
    await stage.put("authorization", SEED)
    await stage.agreed(lambda: stage.policies.deactivate(stage.context, "authorization"))
    async with stage.client() as client:
        waits = await client.post("/api/v1/policies", data={"name": "mine"}, files={"file": ("mine.rego", OPEN)})
    assert (waits.status_code, waits.json()["active"]) == (202, False)
    assert not stage.worker.decider.decide({"user": {"role": "admin"}}).allowed


async def test_one_person_returns_to_what_has_proven_itself_and_to_nothing_else(stage: Stage) -> None:
    first = await stage.put("authorization", OPEN)
    await stage.put("authorization", SEED)
    async with stage.client() as client:
        waits = await client.post("/api/v1/policies/rollback")
        assert (waits.status_code, waits.json()["approval"]["payload"]["change"]) == (202, "rollback")
        # nor does one person make it proven
        marks = await client.post(f"/api/v1/policies/sets/{first}/known-good")
        assert (marks.status_code, marks.json()["approval"]["action"]) == (202, "policy.known-good")
        assert (await client.post("/api/v1/policies/rollback")).status_code == 202
        await stage.approve(marks.json()["approval"])
        assert (await client.post(f"/api/v1/policies/sets/{first}/known-good")).json()["known_good_at"]
        back = await client.post("/api/v1/policies/rollback")
    assert (back.status_code, back.json()["policy_set"], back.json()["approval"]) == (200, first, None)


# --- ways around it


async def by_himself(stage: Stage) -> None:
    waits = await asked(stage)
    assert await refusal(stage.approve(waits, "alice")) == "approval_own_request"


async def by_his_second_account(stage: Stage) -> None:
    await stage.person("al", email="a.smith+two@example.com")
    async with stage.database.begin() as tx:
        await tx.run(
            "UPDATE users SET email = 'a.smith@example.com' WHERE zone = :zone AND username = 'alice'", zone=stage.zone
        )
    waits = await asked(stage)
    assert "al" not in waits.candidates
    assert await refusal(stage.approve(waits, "al")) == "approval_same_person"


async def by_an_account_he_made(stage: Stage) -> None:
    await stage.person("puppet")
    async with stage.database.begin() as tx:
        await tx.run(
            "INSERT INTO account_influence (zone, username, by, how, at) VALUES (:zone, 'puppet', 'alice', 'made', :at)",
            zone=stage.zone,
            at=stage.clock.now(),
        )
    waits = await asked(stage)
    assert await refusal(stage.approve(waits, "puppet")) == "approval_related_account"


async def by_asking_twice(stage: Stage) -> None:
    await asked(stage)
    for _ in range(3):
        await again(stage)


async def by_two_who_only_ask(stage: Stage) -> None:
    """That ada asks for the same is no approval of hers."""
    waits = await asked(stage)
    other = Context(stage.zone, Actor(user="ada", session="session-2"))
    same = await stage.policies.activate(other, "authorization", 2)
    assert isinstance(same, Approval) and same.id == waits.id and same.missing == 1


async def by_a_key(stage: Stage) -> None:
    """A key could be anybody's: with it one more must agree, and its owner is none of them."""
    await asked(stage)
    async with stage.database.begin() as tx:
        await tx.run("DELETE FROM approvals WHERE zone = :zone", zone=stage.zone)
    caller = Context(stage.zone, Actor(user="alice", session="key:k1"))
    waits = await stage.policies.activate(caller, "authorization", 2)
    assert isinstance(waits, Approval) and waits.missing == 2
    assert await refusal(stage.approve(waits, "alice")) == "approval_own_request"
    await stage.approve(waits)
    assert isinstance(await stage.policies.activate(caller, "authorization", 2), Approval)


@pytest.mark.parametrize("actor", [{"application": "agent"}, {"delegation": "d1"}, {"mandate": "m1"}])
async def test_delegates_and_service_accounts_ask_as_nobody_in_particular(stage: Stage, actor: dict[str, str]) -> None:
    await stage.put("authorization", SEED)
    await stage.put("authorization", OPEN, activate=False)
    context = Context(stage.zone, Actor(user="alice", session="session-1", **actor))
    waits = await stage.policies.activate(context, "authorization", 2)
    assert isinstance(waits, Approval) and waits.missing == 2


async def by_another_payload(stage: Stage) -> None:
    """Approved is the set that was read, not what its name comes to mean."""
    waits = await asked(stage, None)
    await stage.approve(waits)
    await stage.put("authorization", allowing("sark.authz", 'input.action == "x"'), activate=False)
    newer = await again(stage, None)
    assert newer.id != waits.id and newer.payload["policy_set"] != waits.payload["policy_set"]
    wrong = {**newer.document(), "payload_sha256": waits.payload_sha256}
    assert await refusal(stage.approve(wrong)) == "approval_changed"


async def by_a_moved_target(stage: Stage) -> None:
    """What was read was the difference to the set that was active then."""
    waits = await asked(stage)
    await stage.put("other", NOBODY)
    assert await refusal(stage.approve(waits)) == "approval_ended"
    assert (await again(stage)).id != waits.id


async def by_a_target_moved_after_the_approval(stage: Stage) -> None:
    waits = await asked(stage)
    await stage.approve(waits)
    await stage.put("other", NOBODY)
    anew = await again(stage)
    assert anew.id != waits.id and anew.missing == 1
    assert (await stage.quorum.get(stage.zone, waits.id)).state == "withdrawn"


async def by_waiting_it_out(stage: Stage) -> None:
    waits = await asked(stage)
    await stage.approve(waits)
    stage.clock.advance(24 * 3600 + 1)
    assert await refusal(stage.approve(waits)) == "approval_ended"
    assert (await again(stage)).id != waits.id


async def by_a_rejected_one(stage: Stage) -> None:
    waits = await asked(stage)
    await stage.quorum.vote(
        Context(stage.zone), stage.zone, waits.id, person="ada", role="admin", approves=False,
        payload_sha256=waits.payload_sha256,
    )  # fmt: skip
    assert (await again(stage)).id != waits.id


async def by_who_has_left(stage: Stage) -> None:
    await stage.person("bea")
    waits = await asked(stage)
    await stage.approve(waits, "bea")
    async with stage.database.begin() as tx:
        await tx.run("UPDATE users SET is_active = false WHERE zone = :zone AND username = 'bea'", zone=stage.zone)
    assert (await again(stage)).id == waits.id


async def by_a_requester_who_has_left(stage: Stage) -> None:
    await stage.person("bea")
    waits = await asked(stage)
    await stage.approve(waits)
    async with stage.database.begin() as tx:
        await tx.run("UPDATE users SET is_active = false WHERE zone = :zone AND username = 'alice'", zone=stage.zone)
    other = Context(stage.zone, Actor(user="bea", session="session-3"))
    anew = await stage.policies.activate(other, "authorization", 2)
    assert isinstance(anew, Approval) and anew.id != waits.id and anew.requested_by == "bea"


CHEATS: list[Callable[[Stage], Coroutine[Any, Any, None]]] = [
    by_himself, by_his_second_account, by_an_account_he_made, by_asking_twice, by_two_who_only_ask, by_a_key,
    by_another_payload, by_a_moved_target, by_a_target_moved_after_the_approval, by_waiting_it_out, by_a_rejected_one,
    by_who_has_left, by_a_requester_who_has_left,
]  # fmt: skip


@pytest.mark.parametrize("cheat", CHEATS, ids=lambda each: each.__name__)
async def test_every_way_around_the_second_person_is_closed(stage: Stage, cheat: Callable[[Stage], Any]) -> None:
    await cheat(stage)
    async with stage.database.begin() as tx:
        opened = await tx.value(
            "SELECT count(*) FROM policy_activations a JOIN policy_sets s ON s.zone = a.zone AND s.hash = a.hash"
            " WHERE a.zone = :zone AND s.members @> cast(:member AS jsonb)",
            zone=stage.zone,
            member='[{"name": "authorization", "version": 2}]',
        )
    assert opened == 0


async def test_it_is_done_once(stage: Stage) -> None:
    """A replay changes nothing, and an approval that was used is no approval of the same again."""
    waits = await asked(stage)
    await stage.approve(waits)

    async def once() -> Any:
        return await stage.policies.activate(stage.context, "authorization", 2)

    done = await asyncio.gather(*(once() for _ in range(4)))
    assert [each.changed for each in done].count(True) == 1
    assert len(await stage.history()) == 2
    await stage.activate("authorization", 1)
    assert (await again(stage)).id != waits.id


@pytest.mark.parametrize("kind", ["initial", "activate", "rollback"])
async def test_the_database_takes_no_set_that_nobody_agreed_to(stage: Stage, kind: str) -> None:
    """Also not by statements of its own, with an approval of something else."""
    waits = await asked(stage)
    first = await stage.active_hash()
    await stage.approve(waits)
    await stage.activate("authorization", 2)
    with pytest.raises(DBAPIError, match="nobody agreed"):
        async with stage.database.begin() as tx:
            await tx.run(
                "INSERT INTO policy_activations (zone, hash, kind, approval, activated_by, activated_at)"
                " VALUES (:zone, :hash, :kind, :approval, 'alice', :at)",
                zone=stage.zone,
                hash=first,
                kind=kind,
                approval=waits.id,
                at=stage.clock.now(),
            )
    assert await stage.active_hash() == waits.payload["policy_set"]


async def test_who_approves_proved_himself_just_now() -> None:
    assert Permission.APPROVALS_VOTE in STEP_UP
    for action in (ACTIVATE, MARK):
        assert action.permission in STEP_UP and action.needed == 1 and action.life <= timedelta(hours=24)
