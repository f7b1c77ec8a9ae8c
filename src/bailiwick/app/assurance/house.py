"""What a part of the assurance room may use, and what it adds."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter

from bailiwick.app.foundations import Foundations
from bailiwick.assurance.book import Book
from bailiwick.assurance.books import Books
from bailiwick.assurance.operations import Operation
from bailiwick.assurance.ports import Alerts, Notices, Owners, Tasks, Waivers
from bailiwick.assurance.secret_rotation import Rotator
from bailiwick.evidence.evidence_records import EvidenceRecords
from bailiwick.kernel.jobs import JobDefinition
from bailiwick.kernel.machine import Machine
from bailiwick.kernel.quorum import Quorum


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
    operations: Sequence[Operation] = ()  # what overrides can do with services of other rooms
    rotators: Mapping[str, Rotator] = field(default_factory=dict)  # how secrets are rotated, by kind


@dataclass(frozen=True, slots=True)
class Part:
    """What a part adds: routes to the API; to the work role its jobs, those that the book of a zone asks for, and
    loops; state machines for the detector of what is stuck."""

    routers: Sequence[APIRouter] = ()
    jobs: Sequence[JobDefinition] = ()
    scheduled: Callable[[str, Book], Iterable[JobDefinition]] = lambda zone, book: ()
    loops: Mapping[str, Callable[[], Coroutine[Any, Any, None]]] = field(default_factory=dict)
    machines: Sequence[Machine] = ()
