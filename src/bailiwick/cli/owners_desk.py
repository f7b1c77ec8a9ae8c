"""Owners, on-call and tasks for commands on the installation's machine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bailiwick.cli.room import in_room

if TYPE_CHECKING:
    from bailiwick.app.assurance.owners import Desk
    from bailiwick.app.house import House
    from bailiwick.evidence.events import Context
    from bailiwick.kernel.db import Transaction

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class At:
    """The services within one transaction, in whose name and when they are used."""

    desk: Desk
    tx: Transaction
    context: Context
    now: datetime

    @property
    def operator(self) -> str:
        """Who works on the machine."""
        return self.context.actor.user


def at_desk(data_dir: Path | None, zone: str, work: Callable[[At], Awaitable[T]]) -> T:
    """What ``work`` answers in a transaction of the installation's database; a refusal ends the command."""

    async def run(house: House, context: Context) -> T:
        from bailiwick.app.assurance.owners import desk_of_command

        base = house.base
        desk = desk_of_command(base.database, base.clock, base.recorder, tuple(house.books.kinds.values()))
        async with base.database.begin() as tx:
            return await work(At(desk, tx, context, base.clock.now()))

    return in_room(data_dir, zone, run)
