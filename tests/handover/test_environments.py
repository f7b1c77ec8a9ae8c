"""Environments: how each comes to where it is, what is validated when, and hypercare to its end."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from environment_desk import BOOK, DIGEST, OTHER, EnvironmentDesk
from hypothesis import given
from hypothesis import strategies as some
from sqlalchemy.exc import ProgrammingError

from bailiwick.assurance.book import BadBook, read_text
from bailiwick.assurance.environment_states import STAGES
from bailiwick.assurance.probes.reading import Found, LookFailed
from bailiwick.evidence import codes
from bailiwick.handover.environments.chapters import EnvironmentChapter, ValidationChapter
from bailiwick.handover.environments.hypercare import Grave, ends_at, exit_of, instants, slots
from bailiwick.handover.environments.spec import HYPERCARE_PLAN, HypercarePlan, MissingValue, filled
from bailiwick.handover.ports import Rollout
from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.quorum import Approval
from bailiwick.kernel.severity import Severity
from bailiwick.kernel.verdicts import Verdict
from people_fixtures import House

HOUR, MINUTE, DAY = timedelta(hours=1), timedelta(minutes=1), timedelta(days=1)
BEGIN = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)


@pytest.fixture
async def desk(house: House) -> EnvironmentDesk:
    return await EnvironmentDesk(house).open()


def _plan() -> HypercarePlan:
    (spec,) = [each.spec for each in read_text(BOOK, "test") if each.kind == "HypercarePlan"]
    return HYPERCARE_PLAN.read(spec)


# ------------------------------------------------------------------- states


async def test_a_rollout_makes_it_live_and_hypercare_begins_by_the_clock(desk: EnvironmentDesk) -> None:
    assert (await desk.now()).stage == "planned"
    await desk.go_live()
    found = await desk.now()
    assert (found.stage, found.digest, found.live_at) == ("live", DIGEST, desk.stage.clock.now())
    await desk.keep()
    assert (await desk.now()).stage == "hypercare"
    (platform,) = await desk.go_lives.list("default")
    assert (platform.platform, platform.at) == ("payments", found.live_at)
    events = [each.code for each in await desk.stage.people.events()]
    assert codes.ENVIRONMENT_LIVE.code in events and events.count(codes.ENVIRONMENT_MOVED.code) == 2


async def test_one_rollout_goes_live_once(desk: EnvironmentDesk) -> None:
    await desk.go_live()
    await desk.go_live()
    assert len((await desk.now()).lives) == 1


async def test_a_later_release_is_validated_anew_and_puts_nothing_off(desk: EnvironmentDesk) -> None:
    await desk.go_live()
    first = await desk.now()
    await desk.let(2 * HOUR)
    await desk.go_live("r-2", OTHER)
    found = await desk.now()
    assert (found.digest, len(found.lives), found.stage) == (OTHER, 2, "hypercare")
    assert (found.live_at, found.hypercare_from) == (first.live_at, first.hypercare_from)
    assert (await desk.points())["hour"].verdict is Verdict.NOT_DUE
    (platform,) = await desk.go_lives.list("default")
    assert platform.at == first.live_at


async def test_a_go_live_that_was_planned_for_later_gives_way_to_what_happened(desk: EnvironmentDesk) -> None:
    planned = desk.stage.clock.now() + 5 * DAY
    await desk.go_lives.record(desk.stage.context(), "payments", planned, by="root", reason="planned")
    await desk.go_live()
    (platform,) = await desk.go_lives.list("default")
    assert platform.at == desk.stage.clock.now()


async def test_a_rehearsal_does_not_begin_to_count_t_plus_7(house: House) -> None:
    desk = await EnvironmentDesk(house).open(BOOK.replace("purpose: production", "purpose: staging"))
    await desk.go_live()
    assert (await desk.now()).stage == "live" and await desk.go_lives.list("default") == []


async def test_the_last_step_is_the_handovers_alone(desk: EnvironmentDesk) -> None:
    context = desk.stage.context("jane")
    for _ in range(2):  # planned, then live
        async with desk.stage.database.begin() as tx:
            with pytest.raises(BailiwickError) as refused:
                await desk.states.handed_over(tx, context, "production", "f" * 64)
        assert refused.value.reason == "illegal_transition"
        if (await desk.now()).stage == "planned":
            await desk.go_live()
    await desk.keep()
    async with desk.stage.database.begin() as tx:
        with pytest.raises(BailiwickError):
            await desk.states.handed_over(tx, context, "production", "")
    async with desk.stage.database.begin() as tx:
        await desk.states.handed_over(tx, context, "production", "f" * 64)
    found = await desk.now()
    assert (found.stage, found.pack) == ("bau_active", "f" * 64)
    await desk.go_live("r-2", OTHER)  # a release after that leaves it where it is
    assert (await desk.now()).stage == "bau_active"
    assert STAGES.moves["bau_active"] == frozenset()


async def test_declaring_takes_two_persons_and_hypercare_counts_from_then(desk: EnvironmentDesk) -> None:
    at = desk.stage.clock.now() - 400 * DAY
    body = {"at": at.isoformat(), "digest": DIGEST, "reason": "it runs for a year"}
    status, said = await desk.say("viv", "POST", "/environments/production/declare", body)
    assert status == 403
    status, said = await desk.say("jane", "POST", "/environments/production/declare", body)
    assert status == 202 and (await desk.now()).stage == "planned"
    approval = said["approval"]
    vote = {"payload_sha256": approval["payload_sha256"], "comment": "so it is"}
    own, _ = await desk.say("jane", "POST", f"/approvals/{approval['id']}/approve", vote)
    assert own == 403
    assert (await desk.say("kim", "POST", f"/approvals/{approval['id']}/approve", vote))[0] == 200
    desk.skip(HOUR)
    await desk.keep()
    found = await desk.now()
    assert (found.stage, found.live_at, found.digest) == ("hypercare", at, DIGEST)
    assert found.hypercare_from == desk.stage.clock.now()
    assert found.life is not None and found.life.approval == approval["id"] and not found.life.rollout
    status, said = await desk.say("jane", "POST", "/environments/production/declare", body)
    assert (status, said["reason"]) == (409, "illegal_transition")


async def test_nothing_is_declared_live_in_the_future(desk: EnvironmentDesk) -> None:
    later = desk.stage.clock.now() + HOUR
    with pytest.raises(BailiwickError):
        await desk.states.declare(desk.stage.context(), "production", later, by="jane", reason="soon")


async def test_from_the_machine_a_declaration_takes_two_more(desk: EnvironmentDesk) -> None:
    found = await desk.states.declare(
        desk.stage.context("os:root"), "production", desk.stage.clock.now(), by="os:root", reason="it runs",
        signed_in=False,
    )  # fmt: skip
    assert isinstance(found, Approval) and found.missing == 2


async def test_a_key_is_nobody_who_signed_in(desk: EnvironmentDesk) -> None:
    token = await desk.stage.people.signed_in("jane")
    body = {"at": desk.stage.clock.now().isoformat(), "digest": DIGEST, "reason": "it runs"}
    path = "/api/v1/environments/production/declare"
    answer = await desk.stage.call("POST", path, body, token=token, headers={"x-test-key": "k1"})
    assert (answer.status, answer.json()["approval"]["missing"]) == (202, 2)


async def test_who_left_keeps_nobodys_clock_from_going_on(desk: EnvironmentDesk) -> None:
    body = {"at": desk.stage.clock.now().isoformat(), "digest": DIGEST, "reason": "it runs"}
    _, said = await desk.say("jane", "POST", "/environments/production/declare", body)
    approval = said["approval"]
    vote = {"payload_sha256": approval["payload_sha256"], "comment": "so it is"}
    assert (await desk.say("kim", "POST", f"/approvals/{approval['id']}/approve", vote))[0] == 200
    async with desk.stage.people.owner.begin() as tx:
        await tx.run("UPDATE bailiwick.users SET is_active = false WHERE username = 'jane'")
    desk.skip(HOUR)
    await desk.keep()
    assert (await desk.now()).stage == "planned"


async def test_what_is_in_no_document_is_nowhere(desk: EnvironmentDesk) -> None:
    async with desk.stage.database.begin() as tx:
        assert await desk.states.get(tx, "default", "staging") is None
    assert (await desk.say("jane", "GET", "/environments/staging"))[0] == 404


# --------------------------------------------------------------- validation


async def test_no_report_before_its_window_opens(desk: EnvironmentDesk) -> None:
    status, said = await desk.say("jane", "POST", "/environments/production/validation/hour", {})
    assert (status, said["reason"]) == (409, "environment_not_live")
    await desk.go_live()
    await desk.let(4 * MINUTE, MINUTE)
    assert {point.verdict for point in (await desk.points()).values()} == {Verdict.NOT_DUE}
    for suite in ("hour", "day", "week"):
        status, said = await desk.say("jane", "POST", f"/environments/production/validation/{suite}", {})
        assert (status, said["reason"], said["verdict"]) == (409, "window_not_over", "NOT_DUE")
        with pytest.raises(BailiwickError):
            await desk.validation.run(desk.stage.context(), "production", suite)
    assert desk.looks == 0


async def test_the_schema_refuses_a_report_from_before_its_window(desk: EnvironmentDesk) -> None:
    await desk.go_live()
    await desk.let(6 * MINUTE, MINUTE)
    with pytest.raises(Exception, match="validation_reports_check"):
        async with desk.stage.database.begin() as tx:
            await tx.run(
                "INSERT INTO validation_reports SELECT 'x', zone, environment, life, 'day', 1, 'PASS',"
                " opened_at, opened_at - interval '1 hour', ended_at, '', body, sha256, record FROM validation_reports"
            )


async def test_seven_days_of_validation(desk: EnvironmentDesk) -> None:
    await desk.go_live()
    await desk.let(6 * MINUTE, MINUTE)
    assert (await desk.points())["hour"].verdict is Verdict.PASS
    assert (await desk.points())["day"].verdict is Verdict.NOT_DUE
    await desk.let(24 * HOUR)
    assert [point.verdict for point in (await desk.points()).values()] == [Verdict.PASS, Verdict.PASS, Verdict.NOT_DUE]
    await desk.let(6 * DAY, 4 * HOUR)
    async with desk.stage.database.begin() as tx:
        standing = await desk.validation.standing(tx, "default", "production")
    assert standing.passes and standing.figures["green"] == 3
    status, said = await desk.say("olga", "GET", "/environments/production/validation?suite=hour")
    assert status == 200
    (report,) = said["reports"]
    assert report["intact"] and report["attempt"] == 1 and report["asked_by"] == ""
    lag, redis = report["report"]["results"]
    assert (lag["verdict"], lag["value"]) == ("PASS", 5.0)
    # what the environment does not have is listed, not green, and does not count
    assert redis["verdict"] == "NO_DATA" and "redis" in redis["outside"] and report["report"]["outside"] == 1
    async with desk.stage.database.begin() as tx:
        record = await desk.stage.records.get(tx, "default", report["record"])
        kept = json.loads(await desk.stage.records.output(tx, record))
    assert kept["verdict"] == "PASS" and record.record.inputs["sha256"] == report["sha256"]


async def test_what_is_red_is_measured_again_while_the_window_is_open(desk: EnvironmentDesk) -> None:
    await desk.go_live()
    desk.found = Found(90, detail="slow")
    await desk.let(10 * MINUTE, MINUTE)
    assert (await desk.points())["hour"].verdict is Verdict.FAIL and desk.looks == 1
    assert "validation/production/hour" in desk.stage.heard.open_alerts
    desk.found = Found(5)
    await desk.let(10 * MINUTE, MINUTE)
    assert (await desk.points())["hour"].verdict is Verdict.PASS and desk.looks == 2
    assert "validation/production/hour" not in desk.stage.heard.open_alerts


@pytest.mark.parametrize(
    ("found", "verdict"),
    [(Found(90), Verdict.FAIL), (Found(absent="nothing"), Verdict.NO_DATA), (LookFailed("broken"), Verdict.ERROR)],
)
async def test_only_pass_is_green(desk: EnvironmentDesk, found: Found | Exception, verdict: Verdict) -> None:
    desk.found = found
    await desk.go_live()
    await desk.let(6 * MINUTE, MINUTE)
    point = (await desk.points())["hour"]
    assert point.verdict is verdict and not point.passes


async def test_a_missed_window_is_a_failure_that_measuring_later_does_not_mend(desk: EnvironmentDesk) -> None:
    await desk.go_live()
    desk.skip(3 * HOUR)
    assert (await desk.points())["hour"].verdict is Verdict.FAIL  # also before the clock has noticed
    await desk.keep()
    assert "validation/production/hour" in desk.stage.heard.open_alerts
    fired = len(desk.stage.heard.fired)
    await desk.keep()
    assert [each.key for each in desk.stage.heard.fired[fired:]] == []
    late = await desk.validation.run(desk.stage.context(), "production", "hour")
    assert late.verdict is Verdict.PASS and json.loads(late.body)["late"]
    assert (await desk.points())["hour"].verdict is Verdict.FAIL


async def test_a_failure_takes_a_dated_waiver(desk: EnvironmentDesk) -> None:
    await desk.go_live()
    desk.skip(3 * HOUR)
    await desk.keep()
    desk.stage.heard.waivers["validation", "production/hour"] = "w-1"
    point = (await desk.points())["hour"]
    assert (point.verdict, point.waiver, point.passes) == (Verdict.FAIL, "w-1", True)


async def test_what_somebody_asks_for_is_measured_by_the_clock(desk: EnvironmentDesk) -> None:
    await desk.go_live()
    await desk.let(6 * MINUTE, MINUTE)
    assert (await desk.say("viv", "POST", "/environments/production/validation/hour", {}))[0] == 403
    assert (await desk.say("olga", "POST", "/environments/production/validation/hour", {}))[0] == 202
    await desk.keep()
    await desk.keep()
    _, said = await desk.say("olga", "GET", "/environments/production/validation")
    assert [(each["attempt"], each["asked_by"]) for each in said["reports"]] == [(1, ""), (2, "olga")]
    assert (await desk.say("olga", "POST", "/environments/production/validation/none", {}))[0] == 404


async def test_what_was_asked_of_a_release_before_keeps_nothing_from_the_next(desk: EnvironmentDesk) -> None:
    await desk.go_live()
    desk.skip(25 * HOUR)
    assert (await desk.say("olga", "POST", "/environments/production/validation/day", {}))[0] == 202
    await desk.go_live("r-2", OTHER)
    desk.skip(6 * MINUTE)
    await desk.keep()
    _, said = await desk.say("olga", "GET", "/environments/production/validation")
    assert [each["suite"] for each in said["reports"] if each["asked_by"]] == []
    desk.skip(25 * HOUR)
    await desk.keep()
    assert (await desk.points())["day"].verdict is Verdict.PASS


async def test_a_report_is_never_changed(desk: EnvironmentDesk) -> None:
    await desk.go_live()
    await desk.let(6 * MINUTE, MINUTE)
    for change in ("UPDATE validation_reports SET verdict = 'PASS'", "DELETE FROM hypercare_slots"):
        with pytest.raises(ProgrammingError, match="permission denied"):
            async with desk.stage.database.begin() as tx:
                await tx.run(change)
    async with desk.stage.people.owner.begin() as tx:  # somebody with the database's own password
        await tx.run("UPDATE bailiwick.validation_reports SET body = replace(body, 'PASS', 'pass')")
    point = (await desk.points())["hour"]
    assert point.verdict is Verdict.ERROR and "hash" in point.told


# ---------------------------------------------------------------- hypercare


def test_the_cadence_is_half_hourly_then_hourly_then_three_times_a_day() -> None:
    plan = _plan()
    wanted = instants(plan, BEGIN, BEGIN + 72 * HOUR)
    assert len(wanted) == 12 + 18 + 6 and wanted[-1] == BEGIN + 72 * HOUR
    gaps = [later - sooner for sooner, later in zip([BEGIN, *wanted], wanted, strict=False)]
    assert gaps == [HOUR / 2] * 12 + [HOUR] * 18 + [8 * HOUR] * 6


@given(some.lists(some.integers(0, 100), max_size=4))
def test_a_grave_incident_never_makes_it_shorter(hours: list[int]) -> None:
    plan = _plan()
    grave = [Grave(str(at), Severity.P1, BEGIN + at * HOUR) for at in hours]
    until = ends_at(plan, BEGIN, grave)
    assert until >= BEGIN + 72 * HOUR and all(until >= each.opened_at + DAY for each in grave)
    wanted = instants(plan, BEGIN, until)
    assert wanted == sorted(set(wanted)) and until <= wanted[-1] < until + 8 * HOUR


@given(some.integers(0, 80 * 60), some.integers(0, 35))
def test_no_slot_is_green_that_nothing_filled(minutes: int, missing: int) -> None:
    plan, now = _plan(), BEGIN + minutes * MINUTE
    wanted = instants(plan, BEGIN, BEGIN + 72 * HOUR)
    found = slots(plan, wanted, [], now)
    assert all(each.verdict is not Verdict.PASS for each in found)
    assert not exit_of(found, [], [], BEGIN + 72 * HOUR, now).passes
    assert found[missing].verdict is (
        Verdict.NOT_DUE if now < wanted[missing] else
        Verdict.NO_DATA if now <= wanted[missing] + 15 * MINUTE else Verdict.FAIL
    )  # fmt: skip


async def test_72_hours_of_green_end_it(desk: EnvironmentDesk) -> None:
    await desk.go_live()
    assert (await desk.care()).verdict is Verdict.NOT_DUE
    await desk.let(71 * HOUR)
    assert (await desk.care()).verdict is Verdict.NOT_DUE and not (await desk.care()).passes
    await desk.let(HOUR + MINUTE)
    standing = await desk.care()
    assert standing.passes and (standing.figures["green"], standing.figures["slots"]) == (36, 36)
    async with desk.stage.database.begin() as tx:
        context = desk.stage.context("jane")
        await desk.states.handed_over(tx, context, "production", "f" * 64)
    assert (await desk.keep())["filled"] == 0


async def test_a_slot_that_nothing_filled_has_failed_and_stays_so(desk: EnvironmentDesk) -> None:
    await desk.go_live()
    await desk.let(HOUR)
    desk.skip(50 * MINUTE)  # past the slot at 1:30 and its grace
    await desk.let(71 * HOUR)
    standing = await desk.care()
    assert standing.verdict is Verdict.FAIL
    (blocker,) = standing.blockers
    assert "nothing was measured" in blocker.told and standing.figures["green"] == 35
    alert = next(each for each in desk.stage.heard.fired if each.key == "hypercare/production")
    assert alert.labels["slot"] == blocker.name
    desk.stage.heard.waivers["hypercare-slot", f"production/{blocker.name}"] = "w-7"
    assert (await desk.care()).passes and (await desk.care()).figures["waived"] == 1
    assert (await desk.care()).waivers == ["w-7"]


async def test_a_red_slot_stands_and_one_that_could_not_be_measured_is_tried_again(desk: EnvironmentDesk) -> None:
    await desk.go_live()
    await desk.let(29 * MINUTE)
    desk.found = LookFailed("the source does not answer")
    await desk.let(3 * MINUTE, MINUTE)
    first = (await desk.slots())[0]
    assert first.verdict is Verdict.ERROR and first.attempt >= 2
    assert "hypercare/production" in desk.stage.heard.open_alerts
    desk.found = Found(5)
    await desk.let(MINUTE)
    assert (await desk.slots())[0].verdict is Verdict.PASS
    assert "hypercare/production" not in desk.stage.heard.open_alerts
    await desk.let(26 * MINUTE)
    desk.found = Found(90)
    await desk.let(2 * MINUTE, MINUTE)
    desk.found = Found(5)
    await desk.let(8 * MINUTE, MINUTE)
    second = (await desk.slots())[1]
    assert second.verdict is Verdict.FAIL and second.attempt == 1 and "lag: FAIL" in second.told


async def test_nobody_can_type_a_green(desk: EnvironmentDesk) -> None:
    """No route writes a slot or a report: what there is to send is who asks, and nothing of what was found."""
    await desk.go_live()
    await desk.let(6 * MINUTE, MINUTE)
    body = {"verdict": "PASS"}
    for method, path in (
        ("POST", "/environments/production/hypercare"),
        ("PUT", "/environments/production/hypercare"),
        ("POST", "/environments/production/validation"),
    ):
        assert (await desk.say("jane", method, path, body))[0] == 405
    desk.found = Found(90)
    await desk.say("jane", "POST", "/environments/production/validation/hour", body)
    await desk.keep()
    assert (await desk.points())["hour"].verdict is Verdict.FAIL


async def test_a_grave_incident_makes_it_last_longer_also_once_closed(desk: EnvironmentDesk) -> None:
    await desk.go_live()
    await desk.let(60 * HOUR)
    desk.breaks_out(Severity.P2)
    await desk.keep()
    assert (await desk.care()).figures["grave_incidents"] == 0
    grave = desk.breaks_out(Severity.P1)
    await desk.keep()
    standing = await desk.care()
    assert standing.verdict is Verdict.FAIL and any(grave.id in each.name for each in standing.blockers)
    desk.around.incidents.clear()
    await desk.let(13 * HOUR)
    standing = await desk.care()
    assert standing.verdict is Verdict.NOT_DUE and not standing.passes  # 73 hours, and it lasts until 84
    assert standing.figures["slots"] == 38
    await desk.let(16 * HOUR)
    assert (await desk.care()).passes
    events = [each for each in await desk.stage.people.events() if each.code == codes.HYPERCARE_EXTENDED.code]
    assert len(events) == 1


async def test_a_grave_incident_that_was_closed_between_two_looks_counts(desk: EnvironmentDesk) -> None:
    await desk.go_live()
    await desk.let(60 * HOUR)
    desk.breaks_out(Severity.P0)
    desk.around.closed, desk.around.incidents = desk.around.incidents, []
    await desk.keep()
    figures = (await desk.care()).figures
    assert (figures["grave_incidents"], figures["slots"]) == (1, 38)


# ----------------------------------------------------------------- documents


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("hypercare: standard", "hypercare: none", "no HypercarePlan"),
        ("suites: [hour, day, week]", "suites: [hour, month]", "no ValidationSuite"),
        ("closes: 1h", "closes: 1m", "closes after it opens"),
        ("grace: 15m", "grace: 30m", "shorter than the time to the next"),
        ("until: 24h", "until: 5h", "ends later"),
        ("what: lag}", "what: lag, more: 1}", "Extra inputs"),
        ('expect: {comparison: "<", value: 60, unit: s}', "threshold: none", "no Threshold"),
    ],
)
async def test_documents_that_contradict_themselves_are_refused(
    desk: EnvironmentDesk, before: str, after: str, told: str
) -> None:
    with pytest.raises(BadBook, match=told):
        await desk.stage.books.plan("default", read_text(BOOK.replace(before, after), "test"))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("has: [prometheus]", "has: []"),
        ("suites: [hour, day, week]", "suites: [hour]"),
        ("platform: payments", "platform: other"),
        ("purpose: production", "purpose: test"),
        ("value: 60", "value: 600"),
        ("until: 72h", "until: 48h"),
    ],
)
async def test_what_makes_less_count_takes_two_persons(desk: EnvironmentDesk, before: str, after: str) -> None:
    documents = read_text(BOOK.replace(before, after), "test")
    planned = await desk.stage.books.plan("default", documents)
    assert any(each.two_persons for each in planned.differences)


async def test_looks_on_the_machine_are_for_the_installations_zone(desk: EnvironmentDesk) -> None:
    await desk.stage.people.zone("other")
    with pytest.raises(BadBook, match="default alone"):
        await desk.stage.books.plan("other", read_text(BOOK, "test"))


def test_a_value_that_the_environment_does_not_say_is_told() -> None:
    check = {"url": "${api}/x", "deep": [{"a": "${zone}"}], "number": 5}
    assert filled(check, {"api": "https://a", "zone": "z"}) == {"url": "https://a/x", "deep": [{"a": "z"}], "number": 5}
    with pytest.raises(MissingValue, match="zone"):
        filled(check, {"api": "https://a"})


# ------------------------------------------------------------------ chapters


async def test_the_chapters_say_what_is_so(desk: EnvironmentDesk) -> None:
    await desk.go_live()
    await desk.let(2 * HOUR)
    now = desk.stage.clock.now()
    async with desk.stage.database.begin() as tx:
        told = await EnvironmentChapter(desk.states)(tx, "default", "production", now - DAY, now)
        chapter = ValidationChapter(desk.states, desk.validation, desk.hypercare)
        measured = await chapter(tx, "default", "production", now - DAY, now)
    assert [each.name for each in told] == ["stage", "step-1", "step-2", "release-1"]
    assert told[0].verdict is Verdict.PASS and told[0].figures["digest"] == DIGEST
    by_name = {each.name: each for each in measured}
    assert by_name["validation-hour"].record.startswith("sha256:")
    assert by_name["validation-day"].verdict is Verdict.NOT_DUE
    assert by_name["hypercare"].verdict is Verdict.NOT_DUE


async def test_the_looks_of_its_own(desk: EnvironmentDesk) -> None:
    from bailiwick.assurance.probes.means import Asked

    asked = Asked("default", desk.stage.clock.now(), None, 5.0)
    looks = desk.means.internals
    assert (await looks["known_decisions"](asked, "")).absent
    await desk.stage.apply(
        BOOK
        + "".join(
            f"---\napiVersion: bailiwick/v1\nkind: ExpectedDecision\nmetadata: {{name: {name}}}\n"
            f'spec: {{application: bot, server: pay, scope: "items:read", expect: {name}}}\n'
            for name in ("allow", "deny")
        )
    )
    assert (await looks["known_decisions"](asked, "")).wrong == ""
    desk.answers["deny"] = "allow"
    assert "deny: allow" in (await looks["known_decisions"](asked, "")).wrong
    began = desk.stage.clock.now() - DAY
    assert (await looks["failed_rollouts"](asked, "production")).value == 0
    desk.around.rollouts.append(Rollout("r-9", "production", DIGEST, "x", "rolled_back", began, began))
    assert (await looks["failed_rollouts"](asked, "production")).value == 1
    assert (await looks["grave_incidents"](asked, "")).value == 0
    desk.breaks_out(Severity.P0)
    assert (await looks["grave_incidents"](asked, "")).value == 1
    assert (await looks["redis_memory"](asked, "")).absent
    desk.figures = {"bailiwick_redis_memory_bytes": [50], "bailiwick_redis_memory_max_bytes": [0]}
    assert "maxmemory" in (await looks["redis_memory"](asked, "")).absent
    desk.figures["bailiwick_redis_memory_max_bytes"] = [100]
    assert (await looks["redis_memory"](asked, "")).value == 0.5
    assert (await looks["part_restarts"](asked, "")).value == 1
    desk.restarts = {}
    assert (await looks["part_restarts"](asked, "")).absent
