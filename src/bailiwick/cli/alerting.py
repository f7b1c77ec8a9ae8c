"""What `bailiwick alerts` and `bailiwick notices` share: the services on the machine's own database, and tables."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from bailiwick.cli.failure import FAILED, NO_DATA, USAGE, CommandFailed
from bailiwick.cli.ledger import WIDTH, actor_of_command, printable
from bailiwick.cli.options import existing_layout

if TYPE_CHECKING:
    from pathlib import Path

    from bailiwick.app.assurance import House
    from bailiwick.app.assurance.alerts import Alerting
    from bailiwick.evidence.events import Context

T = TypeVar("T")

Use = Callable[["House", "Alerting", "Context"], Awaitable[T]]


def with_alerting(data_dir: Path | None, zone: str, use: Use[T]) -> T:
    """Run with the services of the installation at ``data_dir``, in the name of the system account."""
    layout = existing_layout(data_dir)

    async def run() -> T:
        from prometheus_client import CollectorRegistry

        from bailiwick.app.assurance import build_assurance
        from bailiwick.app.assurance.alerts import services
        from bailiwick.app.foundations import Foundations, kek_file
        from bailiwick.cli.local import clock_of, database_url
        from bailiwick.evidence.approvals import recorder_note
        from bailiwick.evidence.events import Actor, Context, Recorder
        from bailiwick.evidence.evidence_records import EvidenceRecords
        from bailiwick.identity.holders import holders
        from bailiwick.kernel.crypto import SealError
        from bailiwick.kernel.db import Database
        from bailiwick.kernel.errors import BailiwickError, Unavailable
        from bailiwick.kernel.ids import Ids
        from bailiwick.kernel.metrics import Metrics
        from bailiwick.kernel.quorum import Quorum
        from bailiwick.kernel.settings import Settings

        settings = Settings(data_dir=layout.data_dir)  # type: ignore[call-arg]  # the rest is from the environment
        url = database_url(layout.data_dir)
        database, clock, ids = Database(url, pool_size=2), clock_of(layout), Ids()
        recorder = Recorder(clock, ids)
        try:
            sealer = kek_file(settings, layout).load()
            metrics = Metrics(CollectorRegistry(), status_file=layout.status_file)
            base = Foundations(settings, layout, clock, ids, sealer, database, url, recorder, metrics)
            quorum = Quorum(database, clock, ids, recorder_note(recorder), holders, [])
            house = build_assurance(base, quorum, EvidenceRecords(clock, recorder)).house
            return await use(house, services(house), Context(zone, Actor(user=actor_of_command())))
        except Unavailable:
            raise CommandFailed(FAILED, "the database does not answer; is the installation running?") from None
        except SealError as error:
            raise CommandFailed(USAGE, str(error)) from None
        except BailiwickError as error:
            code = NO_DATA if error.status == 404 else USAGE if error.status in (400, 422) else FAILED
            raise CommandFailed(code, error.detail) from None
        finally:
            await database.close()

    return asyncio.run(run())


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table as wide as the terminal, or 80 columns wide where there is none."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=False)
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*(Text(told(cell)) for cell in row))
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDTH, highlight=False).print(shown)


def told(value: Any) -> str:
    """A value for people."""
    from datetime import datetime

    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.strftime("%m-%d %H:%M")
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(told, value))
    return printable(str(value))
