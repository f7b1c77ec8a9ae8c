from __future__ import annotations

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from bailiwick.kernel.ids import Ids


@given(st.lists(st.integers(1, 2**47), min_size=1, max_size=20))
def test_ids_are_uuids_of_version_7_and_strictly_grow(moments: list[int]) -> None:
    ticks = iter(moments)
    ids = Ids(now_ms=lambda: next(ticks))
    made = [ids() for _ in moments]
    assert made == sorted(set(made))
    for text in made:
        parsed = UUID(text)
        assert (parsed.version, parsed.variant, str(parsed)) == (7, "specified in RFC 4122", text)
    assert UUID(made[0]).int >> 80 == moments[0]


def test_more_than_4096_ids_in_a_millisecond_keep_their_order() -> None:
    ids = Ids(now_ms=lambda: 1_700_000_000_000)
    made = [ids() for _ in range(10_000)]
    assert made == sorted(set(made))
    assert UUID(made[-1]).int >> 80 == 1_700_000_000_002


def test_the_random_part_is_the_source_we_gave() -> None:
    ids = Ids(now_ms=lambda: 1, random_bytes=lambda length: b"\xff" * length)
    assert ids() == "00000000-0001-7000-bfff-ffffffffffff"
    assert len(ids.secret(32)) == 43
