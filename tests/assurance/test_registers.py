"""Risks, the roadmap, documents under review: late is told, and done takes evidence."""

from __future__ import annotations

from datetime import timedelta

import pytest
from rhythm_stage import RhythmStage, document

from bailiwick.assurance.book import BadBook, read_text
from bailiwick.kernel.errors import BailiwickError, Conflict, NotFound
from people_fixtures import House

RISK = "item: storm\nlikelihood: 2\nimpact: 5\nowner: uptime\nmitigation: roof\ndue_days: 10"
ITEM = "item: measure\ntrack: reliability\nowner: service-levels\nacceptance: a report is there\ndue: '2026-01-20'"
BOOK = (
    document("Risk", "storm", RISK)
    + document("Risk", "mouse", RISK.replace("impact: 5", "impact: 1"))
    + document("RoadmapItem", "slo", ITEM)
    + document("ReviewedDocument", "runbook", "item: runbook\npath: docs/x.md\nowner: uptime\nevery_days: 30")
)


@pytest.fixture
async def stage(house: House) -> RhythmStage:
    made = RhythmStage(house)
    await made.apply(BOOK)
    return made


async def refused(stage: RhythmStage, register: str, name: str, state: str, record: str = "") -> str:
    with pytest.raises(BailiwickError) as error:
        await stage.registers.move(stage.context(), register, name, state, by="root", record=record)  # type: ignore[arg-type]
    return error.value.reason


async def test_done_takes_evidence_that_is_there_new_and_holds(stage: RhythmStage) -> None:
    old = await stage.proof()
    for record in ("", "nonsense", "0" * 64, await stage.proof(exit_code=1), await stage.proof(exit_code=3)):
        assert await refused(stage, "roadmap", "slo", "done", record) == "evidence_needed"
    stage.clock.advance(60)
    await stage.apply(BOOK + document("RoadmapItem", "new", ITEM.replace("measure", "more")))
    assert await refused(stage, "roadmap", "new", "done", old) == "evidence_needed", "older than the item"
    done = await stage.registers.move(stage.context(), "roadmap", "slo", "done", by="root", record=await stage.proof())
    assert (done.state, done.version, done.changed_by) == ("done", 1, "root")
    assert await refused(stage, "roadmap", "slo", "started") == "illegal_transition"
    assert [event.details["state"] for event in await stage.people.events() if event.code == "BW7321"] == ["done"]


async def test_what_is_late_is_late_by_its_day(stage: RhythmStage) -> None:
    begun = stage.clock.now()
    stage.clock.advance(16 * 86400)
    now = stage.clock.now()

    async def late(register: str) -> list[str]:
        return [each.name for each in await stage.registers.list("default", register) if each.late(now)]  # type: ignore[arg-type]

    assert await late("risks") == ["mouse", "storm"] and await late("roadmap") == ["slo"]
    assert await late("documents") == []
    before = await stage.registers.list("default", "risks", begun + timedelta(days=1))
    assert not any(each.late(begun + timedelta(days=1)) for each in before)
    await stage.registers.move(stage.context(), "risks", "storm", "mitigating", by="root")
    assert "storm" in await late("risks"), "at work is not closed"
    await stage.registers.move(stage.context(), "risks", "storm", "closed", by="root", record=await stage.proof())
    assert await late("risks") == ["mouse"]


async def test_a_document_is_read_again_every_thirty_days(stage: RhythmStage) -> None:
    stage.clock.advance(31 * 86400)
    assert (await stage.registers.get("default", "documents", "runbook")).late(stage.clock.now())
    assert await refused(stage, "documents", "runbook", "reviewed") == "evidence_needed"
    await stage.registers.move(
        stage.context(), "documents", "runbook", "reviewed", by="root", record=await stage.proof()
    )
    read = await stage.registers.get("default", "documents", "runbook")
    assert not read.late(stage.clock.now()) and read.due == (stage.clock.now() + timedelta(days=30)).date()
    stage.clock.advance(31 * 86400)
    assert (await stage.registers.get("default", "documents", "runbook")).late(stage.clock.now())


@pytest.mark.parametrize(
    "wrong", [RISK.replace("due_days: 10", ""), f"{RISK}\ndue: '2026-01-20'", f"{RISK}\nstatus: closed"]
)
def test_a_document_says_by_when_and_not_how_it_stands(wrong: str) -> None:
    from bailiwick.assurance.book import check
    from bailiwick.assurance.registers import RISK as KIND

    with pytest.raises(BadBook):
        check("default", read_text(document("Risk", "x", wrong), "a.yaml"), {"Risk": KIND})


async def test_more_time_takes_two(stage: RhythmStage) -> None:
    planned = await stage.books.plan("default", read_text(BOOK.replace("due_days: 10", "due_days: 99"), "a.yaml"))
    assert planned.two_persons
    with pytest.raises(NotFound):
        await stage.registers.get("default", "risks", "ghost")
    with pytest.raises(Conflict):
        await stage.registers.move(stage.context(), "documents", "runbook", "open", by="root")
