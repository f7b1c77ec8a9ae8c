"""Checking a zone's ledger: is every event still there, unchanged, in its order, and under the heads that were signed?

Reads the rows in order and recomputes the tree from them. What it finds, by kind:

- ``changed``: the row is not the event recorded there   - ``column``: the column ``principal`` says other than it
- ``removed``: sequence numbers are missing              - ``inserted``: a sequence number stands twice
- ``hash``: the stored tree is damaged                   - ``head``: a head does not fit the rows, or is not genuine
- ``truncated``: a head covers more events than there are     - ``archive``: sealed events are not what was sealed

Events whose rows have gone into the archive are read from there and count as present when the archive proves them;
those whose end two persons decided count as purged when the ledger itself holds the event of that.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import msgspec
import psycopg

from bailiwick.evidence.archive.presence import Attested, Gone, Presence
from bailiwick.evidence.archive.reader import ColdEvents
from bailiwick.evidence.continued import LogName, continuations_of, disagreements
from bailiwick.evidence.events import decode, leaf_hash
from bailiwick.evidence.ledger import Head, HeadFiles, ledger_keys
from bailiwick.evidence.stored import COLUMNS, body_from
from bailiwick.evidence.tree import MissingHashes, load_edge, read_hashes, tree_size
from bailiwick.kernel.db import Database, Transaction
from bailiwick_verify.checkpoint import parse_checkpoint
from bailiwick_verify.merkle import TILE_WIDTH, Edge
from bailiwick_verify.note import NoteError, VerifierKey, parse_note

Kind = Literal["changed", "column", "removed", "inserted", "hash", "head", "truncated", "archive"]
MAX_FINDINGS = 50
_PORTION = 5000
_NEVER = 1 << 62
_GONE: Any = object()
_ATTESTED: Any = object()


@dataclass(frozen=True, slots=True)
class Finding:
    """One contradiction: what kind, at which sequence number, and a sentence."""

    kind: Kind
    seq: int
    why: str


@dataclass(slots=True)
class VerifyReport:
    """The answer. ``verdict`` is PASS, FAIL, or NO_DATA where there is neither an event nor a head.

    Events ``first_seq`` to ``events - 1`` were read; ``complete`` says that this is all of them. ``unsigned`` counts
    events behind the newest head, whose removal could not be noticed yet. ``head_file`` is ``present``, ``absent`` or
    ``not_checked``. Of those ``checked``, ``archived`` were read from the archive; ``purged`` are gone by decision.
    """

    zone: str
    verdict: Literal["PASS", "FAIL", "NO_DATA"] = "PASS"
    events: int = 0
    checked: int = 0
    archived: int = 0
    purged: int = 0
    first_seq: int = 0
    complete: bool = True
    heads: int = 0
    unsigned: int = 0
    head_file: Literal["present", "absent", "not_checked"] = "not_checked"
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)
    findings_total: int = 0

    def add(self, kind: Kind, seq: int, why: str) -> None:
        """Note a contradiction; only the first :data:`MAX_FINDINGS` are kept in full."""
        self.findings_total += 1
        self.verdict = "FAIL"
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(Finding(kind, seq, why))

    @property
    def first_bad(self) -> Finding | None:
        """The contradiction with the lowest sequence number."""
        return min(self.findings, key=lambda finding: finding.seq, default=None)

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        answer = asdict(self)
        first = self.first_bad
        answer["first_bad"] = asdict(first) if first else None
        answer["seconds"] = round(self.seconds, 3)
        return answer


async def verify(
    database: Database,
    zone: str,
    head_files: HeadFiles | None = None,
    keys: Mapping[str, VerifierKey] | None = None,
    *,
    newest: int | None = None,
    cold: ColdEvents | None = None,
) -> VerifyReport:
    """Check the ledger of ``zone``.

    ``keys`` verify heads, by key id; by default those the database holds, which someone who rewrote the database could
    have rewritten too. ``newest``: check only about that many of the newest events, from a full tile on.
    ``cold``: the archive, where rows that are gone may be; without it they are missing. Raises
    ``archive_unavailable`` when it does not answer.
    """
    started = time.monotonic()
    report = VerifyReport(zone)
    published = _published(report, zone, head_files)  # before the rows: a head is published after they are committed
    async with database.begin() as tx:
        await tx.run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        known = keys if keys is not None else await ledger_keys(tx, zone)
        published = await _hold_continued(tx, report, zone, published, known)
        presence = Presence(database, cold, zone, list(known.values())) if cold is not None else None
        signed = await _Check(tx, zone, known, published, report, presence).run(newest)
    if report.head_file == "absent" and signed and not await _published_since(zone, head_files):
        report.add("head", signed - 1, "heads were signed, but the published one is gone from its file")
    if report.verdict == "PASS" and report.events == 0 and report.heads == 0:
        report.verdict = "NO_DATA"
    report.seconds = time.monotonic() - started
    return report


def _published(report: VerifyReport, zone: str, head_files: HeadFiles | None) -> Head | None:
    if head_files is None:
        return None
    try:
        head = head_files.load(zone)
    except (ValueError, OSError) as error:
        report.head_file = "present"
        report.add("head", 0, f"the published head cannot be read: {error}")
        return None
    report.head_file = "present" if head else "absent"
    return head


async def _hold_continued(
    tx: Transaction, report: VerifyReport, zone: str, published: Head | None, keys: Mapping[str, VerifierKey]
) -> Head | None:
    """Hold what continuations of the log say against the tree; answers the published head if it is of the log of now.

    What two persons agreed to lose is not held against the ledger any more, and nothing else is let go of by that.
    """
    continuations = await continuations_of(tx, zone)
    if not continuations:
        return published
    newest = await tx.one(
        "SELECT note FROM ledger.heads WHERE zone = :zone ORDER BY size DESC, at DESC LIMIT 1", zone=zone
    )
    try:
        said = parse_checkpoint(parse_note(bytes(newest["note"])).text) if newest is not None else None
        told = said.continued if said is not None else ()
    except NoteError:
        said, told = None, ()  # told where the heads are read
    if said is not None and told:
        name = LogName(said.origin, [str(line) for line in told])
        for why, entry in await disagreements(tx, zone, name, keys.values()):
            report.add("head", entry, why)
    lines = {line.epoch: line for line in told}
    for each in continuations:
        line = lines.get(each.epoch)
        if line is None:
            continue  # no head of that log is signed yet
        if (line.kept, line.known, line.root, line.leaf) != (each.kept, each.known, each.known_root, each.leaf):
            report.add("head", each.kept, f"the heads tell otherwise of the continuation e{each.epoch} than was agreed")
    if published is None or published.epoch >= continuations[-1].epoch:
        return published
    contradiction = continuations[-1].contradicts(published)
    if contradiction is not None:
        report.add("head", continuations[-1].kept, contradiction)
    return None


async def _published_since(zone: str, head_files: HeadFiles | None) -> bool:
    """Whether the first head of a zone, committed while the check began, is published a moment later."""
    for _ in range(10):
        with contextlib.suppress(ValueError, OSError):
            if head_files is None or head_files.load(zone) is not None:
                return True
        await asyncio.sleep(0.1)
    return False


class _Check:
    """One pass over rows, stored hashes and heads, side by side."""

    def __init__(
        self,
        tx: Transaction,
        zone: str,
        keys: Mapping[str, VerifierKey],
        published: Head | None,
        report: VerifyReport,
        presence: Presence | None = None,
    ) -> None:
        self._presence = presence
        self._tx = tx
        self._zone = zone
        self._keys = list(keys.values())
        self._published = published
        self._report = report
        self._edge = Edge()
        self._leaves: list[bytes] = []
        self._recorded: list[bytes] = []
        self._recorded_from = 0
        self._tree_size = 0

    async def run(self, newest: int | None) -> int:
        """Check, and give the size of the newest head that was signed; 0 where there is none."""
        connection = self._tx.driver
        self._tree_size = await tree_size(self._tx, self._zone)
        size = 0
        if newest is not None:
            size = await self._start(newest)
        self._report.first_seq = self._recorded_from = size
        heads = _Heads(connection, self._zone, size, self._published)
        await heads.open()
        while heads.next_size <= size:
            self._fit(await heads.take(), size)
        async for row in self._present(connection, size):
            size = await self._row(row, size)
            while heads.next_size <= size:
                self._fit(await heads.take(), size)
        self._report.events = size
        self._report.unsigned = max(0, size - max(heads.newest, self._report.first_seq))
        while heads.next_size < _NEVER:
            self._beyond(await heads.take(), size)
        if self._tree_size > size and not self._report.findings:
            self._report.add("removed", size, f"the tree holds {self._tree_size} events, {size} are there")
        await heads.close()
        return heads.newest

    async def _start(self, newest: int) -> int:
        """The last full tile that leaves at least ``newest`` events behind it, else the beginning."""
        size = max(0, self._tree_size - newest) // TILE_WIDTH * TILE_WIDTH
        if size:
            try:
                self._edge = await load_edge(self._tx, self._zone, size)
            except MissingHashes as error:
                self._report.add("hash", size, str(error))
                return 0
            self._report.complete = False
        return size

    async def _present(self, connection: psycopg.AsyncConnection[Any], first: int) -> AsyncIterator[tuple[Any, ...]]:
        """The rows there are, and where some are gone what the archive proves was there."""
        expected = first
        async for row in self._rows(connection, first):
            if row[0] > expected:
                async for cold in self._archived(expected, row[0]):
                    yield cold
            yield row
            expected = max(expected, row[0] + 1)
        async for cold in self._archived(expected, self._tree_size):
            yield cold

    async def _archived(self, first: int, end: int) -> AsyncIterator[tuple[Any, ...]]:
        if self._presence is None or first >= end:
            return
        async for found in self._presence.between(first, end):
            if isinstance(found, str):
                self._report.add("archive", first, found)
            elif isinstance(found, Gone | Attested):
                for seq in range(max(first, found.first), min(end, found.last + 1)):
                    yield seq, _GONE if isinstance(found, Gone) else _ATTESTED
            else:
                yield found.seq, found.body

    async def _row(self, row: tuple[Any, ...], size: int) -> int:
        seq: int = row[0]
        body: bytes | None = row[1] if len(row) == 2 else body_from(*row[2:])
        report = self._report
        if body is _GONE:
            report.purged += 1
        else:
            report.checked += 1
            report.archived += len(row) == 2
        if body is _GONE or body is _ATTESTED:
            body = None
        if seq < size:
            report.add("inserted", seq, f"sequence number {seq} stands more than once")
            return size
        if seq > size:
            last = seq - 1
            report.add("removed", size, f"events {size} to {last} are missing" if last > size else "it is missing")
            for missing in range(size, seq):  # the tree goes on with what was recorded
                self._leaves.append(await self._leaf(missing) or b"")
        recorded = await self._leaf(seq)
        leaf = leaf_hash(body) if body is not None else recorded or b""
        if recorded is None:
            report.add("hash", seq, "the stored tree does not hold the event's hash")
        elif leaf != recorded:
            report.add("changed", seq, "the event is not the one that was recorded in this place")
        elif body is not None and len(row) > 2 and (wrong := _wrong_principal(row[1], body)) is not None:
            report.add("column", seq, wrong)
        self._leaves.append(leaf)
        return seq + 1

    async def _leaf(self, seq: int) -> bytes | None:
        """The leaf hash that the stored tree has for ``seq``."""
        offset = seq - self._recorded_from
        if offset >= len(self._recorded):
            self._recorded_from, offset = seq, 0
            try:
                end = min(seq + _PORTION, self._tree_size)
                self._recorded = await read_hashes(self._tx, self._zone, 0, seq, end)
            except MissingHashes:
                self._recorded = []
        return self._recorded[offset] if offset < len(self._recorded) else None

    def _fit(self, head: Head, size: int) -> None:
        report = self._report
        report.heads += 1
        false = head.false_because(self._keys)
        if false is not None:
            report.add("head", max(head.size - 1, 0), f"the head over {head.size} events is not genuine: {false}")
            return
        if head.size < size:
            return  # it ends among rows that are missing, which is told already
        if self._leaves:
            self._edge.extend(self._leaves)
            self._leaves = []
        if self._edge.root() != head.root:
            report.add("head", max(head.size - 1, 0), f"the events are not those signed by the head over {head.size}")

    def _beyond(self, head: Head, size: int) -> None:
        report = self._report
        report.heads += 1
        false = head.false_because(self._keys)
        if false is None:
            report.add("truncated", size, f"a head over {head.size} events was signed, {size} are there")
        else:
            report.add("head", size, f"the head over {head.size} events is not genuine: {false}")

    async def _rows(self, connection: psycopg.AsyncConnection[Any], first: int) -> AsyncIterator[tuple[Any, ...]]:
        async with connection.cursor(name="verify_events", binary=True) as cursor:
            await cursor.execute(
                f"SELECT seq, principal, {COLUMNS}"  # noqa: S608
                " FROM ledger.events WHERE zone = %s AND seq >= %s ORDER BY seq",
                (self._zone, first),
            )
            while rows := await cursor.fetchmany(_PORTION):
                for row in rows:
                    yield row


class _Heads:
    """The stored heads from ``first`` events on, in order of size, with the published one among them.

    ``next_size``: size of the head that :meth:`take` answers next; ``newest``: the largest taken so far.
    """

    def __init__(self, connection: psycopg.AsyncConnection[Any], zone: str, first: int, published: Head | None) -> None:
        self._cursor = connection.cursor(name="verify_heads", binary=True)
        self._zone = zone
        self._first = first
        self._published = published if published is not None and published.size >= first else None
        self._waiting: deque[Head] = deque()
        self.next_size = _NEVER
        self.newest = 0

    async def open(self) -> None:
        """Start reading."""
        await self._cursor.execute(
            "SELECT size, root, at, kid, note FROM ledger.heads WHERE zone = %s AND size >= %s ORDER BY size, at",
            (self._zone, self._first),
        )
        await self._look()

    async def take(self) -> Head:
        """The next head."""
        if self._published is not None and self._published.size == self.next_size:
            head, self._published = self._published, None
        else:
            head = self._waiting.popleft()
        self.newest = max(self.newest, head.size)
        await self._look()
        return head

    async def close(self) -> None:
        """Stop reading."""
        await self._cursor.close()

    async def _look(self) -> None:
        if not self._waiting:
            rows = await self._cursor.fetchmany(_PORTION)
            self._waiting.extend(Head(self._zone, *row) for row in rows)
        stored = self._waiting[0].size if self._waiting else _NEVER
        self.next_size = min(stored, self._published.size if self._published else _NEVER)


def _wrong_principal(principal: str | None, body: bytes) -> str | None:
    """What the one column that says again what the event says has wrong, None when they agree."""
    try:
        said = decode(body).principal
    except msgspec.MsgspecError:
        return "the body is not an event"
    return None if said == (principal or "") else "column principal says other than the event"
