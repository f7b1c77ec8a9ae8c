"""What the commands of service levels, capacities and key figures share: the services, tables, reports."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bailiwick.cli.ledger import WIDTH
from bailiwick.cli.room import in_room

if TYPE_CHECKING:
    from rich.table import Table

    from bailiwick.app.assurance.slo import Services
    from bailiwick.app.house import House
    from bailiwick.assurance.reports import Made
    from bailiwick.evidence.events import Context
    from bailiwick.kernel.clock import Clock
    from bailiwick.kernel.db import Database

Zone = Annotated[str, typer.Option("--zone", help="The zone.")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]
Format = Annotated[str, typer.Option("--format", metavar="md|html|pdf", help="How the report is written.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the report to FILE.")]

_STYLES = {"PASS": "green", "FAIL": "bold red", "ERROR": "bold red", "STALE": "yellow", "NO_DATA": "yellow"}


@dataclass(frozen=True, slots=True)
class Desk:
    """The services of an installation, and in whose name they are used."""

    database: Database
    services: Services
    context: Context
    clock: Clock
    by: str

    @property
    def zone(self) -> str:
        """The zone that was asked for."""
        return self.context.zone


def at_desk(data_dir: Path | None, zone: str, run: Callable[[Desk], Awaitable[int]]) -> int:
    """Run with the services of the installation; the exit code. Refusals of the services end the command."""

    async def work(house: House, context: Context) -> int:
        from bailiwick.app.assurance.slo import services_of

        base = house.base
        # the metrics of all processes cannot be seen from here
        desk = Desk(base.database, services_of(house, own=None), context, base.clock, context.actor.user)
        return await run(desk)

    return in_room(data_dir, zone, work)


def table(*columns: str, right: Sequence[int] = ()) -> Table:
    """A table that fits the terminal; the last column gives way."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for place, column in enumerate(columns):
        made.add_column(column, justify="right" if place in right else "left", no_wrap=True, overflow="ellipsis")
    return made


def show(*things: Any) -> None:
    """Print tables and texts, at most 80 columns wide where this is no terminal."""
    import sys

    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False, emoji=False)
    for thing in things:
        console.print(thing, markup=False) if isinstance(thing, str) else console.print(thing)


def verdict(text: str) -> Any:
    """A verdict in its colour."""
    from rich.text import Text

    return Text(text, style=_STYLES.get(text, ""))


def hand_out(desk: Desk, made: Made, form: str, output: Path | None) -> None:
    """Write a report to a file, or to the terminal."""
    import sys

    from bailiwick.assurance.report.model import MEDIA_TYPES
    from bailiwick.cli.failure import USAGE, CommandFailed

    if form not in MEDIA_TYPES:
        raise CommandFailed(USAGE, f"there is no format {form!r}; there are {', '.join(MEDIA_TYPES)}")
    if form == "pdf" and output is None:
        raise CommandFailed(USAGE, "a PDF goes to a file: --output FILE")
    written = desk.services.register.write(made, form)  # type: ignore[arg-type]
    if output is None:
        sys.stdout.write(written.decode())
    else:
        output.write_bytes(written)
        print(f"{output}: {made.kind} {made.sha256} {made.verdict}")


def window(days: int, clock: Clock) -> tuple[Any, Any]:
    """The last whole ``days`` days, UTC."""
    from datetime import timedelta

    until = clock.now().replace(hour=0, minute=0, second=0, microsecond=0)
    return until - timedelta(days=days), until
