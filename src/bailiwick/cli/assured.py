"""What the commands of rhythm, checkpoints and registers share: the services on the machine's own database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bailiwick.cli.failure import FAILED, NO_DATA, USAGE, CommandFailed
from bailiwick.cli.options import existing_layout

if TYPE_CHECKING:
    from datetime import datetime

    from bailiwick.app.assurance.rhythm import Services
    from bailiwick.evidence.events import Context
    from bailiwick.kernel.paths import Layout

T = TypeVar("T")


def at_desk(
    data_dir: Path | None, zone: str, work: Callable[[Services, Context], Awaitable[T]], *, url: str | None = None
) -> T:
    """Do ``work`` with the services of an installation, in the name of whoever uses its machine."""
    import asyncio
    import sys

    import structlog

    from bailiwick.kernel.errors import BailiwickError, Unavailable

    layout = existing_layout(data_dir)
    # what a command prints is its answer, for programs too
    structlog.configure(logger_factory=lambda *names: structlog.PrintLogger(sys.stderr))
    try:
        return asyncio.run(_work(layout, zone, work, url))
    except Unavailable:
        raise CommandFailed(FAILED, "the database does not answer; is the installation running?") from None
    except BailiwickError as error:
        code = NO_DATA if error.status == 404 else USAGE if error.status in {400, 422} else FAILED
        more = ", ".join(f"{name}: {value}" for name, value in error.extra.items())
        raise CommandFailed(code, f"{error.reason}: {error.detail}{f' ({more})' if more else ''}") from None


async def _work(layout: Layout, zone: str, work: Callable[[Services, Context], Awaitable[T]], url: str | None) -> T:
    from prometheus_client import CollectorRegistry

    from bailiwick.app.assurance import build_assurance
    from bailiwick.app.assurance.rhythm import services
    from bailiwick.app.foundations import Foundations, kek_file
    from bailiwick.cli.local import clock_of, database_url
    from bailiwick.cli.recorded import by_operator
    from bailiwick.evidence.approvals import recorder_note
    from bailiwick.evidence.events import Recorder
    from bailiwick.evidence.evidence_records import EvidenceRecords
    from bailiwick.identity.holders import holders
    from bailiwick.kernel.db import Database
    from bailiwick.kernel.ids import Ids
    from bailiwick.kernel.metrics import Metrics
    from bailiwick.kernel.quorum import Quorum
    from bailiwick.kernel.settings import Settings

    clock, ids = clock_of(layout), Ids()
    address = url or database_url(layout.data_dir)
    database = Database(address, pool_size=3)
    try:
        settings = Settings(data_dir=layout.data_dir)  # type: ignore[call-arg]  # the rest is from the environment
        recorder = Recorder(clock, ids)
        base = Foundations(
            settings,
            layout,
            clock,
            ids,
            kek_file(settings, layout).load(),
            database,
            address,
            recorder,
            Metrics(CollectorRegistry()),
        )
        quorum = Quorum(database, clock, ids, recorder_note(recorder), holders, [])
        house = build_assurance(base, quorum, EvidenceRecords(clock, recorder)).house
        return await work(services(house), by_operator(zone)[1])
    finally:
        await database.close()


def moment(text: str | None) -> datetime | None:
    """An instant, as RFC 3339 with an offset; ends the command for anything else."""
    from datetime import datetime

    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise CommandFailed(USAGE, f"{text!r} is no time: write 2026-02-01T09:00:00Z")
    return found


def cut(text: str, width: int) -> str:
    """A text in at most ``width`` columns, and nothing that a terminal would act on."""
    from bailiwick.cli.ledger import printable

    clean = printable(text)
    return clean if len(clean) <= width else clean[: width - 1] + "…"
