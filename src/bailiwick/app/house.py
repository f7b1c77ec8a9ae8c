"""What a part of the assurance room may use, and what it adds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fastapi import APIRouter

from bailiwick.app.following import Follows
from bailiwick.app.foundations import Foundations
from bailiwick.assurance.book import Book
from bailiwick.assurance.books import Books
from bailiwick.assurance.operations import Operation
from bailiwick.assurance.overrides import Overrides
from bailiwick.assurance.ports import (
    Alerts,
    Automatic,
    Belongings,
    CapacityFacts,
    DrillFacts,
    Notices,
    OnCall,
    Owners,
    Runs,
    SloFacts,
    Tasks,
    Verdicts,
    WaiverFacts,
    Waivers,
)
from bailiwick.assurance.secret_rotation import Rotator
from bailiwick.evidence.evidence_records import EvidenceRecords
from bailiwick.handover.ports import (
    Canaries,
    Chapter,
    Environments,
    Notebook,
    OpenIncidents,
    Readiness,
    Rollouts,
    Weights,
)
from bailiwick.kernel.crypto import Sealer
from bailiwick.kernel.jobs import JobDefinition
from bailiwick.kernel.machine import Machine
from bailiwick.kernel.quorum import Quorum


class Later:
    """Stands for a port until all parts are built: parts need each other, and one has to be built first."""

    def __init__(self, port: str) -> None:
        self._port = port
        self._target: Any = None

    def stand_for(self, target: Any) -> None:
        """From now on be ``target``. Raises ValueError when no part implements the port."""
        if target is self:
            raise ValueError(f"no part is the {self._port}")
        self._target = target

    def __getattr__(self, name: str) -> Any:
        if self._target is None:
            raise AttributeError(f"{self._port} was used before the room was built")
        return getattr(self._target, name)


PORTS = (
    "alerts",
    "notices",
    "owners",
    "tasks",
    "waivers",
    "on_call",
    "verdicts",
    "runs",
    "waiver_facts",
    "drill_facts",
    "slo_facts",
    "capacity_facts",
    "environments",
    "notebook",
    "canaries",
    "weights",
    "readiness",
    "rollouts",
    "open_incidents",
)


def _later(port: str) -> Any:
    return Later(port)


@dataclass(slots=True)
class House:
    """What a part may use. A part puts what implements a port in its place while it is built."""

    base: Foundations
    quorum: Quorum
    books: Books
    records: EvidenceRecords
    operations: Sequence[Operation] = ()  # what overrides can do with services of other rooms
    rotators: Mapping[str, Rotator] = field(default_factory=dict)  # how secrets are rotated, by kind
    mint: Callable[[str, str, str, str], Awaitable[str]] | None = None  # a mandate for a canary, of API workers
    overrides: Overrides | None = None  # once that part is built
    automatic: dict[str, Automatic] = field(default_factory=dict)  # parts of ceremonies, by name
    belongings: list[Belongings] = field(default_factory=list)  # what `owners check` asks
    on_sealer: list[Callable[[Sealer], None]] = field(default_factory=list)
    alerts: Alerts = field(default_factory=partial(_later, "alerts"))
    notices: Notices = field(default_factory=partial(_later, "notices"))
    owners: Owners = field(default_factory=partial(_later, "owners"))
    tasks: Tasks = field(default_factory=partial(_later, "tasks"))
    waivers: Waivers = field(default_factory=partial(_later, "waivers"))
    on_call: OnCall = field(default_factory=partial(_later, "on_call"))
    verdicts: Verdicts = field(default_factory=partial(_later, "verdicts"))
    runs: Runs = field(default_factory=partial(_later, "runs"))
    waiver_facts: WaiverFacts = field(default_factory=partial(_later, "waiver_facts"))
    drill_facts: DrillFacts = field(default_factory=partial(_later, "drill_facts"))
    slo_facts: SloFacts = field(default_factory=partial(_later, "slo_facts"))
    capacity_facts: CapacityFacts = field(default_factory=partial(_later, "capacity_facts"))
    chapters: dict[str, Chapter] = field(default_factory=dict)  # of handover packs, by name
    readiness: Readiness = field(default_factory=partial(_later, "readiness"))
    canaries: Canaries = field(default_factory=partial(_later, "canaries"))
    open_incidents: OpenIncidents = field(default_factory=partial(_later, "open_incidents"))
    environments: Environments = field(default_factory=partial(_later, "environments"))
    rollouts: Rollouts = field(default_factory=partial(_later, "rollouts"))
    weights: Weights = field(default_factory=partial(_later, "weights"))
    notebook: Notebook = field(default_factory=partial(_later, "notebook"))


@dataclass(frozen=True, slots=True)
class Part:
    """What a part adds: routes to the API, made when it is served; to the work role its jobs, those that the book of a
    zone asks for, which of them follow a change of the feed at once, and loops; to every serve worker what it watches;
    state machines for the detector of what is stuck.
    """

    routers: Callable[[], Sequence[APIRouter]] = tuple
    jobs: Sequence[JobDefinition] = ()
    scheduled: Callable[[str, Book], Iterable[JobDefinition]] = lambda zone, book: ()
    follows: Follows = field(default_factory=dict)
    loops: Mapping[str, Callable[[], Coroutine[Any, Any, None]]] = field(default_factory=dict)
    watches: Mapping[str, Callable[[], Coroutine[Any, Any, None]]] = field(default_factory=dict)
    machines: Sequence[Machine] = ()
