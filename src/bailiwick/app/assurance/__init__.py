"""The assurance room of an installation: its parts, what they lend each other, and what is done by the clock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import structlog

from bailiwick.app.assurance import (
    alerts,
    overrides,
    owners,
    probes,
    reconciliation,
    retention,
    rhythm,
    secrets,
    slo,
    waivers,
)
from bailiwick.app.assurance.facts import install
from bailiwick.app.foundations import Foundations
from bailiwick.app.handover import backups, canary, environments, handovers, incidents, readiness, rollouts, switches
from bailiwick.app.house import PORTS, House, Part
from bailiwick.assurance.book import Kind
from bailiwick.assurance.books import Books
from bailiwick.assurance.operations import Operation
from bailiwick.assurance.secret_rotation import Rotator
from bailiwick.assurance.shipped import shipped
from bailiwick.evidence.events import Context
from bailiwick.evidence.evidence_records import EvidenceRecords
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.errors import Unavailable
from bailiwick.kernel.jobs import JobDefinition, Jobs
from bailiwick.kernel.quorum import Quorum

PARTS = (
    waivers,
    owners,
    alerts,
    probes,
    secrets,
    switches,  # before the overrides, which do what is in it
    overrides,
    slo,
    reconciliation,
    rhythm,
    retention,
    incidents,
    backups,
    environments,
    canary,
    readiness,
    rollouts,
    handovers,  # after whatever has a chapter to write
)
"""The modules that each build a part, in the order in which that is done."""

KINDS: tuple[Kind[Any], ...] = tuple(kind for part in PARTS for kind in part.KINDS)
"""Every kind of document a book may hold."""

GROUP = "assurance"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Assurance:
    """The room as it stands in one process."""

    house: House
    parts: Sequence[Part]


def build_assurance(
    base: Foundations,
    quorum: Quorum,
    records: EvidenceRecords,
    operations: Sequence[Operation] = (),
    rotators: Mapping[str, Rotator] = MappingProxyType({}),
    mint: Callable[[str, str, str, str], Awaitable[str]] | None = None,
) -> Assurance:
    """Build every part.

    ``operations``: what overrides can do beside their own; ``rotators``: how secrets are rotated, by kind; ``mint``:
    how a canary has a mandate of (zone, application, server, scope).
    """
    books = Books(base.database, base.clock, base.recorder, quorum, KINDS)
    house = House(base, quorum, books, records, operations, rotators, mint)
    later = {port: getattr(house, port) for port in PORTS}
    install(house)
    parts = [part.build(house) for part in PARTS]
    for port, stand_in in later.items():
        stand_in.stand_for(getattr(house, port))
    return Assurance(house, parts)


async def ship(books: Books, tx: Transaction, zone: str) -> bool:
    """Put what we ship in force in a zone that never had a book, in the transaction that makes the zone."""
    return await books.ship_in(tx, Context(zone), shipped(zone))


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
