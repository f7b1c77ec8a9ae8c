"""The assurance room for commands on the machine of an installation: its services on that database, and refusals."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bailiwick.cli.failure import FAILED, NO_DATA, USAGE, CommandFailed
from bailiwick.cli.options import existing_layout

if TYPE_CHECKING:
    from bailiwick.app.house import House
    from bailiwick.evidence.events import Context
    from bailiwick.kernel.paths import Layout

T = TypeVar("T")


def in_room(
    data_dir: Path | None, zone: str, work: Callable[[House, Context], Awaitable[T]], *, url: str | None = None
) -> T:
    """What ``work`` answers, done in the name of whoever uses the machine; a refusal ends the command.

    ``url``: the database, where it is not the installation's own.
    """
    import structlog

    from bailiwick.assurance.book import BadBook
    from bailiwick.kernel.errors import BailiwickError, Unavailable

    layout = existing_layout(data_dir)
    # what a command prints is its answer, for programs too
    structlog.configure(logger_factory=lambda *names: structlog.PrintLogger(sys.stderr))
    try:
        return asyncio.run(_work(layout, zone, work, url))
    except BadBook as error:
        raise CommandFailed(USAGE, "\n".join(["the documents do not hold:", *error.problems])) from None
    except Unavailable:
        raise CommandFailed(FAILED, "the database does not answer; is the installation running?") from None
    except BailiwickError as error:
        code = NO_DATA if error.status == 404 else USAGE if error.status in {400, 422} else FAILED
        more = "".join(f"\n  {name}: {value}" for name, value in error.extra.items())
        raise CommandFailed(code, f"{error.reason}: {error.detail}{more}") from None


async def _work(layout: Layout, zone: str, work: Callable[[House, Context], Awaitable[T]], url: str | None) -> T:
    from prometheus_client import CollectorRegistry
    from pydantic import ValidationError

    from bailiwick.app.archive import build_archive
    from bailiwick.app.assurance import build_assurance
    from bailiwick.app.foundations import Foundations, kek_file
    from bailiwick.cli.local import clock_of, database_url
    from bailiwick.cli.recorded import by_operator
    from bailiwick.evidence.events import Recorder
    from bailiwick.evidence.evidence_records import EvidenceRecords
    from bailiwick.kernel.crypto import SealError
    from bailiwick.kernel.db import Database
    from bailiwick.kernel.ids import Ids
    from bailiwick.kernel.metrics import Metrics
    from bailiwick.kernel.settings import Settings

    address = url or database_url(layout.data_dir)
    try:
        settings = Settings(data_dir=layout.data_dir)  # type: ignore[call-arg]  # the rest is from the environment
        sealer = kek_file(settings, layout).load()
    except ValidationError as error:
        raise CommandFailed(USAGE, "; ".join(str(problem["msg"]) for problem in error.errors())) from None
    except SealError as error:
        raise CommandFailed(USAGE, str(error)) from None
    clock, ids, database = clock_of(layout), Ids(), Database(address, pool_size=3)
    recorder, metrics = Recorder(clock, ids), Metrics(CollectorRegistry(), status_file=layout.status_file)
    try:
        async with database.begin() as tx:
            if not await tx.value("SELECT 1 FROM zones WHERE name = :zone", zone=zone):
                raise CommandFailed(NO_DATA, f"there is no zone {zone}")
        base = Foundations(settings, layout, clock, ids, sealer, database, address, recorder, metrics)
        quorum = build_archive(settings, layout, database, clock, ids, recorder).quorum
        house = build_assurance(base, quorum, EvidenceRecords(clock, recorder)).house
        return await work(house, by_operator(layout, zone)[1])
    finally:
        await database.close()
