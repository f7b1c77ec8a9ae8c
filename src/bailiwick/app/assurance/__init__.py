"""The assurance room of an installation: its parts, what they lend each other, and what is done by the clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from fastapi import APIRouter

from bailiwick.app.assurance import alerts
from bailiwick.app.assurance.unheard import Unheard
from bailiwick.app.foundations import Foundations
from bailiwick.assurance.book import Book, Kind
from bailiwick.assurance.books import Books
from bailiwick.assurance.ports import Alerts, Notices, OnCall, Owners, Tasks, Verdicts, Waivers
from bailiwick.evidence.evidence_records import EvidenceRecords
from bailiwick.kernel.crypto import Sealer
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.errors import Unavailable
from bailiwick.kernel.jobs import JobDefinition, Jobs
from bailiwick.kernel.machine import Machine
from bailiwick.kernel.quorum import Quorum

KINDS: tuple[Kind[Any], ...] = (*alerts.KINDS,)
"""Every kind of document a book may hold. A part adds its own."""

GROUP = "assurance"

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class House:
    """What a part may use. Parts are built in the order in which they stand on each other."""

    base: Foundations
    quorum: Quorum
    books: Books
    records: EvidenceRecords
    alerts: Alerts
    notices: Notices
    owners: Owners
    tasks: Tasks
    waivers: Waivers
    on_call: OnCall
    verdicts: Verdicts
    on_sealer: list[Callable[[Sealer], None]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Part:
    """What a part adds: routes to the API; to the work role its jobs, those that the book of a zone asks for, and
    loops; state machines for the detector of what is stuck."""

    routers: Sequence[APIRouter] = ()
    jobs: Sequence[JobDefinition] = ()
    scheduled: Callable[[str, Book], Iterable[JobDefinition]] = lambda zone, book: ()
    loops: Mapping[str, Callable[[], Coroutine[Any, Any, None]]] = field(default_factory=dict)
    machines: Sequence[Machine] = ()


@dataclass(frozen=True, slots=True)
class Assurance:
    """The room as it stands in one process."""

    house: House
    parts: Sequence[Part]


def build_assurance(base: Foundations, quorum: Quorum, records: EvidenceRecords) -> Assurance:
    """Build every part, each upon those before it."""
    books = Books(base.database, base.clock, base.recorder, quorum, KINDS)
    unheard = Unheard()
    house = House(base, quorum, books, records, unheard, unheard, unheard, unheard, unheard, unheard, unheard)
    parts: list[Part] = [alerts.build(house)]
    return Assurance(house, parts)


async def keep_scheduled(jobs: Jobs, assurance: Assurance) -> None:
    """Let ``jobs`` run what the books of all zones ask for, as they change."""
    seen: list[tuple[str, int]] | None = None
    while True:
        try:
            async with assurance.house.base.database.begin() as tx:
                rows = await tx.all(_REVISIONS)
                standing = [(row["zone"], row["revision"]) for row in rows]
                if standing != seen:
                    jobs.replace(GROUP, await _scheduled(tx, assurance, [zone for zone, _ in standing]))
                    seen = standing
        except Unavailable:
            log.warning("jobs of the book stay as they are: the database does not answer")
        await asyncio.sleep(_LOOK_S)


async def _scheduled(tx: Transaction, assurance: Assurance, zones: Sequence[str]) -> list[JobDefinition]:
    found: list[JobDefinition] = []
    for zone in zones:
        book = await assurance.house.books.current(tx, zone)
        found += [each for part in assurance.parts for each in part.scheduled(zone, book)]
    return found


_LOOK_S = 2.0
_REVISIONS = """
SELECT name AS zone, (SELECT coalesce(max(revision), 0) FROM assurance_documents d WHERE d.zone = z.name) AS revision
FROM zones z ORDER BY name
"""
