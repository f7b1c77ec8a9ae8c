"""Checks a whole log, from a folder or from a server, entry by entry against its signed checkpoint.

The entries are hashed and the tree is built from them alone; hash tiles are used to say which entry is the first that
is not what was logged, and to prove that the log of now continues one that was checked before (:class:`Progress`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from bailiwick_verify.check import (
    SIMULATED,
    Anchor,
    Other,
    TreeCheck,
    anchors_of,
    check_hours,
    go_on_from,
    hold_past,
    is_later,
    locate,
    open_head,
    own_head,
    remembered_heads,
    root_within,
    simulated,
)
from bailiwick_verify.checkpoint import Checkpoint, OpenedCheckpoint, open_checkpoint
from bailiwick_verify.continuation import Statements, judge_old_head
from bailiwick_verify.epochs import split_origin
from bailiwick_verify.merkle import TILE_WIDTH, Edge, leaf_hash
from bailiwick_verify.note import NoteError, VerifierKey
from bailiwick_verify.report import LogReport, Progress, utc
from bailiwick_verify.source import Folder, Server, Source, Unreadable
from bailiwick_verify.tiles import ENTRIES, Tile, TileError, decode_bundle, hashes_of

__all__ = ["Folder", "LogReport", "Progress", "Server", "Source", "Unreadable", "verify_log"]


def verify_log(
    fetch: Source | Callable[[str], bytes],
    keys: Sequence[VerifierKey],
    witness_keys: Sequence[VerifierKey] = (),
    *,
    quorum: int = 0,
    known: Progress | None = None,
    not_before: int = 0,
    max_gap: float = 0,
    remembered: Sequence[bytes] = (),
    against: Source | None = None,
    keep: Callable[[Progress], None] = lambda progress: None,
) -> tuple[LogReport, Progress | None]:
    """Check the log that ``fetch`` reads (a path below its prefix to bytes; raises :class:`Unreadable`).

    ``keys``: the log's, trusted from elsewhere, those of former times included. ``quorum``: how many of
    ``witness_keys`` must have signed the newest checkpoint, or the one served as cosigned. ``known``: an earlier check
    to go on from. ``not_before``: POSIX seconds before which the newest checkpoint must not have been signed (a log
    that was stopped). ``max_gap``: seconds that may lie between two heads, 0 for any. ``remembered``: signed
    checkpoints that the log must contain. ``against``: another copy. ``keep``: called with how far it came, now and
    then. Answers the report, and the progress to keep where everything held.
    """
    report, started = LogReport(), time.monotonic()
    source = fetch if isinstance(fetch, Source) else Source(fetch)
    progress = None
    try:
        check = _LogCheck(report, source, keys, witness_keys, known, keep)
        progress = check.run(quorum, not_before, max_gap, remembered, against)
    except NoteError as error:
        report.fail(f"the checkpoint is not genuine: {error}")
    except Unreadable as error:
        report.fail(f"cannot be read: {error}")
    except TileError as error:
        report.fail(f"a tile is damaged: {error}")
    report.conclude()
    report.seconds = time.monotonic() - started
    return report, progress if report.verdict != "FAIL" else None


class _LogCheck:
    """One pass over a log."""

    def __init__(
        self,
        report: LogReport,
        source: Source,
        keys: Sequence[VerifierKey],
        witness_keys: Sequence[VerifierKey],
        known: Progress | None,
        keep: Callable[[Progress], None],
    ) -> None:
        self._report = report
        self._source = source
        self._keys = list(keys)
        self._witness_keys = list(witness_keys)
        self._known = known
        self._keep = keep
        self._statements = Statements()

    def run(
        self, quorum: int, not_before: int, max_gap: float, remembered: Sequence[bytes], against: Source | None
    ) -> Progress | None:
        report = self._report
        # before the checkpoint: whoever signs goes on meanwhile, and no head is beyond a checkpoint read after it
        notes = self._source.heads(self._known.head_at if self._known is not None else 0) if max_gap else []
        served = self._served_cosigned() if quorum else None
        opened = open_checkpoint(self._source("checkpoint"), self._keys, self._witness_keys)
        now = opened.checkpoint
        report.origin, report.size = now.origin, now.size
        report.signed_at, report.witnesses = opened.time, opened.witnesses
        if not_before and opened.time < not_before:
            report.fail(f"the newest checkpoint is of {utc(opened.time)}, before {utc(not_before)}")
        lines = now.continued
        report.continued = [line.at for line in lines]
        if self._known is not None and is_later(report, self._known.origin):
            report.fail(f"the earlier check was of another log: {self._known.origin}")
            return None
        known = self._known = go_on_from(report, self._known, lines, self._tile, now)
        anchors = [Anchor(now.size, now.root, "the checkpoint")]
        heads = [head for note in notes if (head := open_head(report, note, self._keys)) is not None]
        report.heads = len(heads)
        heads = [head for head in heads if own_head(report, head.checkpoint, lines)]
        anchors += [
            Anchor(head.checkpoint.size, head.checkpoint.root, f"the head of {utc(head.time)}") for head in heads
        ]
        if max_gap:
            self._hours(heads, opened, max_gap)
        anchors += self._cosigned(opened, served, quorum)
        anchors += remembered_heads(report, remembered, self._keys, lines)
        other = Other.of(against, self._keys) if against is not None else None
        if other is not None:
            anchors += anchors_of(report, other, now.size, lines)
        anchors.sort(key=lambda anchor: anchor.size)
        if known is not None:
            if known.edge.size > now.size:
                why = f"the log has {now.size} entries, it had {known.edge.size}: it was cut off"
                report.fail(why, now.size)
                return None
            if not hold_past(report, known, anchors, self._tile, now):
                return None
            report.simulated = known.simulated
        return self._read(now, anchors, other, opened, heads)

    def _hours(self, heads: Sequence[OpenedCheckpoint], opened: OpenedCheckpoint, max_gap: float) -> None:
        signed = [(head.time, head.checkpoint.size) for head in heads]
        if self._known is not None and 0 < self._known.head_at <= opened.time:
            signed.append((self._known.head_at, self._known.edge.size))
        if not signed:
            self._report.fail("no head was kept: nobody can tell whether an hour is missing")
        check_hours(self._report, [*signed, (opened.time, opened.checkpoint.size)], max_gap)

    def _served_cosigned(self) -> bytes | None:
        try:
            return self._source("cosigned-checkpoint")
        except Unreadable:
            return None

    def _cosigned(self, opened: OpenedCheckpoint, served: bytes | None, quorum: int) -> list[Anchor]:
        """What enough witnesses signed: the newest checkpoint, or an earlier one."""
        if not quorum:
            return []
        newest = opened.checkpoint
        if len(opened.witnesses) < quorum:
            if served is None:
                why = f"{len(opened.witnesses)} known witnesses signed the checkpoint, {quorum} are needed"
                self._report.fail(why)
                return []
            try:
                opened = open_checkpoint(served, self._keys, self._witness_keys, quorum=quorum)
            except NoteError as error:
                self._report.fail(f"the cosigned checkpoint: {error}")
                return []
        cosigned, lines = opened.checkpoint, newest.continued
        self._report.witnesses, self._report.cosigned_size = opened.witnesses, cosigned.size
        who, refuse = "the checkpoint that witnesses signed", self._report.fail
        if is_later(self._report, cosigned.origin):
            refuse(f"{who} is of another log: {cosigned.origin}")
            return []
        if not judge_old_head(lines, cosigned.origin, cosigned.size, cosigned.root, who, refuse):
            refuse(
                f"{who} is of {cosigned.origin}, and of what was lost: no witness signed the log of now", cosigned.size
            )
            return []
        if cosigned.size < self._report.size:
            self._report.remarks.append(f"{self._report.size - cosigned.size} entries wait for their witnesses")
        return [Anchor(cosigned.size, cosigned.root, who, fork=True)]

    def _read(
        self,
        now: Checkpoint,
        anchors: Sequence[Anchor],
        other: Other | None,
        opened: OpenedCheckpoint,
        heads: Sequence[OpenedCheckpoint],
    ) -> Progress | None:
        report, known = self._report, self._known
        start = known if known is not None else Progress(now.origin, Edge())
        check = TreeCheck(report, anchors, start, self._keep)
        while check.size < now.size and check.broken is None:
            tile = _tile_at(check.size, now.size)
            entries = self._entries(tile)
            if entries is None:
                return None
            skip = check.size - tile.index * TILE_WIDTH
            check.add(entries[skip:])
            report.checked += len(entries) - skip
        if check.broken is not None:
            locate(report, check, self._leaves_from, self._tile, other)
            return None
        check.finish()
        report.losses = self._statements.judge(
            now.continued,
            split_origin(now.origin)[0],
            self._keys,
            self._witness_keys,
            since=start.edge.size,
            root_of=lambda size: root_within(self._tile, size, now),
            refuse=report.fail,
        )
        head_at = max([opened.time, *(head.time for head in heads)])
        return Progress(now.origin, check.edge, bytes(opened.note), head_at, report.simulated)

    def _entries(self, tile: Tile) -> list[bytes] | None:
        """The leaf hashes of a bundle; None, and told, where it is damaged."""
        report, first = self._report, tile.index * TILE_WIDTH
        data = self._source(tile.path)
        try:
            entries = decode_bundle(data)
        except TileError as error:
            report.fail(f"{tile.path}: {error}", first)
            return None
        if len(entries) != tile.width:
            why = f"{tile.path} holds {len(entries)} entries in place of {tile.width}"
            report.fail(why, self._first_of(entries, tile))
            return None
        if self._statements.in_any(data):
            for number, entry in enumerate(entries):
                self._statements.look(first + number, entry)
        if report.simulated < 0 and SIMULATED in data:
            report.simulated = next((first + n for n, entry in enumerate(entries) if simulated(entry)), -1)
        return [leaf_hash(entry) for entry in entries]

    def _first_of(self, entries: Sequence[bytes], tile: Tile) -> int:
        """The first entry of a bundle of another length that is not what the log's own hashes say."""
        first = tile.index * TILE_WIDTH
        try:
            recorded = hashes_of(self._tile(Tile(0, tile.index, tile.width)), tile.width)
        except (TileError, Unreadable):
            recorded = []
        for offset, (entry, expected) in enumerate(zip(entries, recorded, strict=False)):
            if leaf_hash(entry) != expected:
                return first + offset
        return first + min(len(entries), tile.width)

    def _leaves_from(self, first: int) -> Iterator[bytes]:
        while first < self._report.size:
            tile = _tile_at(first, self._report.size)
            yield from [leaf_hash(entry) for entry in decode_bundle(self._source(tile.path))]
            first = tile.index * TILE_WIDTH + tile.width

    def _tile(self, tile: Tile) -> bytes:
        return self._source(tile.path)


def _tile_at(entry: int, size: int) -> Tile:
    index = entry // TILE_WIDTH
    return Tile(ENTRIES, index, min(TILE_WIDTH, size - index * TILE_WIDTH))
