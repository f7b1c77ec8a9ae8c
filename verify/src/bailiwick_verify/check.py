"""Entries in order, held against every tree that anybody signed of them.

An *anchor* is a size and a root that must be met on the way: the log's own heads, a checkpoint that witnesses signed, a
head remembered from earlier, what another copy of the log shows. The first that is not met says between which entries
the log was changed; hash tiles then say which entry it is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from bailiwick_verify.checkpoint import Checkpoint, OpenedCheckpoint, open_checkpoint, parse_checkpoint
from bailiwick_verify.continuation import judge_old_head
from bailiwick_verify.epochs import Continued, kept_of, split_origin
from bailiwick_verify.merkle import (
    EMPTY_ROOT,
    TILE_WIDTH,
    Edge,
    FullTile,
    consistency_path,
    range_hash,
    verify_consistency,
)
from bailiwick_verify.note import NoteError, VerifierKey, parse_note
from bailiwick_verify.report import LogReport, Progress
from bailiwick_verify.source import Source, Unreadable
from bailiwick_verify.tiles import Tile, TileError, TileNodes, hashes_of

HOUR_S = 3600
MAX_GAP_S = HOUR_S + 300
"""Heads are signed at least hourly; the rest is for restarts and slow disks."""
SIMULATED = b'"simulated_clock":true'
_KEEP_S = 10.0

FetchTile = Callable[[Tile], bytes]


@dataclass(frozen=True, slots=True)
class Anchor:
    """After ``size`` entries the root must be ``root``, says ``who``. ``fork``: he is not the log's keeper."""

    size: int
    root: bytes
    who: str
    fork: bool = False


@dataclass(frozen=True, slots=True)
class Other:
    """Another copy of the same log: its tiles, and its signed checkpoint."""

    tile: FetchTile
    checkpoint: Checkpoint

    @classmethod
    def of(cls, source: Source, keys: Sequence[VerifierKey]) -> Other:
        """The copy that ``source`` reads; raises NoteError and :class:`Unreadable`."""
        opened = open_checkpoint(source("checkpoint"), keys)
        return cls(lambda tile: source(tile.path), opened.checkpoint)


class TreeCheck:
    """Builds the tree from leaves given in order, and holds it against ``anchors`` (sorted by size).

    ``known``: an earlier check to go on from. ``keep``: called now and then with how far it came. ``proven``: the edge
    as it was at the anchor over ``prove_at`` entries.
    """

    def __init__(
        self,
        report: LogReport,
        anchors: Iterable[Anchor],
        known: Progress | None,
        keep: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        self._report = report
        self._anchors = iter(anchors)
        self._known = known
        self._keep = keep
        self._kept_at = time.monotonic()
        start = (known.reading or known.edge) if known is not None else Edge()
        self.edge = start.copy()
        self.good = known.edge.size if known is not None else 0
        self.broken: Anchor | None = None
        self._before = self._outside = self.good
        self.prove_at = -1
        self.proven: Edge | None = None
        self._next: Anchor | None = None
        self._last: Anchor | None = None
        self._advance()

    @property
    def size(self) -> int:
        """How many leaves there are."""
        return self.edge.size

    def add(self, leaves: Sequence[bytes]) -> list[FullTile]:
        """The next leaves; answers the tiles they filled."""
        full: list[FullTile] = []
        size = self.edge.size
        end = size + len(leaves)
        taken = 0
        while self._next is not None and self._next.size <= end:
            cut = self._next.size - size
            if cut > taken:
                full += self.edge.extend(leaves[taken:cut])
                taken = cut
            self._hold(self._next)
            self._advance()
        full += self.edge.extend(leaves[taken:] if taken else leaves)
        if time.monotonic() - self._kept_at > _KEEP_S and self._known is not None and self.broken is None:
            self._kept_at = time.monotonic()
            known = self._known
            simulated = self._report.simulated
            self._keep(Progress(known.origin, known.edge, known.checkpoint, known.head_at, simulated, self.edge.copy()))
        return full

    def finish(self) -> None:
        """There are no more leaves: what the rest of the anchors signed was cut off."""
        while self._next is not None:
            if self._next.size <= self.size:
                self._hold(self._next)
            else:
                why = f"cut off: {self._next.who} has {self._next.size} entries, {self.size} are there"
                self._report.fail(why, self.size)
            self._advance()

    def _advance(self) -> None:
        self._next = next(self._anchors, None)
        while self._next is not None and self._next.size < self.edge.size:
            self._next = next(self._anchors, None)  # held when it was passed, or by a proof

    def _hold(self, anchor: Anchor) -> None:
        last, self._last = self._last, anchor
        if last is not None and last.size == anchor.size and last.root != anchor.root:
            self._report.fail(f"a fork: {last.who} and {anchor.who} are different trees of {anchor.size} entries")
            if self.broken is None:
                self.broken, self.good = anchor, self._outside if last.fork or anchor.fork else self._before
            return
        if self.broken is not None:
            return
        if self.edge.root() == anchor.root:
            if anchor.size > self.good:
                self._before, self.good = self.good, anchor.size
            if anchor.fork:
                self._outside = anchor.size
            if anchor.size == self.prove_at:
                self.proven = self.edge.copy()
        else:
            self.broken = anchor
            if anchor.fork:  # the log's own heads fit the log, whichever it is
                self.good = self._outside
            what = "a fork: the entries are not those of" if anchor.fork else "the entries are not those that"
            signs = "" if anchor.fork else " signs"
            self._report.fail(f"{what} {anchor.who}{signs}, over {anchor.size}")


def locate(
    report: LogReport, check: TreeCheck, leaves: Callable[[int], Iterator[bytes]], own: FetchTile, other: Other | None
) -> None:
    """Say which entry is the first bad one after an anchor was not met.

    ``leaves``: the leaf hashes from an entry on. The tiles of ``other`` are asked first, then the log's ``own``: of a
    log that forged entries and tiles together only the stretch is known in which it did.
    """
    broken = check.broken
    if broken is None:
        return
    asked: list[tuple[FetchTile, int]] = []
    if other is not None:
        asked.append((other.tile, other.checkpoint.size))
    asked.append((own, report.size))
    for tile, size in asked:
        try:
            found = _first_difference(leaves, tile, check.good, min(broken.size, size), size)
        except (TileError, Unreadable):
            continue
        if found is not None:
            report.fail(f"entry {found} is not what was logged", found)
            return
    last = broken.size - 1
    where = f"entries {check.good} to {last}" if last > check.good else f"entry {check.good}"
    report.fail(f"what was changed is among {where}", check.good)


def _first_difference(
    leaves: Callable[[int], Iterator[bytes]], tile: FetchTile, first: int, end: int, size: int
) -> int | None:
    start = first // TILE_WIDTH * TILE_WIDTH
    recorded: list[bytes] = []
    for entry, leaf in zip(range(start, end), leaves(start), strict=False):
        offset = entry % TILE_WIDTH
        if offset == 0:
            wanted = Tile(0, entry // TILE_WIDTH, min(TILE_WIDTH, size - entry))
            recorded = hashes_of(tile(wanted), wanted.width)
        if entry >= first and leaf != recorded[offset]:
            return entry
    return None


# ---------------------------------------------------------------------- what is held against it


def root_within(tile: FetchTile, size: int, whole: Checkpoint) -> bytes:
    """The root that the signed tree ``whole`` had after ``size`` entries, proven from its tiles.

    Raises :class:`TileError` where the tiles do not prove one, and what ``tile`` raises.
    """
    if size == 0:
        return EMPTY_ROOT
    if size == whole.size:
        return whole.root
    nodes = TileNodes(whole.size, tile)
    root = range_hash(nodes, 0, size)
    if not verify_consistency(size, whole.size, root, whole.root, consistency_path(size, whole.size, nodes)):
        raise TileError(f"the hash tiles do not lead to the checkpoint over {whole.size}")
    return root


def is_later(report: LogReport, origin: str) -> bool:
    """Whether ``origin`` is another log than the one that is checked, or a continuation that it knows nothing of."""
    base, epoch = split_origin(report.origin)
    return split_origin(origin)[0] != base or split_origin(origin)[1] > epoch


def own_head(report: LogReport, head: Checkpoint, lines: Sequence[Continued]) -> bool:
    """Whether a head that the log itself keeps is one of its tree: it has no business with one of what it lost."""
    if is_later(report, head.origin):
        report.fail(f"a head over {head.size} is of another log: {head.origin}", max(head.size - 1, 0))
        return False
    kept = kept_of(lines, head.epoch)
    if kept is not None and head.size > kept:
        why = f"the log keeps a head of {head.origin} over {head.size}, and says that only {kept} entries were kept"
        report.fail(f"{why}: it hides more than was lost", kept)
        return False
    return True


def anchors_of(report: LogReport, other: Other, size: int, lines: Sequence[Continued] = ()) -> list[Anchor]:
    """What another copy says of the part that both hold. Raises as :func:`root_within`."""
    theirs = other.checkpoint
    if is_later(report, theirs.origin):
        report.fail(f"the other copy is of another log: {theirs.origin}")
        return []
    common = min(size, theirs.size)
    if judge_old_head(lines, theirs.origin, theirs.size, theirs.root, "the other copy", report.fail):
        ahead = theirs.size - size
        if ahead:
            report.remarks.append(f"the other copy is {abs(ahead)} entries {'longer' if ahead > 0 else 'shorter'}")
    else:
        common = min(common, kept_of(lines, theirs.epoch) or 0)
        report.remarks.append(f"the other copy has {theirs.size - common} entries that were lost")
    return [Anchor(common, root_within(other.tile, common, other.checkpoint), "the other copy", fork=True)]


def remembered_heads(
    report: LogReport, notes: Iterable[bytes], keys: Sequence[VerifierKey], lines: Sequence[Continued] = ()
) -> list[Anchor]:
    """Heads of the log that somebody kept; raises NoteError for one that is not genuine."""
    anchors = []
    for note in notes:
        head = open_checkpoint(note, keys).checkpoint
        if is_later(report, head.origin):
            report.fail(f"the remembered head is of another log: {head.origin}")
        elif judge_old_head(lines, head.origin, head.size, head.root, "the remembered head", report.fail):
            anchors.append(Anchor(head.size, head.root, "the remembered head", fork=True))
        else:
            report.remarks.append(f"the remembered head, over {head.size}, is of what was lost")
    return anchors


def hold_past(report: LogReport, known: Progress, anchors: Iterable[Anchor], tile: FetchTile, now: Checkpoint) -> bool:
    """Whether the log of now continues the one checked before, and meets the anchors that lie in that past."""
    size = known.edge.size
    try:
        if size and root_within(tile, size, now) != known.edge.root():
            report.fail(
                f"a fork: the log of now is not a continuation of the {size} entries that were checked before",
                _first_difference_in(known.edge, tile, now.size) or 0,
            )
            return False
        for anchor in anchors:
            if anchor.size < (known.reading or known.edge).size and root_within(tile, anchor.size, now) != anchor.root:
                report.fail(f"a fork: {anchor.who}, over {anchor.size}, is of another tree", max(anchor.size - 1, 0))
                return False
    except TileError as error:
        report.fail(f"the log does not prove that it continues what was checked before: {error}")
        return False
    return True


def go_on_from(
    report: LogReport, known: Progress | None, lines: Sequence[Continued], tile: FetchTile, now: Checkpoint
) -> Progress | None:
    """The earlier check as far as the log of now can go on from it; None to begin anew.

    Where entries were lost since, as far as the edge of then can tell what was kept must be what was checked. Raises
    :class:`TileError`, and what ``tile`` raises.
    """
    if known is None or not lines:
        return known
    known.reading = None  # what it had read of continuations was not kept
    kept = kept_of(lines, split_origin(known.origin)[1])
    size = known.edge.size
    if kept is None or size <= kept:
        return known
    judge_old_head(lines, known.origin, size, known.edge.root(), "the earlier check", report.fail)
    different = _first_difference_in(known.edge, tile, now.size, kept)
    if different is not None:
        report.fail(
            f"a fork: of the {kept} entries that are said to be kept, not all are those checked before", different
        )
    report.remarks.append(f"of the {size} entries that were checked before, {size - kept} were lost")
    return None


def _first_difference_in(edge: Edge, tile: FetchTile, size: int, below: int = 1 << 62) -> int | None:
    """The first entry of the first subtree that differs: all that the edge of an old tree can tell. Subtrees that end
    after ``below`` entries are not looked at."""
    for level in range(len(edge.levels) - 1, -1, -1):
        hashes = edge.size >> (8 * level)
        first = hashes - len(edge.levels[level])
        if not edge.levels[level]:
            continue
        number = first // TILE_WIDTH
        width = min(TILE_WIDTH, (size >> (8 * level)) - number * TILE_WIDTH)
        if width < 1:
            continue
        for offset, (ours, theirs) in enumerate(
            zip(edge.levels[level], hashes_of(tile(Tile(level, number, width)), width), strict=False)
        ):
            if ours != theirs and (first + offset + 1) << (8 * level) <= below:
                return (first + offset) << (8 * level)
    return None


def open_head(report: LogReport, note: bytes, keys: Sequence[VerifierKey]) -> OpenedCheckpoint | None:
    """A head of the log; None, and told, where it is forged."""
    try:
        opened = open_checkpoint(note, keys)
    except NoteError as error:
        try:
            claimed = parse_checkpoint(parse_note(note).text).size
        except NoteError:
            claimed = 0
        report.fail(f"a forged head over {claimed} entries: {error}", max(claimed - 1, 0))
        return None
    if not opened.time:
        report.fail(f"the time of the head over {opened.checkpoint.size} entries is not signed")
        return None
    return opened


def simulated(entry: bytes) -> bool:
    """Whether an entry says that a simulated clock made it."""
    if SIMULATED not in entry:
        return False
    try:
        event = json.loads(entry)
    except ValueError:
        return False
    return isinstance(event, dict) and event.get("simulated_clock") is True


def check_hours(report: LogReport, heads: Iterable[tuple[int, int]], max_gap: float) -> None:
    """Tell of every stretch longer than ``max_gap`` seconds in which nothing was signed.

    ``heads``: when each was signed, and its size. A log is signed every hour even when nothing happens; where it was
    not, it stood still, or what was signed was taken away.
    """
    before: tuple[int, int] | None = None
    for at, size in sorted(heads):
        if before is not None and at - before[0] > max_gap:
            report.miss_hours(before[0], at, before[1])
        before = (at, max(size, before[1]) if before is not None else size)
