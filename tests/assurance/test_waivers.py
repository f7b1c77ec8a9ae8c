"""Waivers: what is asked for, who decides, when they end, what gates are told, and the report."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from stage import Stage

import bailiwick.assurance
from bailiwick.assurance.book import BadBook
from bailiwick.assurance.ports import Waivers
from bailiwick.assurance.waivers import KINDS, LONGEST, MACHINE, NewWaiver, WaiverRegister, state_at
from bailiwick.assurance.waivers_api import routes
from bailiwick.assurance.waivers_watch import WaiverWatch, heads_up_due, read_burn_down
from bailiwick.evidence.events import rfc3339
from bailiwick.evidence.evidence_records import Producer
from bailiwick.kernel.errors import BailiwickError
from people_fixtures import House

SHIPPED = (Path(bailiwick.assurance.__file__).parent / "shipped/waivers.yaml").read_text()
MORE = """apiVersion: bailiwick/v1
kind: WaiverControl
metadata: {name: login-tls}
spec: {title: TLS on sign-in, waivable: true, owner: access-control}
"""

STATEMENTS = MORE.replace("apiVersion", "---\napiVersion").replace("login-tls", "handover-statement")


class Desk:
    """The register with people: jane and kim decide, olga operates."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.register = WaiverRegister(
            stage.database, stage.clock, stage.ids, stage.recorder, stage.quorum, stage.books, stage.records
        )
        self.watch = WaiverWatch(stage.database, stage.clock, stage.recorder, self.register, stage.heard, stage.heard)
        stage.serve(routes(stage.database, stage.clock, self.register))
        self.tokens: dict[str, str] = {}

    async def open(self) -> Desk:
        async with self.stage.database.begin() as tx:
            del tx
        from bailiwick.assurance.book import read_text

        await self.stage.books.ship(self.stage.context("bailiwick"), read_text(SHIPPED + MORE + STATEMENTS, "shipped"))
        for name, role in (("jane", "admin"), ("kim", "admin"), ("lou", "admin"), ("olga", "operator")):
            await self.stage.people.user(name, role)
        return self

    async def token(self, name: str) -> str:
        return await self.stage.people.signed_in(name)

    def wanted(self, risk: str = "LOW", days: float | None = None, **more: Any) -> dict[str, Any]:
        until = self.stage.clock.now() + (timedelta(days=days) if days else LONGEST[risk])
        return {
            "control": "login-tls", "scope": "server/pay", "reason": "the old balancer", "risk": risk,
            "compensating": "reachable from the office only", "owner": "access-control", "plan": "replace it",
            "valid_until": until.isoformat(), **more,
        }  # fmt: skip

    async def ask(self, by: str = "olga", **wanted: Any) -> str:
        answer = await self.stage.call("POST", "/api/v1/waivers", self.wanted(**wanted), token=await self.token(by))
        assert answer.status == 201, answer.body
        return str(answer.json()["id"])

    async def say(self, who: str, verb: str, identifier: str, body: Any = None) -> tuple[int, Any]:
        answer = await self.stage.call(
            "POST", f"/api/v1/waivers/{identifier}/{verb}", body or {}, token=await self.token(who)
        )
        return answer.status, answer.json()

    async def active(self, risk: str = "LOW", **wanted: Any) -> str:
        identifier = await self.ask(risk=risk, **wanted)
        for who in ("jane", "kim")[: 2 if risk in ("HIGH", "CRITICAL") else 1]:
            assert (await self.say(who, "approve", identifier))[0] == 200
        return identifier

    async def covering(self, control: str = "login-tls", scope: str = "server/pay") -> str | None:
        async with self.stage.database.begin() as tx:
            return await self.register.covering(tx, "default", control, scope, self.stage.clock.now())

    async def state(self, identifier: str) -> str:
        async with self.stage.database.begin() as tx:
            return (await self.register.get(tx, "default", identifier)).state

    async def proof(self, exit_code: int = 0) -> str:
        now = self.stage.clock.now()
        async with self.stage.database.begin() as tx:
            stored = await self.stage.records.probe(
                tx, self.stage.context(), "tls/pay", b"ok", exit_code=exit_code, since=now, until=now,
                producer=Producer(name="root", program="t", version="1"),
            )  # fmt: skip
        return stored.id

    async def events(self, name: str) -> list[Any]:
        return [event for event in await self.stage.people.events() if event.name == name]


@pytest.fixture
async def desk(house: House) -> Desk:
    return await Desk(Stage(house, KINDS)).open()


@pytest.mark.parametrize(
    "missing", ["control", "scope", "reason", "risk", "compensating", "owner", "plan", "valid_until"]
)
async def test_a_missing_field_is_refused_by_name(desk: Desk, missing: str) -> None:
    body = desk.wanted()
    del body[missing]
    answer = await desk.stage.call("POST", "/api/v1/waivers", body, token=await desk.token("olga"))
    assert (answer.status, answer.json()["reason"], answer.json()["missing"]) == (422, "waiver_incomplete", [missing])


@pytest.mark.parametrize("risk", list(LONGEST))
async def test_no_waiver_lasts_longer_than_its_risk_allows(desk: Desk, risk: str) -> None:
    token, most = await desk.token("olga"), LONGEST[risk].days
    late = await desk.stage.call("POST", "/api/v1/waivers", desk.wanted(risk, days=most + 0.001), token=token)
    assert (late.status, late.json()["reason"], late.json()["most_days"]) == (422, "waiver_too_long", most)
    assert (await desk.stage.call("POST", "/api/v1/waivers", desk.wanted(risk, days=most), token=token)).status == 201


async def test_who_asked_never_approves_and_high_takes_two(desk: Desk) -> None:
    identifier = await desk.ask("jane", risk="HIGH")
    status, said = await desk.say("jane", "approve", identifier)
    assert (status, said["reason"]) == (403, "approval_own_request")
    assert (await desk.say("olga", "approve", identifier))[0] == 403
    status, said = await desk.say("kim", "approve", identifier)
    assert (status, said["state"], said["missing"]) == (200, "submitted", 1)
    assert await desk.covering() is None
    status, said = await desk.say("lou", "approve", identifier)
    assert (said["state"], said["decided_by"]) == ("active", ["kim", "lou"])
    assert await desk.covering() == identifier


@pytest.mark.parametrize("how", ["mail", "external", "made"])
async def test_a_second_account_of_who_asked_does_not_approve(desk: Desk, how: str) -> None:
    people = desk.stage.people
    async with desk.stage.database.begin() as tx:
        if how == "mail":
            await tx.run("UPDATE users SET email = 'olga+2@example.com' WHERE username = 'jane'")
        elif how == "external":
            await tx.run("UPDATE users SET external_id = 'E77' WHERE username IN ('olga', 'jane')")
        else:
            await tx.run(
                "INSERT INTO account_influence (zone, username, by, how, at)"
                " VALUES ('default', 'jane', 'olga', 'made', :now)", now=people.clock.now(),
            )  # fmt: skip
    identifier = await desk.ask("olga")
    status, said = await desk.say("jane", "approve", identifier)
    assert (status, said["reason"]) == (
        403, "approval_related_account" if how == "made" else "approval_same_person"
    )  # fmt: skip
    assert (await desk.say("kim", "approve", identifier))[1]["state"] == "active"


async def test_the_block_is_back_exactly_at_the_end_and_the_event_is_there_once(desk: Desk) -> None:
    identifier = await desk.active("HIGH")
    desk.stage.clock.advance(7 * 86_400 - 0.001)
    assert await desk.covering() == identifier
    desk.stage.clock.advance(0.001)
    assert await desk.covering() is None  # no job ran
    assert await desk.state(identifier) == "expired"
    for _ in range(3):
        await desk.watch.run(desk.stage.clock.now())
    (event,) = await desk.events("waiver.expired")
    assert event.subject.id == identifier
    raised = desk.stage.heard.open_alerts[f"waiver/{identifier}/overdue"]
    assert (raised.owner, raised.severity) == ("access-control", "P1")
    async with desk.stage.database.begin() as tx:
        with pytest.raises(BailiwickError) as refused:
            await desk.register.used(tx, desk.stage.context(), identifier, "deploy")
    assert refused.value.reason == "waiver_inactive"


async def test_one_approved_ahead_of_time_covers_from_its_beginning(desk: Desk) -> None:
    begins = desk.stage.clock.now() + timedelta(days=2)
    identifier = await desk.active(days=5, valid_from=begins.isoformat())
    assert (await desk.state(identifier), await desk.covering()) == ("approved", None)
    desk.stage.clock.advance(2 * 86_400)
    assert (await desk.state(identifier), await desk.covering()) == ("active", identifier)


async def test_renewals_are_new_records_a_tier_higher_and_end_at_two(desk: Desk) -> None:
    identifier = await desk.active()
    tiers, last = [], identifier
    until = desk.stage.clock.now()
    for number in (1, 2):
        desk.stage.clock.advance(90 * 86_400)
        until = desk.stage.clock.now() + timedelta(days=90)
        same = {"reason": "The  old BALANCER", "valid_until": until.isoformat()}
        if number == 1:
            assert (await desk.say("olga", "renew", last, same))[0] == 400
        status, made = await desk.say("olga", "renew", last, {**same, "reason": f"parts are late, {number}"})
        assert status == 201, made
        assert (made["renews"], made["renewals"], made["state"]) == (last, number, "draft")
        tiers.append(made["tier"])
        assert (await desk.say("olga", "submit", made["id"]))[0] == 200
        assert (await desk.say("jane", "approve", made["id"]))[0] == 200
        if number == 2:  # the third tier is two persons
            assert await desk.state(made["id"]) == "submitted"
            assert (await desk.say("kim", "approve", made["id"]))[0] == 200
        assert await desk.state(last) == "renewed"
        last = made["id"]
        assert await desk.covering() == last
    assert tiers == [2, 3]
    desk.stage.clock.advance(91 * 86_400)
    status, said = await desk.say("olga", "renew", last, {"reason": "once more", "valid_until": until.isoformat()})
    assert (status, said["reason"]) == (409, "waiver_renewals_exhausted")


async def test_it_closes_on_evidence_alone_and_one_that_expired_is_settled(desk: Desk) -> None:
    identifier = await desk.active()
    assert (await desk.say("jane", "close", identifier, {"evidence": "0" * 64}))[0] == 404
    assert (await desk.say("jane", "close", identifier, {"evidence": await desk.proof(1)}))[0] == 409
    assert (await desk.say("olga", "close", identifier, {"evidence": await desk.proof()}))[0] == 403
    assert (await desk.say("jane", "close", identifier, {"evidence": await desk.proof()}))[1]["state"] == "closed"
    assert await desk.covering() is None
    late = await desk.active()
    desk.stage.clock.advance(91 * 86_400)
    await desk.watch.run(desk.stage.clock.now())
    _, said = await desk.say("jane", "close", late, {"evidence": await desk.proof()})
    assert (said["state"], said["past_due"]) == ("expired", False)
    await desk.watch.run(desk.stage.clock.now())
    assert desk.stage.heard.open_alerts == {}


async def test_a_revoked_one_covers_nothing_any_more(desk: Desk) -> None:
    identifier = await desk.active()
    assert (await desk.say("jane", "revoke", identifier, {"why": "no longer needed"}))[1]["state"] == "revoked"
    assert await desk.covering() is None
    assert (await desk.say("jane", "revoke", identifier, {"why": "again"}))[1]["reason"] == "illegal_transition"


async def test_heads_up_is_given_once_for_seven_three_and_one_days(desk: Desk) -> None:
    await desk.active()
    sent = []
    for day in range(90):
        desk.stage.clock.advance(86_400)
        before = len(desk.stage.heard.notices)
        await desk.watch.run(desk.stage.clock.now())
        if len(desk.stage.heard.notices) > before:
            sent.append(89 - day)
    assert sent == [7, 3, 1]
    assert {notice.to for notice in desk.stage.heard.notices} == {"person:olga", "role:security_owner"}


def test_a_heads_up_that_was_past_when_it_was_made_is_not_given() -> None:
    made = datetime(2026, 1, 1, tzinfo=UTC)
    end = made + timedelta(days=5)
    due = [heads_up_due(end, made + timedelta(hours=hours), made) for hours in (0, 1, 47, 48, 49, 96, 119, 120)]
    assert due == [None, None, None, 3, 3, 1, 1, None]


@pytest.mark.parametrize("control", ["canary", "two-person-rule", "nobody-named-it"])
async def test_what_cannot_be_waived_is_refused_and_never_covered(desk: Desk, control: str) -> None:
    answer = await desk.stage.call(
        "POST", "/api/v1/waivers", desk.wanted() | {"control": control}, token=await desk.token("olga")
    )
    assert (answer.status, answer.json()["reason"]) == (422, "control_not_waivable")
    identifier = await desk.active()
    async with desk.stage.database.begin() as tx:  # even where a row says so
        await tx.run("UPDATE waivers SET control = :control WHERE id = :id", control=control, id=identifier)
    assert await desk.covering(control) is None


async def test_what_the_canary_found_is_waived_in_no_pack_under_another_name(desk: Desk) -> None:
    for scope, status in (("production/canary/release", 422), ("canary/storage/log", 201), ("production/canary/history",
                          201)):  # fmt: skip
        body = desk.wanted(control="handover-statement", scope=scope)
        answer = await desk.stage.call("POST", "/api/v1/waivers", body, token=await desk.token("olga"))
        assert answer.status == status, scope
    identifier = await desk.active(control="handover-statement", scope="production/canary/history")
    async with desk.stage.people.owner.begin() as tx:  # even where a row says so
        await tx.run("UPDATE bailiwick.waivers SET scope = 'production/canary/release' WHERE id = :id", id=identifier)
    assert await desk.covering("handover-statement", "production/canary/release") is None


async def test_what_is_granted_is_told_with_the_event_that_approved_it(desk: Desk) -> None:
    async def granted() -> Any:
        async with desk.stage.database.begin() as tx:
            return await desk.register.granted(tx, "default", identifier, desk.stage.clock.now())

    identifier = await desk.ask(days=3)
    assert await granted() is None
    assert (await desk.say("jane", "approve", identifier))[0] == 200
    found, (event,) = await granted(), await desk.events("waiver.approved")
    assert (found.id, found.control, found.scope, found.event) == (identifier, "login-tls", "server/pay", event.id)
    assert event.details["until"] == rfc3339(found.until)
    desk.stage.clock.advance(3 * 86400)
    assert await granted() is None
    identifier = await desk.active()
    assert (await desk.say("jane", "revoke", identifier, {"why": "mended"}))[0] == 200
    assert await granted() is None
    identifier = "0" * 8
    assert await granted() is None


async def test_no_document_makes_the_canary_waivable(desk: Desk) -> None:
    with pytest.raises(BadBook) as refused:
        await desk.stage.apply(MORE.replace("login-tls", "canary"))
    assert "never be waived" in str(refused.value)


async def test_uses_are_kept_and_unused_ones_told(desk: Desk) -> None:
    used, unused = await desk.active(), await desk.active(scope="server/other")
    async with desk.stage.database.begin() as tx:
        await desk.register.used(tx, desk.stage.context(), used, "deploy/pay")
    desk.stage.clock.advance(14 * 86_400)
    answer = await desk.stage.call("GET", f"/api/v1/waivers/{used}", token=await desk.token("jane"))
    assert [use["gate"] for use in answer.json()["uses"]] == ["deploy/pay"]
    report = await desk.stage.call("GET", "/api/v1/waivers/burn-down", token=await desk.token("jane"))
    assert report.json()["unused"] == [unused]
    (event,) = await desk.events("waiver.used")
    assert event.details == {"gate": "deploy/pay", "control": "login-tls"}


async def test_the_burn_down_equals_a_recount(desk: Desk) -> None:
    for risk, count in (("LOW", 3), ("MEDIUM", 2), ("HIGH", 2)):
        for number in range(count):
            await desk.active(risk, scope=f"server/{risk}{number}")
            desk.stage.clock.advance(3600)
    desk.stage.clock.advance(8 * 86_400)
    first = await desk.stage.people.value("SELECT min(id) FROM waivers WHERE risk = 'HIGH'")
    until = (desk.stage.clock.now() + timedelta(days=3)).isoformat()
    _, made = await desk.say("olga", "renew", first, {"reason": "still late", "valid_until": until})
    await desk.say("olga", "submit", made["id"])
    for who in ("jane", "kim"):
        await desk.say(who, "approve", made["id"])
    now = desk.stage.clock.now()
    async with desk.stage.database.begin() as tx:
        told = await read_burn_down(tx, "default", now)
        rows = await tx.all(
            "SELECT risk, count(*) AS open, count(*) FILTER (WHERE valid_until <= :now) AS late,"
            " count(*) FILTER (WHERE renews IS NOT NULL) AS renewed,"
            " floor(avg(floor(extract(epoch FROM :now - coalesce((SELECT o.created_at FROM waivers o"
            "  WHERE o.id = w.renews), created_at)) / 3600)))::int AS age"
            " FROM waivers w WHERE state = 'approved' AND settled_at IS NULL GROUP BY risk", now=now,
        )  # fmt: skip
    assert {risk: count for risk, count in told.open.items() if count} == {row["risk"]: row["open"] for row in rows}
    assert {row["risk"]: row["late"] for row in rows} == {row["risk"]: told.past_due[row["risk"]] for row in rows}
    assert {row["risk"]: row["renewed"] for row in rows} == {row["risk"]: told.renewed[row["risk"]] for row in rows}
    assert {row["risk"]: row["age"] for row in rows} == {row["risk"]: told.mean_age_h[row["risk"]] for row in rows}
    assert told.past_due["HIGH"] == 1 and told.renewed["HIGH"] == 1


async def test_an_approval_given_at_the_general_route_counts_too(desk: Desk) -> None:
    identifier = await desk.ask()
    token = await desk.token("jane")
    (asked,) = (await desk.stage.call("GET", "/api/v1/approvals", token=token)).json()["approvals"]
    answer = await desk.stage.call(
        "POST", f"/api/v1/approvals/{asked['id']}/approve", {"payload_sha256": asked["payload_sha256"]}, token=token
    )
    assert answer.status == 200
    assert await desk.state(identifier) == "submitted"
    await desk.watch.run(desk.stage.clock.now())
    assert await desk.state(identifier) == "active"


async def test_one_that_nobody_decides_is_rejected_by_the_clock(desk: Desk) -> None:
    identifier = await desk.ask()
    desk.stage.clock.advance(7 * 86_400)
    await desk.watch.run(desk.stage.clock.now())
    assert await desk.state(identifier) == "rejected"


def test_an_expired_one_never_becomes_active_again() -> None:
    assert MACHINE.moves["expired"] == {"renewed"}
    now = datetime(2026, 1, 1, tzinfo=UTC)
    for state in MACHINE.states:
        if state not in ("approved", "active", "expired"):
            assert state_at(state, now, now + timedelta(days=1), now) == state
    assert state_at("approved", now - timedelta(days=2), now, now) == "expired"


def test_the_register_answers_as_gates_expect(house: House) -> None:
    stage = Stage(house, KINDS)
    port: Waivers = WaiverRegister(
        stage.database, stage.clock, stage.ids, stage.recorder, stage.quorum, stage.books, stage.records
    )
    assert port is not None
    assert NewWaiver().valid_until is None


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE waivers SET valid_until = valid_until + interval '300 days'",
        "UPDATE waivers SET scope = 'server/shop'",
        "UPDATE waivers SET risk = 'LOW'",
        "UPDATE waivers SET approval = NULL",
        "UPDATE approvals SET ended = 'withdrawn'",
        "UPDATE approvals SET payload_sha256 = repeat('0', 64)",
    ],
)
async def test_one_that_is_not_what_was_approved_covers_nothing_and_is_told(desk: Desk, change: str) -> None:
    identifier = await desk.active("HIGH")
    assert (await desk.watch.run(desk.stage.clock.now()))["altered"] == 0
    async with desk.stage.people.owner.begin() as tx:
        await tx.run("SET LOCAL search_path = bailiwick")
        await tx.run("SET LOCAL session_replication_role = replica")
        await tx.run(change)
    for scope in ("server/pay", "server/shop"):
        assert await desk.covering(scope=scope) is None
    with pytest.raises(BailiwickError) as refused:
        async with desk.stage.database.begin() as tx:
            await desk.register.used(tx, desk.stage.context(), identifier, "gate")
    assert refused.value.reason == "waiver_inactive"
    assert (await desk.watch.run(desk.stage.clock.now()))["altered"] == 1
    told = desk.stage.heard.open_alerts[f"waiver/{identifier}/altered"]
    assert (told.rule, str(told.severity)) == ("WaiverAltered", "P0")


async def test_where_another_waiver_is_sound_it_covers(desk: Desk) -> None:
    altered, sound = await desk.active(), await desk.active()
    async with desk.stage.people.owner.begin() as tx:
        await tx.run("UPDATE bailiwick.waivers SET valid_until = valid_until + interval '1 day' WHERE id = :id",
                     id=altered)  # fmt: skip
    assert await desk.covering() == sound
