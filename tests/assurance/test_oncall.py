"""On call as it is kept: stand-ins, swaps, the calendar, and who is called."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_owners import Played, activity, document

from bailiwick.assurance.ports import Level
from bailiwick.kernel.rfc5545 import CalendarEvent, calendar, escaped, folded
from people_fixtures import House

OVERRIDES = "/api/v1/oncall/overrides"
LEVELS = {"primary": {"people": ["ada", "bob"]}, "secondary": {"people": ["ada", "bob"], "offset": 1}}
KEPT = {"owner": "a", "start": "2026-01-05", "time_zone": "Europe/Berlin", "levels": LEVELS}
ROTA = document("Rota", "default", KEPT)


@pytest.fixture
async def stage(house: House) -> Played:
    """It is Monday 2026-01-05, 09:00 UTC: an hour after the hand-over in Berlin."""
    played = Played(house)
    for name in ("ada", "bob", "cyd"):
        await played.people.user(name, "operator")
    await played.apply(activity("a", "person:ada") + ROTA)
    return played


async def called(stage: Played, level: Level, at: datetime | None = None, zone: str = "default") -> str | None:
    async with stage.database.begin() as tx:
        person = await stage.desk.oncall.on_call(tx, zone, level, at or stage.clock.now())
    return person.username if person is not None else None


def parsed(text: str) -> list[dict[str, str]]:
    """The events of a calendar, by the grammar of RFC 5545 §3.1; fails for what it does not allow."""
    assert text.endswith("\r\n") and "\n" not in text.replace("\r\n", "")
    assert all(len(line.encode()) <= 75 for line in text.split("\r\n"))
    events: list[dict[str, str]] = []
    stack: list[str] = []
    for line in text.replace("\r\n ", "").removesuffix("\r\n").split("\r\n"):
        found = re.fullmatch(r"([A-Z0-9-]+)((?:;[A-Z-]+=[^;:]+)*):([^\x00-\x08\x0a-\x1f\x7f]*)", line)
        assert found, line
        name, _, value = found.groups()
        if name == "BEGIN":
            stack.append(value)
            if value == "VEVENT":
                events.append({})
        elif name == "END":
            assert stack.pop() == value
        elif stack[-1] == "VEVENT":
            assert name not in events[-1]
            events[-1][name] = value
    assert stack == []
    for event in events:
        assert {"UID", "DTSTAMP", "DTSTART", "DTEND", "SUMMARY"} <= event.keys()
        for name in ("SUMMARY", "DESCRIPTION", "UID"):
            event[name] = _text(event.get(name, ""))
    return events


def _text(value: str) -> str:
    assert re.fullmatch(r"(\\[\\;,nN]|[^\\;,])*", value), value
    return re.sub(r"\\(.)", lambda found: "\n" if found[1] in "nN" else found[1], value)


async def test_who_is_called_now_and_next(stage: Played) -> None:
    token = await stage.people.signed_in("root")
    assert (await called(stage, "primary"), await called(stage, "secondary")) == ("ada", "bob")
    assert await called(stage, "lead") is None
    assert await called(stage, "primary", stage.clock.now() + timedelta(days=7)) == "bob"
    now = (await stage.call("GET", "/api/v1/oncall", token=token)).json()
    primary = now["items"][0]
    assert (primary["now"]["username"], primary["now"]["until"]) == ("ada", "2026-01-12T08:00:00Z")
    assert (primary["next"]["username"], primary["next"]["until"]) == ("bob", "2026-01-19T08:00:00Z")
    later = (await stage.call("GET", "/api/v1/oncall?at=2026-01-13T00:00:00Z", token=token)).json()
    assert later["items"][0]["now"]["username"] == "bob"
    assert (await stage.call("GET", "/api/v1/oncall?at=0001-01-01T00:00:00Z", token=token)).status == 400


async def test_a_week_is_covered_when_every_moment_of_it_is(stage: Played) -> None:
    now = stage.clock.now()

    async def uncovered(level: Level) -> datetime | None:
        async with stage.database.begin() as tx:
            week = now + timedelta(days=7)
            return await stage.desk.oncall.uncovered(tx, "default", level, now, week)

    assert (await uncovered("primary"), await uncovered("lead")) == (None, now)
    begins = now + timedelta(days=3)
    gap = {"from": begins.isoformat(), "until": (begins + timedelta(hours=2)).isoformat(), "reason": "moving"}
    await stage.apply(activity("a", "person:ada") + document("Rota", "default", {**KEPT, "gaps": [gap]}))
    assert await uncovered("primary") == begins
    assert await called(stage, "primary", now + timedelta(days=7)) is not None


async def test_a_stand_in_holds_from_to_and_the_later_made_goes_first(stage: Played) -> None:
    token = await stage.people.signed_in("olga", "operator")
    body = {"username": "cyd", "until": "2026-01-06T09:00:00Z", "reason": "doctor"}
    first = await stage.call("POST", OVERRIDES, body, token=token)
    assert first.status == 201, first.body
    assert await called(stage, "primary") == "cyd"
    assert await called(stage, "secondary") == "bob"
    second = await stage.call("POST", OVERRIDES, {**body, "username": "bob"}, token=token)
    assert await called(stage, "primary") == "bob"
    listed = (await stage.call("GET", OVERRIDES, token=token)).json()["items"]
    assert [each["username"] for each in listed] == ["cyd", "bob"]
    assert (await stage.call("DELETE", f"{OVERRIDES}/{second.json()['id']}", token=token)).status == 200
    assert await called(stage, "primary") == "cyd"
    await stage.disable("cyd")
    assert await called(stage, "primary") == "ada"  # who is gone stands in for nobody
    await stage.disable("cyd", active=True)
    stage.clock.advance(86400)
    assert await called(stage, "primary") == "ada"
    gone = await stage.call("DELETE", f"{OVERRIDES}/{first.json()['id']}", token=token)
    assert gone.status == 404  # what is over is not taken back
    events = [(event.name, event.details["username"]) for event in await stage.people.events() if "BW711" in event.code]
    assert events == [("oncall.overridden", "cyd"), ("oncall.overridden", "bob"), ("oncall.override.withdrawn", "bob")]


async def test_one_that_is_withdrawn_after_it_began_held_until_then(stage: Played) -> None:
    begin = stage.clock.now()
    async with stage.database.begin() as tx:
        made = await stage.desk.oncall.override(
            tx, stage.context(), "default", "primary", "cyd", begin, begin + timedelta(days=1), "x", by="root"
        )
    stage.clock.advance(3600)
    async with stage.database.begin() as tx:
        await stage.desk.oncall.withdraw(tx, stage.context(), made.id, by="root")
    assert await called(stage, "primary", begin) == "cyd"
    assert await called(stage, "primary") == "ada"


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"username": "nobody-here"}, 422),
        ({"username": "gone"}, 422),
        ({"rota": "other"}, 404),
        ({"level": "lead"}, 404),
        ({"level": "boss"}, 400),
        ({"until": "2026-01-05T08:00:00Z"}, 400),
        ({"from": "2026-01-04T00:00:00Z"}, 400),
        ({"until": "2026-06-06T09:00:00Z"}, 400),
        ({"from": "2026-01-07T00:00:00Z"}, 400),
        ({"until": "9999-12-31T23:59:59Z"}, 400),
        ({"until": "2026-01-06T09:00:00"}, 400),
        ({"reason": ""}, 400),
        ({"reason": "a\x00b"}, 400),
        ({"reason": "a\nb"}, 400),
        ({"more": 1}, 400),
    ],
)
async def test_a_stand_in_that_makes_no_sense_is_refused(stage: Played, change: dict[str, Any], status: int) -> None:
    token = await stage.people.signed_in("root")
    await stage.people.user("gone", is_active=False)
    body = {"username": "cyd", "until": "2026-01-06T09:00:00Z", "reason": "doctor", **change}
    assert (await stage.call("POST", OVERRIDES, body, token=token)).status == status
    assert await called(stage, "primary") == "ada"


async def test_two_shifts_change_hands(stage: Played) -> None:
    token = await stage.people.signed_in("root")
    body = {"one": "2026-01-13T00:00:00Z", "other": "2026-01-20T00:00:00Z"}
    swapped = await stage.call("POST", "/api/v1/oncall/swaps", body, token=token)
    assert swapped.status == 201, swapped.body
    weeks = (
        await stage.call("GET", "/api/v1/oncall/shifts?level=primary&until=2026-02-02T08:00:00Z", token=token)
    ).json()
    assert [each["username"] for each in weeks["items"]] == ["ada", "ada", "bob", "bob"]
    assert [each["why"] for each in weeks["items"]] == ["rotation", "stand-in", "stand-in", "rotation"]
    again = {"one": "2026-01-05T10:00:00Z", "other": "2026-01-13T00:00:00Z"}
    assert (await stage.call("POST", "/api/v1/oncall/swaps", again, token=token)).status == 400  # ada with ada
    past = {"one": "2026-01-01T10:00:00Z", "other": "2026-01-13T00:00:00Z"}
    assert (await stage.call("POST", "/api/v1/oncall/swaps", past, token=token)).status == 400


async def test_the_calendar_holds_every_shift(stage: Played) -> None:
    token = await stage.people.signed_in("root")
    async with stage.database.begin() as tx:
        await tx.run(
            "UPDATE users SET full_name = 'Ada, Countess; of \\Lovelace 💡' || repeat('x', 90) WHERE username = 'ada'"
        )
    body = {"username": "cyd", "from": "2026-01-06T09:00:00Z", "until": "2026-01-07T09:00:00Z", "reason": "a; b, c"}
    assert (await stage.call("POST", OVERRIDES, body, token=token)).status == 201
    answer = await stage.call("GET", "/api/v1/oncall/shifts.ics?level=primary&until=2026-02-02T08:00:00Z", token=token)
    assert answer.headers["content-type"] == "text/calendar; charset=utf-8"
    events = parsed(answer.body.decode())
    assert [(each["DTSTART"], each["DTEND"]) for each in events] == [
        ("20260105T090000Z", "20260106T090000Z"),
        ("20260106T090000Z", "20260107T090000Z"),
        ("20260107T090000Z", "20260112T080000Z"),
        ("20260112T080000Z", "20260119T080000Z"),
        ("20260119T080000Z", "20260126T080000Z"),
        ("20260126T080000Z", "20260202T080000Z"),
    ]
    assert events[0]["SUMMARY"].startswith("On call (primary, default): Ada, Countess; of \\Lovelace 💡xxx")
    assert events[1]["DESCRIPTION"] == "cyd stands in: a; b, c"
    assert len({each["UID"] for each in events}) == 6
    assert (await stage.call("GET", "/api/v1/oncall/shifts.ics?rota=other", token=token)).status == 404
    assert (await stage.call("GET", "/api/v1/oncall/shifts?until=2028-01-01T00:00:00Z", token=token)).status == 400


async def test_a_rota_of_another_zone_is_not_this_ones(stage: Played) -> None:
    await stage.people.zone("other")
    assert await called(stage, "primary", zone="other") is None


@given(st.text(max_size=300))
def test_any_text_survives_the_calendar(text: str) -> None:
    moment = datetime(2026, 1, 5, tzinfo=UTC)
    event = CalendarEvent("u@x", moment, moment + timedelta(hours=1), text, moment, text, f"https://x.net/{text}")
    made = calendar(text, [event])
    (read,) = parsed(made)
    kept = re.sub(r"[\x00-\x09\x0b-\x1f\x7f\ud800-\udfff]", "", text.replace("\r\n", "\n").replace("\r", "\n"))
    assert read["SUMMARY"] == read["DESCRIPTION"] == kept


@given(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=400))
def test_folding_is_undone_by_unfolding(line: str) -> None:
    assert folded(line).replace("\r\n ", "") == line
    assert all(len(piece.encode()) <= 75 for piece in folded(line).split("\r\n"))
    assert escaped("a\\b;c,d\r\ne") == "a\\\\b\\;c\\,d\\ne"
