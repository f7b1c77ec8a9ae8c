"""What the commands of rhythm, checkpoints and registers share: the services on the machine's own database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bailiwick.cli.room import in_room

if TYPE_CHECKING:
    from bailiwick.app.assurance.rhythm import Services
    from bailiwick.app.house import House
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
