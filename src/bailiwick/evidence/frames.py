"""Frames: the form of evidence inside a spool segment, and how to read it back when parts are torn or damaged.

::

    magic     4   FF 42 57 FE; FF and FE never occur in UTF-8, so no event can look like a frame
    kind      1   0 open, 1 event, 2 decision input
    zone      1   bytes of the zone's name that precede the payload
    reserved  2   zero
    length    4   bytes of zone and payload
    sequence  8   number of the frame in its source, counted over all segments
    durable   4   how far the segment was durable when the frame was made
    crc       4   CRC-32 of everything above and of zone and payload

All integers are little-endian. ``durable`` lets a reader prove whether damaged bytes had been acknowledged: a later
frame vouches for everything before the offset it names, and the open frame of a later segment says where the
acknowledged bytes of the segments before it end.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from enum import IntEnum
from zlib import crc32

MAGIC = b"\xffBW\xfe"
MAX_PAYLOAD = 512 << 10
_HEAD = struct.Struct("<4sBBHIQI")
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEAD.size + _CRC.size
_MAX_LENGTH = MAX_PAYLOAD + 255
_BLOCK = 4096


class Kind(IntEnum):
    """What a frame carries."""

    OPEN = 0
    EVENT = 1
    INPUT = 2


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame whose checksum holds. It spans ``offset`` to ``end`` of its segment."""

    kind: int
    zone: str
    payload: bytes
    sequence: int
    durable: int
    offset: int
    end: int


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes ``offset`` to ``end`` that are no frame although a frame follows, or should."""

    offset: int
    end: int
    data: bytes


@dataclass(slots=True)
class Reading:
    """What was read from an offset on: frames and damage in order, where to go on, and what stands there.

    ``tail`` is ``more`` (the size limit was reached), ``end`` (zeros or the end of the file) or ``torn`` (other bytes
    that are no frame, and no frame after them unless the reading was not ``final``).
    """

    frames: list[Frame] = field(default_factory=list)
    damage: list[Damage] = field(default_factory=list)
    end: int = 0
    tail: str = "end"


def frame_size(zone: str, payload: bytes) -> int:
    """Bytes a frame takes in a segment."""
    return HEADER_BYTES + len(zone.encode()) + len(payload)


def encode_frame(kind: int, zone: str, payload: bytes, sequence: int, durable: int) -> bytes:
    """The bytes of one frame."""
    name = zone.encode()
    head = _HEAD.pack(MAGIC, kind, len(name), 0, len(name) + len(payload), sequence, durable)
    return b"".join((head, _CRC.pack(crc32(payload, crc32(name, crc32(head)))), name, payload))


def open_payload(segment: int, end: int) -> bytes:
    """What an open frame says: the last segment before it that holds acknowledged bytes (-1: none), and their end."""
    return f"{segment} {end}".encode()


def vouched(frame: Frame) -> tuple[int, int] | None:
    """Segment and end that an open frame vouches for; None when the frame is of another kind or form."""
    if frame.kind != Kind.OPEN:
        return None
    segment, _, end = frame.payload.partition(b" ")
    try:
        return int(segment), int(end)
    except ValueError:
        return None


def parse(buffer: bytes, base: int) -> tuple[list[Frame], int]:
    """The good frames standing one behind the other from the start of ``buffer``, and how many bytes they take.

    ``base`` is the offset of the buffer in its segment.
    """
    frames: list[Frame] = []
    view = memoryview(buffer)
    position, size = 0, len(buffer)
    while position + HEADER_BYTES <= size:
        magic, kind, zone_bytes, reserved, length, sequence, durable = _HEAD.unpack_from(buffer, position)
        if magic != MAGIC or reserved or length > _MAX_LENGTH or zone_bytes > length:
            break
        head_end = position + _HEAD.size
        body = position + HEADER_BYTES
        end = body + length
        if end > size:
            break
        (crc,) = _CRC.unpack_from(buffer, head_end)
        if crc32(view[body:end], crc32(view[position:head_end])) != crc:
            break
        zone = buffer[body : body + zone_bytes].decode("utf-8", "replace")
        payload = buffer[body + zone_bytes : end]
        frames.append(Frame(kind, zone, payload, sequence, durable, base + position, base + end))
        position = end
    return frames, position


def next_frame(buffer: bytes) -> int:
    """Where in ``buffer`` the next good frame begins; -1 when there is none."""
    found = buffer.find(MAGIC)
    while found >= 0:
        if _good_at(buffer, found):
            return found
        found = buffer.find(MAGIC, found + 1)
    return -1


def _good_at(buffer: bytes, position: int) -> bool:
    if position + HEADER_BYTES > len(buffer):
        return False
    length = _HEAD.unpack_from(buffer, position)[4]
    if length > _MAX_LENGTH:
        return False
    frames, _ = parse(buffer[position : position + HEADER_BYTES + length], 0)
    return bool(frames)


def read(fd: int, offset: int, *, limit: int = 2 << 20, final: bool = False) -> Reading:
    """Read frames of a segment from ``offset`` on, up to about ``limit`` bytes.

    Not ``final``: the owner may be writing, so the first bytes that are no frame end the reading. ``final``: nothing is
    written any more (or the bytes have stood there for a while), so damage is told apart from the end by looking for a
    frame behind it.
    """
    reading = Reading(end=offset)
    if not final and not os.pread(fd, HEADER_BYTES, offset).strip(b"\0"):
        # zeros where a header must stand are the end so far, whatever a half-done write shows behind them
        return reading
    window = max(limit, HEADER_BYTES + _MAX_LENGTH)
    buffer = os.pread(fd, window, offset)
    reading.frames, used = parse(buffer, offset)
    reading.end = offset + used
    rest = buffer[used:]
    if used and len(buffer) == window and len(rest) < HEADER_BYTES + _MAX_LENGTH:
        reading.tail = "more"  # the window may have cut a frame
        return reading
    if not final:
        reading.tail = "torn" if rest[:HEADER_BYTES].strip(b"\0") else "end"
        return reading
    rest += _rest_of(fd, offset + len(buffer))
    found = next_frame(rest)
    if found > 0:
        reading.damage.append(Damage(reading.end, reading.end + found, rest[:found]))
        reading.end += found
        reading.tail = "more"
    else:
        reading.tail = "torn" if rest.strip(b"\0") else "end"
    return reading


def torn_bytes(fd: int, offset: int) -> bytes:
    """What stands behind the last good frame, without the zeros after it."""
    return _rest_of(fd, offset).rstrip(b"\0")


def written_end(fd: int, offset: int) -> int:
    """Where writing has come to, by bisection: frames stand without gaps and only zeros follow them.

    Exact but for zeros that end the last payload; in any case beyond the beginning of the last frame.
    """
    low, high = offset // _BLOCK, (os.fstat(fd).st_size + _BLOCK - 1) // _BLOCK
    while low < high:
        middle = (low + high) // 2
        if os.pread(fd, _BLOCK, middle * _BLOCK).strip(b"\0"):
            low = middle + 1
        else:
            high = middle
    if low == 0:
        return offset
    start = (low - 1) * _BLOCK
    return max(offset, start + len(os.pread(fd, _BLOCK, start).rstrip(b"\0")))


def _rest_of(fd: int, offset: int) -> bytes:
    parts = []
    while chunk := os.pread(fd, 8 << 20, offset):
        parts.append(chunk)
        offset += len(chunk)
    return b"".join(parts)
