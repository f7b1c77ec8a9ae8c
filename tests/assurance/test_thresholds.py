"""The catalogue: how a value is judged, what counts as loosening, and who may do that."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage import Stage

from bailiwick.app.assurance import KINDS
from bailiwick.assurance.book import check, read_text, schema
from bailiwick.assurance.probes.spec import PROBE
from bailiwick.assurance.shipped import shipped
from bailiwick.assurance.thresholds import THRESHOLD, Comparison, Threshold, Unit, converted, judge, loosened
from bailiwick.kernel.quorum import Approval
from bailiwick.kernel.verdicts import Verdict
from people_fixtures import House

DOCS = Path(__file__).parents[2] / "docs"


def threshold(value: float, comparison: str = "<", unit: str = "ms", **more: object) -> Threshold:
    return Threshold.model_validate(
        {"value": value, "comparison": comparison, "unit": unit, "meaning": "m", "owner": "uptime", **more}
    )


@pytest.mark.parametrize(
    ("value", "comparison", "limit", "verdict"),
    [
        (99, "<", 100, Verdict.PASS),
        (100, "<", 100, Verdict.FAIL),
        (100, "<=", 100, Verdict.PASS),
        (100, ">", 100, Verdict.FAIL),
        (99.9, ">=", 99.9, Verdict.PASS),
        (0, "==", 0, Verdict.PASS),
        (1, "==", 0, Verdict.FAIL),
        (None, "<", 100, Verdict.NO_DATA),
        (math.nan, "<", 100, Verdict.NO_DATA),
        (math.inf, ">", 100, Verdict.NO_DATA),
        (-math.inf, "<", 100, Verdict.NO_DATA),
    ],
)
def test_a_value_is_judged_and_what_is_no_number_is_never_green(
    value: float | None, comparison: str, limit: float, verdict: Verdict
) -> None:
    assert judge(value, Comparison(comparison), limit) is verdict


@pytest.mark.parametrize(
    ("value", "before", "after", "expected"),
    [(1, "s", "ms", 1000), (48, "h", "d", 2), (0.5, "ratio", "%", 50), (3, "count", "count", 3), (90, "min", "h", 1.5)],
)
def test_times_and_shares_are_converted(value: float, before: str, after: str, expected: float) -> None:
    assert converted(value, Unit(before), Unit(after)) == pytest.approx(expected)


def test_what_has_no_common_measure_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be told"):
        converted(1, Unit.BYTES, Unit.SECONDS)


_NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)


@given(_NUMBERS, _NUMBERS, _NUMBERS, st.sampled_from(Comparison), st.sampled_from(Comparison))
def test_whatever_lets_more_through_is_loosened(
    value: float, before: float, after: float, one: Comparison, other: Comparison
) -> None:
    old, new = threshold(before, one), threshold(after, other)
    if judge(value, one, before) is Verdict.FAIL and judge(value, other, after) is Verdict.PASS:
        assert loosened(old, new)


@pytest.mark.parametrize(
    ("after", "two"),
    [
        ("value: 90", False),
        ("value: 101", True),
        ("value: 0.09, unit: s", False),
        ("value: 0.11, unit: s", True),
        ("value: 100, comparison: '<='", True),
        ("value: 100, comparison: '>'", True),
        ("value: 100, critical: false", True),
        ("value: 100, unit: B", True),
        (None, True),
    ],
)
async def test_a_critical_threshold_takes_two_persons_to_loosen(house: House, after: str | None, two: bool) -> None:
    stage = Stage(house, KINDS)

    def document(said: str) -> str:
        spec = {"unit": "ms", "comparison": "'<'", "critical": "true", "meaning": "m", "owner": "uptime"}
        for part in said.split(", "):
            name, _, value = part.partition(": ")
            spec[name] = value
        lines = ", ".join(f"{name}: {value}" for name, value in spec.items())
        return f"apiVersion: bailiwick/v1\nkind: Threshold\nmetadata: {{name: p95}}\nspec: {{{lines}}}\n"

    await stage.apply(document("value: 100"))
    documents = read_text(document(after), "a.yaml") if after else []
    planned = await stage.books.plan("default", documents)
    assert planned.two_persons is two
    done = await stage.books.apply(stage.context(), documents, sha256=planned.sha256, by="root")
    assert isinstance(done, Approval) is two


@pytest.mark.parametrize("zone", ["default", "acme"])
def test_everything_we_ship_holds_together(zone: str) -> None:
    book = check(zone, shipped(zone), {kind.name: kind for kind in KINDS})
    assert book.of(THRESHOLD)["api.latency.p95"].value == 100
    assert book.of(THRESHOLD)["certificate.days-left"].value == 30
    assert bool(book.of(PROBE)) is (zone == "default")


def test_every_kind_has_a_schema_that_its_own_documents_have_the_form_of() -> None:
    import jsonschema_rs

    validators = {kind.name: jsonschema_rs.validator_for(schema(kind)) for kind in KINDS}
    documents = shipped("default")
    for each in documents:
        written = {
            "apiVersion": each.api_version,
            "kind": each.kind,
            "metadata": {"name": each.name},
            "spec": each.spec,
        }
        assert validators[each.kind].is_valid(written), each
        assert not validators[each.kind].is_valid({**written, "kind": "Other"})
        assert not validators[each.kind].is_valid({**written, "spec": {**each.spec, "unknown": 1}})
    assert {each.kind for each in documents} <= validators.keys()


def test_numbers_in_the_documentation_are_those_of_the_catalogue() -> None:
    catalogue = {each.name: each.spec for each in shipped("default") if each.kind == "Threshold"}
    marked = re.compile(r"<!-- threshold:([a-z0-9.-]+) -->(.*?)<!-- /threshold -->", re.S)
    told = [(path, *found) for path in sorted(DOCS.rglob("*.md")) for found in marked.findall(path.read_text())]
    assert told, "no page marks a threshold"
    for path, key, number in told:
        assert float(number.strip()) == catalogue[key]["value"], f"{path.relative_to(DOCS)}: {key}"
