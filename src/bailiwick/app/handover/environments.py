"""Environments, validation, hypercare and the registers of a handover as an installation has them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import bailiwick
from bailiwick.app.assurance.probes import figures, means_with_api_of
from bailiwick.app.handover.incidents import Known
from bailiwick.app.house import House, Part
from bailiwick.assurance.book import Kind
from bailiwick.assurance.checkpoints.golive import GoLives
from bailiwick.assurance.environment_states import STAGES
from bailiwick.assurance.notices.notices import Outbox
from bailiwick.assurance.probes.means import Internal
from bailiwick.assurance.probes.runner import Probes
from bailiwick.assurance.registers import Registers
from bailiwick.evidence.events import Context
from bailiwick.handover.environments import api, spec
from bailiwick.handover.environments.chapters import EnvironmentChapter, ValidationChapter
from bailiwick.handover.environments.clockwork import EnvironmentClock
from bailiwick.handover.environments.hypercare import Hypercare
from bailiwick.handover.environments.looks import looks
from bailiwick.handover.environments.measuring import Measurer
from bailiwick.handover.environments.states import EnvironmentStates
from bailiwick.handover.environments.validation import Validation
from bailiwick.handover.ports import Environment, Standing
from bailiwick.handover.registers import api as registers_api
from bailiwick.handover.registers.announcements import ANNOUNCEMENT_TEMPLATE, Announcements, AnnouncementsChapter
from bailiwick.handover.registers.documents import Documents, DocumentsChapter, own_folder
from bailiwick.handover.registers.known_issues import KnownIssues, KnownIssuesChapter
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.jobs import JobDefinition
from bailiwick.kernel.metrics import part_restarts

KINDS: tuple[Kind[Any], ...] = (*spec.KINDS, ANNOUNCEMENT_TEMPLATE)

EVERY = timedelta(minutes=1)
TIMEOUT_S = 900.0


class OperatingStates:
    """The port ``Environments``, with the last step, which is the handover's."""

    def __init__(self, states: EnvironmentStates, hypercare: Hypercare) -> None:
        self._states = states
        self._hypercare = hypercare

    async def get(self, tx: Transaction, zone: str, name: str) -> Environment | None:
        """It as it stands; None where nobody declared it."""
        return await self._states.get(tx, zone, name)

    async def went_live(self, tx: Transaction, context: Context, name: str, digest: str, rollout: str) -> None:
        """A rollout of ``digest`` is done."""
        await self._states.went_live(tx, context, name, digest, rollout)

    async def hypercare(self, tx: Transaction, zone: str, name: str) -> Standing:
        """Whether hypercare may end."""
        return await self._hypercare.standing(tx, zone, name)

    async def handed_over(self, tx: Transaction, context: Context, name: str, pack_hash: str) -> None:
        """The handover is accepted by the pack of that hash. Raises ``illegal_transition`` unless in hypercare."""
        await self._states.handed_over(tx, context, name, pack_hash)


@dataclass(frozen=True, slots=True)
class Services:
    """What the part does, for its routes, its jobs and its commands."""

    states: EnvironmentStates
    validation: Validation
    hypercare: Hypercare
    clockwork: EnvironmentClock
    registers: Registers
    known_issues: KnownIssues
    documents: Documents
    announcements: Announcements


def services(house: House) -> Services:
    """Build them."""
    base = house.base
    shared = (base.database, base.clock)
    states = EnvironmentStates(
        *shared, base.recorder, house.books, house.quorum, GoLives(*shared, base.recorder, house.quorum)
    )
    measurer = Measurer(probes_of(house), {"api": base.settings.issuer})
    validation = Validation(
        *shared, base.ids, base.recorder, house.books, house.records, states, measurer, house.alerts, house.waivers
    )
    hypercare = Hypercare(
        *shared, base.recorder, house.books, house.records, states, measurer, house.alerts, house.waivers,
        house.open_incidents,
    )  # fmt: skip
    registers = Registers(*shared, base.recorder, house.records)
    folder = base.settings.documents_dir or own_folder(Path(bailiwick.__file__).parent)
    return Services(
        states,
        validation,
        hypercare,
        EnvironmentClock(base.database, house.books, states, validation, hypercare),
        registers,
        KnownIssues(base.database, house.books, registers),
        Documents(*shared, base.recorder, house.records, registers, house.alerts, folder),
        Announcements(
            *shared, base.ids, base.recorder, house.books, house.notices, Outbox(*shared, base.ids, base.recorder)
        ),
    )


def probes_of(house: House) -> Probes:
    """The probe runner, with the looks that only this part can make."""
    base = house.base
    internals: dict[str, Internal] = {}
    means = means_with_api_of(base)
    internals.update(means.internals)
    means = dataclasses.replace(means, internals=internals)
    internals.update(
        looks(
            means,
            base.database,
            house.books,
            Known(),
            house.rollouts,
            house.open_incidents,
            lambda: figures(base.layout.metrics),
            lambda: part_restarts(base.layout.status_file),
        )
    )
    return Probes(base.database, base.clock, base.ids, base.recorder, house.books, house.records, house.alerts, means)


def build(house: House) -> Part:
    """The part. It stands on probes, alerts, waivers, and on what is known of incidents and rollouts."""
    base, made = house.base, services(house)
    house.environments = OperatingStates(made.states, made.hypercare)
    house.notebook = made.announcements
    house.chapters["environment"] = EnvironmentChapter(made.states)
    house.chapters["validation"] = ValidationChapter(made.states, made.validation, made.hypercare)
    house.chapters["known-issues"] = KnownIssuesChapter(base.clock)
    house.chapters["documents"] = DocumentsChapter(made.documents)
    house.chapters["announcements"] = AnnouncementsChapter(made.announcements)

    async def keep_environments(due_at: datetime) -> dict[str, int]:
        return await made.clockwork.keep()

    async def check_documents(due_at: datetime) -> dict[str, int]:
        return await made.documents.keep()

    return Part(
        routers=lambda: [
            api.routes(base.database, made.states, made.validation, made.hypercare),
            registers_api.routes(base.database, base.clock, made.known_issues, made.documents, made.announcements),
        ],
        jobs=[
            JobDefinition("environments:keep", EVERY, keep_environments, timeout_s=TIMEOUT_S),
            JobDefinition("documents:check", "17 5 * * *", check_documents, grace=timedelta(hours=12)),
        ],
        machines=[STAGES],
    )
