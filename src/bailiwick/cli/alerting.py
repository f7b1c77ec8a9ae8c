"""What `bailiwick alerts` and `bailiwick notices` share: the services on the machine's own database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from bailiwick.cli.room import in_room

if TYPE_CHECKING:
    from pathlib import Path

    from bailiwick.app.assurance.alerts import Alerting
    from bailiwick.app.house import House
    from bailiwick.evidence.events import Context

T = TypeVar("T")

Use = Callable[["House", "Alerting", "Context"], Awaitable[T]]


def with_alerting(data_dir: Path | None, zone: str, use: Use[T]) -> T:
    """Run with the services of the installation at ``data_dir``, in the name of the system account."""

    async def run(house: House, context: Context) -> T:
        from bailiwick.app.assurance.alerts import services

        return await use(house, services(house), context)

    return in_room(data_dir, zone, run)
