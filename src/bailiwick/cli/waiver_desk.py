"""What the commands of the assurance room share: its services on the machine's own database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bailiwick.cli.failure import FAILED, NO_DATA, USAGE, CommandFailed

if TYPE_CHECKING:
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
    from bailiwick.cli.ledger import on_database
    from bailiwick.kernel.errors import BailiwickError

    async def run(database: Database) -> int:
        return await work(_desk(database, data_dir, zone))

    try:
        return on_database(data_dir, run)
    except BailiwickError as error:
        code = NO_DATA if error.status == 404 else USAGE if error.status in (400, 422) else FAILED
        told = ", ".join(f"{name}: {value}" for name, value in error.extra.items())
        raise CommandFailed(code, f"{error.reason}: {error.detail}{f' ({told})' if told else ''}") from None


def _desk(database: Database, data_dir: Path | None, zone: str) -> Desk:
    from bailiwick.app.assurance import KINDS
    from bailiwick.assurance.books import Books
    from bailiwick.cli.local import clock_of
    from bailiwick.cli.options import layout_of
    from bailiwick.cli.recorded import by_operator
    from bailiwick.evidence.approvals import recorder_note
    from bailiwick.evidence.evidence_records import EvidenceRecords
    from bailiwick.identity.holders import holders
    from bailiwick.identity.persons import Persons
    from bailiwick.kernel.ids import Ids
    from bailiwick.kernel.quorum import Quorum

    clock, ids = clock_of(layout_of(data_dir)), Ids()
    recorder, context = by_operator(zone)
    quorum = Quorum(database, clock, ids, recorder_note(recorder), holders, [], Persons())
    books = Books(database, clock, recorder, quorum, KINDS)
    return Desk(database, clock, ids, recorder, quorum, books, EvidenceRecords(clock, recorder), context)
