"""The calendar as iCalendar: read back by the letter of RFC 5545, and the same bytes when asked again."""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rhythm_stage import RhythmStage, ceremony

from bailiwick.kernel.rfc5545 import CalendarEvent, calendar
from people_fixtures import House

_LINE = re.compile(r"^([A-Z][A-Z-]*)((?:;[A-Z-]+=[^;:,\"]+)*):(.*)$", re.DOTALL)


def read(body: bytes) -> list[dict[str, str]]:
    """The events of a calendar; whatever RFC 5545 forbids fails."""
    assert body.endswith(b"\r\n")
    lines = body[:-2].split(b"\r\n")
    assert all(len(line) <= 75 and b"\n" not in line and b"\r" not in line for line in lines)
    whole: list[bytes] = []
    for line in lines:
        line.decode()  # no character is cut in two
        if line.startswith(b" "):
            whole[-1] += line[1:]
        else:
            whole.append(line)
    stack: list[str] = []
    events: list[dict[str, str]] = []
    for line in whole:
        found = _LINE.match(line.decode())
        assert found, line
        name, value = found[1], found[3]
        assert not re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value)
        if name == "BEGIN":
            stack.append(value)
            if value == "VEVENT":
                events.append({})
        elif name == "END":
            assert stack.pop() == value
        elif stack[-1] == "VEVENT":
            assert name not in events[-1], f"{name} comes twice"
            events[-1][name] = value
    assert stack == [] and whole[0] == b"BEGIN:VCALENDAR" and b"VERSION:2.0" in whole
    for event in events:
        assert {"UID", "DTSTAMP", "DTSTART", "SUMMARY"} <= event.keys()
        assert all(re.fullmatch(r"\d{8}T\d{6}Z", event[name]) for name in ("DTSTAMP", "DTSTART", "DTEND"))
    return events


def text(value: str) -> str:
    """A TEXT value without its escapes; a bare comma or semicolon fails."""
    assert not re.search(r"(?<!\\)(?:\\\\)*[,;]", value)
    return re.sub(r"\\(.)", lambda found: "\n" if found[1] in "nN" else found[1], value)


printable = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


@settings(deadline=None, max_examples=40)
@given(summary=printable, description=printable, minutes=st.integers(1, 1440))
def test_any_text_comes_back_as_it_was(summary: str, description: str, minutes: int) -> None:
    start = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
    end = start + timedelta(minutes=minutes)
    made = CalendarEvent("a.b@c", start, end, summary, start, description, sequence=3, category="x", alarm_min=[60])
    (event,) = read(calendar("zone", [made]).encode())

    def kept(value: str) -> str:
        lines = value.replace("\r\n", "\n").replace("\r", "\n")
        return "".join(each for each in lines if each == "\n" or unicodedata.category(each) != "Cc" or each >= "\x80")

    assert text(event["SUMMARY"]) == kept(summary)
    assert text(event.get("DESCRIPTION", "")) == kept(description)
    assert (event["DTSTART"], event["SEQUENCE"]) == ("20260329T013000Z", "3")


@pytest.fixture
async def stage(house: House) -> RhythmStage:
    made = RhythmStage(house)
    await made.holds("olga", "ops_owner", "uptime")
    return made


async def test_the_calendar_holds_every_date_and_is_the_same_when_asked_again(stage: RhythmStage) -> None:
    long = "agenda: ['Größe, Zahl; und noch mehr davon, bis die Zeile länger ist als 75 Oktette, und noch länger']"
    await stage.apply(
        ceremony("daily", 'cron: "30 2 * * *"', "timezone: Europe/Berlin")
        + ceremony("weekly", 'every: {weekday: monday, at: "14:00"}', f"{long}\nnotice: [1h]")
    )
    token = await stage.people.signed_in("vera", "auditor")
    got = await stage.call("GET", "/api/v1/rhythm/calendar.ics?days=7", token=token)
    assert (got.status, got.headers["content-type"]) == (200, "text/calendar; charset=utf-8")
    events = read(got.body)
    assert [event["DTSTART"] for event in events if "daily" in event["UID"]] == [
        f"202601{day:02}T013000Z" for day in range(6, 12)
    ]
    weekly = next(event for event in events if "weekly" in event["UID"])
    assert text(weekly["DESCRIPTION"]).startswith("Größe, Zahl; und")
    assert weekly["UID"] == "weekly.20260105T140000Z.default@bailiwick"
    stage.clock.advance(3600)
    again = await stage.call(
        "GET", "/api/v1/rhythm/calendar.ics?days=7", token=token, headers={"if-none-match": got.headers["etag"]}
    )
    assert (again.status, again.body) == (304, b"")
    await stage.live(8)
    later = await stage.call("GET", "/api/v1/rhythm/calendar.ics?days=7", token=token)
    uids = {event["UID"] for event in read(later.body)}
    assert {event["UID"] for event in events} <= uids, "a date keeps its name after it has come"
    assert len(uids) == len(read(later.body))


async def test_a_date_that_is_dropped_is_cancelled_for_whoever_has_it(stage: RhythmStage) -> None:
    await stage.apply(ceremony("weekly", 'every: {weekday: friday, at: "10:00"}', "notice: [7d]"))
    await stage.live(0.5)
    await stage.apply(ceremony("weekly", 'every: {weekday: friday, at: "08:00"}', "notice: [7d]"))
    await stage.live(0.5)
    body, _ = await stage.desk.calendar("default", 6)
    assert [(event["DTSTART"][9:11], event["STATUS"], event["SEQUENCE"]) for event in read(body)] == [
        ("08", "CONFIRMED", "2"),
        ("10", "CANCELLED", "1"),
    ]
