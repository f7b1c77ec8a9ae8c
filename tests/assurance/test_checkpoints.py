"""T+7, T+14, T+30: computed from facts, never asserted; in versions that nobody changes."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import pytest
from pydantic import ValidationError
from rhythm_stage import RhythmStage, document

from bailiwick.assurance.checkpoints.rules import Checkpoint, Plan, automation, checks, judge, measured, waivers
from bailiwick.assurance.ports import CapacityFact, Drill, OpenWaiver, Run, SloFact
from bailiwick.kernel.errors import BailiwickError, Conflict, InvalidRequest, NotFound
from bailiwick.kernel.quorum import Approval
from bailiwick.kernel.severity import Severity
from bailiwick.kernel.verdicts import Verdict
from people_fixtures import House

T7 = document("Checkpoint", "T7", "title: a week\nafter_days: 7\nrule: waivers\nowner: waiver-closure")
T14 = document(
    "Checkpoint", "T14",
    "title: two weeks\nafter_days: 14\nrule: automation\nowner: reconciliation\nchecks: [recon, stuck]",
)  # fmt: skip
T30 = document("Checkpoint", "T30", "title: a month\nafter_days: 30\nrule: measured\nowner: service-levels")
NOON = datetime.fromisoformat("2026-02-01T12:00:00+00:00")


def spec(**more: object) -> Checkpoint:
    return Checkpoint.model_validate({"title": "x", "after_days": 30, "owner": "uptime", **more})


def waiver(risk: str, identifier: str = "w1") -> OpenWaiver:
    return OpenWaiver(identifier, "secrets/test-key", risk, NOON + timedelta(days=3))  # type: ignore[arg-type]


def drill(*, delivered: bool = True, fired: bool = True, at: datetime = NOON, rule: str = "stuck") -> Drill:
    later = at + timedelta(seconds=5)
    return Drill("d1", rule, at, later if fired else None, later if delivered else None, None)


# ---------------------------------------------------------------------- rules


@pytest.mark.parametrize(
    ("found", "plans", "verdict"),
    [
        (None, [], "NO_DATA"),
        ([], [], "PASS"),
        ([waiver("LOW"), waiver("MED")], [], "PASS"),
        ([waiver("HIGH")], [], "FAIL"),
        ([waiver("CRITICAL")], [], "FAIL"),
        ([waiver("HIGH")], [Plan("p", "w1", date(2026, 2, 1))], "PASS"),
        ([waiver("HIGH")], [Plan("p", "w1", date(2026, 1, 31))], "FAIL"),
        ([waiver("HIGH")], [Plan("p", "w2", date(2026, 3, 1))], "FAIL"),
        ([waiver("HIGH"), waiver("HIGH", "w2")], [Plan("p", "w2", date(2026, 3, 1))], "FAIL"),
    ],
)
def test_no_grave_waiver_is_open_or_each_has_a_plan(
    found: list[OpenWaiver] | None, plans: list[Plan], verdict: str
) -> None:
    assert judge(waivers(found, plans, NOON)) is Verdict(verdict)


@pytest.mark.parametrize(
    ("due", "on_time", "verdict"),
    [(7, 7, "PASS"), (7, 6, "FAIL"), (336, 320, "PASS"), (336, 319, "FAIL"), (20, 19, "PASS"), (0, 0, "NO_DATA"),
     (100, 95, "PASS"), (1000, 949, "FAIL"), (7, 8, "ERROR")],
)  # fmt: skip
def test_each_check_ran_on_time_in_95_of_100_due_slots(due: int, on_time: int, verdict: str) -> None:
    wanted = spec(rule="automation", checks=["recon", "stuck"])
    runs = {"recon": Run(due, on_time, on_time, None), "stuck": Run(7, 7, 7, None)}
    assert judge(automation(wanted, checks(wanted, "default", {}), runs, [drill()])) is Verdict(verdict)


@pytest.mark.parametrize(
    ("drills", "verdict"),
    [
        (None, "NO_DATA"),
        ([], "NO_DATA"),
        ([drill()], "PASS"),
        ([drill(delivered=False)], "FAIL"),
        ([drill(fired=False)], "FAIL"),
        ([drill(), drill(delivered=False, at=NOON + timedelta(days=1))], "FAIL"),
        ([drill(delivered=False), drill(at=NOON + timedelta(days=1))], "PASS"),
        ([drill(rule="other")], "NO_DATA"),
    ],
)
def test_a_fault_was_injected_and_its_alert_delivered(drills: list[Drill] | None, verdict: str) -> None:
    wanted = spec(rule="automation", checks=["stuck"], drills=["stuck"])
    found = automation(wanted, {"stuck": ["stuck"]}, {"stuck": Run(7, 7, 7, None)}, drills)
    assert judge(found) is Verdict(verdict)


def test_a_check_of_every_document_is_looked_at_for_each_and_there_must_be_one() -> None:
    wanted = spec(rule="automation", checks_of=[{"kind": "Machine", "job": "stuck:{name}@{zone}"}], checks=["a@{zone}"])
    found = checks(wanted, "north", {"Machine": ["jobs", "payouts"], "Lamp": ["x"]})
    assert found == {"a@{zone}": ["a@north"], "every Machine": ["stuck:jobs@north", "stuck:payouts@north"]}
    runs = {name: Run(7, 7, 7, None) for name in ("a@north", "stuck:jobs@north")}
    assert judge(automation(wanted, found, runs, [drill()])) is Verdict.NO_DATA, "one of them never ran"
    runs["stuck:payouts@north"] = Run(7, 7, 7, None)
    assert judge(automation(wanted, found, runs, [drill()])) is Verdict.PASS
    assert judge(automation(wanted, checks(wanted, "north", {}), runs, [drill()])) is Verdict.NO_DATA


@pytest.mark.parametrize(
    ("slos", "resources", "verdict"),
    [
        (None, [CapacityFact("pool", 4, 1)], "NO_DATA"),
        ([], [CapacityFact("pool", 4, 1)], "NO_DATA"),
        ([SloFact("p95", 28, 1)], None, "NO_DATA"),
        ([SloFact("p95", 28, 1)], [], "NO_DATA"),
        ([SloFact("p95", 28, 1)], [CapacityFact("pool", 4, 1)], "PASS"),
        ([SloFact("p95", 27, 1)], [CapacityFact("pool", 4, 1)], "NO_DATA"),
        ([SloFact("p95", 28, 0)], [CapacityFact("pool", 4, 1)], "FAIL"),
        ([SloFact("p95", 28, 1), SloFact("p99", 0, 0)], [CapacityFact("pool", 4, 1)], "NO_DATA"),
        ([SloFact("p95", 30, 2)], [CapacityFact("pool", 3, 1)], "NO_DATA"),
        ([SloFact("p95", 30, 2)], [CapacityFact("pool", 4, 0)], "FAIL"),
    ],
)
def test_objectives_and_resources_are_measured_for_a_month(
    slos: list[SloFact] | None, resources: list[CapacityFact] | None, verdict: str
) -> None:
    assert judge(measured(spec(rule="measured"), slos, resources)) is Verdict(verdict)


@pytest.mark.parametrize(
    "weaker",
    [
        {"rule": "automation"},
        {"rule": "automation", "checks": ["x"], "run_percent": 94},
        {"rule": "automation", "checks": ["x"], "run_days": 6},
        {"rule": "measured", "sample_days": 27},
        {"rule": "measured", "weekly_points": 3},
        {"rule": "measured", "after_days": 20},
        {"rule": "said so"},
    ],
)
def test_a_document_asks_for_more_and_never_for_less(weaker: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        spec(**weaker)


# ---------------------------------------------------------------------- the service


@pytest.fixture
async def stage(house: House) -> RhythmStage:
    made = RhythmStage(house)
    for name in ("jane", "joe"):
        await made.people.user(name)
    await made.apply(T7 + T14 + T30)
    return made


async def live_now(stage: RhythmStage) -> datetime:
    now: datetime = stage.clock.now()
    await stage.go_lives.record(stage.context("jane"), "default", now, by="jane", reason="it is live")
    return now


async def verdict(stage: RhythmStage, name: str) -> str:
    return str((await stage.checkpoints.evaluate(stage.context("jane"), name, by="jane")).verdict)


async def test_before_its_day_a_checkpoint_is_not_due_and_from_then_on_computed(stage: RhythmStage) -> None:
    assert await verdict(stage, "T7") == "NOT_DUE"  # nothing went live
    start = await live_now(stage)
    stage.known.waivers = []
    stage.clock.advance(7 * 86400 - 1)
    result = await stage.checkpoints.evaluate(stage.context("jane"), "T7", by="jane")
    assert (result.verdict, result.version, result.due_at) == (Verdict.NOT_DUE, 0, start + timedelta(days=7))
    assert await stage.checkpoints.history("default", "T7") == []
    stage.clock.advance(1)
    assert await stage.checkpoints.keep() == {"taken": 0, "evaluated": 1}
    assert await stage.checkpoints.keep() == {"taken": 0, "evaluated": 0}
    (kept,) = await stage.checkpoints.history("default", "T7")
    assert (kept.verdict, kept.version, kept.evaluated_by) == (Verdict.PASS, 1, "bailiwick")
    standing = {each.checkpoint: str(each.verdict) for each in await stage.checkpoints.list("default")}
    assert standing == {"T7": "PASS", "T14": "NOT_DUE", "T30": "NOT_DUE"}


async def test_a_high_waiver_fails_until_a_plan_is_approved_and_again_when_it_is_revoked(stage: RhythmStage) -> None:
    await live_now(stage)
    stage.clock.advance(7 * 86400)
    stage.known.waivers = [waiver("HIGH")]
    assert await verdict(stage, "T7") == "FAIL"
    alert = stage.heard.open_alerts["checkpoint/T7"]
    assert (alert.severity, alert.owner) == (Severity.P1, "waiver-closure")
    plan, approval = await stage.plans.propose(
        stage.context("jane"), "T7", waiver="w1", plan="Rotate it on Thursday.", owner="joe",
        due=stage.clock.now().date() + timedelta(days=3), by="jane",
    )  # fmt: skip
    assert await verdict(stage, "T7") == "FAIL", "nobody approved it"
    with pytest.raises(BailiwickError) as own:
        await stage.approve(approval.document(), person="jane")
    assert own.value.reason == "approval_own_request"
    await stage.approve(approval.document(), person="joe")
    assert await verdict(stage, "T7") == "PASS"
    assert stage.heard.open_alerts == {}
    await stage.plans.revoke(stage.context("joe"), plan["id"], by="joe")
    assert await verdict(stage, "T7") == "FAIL"
    history = await stage.checkpoints.history("default", "T7")
    assert [(each.version, str(each.verdict)) for each in history] == [
        (4, "FAIL"),
        (3, "PASS"),
        (2, "FAIL"),
        (1, "FAIL"),
    ]
    async with stage.database.begin() as tx:
        for each in history:
            stored = await stage.records.get(tx, "default", each.record)
            assert str(stored.record.verdict(stage.clock.now())) == str(each.verdict)
    states = [event.details["state"] for event in await stage.people.events() if event.code == "BW7313"]
    assert states == ["proposed", "approved", "revoked"]


async def test_a_plan_past_its_day_counts_no_more(stage: RhythmStage) -> None:
    await live_now(stage)
    stage.clock.advance(7 * 86400)
    stage.known.waivers = [waiver("CRITICAL")]
    _, approval = await stage.plans.propose(
        stage.context("jane"), "T7", waiver="w1", plan="Rotate it today.", owner="joe",
        due=stage.clock.now().date(), by="jane",
    )  # fmt: skip
    await stage.approve(approval.document(), person="joe")
    assert await verdict(stage, "T7") == "PASS"
    stage.clock.advance(86400)
    assert await verdict(stage, "T7") == "FAIL"
    with pytest.raises(BailiwickError) as refused:
        await stage.plans.propose(
            stage.context("jane"), "T7", waiver="w1", plan="Rotate it last week.", owner="ghost",
            due=stage.clock.now().date(), by="jane",
        )  # fmt: skip
    assert refused.value.reason == "action_incomplete"


async def test_the_windows_end_at_the_instant_that_is_judged(stage: RhythmStage) -> None:
    await live_now(stage)
    stage.clock.advance(15 * 86400)
    now = stage.clock.now()
    stage.known.runs = {"recon": Run(7, 7, 7, now), "stuck": Run(336, 336, 336, now)}
    stage.known.drilled = [drill(at=now - timedelta(days=2))]
    assert await verdict(stage, "T14") == "PASS"
    assert stage.known.windows == [("recon", now - timedelta(days=7), now), ("stuck", now - timedelta(days=7), now)]
    stage.known.drilled = [drill(at=now - timedelta(days=2), delivered=False)]  # the channel was muted
    assert await verdict(stage, "T14") == "FAIL"
    stage.known.drilled = None
    assert await verdict(stage, "T14") == "NO_DATA"
    assert stage.heard.open_alerts["checkpoint/T14"].severity is Severity.P2


async def test_nothing_is_judged_of_the_future_nor_before_what_was_judged(stage: RhythmStage) -> None:
    start = await live_now(stage)
    stage.known.waivers = []
    stage.clock.advance(9 * 86400)
    context, now = stage.context("jane"), stage.clock.now()
    with pytest.raises(Conflict) as ahead:
        await stage.checkpoints.evaluate(context, "T7", by="jane", at=now + timedelta(minutes=4))
    assert ahead.value.reason == "window_not_over"
    early = await stage.checkpoints.evaluate(context, "T7", by="jane", at=start + timedelta(days=6))
    assert early.verdict is Verdict.NOT_DUE
    await stage.checkpoints.evaluate(context, "T7", by="jane", at=start + timedelta(days=8))
    with pytest.raises(Conflict) as before:  # the day on which it looked better is not picked afterwards
        await stage.checkpoints.evaluate(context, "T7", by="jane", at=start + timedelta(days=7))
    assert before.value.reason == "conflict"
    with pytest.raises(NotFound):
        await stage.checkpoints.evaluate(context, "T99", by="jane")


async def test_the_go_live_instant_is_changed_by_two(stage: RhythmStage) -> None:
    start = await live_now(stage)
    later = start + timedelta(days=20)
    context = stage.context("jane")
    held = await stage.go_lives.record(context, "default", later, by="jane", reason="we were too early")
    assert isinstance(held, Approval)
    assert (await stage.go_lives.list("default"))[0].at == start
    await stage.approve(held.document(), person="joe")
    assert (await stage.checkpoints.keep())["taken"] == 1
    (live,) = await stage.go_lives.list("default")
    assert (live.at, live.version, live.recorded_by) == (later, 2, "jane")
    assert (await stage.go_lives.record(context, "default", later, by="jane", reason="again")) == live
    with pytest.raises(InvalidRequest):
        await stage.go_lives.record(context, "other", later + timedelta(days=999), by="jane", reason="far")
    stage.clock.advance(7 * 86400)
    assert await verdict(stage, "T7") == "NOT_DUE", "it counts from the instant that holds"


async def test_a_changed_go_live_has_the_checkpoint_judged_again(stage: RhythmStage) -> None:
    start = await live_now(stage)
    stage.known.waivers = []
    stage.clock.advance(7 * 86400)
    await stage.checkpoints.keep()
    held = await stage.go_lives.record(
        stage.context("jane"), "default", start + timedelta(days=1), by="jane", reason="a day later"
    )
    assert isinstance(held, Approval)
    await stage.approve(held.document(), person="joe")
    await stage.checkpoints.keep()
    assert (await stage.checkpoints.list("default"))[0].verdict is Verdict.NOT_DUE
    stage.clock.advance(86400)
    await stage.checkpoints.keep()
    assert [each.version for each in await stage.checkpoints.history("default", "T7")] == [2, 1]


async def test_to_ask_less_of_a_checkpoint_takes_two(stage: RhythmStage) -> None:
    from bailiwick.assurance.book import read_text

    planned = await stage.books.plan("default", read_text(T7 + T14, "a.yaml"))
    assert planned.two_persons
