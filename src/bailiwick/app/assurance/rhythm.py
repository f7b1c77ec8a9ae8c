"""Rhythm, checkpoints and registers as an installation has them."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from bailiwick import __version__
from bailiwick.app.house import House, Part
from bailiwick.assurance import registers_api
from bailiwick.assurance.book import Kind
from bailiwick.assurance.checkpoints import api as checkpoints_api
from bailiwick.assurance.checkpoints.golive import GoLives
from bailiwick.assurance.checkpoints.plans import Plans
from bailiwick.assurance.checkpoints.rules import CHECKPOINT
from bailiwick.assurance.checkpoints.service import Checkpoints, Facts
from bailiwick.assurance.registers import KNOWN_ISSUE, REVIEWED_DOCUMENT, RISK, ROADMAP_ITEM, Registers
from bailiwick.assurance.rhythm import api as rhythm_api
from bailiwick.assurance.rhythm.actions import Actions
from bailiwick.assurance.rhythm.automatic import OWN
from bailiwick.assurance.rhythm.ceremonies import CEREMONY
from bailiwick.assurance.rhythm.clockwork import Clockwork
from bailiwick.assurance.rhythm.desk import RhythmDesk
from bailiwick.assurance.rhythm.minutes import Minutes
from bailiwick.assurance.rhythm.occurrences import OCCURRENCE
from bailiwick.evidence.evidence_records import Producer
from bailiwick.identity.persons import Persons
from bailiwick.kernel.jobs import JobDefinition

KINDS: tuple[Kind[Any], ...] = (CEREMONY, CHECKPOINT, RISK, ROADMAP_ITEM, REVIEWED_DOCUMENT, KNOWN_ISSUE)

EVERY = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Services:
    """What the part does, for its routes, its jobs and its commands."""

    desk: RhythmDesk
    clockwork: Clockwork
    minutes: Minutes
    actions: Actions
    checkpoints: Checkpoints
    go_lives: GoLives
    plans: Plans
    registers: Registers


def services(house: House) -> Services:
    """Build them. What other parts put into ``house.automatic`` later is found too."""
    base = house.base
    shared = (base.database, base.clock)
    producer = Producer(host=socket.gethostname(), name="bailiwick", program="bailiwick", version=__version__)
    for name, part in OWN.items():
        house.automatic.setdefault(name, part)
    actions = Actions(*shared, base.ids, base.recorder, house.records, house.tasks)
    go_lives = GoLives(*shared, base.recorder, house.quorum)
    plans = Plans(*shared, base.ids, base.recorder, house.quorum)
    facts = Facts(house.waiver_facts, house.runs, house.drill_facts, house.slo_facts, house.capacity_facts)
    clockwork = Clockwork(
        *shared,
        base.ids,
        base.recorder,
        house.books,
        house.records,
        actions,
        house.alerts,
        house.notices,
        house.owners,
        house.automatic,
        producer,
    )
    checkpoints = Checkpoints(
        *shared, base.recorder, house.books, house.records, go_lives, plans, house.alerts, facts, producer
    )
    return Services(
        RhythmDesk(*shared, house.books),
        clockwork,
        Minutes(*shared, base.recorder, house.owners, actions, house.alerts, Persons()),
        actions,
        checkpoints,
        go_lives,
        plans,
        Registers(*shared, base.recorder, house.records),
    )


def build(house: House) -> Part:
    """The part. It stands on those that answer for alerts, notices, owners, tasks and facts."""
    made, clock = services(house), house.base.clock

    async def keep_rhythm(due_at: datetime) -> dict[str, int]:
        return await made.clockwork.keep()

    async def keep_checkpoints(due_at: datetime) -> dict[str, int]:
        return await made.checkpoints.keep()

    return Part(
        routers=lambda: [
            rhythm_api.routes(made.desk, made.clockwork, made.minutes, made.actions, clock),
            checkpoints_api.routes(made.checkpoints, made.go_lives, made.plans),
            registers_api.routes(made.registers, clock),
        ],
        jobs=[
            JobDefinition("rhythm:keep", EVERY, keep_rhythm, timeout_s=1800.0),
            JobDefinition("checkpoints:keep", EVERY, keep_checkpoints, timeout_s=1800.0),
        ],
        machines=[OCCURRENCE],
    )
