"""Checks a copy of the database: every row, the stored tree, every head. Needs the ``postgres`` extra; writes nothing.

An event stands in its columns: its bytes are put together from them, so a changed column gives other bytes than were
hashed. ``principal`` repeats what the rest says and is compared; ``recorded_at`` is not part of the event, of it only
the order is checked.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from heapq import merge
from typing import TYPE_CHECKING, Any

from bailiwick_verify.check import (
    Anchor,
    Other,
    TreeCheck,
    anchors_of,
    go_on_from,
    hold_past,
    is_later,
    locate,
    open_head,
    own_head,
    remembered_heads,
    root_within,
)
from bailiwick_verify.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint
from bailiwick_verify.continuation import Statements, judge_old_head
from bailiwick_verify.epochs import Continued, split_origin
from bailiwick_verify.merkle import HASH_BYTES, TILE_WIDTH, FullTile, leaf_hash
from bailiwick_verify.note import NoteError, VerifierKey, parse_note, parse_signature_line
from bailiwick_verify.report import LogReport, Progress, utc
from bailiwick_verify.source import Source, Unreadable
from bailiwick_verify.tiles import Tile, TileError

if TYPE_CHECKING:
    import psycopg

_PORTION = 5000
_COLUMNS = (
    "zone, id::text, to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), code, outcome,"
    " request_id::text, server, rest"
)
_EVENTS = (
    f"SELECT seq, recorded_at, coalesce(principal, ''), {_COLUMNS} FROM ledger.events"  # noqa: S608
    " WHERE zone = %s AND seq >= %s ORDER BY seq"
)
_BODIES = f"SELECT {_COLUMNS} FROM ledger.events WHERE zone = %s AND seq >= %s ORDER BY seq"  # noqa: S608


class NoDriver(Exception):
    """The ``postgres`` extra is not installed."""


def verify_database(
    dsn: str,
    keys: Sequence[VerifierKey],
    witness_keys: Sequence[VerifierKey] = (),
    *,
    zone: str = "",
    quorum: int = 0,
    known: Progress | None = None,
    not_before: int = 0,
    max_gap: float = 0,
    remembered: Sequence[bytes] = (),
    against: Source | None = None,
    keep: Callable[[Progress], None] = lambda progress: None,
    archived: bool = False,
) -> tuple[LogReport, Progress | None]:
    """Check the ledger of a zone in the database ``dsn`` (libpq), read only, in one snapshot.

    ``zone``: by default the one that the keys' name ends in. ``archived``: rows that the database says are in the
    archive, or were ended by decision, may be absent; they are counted and not read. The other arguments are those of
    ``verify_log``. Raises :class:`NoDriver`, and ValueError for what is no address.
    """
    try:
        import psycopg
    except ImportError:
        raise NoDriver("checking a database needs the extra: pip install 'bailiwick-verify[postgres]'") from None
    report, started = LogReport(), time.monotonic()
    report.origin = keys[0].name if keys else ""
    progress = None
    try:
        with psycopg.connect(dsn.replace("+psycopg", "", 1), connect_timeout=10) as connection:
            connection.read_only = True
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            where = zone or split_origin(report.origin)[0].rpartition("/")[2]
            check = _DatabaseCheck(report, connection, where, keys, witness_keys, known, keep, archived)
            progress = check.run(quorum, not_before, max_gap, remembered, against)
    except psycopg.ProgrammingError as error:
        if error.sqlstate is None:  # the address could not be read
            raise ValueError(str(error).splitlines()[0]) from None
        report.fail(f"cannot be read: {str(error).splitlines()[0]}")
    except psycopg.Error as error:
        report.fail(f"cannot be read: {(str(error) or type(error).__name__).splitlines()[0]}")
    except NoteError as error:
        report.fail(f"a checkpoint is not genuine: {error}")
    except (Unreadable, TileError) as error:
        report.fail(f"cannot be read: {error}")
    report.conclude()
    report.seconds = time.monotonic() - started
    return report, progress if report.verdict != "FAIL" else None


class _DatabaseCheck:
    """One pass over rows, stored hashes and heads, side by side."""

    def __init__(
        self,
        report: LogReport,
        connection: psycopg.Connection[Any],
        zone: str,
        keys: Sequence[VerifierKey],
        witness_keys: Sequence[VerifierKey],
        known: Progress | None,
        keep: Callable[[Progress], None],
        archived: bool,
    ) -> None:
        self._archived = archived
        self._report = report
        self._connection = connection
        self._zone = zone
        self._keys = list(keys)
        self._witness_keys = list(witness_keys)
        self._known = known
        self._keep = keep
        self._stored = _Stored(connection, zone)
        self._elsewhere = _elsewhere(connection, zone)
        self._statements = Statements()
        self._lines: tuple[Continued, ...] = ()
        self._recorded_at: Any = None
        self._rows_are_bad = False

    def run(
        self, quorum: int, not_before: int, max_gap: float, remembered: Sequence[bytes], against: Source | None
    ) -> Progress | None:
        report = self._report
        newest = self._newest(quorum)
        report.size = self._stored.size
        now = Checkpoint(report.origin, 0, b"")
        if newest is not None:
            now = parse_checkpoint(parse_note(newest).text)
            report.origin, self._lines = now.origin, now.continued
            report.continued = [line.at for line in self._lines]
            if self._known is not None and not is_later(report, self._known.origin):
                self._known = go_on_from(report, self._known, self._lines, self._stored.tile, now)
        known = self._known
        if newest is not None and not_before and report.signed_at < not_before:
            report.fail(f"the newest head is of {utc(report.signed_at)}, before {utc(not_before)}")
        if max_gap:
            self._hours(max_gap)
        anchors = [*self._cosigned(quorum), *remembered_heads(report, remembered, self._keys, self._lines)]
        other = Other.of(against, self._keys) if against is not None else None
        if other is not None:
            anchors += anchors_of(report, other, report.size, self._lines)
        anchors.sort(key=lambda anchor: anchor.size)
        if known is not None and not self._continues(known, anchors, newest):
            return None
        start = known if known is not None else Progress(report.origin, TreeCheck(report, (), None).edge)
        first = (start.reading or start.edge).size
        every = merge(self._heads(first), anchors, key=lambda anchor: anchor.size)
        check = TreeCheck(report, every, start, self._keep)
        check.prove_at = parse_checkpoint(parse_note(newest).text).size if newest is not None else -1
        self._read(check)
        check.finish()
        if check.size < self._stored.size and not self._rows_are_bad:
            report.fail(f"removed: the tree holds {self._stored.size} events, {check.size} are there", check.size)
        report.size = check.size
        if not self._rows_are_bad:
            locate(report, check, self._leaves_from, self._stored.tile, other)
        if newest is not None and check.size > check.prove_at:
            report.remarks.append(f"{check.size - check.prove_at} events wait for their head")
        if newest is not None:
            self._judge_continued(now, first)
        if newest is None or check.proven is None:
            return None
        head_at = max(report.signed_at, start.head_at)
        return Progress(report.origin, check.proven, newest, head_at, report.simulated)

    def _judge_continued(self, now: Checkpoint, first: int) -> None:
        """What was lost, and whether the log may go on as it does."""
        report, base = self._report, split_origin(now.origin)[0]
        if any(self._is_elsewhere(line.entry) for line in self._lines):
            self._look_at_kept()
        report.losses = self._statements.judge(
            self._lines,
            base,
            self._keys,
            self._witness_keys,
            since=first,
            root_of=lambda size: root_within(self._stored.tile, size, now),
            refuse=report.fail,
        )

    def _look_at_kept(self) -> None:
        """Statements whose rows went into the archive are kept beside the ledger; the tree says whether they are so."""
        rows = self._connection.execute(
            "SELECT seq, body FROM ledger.continuation_entries WHERE zone = %s ORDER BY seq", (self._zone,)
        ).fetchall()
        for seq, body in rows:
            if self._is_elsewhere(seq) and leaf_hash(bytes(body)) == self._stored.leaf(seq):
                self._statements.look(seq, bytes(body))

    def _is_elsewhere(self, entry: int) -> bool:
        return self._archived and any(first <= entry <= last for first, last in self._elsewhere)

    # ------------------------------------------------------------------ heads

    def _newest(self, quorum: int) -> bytes | None:
        row = self._one(
            "SELECT note FROM ledger.heads WHERE zone = %s ORDER BY size DESC, at DESC LIMIT 1", (self._zone,)
        )
        if row is None:
            if self._stored.size:
                self._report.fail("no head is there: nobody signed these events", 0)
            return None
        note = bytes(row[0])
        try:
            opened = open_checkpoint(note, self._keys, self._witness_keys)
        except NoteError:
            return note  # told where the heads are read
        self._report.signed_at, self._report.witnesses = opened.time, opened.witnesses
        return note

    def _heads(self, first: int) -> Iterator[Anchor]:
        """The genuine heads over at least ``first`` entries; the others are told."""
        with self._connection.cursor(name="verify_heads") as cursor:
            cursor.execute(
                "SELECT size, root, extract(epoch FROM at)::bigint, note FROM ledger.heads"
                " WHERE zone = %s AND size >= %s ORDER BY size, at",
                (self._zone, first),
            )
            while rows := cursor.fetchmany(_PORTION):
                for size, root, at, note in rows:
                    self._report.heads += 1
                    opened = open_head(self._report, bytes(note), self._keys)
                    if opened is None:
                        continue
                    said = opened.checkpoint
                    if (said.size, said.root, opened.time) != (size, bytes(root), at):
                        why = f"a forged head over {size} entries: its columns say other than what was signed"
                        self._report.fail(why, max(min(size, said.size) - 1, 0))
                    if said.size == size and own_head(
                        self._report, said, self._lines
                    ):  # else it stands in the wrong place, which is told
                        yield Anchor(size, said.root, f"the head of {utc(opened.time)}")

    def _hours(self, max_gap: float) -> None:
        after = self._known.head_at if self._known is not None else 0
        rows = self._connection.execute(
            "SELECT extract(epoch FROM at)::bigint, extract(epoch FROM next)::bigint, size FROM ("
            "  SELECT at, lead(at) OVER w AS next, max(size) OVER w AS size FROM ledger.heads"
            "  WHERE zone = %s AND at >= to_timestamp(%s) WINDOW w AS (ORDER BY at)) each"
            " WHERE next - at > make_interval(secs => %s) ORDER BY at",
            (self._zone, after, max_gap),
        ).fetchall()
        first = self._one(
            "SELECT extract(epoch FROM min(at))::bigint FROM ledger.heads WHERE zone = %s AND at >= to_timestamp(%s)",
            (self._zone, after),
        )
        begins = first[0] if first is not None else None
        if self._known is not None and after and begins is not None and begins - after > max_gap:
            rows.insert(0, (after, begins, self._known.edge.size))
        for at, following, size in rows:
            self._report.miss_hours(at, following, size)

    def _cosigned(self, quorum: int) -> list[Anchor]:
        """The newest head that enough witnesses signed."""
        if not quorum:
            return []
        report = self._report
        rows = self._connection.execute(
            "SELECT h.note, array_agg(c.line) FROM (SELECT size, root FROM ledger.cosignatures WHERE zone = %(zone)s"
            " GROUP BY size, root HAVING count(DISTINCT witness) >= %(quorum)s ORDER BY size DESC LIMIT 20) s"
            " JOIN ledger.cosignatures c ON c.zone = %(zone)s AND (c.size, c.root) = (s.size, s.root)"
            " JOIN LATERAL (SELECT note FROM ledger.heads h WHERE h.zone = %(zone)s AND (h.size, h.root) ="
            " (s.size, s.root) ORDER BY at DESC LIMIT 1) h ON true GROUP BY s.size, h.note ORDER BY s.size DESC",
            {"zone": self._zone, "quorum": quorum},
        ).fetchall()
        why = f"no head is signed by {quorum} known witnesses"
        for note, lines in rows:
            try:
                whole = parse_note(bytes(note)).with_signatures(parse_signature_line(line) for line in lines)
                opened = open_checkpoint(bytes(whole), self._keys, self._witness_keys, quorum=quorum)
            except NoteError as error:
                why = f"the cosigned head: {error}"
                continue
            cosigned = opened.checkpoint
            who = "the checkpoint that witnesses signed"
            if not judge_old_head(self._lines, cosigned.origin, cosigned.size, cosigned.root, who, report.fail):
                why = f"{who} is of what was lost"
                continue
            report.witnesses, report.cosigned_size = opened.witnesses, cosigned.size
            return [Anchor(cosigned.size, cosigned.root, who, fork=True)]
        report.fail(why)
        return []

    def _continues(self, known: Progress, anchors: Sequence[Anchor], newest: bytes | None) -> bool:
        report = self._report
        if is_later(report, known.origin):
            report.fail(f"the earlier check was of another log: {known.origin}")
            return False
        report.simulated = known.simulated
        if newest is None or (now := parse_checkpoint(parse_note(newest).text)).size < known.edge.size:
            why = f"cut off: {self._stored.size} events are there, {known.edge.size} were checked before"
            report.fail(why, min(self._stored.size, known.edge.size))
            return False
        return hold_past(report, known, anchors, self._stored.tile, now)

    # ------------------------------------------------------------------ rows

    def _read(self, check: TreeCheck) -> None:
        report = self._report
        pending: list[bytes] = []
        first = check.size
        with self._connection.cursor(name="verify_events") as cursor:
            cursor.execute(_EVENTS, (self._zone, first))
            while rows := cursor.fetchmany(_PORTION):
                size, told = check.size, report.findings_total
                for row in rows:
                    size += self._row(row, size, pending)
                self._rows_are_bad = self._rows_are_bad or report.findings_total > told
                self._tiles(check.add(pending))
                pending.clear()
        if self._elsewhere and self._elsewhere[-1][1] >= check.size:  # every row left
            told = report.findings_total
            self._absent(check.size, min(self._elsewhere[-1][1] + 1, self._stored.size), pending)
            self._rows_are_bad = self._rows_are_bad or report.findings_total > told
            self._tiles(check.add(pending))
        report.checked += check.size - first - report.elsewhere
        if report.elsewhere:
            report.remarks.append(
                f"{report.elsewhere} events are not here: the archive holds them, or their end was decided. The heads"
                " hold their hashes; what they say was not read"
            )

    def _row(self, row: tuple[Any, ...], size: int, leaves: list[bytes]) -> int:
        """Judge a row that should be entry ``size``; how many leaves were added."""
        seq, report = row[0], self._report
        body, members = event_of(row[3:])
        if seq < size:
            report.fail(f"inserted: entry {seq} stands more than once", seq)
            return 0
        added = 0
        if seq > size:
            self._absent(size, seq, leaves)
            added = seq - size
        leaf = leaf_hash(body)
        self._statements.look(seq, body)
        recorded = self._stored.leaf(seq)
        if recorded is None:
            report.fail(f"hash: the stored tree does not hold entry {seq}", seq)
        elif leaf != recorded:
            report.fail(f"changed: entry {seq} is not what was logged", seq)
        else:
            self._look_into(seq, row[2], members)
        if self._recorded_at is not None and row[1] < self._recorded_at:
            report.fail(f"order: entry {seq} says that it was recorded before the one before it", seq)
        self._recorded_at = row[1]
        leaves.append(leaf)
        return added + 1

    def _absent(self, first: int, end: int, leaves: list[bytes]) -> None:
        """Judge that the rows ``first`` to ``end - 1`` are not there. The tree goes on with what was recorded."""
        at = first
        for start, last in [*self._elsewhere, (end, end)]:
            if last < at or at >= end:
                continue
            if min(start, end) > at:
                self._report.fail(f"removed: {_entries(at, min(start, end) - 1)}", at)
                at = min(start, end)
            stop = min(last + 1, end)
            if stop > at:
                if self._archived:
                    self._report.elsewhere += stop - at
                else:
                    said = "the archive is said to hold them; --archived lets them be absent"
                    self._report.fail(f"removed: {_entries(at, stop - 1)}; {said}", at)
                at = stop
        leaves += [self._stored.leaf(missing) or bytes(HASH_BYTES) for missing in range(first, end)]

    def _look_into(self, seq: int, principal: str, members: dict[str, Any]) -> None:
        """Judge what the hash does not: the one column that repeats the event, and which clock made it."""
        actor = members.get("actor")
        who = (actor.get("user") or actor.get("application", "")) if isinstance(actor, dict) else ""
        if principal != who:
            self._report.fail(f"column: of entry {seq}, principal says other than the event", seq)
        if self._report.simulated < 0 and members.get("simulated_clock") is True:
            self._report.simulated = seq

    def _tiles(self, full: Sequence[FullTile]) -> None:
        """Hold the upper levels of the stored tree against what the entries make; below they were held one by one."""
        if self._report.findings_total:
            return
        for tile in full:
            if self._stored.hash(tile.level + 1, tile.number) != tile.root:
                entry = tile.number << (8 * (tile.level + 1))
                self._report.fail(f"hash: the stored tree is damaged at level {tile.level + 1}", entry)
                return

    def _leaves_from(self, first: int) -> Iterator[bytes]:
        with self._connection.cursor(name="verify_again") as cursor:
            cursor.execute(_BODIES, (self._zone, first))
            while rows := cursor.fetchmany(_PORTION):
                yield from [leaf_hash(event_of(row)[0]) for row in rows]

    def _one(self, sql: str, values: tuple[Any, ...]) -> tuple[Any, ...] | None:
        found: tuple[Any, ...] | None = self._connection.execute(sql.encode(), values).fetchone()
        return found


_value = json.JSONDecoder().raw_decode
_quoted = json.JSONEncoder(ensure_ascii=False).encode


def event_of(row: Sequence[Any]) -> tuple[bytes, dict[str, Any]]:
    """The canonical bytes of an event that stands in its columns, and the members that no column has.

    ``row``: zone, id, at, code, outcome, request id, server, rest; all but that as text. A rest behind a line feed is
    the whole event as it was; one that is no canonical object is taken as it is, and its hash will not be the event's.
    """
    zone, event_id, at, code, outcome, request_id, server, rest = row
    data = bytes(rest)
    if data[:1] == b"\n":
        data = data[1:]
        try:
            whole = json.loads(data)
        except ValueError:
            whole = None
        return data, whole if isinstance(whole, dict) else {}
    try:
        texts, values = _members(data.decode())
    except (ValueError, IndexError):
        return data, {}
    texts["zone"], texts["id"], texts["at"] = _quoted(zone), f'"{event_id}"', f'"{at}"'
    texts["code"], texts["outcome"] = _quoted(code), _quoted(outcome)
    if request_id:
        texts["request_id"] = f'"{request_id}"'
    if server:
        texts["server"] = _quoted(server)
    return ("{" + ",".join([f'"{name}":{texts[name]}' for name in sorted(texts)]) + "}").encode(), values


def _members(text: str) -> tuple[dict[str, str], dict[str, Any]]:
    """The members of a JSON object without white space: each as it is written, and as a value. Raises ValueError."""
    texts: dict[str, str] = {}
    values: dict[str, Any] = {}
    position, last = 0, len(text) - 1
    if text[0] != "{" or text[last] != "}":
        raise ValueError("not an object")
    while position < last:
        name, start = _value(text, position + 1)
        if text[start] != ":" or not isinstance(name, str) or name in texts:
            raise ValueError("not a member")
        values[name], end = _value(text, start + 1)
        if text[end] not in ",}":
            raise ValueError("white space")
        texts[name] = text[start + 1 : end]
        position = end
    return texts, values


def _elsewhere(connection: psycopg.Connection[Any], zone: str) -> list[tuple[int, int]]:
    """The stretches of entries that the database says are in the archive, or whose end was decided."""
    found: list[tuple[int, int]] = []
    for table, condition in (("archive_objects", "void_at IS NULL"), ("tombstones", "first_seq IS NOT NULL")):
        row = connection.execute("SELECT to_regclass(%s) IS NOT NULL", (f"ledger.{table}",)).fetchone()
        if row is not None and row[0]:
            sql = f"SELECT first_seq, last_seq FROM ledger.{table} WHERE zone = %s AND {condition}"  # noqa: S608
            found += [(first, last) for first, last in connection.execute(sql.encode(), (zone,)).fetchall()]
    return sorted(found)


def _entries(first: int, last: int) -> str:
    return f"entries {first} to {last}" if last > first else f"entry {first}"


class _Stored:
    """The tree as the database keeps it: runs of hashes, level by level."""

    def __init__(self, connection: psycopg.Connection[Any], zone: str) -> None:
        self._connection = connection
        self._zone = zone
        self._runs: dict[int, tuple[int, bytes]] = {}
        row = connection.execute(
            "SELECT first + count FROM ledger.hashes WHERE zone = %s AND level = 0 ORDER BY first DESC LIMIT 1", (zone,)
        ).fetchone()
        self.size = int(row[0]) if row is not None else 0

    def leaf(self, entry: int) -> bytes | None:
        """The hash that was recorded for an entry."""
        return self.hash(0, entry)

    def hash(self, level: int, number: int) -> bytes | None:
        """One hash; None where there is none. Quick for numbers that grow."""
        first, data = self._runs.get(level, (0, b""))
        offset = number - first
        if not 0 <= offset < len(data) // HASH_BYTES:
            row = self._connection.execute(
                "SELECT first, hashes FROM ledger.hashes WHERE zone = %s AND level = %s AND first <= %s"
                " ORDER BY first DESC LIMIT 1",
                (self._zone, level, number),
            ).fetchone()
            if row is None:
                return None
            first, data = row[0], bytes(row[1])
            self._runs[level] = (first, data)
            offset = number - first
            if not 0 <= offset < len(data) // HASH_BYTES:
                return None
        return data[offset * HASH_BYTES : (offset + 1) * HASH_BYTES]

    def tile(self, tile: Tile) -> bytes:
        """A tile's bytes; raises :class:`Unreadable` where some of its hashes are missing."""
        start = tile.index * TILE_WIDTH
        found = [self.hash(tile.level, number) for number in range(start, start + tile.width)]
        hashes = [item for item in found if item is not None]
        if len(hashes) != tile.width:
            raise Unreadable(f"{tile.path}: the stored tree lacks hashes")
        return b"".join(hashes)
