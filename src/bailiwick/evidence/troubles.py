"""What can be wrong with the evidence of a machine, each by a stable name: for readiness, metrics, logs and alerts."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

import psycopg
import structlog

from bailiwick.evidence.tree import MissingHashes
from bailiwick.kernel.errors import Unavailable

log = structlog.get_logger(__name__)


class Trouble(StrEnum):
    """A stable name. The work role is not ready while one lasts, but for those in :data:`HARMLESS`."""

    EVIDENCE_LOST = "evidence_lost"
    LEDGER_CONTRADICTS_HEAD = "ledger_contradicts_head"
    HEAD_FILE_BEHIND = "head_file_behind"
    HEADS_UNWRITABLE = "heads_unwritable"
    SPOOL_UNREADABLE = "spool_unreadable"
    SPOOL_UNWRITABLE = "spool_unwritable"
    CLOCK_WENT_BACK = "clock_went_back"
    SEQUENCER_CONTENDED = "sequencer_contended"
    DATABASE_FULL = "database_full"
    DATABASE_CONNECTIONS_EXHAUSTED = "database_connections_exhausted"
    DATABASE_READ_ONLY = "database_read_only"
    DATABASE_UNAVAILABLE = "database_unavailable"
    LEDGER_DAMAGED = "ledger_damaged"
    SEQUENCING_FAILED = "sequencing_failed"


MEANINGS = {
    Trouble.EVIDENCE_LOST: "Acknowledged evidence could not be read back; workers refuse until somebody looked.",
    Trouble.LEDGER_CONTRADICTS_HEAD: "The ledger is not what its published head says; nothing is signed for the zone.",
    Trouble.HEAD_FILE_BEHIND: "The published head on disk is older than the ledger's; it was rolled back or removed.",
    Trouble.HEADS_UNWRITABLE: "The published head cannot be written; events are kept, no further head is signed.",
    Trouble.SPOOL_UNREADABLE: "A worker's spool cannot be read; the others' evidence goes on into the ledger.",
    Trouble.SPOOL_UNWRITABLE: "What is in the ledger cannot be removed from the spool.",
    Trouble.CLOCK_WENT_BACK: "The clock stands before the newest event or head; none is dated back.",
    Trouble.SEQUENCER_CONTENDED: "Another sequencer works on the same spool; the database decides between them.",
    Trouble.DATABASE_FULL: "The database has no room; the spool keeps the evidence.",
    Trouble.DATABASE_CONNECTIONS_EXHAUSTED: "The database takes no more connections; the spool keeps the evidence.",
    Trouble.DATABASE_READ_ONLY: "The database takes no writes; the spool keeps the evidence.",
    Trouble.DATABASE_UNAVAILABLE: "The database does not answer; the spool keeps the evidence.",
    Trouble.LEDGER_DAMAGED: "Hashes of a zone's tree are gone from the table; the spool keeps the evidence.",
    Trouble.SEQUENCING_FAILED: "Sequencing fails for a reason the log tells; the spool keeps the evidence.",
}
HARMLESS = frozenset({Trouble.HEAD_FILE_BEHIND, Trouble.SEQUENCER_CONTENDED, Trouble.SPOOL_UNWRITABLE})
STALLS = frozenset(
    {
        Trouble.DATABASE_FULL,
        Trouble.DATABASE_CONNECTIONS_EXHAUSTED,
        Trouble.DATABASE_READ_ONLY,
        Trouble.DATABASE_UNAVAILABLE,
        Trouble.LEDGER_DAMAGED,
        Trouble.SEQUENCING_FAILED,
    }
)
_BY_SQLSTATE = {
    "53100": Trouble.DATABASE_FULL,
    "53300": Trouble.DATABASE_CONNECTIONS_EXHAUSTED,
    "25006": Trouble.DATABASE_READ_ONLY,
}
# refused at the door the driver knows no SQLSTATE
_NO_CONNECTION_LEFT = ("too many connections", "too many clients", "connection slots are reserved")


class Troubles(dict[Trouble, str]):
    """The troubles that last, with a sentence each. Each is logged when it begins and when it ends."""

    def begin(self, trouble: Trouble, why: str) -> None:
        """Note a trouble; told again only when the sentence changes."""
        if self.get(trouble) != why:
            if trouble not in self:
                log.error(trouble.value, why=why)
            self[trouble] = why

    def end(self, *troubles: Trouble) -> None:
        """They are over, if they were."""
        for trouble in troubles:
            if self.pop(trouble, None) is not None:
                log.info("trouble over", trouble=trouble.value)

    def tell(self, trouble: Trouble, whys: Collection[str]) -> None:
        """Begin or end it, by whether there is a reason."""
        if whys:
            self.begin(trouble, "; ".join(whys))
        else:
            self.end(trouble)

    @property
    def serious(self) -> dict[Trouble, str]:
        """Those an operator must mend before the ledger is to be trusted."""
        return {trouble: why for trouble, why in self.items() if trouble not in HARMLESS}


@dataclass(slots=True)
class Figures:
    """What the sequencer tells about itself.

    ``lag_s``: age of the oldest event that was not yet in the ledger, or how long nothing could be moved.
    ``backlog_bytes`` and ``backlog_age_s``: what waits in the spools, and since when. ``dead_letters``: those there are
    that were not replayed; ``dead_letters_total`` of this process. ``lost``: acknowledged evidence that could not be
    read back and that nobody acknowledged. ``contradictions``: why nothing is signed for a zone any more.
    ``unreadable``: sources whose files cannot be read now. ``clock_behind_s``: how far the clock stands before the
    newest event or head. ``troubles``: all of it by stable names.
    """

    sequenced_total: int = 0
    dead_letters_total: int = 0
    dead_letters: int = 0
    lag_s: float = 0.0
    backlog_bytes: int = 0
    backlog_age_s: float = 0.0
    clock_behind_s: float = 0.0
    active: bool = False
    lost: list[str] = field(default_factory=list)
    contradictions: dict[str, str] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    troubles: Troubles = field(default_factory=Troubles)


def stall_of(error: BaseException) -> Trouble:
    """Why sequencing stands still, from what it raised (the driver's own error may stand behind it)."""
    away = False
    for seen in _chain(error):
        if isinstance(seen, MissingHashes):
            return Trouble.LEDGER_DAMAGED
        if isinstance(seen, psycopg.Error) and (found := _BY_SQLSTATE.get(seen.sqlstate or "")) is not None:
            return found
        if isinstance(seen, psycopg.OperationalError) and any(words in str(seen) for words in _NO_CONNECTION_LEFT):
            return Trouble.DATABASE_CONNECTIONS_EXHAUSTED
        away = away or isinstance(seen, (Unavailable, psycopg.OperationalError))
    return Trouble.DATABASE_UNAVAILABLE if away else Trouble.SEQUENCING_FAILED


def cause_of(error: BaseException) -> str:
    """The first line of what stands behind it."""
    *_, last = _chain(error)
    return next(iter(str(last).splitlines()), type(last).__name__)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = getattr(seen, "orig", None) or seen.__cause__
