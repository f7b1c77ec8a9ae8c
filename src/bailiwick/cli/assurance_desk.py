"""The services of the assurance room for commands on the installation's machine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from bailiwick.cli.failure import FAILED, NO_DATA, USAGE, CommandFailed
from bailiwick.cli.options import existing_layout

if TYPE_CHECKING:
    from bailiwick.app.assurance.house import House
    from bailiwick.assurance.probes.runner import Probes
    from bailiwick.evidence.events import Context
    from bailiwick.kernel.db import Database
    from bailiwick.kernel.paths import Layout

T = TypeVar("T")

Zone = Annotated[str, typer.Option("--zone", help="The zone whose operating model it is.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


@dataclass(frozen=True, slots=True)
class Desk:
    """The room, and in whose name it is used."""

    house: House
    probes: Probes
    context: Context

    @property
    def database(self) -> Database:
        """The installation's database."""
        return self.house.base.database

    @property
    def operator(self) -> str:
        """Who works on the machine."""
        return self.context.actor.user


def at_desk(data_dir: Path | None, zone: str, work: Callable[[Desk], Awaitable[T]]) -> T:
    """What ``work`` answers at the room of the installation; a refusal ends the command."""
    from bailiwick.assurance.book import BadBook
    from bailiwick.kernel.errors import BailiwickError

    try:
        return asyncio.run(_work(existing_layout(data_dir), zone, work))
    except BadBook as error:
        raise CommandFailed(USAGE, "\n".join(["the documents do not hold:", *error.problems])) from None
    except BailiwickError as error:
        raise CommandFailed(NO_DATA if error.reason == "not_found" else FAILED, error.detail) from None


async def _work(layout: Layout, zone: str, work: Callable[[Desk], Awaitable[T]]) -> T:
    from prometheus_client import CollectorRegistry
    from pydantic import ValidationError

    from bailiwick.app.assurance import build_assurance
    from bailiwick.app.assurance.probes import probes_of
    from bailiwick.app.foundations import Foundations, kek_file
    from bailiwick.cli.local import clock_of, database_url
    from bailiwick.cli.recorded import by_operator
    from bailiwick.evidence.approvals import recorder_note
    from bailiwick.evidence.evidence_records import EvidenceRecords
    from bailiwick.identity.holders import holders
    from bailiwick.kernel.crypto import SealError
    from bailiwick.kernel.db import Database
    from bailiwick.kernel.ids import Ids
    from bailiwick.kernel.metrics import Metrics
    from bailiwick.kernel.quorum import Quorum
    from bailiwick.kernel.settings import Settings

    url = database_url(layout.data_dir)
    try:
        settings = Settings(data_dir=layout.data_dir)  # type: ignore[call-arg]  # the rest is from the environment
        sealer = kek_file(settings, layout).load()
    except ValidationError as error:
        raise CommandFailed(USAGE, "; ".join(str(problem["msg"]) for problem in error.errors())) from None
    except SealError as error:
        raise CommandFailed(USAGE, str(error)) from None
    recorder, context = by_operator(zone)
    clock, ids, database = clock_of(layout), Ids(), Database(url, pool_size=2)
    base = Foundations(settings, layout, clock, ids, sealer, database, url, recorder, Metrics(CollectorRegistry()))
    try:
        async with database.begin() as tx:
            if not await tx.value("SELECT 1 FROM zones WHERE name = :zone", zone=zone):
                raise CommandFailed(NO_DATA, f"there is no zone {zone}")
        quorum = Quorum(database, clock, ids, recorder_note(recorder), holders, [])
        house = build_assurance(base, quorum, EvidenceRecords(clock, recorder)).house
        return await work(Desk(house, probes_of(house), context))
    finally:
        await database.close()
