"""What the commands of the assurance room share: its services on the machine's own database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bailiwick.cli.room import in_room

if TYPE_CHECKING:
    from bailiwick.app.house import House
    from bailiwick.assurance.books import Books
    from bailiwick.evidence.events import Context, Recorder
    from bailiwick.evidence.evidence_records import EvidenceRecords
    from bailiwick.kernel.clock import Clock
    from bailiwick.kernel.db import Database
    from bailiwick.kernel.ids import Ids
    from bailiwick.kernel.quorum import Quorum


@dataclass(frozen=True, slots=True)
class Desk:
    """What the services of a part are built of, and in whose name they are used."""

    house: House
    database: Database
    clock: Clock
    ids: Ids
    recorder: Recorder
    quorum: Quorum
    books: Books
    records: EvidenceRecords
    context: Context

    @property
    def user(self) -> str:
        """Who works on the machine."""
        return self.context.actor.user


def at_desk(data_dir: Path | None, zone: str, work: Callable[[Desk], Awaitable[int]]) -> int:
    """What ``work`` answers at the database of the installation; a refusal ends the command."""

    async def run(house: House, context: Context) -> int:
        base = house.base
        return await work(
            Desk(
                house,
                base.database,
                base.clock,
                base.ids,
                base.recorder,
                house.quorum,
                house.books,
                house.records,
                context,
            )
        )

    return in_room(data_dir, zone, run)
