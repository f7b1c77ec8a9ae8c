"""What incidents and backups say in a handover pack, and to gates that ask whether anything is on fire."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from incident_desk import Desk, kinds
from stage import Stage, room_of

from bailiwick.assurance.ports import Run
from bailiwick.handover.backups.chapter import BackupChapter
from bailiwick.handover.backups.spec import BACKUP_PLAN
from bailiwick.handover.incidents.chapter import IncidentChapter
from bailiwick.handover.incidents.standing import StandingIncidents
from bailiwick.handover.ports import Statement
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.verdicts import Verdict
from people_fixtures import House


class Looked:
    """Says how often the watch ran."""

    def __init__(self) -> None:
        self.run = Run(100, 100, 100, None)

    async def of(self, tx: Transaction, zone: str, check: str, since: datetime, until: datetime) -> Run:
        return Run(self.run.due, self.run.on_time, self.run.green, until if self.run.green else None)


@pytest.fixture
async def desk(house: House, tmp_path: Path) -> Desk:
    return await Desk(Stage(house, [*kinds(), BACKUP_PLAN]), tmp_path).open()


async def told(desk: Desk, looked: Looked | None = None, days: int = 30) -> dict[str, Statement]:
    now = desk.stage.clock.now()
    async with desk.stage.database.begin() as tx:
        chapter = IncidentChapter(looked or Looked())
        found = await chapter(tx, "default", "production", now - timedelta(days=days), now)
    return {each.name: each for each in found}


async def test_what_is_not_closed_is_on_fire_the_worst_first(desk: Desk) -> None:
    await desk.opened(severity="P2", title="slow")
    await desk.opened(severity="P0", title="the plan leaked", **{"class": "security"})
    async with desk.stage.database.begin() as tx:
        found = await StandingIncidents().open(tx, "default")
    assert [(each.severity.value, each.title) for each in found] == [("P0", "a security incident"), ("P2", "slow")]


async def test_a_drill_is_no_fire(desk: Desk) -> None:
    await desk.say("jane", "POST", "/incidents/drills", {"trigger": "audit-tamper"})
    await desk.look()
    assert await desk.ongoing()
    async with desk.stage.database.begin() as tx:
        assert await StandingIncidents().open(tx, "default") == []
    assert set(await told(desk)) == {"incidents", "actions"}


async def test_a_window_without_incidents_passes_only_where_something_looked(desk: Desk) -> None:
    assert (await told(desk))["incidents"].verdict is Verdict.PASS
    blind = Looked()
    blind.run = Run(100, 0, 0, None)
    assert (await told(desk, blind))["incidents"].verdict is Verdict.NO_DATA


async def test_an_incident_passes_when_it_is_closed_and_no_sooner(desk: Desk) -> None:
    name = await desk.opened(title="it hurts")
    chapter = await told(desk)
    assert (chapter[name].verdict, chapter["incidents"].verdict) == (Verdict.FAIL, Verdict.FAIL)
    desk.stage.clock.advance(60)
    await desk.contain(name, "freeze")
    desk.stage.clock.advance(60)
    await desk.packed(name)
    await desk.all_green()
    status, said = await desk.say("jane", "POST", f"/incidents/{name}/recover")
    assert status == 200, said
    chapter = await told(desk)
    assert (chapter[name].verdict, chapter["incidents"].verdict) == (Verdict.NOT_DUE, Verdict.PASS)
    assert chapter[name].producer == "jane"  # who produced evidence is found by his name, and does not sign
    assert chapter[name].figures["contain_s"] == 60 and chapter[name].figures["recover_s"] == 120
    desk.stage.clock.advance(6 * 86400)
    assert (await told(desk))[name].verdict is Verdict.FAIL  # its review is late
    due = (desk.stage.clock.now() + timedelta(days=2)).isoformat()
    review = {"summary": "s", "cause": "c", "actions": [{"title": "mend", "owner": "uptime", "due": due}]}
    status, said = await desk.say("jane", "POST", f"/incidents/{name}/review", review)
    assert status == 200, said
    assert (await told(desk))["actions"].verdict is Verdict.NOT_DUE
    desk.stage.clock.advance(3 * 86400)
    chapter = await told(desk)
    assert chapter["actions"].verdict is Verdict.FAIL and "mend" in str(chapter["actions"].figures[f"{name}/1"])
    await desk.say("olga", "POST", f"/incidents/{name}/actions/1/done")
    record = await desk.evidence("mended")
    status, said = await desk.say("jane", "POST", f"/incidents/{name}/actions/1/verify", {"record": record})
    assert status == 200, said
    status, said = await desk.say("jane", "POST", f"/incidents/{name}/close")
    assert status == 200, said
    chapter = await told(desk)
    assert {each.verdict for each in chapter.values()} == {Verdict.PASS}


async def test_of_a_security_incident_the_numbers_are_told_only(desk: Desk) -> None:
    name = await desk.opened(title="the plan leaked", **{"class": "security"})
    assert "plan" not in str(await told(desk)) and (await told(desk))[name].figures["class"] == "security"


async def test_backups_are_told_as_they_are(desk: Desk) -> None:
    now = desk.stage.clock.now()

    async def chapter() -> dict[str, Statement]:
        async with desk.stage.database.begin() as tx:
            found = await BackupChapter("file:///b", desk.stage.books)(
                tx, "default", "production", now - timedelta(days=30), now
            )
        return {each.name: each for each in found}

    assert {each.verdict for each in (await chapter()).values()} == {Verdict.NO_DATA}
    async with desk.stage.database.begin() as tx:
        for age in range(8):
            await tx.run(
                "INSERT INTO backups (id, state, place, started_at, finished_at, asked_by, bytes)"
                " VALUES (:id, 'complete', 'file:///b', :at, :at, 'system:backups', 1000)",
                id=f"b{age}",
                at=now - timedelta(days=age, hours=2),
            )
        await tx.run(
            "INSERT INTO backup_log (place, covered_until, segment) VALUES ('file:///b', :at, 's')",
            at=now - timedelta(minutes=5),
        )
        for kind, age, verdict in (("restore", 40, "PASS"), ("failover", 3, "PASS"), ("failover", 2, "FAIL")):
            await tx.run(
                "INSERT INTO backup_drills (id, kind, verdict, started_at, finished_at, held_by, backup, rto_s, rpo_s,"
                " checks, record) VALUES (:id, :kind, :verdict, :at, :at, 'root', 'b1', 61, 30,"
                ' \'[{"name": "restore", "holds": true, "told": "fine"}]\', \'sha256:ab\')',
                id=f"{kind}{age}",
                kind=kind,
                verdict=verdict,
                at=now - timedelta(days=age),
            )
    found = await chapter()
    assert {name: each.verdict.value for name, each in found.items()} == {
        "newest-backup": "PASS",
        "kept": "PASS",
        "log": "PASS",
        "restore-drill": "STALE",
        "escrow": "NO_DATA",
        "failover-drill": "FAIL",
    }
    producers = {name: each.producer for name, each in found.items()}
    assert (producers["newest-backup"], producers["restore-drill"]) == ("system:backups", "root")
    assert found["restore-drill"].record == "sha256:ab"
    assert "RTO 61.0 s, RPO 30.0 s" in found["restore-drill"].told
    assert found["newest-backup"].figures["id"] == "b0"


async def test_seven_backups_of_one_day_are_no_seven_daily_ones(desk: Desk) -> None:
    now = desk.stage.clock.now()

    async def kept() -> Statement:
        async with desk.stage.database.begin() as tx:
            found = await BackupChapter("file:///b", desk.stage.books)(
                tx, "default", "production", now - timedelta(days=30), now
            )
        return next(each for each in found if each.name == "kept")

    async def took(*ages_h: float, state: str = "complete", expired: float | None = None) -> None:
        async with desk.stage.database.begin() as tx:
            for age in ages_h:
                await tx.run(
                    "INSERT INTO backups (id, state, place, started_at, finished_at, asked_by, expired_at)"
                    " VALUES (:id, :state, 'file:///b', :at, :at, 'system:backups', :expired)",
                    id=desk.stage.ids(),
                    state=state,
                    at=now - timedelta(hours=age),
                    expired=None if expired is None else now - timedelta(hours=expired),
                )

    assert (await kept()).verdict is Verdict.NO_DATA
    await took(*(1 + each / 10 for each in range(20)))
    assert (await kept()).verdict is Verdict.NO_DATA  # twenty of this morning
    await took(26, 50, 74, 98, 146)  # the fifth day before has none
    assert (await kept()).verdict is Verdict.NO_DATA  # the first was made six days and two hours ago
    await took(170)
    found = await kept()
    assert (found.verdict, found.figures["days"], found.figures["kept"]) == (Verdict.FAIL, 6, 26)
    await took(122, state="expired", expired=200)  # ended before
    assert (await kept()).verdict is Verdict.FAIL
    await took(122, state="expired", expired=-1)  # ends later than the pack
    found = await kept()
    assert (found.verdict, found.figures["days"], found.figures["kept"]) == (Verdict.PASS, 7, 27)


def test_the_house_has_both_chapters_and_the_port(house: House, tmp_path: Path) -> None:
    room = room_of(house, tmp_path)
    assert {"incidents", "backups"} <= set(room.house.chapters)
    assert isinstance(room.house.open_incidents, StandingIncidents)
