"""The matching engine against a naive matcher, and what it refuses to compare."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bailiwick.assurance.reconciliation.matching import (
    Difference,
    Matcher,
    NotIndependent,
    TooMany,
    Totals,
    Unreadable,
    Window,
)
from bailiwick.assurance.reconciliation.spec import ReconciliationSpec

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
DAY = Window(datetime(2026, 11, 20, tzinfo=UTC), datetime(2026, 11, 21, tzinfo=UTC))
NOON = "2026-11-20T12:00:00Z"

Rows = Sequence[Mapping[str, Any]]


def spec(**more: Any) -> ReconciliationSpec:
    given: dict[str, Any] = {
        "owner": "reconciliation",
        "left": {"connection": "a", "file": "left.csv"},
        "right": {"connection": "b", "file": "right.csv"},
        "keys": [{"left": "id", "right": "ref"}],
        "fields": [
            {"left": "amount", "right": "value", "kind": "decimal"},
            {"left": "state", "right": "status"},
        ],
        "weigh": "amount",
    }
    return ReconciliationSpec.model_validate({**given, **more})


def write(path: Path, columns: Sequence[str], rows: Rows) -> Path:
    """CSV in which None is nothing at all and an empty text is quoted."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        stream.write(",".join(columns) + "\n")
        for row in rows:
            cells = (row.get(each) for each in columns)
            stream.write(",".join("" if c is None else '"' + str(c).replace('"', '""') + '"' for c in cells) + "\n")
    return path


def match(
    wanted: ReconciliationSpec,
    left: Rows,
    right: Rows,
    parents: Sequence[str] | None = None,
    window: Window | None = None,
) -> tuple[Totals, list[Difference]]:
    with TemporaryDirectory() as name:
        scratch = Path(name)
        matcher = Matcher(wanted, scratch, NOW, window or DAY)
        try:
            matcher.load("left", write(scratch / "left.csv", ("id", "id2", "amount", "state", "at", "own"), left))
            matcher.load(
                "right", write(scratch / "right.csv", ("ref", "ref2", "value", "status", "seen", "party", "obj"), right)
            )
            if parents is not None:
                matcher.load_parents(
                    write(scratch / "parents.csv", ("name",), [{"name": each} for each in parents]), "name"
                )
            return matcher.totals(), list(matcher.differences())
        finally:
            matcher.close()


def naive(wanted: ReconciliationSpec, left: Rows, right: Rows) -> set[tuple[str, str, str]]:
    """Types, sides and keys by dictionaries and Decimal, row by row."""
    sides: dict[str, dict[str, list[Mapping[str, Any]]]] = {"left": defaultdict(list), "right": defaultdict(list)}
    for side, rows, key in (("left", left, "id"), ("right", right, "ref")):
        for row in rows:
            sides[side][row[key]].append(row)
    found: set[tuple[str, str, str]] = set()
    for side, other, type_ in (("left", "right", "missing"), ("right", "left", "excess")):
        for key, rows in sides[side].items():
            if key not in sides[other]:
                found.add((type_, side, key))
            if len(rows) > 1 and wanted.many != side:
                found.add(("duplicate", side, key))
    for key in sides["left"].keys() & sides["right"].keys():
        lefts, rights = sides["left"][key], sides["right"][key]
        if (len(lefts) > 1 and wanted.many != "left") or (len(rights) > 1 and wanted.many != "right"):
            continue
        if differs(wanted, lefts, rights):
            found.add(("mismatch", "left", key))
    return found


def differs(wanted: ReconciliationSpec, lefts: Rows, rights: Rows) -> bool:
    for each in wanted.fields:
        a = [row[each.left] for row in lefts]
        b = [row[each.right] for row in rights]
        if any(None in side and any(value is not None for value in side) for side in (a, b)):
            return True
        if each.kind == "text":
            if len(set(a)) > 1 or len(set(b)) > 1 or a[0] != b[0]:
                return True
        elif (a[0] is None) != (b[0] is None):
            return True
        elif a[0] is not None and abs(sum(map(Decimal, a)) - sum(map(Decimal, b))) > Decimal(each.tolerance):
            return True
    return False


KEYS = st.sampled_from(["a", "b", "c", "A", "a ", "é", 'q"', "x,y", "l\nm", "0", "00"])
AMOUNTS = st.one_of(
    st.none(),
    st.sampled_from(["0.1", "0.10", "0.2", "0.30", "-0", "+1", "1.0", "1", "9007199254740993", "9007199254740992"]),
    st.decimals("-99999999999999999999", "99999999999999999999", places=18, allow_nan=False).map(
        lambda d: f"{d / 16:.18f}"
    ),
)
STATES = st.one_of(st.none(), st.sampled_from(["", "paid", "Paid", "päid"]))
LEFT = st.lists(st.fixed_dictionaries({"id": KEYS, "amount": AMOUNTS, "state": STATES}), max_size=12)
RIGHT = st.lists(st.fixed_dictionaries({"ref": KEYS, "value": AMOUNTS, "status": STATES}), max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(left=LEFT, right=RIGHT, many=st.sampled_from([None, "left", "right"]), tolerance=st.sampled_from(["0", "0.01"]))
def test_it_finds_what_a_naive_matcher_finds(left: Rows, right: Rows, many: str | None, tolerance: str) -> None:
    fields = [
        {"left": "amount", "right": "value", "kind": "decimal", "tolerance": tolerance},
        {"left": "state", "right": "status"},
    ]
    wanted = spec(fields=fields, many=many)
    totals, found = match(wanted, left, right)
    assert sorted((each.type, each.side, each.key[0]) for each in found) == sorted(naive(wanted, left, right))
    assert (totals.left_rows, totals.right_rows) == (len(left), len(right))
    both = {row["id"] for row in left} & {row["ref"] for row in right}
    assert totals.matched == len(both)
    assert totals.unmatched == len({row["id"] for row in left} ^ {row["ref"] for row in right})


def row(id: str | None, amount: str | None = "1", state: str | None = "paid", at: str = NOON) -> dict[str, Any]:
    return {"id": id, "amount": amount, "state": state, "at": at}


def seen(
    ref: str | None, value: str | None = "1", status: str | None = "paid", at: str = NOON, **more: str
) -> dict[str, Any]:
    return {"ref": ref, "value": value, "status": status, "seen": at, **more}


@pytest.mark.parametrize(
    ("more", "left", "right", "parents", "expected"),
    [
        ({}, [row("1"), row("2")], [seen("1")], None, ("missing", "left", ("2",))),
        ({}, [row("1")], [seen("1"), seen("2")], None, ("excess", "right", ("2",))),
        ({}, [row("1", "1.00")], [seen("1", "1.01")], None, ("mismatch", "left", ("1",))),
        ({}, [row("1")], [seen("1"), seen("1")], None, ("duplicate", "right", ("1",))),
        (
            {"stale": {"column": "seen", "after": "1d"}},
            [row("1"), row("2")],
            [seen("1"), seen("2", at="2026-11-19T11:59:59Z")],
            None,
            ("stale", "right", ("2",)),
        ),
        ({"compare": "events"}, [row("1"), row("2")], [seen("1")], None, ("state-without-event", "left", ("2",))),
        ({"compare": "events"}, [row("1")], [seen("1"), seen("3")], None, ("event-without-state", "right", ("3",))),
        (
            {"parents": {"column": "party", "source": {"own": "people"}, "key": "name"}},
            [row("1")],
            [seen("1", party="jane"), seen("2", party="nobody")],
            ["jane"],
            ("orphan", "right", ("2",)),
        ),
    ],
)
def test_every_type_is_found_and_nothing_else(
    more: dict[str, Any], left: Rows, right: Rows, parents: list[str] | None, expected: tuple[Any, ...]
) -> None:
    _, found = match(spec(**more), left, right, parents)
    assert [(each.type, each.side, each.key) for each in found] == [expected]


def test_a_row_without_a_key_is_an_orphan_of_its_own() -> None:
    _, found = match(spec(), [row("1")], [seen("1"), seen(None, "5"), seen("", "6")])
    assert [(each.type, each.side, each.detail["why"]) for each in found] == [("orphan", "right", "no key")] * 2
    assert found[0].key != found[1].key


def test_how_far_an_amount_is_off_is_exact() -> None:
    _, found = match(spec(), [row("1", "100000000000000000.000000000000000001")], [seen("1", "100000000000000000")])
    assert found[0].off == Decimal("0.000000000000000001")
    assert found[0].detail["fields"]["amount"]["left"] == "100000000000000000.000000000000000001"


def test_many_rows_stand_against_one() -> None:
    wanted = spec(many="left", fields=[{"left": "amount", "right": "value", "kind": "decimal"}])
    _, found = match(
        wanted,
        [row("1", "0.1"), row("1", "0.2"), row("2", "0.1"), row("2", "0.1")],
        [seen("1", "0.3"), seen("2", "0.3")],
    )
    assert [(each.type, each.key, each.off) for each in found] == [("mismatch", ("2",), Decimal("0.1"))]


def test_keys_of_several_columns_do_not_run_into_each_other() -> None:
    wanted = spec(keys=[{"left": "id", "right": "ref"}, {"left": "id2", "right": "ref2", "fold": True}])
    left = [{**row("a"), "id2": "bc"}, {**row("ab"), "id2": "c"}]
    right = [{**seen("a"), "ref2": "BC"}]
    _, found = match(wanted, left, right)
    assert [(each.type, each.key) for each in found] == [("missing", ("ab", "c"))]


TIMED = {"time": {"left": "at", "right": "seen", "late": "2h"}}


def test_what_arrives_late_is_no_difference_and_every_row_is_judged_once() -> None:
    left = [
        row("1", at="2026-11-20T23:30:00Z"),
        row("2", at="2026-11-21T00:30:00Z"),
        row("3", at="2026-11-20T10:00:00Z"),
    ]
    right = [
        seen("1", at="2026-11-21T01:00:00Z"),  # in the next day, within two hours
        seen("2", at="2026-11-20T23:30:00Z"),  # before what it belongs to
        seen("3", at="2026-11-20T12:00:00.000001Z"),  # a microsecond too far
        seen("4", at="2026-11-21T00:00:00Z"),  # the next day's to judge
    ]
    _, found = match(spec(**TIMED), left, right)
    assert [(each.type, each.key) for each in found] == [("missing", ("3",)), ("excess", ("3",))]
    following = Window(DAY.until, DAY.until + timedelta(days=1))
    _, later = match(spec(**TIMED), left, right, window=following)
    assert [(each.type, each.key) for each in later] == [("excess", ("4",))]


@pytest.mark.parametrize(
    ("left", "told"),
    [
        ([row("1", "1e3")], "amount"),
        ([row("1", "NaN")], "amount"),
        ([row("1", "1,5")], "amount"),
        ([row("1", "0." + "1" * 19)], "amount"),
        ([row("1", at="yesterday")], "at"),
    ],
)
def test_what_cannot_be_compared_exactly_is_refused(left: Rows, told: str) -> None:
    with pytest.raises(Unreadable, match=told):
        match(spec(**TIMED), left, [])


def test_a_row_in_no_window_is_refused() -> None:
    with pytest.raises(Unreadable, match="no instant"):
        match(spec(**TIMED), [{**row("1"), "at": None}], [])


def test_more_rows_than_the_cap_are_refused_and_not_cut() -> None:
    with pytest.raises(TooMany):
        match(spec(cap=2), [row("1"), row("2"), row("3")], [])
    assert match(spec(cap=3), [row("1"), row("2"), row("3")], [])[0].left_rows == 3


def test_a_source_that_calls_everything_by_our_own_id_is_not_independent() -> None:
    wanted = spec(
        left={"connection": "a", "file": "left.csv", "object": "own"},
        right={"connection": "b", "file": "right.csv", "object": "obj"},
    )
    left = [{**row("1"), "own": "tx-1"}, {**row("2"), "own": "tx-2"}]
    with pytest.raises(NotIndependent):
        match(wanted, left, [seen("1", obj="tx-1"), seen("2", obj="tx-2")])
    assert match(wanted, left, [seen("1", obj="p-1"), seen("2", obj="tx-2")])[1] == []


def test_parquet_is_read_and_its_floats_are_refused(tmp_path: Path) -> None:
    for name, kind in (("exact", "DECIMAL(12, 2)"), ("floating", "DOUBLE")):
        duckdb.execute(
            f"COPY (SELECT '1' AS id, 1.10::{kind} AS amount, 'paid' AS state) TO '{tmp_path}/{name}.parquet'"
        )
    right = write(tmp_path / "right.csv", ("ref", "value", "status"), [seen("1", "1.1")])
    matcher = Matcher(spec(), tmp_path, NOW)
    try:
        with pytest.raises(Unreadable, match="floating-point"):
            matcher.load("left", tmp_path / "floating.parquet")
        matcher.load("left", tmp_path / "exact.parquet")
        matcher.load("right", right)
        assert list(matcher.differences()) == []
    finally:
        matcher.close()


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    matcher = Matcher(spec(), tmp_path, NOW)
    try:
        for content in (
            b"",
            b"id,id\n1,2\n",
            b"id,amount,state\n1,2\n",
            b"id,amount,state\n1,2,3,4\n",
            b"\xff\xfe,\x00\n",
        ):
            path = tmp_path / "left.csv"
            path.write_bytes(content)
            with pytest.raises(Unreadable):
                matcher.load("left", path)
    finally:
        matcher.close()


def test_the_header_may_be_renamed(tmp_path: Path) -> None:
    with (tmp_path / "left.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["Reference", "Sum", "state"], ["1", "2", "paid"]])
    matcher = Matcher(spec(), tmp_path, NOW)
    try:
        assert matcher.load("left", tmp_path / "left.csv", {"id": "Reference", "amount": "Sum"}) == 1
    finally:
        matcher.close()
