"""Rotas: at every instant exactly one primary; the later-made stand-in holds; hand-overs at wall time across DST."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bailiwick.assurance.oncall.rota import Override, Roster, Rota
from bailiwick.assurance.owners.people import Known, People
from bailiwick.assurance.ports import Person

START = date(2026, 1, 5)  # a Monday
NAMES = ("ada", "bob", "cyd", "dan", "eve")
INSTANTS = st.datetimes(datetime(2025, 12, 1), datetime(2027, 12, 31), timezones=st.just(UTC))
ZONES = st.sampled_from(
    ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Kabul")
)


def team(*names: str, gone: tuple[str, ...] = ()) -> People:
    """People who came one after the other."""
    return People(
        {
            name: Known(
                Person(name, "", f"{name}@corp.net"),
                name not in gone,
                frozenset({"operator"}),
                datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=place),
            )
            for place, name in enumerate((*names, *gone))
        }
    )


def rota(*names: str, **more: Any) -> Rota:
    return Rota.model_validate({"start": START.isoformat(), "levels": {"primary": {"people": list(names)}}, **more})


def stand_in(number: int, username: str, begins: datetime, ends: datetime) -> Override:
    return Override(f"o{number}", number, "default", "primary", username, begins, ends, "", "root", begins)


@given(
    zone=ZONES,
    names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=5, unique=True),
    gone=st.sets(st.sampled_from(NAMES), max_size=4),
    weekday=st.sampled_from(("monday", "wednesday", "sunday")),
    at=st.tuples(st.integers(0, 23), st.integers(0, 59)),
    length=st.integers(1, 20),
    moments=st.lists(INSTANTS, min_size=1, max_size=4),
)
def test_at_every_instant_exactly_one_primary_as_long_as_anybody_is_there(
    zone: str, names: list[str], gone: set[str], weekday: str, at: tuple[int, int], length: int, moments: list[datetime]
) -> None:
    here = [name for name in NAMES if name not in gone]
    roster = Roster(
        rota(
            *names,
            time_zone=zone,
            length_days=length,
            hand_over={"weekday": weekday, "at": f"{at[0]:02}:{at[1]:02}"},
        ),
        [],
        team(*here, gone=tuple(gone)),
    )
    for moment in moments:
        duty = roster.duty("primary", moment)
        if moment < roster.begins:
            assert (duty.person, duty.why) == (None, "not begun")
        elif set(names) <= gone:
            assert (duty.person, duty.why) == (None, "nobody")
        else:
            assert duty.person is not None and duty.person.username in set(names) - gone
            number = roster.number_at(moment)
            assert roster.boundary(number) <= moment < roster.boundary(number + 1)
            assert duty.scheduled == names[number % len(names)]
            if duty.scheduled not in gone:
                assert duty.person.username == duty.scheduled


@given(
    zone=ZONES,
    spans=st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 2000), st.integers(1, 400)), max_size=6),
    since=st.integers(0, 1500),
    hours=st.integers(1, 900),
)
def test_shifts_are_without_a_gap_and_say_what_each_instant_says(
    zone: str, spans: list[tuple[str, int, int]], since: int, hours: int
) -> None:
    begin = datetime(2026, 2, 1, tzinfo=UTC)
    overrides = [
        stand_in(number, who, begin + timedelta(hours=after), begin + timedelta(hours=after + length))
        for number, (who, after, length) in enumerate(spans)
    ]
    gap = {"from": "2026-03-27T00:00:00Z", "until": "2026-03-28T00:00:00Z", "reason": "moving"}
    roster = Roster(rota("ada", "bob", "cyd", time_zone=zone, gaps=[gap]), overrides, team(*NAMES))
    opens = begin + timedelta(hours=since)
    closes = opens + timedelta(hours=hours)
    shifts = roster.shifts("primary", opens, closes)
    assert shifts[0].begins == opens and shifts[-1].ends == closes
    assert all(one.ends == other.begins for one, other in pairwise(shifts))
    for shift in shifts:
        assert shift.begins < shift.ends
        for moment in (shift.begins, shift.begins + (shift.ends - shift.begins) / 2, shift.ends - timedelta(seconds=1)):
            assert roster.duty("primary", moment) == shift.duty
            holding = [each for each in overrides if each.begins <= moment < each.ends]
            if holding:  # of those that overlap the one made last
                assert shift.duty.override == max(holding, key=lambda each: each.number).id
            else:
                declared = datetime(2026, 3, 27, tzinfo=UTC) <= moment < datetime(2026, 3, 28, tzinfo=UTC)
                assert (shift.duty.person is None, shift.duty.why == "declared gap") == (declared, declared)


@pytest.mark.parametrize(
    ("zone", "before", "after"),
    [
        ("Europe/Berlin", "2026-03-23T08:00:00+00:00", "2026-03-30T07:00:00+00:00"),
        ("Europe/Berlin", "2026-10-19T07:00:00+00:00", "2026-10-26T08:00:00+00:00"),
        ("America/New_York", "2026-03-02T14:00:00+00:00", "2026-03-09T13:00:00+00:00"),
    ],
)
def test_a_hand_over_is_at_the_same_wall_time_on_both_sides_of_a_change(zone: str, before: str, after: str) -> None:
    roster = Roster(rota("ada", "bob", time_zone=zone), [], team("ada", "bob"))
    begins, ends = datetime.fromisoformat(before), datetime.fromisoformat(after)
    number = roster.number_at(begins)
    assert (roster.boundary(number), roster.boundary(number + 1)) == (begins, ends)
    for moment in (begins, ends):
        assert moment.astimezone(ZoneInfo(zone)).strftime("%H:%M") == "09:00"
    just_before = roster.duty("primary", ends - timedelta(microseconds=1)).person
    assert just_before != roster.duty("primary", ends).person


def test_a_hand_over_in_the_hour_that_is_left_out_or_comes_twice_happens_once() -> None:
    spring = Roster(
        rota("ada", "bob", time_zone="Europe/Berlin", hand_over={"weekday": "sunday", "at": "02:30"}), [], team(*NAMES)
    )
    edges = [spring.boundary(number) for number in range(60)]
    assert edges == sorted(set(edges))
    assert datetime(2026, 3, 29, 1, 30, tzinfo=UTC) in edges  # 02:30 does not exist: 03:30
    assert datetime(2026, 10, 25, 0, 30, tzinfo=UTC) in edges  # the first of the two


def test_a_day_that_never_was_is_handed_over_once() -> None:
    """Samoa left out 30 December 2011 altogether."""
    roster = Roster(
        rota("ada", "bob", time_zone="Pacific/Apia", length_days=1, start="2011-12-20"), [], team("ada", "bob")
    )
    edges = [roster.boundary(number) for number in range(30)]
    assert all(one <= other for one, other in pairwise(edges))
    for hour in range(600):
        assert roster.duty("primary", edges[0] + timedelta(hours=hour) + timedelta(days=2)).person is not None


def test_a_stand_in_who_is_gone_stands_in_for_nobody() -> None:
    begin = datetime(2026, 2, 2, 9, tzinfo=UTC)
    overrides = [
        stand_in(1, "cyd", begin, begin + timedelta(days=3)),
        stand_in(2, "dan", begin, begin + timedelta(days=1)),
    ]
    roster = Roster(rota("ada", "bob"), overrides, team("ada", "bob", "cyd", gone=("dan",)))
    duty = roster.duty("primary", begin)
    assert duty.person is not None and (duty.person.username, duty.why) == ("cyd", "stand-in")


def test_the_second_is_the_next_in_line_and_a_role_takes_turns_in_the_order_of_coming() -> None:
    levels = {"primary": {"role": "operator"}, "secondary": {"role": "operator", "offset": 1}}
    roster = Roster(rota("x", levels=levels), [], team("zoe", "ada", "bob"))
    moment = roster.begins
    for expected in (("zoe", "ada"), ("ada", "bob"), ("bob", "zoe")):
        found = tuple(roster.duty(level, moment).person.username for level in ("primary", "secondary"))  # type: ignore[union-attr]
        assert found == expected
        moment += timedelta(days=7)


def test_what_comes_next_is_the_next_shift_of_somebody_else() -> None:
    begin = datetime(2026, 1, 12, 9, tzinfo=UTC)
    overrides = [stand_in(1, "ada", begin, begin + timedelta(days=2))]
    roster = Roster(rota("ada", "bob"), overrides, team("ada", "bob"))
    following = roster.change_after("primary", datetime(2026, 1, 6, tzinfo=UTC))
    assert following is not None and following.duty.person is not None
    assert (following.duty.person.username, following.begins, following.ends) == (
        "bob", begin + timedelta(days=2), begin + timedelta(days=7),
    )  # fmt: skip
    alone = Roster(rota("ada"), [], team("ada"))
    assert alone.change_after("primary", begin) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"levels": {"secondary": {"people": ["ada"]}}},
        {"levels": {"primary": {"people": ["ada"], "role": "operator"}}},
        {"levels": {"primary": {}}},
        {"levels": {"primary": {"people": ["ada"]}, "tertiary": {"people": ["bob"]}}},
        {"length_days": 0},
        {"hand_over": {"weekday": "monday", "at": "24:00"}},
        {"until": "2026-01-05"},
        {"start": "0001-01-01"},
        {"gaps": [{"from": "2026-01-02T00:00:00Z", "until": "2026-01-01T00:00:00Z", "reason": ""}]},
        {"gaps": [{"from": "2026-01-01T00:00:00", "until": "2026-01-02T00:00:00Z", "reason": ""}]},
        {"time_zone": "../../etc/passwd"},
    ],
)
def test_a_rota_that_contradicts_itself_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        rota("ada", **wrong)


def test_without_any_tzdata_a_rota_in_utc_works_and_others_say_why_not() -> None:
    """A slim machine has no time zone files. Python then asks the package ``tzdata``, which may be missing too."""
    code = """
import sys
sys.modules["tzdata"] = None
from bailiwick.assurance.oncall.rota import zone_named
print(zone_named("UTC"))
try:
    zone_named("Europe/Berlin")
except LookupError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONTZPATH": ""}, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["UTC", "there is no time zone 'Europe/Berlin', or this machine has no tzdata"]


def test_in_a_declared_gap_nobody_is_called_but_who_stands_in() -> None:
    begins, ends = datetime(2026, 3, 27, tzinfo=UTC), datetime(2026, 3, 28, tzinfo=UTC)
    gap = {"from": begins.isoformat(), "until": ends.isoformat(), "reason": "moving"}
    noon = begins + timedelta(hours=12)
    roster = Roster(rota("ada", gaps=[gap]), [stand_in(1, "bob", noon, ends)], team("ada", "bob"))
    told = [
        (shift.begins, shift.duty.person and shift.duty.person.username, shift.duty.why)
        for shift in roster.shifts("primary", begins - timedelta(hours=1), ends + timedelta(hours=1))
    ]
    assert told == [
        (begins - timedelta(hours=1), "ada", "rotation"),
        (begins, None, "declared gap"),
        (noon, "bob", "stand-in"),
        (ends, "ada", "rotation"),
    ]
