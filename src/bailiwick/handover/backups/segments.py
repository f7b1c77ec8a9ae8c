"""Places in PostgreSQL's write-ahead log and the segments that hold them.

A place (LSN) is 64 bits, written as two hexadecimal halves: ``0/2000028``. A segment is named by its timeline and the
number of its first place in units of the segment size: eight hexadecimal digits of timeline, eight of log, eight of
segment (PostgreSQL's documentation, "WAL Internals").
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

SEGMENT = re.compile(r"[0-9A-F]{24}")
HISTORY = re.compile(r"[0-9A-F]{8}\.history")
_STORED = re.compile(r"wal/([0-9A-F]{24}|[0-9A-F]{8}\.history)-([0-9a-f]{64})\.gz")
_LOG = 1 << 32


def lsn(text: str) -> int:
    """The place that ``0/2000028`` means; raises ValueError."""
    high, separator, low = text.partition("/")
    if not separator:
        raise ValueError(f"{text!r} is no place in a write-ahead log")
    return int(high, 16) << 32 | int(low, 16)


def lsn_text(place: int) -> str:
    """The other way round."""
    return f"{place >> 32:X}/{place & 0xFFFFFFFF:X}"


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """A segment: its timeline and its number, counted from the beginning of the log."""

    timeline: int
    number: int

    @classmethod
    def holding(cls, timeline: int, place: int, size: int) -> Segment:
        """The segment that holds ``place``."""
        return cls(timeline, place // size)

    @classmethod
    def named(cls, name: str, size: int) -> Segment:
        """The segment of that file name; raises ValueError."""
        if not SEGMENT.fullmatch(name):
            raise ValueError(f"{name!r} names no segment")
        return cls(int(name[:8], 16), int(name[8:16], 16) * (_LOG // size) + int(name[16:], 16))

    def name(self, size: int) -> str:
        """Its file name."""
        log, number = divmod(self.number, _LOG // size)
        return f"{self.timeline:08X}{log:08X}{number:08X}"

    @property
    def following(self) -> Segment:
        """The next one."""
        return Segment(self.timeline, self.number + 1)

    def end(self, size: int) -> int:
        """The first place behind it."""
        return (self.number + 1) * size


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of the log in a store: what it is called there, what it is, and the SHA-256 of the stored bytes."""

    object: str
    file: str
    sha256: str


def object_name(file: str, sha256: str) -> str:
    """What a file of the log is called in a store: with the hash of what is stored, so that damage is seen."""
    return f"wal/{file}-{sha256}.gz"


def stored_files(names: Iterable[str]) -> list[StoredFile]:
    """The files of the log among the ``names`` of a store's objects."""
    found = ((name, _STORED.fullmatch(name)) for name in names)
    return [StoredFile(name, match[1], match[2]) for name, match in found if match]


def doubled(files: Iterable[StoredFile]) -> list[str]:
    """Files of which a store has two: two servers that both took themselves for the same one wrote there."""
    seen: set[str] = set()
    return sorted({each.file for each in files if each.file in seen or seen.add(each.file)})  # type: ignore[func-returns-value]


@dataclass(frozen=True, slots=True)
class Run:
    """What of the log can be replayed behind a backup: segments without a gap, and the first one missing before later
    ones, None where nothing is known to be missing."""

    names: Sequence[str]
    missing: str | None


def run_from(first: Segment, names: Collection[str], size: int) -> Run:
    """The segments from ``first`` on, over changes of timeline, among the file ``names`` that there are.

    A later timeline goes on with the segment in which it branched off, so a number may be there more than once.
    """
    there: dict[int, set[int]] = {}
    for name in names:
        if SEGMENT.fullmatch(name):
            segment = Segment.named(name, size)
            if segment.timeline >= first.timeline and segment.number >= first.number:
                there.setdefault(segment.number, set()).add(segment.timeline)
    found: list[str] = []
    number = first.number
    while timelines := there.get(number):
        found += [Segment(timeline, number).name(size) for timeline in sorted(timelines)]
        number += 1
    later = [each for each in there if each > number]
    return Run(found, Segment(first.timeline, number).name(size) if later else None)
