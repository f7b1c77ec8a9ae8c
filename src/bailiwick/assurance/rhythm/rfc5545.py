"""The calendar of a zone as iCalendar (RFC 5545): every date by itself, in UTC, so that no reader has to know a rule.

The text depends on the definitions and the day it is asked on, not on the moment: the same calendar is the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

LINE_OCTETS = 75


@dataclass(frozen=True, slots=True)
class Entry:
    """One date. ``uid`` never changes; ``sequence`` grows with the definition, put in force at ``stamp``."""

    uid: str
    sequence: int
    stamp: datetime
    starts_at: datetime
    ends_at: datetime
    summary: str
    description: str
    category: str
    cancelled: bool = False
    notice_min: Sequence[int] = ()


def calendar(name: str, entries: Iterable[Entry]) -> bytes:
    """The calendar, in the order in which the dates come."""
    lines = [
        "BEGIN:VCALENDAR",
        "VERSION:2.0",
        "PRODID:-//Bailiwick//Rhythm//EN",
        "CALSCALE:GREGORIAN",
        "METHOD:PUBLISH",
        f"NAME:{escaped(name)}",
        f"X-WR-CALNAME:{escaped(name)}",
    ]
    for entry in sorted(entries, key=lambda each: (each.starts_at, each.uid)):
        lines += _event(entry)
    lines.append("END:VCALENDAR")
    return "".join(f"{folded(line)}\r\n" for line in lines).encode()


def _event(entry: Entry) -> list[str]:
    lines = [
        "BEGIN:VEVENT",
        f"UID:{escaped(entry.uid)}",
        f"DTSTAMP:{stamp(entry.stamp)}",
        f"SEQUENCE:{entry.sequence}",
        f"DTSTART:{stamp(entry.starts_at)}",
        f"DTEND:{stamp(entry.ends_at)}",
        f"SUMMARY:{escaped(entry.summary)}",
        f"DESCRIPTION:{escaped(entry.description)}",
        f"CATEGORIES:{escaped(entry.category)}",
        f"STATUS:{'CANCELLED' if entry.cancelled else 'CONFIRMED'}",
        "TRANSP:OPAQUE",
    ]
    if not entry.cancelled:
        for minutes in sorted(set(entry.notice_min), reverse=True):
            lines += [
                "BEGIN:VALARM",
                "ACTION:DISPLAY",
                f"DESCRIPTION:{escaped(entry.summary)}",
                f"TRIGGER:-PT{minutes}M",
                "END:VALARM",
            ]
    return [*lines, "END:VEVENT"]


def stamp(moment: datetime) -> str:
    """A UTC date-time (3.3.5, form 2)."""
    return moment.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")


def escaped(text: str) -> str:
    """TEXT (3.3.11): backslash, semicolon, comma and line ends escaped; other control characters left out."""
    clean = "".join(each for each in text.replace("\r\n", "\n") if each in "\n\t" or each.isprintable())
    return clean.replace("\\", "\\\\").replace(";", "\\;").replace(",", "\\,").replace("\n", "\\n")


def folded(line: str) -> str:
    """A content line in pieces of at most 75 octets (3.1), no character cut in two."""
    pieces: list[str] = []
    piece, size = "", 0
    for character in line:
        octets = len(character.encode("utf-8", "replace"))
        if size + octets > LINE_OCTETS:
            pieces.append(piece)
            piece, size = " ", 1
        piece += character
        size += octets
    return "\r\n".join([*pieces, piece])
