"""Wiring of the book's surfaces, the thresholds, the probes and the dead-man switch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from bailiwick.app.foundations import Foundations
from bailiwick.app.house import House, Part
from bailiwick.app.siem import reach_of, reach_with_api_of
from bailiwick.assurance import book_api
from bailiwick.assurance.book import Kind
from bailiwick.assurance.dead_man import DeadMan
from bailiwick.assurance.probes import api as probes_api
from bailiwick.assurance.probes.internal import internals
from bailiwick.assurance.probes.means import Means
from bailiwick.assurance.probes.runner import Probes
from bailiwick.assurance.probes.spec import PROBE
from bailiwick.assurance.thresholds import THRESHOLD
from bailiwick.inventory.resolver import Resolver
from bailiwick.kernel.metrics import parts_began

KINDS: tuple[Kind[Any], ...] = (THRESHOLD, PROBE)


def build(house: House) -> Part:
    """The part. Connects to nothing yet."""
    base = house.base
    probes = probes_of(house)
    dead_man = DeadMan(base.database, base.clock, base.recorder, house.alerts)
    return Part(
        routers=lambda: (
            book_api.routes(base.database, house.books),
            probes_api.routes(base.database, probes, house.books),
        ),
        scheduled=probes.scheduled,
        watches={"jobs that are silent": dead_man.watch},
    )


def probes_of(house: House) -> Probes:
    """The probe runner."""
    base = house.base
    return Probes(
        base.database, base.clock, base.ids, base.recorder, house.books, house.records, house.alerts, means_of(base)
    )


def means_of(base: Foundations) -> Means:
    """What probes of this installation may reach, read and run."""
    settings = base.settings
    return Means(
        reach=reach_of(Resolver(base.database, base.clock, base.recorder, settings)),
        clock=base.clock,
        own_database=base.direct_url,
        logs=base.layout.logs,
        files=(*settings.probe_files, base.layout.logs),
        programs=settings.probe_programs,
        internals=internals(
            base.database,
            base.clock,
            lambda: figures(base.layout.metrics),
            lambda: pending(base.direct_url),
            settings.tls_cert,
            lambda: parts_began(base.layout.status_file),
        ),
    )


def means_with_api_of(base: Foundations) -> Means:
    """What checks of environments may reach beside that: our own API."""
    return replace(
        means_of(base), reach=reach_with_api_of(Resolver(base.database, base.clock, base.recorder, base.settings))
    )


def figures(directory: Path) -> Mapping[str, Sequence[float]]:
    """Every sample that the processes of this machine share, by its name."""
    found: dict[str, list[float]] = defaultdict(list)
    if directory.is_dir():
        for family in MultiProcessCollector(CollectorRegistry(), path=str(directory)).collect():  # type: ignore[no-untyped-call]
            for sample in family.samples:
                found[sample.name].append(sample.value)
    return found


def pending(url: str) -> Sequence[str]:
    """The migrations that have not been run."""
    from bailiwick.kernel.migrate import status  # Alembic is needed here alone

    return status(url).pending
