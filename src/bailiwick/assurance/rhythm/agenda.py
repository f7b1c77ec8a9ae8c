"""Which dates stand in a zone's calendar: those written down, and those that the definitions will make."""

from __future__ import annotations

from datetime import datetime, timedelta

from bailiwick.assurance.book import Book, Document
from bailiwick.assurance.checkpoints.golive import newest_go_lives
from bailiwick.assurance.durations import span
from bailiwick.assurance.rhythm import occurrences as dates
from bailiwick.assurance.rhythm.ceremonies import CEREMONY, Ceremony, in_force, occurrences
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.rfc5545 import CalendarEvent, instant

PAST = timedelta(days=31)


async def entries(tx: Transaction, zone: str, book: Book, now: datetime, days: int) -> list[CalendarEvent]:
    """From a month before the day of ``now`` to ``days`` after it."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    since, until = midnight - PAST, midnight + timedelta(days=days)
    lives = await newest_go_lives(tx, zone)
    found: dict[tuple[str, datetime], CalendarEvent] = {}
    for name, ceremony in in_force(book).items():
        document = book.documents[(CEREMONY.name, name)]
        live = lives.get(ceremony.platform)
        begun = max(since, document.applied_at or since, live.first_recorded_at if live is not None else since)
        for start in occurrences(ceremony, begun, until, live.at if live is not None else None):
            found[name, start] = _entry(zone, name, ceremony, document, start)
    for each in await dates.listed(tx, zone, since=since, until=until, limit=10_000):
        ceremony_now = in_force(book).get(each.ceremony)
        if (each.ceremony, each.starts_at) in found:
            continue
        title = ceremony_now.title if ceremony_now is not None else each.ceremony
        found[each.ceremony, each.starts_at] = CalendarEvent(
            _uid(zone, each.ceremony, each.starts_at),
            each.starts_at,
            each.ends_at,
            title,
            each.created_at,
            f"State: {each.state}",
            sequence=int(each.made_by.partition("/")[0]),
            category="ceremony",
            cancelled=each.state == "cancelled",
        )
    return list(found.values())


def _entry(zone: str, name: str, ceremony: Ceremony, document: Document, start: datetime) -> CalendarEvent:
    told = [*ceremony.agenda]
    if ceremony.roles:
        told.append(f"Must be there: {', '.join(ceremony.roles)}")
    told.append(f"Answers for it: {ceremony.owner}")
    return CalendarEvent(
        _uid(zone, name, start),
        start,
        start + span(ceremony.duration),
        ceremony.title,
        document.applied_at or start,
        "\n".join(told),
        sequence=document.version,
        category="ceremony" if ceremony.attended else "automatic",
        alarm_min=[int(span(each).total_seconds() // 60) for each in ceremony.notice],
    )


def _uid(zone: str, ceremony: str, start: datetime) -> str:
    return f"{ceremony}.{instant(start)}.{zone}@bailiwick"
