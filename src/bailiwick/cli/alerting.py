"""What `bailiwick alerts` and `bailiwick notices` share: the services on the machine's own database, and tables."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from bailiwick.cli.ledger import WIDTH, printable
from bailiwick.cli.room import in_room

if TYPE_CHECKING:
    from pathlib import Path

    from bailiwick.app.assurance.alerts import Alerting
    from bailiwick.app.assurance.house import House
    from bailiwick.evidence.events import Context

T = TypeVar("T")

Use = Callable[["House", "Alerting", "Context"], Awaitable[T]]


def with_alerting(data_dir: Path | None, zone: str, use: Use[T]) -> T:
    """Run with the services of the installation at ``data_dir``, in the name of the system account."""

    async def run(house: House, context: Context) -> T:
        from bailiwick.app.assurance.alerts import services

        return await use(house, services(house), context)

    return in_room(data_dir, zone, run)


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
