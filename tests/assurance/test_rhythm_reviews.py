"""Packs before the meeting, minutes in it, signatures after it, and what is carried over."""

from __future__ import annotations

import asyncio
import json
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from rhythm_stage import RhythmStage, ceremony, document, finding
from sqlalchemy.exc import DBAPIError

from bailiwick.assurance.ports import Automated
from bailiwick.assurance.rhythm import packs
from bailiwick.assurance.rhythm.minutes import Said, SaidAction
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.errors import BailiwickError, Conflict, Denied, InvalidRequest
from bailiwick.kernel.severity import Severity
from bailiwick.kernel.verdicts import Verdict
from people_fixtures import House

WEEKLY = 'every: {weekday: tuesday, at: "10:00"}'
FULL = "sections: [figures, actions, risks, roadmap, documents, checkpoints]"


@pytest.fixture
async def stage(house: House) -> RhythmStage:
    made = RhythmStage(house)
    await made.holds("olga", "ops_owner", "uptime")
    for name in ("scribe", "signer", "amir"):
        await made.people.user(name)
    return made


def weekly(more: str = "") -> str:
    return ceremony("weekly", WEEKLY, more)


def full(automatic: str = "[rhythm.actions, access.orphans, evidence.dead-letters]") -> str:
    return weekly(f"automatic: {automatic}").replace("sections: [actions]", FULL)


def said(*actions: SaidAction, attendees: tuple[str, ...] = ("olga", "amir")) -> Said:
    return Said(attendees, ["Go on."], list(actions))


async def meeting(stage: RhythmStage, number: int = 0) -> str:
    """The id of the meeting of that number, after it began."""
    start = datetime.fromisoformat("2026-01-06T10:00:00+00:00") + timedelta(weeks=number)
    ahead = (start - stage.clock.now()).total_seconds() / 86400
    if ahead > 0.2:
        await stage.live(ahead - 0.2, step_h=24)
    await stage.live((start - stage.clock.now()).total_seconds() / 86400, step_h=0.5)
    return next(each.id for each in await stage.all("weekly") if each.starts_at == start)


# ---------------------------------------------------------------------- packs


async def test_a_pack_is_built_before_the_meeting_with_every_figure_told_where_from(stage: RhythmStage) -> None:
    await stage.apply(full())
    await stage.live(1.0, step_h=0.5)  # 09:00 of the day: an hour before
    (occurrence,) = await stage.all()
    assert occurrence.state == "pack_built"
    pack = (await stage.desk.pack("default", occurrence.id)).document
    assert pack["cut_off"] == "2026-01-06T09:00:00Z" < pack["starts_at"] == "2026-01-06T10:00:00Z"
    figures = {each["name"]: each for each in pack["sections"]["figures"]}
    assert set(figures) == {"rhythm.actions", "access.orphans", "evidence.dead-letters"}
    for each in figures.values():
        assert each["query"] and each["since"] == "2025-12-30T09:00:00Z" and each["until"] == pack["cut_off"]
        async with stage.database.begin() as tx:
            stored = await stage.records.get(tx, "default", each["record"])
            told = json.loads(await stage.records.output(tx, stored))
        assert told["figures"] == each["values"] and told["verdict"] == each["verdict"]
    assert pack["verdict"] == "PASS" and stage.heard.open_alerts == {}


async def test_built_again_a_pack_is_the_same_whatever_came_later(stage: RhythmStage) -> None:
    risk = document(
        "Risk", "storm", "item: storm\nlikelihood: 2\nimpact: 5\nowner: uptime\nmitigation: roof\ndue_days: 1"
    )
    await stage.apply(full() + risk)
    first = await meeting(stage)
    await stage.hold(first, said(SaidAction("mend the roof", "amir", date(2026, 1, 9))))
    second = await meeting(stage, 1)
    before = await stage.desk.pack("default", second)
    assert [each["title"] for each in before.document["sections"]["actions"]["overdue"]] == ["mend the roof"]
    assert [each["name"] for each in before.document["sections"]["risks"]] == ["storm"]
    (action,) = await stage.actions.list("default")
    await stage.actions.done(stage.context("amir"), action.id, await stage.proof(), by="amir")
    await stage.registers.move(stage.context(), "risks", "storm", "closed", by="root", record=await stage.proof())
    await stage.apply(full().replace("10:00", "11:00") + risk.replace("roof", "cellar"))  # another book
    stage.clock.advance(40 * 86400)
    verified = await stage.desk.verify("default", second)
    assert verified == {"sha256": before.sha256, "rebuilt": before.sha256, "holds": True}
    async with stage.people.owner.begin() as tx:  # whoever could write there is found out
        await tx.run("UPDATE bailiwick.rhythm_runs SET figures = '{\"open\": 0}' WHERE occurrence = :id", id=second)
    assert not (await stage.desk.verify("default", second))["holds"]


async def test_what_nobody_answers_to_or_what_breaks_is_never_green(stage: RhythmStage) -> None:
    async def broken(tx: Transaction, zone: str, since: datetime, until: datetime) -> Automated:
        await tx.run("SELECT nonsense")
        raise AssertionError

    stage.parts.update({"b.broken": broken, "c.fine": finding(seen=3), "d.wrong": finding(Verdict.FAIL, lost=1)})
    await stage.apply(full("[a.nobody, b.broken, c.fine]"))
    pack = (await stage.desk.pack("default", await meeting(stage))).document
    assert [(each["name"], each["verdict"]) for each in pack["sections"]["figures"]] == [
        ("a.nobody", "NO_DATA"),
        ("b.broken", "ERROR"),
        ("c.fine", "PASS"),
    ]
    assert pack["verdict"] == "ERROR"
    alert = stage.heard.open_alerts["rhythm/weekly/automatic"]
    assert (alert.severity, alert.owner) == (Severity.P2, "uptime") and "a.nobody, b.broken" in alert.summary
    stage.parts.update({"a.nobody": finding(), "b.broken": finding()})
    await meeting(stage, 1)
    assert "rhythm/weekly/automatic" not in stage.heard.open_alerts


async def test_a_pack_is_not_built_before_its_time_and_a_death_in_between_changes_nothing(stage: RhythmStage) -> None:
    ran: list[str] = []

    async def dies(tx: Transaction, zone: str, since: datetime, until: datetime) -> Automated:
        ran.append(until.isoformat())
        if len(ran) == 1:
            raise KeyboardInterrupt
        return Automated(Verdict.PASS, "dies/1")

    stage.parts.update({"a.first": finding(n=1), "b.dies": dies})
    await stage.apply(full("[a.first, b.dies]").replace("automatic", "notice: [20h]\nautomatic".replace("\n", "\n  ")))
    await stage.live(0.9, step_h=2)
    (occurrence,) = await stage.all()
    with pytest.raises(Conflict) as refused:
        await stage.clockwork.build_pack(stage.context(), occurrence.id, by="root")
    assert refused.value.reason == "window_not_over"
    stage.clock.advance(3 * 3600)
    with pytest.raises(KeyboardInterrupt):
        await stage.clockwork.keep()
    stage.clock.advance(600)
    await stage.another_clockwork().keep()
    pack = (await stage.desk.pack("default", occurrence.id)).document
    assert len(ran) == 2 and ran[0] == ran[1], "whoever goes on looks at the same window"
    assert pack["cut_off"] == "2026-01-06T09:36:00Z"
    assert (await stage.desk.verify("default", occurrence.id))["holds"]


async def test_what_the_clock_does_alone_is_done_or_missed_and_told(stage: RhythmStage) -> None:
    alone = ceremony("health", 'cron: "0 8 * * *"', "attended: false\nautomatic: [x.check]\ngrace: 2h")
    await stage.apply(alone)
    stage.parts["x.check"] = finding(Verdict.NO_DATA)
    await stage.live(1, step_h=1)
    assert [each.state for each in await stage.all()] == ["done"]
    assert stage.heard.open_alerts["rhythm/health/automatic"].severity is Severity.P3
    stage.parts["x.check"] = finding()
    await stage.live(1, step_h=1)
    assert stage.heard.open_alerts == {}
    stage.clock.advance(86400)
    await stage.clockwork.keep()
    assert [each.state for each in await stage.all()] == ["done", "done", "missed"] or stage.clock.now().hour < 10
    with pytest.raises(Conflict):
        first = (await stage.all())[0]
        await stage.minutes.write(stage.context("scribe"), first.id, said(), by="scribe")


async def test_the_readable_forms_show_it_all_and_run_nothing(stage: RhythmStage) -> None:
    evil = weekly('agenda: ["<script>alert(1)</script> | **x**"]\nautomatic: [rhythm.actions]').replace(
        "sections: [actions]", FULL
    )
    await stage.apply(evil)
    identifier = await meeting(stage)
    await stage.hold(identifier, said(SaidAction("<img src=x> | `y`", "amir", date(2026, 1, 30))))
    pack = await stage.desk.pack("default", await meeting(stage, 1))
    html, text = packs.html(pack.document, pack.sha256), packs.markdown(pack.document, pack.sha256)
    assert "<script>alert" not in html and "&lt;script&gt;" in html and "&lt;img src=x&gt;" in html
    assert r"\<img src=x\> \| \`y\`" in text and pack.sha256 in text and pack.sha256 in html
    for heading in ("Figures", "Action items overdue", "Action items carried over", "Risks late", "Checkpoints"):
        assert f"## {heading}" in text and f"<h2>{heading}</h2>" in html
    assert "SIMULATED CLOCK" in text and "SIMULATED CLOCK" in html


# ---------------------------------------------------------------------- minutes


async def test_a_meeting_is_held_with_quorum_and_signed_by_somebody_else(stage: RhythmStage) -> None:
    await stage.apply(weekly())
    identifier = await meeting(stage)
    context = stage.context("scribe")
    with pytest.raises(BailiwickError) as refused:  # no minutes yet
        await stage.minutes.hold(context, identifier, by="scribe")
    assert refused.value.reason == "not_found"
    await stage.minutes.write(context, identifier, said(attendees=("amir",)), by="scribe")
    with pytest.raises(Conflict) as missing:
        await stage.minutes.hold(context, identifier, by="scribe")
    assert (missing.value.reason, missing.value.extra["missing"]) == ("quorum_missing", ["ops_owner"])
    with pytest.raises(InvalidRequest) as strangers:
        await stage.minutes.write(context, identifier, said(attendees=("olga", "ghost")), by="scribe")
    assert strangers.value.extra["unknown"] == ["ghost"]
    written = await stage.minutes.write(context, identifier, said(), by="amir")
    with pytest.raises(Conflict):  # what was not held is not signed
        await stage.minutes.sign(stage.context("signer"), identifier, by="signer")
    await stage.minutes.hold(context, identifier, by="scribe")
    await stage.people.user("amir2", "auditor")
    async with stage.database.begin() as tx:
        await tx.run("UPDATE users SET email = (SELECT replace(email, '@', '+2@') FROM users"
                     " WHERE username = 'amir') WHERE username = 'amir2'")  # fmt: skip
    # of any version of the minutes, by another account too, and the pack's
    for producer in ("scribe", "AMIR", "amir2", "bailiwick"):
        with pytest.raises(Denied) as produced:
            await stage.minutes.sign(stage.context(producer), identifier, by=producer)
        assert produced.value.reason == "signer_produced"
    signed = await stage.minutes.sign(stage.context("signer"), identifier, by="signer")
    pack = await stage.desk.pack("default", identifier)
    assert (signed.minutes_sha256, signed.pack_sha256) == (written.sha256, pack.sha256)
    for again in (stage.minutes.sign(stage.context("olga"), identifier, by="olga"),
                  stage.minutes.hold(context, identifier, by="scribe"),
                  stage.minutes.write(context, identifier, said(), by="scribe")):  # fmt: skip
        with pytest.raises(Conflict) as over:
            await again
        assert over.value.reason == "illegal_transition"
    shown = await stage.desk.show("default", identifier)
    assert (shown["state"], shown["signature"]["signed_by"]) == ("signed", "signer")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE rhythm_packs SET verdict = 'PASS'",
        "UPDATE rhythm_minutes SET sha256 = ''",
        "DELETE FROM rhythm_signatures",
        "UPDATE rhythm_runs SET verdict = 'PASS'",
        "UPDATE rhythm_action_versions SET due = due + 30",
        "UPDATE go_lives SET at = at + interval '7 days'",
        "UPDATE checkpoint_results SET verdict = 'PASS'",
        "DELETE FROM register_versions",
    ],
)
async def test_the_application_cannot_rewrite_what_has_happened(stage: RhythmStage, statement: str) -> None:
    with pytest.raises(DBAPIError, match="permission denied"):
        async with stage.database.begin() as tx:
            await tx.run(statement)


@pytest.mark.parametrize(
    "action",
    [
        SaidAction("no day", "amir", None),
        SaidAction("past", "amir", date(2026, 1, 5)),
        SaidAction("nobody's", "ghost", date(2026, 2, 1)),
    ],
)
async def test_an_action_item_has_a_living_owner_and_a_day(stage: RhythmStage, action: SaidAction) -> None:
    await stage.apply(weekly())
    with pytest.raises(BailiwickError) as refused:
        await stage.minutes.write(stage.context("scribe"), await meeting(stage), said(action), by="scribe")
    assert (refused.value.reason, refused.value.status) == ("action_incomplete", 422)


async def test_an_action_item_is_carried_over_and_overdue_twice_is_more_urgent(stage: RhythmStage) -> None:
    await stage.apply(weekly())
    await stage.hold(await meeting(stage), said(SaidAction("mend it", "amir", date(2026, 1, 16))))
    (action,) = await stage.actions.list("default")
    source = f"rhythm/action/{action.id}"
    assert (stage.heard.tasks[source].owner, stage.heard.tasks[source].severity) == ("amir", Severity.P3)
    seen: list[tuple[str, int, str]] = []
    for number in range(1, 7):
        actions: dict[str, Any] = (await stage.desk.pack("default", await meeting(stage, number))).document["sections"][
            "actions"
        ]
        (where,) = [name for name in ("carried_over", "overdue") if actions[name]]
        seen.append((where, actions[where][0]["misses"], actions[where][0]["severity"]))
    assert seen == [
        ("carried_over", 0, "P3"),
        ("overdue", 1, "P3"),
        ("overdue", 2, "P2"),
        ("overdue", 3, "P1"),
        ("overdue", 4, "P1"),  # nothing becomes a P0 by itself
        ("overdue", 5, "P1"),
    ]
    assert stage.heard.tasks[source].severity is Severity.P1
    put_off = await stage.actions.change(stage.context("olga"), action.id, by="olga", due=date(2026, 3, 1))
    assert (put_off.misses, put_off.severity) == (5, Severity.P1), "another day does not make it less missed"
    for record in ("", "0" * 64, await stage.proof(exit_code=1)):
        with pytest.raises(BailiwickError) as refused:
            await stage.actions.done(stage.context("amir"), action.id, record, by="amir")
        assert refused.value.reason == "evidence_needed"
    await stage.actions.done(stage.context("amir"), action.id, await stage.proof(), by="amir")
    assert source not in stage.heard.tasks and await stage.actions.list("default") == []


async def test_a_meeting_that_is_not_held_is_overdue_and_missed_when_the_next_begins(stage: RhythmStage) -> None:
    await stage.apply(weekly("grace: 10h"))
    first = await meeting(stage)
    await stage.live(1)
    assert (await stage.all())[0].state == "overdue"
    alert = stage.heard.open_alerts["rhythm/weekly/overdue"]
    assert (alert.owner, alert.annotations["accountable"]) == ("uptime", "olga")
    assert [notice.to for notice in stage.heard.notices] == ["person:olga"]
    second = await meeting(stage, 1)
    states = {each.id: each.state for each in await stage.all()}
    assert (states[first], states[second]) == ("missed", "pack_built")
    await stage.hold(second, said())
    assert stage.heard.open_alerts == {}
    with pytest.raises(Conflict):
        await stage.minutes.write(stage.context("scribe"), first, said(), by="scribe")
    await stage.live(1)  # held, and nobody signed
    assert {each.id: each.state for each in await stage.all()}[second] == "overdue"
    assert "not signed" in stage.heard.open_alerts["rhythm/weekly/overdue"].summary
    await stage.minutes.sign(stage.context("signer"), second, by="signer")
    assert stage.heard.open_alerts == {}


async def test_late_a_meeting_may_still_be_held(stage: RhythmStage) -> None:
    await stage.apply(weekly("grace: 1h"))
    identifier = await meeting(stage)
    await stage.live(0.5)
    assert (await stage.all())[0].state == "overdue"
    await stage.hold(identifier, said())
    assert (await stage.all())[0].state == "held" and stage.heard.open_alerts == {}


async def test_minutes_of_what_has_not_begun_are_refused(stage: RhythmStage) -> None:
    await stage.apply(weekly())
    await stage.live(1, step_h=1)
    (occurrence,) = await stage.all()
    with pytest.raises(Conflict) as refused:
        await stage.minutes.write(stage.context("scribe"), occurrence.id, said(), by="scribe")
    assert refused.value.reason == "window_not_over"


async def test_three_processes_build_one_pack_and_count_a_miss_once(stage: RhythmStage) -> None:
    await stage.apply(full("[x.slow, rhythm.actions]"))
    stage.parts["x.slow"] = finding(n=1)
    await stage.hold(await meeting(stage), said(SaidAction("mend it", "amir", date(2026, 1, 9))))
    await stage.live(6.5, step_h=24)
    stage.clock.advance(86400 / 2)
    assert await asyncio.gather(*(stage.another_clockwork().keep() for _ in range(3)))
    built = [event for event in await stage.people.events() if event.code == "BW7302"]
    assert len(built) == 2
    (action,) = await stage.actions.list("default")
    assert (action.misses, action.version) == (1, 2)


async def test_what_is_wrong_in_one_zone_keeps_no_other_from_its_rhythm(stage: RhythmStage) -> None:
    await stage.people.zone("broken")
    await stage.apply(weekly())
    await stage.apply(weekly(), zone="broken")
    async with stage.people.owner.begin() as tx:  # as a newer version may leave it
        await tx.run("UPDATE bailiwick.assurance_documents SET spec = '{\"title\": 1}' WHERE zone = 'broken'")
    stage.clock.advance(86400)
    with pytest.raises(RuntimeError, match="broken"):
        await stage.clockwork.keep()
    assert [each.state for each in await stage.all()] == ["pack_built"]
