"""Incidents: opened by themselves, contained as previewed, preserved first, over only when that is measured."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from incident_desk import Desk, kinds
from sqlalchemy.exc import DBAPIError
from stage import Stage, room_of

from bailiwick.app.handover.incidents import _backing_up
from bailiwick.assurance import alert_rules
from bailiwick.assurance.alerting.rules import ALERT_RULE
from bailiwick.assurance.book import read_text
from bailiwick.assurance.overrides_watch import OverrideWatch
from bailiwick.assurance.ports import Found
from bailiwick.assurance.shipped import shipped
from bailiwick.evidence.events import Context
from bailiwick.handover.backups.api import BACKUP_JOB
from bailiwick.handover.incidents.containment import ACTIONS
from bailiwick.handover.incidents.documents import RUNBOOK, Runbook, Step
from bailiwick.kernel.errors import NotFound
from bailiwick.kernel.severity import Severity
from bailiwick.kernel.verdicts import Verdict
from people_fixtures import House


@pytest.fixture
async def desk(house: House, tmp_path: Path) -> Desk:
    return await Desk(Stage(house, kinds()), tmp_path).open()


# --- opening


async def test_an_alert_opens_an_incident_with_who_is_on_call(desk: Desk) -> None:
    alert = await desk.fires("AuditTamperDetected")
    assert (await desk.look())["opened"] == 1
    (incident,) = await desk.ongoing()
    assert (incident["severity"], incident["class"], incident["state"]) == ("P0", "security", "open")
    assert (incident["commander"], incident["scribe"], incident["runbook"]) == ("olga", "kim", "audit-tamper")
    assert incident["alert"] == alert  # by which somebody is called already
    assert (await desk.look())["opened"] == 0  # of one trigger one goes on
    _, shown = await desk.say("jane", "GET", f"/incidents/{incident['name']}")
    assert {line["what"] for line in shown["timeline"]} >= {"opened", "alert"}
    assert len({line["ref"] for line in shown["timeline"] if line["ref"]}) == len(
        [line for line in shown["timeline"] if line["ref"]]
    )


async def test_the_seeds_names_and_times_count(desk: Desk) -> None:
    await desk.fires("CaracalAuditTamperDetected")
    await desk.fires("DeadLetterGrowth", Severity.P1)
    await desk.look()
    assert [each["trigger"] for each in await desk.ongoing()] == ["audit-tamper"]  # the other is not sustained yet
    desk.stage.clock.advance(601)
    await desk.look()
    assert {each["trigger"] for each in await desk.ongoing()} == {"audit-tamper", "dead-letter-growth"}


@pytest.mark.parametrize(("severity", "waits"), [("P0", 0), ("P1", 300), ("P2", 3600), ("P3", 4 * 3600)])
async def test_every_severity_opens_when_its_time_is_over(desk: Desk, severity: str, waits: int) -> None:
    await desk.fires("SomethingElse", Severity(severity))
    if waits:
        assert (await desk.look())["opened"] == 0
        desk.stage.clock.advance(waits + 1)
    assert (await desk.look())["opened"] == 1
    assert (await desk.ongoing())[0]["severity"] == severity


async def test_different_alerts_of_a_severity_are_different_incidents(desk: Desk) -> None:
    await desk.fires("OneThing")
    await desk.fires("AnotherThing")
    await desk.look()
    assert {each["title"] for each in await desk.ongoing()} == {
        "An alert of P0 stands: OneThing", "An alert of P0 stands: AnotherThing",
    }  # fmt: skip


async def test_what_comes_of_incidents_opens_none(desk: Desk) -> None:
    await desk.opened()
    assert (await desk.look())["opened"] == 0
    (incident,) = await desk.ongoing()
    assert incident["alert"]  # by hand, so that it calls somebody by an alert of its own


async def test_only_who_may_sees_and_works(desk: Desk) -> None:
    name = await desk.opened(**{"class": "security"})
    assert (await desk.say("fay", "GET", f"/incidents/{name}"))[0] == 404  # as if it were not there
    assert (await desk.say("fay", "POST", f"/incidents/{name}/updates", {"told": "x"}))[0] == 404
    assert (await desk.say("fay", "GET", "/incidents"))[1]["incidents"] == []
    assert (await desk.say("olga", "GET", f"/incidents/{name}"))[0] == 200  # who opened it
    assert (await desk.say("viv", "POST", "/incidents", {"title": "x"}))[0] == 403
    assert (await desk.say("olga", "PATCH", f"/incidents/{name}", {"class": "operations"}))[1][
        "reason"
    ] == "severity_held"
    told = [event.details["told"] for event in await desk.stage.people.events() if event.name.startswith("incident.")]
    assert told and set(told) == {""}


# --- news


async def test_people_who_wait_for_news_are_minded(desk: Desk) -> None:
    name = await desk.opened(severity="P1")
    desk.stage.clock.advance(29 * 60)
    assert (await desk.look())["overdue"] == 0
    await desk.say("olga", "POST", f"/incidents/{name}/updates", {"told": "we look at it", "public": "Payments fail"})
    assert {notice.to for notice in desk.stage.heard.notices} == {"role:ops_owner", "role:product_owner"}
    desk.stage.clock.advance(29 * 60)
    assert (await desk.look())["overdue"] == 0  # told in between
    desk.stage.clock.advance(2 * 60)
    assert (await desk.look())["overdue"] == 1
    (incident,) = await desk.ongoing()
    assert incident["updates_missed"] == 1
    standing = await desk.stage.people.value("SELECT count(*) FROM alerts WHERE rule = 'IncidentUpdateOverdue'")
    assert standing == 1
    await desk.say("olga", "POST", f"/incidents/{name}/updates", {"told": "still"})
    assert await desk.stage.people.value("SELECT state FROM alerts WHERE rule = 'IncidentUpdateOverdue'") == "resolved"


async def test_the_page_says_no_more_than_was_said_in_public(desk: Desk) -> None:
    name = await desk.opened(severity="P0", title="secret <plan>")
    told = (await desk.stage.call("GET", "/status.json")).json()
    assert told["status"] == "down" and "secret" not in str(told)
    await desk.say("olga", "POST", f"/incidents/{name}/updates", {"told": "internal", "public": "<b>Payments</b> fail"})
    page = (await desk.stage.call("GET", "/status")).body.decode()
    assert "&lt;b&gt;Payments&lt;/b&gt; fail" in page and "<script" not in page and "internal" not in page
    policy = (await desk.stage.call("GET", "/status")).headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy


# --- containing


async def test_containment_lists_what_it_hits_and_is_done_as_read(desk: Desk) -> None:
    name = await desk.opened()
    body = {"action": "fail-closed", "arguments": {}}
    _, seen = await desk.say("olga", "POST", f"/incidents/{name}/preview", body)
    assert any(line.startswith("server pay") for line in seen["hits"]) and "gateway.open" in seen["back"]
    status, refused = await desk.say(
        "jane", "POST", f"/incidents/{name}/contain", {**body, "why": "w", "sha256": "0" * 64}
    )
    assert (status, refused["reason"]) == (409, "approval_changed")
    assert (await desk.contain(name, "fail-closed", "olga"))[0] == 403
    status, done = await desk.contain(name, "fail-closed")
    assert (status, done["override"]["state"], done["incident"]["state"]) == (200, "review_due", "contained"), done
    assert done["override"]["ticket"] == name
    left = {event.name for event in await desk.stage.people.events()}
    assert {"incident.contained", "gateway.closed"} <= left
    assert await desk.stage.people.value("SELECT count(*) FROM gateway_closures WHERE opened_at IS NULL") == 1
    await desk.look()
    _, shown = await desk.say("jane", "GET", f"/incidents/{name}")
    assert [line["what"] for line in shown["timeline"]].count("contained") == 1
    assert shown["times"]["contain_s"] == 0
    # who did not hear the answer gets it again, as long as that is what it may be
    again = {**body, "why": "w", "sha256": seen["sha256"]}
    status, heard = await desk.say("jane", "POST", f"/incidents/{name}/contain", again)
    assert (status, heard["override"]["id"]) == (200, done["override"]["id"])
    desk.stage.clock.advance(16 * 60)
    status, late = await desk.say("jane", "POST", f"/incidents/{name}/contain", again)
    assert (status, late["reason"]) == (409, "conflict"), late


async def test_what_was_undone_since_is_not_told_as_done(desk: Desk) -> None:
    name = await desk.opened()
    status, _ = await desk.contain(name, "freeze")
    assert status == 200
    _, seen = await desk.say("olga", "POST", f"/incidents/{name}/preview", {"action": "read-only", "arguments": {}})
    assert (await desk.contain(name, "read-only"))[0] == 200
    _, first = await desk.say("olga", "GET", f"/incidents/{name}")
    async with desk.stage.people.owner.begin() as tx:  # as if it had been disputed, and taken back
        await tx.run("UPDATE bailiwick.overrides SET state = 'disputed' WHERE arguments->>'switch' = 'read-only'")
    body = {"action": "read-only", "arguments": {}, "why": "w", "sha256": seen["sha256"]}
    status, said = await desk.say("jane", "POST", f"/incidents/{name}/contain", body)
    assert status == 409, (said, first["state"])


@pytest.mark.parametrize(
    ("action", "arguments", "table"),
    [
        ("freeze", {}, "switches WHERE name = 'freeze'"),
        ("read-only", {}, "switches WHERE name = 'read-only'"),
        ("switch-off", {"switch": "mint"}, "switches WHERE name = 'mint'"),
        ("fail-closed-server", {"server": "pay"}, "gateway_closures WHERE server = 'pay' AND opened_at IS NULL"),
        ("revoke", {"kind": "user", "name": "olga"}, "revocations WHERE kind = 'user' AND key = 'olga'"),
    ],
)
async def test_each_action_does_what_it_says(desk: Desk, action: str, arguments: dict[str, str], table: str) -> None:
    name = await desk.opened()
    status, done = await desk.contain(name, action, **arguments)
    assert status == 200, done
    assert await desk.stage.people.value(f"SELECT count(*) FROM {table}") == 1


async def test_an_action_there_is_none_of_is_refused(desk: Desk) -> None:
    name = await desk.opened()
    for body in ({"action": "burn"}, {"action": "freeze", "arguments": {"x": "y"}}, {"action": "revoke"},
                 {"action": "switch-off", "arguments": {"switch": "sign-in"}}):  # fmt: skip
        status, said = await desk.say("olga", "POST", f"/incidents/{name}/preview", body)
        assert (status, said["reason"]) == (400, "invalid_request"), body


class Slow:
    """A builder that is half way, and then cannot go on."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    async def build(self, selection: Any, path: Path, context: Any, *, identifier: str, progress: Any) -> Any:
        progress("events", 5, 10)
        async with asyncio.timeout(20):
            while await self.desk.stage.people.value("SELECT done FROM evidence_packs") != 5:
                await asyncio.sleep(0.05)
        raise NotFound("There is nothing signed.")


async def test_preserving_says_how_far_it_is_and_that_it_failed(desk: Desk) -> None:
    name = await desk.opened()
    _, asked = await desk.say("olga", "POST", f"/incidents/{name}/preserve")
    assert asked["progress"] == {"state": "requested", "section": "", "done": 0, "expected": 0}
    assert (await desk.packs.build_waiting(Slow(desk)))["failed"] == 1  # type: ignore[arg-type]
    await desk.look()
    _, shown = await desk.say("jane", "GET", f"/incidents/{name}")
    assert any("could not be built" in line["told"] for line in shown["timeline"])
    _, again = await desk.say("olga", "POST", f"/incidents/{name}/preserve")
    assert again["pack"] != asked["pack"] and again["progress"]["state"] == "requested"


async def test_a_base_backup_is_begun_beside_the_pack_and_shown(desk: Desk) -> None:
    name = await desk.opened()
    await desk.say("olga", "POST", f"/incidents/{name}/preserve")
    now = desk.stage.clock.now()
    async with desk.stage.database.begin() as tx:
        await tx.run(
            "INSERT INTO backups (id, state, place, started_at, finished_at, asked_by, manifest_sha256)"
            " VALUES ('b1', 'complete', 'file:///b', :now, :now, 'system:backups', 'ab12')",
            now=now,
        )
    await desk.look()
    _, shown = await desk.say("jane", "GET", f"/incidents/{name}")
    told = [line["told"] for line in shown["timeline"]]
    assert any("no base backup: no place for backups is set" in line for line in told)  # it says so
    assert "base backup b1, sha256 ab12" in told


async def test_an_installation_with_a_place_has_the_backup_asked_for(house: House, tmp_path: Path) -> None:
    settings = house.settings.model_copy(update={"backup_url": f"file://{tmp_path}"})
    house.settings = settings
    room = room_of(house, tmp_path)
    asked = _backing_up(room.house)
    async with house.database.begin() as tx:
        assert "a base backup is asked for at" in await asked(tx, Context("default"))
        assert await tx.value("SELECT count(*) FROM job_occurrences WHERE job = :job", job=BACKUP_JOB) == 1


# --- the gate of recovery


async def test_nothing_recovers_before_it_is_preserved(desk: Desk) -> None:
    name = await desk.opened()
    await desk.all_green()
    assert (await desk.say("olga", "POST", f"/incidents/{name}/recover"))[1]["reason"] == "preserve_first"
    await desk.say("olga", "POST", f"/incidents/{name}/preserve")  # asked for is not built
    assert (await desk.say("olga", "POST", f"/incidents/{name}/recover"))[1]["reason"] == "preserve_first"
    await desk.packed(name)
    status, done = await desk.say("olga", "POST", f"/incidents/{name}/recover")
    assert (status, done["verdict"], done["incident"]["state"]) == (200, "PASS", "recovered"), done
    assert await desk.stage.people.value("SELECT kept FROM evidence_packs")  # it does not end after a week


async def recovers(desk: Desk, name: str) -> tuple[int, Any]:
    return await desk.say("olga", "POST", f"/incidents/{name}/recover")


@pytest.mark.parametrize("probe", ["database-answers", "dead-letters", "ledger-intact", "revocation-freshness"])
@pytest.mark.parametrize("verdict", [Verdict.FAIL, Verdict.STALE, None])
async def test_a_condition_that_is_not_green_keeps_it_open(desk: Desk, probe: str, verdict: Verdict | None) -> None:
    name = await desk.opened()
    await desk.packed(name)
    await desk.all_green()
    if verdict is None:
        desk.found.pop(probe)
    else:
        desk.found[probe] = Found(verdict, 1.0, desk.stage.clock.now())
    status, said = await recovers(desk, name)
    assert (status, said["reason"]) == (409, "recovery_unproven"), said
    assert await desk.stage.people.value("SELECT count(*) FROM incident_judgements WHERE verdict <> 'PASS'") == 1


async def test_what_was_measured_before_it_was_contained_does_not_count(desk: Desk) -> None:
    name = await desk.opened()
    await desk.all_green()
    desk.stage.clock.advance(5)
    await desk.contain(name, "freeze")
    await desk.packed(name)
    said = (await recovers(desk, name))[1]
    assert said["reason"] == "recovery_unproven" and "before it counts" in str(said["conditions"])


async def test_decisions_that_come_out_wrong_or_not_at_all_keep_it_open(desk: Desk) -> None:
    name = await desk.opened()
    await desk.packed(name)
    await desk.all_green()
    for answer in ("allow", "the policies fail"):
        desk.answers["may-not"] = answer  # it allows too much
        assert (await recovers(desk, name))[1]["reason"] == "recovery_unproven"
    desk.answers["may-not"] = "deny"
    assert (await recovers(desk, name))[0] == 200


@pytest.mark.parametrize("answer", ["deny", "the gateway answers 503 server_closed"])
async def test_what_the_gateway_says_counts_where_requests_went_wrong(desk: Desk, answer: str) -> None:
    name = await desk.opened(**{"class": "availability"})
    await desk.packed(name)
    await desk.all_green()
    desk.at_gateway["allow"] = answer
    status, said = await desk.say("jane", "POST", f"/incidents/{name}/recover")
    assert status == 409, said
    canary = next(each for each in said["conditions"] if each["name"] == "canary")
    assert canary["verdict"] in ("FAIL", "ERROR") and any(
        f"at the gateway: {answer}" in each for each in canary["told"]
    )
    desk.at_gateway["allow"] = "allow"
    assert (await desk.say("jane", "POST", f"/incidents/{name}/recover"))[0] == 200


async def test_the_gateway_is_not_asked_of_what_does_not_go_through_it(desk: Desk) -> None:
    name = await desk.opened(**{"class": "evidence"})
    await desk.packed(name)
    await desk.all_green()
    desk.at_gateway["allow"] = "deny"
    assert (await desk.say("jane", "POST", f"/incidents/{name}/recover"))[0] == 200


async def test_the_schema_knows_no_other_way_to_be_over(desk: Desk) -> None:
    name = await desk.opened()
    for state in ("recovered", "reviewed", "closed"):
        with pytest.raises(DBAPIError):
            async with desk.stage.database.begin() as tx:
                await tx.run("UPDATE incidents SET state = :state", state=state)
    with pytest.raises(DBAPIError):
        async with desk.stage.database.begin() as tx:
            await tx.run("DELETE FROM incident_entries")
    assert (await desk.say("olga", "POST", f"/incidents/{name}/close"))[1]["reason"] == "illegal_transition"


async def test_a_severity_stands_until_its_exit_is_met(desk: Desk) -> None:
    await desk.fires("SecretExposed")
    await desk.look()
    (incident,) = await desk.ongoing()
    name = incident["name"]
    lower = {"severity": "P2"}
    _, said = await desk.say("jane", "PATCH", f"/incidents/{name}", lower)
    assert said["reason"] == "severity_held" and len(said["because"]) == 3
    await desk.packed(name)
    await desk.all_green()
    await recovers(desk, name)
    _, said = await desk.say("jane", "PATCH", f"/incidents/{name}", lower)
    assert "rotation" in str(said["because"]) and "blast radius" in str(said["because"])
    await desk.say("jane", "POST", f"/incidents/{name}/updates", {"told": "bot, pay", "what": "blast-radius"})
    async with desk.stage.database.begin() as tx:
        await tx.run(
            "INSERT INTO secret_rotations (id, zone, kind, name, old, new, rotated_by, rotated_at, overlap_until,"
            " verdict) VALUES ('r', 'default', 'application', 'bot', 'a', 'b', 'jane', :now, :now, 'PASS')",
            now=desk.stage.clock.now(),
        )
    status, said = await desk.say("jane", "PATCH", f"/incidents/{name}", lower)
    assert (status, said["severity"]) == (200, "P2"), said


# --- learning


async def test_it_closes_when_reviewed_and_every_action_is_verified_by_another(desk: Desk) -> None:
    name = await desk.opened()
    await desk.packed(name)
    await desk.all_green()
    await recovers(desk, name)
    (review,) = [task for source, task in desk.stage.heard.tasks.items() if source.endswith("/review")]
    assert review.due - desk.stage.clock.now() == timedelta(days=5)
    assert (await desk.say("olga", "POST", f"/incidents/{name}/close"))[1]["reason"] == "review_missing"
    due = (desk.stage.clock.now() + timedelta(days=3)).isoformat()
    body = {"summary": "s", "cause": "c", "actions": [{"title": "mend it", "owner": "person:olga", "due": due}]}
    status, said = await desk.say("olga", "POST", f"/incidents/{name}/review", body)
    assert (status, said["state"], said["review"]["late"]) == (200, "reviewed", False), said
    assert (await desk.say("olga", "POST", f"/incidents/{name}/close"))[1]["reason"] == "actions_unverified"
    assert (await desk.say("olga", "POST", f"/incidents/{name}/actions/1/done"))[0] == 200
    record = await desk.evidence("mended")
    verify = f"/incidents/{name}/actions/1/verify"
    assert (await desk.say("olga", "POST", verify, {"record": record}))[0] == 403  # who did it himself
    failing = await desk.evidence("mended", 1)
    assert (await desk.say("kim", "POST", verify, {"record": failing}))[1]["reason"] == "evidence_needed"
    assert (await desk.say("kim", "POST", verify, {"record": record}))[0] == 200
    status, said = await desk.say("olga", "POST", f"/incidents/{name}/close")
    assert (status, said["state"]) == (200, "closed"), said
    names = [event.name for event in await desk.stage.people.events() if event.name.startswith("incident.")]
    assert names == [
        "incident.opened", "incident.preserving", "incident.preserved", "incident.judged", "incident.recovered",
        "incident.reviewed", "incident.changed", "incident.changed", "incident.closed",
    ]  # fmt: skip
    assert (await desk.say("olga", "POST", f"/incidents/{name}/updates", {"told": "x"}))[1][
        "reason"
    ] == "incident_closed"
    _, told = await desk.say("jane", "GET", "/incidents/metrics")
    assert told["P1"]["opened"] == 1 and told["P1"]["recover_s"] is not None and told["P0"]["detect_s"] is None


# --- drills


async def test_a_drill_is_timed_by_its_incident(desk: Desk) -> None:
    status, drill = await desk.say("jane", "POST", "/incidents/drills", {"trigger": "revocation-stale"})
    assert status == 201, drill
    desk.stage.clock.advance(30)
    await desk.look()
    (incident,) = await desk.ongoing()
    assert incident["drill"] == drill["id"] and incident["title"].startswith("DRILL")
    desk.stage.clock.advance(60)
    await desk.say("olga", "POST", f"/incidents/{incident['name']}/ack")
    desk.stage.clock.advance(60)
    await desk.contain(incident["name"], "fail-closed")
    assert await desk.drills.follow() == 1
    (held,) = (await desk.say("jane", "GET", "/incidents/drills"))[1]["drills"]
    assert (held["outcome"], held["opened_s"], held["acknowledged_s"], held["contained_s"]) == ("passed", 30, 90, 150)
    assert (await desk.stage.call("GET", "/status.json")).json()["status"] == "operational"  # a drill is told nobody


async def test_a_drill_nobody_answers_is_missed_or_late(desk: Desk) -> None:
    await desk.say("jane", "POST", "/incidents/drills", {"trigger": "audit-tamper", "within_minutes": 5})
    again = await desk.say("jane", "POST", "/incidents/drills", {"trigger": "audit-tamper"})
    assert again[1]["reason"] == "conflict"
    desk.stage.clock.advance(301)
    assert await desk.drills.follow() == 1  # the watch never looked
    (held,) = (await desk.say("jane", "GET", "/incidents/drills"))[1]["drills"]
    assert (held["outcome"], held["opened_s"]) == ("missed", None)


async def test_no_drill_where_anybody_depends_on_the_zone(house: House, tmp_path: Path) -> None:
    desk = Desk(Stage(house, kinds()), tmp_path)
    book = [each for each in shipped("x") if each.kind in {"IncidentTrigger", "Runbook", "OverrideRule"}]
    await desk.stage.books.ship(desk.stage.context("bailiwick"), book)
    await house.user("jane", "admin")
    said = await desk.say("jane", "POST", "/incidents/drills", {"trigger": "audit-tamper"})
    assert said[1]["reason"] == "not_a_sandbox"


# --- runbooks


async def test_a_runbook_is_done_in_order_and_only_by_what_is_so(desk: Desk) -> None:
    await desk.fires("RevocationStale")
    await desk.look()
    (incident,) = await desk.ongoing()
    name = incident["name"]
    status, run = await desk.say("jane", "POST", "/runbooks/stale-revocation/runs", {"incident": name})
    assert (status, run["next"]) == (201, 1), run
    path = f"/runbooks/runs/{run['id']}/steps"
    assert (await desk.say("jane", "POST", f"{path}/2", {}))[1]["reason"] == "runbook_order"
    _, seen = await desk.say("jane", "POST", f"/incidents/{name}/preview", {"action": "fail-closed"})
    act = {"why": "stale", "sha256": seen["sha256"]}
    assert (await desk.say("olga", "POST", f"{path}/1", act))[0] == 403  # containment takes who may contain
    status, done = await desk.say("jane", "POST", f"{path}/1", act)
    assert (done["done"], done["run"]["next"]) == (True, 2), done
    _, waits = await desk.say("jane", "POST", f"{path}/2", {})
    assert (waits["done"], waits["verdict"]) == (False, "NOT_DUE")  # the pack is being built
    await desk.packed(name)
    assert (await desk.say("jane", "POST", f"{path}/2", {}))[1]["done"]
    for number in (3, 4):  # diagnosis takes what it finds
        assert (await desk.say("jane", "POST", f"{path}/{number}", {}))[1]["done"]
    assert (await desk.say("jane", "POST", f"{path}/5", {}))[0] == 400  # nothing is stated
    assert (await desk.say("jane", "POST", f"{path}/5", {"statement": "the feed is back"}))[1]["done"]
    assert not (await desk.say("jane", "POST", f"{path}/6", {}))[1]["done"]  # not measured since
    await desk.all_green()
    assert (await desk.say("jane", "POST", f"{path}/6", {}))[1]["done"]
    assert (await desk.say("jane", "POST", f"{path}/7", {"statement": "session 1 was denied"}))[1]["done"]
    assert (await desk.say("jane", "POST", f"{path}/8", {}))[1]["verdict"] == "PASS"
    assert not (await desk.say("jane", "POST", f"{path}/9", {}))[1]["done"]  # not reviewed
    await recovers(desk, name)
    await desk.say("jane", "POST", f"/incidents/{name}/review", {"summary": "s", "cause": "c"})
    _, last = await desk.say("jane", "POST", f"{path}/9", {})
    assert (last["run"]["outcome"], last["run"]["next"]) == ("done", None), last
    statement = last["run"]["steps"][4]["result"]
    assert statement["record"] and statement["by"] == "jane"
    listed = {each["name"]: each for each in (await desk.say("jane", "GET", "/runbooks"))[1]["runbooks"]}
    assert (listed["stale-revocation"]["runs"], listed["stale-revocation"]["dry_runs"]) == (1, 0)


async def test_a_dry_run_does_nothing_and_counts(desk: Desk) -> None:
    _, run = await desk.say("jane", "POST", "/runbooks/dead-letter-growth/runs", {"dry": True})
    number = run["next"]
    while number is not None:
        status, done = await desk.say(
            "jane", "POST", f"/runbooks/runs/{run['id']}/steps/{number}", {"statement": "walked through"}
        )
        assert status == 200 and done["done"], done
        number = done["run"]["next"]
    assert await desk.stage.people.value("SELECT count(*) FROM switches") == 0
    listed = {each["name"]: each for each in (await desk.say("jane", "GET", "/runbooks"))[1]["runbooks"]}
    assert (listed["dead-letter-growth"]["runs"], listed["dead-letter-growth"]["dry_runs"]) == (0, 1)


def test_every_shipped_alert_has_a_runbook() -> None:
    rules = [*alert_rules.SERVICE, *alert_rules.SAFETY, *alert_rules.EVIDENCE]
    wanted = {rule.name for rule in rules}
    documents = shipped("default")
    wanted |= {each.name for each in documents if each.kind == ALERT_RULE.name}
    wanted |= {"BreakGlassDisputed"}  # which no rule finds: who disputes tells, or the clock
    books = [RUNBOOK.read(each.spec) for each in documents if each.kind == RUNBOOK.name]
    covered = [name for book in books for name in book.alerts]
    assert set(covered) == wanted and len(covered) == len(wanted)
    actions = {step.action for book in books for step in book.steps if step.action}
    assert actions <= ACTIONS.keys()


def test_a_runbook_out_of_order_or_without_a_phase_is_refused() -> None:
    spec = next(each for each in shipped("x") if each.kind == "Runbook").spec
    assert Runbook.model_validate(spec)
    with pytest.raises(ValueError, match="order"):
        Runbook.model_validate({**spec, "steps": [*reversed(spec["steps"])]})
    with pytest.raises(ValueError, match="preserve has none"):
        Runbook.model_validate({**spec, "steps": [each for each in spec["steps"] if each["phase"] != "preserve"]})
    with pytest.raises(ValueError, match="one of"):
        Step.model_validate({"phase": "contain", "name": "x", "title": "x"})
    assert read_text("", "x") == []


# --- broken glass


async def broken(desk: Desk) -> Any:
    """jane stops minting, alone."""
    body = {
        "operation": "switch.throw", "arguments": {"switch": "mint", "why": "leak"}, "reason": "leak", "ticket": "INC-1",
        "risk": "CRITICAL",
    }  # fmt: skip
    status, done = await desk.say("jane", "POST", "/overrides/break-glass", body)
    assert (status, done["state"]) == (201, "review_due"), done
    return done


async def clocked(desk: Desk) -> int:
    """What the clock does about overrides."""
    stage = desk.stage
    watch = OverrideWatch(stage.database, stage.clock, stage.recorder, desk.overrides, desk.alerts, stage.heard)
    return await watch.take_back()


async def test_broken_glass_that_nobody_reviews_opens_an_incident(desk: Desk) -> None:
    done = await broken(desk)
    desk.stage.clock.advance(24 * 3600 - 60)
    assert (await clocked(desk), (await desk.look())["opened"]) == (0, 0)  # in time it is none
    desk.stage.clock.advance(61)
    assert await clocked(desk) == 1
    assert (await desk.look())["opened"] == 1
    (incident,) = await desk.ongoing()
    assert (incident["trigger"], incident["severity"], incident["class"]) == ("break-glass", "P1", "security")
    assert (incident["runbook"], incident["commander"]) == ("break-glass", "olga")
    _, shown = await desk.say("jane", "GET", f"/incidents/{incident['name']}")
    assert any("BreakGlassDisputed" in line["told"] and "unreviewed" in line["told"] for line in shown["timeline"])
    alerts = await desk.stage.people.value(
        "SELECT array_agg(rule || ' ' || state ORDER BY rule) FROM alerts WHERE key LIKE 'break-glass/%'"
    )
    assert alerts == ["BreakGlass resolved", "BreakGlassDisputed firing"]
    assert (await clocked(desk), (await desk.look())["opened"]) == (0, 0)  # once
    assert (await desk.say("kim", "GET", f"/overrides/{done['id']}"))[1]["state"] == "disputed"


@pytest.mark.parametrize(("verdict", "opened"), [("disputed", 1), ("confirmed", 0)])
async def test_broken_glass_opens_an_incident_when_disputed_alone(desk: Desk, verdict: str, opened: int) -> None:
    done = await broken(desk)
    word = {"payload_sha256": done["payload_sha256"], "verdict": verdict}
    status, said = await desk.say("kim", "POST", f"/overrides/{done['id']}/review", word)
    assert (status, said["state"]) == (200, verdict), said
    assert (await desk.look())["opened"] == opened
    assert [each["trigger"] for each in await desk.ongoing()] == ["break-glass"] * opened
    desk.stage.clock.advance(25 * 3600)
    assert (await clocked(desk), (await desk.look())["opened"]) == (0, 0)
