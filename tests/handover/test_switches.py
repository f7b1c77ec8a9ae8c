"""Kill switches, freeze, read-only: each is thrown, and what it should stop is tried."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError
from stage import Stage

import bailiwick.assurance
from bailiwick.app.assurance.retention import forget_runs
from bailiwick.app.switched import ALWAYS, switches_against
from bailiwick.assurance.book import read_text
from bailiwick.assurance.gateway_switch import GatewaySwitch
from bailiwick.assurance.operations import GatewayClose, GatewayOpen, UserUnlock
from bailiwick.assurance.override_rules import KINDS
from bailiwick.assurance.overrides import Overrides
from bailiwick.assurance.overrides_api import routes as override_routes
from bailiwick.handover.switches import LEFT_ON, LeftOn, Switches, SwitchLift, SwitchThrow, severity_left
from bailiwick.handover.switches_api import routes
from bailiwick.identity.users import NewUser
from bailiwick.kernel.errors import BailiwickError, Unavailable
from bailiwick.kernel.modes import Switch, frozen_zones, require_on, standing
from bailiwick.kernel.severity import Severity
from people_fixtures import House

SHIPPED = (Path(bailiwick.assurance.__file__).parent / "shipped/overrides.yaml").read_text()


class Desk:
    """jane throws; kim is the other person; olga operates."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        shared = (stage.database, stage.clock, stage.ids, stage.recorder)
        settle = stage.people.authority
        self.switches = Switches(stage.clock, stage.ids, stage.recorder)
        gateway = GatewaySwitch(stage.clock, stage.ids, stage.recorder)
        self.overrides = Overrides(
            *shared, stage.quorum, stage.books, stage.heard, environment="production",
            operations=[
                SwitchThrow(stage.database, self.switches, settle), SwitchLift(stage.database, self.switches, settle),
                GatewayClose(stage.database, gateway, settle), GatewayOpen(stage.database, gateway, settle),
                UserUnlock(stage.people.users),
            ],
        )  # fmt: skip
        self.left_on = LeftOn(stage.database, stage.clock, stage.heard)
        stage.serve(
            override_routes(stage.database, stage.books, self.overrides, gateway),
            routes(stage.database, self.switches),
        )

    async def open(self) -> Desk:
        await self.stage.books.ship(self.stage.context("bailiwick"), read_text(SHIPPED, "shipped"))
        for name, role in (("jane", "admin"), ("kim", "admin"), ("olga", "operator")):
            await self.stage.people.user(name, role)
        return self

    async def say(self, who: str, path: str, body: Any) -> tuple[int, Any]:
        token = await self.stage.people.signed_in(who)
        answer = await self.stage.call("POST", f"/api/v1/overrides{path}", body, token=token)
        return answer.status, answer.json()

    async def throw(self, switch: str, who: str = "jane", **arguments: str) -> tuple[int, Any]:
        return await self.say(who, "/break-glass", asked("switch.throw", switch, **arguments))

    async def lift(self, switch: str) -> None:
        status, said = await self.say("jane", "", asked("switch.lift", switch))
        assert status == 201, said
        word = {"payload_sha256": said["payload_sha256"]}
        status, agreed = await self.say("kim", f"/{said['id']}/approve", word)
        assert (status, agreed["state"]) == (200, "checked"), agreed
        status, done = await self.say("jane", f"/{said['id']}/execute", word)
        assert (status, done["state"]) == (200, "done"), done

    async def standing(self) -> frozenset[str]:
        async with self.stage.database.begin() as tx:
            return await standing(tx, "default")


def asked(operation: str, switch: str, **arguments: str) -> dict[str, Any]:
    return {
        "operation": operation, "arguments": {"switch": switch, "why": "drill", **arguments}, "reason": "drill",
        "ticket": "INC-1", "risk": "HIGH",
    }  # fmt: skip


@pytest.fixture
async def desk(house: House) -> Desk:
    return await Desk(Stage(house, KINDS)).open()


async def refused(work: Any) -> str:
    with pytest.raises(BailiwickError) as caught:
        await work
    return caught.value.reason


async def test_one_person_throws_and_two_lift(desk: Desk) -> None:
    status, done = await desk.throw("mint")
    assert (status, done["state"]) == (201, "review_due"), done  # another reviews it within a day
    assert await desk.standing() == {"mint"}
    assert ("modes", "mint") in await desk.stage.people.feed()
    # not alone: neither by broken glass nor by asking and doing
    assert (await desk.say("jane", "/break-glass", asked("switch.lift", "mint")))[1]["reason"] == "switch_takes_two"
    status, said = await desk.say("jane", "", asked("switch.lift", "mint"))
    word = {"payload_sha256": said["payload_sha256"]}
    assert (await desk.say("jane", f"/{said['id']}/approve", word))[1]["reason"] == "approval_own_request"
    assert (await desk.say("jane", f"/{said['id']}/execute", word))[1]["reason"] == "approval_required"
    assert await desk.standing() == {"mint"}
    await desk.say("kim", f"/{said['id']}/approve", word)
    assert (await desk.say("jane", f"/{said['id']}/execute", word))[1]["state"] == "done"
    assert await desk.standing() == frozenset()
    names = [event.name for event in await desk.stage.people.events()]
    assert names.count("switch.thrown") == names.count("switch.lifted") == 1


async def test_the_schema_lifts_nothing_without_the_override_of_two(desk: Desk) -> None:
    _, done = await desk.throw("freeze")
    for by in ("nothing", done["id"]):  # an override that is there, and was to throw
        with pytest.raises(DBAPIError):
            async with desk.stage.database.begin() as tx:
                await tx.run("UPDATE switches SET lifted_at = now(), lifted_by = :by", by=by)
    with pytest.raises(DBAPIError):
        async with desk.stage.database.begin() as tx:
            await tx.run("DELETE FROM switches")
    assert await desk.standing() == {"freeze"}


async def test_an_operator_may_not_throw_and_nothing_is_thrown_twice(desk: Desk) -> None:
    assert (await desk.throw("mint", "olga"))[0] == 403
    assert (await desk.throw("sign-in"))[1]["reason"] == "invalid_request"  # there is no such capability
    assert (await desk.throw("mint"))[0] == 201
    assert (await desk.throw("mint"))[1]["reason"] == "conflict"
    assert await desk.standing() == {"mint"}


async def test_provisioning_switched_off_makes_nobody_and_disables_all_the_same(desk: Desk) -> None:
    people, context = desk.stage.people, desk.stage.context("root")
    await people.user("joe", "operator")
    await desk.throw("provision")
    new = NewUser(username="eve", email="eve@example.com", role="viewer", password="a long pass phrase 1")
    assert await refused(people.users.create(context, new)) == "switched_off"
    assert await refused(people.users.change(context, "joe", {"role": "admin"})) == "switched_off"
    assert await refused(people.applications.create(context, "admin", "bot")) == "switched_off"
    assert await refused(people.groups.create(context, "gang")) == "switched_off"
    assert await refused(people.api_keys.create(context, "admin", "k", ["self"], life=timedelta(days=1))) in {
        "switched_off", "permission_denied", "invalid_request",
    }  # fmt: skip
    assert not (await people.users.change(context, "joe", {"is_active": False})).is_active
    assert (await people.signed_in("kim")) != ""  # signing in is no capability
    await desk.lift("provision")
    assert (await people.users.create(context, new))[0].username == "eve"


async def test_approving_switched_off_holds_approvals_but_not_the_way_back(desk: Desk) -> None:
    unlock = {
        "operation": "user.unlock",
        "arguments": {"username": "olga"},
        "reason": "r",
        "ticket": "t",
        "risk": "LOW",
    }
    status, waits = await desk.say("jane", "", unlock)
    assert status == 201
    await desk.throw("approve")
    word = {"payload_sha256": waits["payload_sha256"]}
    assert (await desk.say("kim", f"/{waits['id']}/approve", word))[1]["reason"] == "switched_off"
    await desk.lift("approve")  # is itself approved
    assert (await desk.say("kim", f"/{waits['id']}/approve", word))[1]["state"] == "checked"


async def test_a_freeze_holds_the_book_overrides_and_what_destroys(desk: Desk) -> None:
    unlock = {
        "operation": "user.unlock",
        "arguments": {"username": "olga"},
        "reason": "r",
        "ticket": "t",
        "risk": "LOW",
    }
    _, waits = await desk.say("jane", "", unlock)
    word = {"payload_sha256": waits["payload_sha256"]}
    await desk.say("kim", f"/{waits['id']}/approve", word)
    await desk.throw("freeze")
    assert (await desk.say("jane", f"/{waits['id']}/execute", word))[1]["reason"] == "changes_frozen"
    documents = read_text(SHIPPED.replace("ttl_minutes: 480", "ttl_minutes: 470"), "t")
    planned = await desk.stage.books.plan("default", documents)
    applied = desk.stage.books.apply(desk.stage.context(), documents, sha256=planned.sha256, by="root")
    assert await refused(applied) == "changes_frozen"
    assert await forget_runs(desk.stage.database) == {"frozen_zones": 1}
    async with desk.stage.database.begin() as tx:
        assert await frozen_zones(tx) == {"default"}
    # what narrows is done all the same
    close = {**asked("gateway.close", "x"), "arguments": {"why": "drill"}}
    assert (await desk.say("jane", "/break-glass", close))[0] == 201
    await desk.lift("freeze")
    assert (await desk.say("jane", f"/{waits['id']}/execute", word))[1]["state"] != "requested"
    assert "frozen_zones" not in await forget_runs(desk.stage.database)


async def test_who_began_before_is_waited_for(desk: Desk) -> None:
    """A switch stands only when everybody who had asked is done: nothing is committed behind it."""
    import asyncio

    async with desk.stage.database.begin() as tx:
        await require_on(tx, "default", Switch.ACTIVATE)
        throwing = asyncio.create_task(desk.throw("activate"))
        done, _ = await asyncio.wait([throwing], timeout=0.3)
        assert not done
    assert (await throwing)[0] == 201
    async with desk.stage.database.begin() as tx:
        with pytest.raises(Unavailable):
            await require_on(tx, "default", Switch.ACTIVATE)


async def test_what_is_left_on_is_told_and_cleared(desk: Desk) -> None:
    await desk.throw("exchange")
    clock, heard = desk.stage.clock, desk.stage.heard
    assert await desk.left_on.run(clock.now()) == {"left_on": 0}
    clock.advance((LEFT_ON + timedelta(minutes=1)).total_seconds())
    assert await desk.left_on.run(clock.now()) == {"left_on": 1}
    assert heard.open_alerts["left-on/exchange"].severity is Severity.P2
    clock.advance(LEFT_ON.total_seconds())
    await desk.left_on.run(clock.now())
    assert heard.open_alerts["left-on/exchange"].severity == "P1"
    await desk.lift("exchange")
    assert await desk.left_on.run(clock.now()) == {"left_on": 0}
    assert "left-on/exchange" not in heard.open_alerts
    assert severity_left(timedelta(days=3)) is Severity.P0


async def test_what_is_thrown_is_shown(desk: Desk) -> None:
    await desk.throw("read-only")
    token = await desk.stage.people.signed_in("olga")
    told = (await desk.stage.call("GET", "/api/v1/switches", token=token)).json()
    assert [(each["name"], each["reason"], each["thrown_by"]) for each in told["thrown"]] == [
        ("read-only", "drill", "jane")
    ]
    await desk.lift("read-only")  # which changes something, and is let through
    assert (await desk.stage.call("GET", "/api/v1/switches", token=token)).json()["thrown"] == []


def test_paths_are_refused_by_what_they_do() -> None:
    assert Switch.READ_ONLY in switches_against("POST", "/api/v1/whatever/comes/next")  # what nobody thought of
    assert switches_against("GET", "/api/v1/users") == ()
    for method, path in (
        ("POST", "/api/v1/auth/login/local"),
        ("POST", "/api/v1/revocations"),
        ("DELETE", "/api/v1/sessions/1"),
        ("DELETE", "/api/v1/sessions"),
        ("POST", "/api/v1/incidents/INC-1/contain"),
        ("POST", "/api/v1/overrides/break-glass"),
        ("POST", "/oauth/token"),
    ):
        assert switches_against(method, path) == (), path
    assert set(switches_against("POST", "/api/v1/users")) == {Switch.READ_ONLY, Switch.PROVISION}
    assert Switch.FREEZE in switches_against("PUT", "/api/v1/credentials/crm")
    assert Switch.FREEZE in switches_against("POST", "/api/v1/policies/authz/activate")
    assert Switch.FREEZE not in switches_against("POST", "/api/v1/applications/bot/secret")
    loop = switches_against("POST", "/api/v1/canaries/loops")  # makes a server, a credential and an application
    assert set(loop) == {Switch.READ_ONLY, Switch.FREEZE, Switch.PROVISION}
    assert not ALWAYS("POST", "/api/v1/incidentsX")
