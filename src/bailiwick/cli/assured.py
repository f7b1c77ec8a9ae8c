"""What the commands of rhythm, checkpoints and registers share: the services on the machine's own database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bailiwick.cli.failure import USAGE, CommandFailed
from bailiwick.cli.room import in_room

if TYPE_CHECKING:
    from datetime import datetime

    from bailiwick.app.assurance.house import House
    from bailiwick.app.assurance.rhythm import Services
    from bailiwick.evidence.events import Context

T = TypeVar("T")


def at_desk(
    data_dir: Path | None, zone: str, work: Callable[[Services, Context], Awaitable[T]], *, url: str | None = None
) -> T:
    """Do ``work`` with the services of an installation, in the name of whoever uses its machine."""

    async def run(house: House, context: Context) -> T:
        from bailiwick.app.assurance.rhythm import services

        return await work(services(house), context)

    return in_room(data_dir, zone, run, url=url)


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
