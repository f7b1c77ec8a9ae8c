"""The services of the assurance room for commands on the installation's machine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from bailiwick.cli.room import in_room

if TYPE_CHECKING:
    from bailiwick.app.house import House
    from bailiwick.assurance.probes.runner import Probes
    from bailiwick.evidence.events import Context
    from bailiwick.kernel.db import Database

T = TypeVar("T")

Zone = Annotated[str, typer.Option("--zone", help="The zone whose operating model it is.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


@dataclass(frozen=True, slots=True)
class Desk:
    """The room, and in whose name it is used."""

    house: House
    probes: Probes
    context: Context

    @property
    def database(self) -> Database:
        """The installation's database."""
        return self.house.base.database

    @property
    def operator(self) -> str:
        """Who works on the machine."""
        return self.context.actor.user


def at_desk(data_dir: Path | None, zone: str, work: Callable[[Desk], Awaitable[T]]) -> T:
    """What ``work`` answers at the room of the installation; a refusal ends the command."""

    async def run(house: House, context: Context) -> T:
        from bailiwick.app.assurance.probes import probes_of

        return await work(Desk(house, probes_of(house), context))

    return in_room(data_dir, zone, run)
