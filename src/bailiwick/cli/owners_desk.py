"""Owners, on-call and tasks for commands on the installation's machine."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bailiwick.cli.failure import USAGE, CommandFailed
from bailiwick.cli.ledger import WIDTH, printable
from bailiwick.cli.room import in_room

if TYPE_CHECKING:
    from bailiwick.app.assurance.house import House
    from bailiwick.app.assurance.owners import Desk
    from bailiwick.evidence.events import Context
    from bailiwick.kernel.db import Transaction

T = TypeVar("T")

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


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


def moment(text: str, now: datetime, option: str) -> datetime:
    """The instant that ``8h``, ``2d``, ``1w`` from now or an ISO 8601 text means; ends the command for another."""
    if found := re.fullmatch(r"\+?(\d{1,4})([mhdw])", text):
        return now + timedelta(**{_UNITS[found[2]]: int(found[1])})
    try:
        told = datetime.fromisoformat(text)
    except ValueError:
        raise CommandFailed(USAGE, f"{option}: say 90m, 8h, 2d, 1w (from now) or an ISO 8601 instant") from None
    if not 2000 <= told.year <= 2999:
        raise CommandFailed(USAGE, f"{option} {text} is out of range")
    return told if told.tzinfo else told.replace(tzinfo=UTC)


def shown(at: datetime) -> str:
    """An instant for people, in UTC."""
    return f"{at.astimezone(UTC):%a %Y-%m-%d %H:%M}Z"


def fitted(text: str, width: int = WIDTH) -> str:
    """One line of at most ``width`` columns, without control characters."""
    told = printable(text)
    return told if len(told) <= width else told[: width - 1] + "…"
