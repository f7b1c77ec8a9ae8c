"""Overrides: exactly what was agreed to, by persons, once; every way to cheat is refused with its reason."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError
from stage import Stage

import bailiwick.assurance
from bailiwick.assurance.book import Book, Document, read_text
from bailiwick.assurance.gateway_switch import GatewaySwitch
from bailiwick.assurance.operations import (
    Claim,
    GatewayClose,
    GatewayOpen,
    Nothing,
    Operation,
    PolicyRollback,
    Target,
    UserUnlock,
)
from bailiwick.assurance.override_records import MACHINE, Ask
from bailiwick.assurance.override_rules import KINDS, RULE, choose
from bailiwick.assurance.overrides import Overrides, refuse_not_a_person
from bailiwick.assurance.overrides_api import routes, unlock_route
from bailiwick.assurance.overrides_watch import OverrideWatch, sample
from bailiwick.evidence.events import Actor, Context
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.errors import BailiwickError, Conflict
from bailiwick.kernel.http import Caller
from people_fixtures import House

SHIPPED = (Path(bailiwick.assurance.__file__).parent / "shipped/overrides.yaml").read_text()
PAYOUT = """apiVersion: bailiwick/v1
kind: OverrideRule
metadata: {name: payout}
spec: {operation: payout.force, roles: [admin, operator]}
---
apiVersion: bailiwick/v1
kind: OverrideRule
metadata: {name: other}
spec: {operation: payout.other, other_role: true}
---
apiVersion: bailiwick/v1
kind: OverrideRule
metadata: {name: paid}
spec: {operation: payout.paid, roles: [finance_owner]}
"""


class Force:
    """An operation of the tests: a row is changed, and how often is counted."""

    title = "force a payout"
    class_: Any = "finance"
    arguments = Nothing
    external = False
    reversible = True
    target_id = "payout/7"

    def __init__(self, stage: Stage, name: str = "payout.force", class_: str = "finance") -> None:
        self.name, self.class_ = name, class_
        self._stage = stage
        self.version, self.done, self.undone = "1", 0, 0
        self.refuses: BailiwickError | None = None

    def amount(self, arguments: Nothing) -> int:
        return 1

    async def target(self, tx: Transaction, zone: str, arguments: Nothing) -> Target:
        return Target(self.target_id, self.version)

    async def perform(self, context: Context, arguments: Nothing, claim: Claim, key: str) -> Mapping[str, Any]:
        async with self._stage.database.begin() as tx:
            await claim(tx)
            if self.refuses is not None:
                raise self.refuses
            self.done += 1
        return {"paid": True}

    async def undo(self, context: Context, arguments: Nothing, key: str) -> bool:
        self.undone += 1
        return True


class Desk:
    """jane asks; kim and lou are administrators, olga operates, viv looks."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.force = Force(stage)
        self.other = Force(stage, "payout.other", "widening")
        self.hold = Force(stage, "payout.hold", "narrowing")
        self.switch = GatewaySwitch(stage.clock, stage.ids, stage.recorder)
        settle = stage.people.authority
        self.rolled_back: list[str] = []

        class Sets:
            """Stands for the policies: to go back is noted."""

            async def roll_back(_, context: Context, within: Any, **more: Any) -> Any:
                self.rolled_back.append(context.actor.user)

        operations: list[Operation] = [
            self.force, self.other, Force(stage, "payout.paid"), self.hold, UserUnlock(stage.people.users),
            GatewayClose(stage.database, self.switch, settle), GatewayOpen(stage.database, self.switch, settle),
            PolicyRollback(Sets()),  # type: ignore[arg-type]
        ]  # fmt: skip
        self.overrides = Overrides(
            stage.database, stage.clock, stage.ids, stage.recorder, stage.quorum, stage.books, stage.heard,
            environment="production", operations=operations,
        )  # fmt: skip
        self.watch = OverrideWatch(
            stage.database, stage.clock, stage.recorder, self.overrides, stage.heard, stage.heard
        )
        stage.serve(routes(stage.database, stage.books, self.overrides, self.switch), unlock_route(self.overrides))

    async def open(self) -> Desk:
        documents = read_text(SHIPPED + PAYOUT, "shipped")
        await self.stage.books.ship(self.stage.context("bailiwick"), documents)
        for name, role in (("jane", "admin"), ("kim", "admin"), ("lou", "admin"), ("olga", "operator")):
            await self.stage.people.user(name, role)
        return self

    async def say(self, who: str, path: str, body: Any = None, **more: Any) -> tuple[int, Any]:
        token = await self.stage.people.signed_in(who)
        answer = await self.stage.call("POST", f"/api/v1/overrides{path}", body or {}, token=token, **more)
        return answer.status, answer.json()

    def wanted(self, operation: str = "payout.force", **arguments: Any) -> dict[str, Any]:
        return {
            "operation": operation, "arguments": arguments or {"why": "stuck"}, "reason": "the provider paid",
            "ticket": "OPS-1", "risk": "HIGH",
        }  # fmt: skip

    async def ask(self, who: str = "jane", operation: str = "payout.force", **arguments: Any) -> Any:
        status, said = await self.say(who, "", self.wanted(operation, **arguments))
        assert status == 201, said
        return said

    async def approve(self, who: str, asked: Any, **more: Any) -> tuple[int, Any]:
        return await self.say(who, f"/{asked['id']}/approve", {"payload_sha256": asked["payload_sha256"], **more})

    async def execute(self, who: str, asked: Any, digest: str = "") -> tuple[int, Any]:
        return await self.say(who, f"/{asked['id']}/execute", {"payload_sha256": digest or asked["payload_sha256"]})

    async def refused(self) -> list[str]:
        return [event.reasons[0] for event in await self.stage.people.events() if event.name == "override.refused"]

    async def sql(self, text: str, **values: Any) -> None:
        async with self.stage.database.begin() as tx:
            await tx.run(text, **values)


@pytest.fixture
async def desk(house: House) -> Desk:
    return await Desk(Stage(house, KINDS)).open()


async def test_it_is_done_once_and_a_replay_answers_the_same(desk: Desk) -> None:
    asked = await desk.ask()
    assert (asked["state"], asked["target"], asked["target_version"]) == ("requested", "payout/7", "1")
    assert await desk.ask() == {**asked, "approval": asked["approval"]}  # asked twice is asked once
    assert (await desk.approve("kim", asked))[1]["state"] == "checked"
    status, done = await desk.execute("jane", asked)
    assert (status, done["state"], done["result"]) == (200, "done", {"paid": True})
    status, again = await desk.execute("kim", asked)
    assert (status, again) == (200, done)
    assert desk.force.done == 1
    (event,) = [event for event in await desk.stage.people.events() if event.name == "override.done"]
    assert event.details["approved_by"] == ["kim"] and event.details["payload"] == asked["payload_sha256"]


async def test_of_two_who_execute_at_once_one_does_it(desk: Desk) -> None:
    asked = await desk.ask()
    await desk.approve("kim", asked)
    answers = await asyncio.gather(*(desk.execute(who, asked) for who in ("jane", "kim", "jane", "lou")))
    assert [status for status, _ in answers] == [200] * 4
    assert desk.force.done == 1


Cheat = Callable[[Desk], Coroutine[Any, Any, tuple[tuple[int, Any], int, str]]]


async def own_request(desk: Desk) -> tuple[tuple[int, Any], int, str]:
    return await desk.approve("jane", await desk.ask()), 403, "approval_own_request"


async def own_second_account(desk: Desk) -> tuple[tuple[int, Any], int, str]:
    await desk.sql("UPDATE users SET email = 'Jane+admin2@example.com' WHERE username = 'kim'")
    return await desk.approve("kim", await desk.ask()), 403, "approval_same_person"


async def same_person_renamed(desk: Desk) -> tuple[tuple[int, Any], int, str]:
    """Another name, the same employee: what the directory calls him does not change."""
    asked = await desk.ask()
    await desk.sql("UPDATE users SET external_id = 'E-100' WHERE username IN ('jane', 'kim')")
    return await desk.approve("kim", asked), 403, "approval_same_person"


async def account_made_by_the_maker(desk: Desk) -> tuple[tuple[int, Any], int, str]:
    token = await desk.stage.people.signed_in("jane")
    body = {"username": "puppet", "email": "p@example.com", "role": "admin", "password": "a long pass phrase 1"}
    made = await desk.stage.call("POST", "/api/v1/users", body, token=token)
    assert made.status == 201, made.body
    return await desk.approve("puppet", await desk.ask()), 403, "approval_related_account"


async def maker_is_the_puppet(desk: Desk) -> tuple[tuple[int, Any], int, str]:
    await desk.stage.people.users.invite(Context("default", Actor(user="kim")), "jane")
    return await desk.approve("kim", await desk.ask("jane")), 403, "approval_related_account"


async def own_group_change(desk: Desk) -> tuple[tuple[int, Any], int, str]:
    """The maker lifts a friend into the role that decides."""
    await desk.stage.people.user("viv", "viewer")
    asked = await desk.ask()
    await desk.stage.people.users.change(Context("default", Actor(user="jane")), "viv", {"role": "admin"})
    return await desk.approve("viv", asked), 403, "approval_related_account"


async def api_key(desk: Desk) -> tuple[tuple[int, Any], int, str]:
    asked = await desk.ask()
    caller = Caller("default", "kim", "admin", "", key="k1", permissions=frozenset({"overrides:approve"}))
    return await _refusal(desk, asked, caller, Actor(user="kim", session="key:k1")), 403, "override_not_signed_in"


async def service_account(desk: Desk) -> tuple[tuple[int, Any], int, str]:
    caller = Caller("default", "kim", "admin", "s1")
    return (
        await _refusal(desk, await desk.ask(), caller, Actor(user="kim", application="app-1")), 403,
        "override_not_signed_in",
    )  # fmt: skip


async def delegate(desk: Desk) -> tuple[tuple[int, Any], int, str]:
    caller = Caller("default", "kim", "admin", "s1")
    return (
        await _refusal(desk, await desk.ask(), caller, Actor(user="kim", delegation="d-1")), 403,
        "override_not_signed_in",
    )  # fmt: skip


async def changed_payload(desk: Desk) -> tuple[tuple[int, Any], int, str]:
    asked = await desk.ask()
    await desk.approve("kim", asked)
    return await desk.execute("jane", asked, "0" * 64), 409, "approval_changed"


async def approved_something_else(desk: Desk) -> tuple[tuple[int, Any], int, str]:
    asked = await desk.ask()
    return await desk.approve("kim", {**asked, "payload_sha256": "1" * 64}), 409, "approval_changed"


async def moved_target(desk: Desk) -> tuple[tuple[int, Any], int, str]:
    asked = await desk.ask()
    await desk.approve("kim", asked)
    desk.force.version = "2"
    return await desk.execute("jane", asked), 409, "override_stale"


async def replay_after_failure(desk: Desk) -> tuple[tuple[int, Any], int, str]:
    asked = await desk.ask()
    await desk.approve("kim", asked)
    desk.force.refuses = Conflict("no money")
    assert (await desk.execute("jane", asked))[0] == 409
    desk.force.refuses = None
    return await desk.execute("jane", asked), 409, "override_done"


async def expired(desk: Desk) -> tuple[tuple[int, Any], int, str]:
    asked = await desk.ask()
    await desk.approve("kim", asked)
    desk.stage.clock.advance(4 * 3600)
    return await desk.execute("jane", asked), 409, "approval_ended"


async def not_approved(desk: Desk) -> tuple[tuple[int, Any], int, str]:
    return await desk.execute("jane", await desk.ask()), 409, "approval_required"


async def checker_lost_his_role(desk: Desk) -> tuple[tuple[int, Any], int, str]:
    asked = await desk.ask()
    await desk.approve("kim", asked)
    await desk.sql("UPDATE users SET role = 'viewer' WHERE username = 'kim'")
    return await desk.execute("jane", asked), 409, "approval_required"


async def checker_is_another_under_the_name(desk: Desk) -> tuple[tuple[int, Any], int, str]:
    asked = await desk.ask()
    await desk.approve("kim", asked)
    await desk.sql("DELETE FROM sessions WHERE username = 'kim'")
    await desk.sql("UPDATE users SET id = 'another-id' WHERE username = 'kim'")
    return await desk.execute("jane", asked), 409, "approval_required"


async def requester_deactivated(desk: Desk) -> tuple[tuple[int, Any], int, str]:
    asked = await desk.ask()
    await desk.approve("kim", asked)
    await desk.sql("UPDATE users SET is_active = false WHERE username = 'jane'")
    return await desk.execute("kim", asked), 409, "approval_requester_gone"


async def requester_changed_his_role(desk: Desk) -> tuple[tuple[int, Any], int, str]:
    asked = await desk.ask("olga")
    await desk.approve("kim", asked)
    await desk.sql("UPDATE users SET role = 'admin' WHERE username = 'olga'")
    return await desk.execute("olga", asked), 409, "approval_requester_gone"


async def owner_role_of_who_asked(desk: Desk) -> tuple[tuple[int, Any], int, str]:
    """jane, an administrator, owns a plane by a group, and so does who would agree; by their own roles they differ."""
    await desk.stage.people.user("omar", "finance_owner")
    await desk.stage.people.user("sec", "security_owner")
    groups = desk.stage.people.groups
    await groups.create(desk.stage.context("lou"), "money", role="finance_owner", members=["jane"])
    await desk.sql("DELETE FROM account_influence")
    asked = await desk.ask("jane", "payout.other")
    assert "omar" not in asked["approval"]["candidates"] and "sec" in asked["approval"]["candidates"]
    return await desk.approve("omar", asked), 403, "approval_role"


async def who_is_locked(desk: Desk) -> tuple[tuple[int, Any], int, str]:
    asked = await desk.ask("jane", "user.unlock", username="kim")
    assert "lou" in asked["approval"]["candidates"] and "kim" not in asked["approval"]["candidates"]
    return await desk.approve("kim", asked), 403, "approval_concerned"


async def who_is_locked_by_his_second_account(desk: Desk) -> tuple[tuple[int, Any], int, str]:
    await desk.stage.people.user("sec", "security_owner")
    await desk.sql("UPDATE users SET email = 'Kim+two@example.com' WHERE username = 'lou'")
    return await desk.approve("lou", await desk.ask("jane", "user.unlock", username="kim")), 403, "approval_concerned"


async def who_is_locked_reviews(desk: Desk) -> tuple[tuple[int, Any], int, str]:
    """What one did by broken glass is not reviewed by who has the good of it."""
    desk.hold.target_id = "user/kim"
    status, done = await desk.say("jane", "/break-glass", desk.wanted("payout.hold"))
    assert (status, done["state"]) == (201, "review_due"), done
    word = {"payload_sha256": done["payload_sha256"], "verdict": "confirmed"}
    return await desk.say("kim", f"/{done['id']}/review", word), 403, "approval_concerned"


async def became_the_locked_person(desk: Desk) -> tuple[tuple[int, Any], int, str]:
    """He approved as another person than he is known to be by the time it is done."""
    asked = await desk.ask("jane", "user.unlock", username="kim")
    assert (await desk.approve("lou", asked))[0] == 200
    await desk.sql("UPDATE users SET external_id = 'E-7' WHERE username IN ('kim', 'lou')")
    return await desk.execute("jane", asked), 409, "approval_required"


async def role_of_who_asked(desk: Desk) -> tuple[tuple[int, Any], int, str]:
    return await desk.approve("kim", await _other(desk)), 403, "approval_role"


CHEATS: list[Cheat] = [
    own_request, own_second_account, same_person_renamed, account_made_by_the_maker,
    maker_is_the_puppet, own_group_change, api_key, service_account, delegate, changed_payload,
    approved_something_else, moved_target, replay_after_failure, expired, not_approved, checker_lost_his_role,
    checker_is_another_under_the_name, requester_deactivated, requester_changed_his_role, role_of_who_asked,
    owner_role_of_who_asked, who_is_locked, who_is_locked_by_his_second_account, who_is_locked_reviews,
    became_the_locked_person,
]  # fmt: skip


@pytest.mark.parametrize("cheat", CHEATS, ids=lambda each: each.__name__)
async def test_every_way_to_cheat_is_refused_with_its_reason_and_kept(desk: Desk, cheat: Cheat) -> None:
    (status, said), wanted, reason = await cheat(desk)
    assert (status, said["reason"]) == (wanted, reason)
    assert desk.force.done == desk.other.done == 0
    assert reason in await desk.refused()


async def _other(desk: Desk) -> Any:
    """One that takes another role than the maker's, with somebody who could decide."""
    asked = await desk.ask("olga", "payout.other")
    await desk.sql("UPDATE approvals SET requester_role = 'admin' WHERE requested_by = 'olga'")
    return asked


async def _refusal(desk: Desk, asked: Any, caller: Caller, actor: Actor) -> tuple[int, Any]:
    with pytest.raises(BailiwickError) as refused:
        await desk.overrides.decide(
            Context("default", actor), caller, asked["id"], approves=True, payload_sha256=asked["payload_sha256"],
            comment="",
        )  # fmt: skip
    return refused.value.status, {"reason": refused.value.reason}


async def test_without_anybody_who_could_check_it_cannot_be_raised_and_says_whom_to_invite(desk: Desk) -> None:
    await desk.sql("UPDATE users SET is_active = false WHERE username IN ('kim', 'lou')")
    status, said = await desk.say("jane", "", desk.wanted())
    assert (status, said["reason"], said["invite"]) == (422, "override_no_checker", ["admin", "operator"])
    assert "invite" in said["detail"]


async def test_what_no_rule_allows_cannot_be_asked_for(desk: Desk) -> None:
    async with desk.stage.database.begin() as tx:
        await tx.run("UPDATE assurance_documents SET in_force = false WHERE name = 'payout'")
    status, said = await desk.say("jane", "", desk.wanted())
    assert (status, said["reason"]) == (422, "override_no_rule")
    assert (await desk.say("jane", "", desk.wanted("no.such")))[0] == 404


@pytest.mark.parametrize(
    ("operation", "amount", "rule"),
    [
        ("external.payout", 10, "finance"),
        ("external.payout", 1_000_000, "finance-large"),
        ("policy.rollback", 1, "policy-rollback"),
        ("keys.rotate-emergency", 1, "keys"),
        ("nothing.of-it", 1, None),
    ],
)
def test_the_strictest_rule_that_fits_holds(operation: str, amount: int, rule: str | None) -> None:
    documents = {each.key: replace(each, version=1) for each in read_text(SHIPPED, "shipped")}
    chosen = choose(Book("default", 1, documents), operation, "production", amount)
    assert (chosen.name if chosen else None) == rule


def test_rules_change_by_two_persons_and_only_tighten() -> None:
    rule = RULE.read({"operation": "x", "ttl_minutes": 1440})
    assert RULE.two_persons(None, rule) and RULE.two_persons(rule, None)
    assert rule.terms().needed >= 1 and rule.terms().window >= timedelta(hours=24)
    for loose in ({"approvals": 0}, {"ttl_minutes": 2000}, {"related_hours": 0}):
        with pytest.raises(ValueError, match="validation error"):
            RULE.read({"operation": "x", **loose})
    assert Document("OverrideRule", "x", {}).version == 0


# ---------------------------------------------------------------------- broken glass


async def test_broken_glass_is_done_at_once_and_confirmed_by_another(desk: Desk) -> None:
    status, done = await desk.say("jane", "/break-glass", desk.wanted("payout.other"))
    assert (status, done["state"], desk.other.done) == (201, "review_due", 1)
    key = f"break-glass/{done['id']}"
    assert key in desk.stage.heard.open_alerts
    word = {"payload_sha256": done["payload_sha256"], "verdict": "confirmed"}
    assert (await desk.say("jane", f"/{done['id']}/review", word))[1]["reason"] == "approval_own_request"
    assert (await desk.say("kim", f"/{done['id']}/review", word))[1]["state"] == "confirmed"
    assert key not in desk.stage.heard.open_alerts
    desk.stage.clock.advance(2 * 86_400)
    assert (await desk.watch.run(desk.stage.clock.now()))["taken_back"] == 0
    assert desk.other.undone == 0


@pytest.mark.parametrize("how", ["disputed", "unreviewed"])
async def test_broken_glass_that_is_not_confirmed_is_taken_back_and_told(desk: Desk, how: str) -> None:
    _, done = await desk.say("jane", "/break-glass", desk.wanted("payout.other"))
    if how == "disputed":
        word = {"payload_sha256": done["payload_sha256"], "verdict": "disputed"}
        _, after = await desk.say("kim", f"/{done['id']}/review", word)
    else:
        desk.stage.clock.advance(86_400 - 1)
        await desk.watch.run(desk.stage.clock.now())
        assert desk.other.undone == 0
        desk.stage.clock.advance(1)
        await desk.watch.run(desk.stage.clock.now())
        async with desk.stage.database.begin() as tx:
            after = (await desk.overrides.get(tx, "default", done["id"])).document()
    assert (after["state"], after["undo"], after["why"], desk.other.undone) == ("disputed", "done", how, 1)
    (alert,) = [each for key, each in desk.stage.heard.open_alerts.items() if key.startswith("break-glass/")]
    assert (alert.rule, alert.severity, how in alert.summary) == ("BreakGlassDisputed", "P1", True)
    await desk.watch.run(desk.stage.clock.now())
    assert desk.other.undone == 1


async def test_finance_is_never_done_by_broken_glass(desk: Desk) -> None:
    status, said = await desk.say("jane", "/break-glass", desk.wanted())
    assert (status, said["reason"], desk.force.done) == (403, "permission_denied", 0)
    assert (await desk.say("olga", "/break-glass", desk.wanted("payout.other")))[0] == 403


@pytest.mark.parametrize("operation", ["user.unlock", "payout.other", "policy.rollback"])
async def test_what_widens_and_cannot_be_taken_back_is_never_done_by_broken_glass(desk: Desk, operation: str) -> None:
    await desk.sql(
        "INSERT INTO login_failures (zone, username, failures, last_at, locked_until)"
        " VALUES ('default', 'kim', 10, now(), now() + interval '1 hour')"
    )
    desk.other.reversible = False
    arguments = {"username": "kim"} if operation == "user.unlock" else {}
    status, said = await desk.say("jane", "/break-glass", desk.wanted(operation, **arguments))
    assert (status, said["reason"]) == (403, "switch_takes_two")
    assert "switch_takes_two" in await desk.refused()
    assert await desk.stage.people.value("SELECT failures FROM login_failures WHERE username = 'kim'") == 10
    assert desk.other.done == 0 and not desk.rolled_back


# ---------------------------------------------------------------------- real operations, grants, watch


async def test_the_gateway_closes_by_one_person_and_opens_by_two(desk: Desk) -> None:
    assert (await desk.say("jane", "", desk.wanted("gateway.open")))[0] == 409
    status, _ = await desk.say("jane", "/break-glass", desk.wanted("gateway.close"))
    assert status == 201
    closed = "SELECT EXISTS (SELECT FROM gateway_closures WHERE opened_at IS NULL)"
    assert await desk.stage.people.value(closed)
    assert ("zone", "default") in await desk.stage.people.feed()
    # nor by broken glass
    status, said = await desk.say("jane", "/break-glass", desk.wanted("gateway.open"))
    assert (status, said["reason"]) == (403, "switch_takes_two")
    assert "switch_takes_two" in await desk.refused()
    assert await desk.stage.people.value(closed)
    asked = await desk.ask("jane", "gateway.open")
    assert (await desk.execute("jane", asked))[1]["reason"] == "approval_required"
    assert await desk.stage.people.value(closed)
    await desk.approve("kim", asked)
    assert (await desk.execute("jane", asked))[1]["state"] == "done"
    assert not await desk.stage.people.value(closed)
    assert len(desk.stage.people.authority.settled) == 2


async def test_an_account_is_unlocked_as_it_was_seen(desk: Desk) -> None:
    await desk.sql(
        "INSERT INTO login_failures (zone, username, failures, last_at, locked_until)"
        " VALUES ('default', 'olga', 7, :now, :now)", now=desk.stage.clock.now(),
    )  # fmt: skip
    asked = await desk.ask("jane", "user.unlock", username="olga")
    await desk.approve("kim", asked)
    await desk.sql("UPDATE login_failures SET failures = 8")
    assert (await desk.execute("jane", asked))[1]["reason"] == "override_stale"
    asked = await desk.ask("jane", "user.unlock", username="olga")
    await desk.approve("kim", asked)
    assert (await desk.execute("jane", asked))[1]["result"] == {"username": "olga", "failures_forgotten": 8}


async def test_nobody_unlocks_an_account_alone_and_it_is_told_how_two_do(desk: Desk) -> None:
    await desk.sql(
        "INSERT INTO login_failures (zone, username, failures, last_at, locked_until)"
        " VALUES ('default', 'olga', 10, :now, :now)", now=desk.stage.clock.now(),
    )  # fmt: skip

    async def unlock(name: str) -> tuple[int, Any]:
        token = await desk.stage.people.signed_in("jane")
        answer = await desk.stage.call("POST", f"/api/v1/users/{name}/unlock", token=token)
        return answer.status, answer.json()

    status, told = await unlock("olga")
    assert (status, told["reason"]) == (409, "override_required")
    assert {"kim", "lou"} <= set(told["approvers"]) and "jane" not in told["approvers"]
    assert "override propose user.unlock --arg username=olga" in told["ask"]
    assert "kim" not in (await unlock("kim"))[1]["approvers"]  # nor whoever is locked himself
    assert (await unlock("nobody"))[0] == 404
    await desk.sql("UPDATE users SET is_active = false WHERE username IN ('kim', 'lou', 'root')")
    status, told = await unlock("olga")
    assert (status, told["reason"], told["invite"]) == (422, "override_no_checker", ["security_owner", "admin"])
    assert await desk.stage.people.value("SELECT failures FROM login_failures WHERE username = 'olga'") == 10
    assert (await desk.refused()).count("override_required") == 2
    assert (await desk.refused())[-1] == "override_no_checker"


async def test_who_owns_a_plane_by_a_group_agrees_as_its_owner(desk: Desk) -> None:
    """An ops owner may agree to nothing, and finance is not his; a group of finance changes both, and its end again."""
    await desk.stage.people.user("omar", "ops_owner")
    status, said = await desk.say("jane", "", desk.wanted("payout.paid"))
    assert (status, said["reason"]) == (422, "override_no_checker")
    group = await desk.stage.people.groups.create(
        desk.stage.context("lou"), "finance", role="finance_owner", members=["omar"]
    )
    asked = await desk.ask(operation="payout.paid")
    assert asked["approval"]["candidates"] == ["omar"]
    status, said = await desk.approve("omar", asked)
    assert (status, said["approval"]["votes"][0]["role"]) == (200, "finance_owner"), said
    await desk.stage.people.groups.delete(desk.stage.context("lou"), group.id)
    assert (await desk.execute("jane", asked))[1]["reason"] == "approval_required"


async def test_one_server_closes_and_opens_by_itself(desk: Desk) -> None:
    assert (await desk.say("jane", "/break-glass", desk.wanted("gateway.close", why="leak", server="pay")))[0] == 404
    await desk.stage.people.server("pay", "docs")
    closed = desk.wanted("gateway.close", why="leak", server="pay")
    assert (await desk.say("jane", "/break-glass", closed))[0] == 201
    assert ("server", "pay") in await desk.stage.people.feed()
    assert (await desk.say("jane", "/break-glass", closed))[0] == 409
    # the whole gateway stands by itself: it is open, and can be closed and opened beside this
    assert (await desk.say("jane", "", desk.wanted("gateway.open")))[0] == 409
    standing = "SELECT array_agg(server ORDER BY server) FROM gateway_closures WHERE opened_at IS NULL"
    assert (await desk.say("jane", "/break-glass", desk.wanted("gateway.close")))[0] == 201
    assert await desk.stage.people.value(standing) == ["", "pay"]
    asked = await desk.ask("jane", "gateway.open", why="rotated", server="pay")
    assert asked["target"] == "server/pay"
    await desk.approve("kim", asked)
    assert (await desk.execute("jane", asked))[1]["state"] == "done"
    assert await desk.stage.people.value(standing) == [""]
    # what opened one server opens nothing else
    with pytest.raises(DBAPIError):
        await desk.sql(
            "UPDATE gateway_closures SET opened_at = closed_at, opened_by = :id WHERE server = ''", id=asked["id"]
        )


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE overrides SET state = 'done'",
        "UPDATE overrides SET state = 'executing'",
        "UPDATE overrides SET state = 'review_due'",
        'UPDATE overrides SET arguments = \'{"why": "another"}\'',
        "UPDATE overrides SET target_version = '9'",
        "UPDATE overrides SET requested_by = 'kim'",
        "DELETE FROM overrides",
        "UPDATE gateway_closures SET opened_at = now(), opened_by = (SELECT id FROM overrides LIMIT 1)",
        "DELETE FROM gateway_closures",
        "UPDATE override_receipts SET status = 200",
        "DELETE FROM override_receipts",
        "DELETE FROM waivers",
    ],
)
async def test_the_database_denies_the_application_what_the_rule_denies(desk: Desk, statement: str) -> None:
    await desk.say("jane", "/break-glass", desk.wanted("gateway.close"))
    await desk.ask()
    with pytest.raises(DBAPIError) as denied:
        await desk.sql(statement)
    assert denied.value.orig.sqlstate == "42501"  # type: ignore[union-attr]


async def test_more_than_twenty_in_an_hour_are_told(desk: Desk) -> None:
    for number in range(21):
        await desk.say("jane", "/break-glass", desk.wanted("payout.other", why=f"case {number}"))
        assert ((await desk.watch.rate()) == 1) == (number == 20)
    assert "override-rate" in desk.stage.heard.open_alerts
    desk.stage.clock.advance(3601)
    await desk.watch.rate()
    assert "override-rate" not in desk.stage.heard.open_alerts


async def test_each_month_a_sample_is_drawn_once(desk: Desk) -> None:
    for number in range(7):
        await desk.say("jane", "/break-glass", desk.wanted("payout.other", why=f"case {number}"))
    assert await desk.watch.draw() == 0
    desk.stage.clock.advance(31 * 86_400)
    assert (await desk.watch.draw(), await desk.watch.draw()) == (5, 0)
    (task,) = desk.stage.heard.tasks.values()
    assert task.title == "Look at 5 of 7 overrides of 2026-01"
    assert sample("2026-01", [str(number) for number in range(200)]) == sample(
        "2026-01", [str(number) for number in range(200)]
    )
    assert len(sample("2026-01", [str(number) for number in range(200)])) == 20


def test_only_persons_ask(house: House) -> None:
    context = Context("default", Actor(user="jane"))
    refuse_not_a_person(Caller("default", "jane", "admin", "s"), context)
    with pytest.raises(BailiwickError):
        refuse_not_a_person(Caller("default", "jane", "admin", "", key="k"), context)
    assert Ask("a", {}, "b", "c", "LOW").operation == "a"
    assert MACHINE.moves["done"] == frozenset()
