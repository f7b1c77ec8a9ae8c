"""The dates of ceremonies: how many there are, when they are, across changes of the clocks, deaths and two processes."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from rhythm_stage import RhythmStage, ceremony

from bailiwick.assurance.rhythm.ceremonies import Ceremony, occurrences
from people_fixtures import House

BERLIN = "Europe/Berlin"


@pytest.fixture
async def stage(house: House) -> RhythmStage:
    made = RhythmStage(house)
    await made.holds("olga", "ops_owner", "uptime")
    return made


def made(**cadence: object) -> Ceremony:
    return Ceremony.model_validate({"title": "x", "owner": "uptime", "roles": ["ops_owner"], **cadence})


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# ---------------------------------------------------------------------- cadences


def test_ten_o_clock_stays_ten_o_clock_when_the_clocks_change() -> None:
    daily = made(cron="0 10 * * *", timezone=BERLIN)
    found = occurrences(daily, at("2026-03-27T00:00"), at("2026-03-31T00:00"))
    assert [each.isoformat() for each in found] == [
        "2026-03-27T09:00:00+00:00",
        "2026-03-28T09:00:00+00:00",
        "2026-03-29T08:00:00+00:00",
        "2026-03-30T08:00:00+00:00",
    ]


def test_a_time_that_is_left_out_or_comes_twice_is_one_instant() -> None:
    early = made(cron="30 2 * * *", timezone=BERLIN)
    gap = occurrences(early, at("2026-03-28T12:00"), at("2026-03-29T12:00"))
    assert [each.isoformat() for each in gap] == ["2026-03-29T01:30:00+00:00"]  # 03:30 by the clocks of that day
    twice = occurrences(early, at("2026-10-24T12:00"), at("2026-10-25T12:00"))
    assert [each.isoformat() for each in twice] == ["2026-10-25T00:30:00+00:00"]  # the first of the two


@settings(deadline=None, max_examples=40)
@given(
    start=st.datetimes(datetime(2025, 1, 1), datetime(2027, 1, 1)),
    days=st.integers(1, 200),
    cuts=st.lists(st.floats(0, 1), max_size=6),
    zone=st.sampled_from(["UTC", BERLIN, "America/St_Johns", "Australia/Lord_Howe", "Asia/Kathmandu"]),
    cadence=st.sampled_from(["0 9 * * *", "30 2 * * *", "15 1 * * 1", "0 0 1 * *", "0 9 * * sun#1", "0 */6 * * *"]),
)
def test_asked_for_in_pieces_the_dates_are_the_same(
    start: datetime, days: int, cuts: list[float], zone: str, cadence: str
) -> None:
    begin = start.replace(tzinfo=UTC)
    end = begin + timedelta(days=days)
    wanted = made(cron=cadence, timezone=zone)
    whole = occurrences(wanted, begin, end)
    points = [begin, *sorted(begin + (end - begin) * cut for cut in cuts), end]
    pieces = [each for since, until in pairwise(points) for each in occurrences(wanted, since, until)]
    assert pieces == whole == sorted(set(whole))
    if cadence == "0 9 * * *":  # once on each day by its own clocks
        local = [each.astimezone(ZoneInfo(zone)) for each in whole]
        assert len({each.date() for each in local}) == len(local)
        assert {(each.hour, each.minute) for each in local} <= {(9, 0)}


@settings(deadline=None, max_examples=40)
@given(weeks=st.integers(1, 6), since=st.dates(datetime(2025, 1, 1).date(), datetime(2026, 6, 1).date()))
def test_every_so_many_weeks_is_counted_from_one_week(weeks: int, since: object) -> None:
    wanted = made(every={"weeks": weeks, "weekday": "wednesday", "at": "14:00", "since": f"{since}"})
    found = occurrences(wanted, at("2025-01-01T00:00"), at("2027-01-01T00:00"))
    assert all(b - a == timedelta(weeks=weeks) for a, b in pairwise(found))
    assert {each.weekday() for each in found} == {2} and found[0].date() >= since  # type: ignore[operator]
    assert found[0] - at(f"{since}T00:00") < timedelta(weeks=weeks + 1)


def test_days_after_go_live_are_days_of_the_ceremonys_own_zone() -> None:
    wanted = made(after_go_live={"days": [7, 0, 30], "at": "09:00"}, timezone=BERLIN)
    live = at("2026-03-20T23:30")  # the 21st in Berlin
    assert occurrences(wanted, at("2026-01-01T00:00"), at("2027-01-01T00:00")) == []
    found = occurrences(wanted, at("2026-01-01T00:00"), at("2027-01-01T00:00"), live)
    assert [each.isoformat() for each in found] == [
        "2026-03-21T08:00:00+00:00",
        "2026-03-28T08:00:00+00:00",
        "2026-04-20T07:00:00+00:00",
    ]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({}, "exactly one"),
        ({"cron": "0 9 * * *", "every": {"weekday": "monday", "at": "09:00"}}, "exactly one"),
        ({"cron": "*/5 * * * *"}, "one minute"),
        ({"cron": "0 9 30 2 *"}, "never comes"),
        ({"cron": "0 9 * *"}, "five fields"),
        ({"cron": "0 9 * * *", "timezone": "Mars/Olympus"}, "IANA"),
        ({"cron": "0 9 * * *", "roles": []}, "roles that must be there"),
        ({"cron": "0 9 * * *", "attended": False}, "automatic parts"),
        ({"every": {"weekday": "monday", "at": "25:00"}}, "at"),
        ({"every": {"weekday": "monday", "at": "09:00", "since": "2026-02-30"}}, "since"),
        ({"cron": "0 9 * * *", "surprise": 1}, "surprise"),
    ],
)
def test_what_cannot_recur_is_refused(wrong: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError) as refused:
        made(**wrong)
    assert told in str(refused.value)


# ---------------------------------------------------------------------- rows

MODEL = (
    ceremony("daily", 'cron: "0 9 * * *"')
    + ceremony("weekly", 'every: {weekday: monday, at: "14:00"}', f"timezone: {BERLIN}")
    + ceremony("second", 'every: {weeks: 2, weekday: thursday, at: "10:00"}')
    + ceremony("first", 'cron: "0 8 1 * *"')
    + ceremony("sunday", 'cron: "0 8 * * sun#1"')
)


async def test_after_forty_days_there_are_exactly_the_dates_of_forty_days(stage: RhythmStage) -> None:
    begun = stage.clock.now()  # Monday 2026-01-05, 09:00: the daily one of this day begins now, and is not due later
    await stage.apply(MODEL)
    await stage.live(40)
    past = [each for each in await stage.all() if each.starts_at <= stage.clock.now()]
    assert Counter(each.ceremony for each in past) == {"daily": 40, "weekly": 6, "second": 3, "first": 1, "sunday": 1}
    assert all(begun < each.starts_at for each in past)
    assert len({(each.ceremony, each.starts_at) for each in past}) == len(past)


async def test_down_for_a_week_nothing_is_lost_and_nothing_doubled(stage: RhythmStage) -> None:
    await stage.apply(MODEL)
    await stage.live(3)
    stage.clock.advance(8 * 86400)
    await asyncio.gather(*(stage.another_clockwork().keep() for _ in range(3)))  # three processes come up at once
    past = [each for each in await stage.all("daily") if each.starts_at <= stage.clock.now()]
    assert [each.starts_at.day for each in past] == list(range(6, 17))
    assert Counter(each.state for each in past)["missed"] >= 8
    fired = [each for each in stage.heard.fired if each.labels["ceremony"] == "daily"]
    assert {each.key for each in fired} == {"rhythm/daily/overdue"}, "one alert however many were missed"
    assert "OVERDUE" in fired[0].summary and fired[0].owner == "uptime"
    moved = [event for event in await stage.people.events() if event.code == "BW7301"]
    scheduled = [event.subject.id for event in moved if event.details["state"] == "scheduled" and event.subject]
    assert len(scheduled) == len(set(scheduled)) == len(await stage.all())


async def test_a_changed_cadence_replaces_what_has_not_begun(stage: RhythmStage) -> None:
    await stage.apply(ceremony("weekly", 'every: {weekday: friday, at: "10:00"}', "notice: [2d]"))
    await stage.live(2.5)
    assert [each.starts_at.isoformat() for each in await stage.all()] == ["2026-01-09T10:00:00+00:00"]
    changed = ceremony("weekly", 'every: {weekday: friday, at: "08:00"}', "notice: [2d]")
    await stage.apply(changed)
    await stage.live(0.5)
    assert [(each.starts_at.hour, each.state) for each in await stage.all()] == [(8, "scheduled"), (10, "cancelled")]
    await stage.live(7)
    assert [each.starts_at.day for each in await stage.all() if each.state != "cancelled"] == [9, 16]


async def test_notices_go_to_the_roles_and_to_whoever_answers_once_each(stage: RhythmStage) -> None:
    await stage.apply(ceremony("weekly", 'every: {weekday: friday, at: "10:00"}', "notice: [2d, 1h]"))
    await stage.live(4.2, step_h=0.5)
    told = [(notice.to, notice.subject) for notice in stage.heard.notices]
    assert (
        told
        == [("role:ops_owner", "weekly: Fri 09 Jan 10:00 UTC"), ("person:olga", "weekly: Fri 09 Jan 10:00 UTC")] * 2
    )


async def test_what_begins_after_go_live_waits_for_it(stage: RhythmStage) -> None:
    await stage.apply(ceremony("check-in", 'after_go_live: {days: [1, 2, 7], at: "10:00"}'))
    await stage.live(3)
    assert await stage.all() == []
    now = stage.clock.now()
    await stage.go_lives.record(stage.context(), "default", now, by="root", reason="it is live")
    await stage.live(10)
    assert [(each.starts_at.date() - now.date()).days for each in await stage.all()] == [1, 2, 7]
