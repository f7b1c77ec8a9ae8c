"""Reading the spools of a machine: which sources there are, what is new in each, and what was lost or torn.

A reader never changes anything: it answers what it found and where it would stand after it. The sequencer commits that
position together with the rows and only then tells the reader to move on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from bailiwick.evidence.frames import Reading, read, torn_bytes, vouched, written_end
from bailiwick.evidence.records import DeadLetter, EventRow, InputRow, record_of
from bailiwick.evidence.spool import owner_alive

_SETTLE_S = 1.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a source is read from next.

    ``next_sequence`` is the frame number expected there, -1 when unknown; ``unsure_from`` where damage begins of which
    no later frame has said yet whether it had been acknowledged, -1 for none.
    """

    segment: int
    offset: int = 0
    next_sequence: int = -1
    unsure_from: int = -1


@dataclass(slots=True)
class Portion:
    """What was found in one source, the ``before`` and ``after`` places, and what became of the source.

    ``read_to``: the offset reached in the segment of ``before``. ``lost``: acknowledged bytes that cannot be read back.
    ``finished``: the segment of ``before`` holds nothing more. ``gone``: the owner is dead and everything was read.
    ``more``: there is more to read at once.
    """

    source: str
    before: Place
    after: Place
    read_to: int = 0
    events: list[EventRow] = field(default_factory=list)
    inputs: list[InputRow] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    finished: bool = False
    gone: bool = False
    more: bool = False

    def __bool__(self) -> bool:
        return self.before != self.after or bool(self.dead) or self.finished or self.gone


class SourceReader:
    """Reads one source from a place on."""

    def __init__(self, directory: Path) -> None:
        self.source = directory.name
        self.directory = directory
        self._fd = -1
        self._fd_segment = -1
        self._stuck: tuple[Place, float] | None = None

    def segments(self) -> list[int]:
        """Numbers of the segments on disk, in order."""
        return sorted(int(path.stem) for path in self.directory.glob("*.seg") if path.stem.isdigit())

    def path(self, segment: int) -> Path:
        """The file of a segment."""
        return self.directory / f"{segment:08d}.seg"

    def read(self, place: Place, limit: int) -> Portion:
        """Everything readable from ``place`` on within one segment, up to about ``limit`` bytes."""
        # in this order: what is written before the owner dies, or the next segment opens, is then read
        alive = owner_alive(self.directory)
        succeeded, acknowledged = self._said_by_successors(place.segment)
        closed = succeeded or not alive
        settled = self._settled(place)
        portion = Portion(self.source, place, place, place.offset)
        fd = self._open(place.segment)
        if fd < 0:
            return self._missing(portion, acknowledged, closed)
        reading = read(fd, place.offset, limit=limit, final=closed or settled)
        self._take(portion, place.segment, reading)
        portion.more = reading.tail == "more"
        if portion.more:
            return portion
        if closed:
            self._finish(portion, fd, reading, acknowledged)
        elif reading.tail == "torn" and not portion and (self._stuck is None or settled):
            self._stuck = (place, time.monotonic())
        return portion

    def after(self, segment: int) -> Place | None:
        """Where reading goes on once ``segment`` is finished; None while there is no later one."""
        later = [number for number in self.segments() if number > segment]
        return Place(later[0]) if later else None

    def backlog(self, place: Place) -> int:
        """About how many bytes wait behind ``place``."""
        total = 0
        for segment in self.segments():
            if segment < place.segment:
                continue
            start = place.offset if segment == place.segment else 0
            fd = self._open(segment) if segment == place.segment else os.open(self.path(segment), os.O_RDONLY)
            try:
                total += max(0, written_end(fd, start) - start)
            finally:
                if segment != place.segment:
                    os.close(fd)
        return total

    def oldest(self, place: Place) -> datetime | None:
        """When the first event behind ``place`` happened; None when none waits there."""
        for segment in self.segments():
            if segment < place.segment:
                continue
            fd = os.open(self.path(segment), os.O_RDONLY)
            try:
                frames = read(fd, place.offset if segment == place.segment else 0, limit=1).frames
            finally:
                os.close(fd)
            for frame in frames:
                record = record_of(self.source, segment, frame)
                if isinstance(record, EventRow):
                    return record.at
        return None

    def close(self) -> None:
        """Let go of the open segment."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = self._fd_segment = -1

    def _open(self, segment: int) -> int:
        if segment != self._fd_segment:
            self.close()
            try:
                self._fd = os.open(self.path(segment), os.O_RDONLY)
            except FileNotFoundError:
                return -1
            self._fd_segment = segment
        return self._fd

    def _said_by_successors(self, segment: int) -> tuple[bool, int | None]:
        """Whether a later segment was opened, and how far ``segment`` was acknowledged if one of them says so."""
        succeeded = False
        for later in self.segments():
            if later <= segment:
                continue
            fd = os.open(self.path(later), os.O_RDONLY)
            try:
                frames = read(fd, 0, limit=1).frames
            finally:
                os.close(fd)
            said = vouched(frames[0]) if frames else None
            if said is None:
                continue
            succeeded = True
            if said[0] == segment:
                return True, said[1]
            if said[0] < segment:
                return True, 0  # it was condemned before anything in it was acknowledged
        return succeeded, None

    def _settled(self, place: Place) -> bool:
        """Whether the bytes at ``place`` have been no frame for so long that no write can be under way there."""
        if self._stuck is None or self._stuck[0] != place:
            self._stuck = None
            return False
        return time.monotonic() - self._stuck[1] > _SETTLE_S

    def _take(self, portion: Portion, segment: int, reading: Reading) -> None:
        expected, unsure = portion.before.next_sequence, portion.before.unsure_from
        for frame in reading.frames:
            if 0 <= unsure < frame.durable:
                portion.lost.append(f"{self.source}/{segment:08d}.seg: acknowledged bytes from {unsure} on are damaged")
                unsure = -1
            if 0 <= expected != frame.sequence:
                missing = f"{self.source}/{segment:08d}.seg: frames {expected} to {frame.sequence - 1} were taken out"
                portion.lost.append(missing)
                portion.dead.append(DeadLetter(self.source, segment, frame.offset, "", f"missing: {missing}", b""))
            expected = frame.sequence + 1
            record = record_of(self.source, segment, frame)
            if isinstance(record, EventRow):
                portion.events.append(record)
            elif isinstance(record, InputRow):
                portion.inputs.append(record)
            elif record is not None:
                portion.dead.append(record)
        for damage in reading.damage:
            reason = f"damaged: {len(damage.data)} bytes are no frame"
            portion.dead.append(DeadLetter(self.source, segment, damage.offset, "", reason, damage.data))
            unsure, expected = (damage.offset if unsure < 0 else unsure), -1
        portion.after, portion.read_to = Place(segment, reading.end, expected, unsure), reading.end

    def _finish(self, portion: Portion, fd: int, reading: Reading, acknowledged: int | None) -> None:
        """The segment gets no more frames: account for what stands behind the last good one, and move on."""
        torn = torn_bytes(fd, reading.end)
        segment, unsure = portion.after.segment, portion.after.unsure_from
        if acknowledged is not None and reading.end < acknowledged:
            what = f"{self.source}/{segment:08d}.seg: acknowledged bytes {reading.end} to {acknowledged} are gone"
            portion.lost.append(what)
            portion.dead.append(DeadLetter(self.source, segment, reading.end, "", f"lost: {what}", torn))
        elif torn and acknowledged is None:
            # no frame vouches for these bytes: a write that its owner did not live to acknowledge. Kept all the same.
            reason = f"torn: {len(torn)} bytes behind the last frame"
            portion.dead.append(DeadLetter(self.source, segment, reading.end, "", reason, torn))
        if acknowledged is not None and 0 <= unsure < acknowledged:
            portion.lost.append(f"{self.source}/{segment:08d}.seg: acknowledged bytes from {unsure} on are damaged")
        portion.finished = True
        self._next_segment(portion)

    def _missing(self, portion: Portion, acknowledged: int | None, closed: bool) -> Portion:
        place = portion.before
        if not closed:
            return portion
        # behind a finished segment there may be none: its owner died before it needed one
        never_was = place.segment > 0 and place.offset == 0 and self.after(place.segment) is None
        if not never_was and (acknowledged is None or place.offset < acknowledged):
            what = f"{self.source}/{place.segment:08d}.seg: the file is gone from offset {place.offset} on"
            portion.lost.append(what)
            portion.dead.append(DeadLetter(self.source, place.segment, place.offset, "", f"lost: {what}", b""))
        portion.finished = True
        self._next_segment(portion)
        return portion

    def _next_segment(self, portion: Portion) -> None:
        segment = portion.before.segment
        later = [number for number in self.segments() if number > segment]
        if later:
            if later[0] != segment + 1:
                what = f"{self.source}: segments {segment + 1} to {later[0] - 1} are gone"
                portion.lost.append(what)
                portion.dead.append(DeadLetter(self.source, segment + 1, 0, "", f"lost: {what}", b""))
            portion.after = Place(later[0])
            portion.more = True
        else:
            portion.gone = True


def source_names(root: Path) -> set[str]:
    """The sources of a machine."""
    return {entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith(".")}


def waiting(root: Path, reached: Mapping[str, Place]) -> tuple[int, datetime | None]:
    """How many bytes wait in all sources behind the places ``reached``, and when the oldest event of them happened."""
    total, oldest = 0, None
    for name in source_names(root) if root.exists() else ():
        reader, place = SourceReader(root / name), reached.get(name, Place(0))
        try:
            total += reader.backlog(place)
            at = reader.oldest(place)
        except OSError:
            continue  # that it cannot be read is told by whoever reads it
        finally:
            reader.close()
        if at is not None and (oldest is None or at < oldest):
            oldest = at
    return total, oldest
