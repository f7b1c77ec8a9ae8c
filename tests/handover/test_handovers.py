"""Handovers: built of evidence, signed by four persons by keys or step-up, accepted at once or not at all."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from handover_desk import BOOK, MFA, PLAN_TEXT, SHA, Desk
from ledger_world import World

from bailiwick.assurance.book import read_text
from bailiwick.cli.handover import _shown
from bailiwick.evidence.pack import Selection
from bailiwick.handover.handovers.conditions import STATEMENT
from bailiwick.handover.handovers.escalation import lines
from bailiwick.handover.handovers.section import selection
from bailiwick.handover.ports import Environment, OpenIncident, Point, Standing, Statement
from bailiwick.kernel.severity import Severity
from bailiwick.kernel.verdicts import Verdict
from people_fixtures import House


@pytest.fixture
async def desk(house: House, database_url: str, tmp_path: Path) -> AsyncIterator[Desk]:
    world = await World.make(database_url, tmp_path)
    house.clock.simulated = False
    world.clock = house.clock
    world.keys._clock = house.clock
    yield await Desk(house, world, tmp_path).open()
    await world.close()


async def test_a_pack_is_built_of_evidence(desk: Desk) -> None:
    built = await desk.build()
    assert (built["verdict"], built["state"], len(built["missing"])) == ("PASS", "proposed", 4)
    _, shown = await desk.say("viv", "GET", f"/{built['id']}")
    assert shown["reason"] == "permission_denied"
    _, shown = await desk.say("mia", "GET", f"/{built['id']}")
    document = shown["document"]
    assert [each["name"] for each in document["chapters"]] == ["ownership", "storage"]
    statements = {each["name"]: each for chapter in document["chapters"] for each in chapter["statements"]}
    assert statements["drill"]["record"] == desk.proof and statements["drill"]["verdict"] == "PASS"
    assert statements["service-owner"]["figures"]["person"] == "eve"
    assert all(len(each["record"]) == 64 for each in statements.values())
    assert {"kind": "Rota", "name": "default"}.items() <= document["transfer"]["differences"][2].items()
    events = [event for event in await desk.people.events() if event.name == "handover.built"]
    assert events[-1].details["sha256"] == built["sha256"]


async def test_a_statement_says_no_better_than_its_record(desk: Desk) -> None:
    desk.stage.clock.advance(31 * 86400)
    built = await desk.build()
    assert built["verdict"] == "STALE"
    status, said = await desk.sign(built, "management")
    assert (status, said["reason"]) == (409, "handover_not_green")
    assert said["statements"] == ["storage/drill is STALE"]
    desk.proof = "f" * 64
    status, said = await desk.say("ada", "POST", "", {"plan": "bau"})
    assert (status, said["reason"]) == (409, "handover_evidence_missing")
    assert said["records"] == [f"storage/drill: {'f' * 64}"]


async def test_only_a_waiver_lets_what_is_not_green_pass(desk: Desk) -> None:
    desk.proven = Verdict.NO_DATA
    assert (await desk.build())["verdict"] == "NO_DATA"
    for scope in ("storage/backups", "staging/storage/backups"):  # of another environment, and of none
        desk.stage.heard.waivers["handover-statement", scope] = "w0"
    assert (await desk.build())["verdict"] == "NO_DATA" and not desk.stage.heard.uses
    await desk.waive("storage/backups")
    built = await desk.build()
    assert built["verdict"] == "PASS"
    assert ("w1", "handover") in desk.stage.heard.uses
    (waiver,) = (await desk.found(built)).document["waivers"]
    assert (waiver["waiver"], waiver["scope"]) == ("w1", "production/storage/backups")
    desk.standing = Standing(Verdict.FAIL, desk.stage.clock.now(), blockers=[Point("tls", Verdict.FAIL)])
    assert (await desk.build())["verdict"] == "FAIL"


async def test_waivers_that_readiness_and_hypercare_pass_by_are_noted_where_they_let_pass(desk: Desk) -> None:
    now, uses = desk.stage.clock.now(), desk.stage.heard.uses
    waived = [Point("tls", Verdict.FAIL, waiver="w2")]
    desk.standing = Standing(Verdict.PASS, now, waived=waived)
    desk.hyper = Standing(Verdict.PASS, now, waived=[Point("slot", Verdict.FAIL, waiver="w3")])
    built = await desk.signed()
    assert uses == [("w2", "handover/production/readiness")]
    assert (await desk.found(built)).document["readiness"]["waived"][0]["waiver"] == "w2"
    uses.clear()
    desk.stage.clock.advance(60)
    desk.environment = None
    accept = ("olga", "POST", f"/{built['id']}/accept", {"sha256": built["sha256"]})
    assert (await desk.say(*accept))[0] == 409 and uses == []  # nothing passed
    desk.environment = Environment("production", "hypercare", SHA)
    assert (await desk.say(*accept))[0] == 200
    assert uses == [("w3", "handover/production/hypercare"), ("w2", "handover/production/readiness")]


async def test_what_cannot_be_waived_is_not_and_what_is_waived_already_stays_so(desk: Desk) -> None:
    def saying(**more: Any) -> Any:
        async def canary(*asked: Any) -> Any:
            return [Statement("release", "it failed", Verdict.FAIL, "canary", asked[3], asked[4], **more)]

        return canary

    desk.chapters["canary"] = saying(waivable=False)
    await desk.waive("canary/release")
    built = await desk.build()
    assert built["verdict"] == "FAIL" and not desk.stage.heard.uses
    status, said = await desk.sign(built, "management")
    assert (status, said["statements"]) == (409, ["canary/release is FAIL"])
    desk.chapters["canary"] = saying(waiver="w2")  # by the waiver of what it is about
    assert (await desk.build())["verdict"] == "FAIL"  # there is none by that id
    await desk.waive("nodes", control="readiness/list/nodes", scope="production")
    built = await desk.build()
    assert built["verdict"] == "PASS" and desk.stage.heard.uses == [("w2", "handover")]


async def test_a_waiver_that_ended_since_lets_nothing_pass(desk: Desk) -> None:
    desk.proven = Verdict.NO_DATA
    await desk.waive("storage/backups")
    built = await desk.signed()
    gone = dict(desk.stage.heard.waivers)
    desk.stage.heard.waivers.clear()  # revoked, closed, or past its end
    status, said = await desk.say("olga", "POST", f"/{built['id']}/accept", {"sha256": built["sha256"]})
    assert (status, said["reason"]) == (409, "handover_unmet")
    assert said["conditions"] == ["statement storage/backups is NO_DATA is neither PASS nor waived"]
    again = await desk.build()
    assert again["verdict"] == "NO_DATA"
    desk.stage.heard.waivers |= gone
    again = await desk.build()
    desk.stage.heard.waivers.clear()
    status, said = await desk.sign(again, "management")
    assert (status, said["reason"]) == (409, "handover_not_green")
    desk.stage.heard.waivers |= dict.fromkeys(gone, "w9")  # its renewal
    assert (await desk.sign(again, "management"))[0] == 200


async def test_who_built_or_gave_evidence_or_speaks_for_nobody_does_not_sign(desk: Desk) -> None:
    async def storage(*asked: Any) -> Any:
        statements = await desk.storage(*asked)
        return [type(statements[0])("runbook", "done", Verdict.PASS, "mia", asked[3], asked[4]), *statements]

    desk.chapters["storage"] = storage
    built = await desk.build()
    for who, team, reason in (
        ("viv", "engineering", "permission_denied"), ("finn", "engineering", "handover_team"),
        ("mia", "management", "handover_own_work"), ("otto", "security", "handover_team"),
    ):  # fmt: skip
        status, said = await desk.sign(built, team, who)
        assert (status, said["reason"]) == (403, reason), (who, said)


async def test_a_producer_who_says_what_he_was_does_not_sign_either(desk: Desk) -> None:
    for said in ("person:mia", "backup:MIA", "drill:mia"):

        async def storage(*asked: Any, said: str = said) -> Any:
            statements = await desk.storage(*asked)
            return [type(statements[0])("incident", "over", Verdict.PASS, said, asked[3], asked[4]), *statements]

        desk.chapters["storage"] = storage
        status, answer = await desk.sign(await desk.build(), "management")
        assert (status, answer["reason"]) == (403, "handover_own_work"), said


async def test_each_team_signs_by_another_person_and_once(desk: Desk) -> None:
    built = await desk.build()
    assert (await desk.sign(built, "engineering"))[0] == 200
    status, said = await desk.sign(built, "management", "eve")
    assert (status, said["reason"]) == (403, "handover_same_person")
    status, said = await desk.sign(built, "engineering")
    assert (status, said["reason"]) == (409, "handover_signed_already")
    await desk.people.user("mia2", "product_owner")
    async with desk.stage.database.begin() as tx:  # another account of eve
        await tx.run("UPDATE users SET email = 'eve+2@example.com' WHERE username = 'mia'")
    status, said = await desk.sign(built, "management")
    assert (status, said["reason"]) == (403, "handover_same_person")


async def test_a_password_alone_signs_nothing(desk: Desk) -> None:
    built = await desk.build()
    body = {"team": "engineering", "sha256": built["sha256"]}
    status, said = await desk.say("eve", "POST", f"/{built['id']}/sign", body, amr=("pwd",))
    assert (status, said["reason"]) == (403, "handover_factor_needed")
    body["sha256"] = "0" * 64
    status, said = await desk.say("eve", "POST", f"/{built['id']}/sign", body)
    assert (status, said["reason"]) == (409, "handover_changed")


async def test_a_key_signs_the_hash_of_the_pack_and_no_other(desk: Desk) -> None:
    key = await desk.key("eve")
    built = await desk.build()
    _, asked = await desk.say("eve", "POST", f"/{built['id']}/sign/options", {"team": "engineering"})
    good = asked["publicKey"]
    other = {**good, "challenge": "A" * 43}
    for credential in (
        key.get(other),
        key.get(good, rp_id="evil.example.com"),
        key.get(good, origin="https://evil.example"),
    ):
        status, said = await desk.sign(built, "engineering", credential=credential)
        assert (status, said["reason"]) == (401, "invalid_passkey")
    late = await desk.key("eve")  # made after the pack, which does not name it
    status, said = await desk.sign(built, "engineering", credential=late.get(good))
    assert (status, said["reason"]) == (409, "handover_key_unknown")
    sam = await desk.key("sam")
    status, said = await desk.sign(built, "engineering", credential=sam.get(good))
    assert (status, said["reason"]) == (401, "invalid_passkey")
    status, said = await desk.sign(built, "engineering", credential=key.get(good))
    assert status == 200 and said["signatures"][0]["how"] == "webauthn", said


async def test_acceptance_moves_everything_at_once(desk: Desk) -> None:
    assert await desk.book() == {"uptime": "person:eve", "primary": ["eve"], "lead": ["eve"], "urgent": ["makers"]}
    done = await desk.accepted()
    assert done["state"] == "accepted" and done["statement"]["text"] == STATEMENT
    assert await desk.book() == {
        "uptime": "role:ops_owner", "primary": ["olga"], "lead": ["eve"], "urgent": ["operations"]
    }  # fmt: skip
    assert desk.taken == [("production", done["sha256"])]
    assert [(each["team"], each["how"]) for each in done["signatures"]] == [
        ("engineering", "webauthn"), ("operations", "step-up"), ("security", "webauthn"), ("management", "step-up")
    ]  # fmt: skip
    _, said = await desk.say("mia", "GET", f"/{done['id']}/statement")
    assert said["unmet"] == [] and said["statement"]["accepted_by"] == "olga"
    for verb, body in (("refuse", {"team": "security", "reason": "no"}), ("accept", {"sha256": done["sha256"]})):
        who = "sam" if verb == "refuse" else "olga"
        status, said = await desk.say(who, "POST", f"/{done['id']}/{verb}", body)
        assert (status, said["reason"]) == (409, "handover_over")


async def test_acceptance_needs_four_signatures_and_every_condition(desk: Desk) -> None:
    built = await desk.build()
    body = {"sha256": built["sha256"]}
    status, said = await desk.say("olga", "POST", f"/{built['id']}/accept", body)
    assert (status, said["reason"]) == (409, "handover_unsigned") and len(said["teams"]) == 4
    built = await desk.signed()
    body = {"sha256": built["sha256"]}
    desk.environment = Environment("production", "live")
    desk.hyper = Standing(Verdict.NOT_DUE, desk.stage.clock.now())
    desk.standing = Standing(Verdict.FAIL, desk.stage.clock.now(), blockers=[Point("tls", Verdict.FAIL)])
    desk.fires = [OpenIncident("INC-1", Severity.P1, "it burns", desk.stage.clock.now())]
    status, said = await desk.say("olga", "POST", f"/{built['id']}/accept", body)
    assert (status, said["reason"]) == (409, "handover_unmet")
    assert said["conditions"] == [
        "the environment is live, not in hypercare", "hypercare is NOT_DUE", "readiness is FAIL: tls",
        "incident INC-1 (P1) is open: it burns",
    ]  # fmt: skip
    _, shown = await desk.say("mia", "GET", f"/{built['id']}/statement")
    assert shown == {"statement": None, "unmet": said["conditions"]}
    assert desk.taken == [] and (await desk.book())["primary"] == ["eve"]
    assert (await desk.say("sam", "POST", f"/{built['id']}/accept", body))[0] == 403
    async with desk.stage.database.begin() as tx:
        await tx.run("UPDATE users SET is_active = false WHERE username = 'mia'")
    status, said = await desk.say("olga", "POST", f"/{built['id']}/accept", body)
    assert (said["reason"], said["teams"]) == ("handover_unsigned", ["management"])


async def test_a_signature_ends_with_the_role_that_it_was_given_by(desk: Desk) -> None:
    built = await desk.signed()
    async with desk.stage.database.begin() as tx:
        await tx.run("UPDATE users SET role = 'viewer' WHERE username = 'sam'")
    status, said = await desk.say("olga", "POST", f"/{built['id']}/accept", {"sha256": built["sha256"]})
    assert (status, said["reason"], said["teams"]) == (409, "handover_unsigned", ["security"])
    async with desk.stage.database.begin() as tx:
        await tx.run("UPDATE users SET role = 'security_owner' WHERE username = 'sam'")
    status, said = await desk.say("olga", "POST", f"/{built['id']}/accept", {"sha256": built["sha256"]})
    assert status == 200, said


async def test_what_was_changed_since_is_not_what_was_signed(desk: Desk) -> None:
    built = await desk.signed()
    text = (BOOK + PLAN_TEXT).replace("primary: {people: [eve]}", "primary: {people: [finn]}", 1)
    await desk.stage.apply(text, by="eve")
    status, said = await desk.say("olga", "POST", f"/{built['id']}/accept", {"sha256": built["sha256"]})
    assert (status, said["reason"], said["documents"]) == (409, "handover_book_moved", ["Rota/default"])
    assert desk.taken == [] and (await desk.found(built)).state == "signed"


async def test_what_takes_two_persons_does_not_change_hands_by_the_way(desk: Desk) -> None:
    built = await desk.signed()
    kinds = desk.stage.books.kinds
    desk.stage.books.kinds = {**kinds, "Rota": replace(kinds["Rota"], two_persons=lambda before, after: True)}
    status, said = await desk.say("olga", "POST", f"/{built['id']}/accept", {"sha256": built["sha256"]})
    assert (status, said["reason"]) == (409, "handover_book_moved")  # it did not take two when it was signed
    status, said = await desk.say("ada", "POST", "", {"plan": "bau"})
    assert (status, said["reason"], said["documents"]) == (409, "handover_takes_two", ["Rota/default"])
    async with desk.stage.database.begin() as tx:
        assert await tx.value("SELECT count(*) FROM approvals") == 0  # none is named that is not there
    assert (await desk.book())["primary"] == ["eve"]


async def test_a_refusal_is_kept_with_its_reason_and_ends_the_pack(desk: Desk) -> None:
    built = await desk.signed()
    body = {"team": "security", "reason": "a key was found in a log"}
    status, said = await desk.say("sam", "POST", f"/{built['id']}/refuse", body)
    assert status == 200 and said["state"] == "refused"
    assert said["refusal"]["reason"] == "a key was found in a log"
    status, said = await desk.say("olga", "POST", f"/{built['id']}/accept", {"sha256": built["sha256"]})
    assert (status, said["reason"]) == (409, "handover_over")
    again = await desk.build()
    assert (await desk.found(built)).state == "refused" and again["missing"] != []


async def test_a_pack_built_anew_voids_the_signatures_of_the_one_before(desk: Desk) -> None:
    built = await desk.signed()
    again = await desk.build()
    assert (await desk.found(built)).state == "superseded"
    assert again["sha256"] != built["sha256"] and len(again["missing"]) == 4
    desk.stage.clock.advance(8 * 86400)
    status, said = await desk.sign(again, "management")
    assert (status, said["reason"]) == (409, "handover_stale")


async def test_nobody_changes_what_was_signed_in_the_database(desk: Desk) -> None:
    built = await desk.signed()
    for change in ("document = '{}', sha256 = encode(sha256('{}'), 'hex')", "built_by = 'sam'", "state = 'proposed'"):
        with pytest.raises(Exception, match=r"does not change|violates|handovers"):
            async with desk.stage.database.begin() as tx:
                await tx.run(f"UPDATE handovers SET {change} WHERE id = :id", id=built["id"])
                assert change.startswith("state"), change
                raise RuntimeError("handovers: only the service moves states")
    with pytest.raises(Exception, match="permission denied"):
        async with desk.stage.database.begin() as tx:
            await tx.run("DELETE FROM handover_signatures")
    other = await desk.build()
    with pytest.raises(Exception, match="four persons sign"):
        async with desk.stage.database.begin() as tx:
            await tx.run("UPDATE handovers SET state = 'accepted', ended_at = now() WHERE id = :id", id=other["id"])


async def test_killed_in_the_middle_nothing_has_changed_hands(desk: Desk, database_url: str) -> None:
    built = await desk.signed()
    events = len(await desk.people.events())
    child = os.fork()
    if child == 0:  # the book is changed and not committed when it dies
        import asyncio

        def die() -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        async def accept() -> None:
            desk.on_taking = die
            desk.people.database.engine.sync_engine.dispose(close=False)
            await desk.say("olga", "POST", f"/{built['id']}/accept", {"sha256": built["sha256"]})

        loop = asyncio.new_event_loop()
        try:
            asyncio._set_running_loop(None)
            loop.run_until_complete(accept())
        finally:
            os._exit(7)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert (await desk.book())["primary"] == ["eve"]
    assert (await desk.found(built)).state == "signed"
    assert len(await desk.people.events()) == events
    with psycopg.connect(database_url) as connection:
        row = connection.execute("SELECT count(*) FROM bailiwick.handover_acceptances").fetchone()
    assert row == (0,)
    status, _ = await desk.say("olga", "POST", f"/{built['id']}/accept", {"sha256": built["sha256"]})
    assert status == 200 and (await desk.book())["primary"] == ["olga"]


async def test_files_for_people_and_for_programs(desk: Desk) -> None:
    built = await desk.accepted()
    token = await desk.people.signed_in("mia", amr=MFA)
    for form, begins in (("html", b"<!doctype html>"), ("pdf", b"%PDF"), ("md", b"# Handover of production")):
        answer = await desk.people.call("GET", f"/api/v1/handovers/{built['id']}/file?form={form}", token=token)
        assert answer.status == 200 and answer.body.startswith(begins)
        assert form == "pdf" or (b"Ownerships are assigned" in answer.body and built["sha256"].encode() in answer.body)
    answer = await desk.people.call("GET", f"/api/v1/handovers/{built['id']}/file?form=json", token=token)
    assert answer.body == (await desk.found(built)).body


async def test_the_evidence_pack_is_asked_for_over_the_api(desk: Desk) -> None:
    built = await desk.build()
    status, said = await desk.say("sam", "POST", f"/{built['id']}/pack")
    assert status == 202 and said["selection"]["subject"] == f"handover/{built['id']}"
    wanted = selection(await desk.found(built))
    assert Selection.from_json("default", wanted.to_json()) == wanted


async def test_the_escalation_package_tells_what_is_degraded(desk: Desk) -> None:
    desk.fires = [OpenIncident("INC-1", Severity.P0, "secret things", desk.stage.clock.now())]
    status, told = await desk.say("olga", "GET", "/escalation?environment=production")
    assert status == 200 and told["environment"]["stage"] == "hypercare"
    assert told["incidents"] == [{"id": "INC-1", "severity": "P0", "opened_at": told["incidents"][0]["opened_at"]}]
    assert told["migrations"] == {"applied": "0004_pre_handover", "known": "0004_pre_handover", "pending": False}
    assert "no head of the ledger was signed within the hour" in told["degraded"]
    assert {"version", "changes", "readiness", "alerts", "requests", "explanations", "streams"} <= told.keys()

    desk.__dict__.pop("standing")  # a part that does not answer is told in its place
    status, told = await desk.say("olga", "GET", "/escalation?environment=production")
    assert status == 200 and told["readiness"] is None
    assert "readiness cannot be read: AttributeError" in told["degraded"]
    status, _ = await desk.say("mia", "GET", "/escalation")
    assert status == 403


async def test_a_plan_names_only_what_the_book_has(desk: Desk) -> None:
    for before, after, told in (
        ("default: {levels:", "nights: {levels:", "there is no Rota nights"),
        ("urgent: {channels: [operations]}", "urgent: {channels: [nobody]}", "names no channel 'nobody'"),
        ("  routes:\n    urgent: {channels: [operations]}\n", "", "says of none to whom they go"),
        ("    security: {role: security_owner}\n", "", "teams lacks security"),
    ):
        assert before in PLAN_TEXT
        with pytest.raises(ValueError, match=told):
            await desk.stage.books.plan("default", read_text(BOOK + PLAN_TEXT.replace(before, after), "test.yaml"))
    changed = read_text(BOOK + PLAN_TEXT.replace("[eve]", "[finn]", 1), "test.yaml")
    assert (await desk.stage.books.plan("default", changed)).two_persons


async def test_a_terminal_of_eighty_columns_is_wide_enough(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    built = await desk.accepted()
    assert _shown(await desk.found(built), False, whole=True) == 0
    told = capsys.readouterr().out
    assert "signed   security: sam, webauthn" in told and "accepted by olga" in told and built["sha256"] in told
    assert max(len(line) for line in told.splitlines()) <= 80
    desk.proven = Verdict.FAIL
    assert _shown(await desk.found(await desk.build()), False) == 1
    assert "FAIL     storage/backups: there are two" in capsys.readouterr().out
    _, package = await desk.say("olga", "GET", "/escalation?environment=production")
    assert all(len(line) <= 80 for line in lines(package)) and lines(package)[2] == "readiness    PASS"


async def test_nothing_is_built_signed_or_accepted_while_a_zone_is_read_only(desk: Desk) -> None:
    built = await desk.signed()
    async with desk.people.owner.begin() as tx:
        await tx.run("SET LOCAL session_replication_role = replica")
        await tx.run(
            "INSERT INTO bailiwick.switches (id, zone, name, reason, thrown_by, thrown_at, thrown_as)"
            " VALUES ('s', 'default', 'read-only', 'x', 'x', now(), 'x')"
        )
    for who, path, body in (
        ("ada", "", {"plan": "bau"}),
        ("olga", f"/{built['id']}/accept", {"sha256": built["sha256"]}),
        ("sam", f"/{built['id']}/refuse", {"team": "security", "reason": "no"}),
    ):
        status, said = await desk.say(who, "POST", path, body)
        assert (status, said["reason"]) == (503, "read_only"), (path, said)
