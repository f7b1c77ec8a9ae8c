from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bailiwick.evidence.frames import (
    HEADER_BYTES,
    MAGIC,
    MAX_PAYLOAD,
    Damage,
    Frame,
    Kind,
    encode_frame,
    open_payload,
    parse,
    read,
    torn_bytes,
    vouched,
    written_end,
)

SIZE = 64 << 10
payloads = st.lists(st.binary(max_size=300) | st.just(MAGIC * 3), max_size=12)


@contextmanager
def segment(content: bytes, size: int = SIZE) -> Iterator[int]:
    with tempfile.TemporaryFile() as stream:
        stream.write(content.ljust(size, b"\0"))
        stream.flush()
        yield stream.fileno()


def written(bodies: list[bytes]) -> tuple[bytes, list[int]]:
    """Frames one behind the other, and where each begins (and the last ends)."""
    content, starts = b"", [0]
    for number, body in enumerate(bodies):
        content += encode_frame(Kind.EVENT, "default", body, number, starts[-1])
        starts.append(len(content))
    return content, starts


def read_all(fd: int, *, final: bool) -> tuple[list[Frame], list[Damage], int, str]:
    frames, damage, place = [], [], 0
    while True:
        reading = read(fd, place, limit=1, final=final)
        frames += reading.frames
        damage += reading.damage
        assert reading.end > place or reading.tail != "more"
        place = reading.end
        if reading.tail != "more":
            return frames, damage, place, reading.tail


@given(payloads)
def test_what_was_written_is_read(bodies: list[bytes]) -> None:
    content, starts = written(bodies)
    with segment(content) as fd:
        frames, damage, end, tail = read_all(fd, final=False)
    assert [frame.payload for frame in frames] == bodies
    assert [frame.sequence for frame in frames] == list(range(len(bodies)))
    assert [frame.offset for frame in frames] == starts[:-1]
    assert (damage, end, tail) == ([], len(content), "end")


@settings(deadline=None)
@given(payloads, st.data())
def test_mutated_bytes_never_pass_and_never_hide_the_rest(bodies: list[bytes], data: st.DataObject) -> None:
    """Whatever a few bytes become: no frame that was not written is read, and every untouched one is."""
    content, starts = written(bodies)
    changes = data.draw(
        st.dictionaries(st.integers(0, max(len(content) - 1, 0)), st.integers(0, 255), max_size=6)
        if content
        else st.just({})
    )
    mutated = bytearray(content)
    for position, value in changes.items():
        mutated[position] = value
    touched = {
        index
        for index in range(len(bodies))
        for position in changes
        if starts[index] <= position < starts[index + 1] and mutated[position] != content[position]
    }
    with segment(bytes(mutated)) as fd:
        frames, damage, end, _ = read_all(fd, final=True)
    intact = set(range(len(bodies))) - touched
    assert {frame.sequence for frame in frames} == intact
    assert all(frame.payload == bodies[frame.sequence] for frame in frames)
    covered = sum(frame.end - frame.offset for frame in frames) + sum(hole.end - hole.offset for hole in damage)
    assert covered == end


@settings(deadline=None)
@given(st.binary(max_size=2000))
def test_arbitrary_bytes_are_read_without_failing(noise: bytes) -> None:
    with segment(noise) as fd:
        frames, _, _, tail = read_all(fd, final=True)
    assert frames == []
    assert tail == ("torn" if noise.strip(b"\0") else "end")


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=6), st.data())
def test_a_torn_tail_ends_the_reading(bodies: list[bytes], data: st.DataObject) -> None:
    content, starts = written(bodies)
    cut = data.draw(st.integers(starts[-2], len(content) - 1))
    with segment(content[:cut]) as fd:
        frames, damage, end, tail = read_all(fd, final=True)
        torn = torn_bytes(fd, end)
    assert [frame.payload for frame in frames] == bodies[:-1]
    assert damage == []
    assert end == starts[-2]
    assert torn == content[starts[-2] : cut].rstrip(b"\0")
    assert tail == ("torn" if torn else "end")


def test_zeros_hide_what_stands_behind_them_only_while_the_owner_writes() -> None:
    first, second = (encode_frame(Kind.EVENT, "z", b"x" * 50, number, 0) for number in range(2))
    with segment(first + bytes(100) + second) as fd:
        live, _, _, tail = read_all(fd, final=False)
        assert (len(live), tail) == (1, "end")
        frames, damage, _, _ = read_all(fd, final=True)
    assert [frame.sequence for frame in frames] == [0, 1]
    assert [(hole.offset, hole.end) for hole in damage] == [(len(first), len(first) + 100)]


def test_damage_at_the_place_of_reading_waits_until_it_is_settled() -> None:
    frame = encode_frame(Kind.EVENT, "z", b"x" * 50, 1, 0)
    with segment(b"garbage" + frame) as fd:
        assert read(fd, 0).tail == "torn"
        assert read(fd, 0, final=True).damage[0].data == b"garbage"


def test_a_frame_cut_by_the_window_is_read_with_the_next() -> None:
    bodies = [os.urandom(MAX_PAYLOAD) for _ in range(3)]
    content, _ = written(bodies)
    with segment(content, size=4 << 20) as fd:
        frames, damage, _, tail = read_all(fd, final=False)
    assert [frame.payload for frame in frames] == bodies
    assert (damage, tail) == ([], "end")


@pytest.mark.parametrize("zone", ["", "default", "zürich"])
def test_the_zone_is_kept(zone: str) -> None:
    frames, used = parse(encode_frame(Kind.INPUT, zone, b"payload", 7, 9), 100)
    assert frames == [Frame(Kind.INPUT, zone, b"payload", 7, 9, 100, 100 + used)]
    assert used == HEADER_BYTES + len(zone.encode()) + 7


@given(st.lists(st.binary(min_size=1, max_size=3000).map(lambda body: body + b"}"), max_size=8))
def test_the_written_end_is_found_without_reading_everything(bodies: list[bytes]) -> None:
    content, _ = written(bodies)
    with segment(content) as fd:
        assert written_end(fd, 0) == len(content)


def test_an_open_frame_vouches() -> None:
    frames, _ = parse(encode_frame(Kind.OPEN, "", open_payload(3, 4711), 0, 0), 0)
    assert vouched(frames[0]) == (3, 4711)
    others, _ = parse(encode_frame(Kind.OPEN, "", b"nonsense", 0, 0), 0)
    assert vouched(others[0]) is None
