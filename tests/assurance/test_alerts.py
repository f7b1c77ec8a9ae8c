"""Alerts: one open of a key, what becomes of it, who is told and when, silences, escalation, figures, drills."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from alerting import Alerting, channel, raised, route

from bailiwick.assurance.alerting.alerts import entries
from bailiwick.assurance.alerting.dispatch import body_of
from bailiwick.assurance.alerting.escalation import plan_steps
from bailiwick.assurance.alerting.figures import Fact, Happening, compute
from bailiwick.assurance.alerting.silences import checked
from bailiwick.assurance.notices.hours import Hours
from bailiwick.assurance.notices.routes import read_matcher
from bailiwick.assurance.ports import Person
from bailiwick.kernel.errors import BailiwickError, Conflict, InvalidRequest
from bailiwick.kernel.severity import Severity
from bailiwick.kernel.verdicts import Verdict
from people_fixtures import House

SLACK = channel("chat", "slack: {}, secret_name: hook")
TO_CHAT = route("all", "channels: [chat]")


@pytest.fixture
async def alerting(house: House) -> Alerting:
    made = Alerting(house)
    made.stage.heard.people["uptime"] = Person("jane", "Jane", "jane@example.com")
    return made


async def timeline(alerting: Alerting, identifier: str) -> list[str]:
    async with alerting.database.begin() as tx:
        return [each.what for each in await entries(tx, identifier)]


# ---------------------------------------------------------------------- states


async def test_an_alert_goes_from_firing_to_closed_and_every_step_is_kept(alerting: Alerting) -> None:
    identifier = await alerting.fire()
    context = alerting.stage.context("jane")
    assert (await alerting.alert(identifier)).owner_person == "jane"
    await alerting.desk.acknowledge(context, identifier, by="jane", note="on it")
    with pytest.raises(Conflict) as twice:
        await alerting.desk.acknowledge(context, identifier, by="joe")
    assert twice.value.reason == "illegal_transition"
    assert await alerting.clear()
    closed = await alerting.desk.close(context, identifier, "true", by="jane", note="a full disk")
    assert (closed.state, closed.closed_as, closed.acknowledged_by) == ("closed", "true", "jane")
    assert await timeline(alerting, identifier) == ["fired", "acknowledged", "resolved", "closed"]
    assert [e.code for e in await alerting.stage.people.events()] == ["BW7202", "BW7203", "BW7204", "BW7205"]
    assert not await alerting.clear()


async def test_one_is_open_of_a_key_however_many_processes_fire_it_at_once(alerting: Alerting) -> None:
    ids = await asyncio.gather(*(alerting.fire() for _ in range(8)))
    assert len(set(ids)) == 1
    assert (await alerting.alert(ids[0])).seen == 8
    assert len(await alerting.rows("SELECT 1 FROM alert_changes")) == 1
    await alerting.clear()
    assert await alerting.fire() != ids[0]


async def test_what_becomes_worse_is_told_anew_and_never_becomes_better(alerting: Alerting) -> None:
    await alerting.stage.apply(SLACK + channel("page", "slack: {}, secret_name: hook") + TO_CHAT
                               + route("urgent", "severities: [P0], channels: [page]"))  # fmt: skip
    identifier = await alerting.fire(severity=Severity.P2)
    await alerting.dispatcher.run_once()
    alerting.clock.advance(31)
    await alerting.dispatcher.run_once()
    await alerting.fire(severity=Severity.P0)
    await alerting.fire(severity=Severity.P3)
    await alerting.dispatcher.run_once()
    assert (await alerting.alert(identifier)).severity is Severity.P0
    assert [to for to, _, _ in await alerting.told()] == ["channel:chat", "channel:page"]


async def test_an_alert_that_lacks_something_is_marked_and_a_page_that_does_is_refused(alerting: Alerting) -> None:
    lacking = await alerting.alert(await alerting.fire(runbook="", annotations={}, owner="nobody's"))
    assert lacking.missing == ["description", "runbook", "owner"]
    with pytest.raises(BailiwickError) as refused:
        await alerting.desk.raise_by_hand(alerting.stage.context(), raised("x", annotations={}), by="root")
    assert (refused.value.reason, refused.value.extra["missing"]) == ("alert_incomplete", ["description"])
    page = await alerting.desk.raise_by_hand(alerting.stage.context(), raised("x"), by="root")
    assert (page.source, page.missing) == ("manual", [])


async def test_what_turns_again_and_again_is_held_until_it_is_quiet(alerting: Alerting) -> None:
    for _ in range(3):
        await alerting.fire()
        await alerting.clear()
        alerting.clock.advance(60)
    last = await alerting.fire()
    assert (await alerting.alert(last)).flapping
    assert await alerting.clear()
    alerting.clock.advance(300)
    assert await alerting.fire() == last, "still the same one"
    await alerting.clear()
    alerting.clock.advance(599)
    await alerting.dispatcher.run_once()
    assert (await alerting.alert(last)).state == "firing"
    alerting.clock.advance(2)
    await alerting.dispatcher.run_once()
    assert (await alerting.alert(last)).state == "resolved"


async def test_a_duplicate_names_the_alert_that_it_repeats(alerting: Alerting) -> None:
    one, two = await alerting.fire("a"), await alerting.fire("b")
    context = alerting.stage.context()
    for other in ("", two):
        with pytest.raises(InvalidRequest):
            await alerting.desk.close(context, two, "duplicate", by="root", duplicate_of=other)
    with pytest.raises(InvalidRequest):
        await alerting.desk.close(context, two, "true", by="root", duplicate_of=one)
    closed = await alerting.desk.close(context, two, "duplicate", by="root", duplicate_of=one)
    assert (closed.state, closed.duplicate_of) == ("closed", one)
    with pytest.raises(Conflict):
        await alerting.desk.close(context, two, "true", by="root")


# ---------------------------------------------------------------------- telling


async def test_alerts_of_a_group_are_told_together_and_later_ones_wait_for_the_interval(alerting: Alerting) -> None:
    await alerting.stage.apply(SLACK + TO_CHAT)
    for key in ("a", "b"):
        await alerting.fire(key)
    await alerting.dispatcher.run_once()
    assert await alerting.told() == [], "the group waits"
    alerting.clock.advance(31)
    await alerting.dispatcher.run_once()
    assert await alerting.told() == [("channel:chat", "tell", "[P1] 2 alerts: PayDown/pay")]
    await alerting.fire("c")
    await alerting.dispatcher.run_once()
    alerting.clock.advance(60)
    await alerting.dispatcher.run_once()
    assert len(await alerting.told()) == 1
    alerting.clock.advance(300)
    await alerting.dispatcher.run_once()
    assert (await alerting.told())[1:] == [("channel:chat", "trigger", "[P1] payments are down")]
    await alerting.clear("c")
    await alerting.dispatcher.run_once()
    assert (await alerting.told())[2:] == [("channel:chat", "resolve", "[P1] resolved: payments are down")]


async def test_a_p0_waits_for_nothing_and_what_resolved_before_it_was_told_is_not_told(alerting: Alerting) -> None:
    await alerting.stage.apply(SLACK + TO_CHAT)
    await alerting.fire("slow", Severity.P2)
    await alerting.fire("now", Severity.P0)
    await alerting.dispatcher.run_once()
    assert [subject for _, _, subject in await alerting.told()] == ["[P0] payments are down"]
    await alerting.clear("slow")
    alerting.clock.advance(3600)
    await alerting.dispatcher.run_once()
    assert len(await alerting.told()) == 1


async def test_the_seeds_routes_page_for_p0_and_p1_and_mail_the_rest_in_business_hours(alerting: Alerting) -> None:
    from importlib.resources import files

    shipped = files("bailiwick.assurance").joinpath("shipped/alerts.yaml").read_text()
    await alerting.stage.apply(shipped)
    alerting.clock.set_wall((datetime(2026, 1, 9, 20, tzinfo=UTC) - alerting.clock.now()).total_seconds())  # a Friday
    await alerting.fire("urgent", Severity.P1)
    await alerting.fire("later", Severity.P3)
    await alerting.dispatcher.run_once()
    alerting.clock.advance(31)
    await alerting.dispatcher.run_once()
    due = await alerting.rows("SELECT channel, due_at, done_at FROM alert_tellings ORDER BY channel, due_at")
    assert [(row["channel"], row["done_at"] is not None) for row in due] == [
        ("chat", True), ("chat", True), ("mail", False), ("pager", True),
    ]  # fmt: skip
    assert next(row["due_at"] for row in due if row["channel"] == "mail") == datetime(2026, 1, 12, 9, tzinfo=UTC)


async def test_a_storm_is_told_once(alerting: Alerting) -> None:
    await alerting.stage.apply(
        channel("chat", "slack: {}, secret_name: hook, storm: {most: 3, within: 1h}")
        + route("all", "channels: [chat], group_by: [name], group_wait: 0s")
    )
    for number in range(7):
        labels = {"service": "pay", "team": "ops", "name": str(number)}
        await alerting.fire(f"k{number}", labels=labels)
    await alerting.dispatcher.run_once()
    subjects = [subject for _, _, subject in await alerting.told()]
    assert subjects == ["[P1] payments are down"] * 3 + ["[P1] more than 3 new alerts within 1h"]
    assert await alerting.rows("SELECT 1 FROM alert_tellings WHERE done_at IS NULL") == []


async def test_what_no_route_leads_anywhere_says_so(alerting: Alerting) -> None:
    identifier = await alerting.fire()
    await alerting.dispatcher.run_once()
    assert "untold" in await timeline(alerting, identifier)
    told = body_of([await alerting.alert(identifier)], "https://x")
    assert "owner: uptime (jane)" in told and "https://runs.example.com/pay" in told


# ---------------------------------------------------------------------- silences


async def test_a_silence_keeps_an_alert_from_being_told_until_it_ends(alerting: Alerting) -> None:
    await alerting.stage.apply(SLACK + TO_CHAT)
    context, now = alerting.stage.context("jane"), alerting.clock.now()
    silence = await alerting.silences.make(
        context, ["service=pay"], ends_at=now + timedelta(hours=2), reason="a move", by="jane"
    )
    await alerting.fire(severity=Severity.P0)
    for _ in range(3):
        await alerting.dispatcher.run_once()
        alerting.clock.advance(1200)
    assert await alerting.notices() == []
    await alerting.silences.end(context, silence.id, by="joe")
    await alerting.dispatcher.run_once()
    assert {to for to, _, _ in await alerting.notices()} >= {"channel:chat", "person:primary-person"}
    with pytest.raises(Conflict):
        await alerting.silences.end(context, silence.id, by="joe")


@pytest.mark.parametrize(
    ("matchers", "ends_in", "reason"),
    [
        ([], 3600, "why"), (["service=~*"], 3600, "why"), (["service!=x"], 3600, "why"), (["service"], 3600, "why"),
        (["service=pay"], -1, "why"), (["service=pay"], 8 * 86_400, "why"), (["service=pay"], 3600, " "),
    ],
)  # fmt: skip
async def test_a_silence_without_an_end_a_reason_or_an_aim_is_refused(
    alerting: Alerting, matchers: list[str], ends_in: int, reason: str
) -> None:
    with pytest.raises(BailiwickError) as refused:
        await alerting.silences.make(
            alerting.stage.context(), matchers, ends_at=alerting.clock.now() + timedelta(seconds=ends_in),
            reason=reason, by="root",
        )  # fmt: skip
    assert refused.value.status in (400, 422)
    assert await alerting.rows("SELECT 1 FROM alert_silences") == []


@pytest.mark.parametrize(
    ("matcher", "value", "holds"),
    [
        ("a=x", "x", True), ("a=x", "xy", False), ("a!=x", "y", True), ("a=~x*", "xyz", True), ("a=~x*z", "xyz", True),
        ("a=~x*z", "xy", False), ("a=~p|q*", "qr", True), ("a!~p|q*", "qr", False), ("a=~*b*", "abc", True),
        ("a=~ab*ba", "aba", False),
    ],
)  # fmt: skip
def test_matchers_compare_by_shell_patterns(matcher: str, value: str, holds: bool) -> None:
    assert read_matcher(matcher).holds({"a": value}) is holds


def test_a_pattern_of_peoples_making_is_quick() -> None:
    assert not checked(["a=~" + "a*" * 60 + "b"])[0].holds({"a": "a" * 5000})


# ---------------------------------------------------------------------- escalation


def minutes(severity: Severity, at: datetime) -> list[tuple[str, float]]:
    return [(step.level, (step.due_at - at).total_seconds() / 60) for step in plan_steps(severity, at)]


def test_the_steps_are_due_when_the_seed_says() -> None:
    monday = datetime(2026, 1, 5, 3, tzinfo=UTC)
    assert minutes(Severity.P0, monday) == [
        ("primary", 0), ("secondary", 15), ("manager", 60), ("lead", 75), ("management", 195),
    ]  # fmt: skip
    assert minutes(Severity.P1, monday) == [
        ("primary", 0), ("primary", 15), ("secondary", 30), ("manager", 60), ("lead", 90), ("management", 210),
    ]  # fmt: skip
    # business hours: nothing before nine
    assert minutes(Severity.P2, monday) == [("primary", 360), ("secondary", 420), ("lead", 480)]
    assert minutes(Severity.P3, monday) == [("primary", 360), ("secondary", 600), ("lead", 660)]


def test_business_time_passes_over_nights_weekends_and_the_change_of_clocks() -> None:
    hours = Hours(timezone="Europe/Berlin")
    friday = datetime(2026, 3, 27, 15, 30, tzinfo=UTC)  # half past four in the afternoon; summer time begins on Sunday
    assert hours.after(friday, timedelta(hours=1)) == datetime(2026, 3, 30, 7, 30, tzinfo=UTC)
    assert hours.open_at(friday) and not hours.open_at(friday + timedelta(hours=1))
    with pytest.raises(ValueError):
        Hours(timezone="Mars/Olympus")


async def test_escalation_goes_on_step_by_step_until_somebody_acknowledges(alerting: Alerting) -> None:
    identifier = await alerting.fire(severity=Severity.P0)
    called = []
    for minute in range(0, 240, 5):
        await alerting.dispatcher.run_once()
        called += [(minute, to) for to, _, _ in (await alerting.notices())[len(called) :]]
        alerting.clock.advance(300)
        if minute == 75:
            await alerting.desk.acknowledge(alerting.stage.context(), identifier, by="lead-person")
    assert called == [
        (0, "person:primary-person"), (15, "person:secondary-person"), (60, "person:manager-person"),
        (75, "person:lead-person"),
    ]  # fmt: skip
    assert [row["state"] for row in await alerting.rows("SELECT state FROM escalation_steps ORDER BY number")] == [
        "done", "done", "done", "done", "stopped",
    ]  # fmt: skip


async def test_a_step_is_neither_lost_nor_doubled_when_the_process_dies_in_the_middle(alerting: Alerting) -> None:
    await alerting.fire(severity=Severity.P0)
    send, died = alerting.outbox.send, []

    async def dies(*arguments: object) -> str:
        died.append(await send(*arguments))  # type: ignore[arg-type]
        raise KeyboardInterrupt

    alerting.outbox.send = dies  # type: ignore[assignment,method-assign]
    with pytest.raises(KeyboardInterrupt):
        await alerting.dispatcher.run_once()
    alerting.outbox.send = send  # type: ignore[method-assign]
    assert died and await alerting.notices() == [], "what died with its process was not told"
    await asyncio.gather(*(alerting.new_dispatcher().run_once() for _ in range(4)))
    await alerting.new_dispatcher().run_once()
    assert [to for to, _, _ in await alerting.notices()] == ["person:primary-person"]
    alerting.clock.advance(3000)  # the restart comes late: what fell due meanwhile is done
    await alerting.new_dispatcher().run_once()
    assert [to for to, _, _ in await alerting.notices()][1:] == ["person:secondary-person"]


async def test_where_nobody_is_on_call_the_next_one_is_called_at_once(alerting: Alerting) -> None:
    del alerting.rota.people["primary"]
    identifier = await alerting.fire(severity=Severity.P0)
    for _ in range(3):
        await alerting.dispatcher.run_once()
    assert ("person:secondary-person", "tell", "[P0] you are called as secondary: payments are down") in (
        await alerting.notices()
    )
    assert (await timeline(alerting, identifier)).count("escalated") == 2
    keys = [row["key"] for row in await alerting.rows("SELECT key FROM alerts ORDER BY id")]
    assert keys == ["pay/down", "on-call/nobody/primary"]


# ---------------------------------------------------------------------- figures


def fact(severity: Severity = Severity.P1, acknowledged: int | None = 60, closed: str | None = "true") -> Fact:
    at = datetime(2026, 1, 5, tzinfo=UTC)
    ack = at + timedelta(seconds=acknowledged) if acknowledged is not None else None
    return Fact(severity, at, ack, at + timedelta(hours=1), closed)


BEGAN = datetime(2026, 1, 5, tzinfo=UTC)


def verdict_of(facts: list[Fact], happenings: list[Happening] | None = None) -> Verdict:
    return compute(facts, happenings or [], BEGAN, BEGAN + timedelta(days=7)).verdict


def test_figures_are_computed_and_only_what_is_known_is_green() -> None:
    found = compute(
        [fact(), fact(acknowledged=180), fact(Severity.P2, 600, "false"), fact(closed="duplicate")],
        [Happening("incident", "INC-1", BEGAN, None), Happening("drill", "d", BEGAN, "alert")],
        BEGAN,
        BEGAN + timedelta(days=7),
    )
    assert (found.precision, found.noise, found.false_share) == (2 / 3, 0.5, 0.25)
    assert (found.mtta_s, found.mttr_s, found.mtta_by_severity["P1"]) == (225.0, 3600.0, 100.0)
    assert (found.verdict, found.missed) == (Verdict.FAIL, ["incident INC-1"])
    assert verdict_of([fact()]) is Verdict.PASS
    assert verdict_of([]) is Verdict.NO_DATA
    assert verdict_of([fact(closed=None)]) is Verdict.NO_DATA
    assert verdict_of([fact()] * 19 + [fact(closed="false")]) is Verdict.FAIL
    assert verdict_of([fact()] * 20 + [fact(closed="false")]) is Verdict.PASS
    assert verdict_of([fact(acknowledged=16 * 60)]) is Verdict.FAIL
    assert verdict_of([fact(Severity.P2, 59 * 60)]) is Verdict.PASS
    assert verdict_of([fact(acknowledged=None)]) is Verdict.FAIL


async def test_what_happened_without_an_alert_counts_as_missed(alerting: Alerting) -> None:
    context = alerting.stage.context()
    async with alerting.database.begin() as tx:
        await alerting.figures.happened(tx, context, "incident", "INC-1", alerting.clock.now(), None)
    alerting.clock.advance(7200)
    identifier = await alerting.fire()
    async with alerting.database.begin() as tx:
        assert (await alerting.figures.of(tx, "default")).missed == ["incident INC-1"]
        await alerting.figures.happened(tx, context, "incident", "INC-1", alerting.clock.now(), identifier)
    await alerting.desk.acknowledge(context, identifier, by="jane")
    await alerting.desk.close(context, identifier, "true", by="jane")
    alerting.clock.advance(1)
    async with alerting.database.begin() as tx:
        found = await alerting.figures.of(tx, "default")
    assert (found.verdict, found.missed, found.happenings, found.alerts) == (Verdict.PASS, [], 1, 1)
