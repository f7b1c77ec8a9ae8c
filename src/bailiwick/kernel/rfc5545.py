"""Calendars as RFC 5545 writes them: content lines of at most 75 octets, escaped texts, instants in UTC."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

MEDIA_TYPE = "text/calendar; charset=utf-8"
_LONGEST = 75
# what TEXT (§3.3.11) cannot hold: every control character but the line feed, which is written \n
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class CalendarEvent:
    """Something from ``begins`` to ``ends``. ``uid`` stays as long as it is the same thing; ``stamp`` is when it was
    last changed, ``sequence`` grows with every change (§3.8.7.4). ``alarm_min``: minutes before, to be reminded at."""

    uid: str
    begins: datetime
    ends: datetime
    summary: str
    stamp: datetime
    description: str = ""
    url: str = ""
    busy: bool = True
    sequence: int = 0
    category: str = ""
    cancelled: bool = False
    alarm_min: Sequence[int] = ()


def calendar(name: str, events: Iterable[CalendarEvent]) -> str:
    """The whole calendar as text, with the line ends that belong there, in the order in which the dates come."""
    lines = [
        "BEGIN:VCALENDAR",
        "VERSION:2.0",
        "PRODID:-//Bailiwick//Bailiwick//EN",
        "CALSCALE:GREGORIAN",
        "METHOD:PUBLISH",
        f"NAME:{escaped(name)}",
        f"X-WR-CALNAME:{escaped(name)}",
    ]
    for event in sorted(events, key=lambda each: (each.begins, each.uid)):
        lines += _event(event)
    lines.append("END:VCALENDAR")
    return "".join(f"{folded(line)}\r\n" for line in lines)


def escaped(text: str) -> str:
    """A TEXT value (§3.3.11): backslashes, semicolons, commas and line ends written so that they stay what they are."""
    text = _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return text.replace("\\", "\\\\").replace(";", "\\;").replace(",", "\\,").replace("\n", "\\n")


def folded(line: str) -> str:
    """A content line in pieces of at most 75 octets (§3.1), none of which ends within a character."""
    pieces, piece, size = [], "", 0
    for character in line:
        octets = len(character.encode())
        if size + octets > _LONGEST:
            pieces.append(piece)
            piece, size = " ", 1
        piece += character
        size += octets
    return "\r\n".join([*pieces, piece])


def instant(moment: datetime) -> str:
    """A date-time in UTC (§3.3.5, form 2)."""
    return moment.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")


def _event(event: CalendarEvent) -> list[str]:
    lines = [
        "BEGIN:VEVENT",
        f"UID:{escaped(event.uid)}",
        f"DTSTAMP:{instant(event.stamp)}",
        f"SEQUENCE:{event.sequence}",
        f"DTSTART:{instant(event.begins)}",
        f"DTEND:{instant(event.ends)}",
        f"SUMMARY:{escaped(event.summary)}",
    ]
    if event.description:
        lines.append(f"DESCRIPTION:{escaped(event.description)}")
    if event.url:
        lines.append(f"URL:{_CONTROL.sub('', event.url.replace(chr(10), ''))}")
    if event.category:
        lines.append(f"CATEGORIES:{escaped(event.category)}")
    lines += [
        f"STATUS:{'CANCELLED' if event.cancelled else 'CONFIRMED'}",
        f"TRANSP:{'OPAQUE' if event.busy else 'TRANSPARENT'}",
    ]
    if not event.cancelled:
        for minutes in sorted(set(event.alarm_min), reverse=True):
            lines += _alarm(event.summary, minutes)
    return [*lines, "END:VEVENT"]


def _alarm(summary: str, minutes: int) -> list[str]:
    return [
        "BEGIN:VALARM",
        "ACTION:DISPLAY",
        f"DESCRIPTION:{escaped(summary)}",
        f"TRIGGER:-PT{minutes}M",
        "END:VALARM",
    ]
