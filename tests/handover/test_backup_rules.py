"""The rules of backups: places and segments of the log, what is kept and for how long, manifests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bailiwick.handover.backups.lives import ALWAYS, Keep, expired, log_needed_from, tiers
from bailiwick.handover.backups.manifest import Damaged, decode, ids_among, manifest_name
from bailiwick.handover.backups.segments import Segment, lsn, lsn_text, object_name, run_from, stored_files
from bailiwick.handover.backups.spec import BackupPlanSpec, KeepSpec

SIZE = 16 << 20
NIGHT = datetime(2026, 1, 1, 2, tzinfo=UTC)


@given(st.integers(0, 2**64 - 1))
def test_a_place_is_told_and_understood(place: int) -> None:
    assert lsn(lsn_text(place)) == place


@given(st.integers(1, 2**32 - 1), st.integers(0, 2**40), st.sampled_from([1 << 20, SIZE, 1 << 30]))
def test_a_segment_is_named_and_known_again(timeline: int, number: int, size: int) -> None:
    segment = Segment(timeline, number % (2**64 // size))
    assert Segment.named(segment.name(size), size) == segment


def test_a_segment_has_the_name_that_the_server_gives_it() -> None:
    assert Segment.holding(1, lsn("0/2000028"), SIZE).name(SIZE) == "000000010000000000000002"
    assert Segment.holding(3, lsn("1A/FF000000"), SIZE).name(SIZE) == "000000030000001A000000FF"


def names(*numbers: int, timeline: int = 1) -> list[str]:
    return [Segment(timeline, number).name(SIZE) for number in numbers]


def test_a_run_ends_at_a_gap_and_says_so() -> None:
    run = run_from(Segment(1, 5), names(3, 5, 6, 8), SIZE)
    assert (list(run.names), run.missing) == (names(5, 6), names(7)[0])
    whole = run_from(Segment(1, 5), names(5, 6, 7), SIZE)
    assert (list(whole.names), whole.missing) == (names(5, 6, 7), None)
    assert run_from(Segment(1, 5), names(1, 2), SIZE).missing is None
    assert run_from(Segment(1, 5), names(9), SIZE).missing == names(5)[0]


def test_a_run_goes_on_over_a_change_of_timeline() -> None:
    run = run_from(Segment(1, 5), [*names(5, 6), *names(6, 7, timeline=2)], SIZE)
    assert list(run.names) == [*names(5, 6), *names(6, 7, timeline=2)] and run.missing is None


def test_only_files_of_the_log_are_taken_for_such() -> None:
    good = object_name(names(4)[0], "0" * 64)
    assert [each.file for each in stored_files([good, "wal/other", "base/x", good + "x"])] == names(4)


def nights(count: int) -> dict[str, datetime]:
    return {f"b{number:04}": NIGHT + timedelta(days=number) for number in range(count)}


def test_each_night_for_thirty_days_each_week_for_ninety_each_month_for_a_year() -> None:
    taken = nights(400)
    now = NIGHT + timedelta(days=399, hours=1)
    gone = set(expired(taken, Keep(), now))
    kept = {each: now - at for each, at in taken.items() if each not in gone}
    tier = tiers(taken)
    assert sum(age <= timedelta(days=30) for age in kept.values()) == 30
    assert all(tier[each] != "daily" for each, age in kept.items() if age > timedelta(days=30))
    assert all(tier[each] == "monthly" for each, age in kept.items() if age > timedelta(days=90))
    assert sum(tier[each] == "monthly" for each in kept) == 12
    assert max(kept.values()) <= timedelta(days=365)


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=40, unique=True), st.integers(0, 10_000))
def test_the_newest_seven_stay_whatever_the_time(days: list[int], later: int) -> None:
    taken = {f"b{day:04}": NIGHT + timedelta(days=day) for day in days}
    gone = expired(taken, Keep(), NIGHT + timedelta(days=later))
    newest = sorted(taken, key=taken.__getitem__)[-ALWAYS:]
    assert not set(gone) & set(newest)
    assert log_needed_from({each: at for each, at in taken.items() if each not in gone}, Keep(), NIGHT) is not None


def test_a_backup_without_a_manifest_is_none() -> None:
    identifier = "20261121T020000Z-0a1b2c"
    assert ids_among([manifest_name(identifier), "base/20261122T020000Z-0a1b2c/cluster-00000.tar.gz"]) == [identifier]


@pytest.mark.parametrize("body", [b"", b"{}", b"null", b'{"manifest": {}, "sha256": ""}', b"\xff" * 10])
def test_what_is_no_manifest_is_not_taken_for_one(body: bytes) -> None:
    with pytest.raises(Damaged):
        decode(body, "20261121T020000Z-0a1b2c")


def test_a_plan_that_cannot_be_kept_is_refused() -> None:
    with pytest.raises(ValueError, match="at least the one before"):
        KeepSpec(daily=30, weekly=7, monthly=365)
    with pytest.raises(ValueError, match="cron"):
        BackupPlanSpec(owner="uptime", backup="0 2 * * nonsense")
