"""The judge of canaries: known answers, published tables, and what holds of any points."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bailiwick.handover.canary.judge import (
    MIN_POINTS,
    Metric,
    Point,
    Rules,
    _approximate,
    judge,
    mann_whitney,
    merged,
    overall,
    percentile,
)
from bailiwick.handover.canary.mix import Mix, more_denied
from bailiwick.handover.canary.spec import CanaryPlan
from bailiwick.kernel.verdicts import Verdict

METRICS = (
    Metric("errors", 0.0, 0.005, veto=0.5, floor=0.01),
    Metric("refusals", 0.0, 0.02),
    Metric("p50", 0.10, 2.0),
    Metric("p95", 0.15, 5.0, floor=500.0),
)
RULES = Rules(METRICS)


def drawn(seed: int, count: int, *, ms: float = 80, errors: float = 0.0, refused: float = 0.0, rate: int = 100):
    """Points of a service whose answers take about ``ms``."""
    source = random.Random(seed)
    points = []
    for bucket in range(count):
        times = [source.lognormvariate(math.log(ms), 0.4) for _ in range(rate)]
        points.append(
            Point(
                bucket,
                rate,
                sum(source.random() < errors for _ in range(rate)),
                sum(source.random() < refused for _ in range(rate)),
                merged([[(float(int(each)), 1.0, 1)] for each in times]),
            )
        )
    return points


# ---------------------------------------------------------------------- the test itself


@pytest.mark.parametrize(
    ("n", "m", "u", "p"),
    [  # one-sided, from the tables of Mann and Whitney (1947), table I: P(U <= u)
        (3, 3, 0, 0.050), (3, 3, 1, 0.100), (3, 3, 2, 0.200), (3, 3, 3, 0.350), (3, 3, 4, 0.500),
        (4, 4, 0, 0.014), (4, 4, 1, 0.029), (4, 4, 2, 0.057), (4, 4, 4, 0.171), (4, 4, 8, 0.557),
        (5, 5, 2, 0.016), (5, 5, 4, 0.048), (5, 5, 12, 0.500),
        (6, 6, 5, 0.021), (6, 6, 7, 0.047), (7, 7, 11, 0.049), (8, 8, 13, 0.025), (8, 8, 15, 0.041),
    ],
)  # fmt: skip
def test_exact_probabilities_are_those_of_the_published_table(n: int, m: int, u: int, p: float) -> None:
    first, second = _with_u(n, m, u)
    found = mann_whitney(first, second)
    assert found.u == u
    assert round(found.p_less, 3) == p


def _with_u(n: int, m: int, u: int) -> tuple[list[float], list[float]]:
    """Two samples without ties whose U is ``u``."""
    for places in combinations(range(n + m), n):
        if sum(place - index for index, place in enumerate(places)) == u:
            return [float(p) for p in places], [float(p) for p in range(n + m) if p not in places]
    raise AssertionError("no such order")


def test_the_exact_p_counts_every_order() -> None:
    first, second = [1.5, 9.0, 4.2, 7.7], [2.0, 3.0, 5.0, 8.0, 8.5]
    whole = [*first, *second]
    observed = mann_whitney(first, second)
    orders = [
        sum(whole[i] > whole[j] for i in chosen for j in range(9) if j not in chosen)
        for chosen in combinations(range(9), 4)
    ]
    assert observed.p_greater == pytest.approx(sum(u >= observed.u for u in orders) / len(orders))
    assert observed.p_less == pytest.approx(sum(u <= observed.u for u in orders) / len(orders))


def test_a_known_example_with_ties_comes_out() -> None:
    """Hollander and Wolfe's permeability data, as R's `wilcox.test` prints it: W = 35, p = 0.1272 (greater)."""
    at_term = [0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46]
    earlier = [1.15, 0.88, 0.90, 0.74, 1.21]
    found = mann_whitney(at_term, earlier)
    assert found.u == 35
    assert found.p_greater == pytest.approx(0.1272, abs=5e-5)


def test_ties_and_continuity_are_corrected_by_hand_reckoning() -> None:
    first, second = [1.0, 2.0, 2.0, 3.0], [2.0, 3.0, 3.0, 4.0]
    found = mann_whitney(first, second)
    # two ties of three: 16/12 * (9 - (24 + 24) / 56) = 10.857; U = 3; (3 + 0.5 - 8) / 3.295 = -1.3657
    assert found.u == 3.0
    assert found.p_less == pytest.approx(0.5 * math.erfc(1.36571 / math.sqrt(2)), abs=1e-4)


def test_nothing_is_shown_of_equal_values_and_no_sample_is_empty() -> None:
    assert mann_whitney([1.0] * 60, [1.0] * 60).p_two_sided == 1.0
    for first, second in (([], [1.0]), ([1.0], []), ([math.nan], [1.0]), ([1.0], [math.inf])):
        with pytest.raises(ValueError, match="empty|finite"):
            mann_whitney(first, second)


values = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)


@given(values, values)
def test_both_directions_mirror_each_other(first: list[float], second: list[float]) -> None:
    one, other = mann_whitney(first, second), mann_whitney(second, first)
    assert one.u + other.u == len(first) * len(second)
    assert one.p_greater == pytest.approx(other.p_less)
    assert 0 <= one.p_greater <= 1
    assert 0 <= one.a <= 1
    assert one.p_greater + one.p_less >= 1 - 1e-9


@given(st.lists(st.floats(0, 100), min_size=40, max_size=40, unique=True))
def test_the_approximation_is_near_what_is_counted_out(values: list[float]) -> None:
    exact = mann_whitney(values[:20], values[20:])
    greater, less = _approximate(exact.u, 20, 20, [])
    assert greater == pytest.approx(exact.p_greater, abs=0.01)
    assert less == pytest.approx(exact.p_less, abs=0.01)


# ---------------------------------------------------------------------- histograms


def test_percentiles_come_from_bins() -> None:
    assert percentile([], 95) is None
    assert percentile([(10.0, 0.0, 4)], 50) == 10.0
    assert percentile([(10.0, 10.0, 100)], 95) == pytest.approx(19.5)
    assert percentile([(20.0, 1.0, 1), (1.0, 1.0, 99)], 99) == pytest.approx(2.0)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), min_size=1), st.floats(1, 100))
def test_a_percentile_lies_within_what_was_counted(bins: list[tuple[int, int]], percent: float) -> None:
    histogram = merged([[(float(low), 1.0, count)] for low, count in bins])
    value = percentile(histogram, percent)
    assert value is not None
    assert histogram[0][0] <= value <= histogram[-1][0] + 1
    assert sum(count for _, _, count in histogram) == sum(count for _, count in bins)


# ---------------------------------------------------------------------- known answers

KNOWN = {
    "the same": (drawn(1, 50), drawn(2, 50), Verdict.PASS, ""),
    "faster": (drawn(1, 50), drawn(2, 50, ms=40), Verdict.PASS, ""),
    "slower by half": (drawn(1, 50), drawn(2, 50, ms=120), Verdict.FAIL, "worse"),
    "four in a hundred fail": (drawn(1, 50), drawn(2, 50, errors=0.04), Verdict.FAIL, "floor"),
    "both fail alike": (drawn(1, 50, errors=0.04), drawn(2, 50, errors=0.04), Verdict.FAIL, "floor"),
    "refuses a tenth": (drawn(1, 50), drawn(2, 50, refused=0.1), Verdict.FAIL, "worse"),
    "one bad bucket": (drawn(1, 50), [Point(0, 4, 3)], Verdict.FAIL, "veto"),
    "one bad bucket among many": (drawn(1, 99), [*drawn(2, 98), Point(98, 4, 3)], Verdict.FAIL, "veto"),
    "nobody came": (drawn(1, 50), [Point(0, 0, 0)], Verdict.NO_DATA, "no_data"),
    "no baseline": ([], drawn(2, 50), Verdict.NO_DATA, "no_data"),
    "one too few": (drawn(1, 50), drawn(2, 49), Verdict.NO_DATA, "too_few"),
    "one too few to compare with": (drawn(1, 49), drawn(2, 50), Verdict.NO_DATA, "too_few"),
    "other traffic": (drawn(1, 50, rate=210), drawn(2, 50), Verdict.FAIL, "unbalanced"),
    "at the edge of tolerable": (drawn(1, 50, rate=20), drawn(2, 50, ms=90, rate=20), Verdict.FAIL, "inconclusive"),
    "slower than promised": (drawn(1, 50, ms=400), drawn(2, 50, ms=400), Verdict.FAIL, "floor"),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_data_has_its_known_verdict(name: str) -> None:
    baseline, candidate, verdict, reason = KNOWN[name]
    found = judge(baseline, candidate, RULES)
    assert (found.verdict, found.reason) == (verdict, reason), found.told
    assert found.verdict.green == (not found.reason)
    if reason == "veto":
        assert "errors 75.00 % is above 50.00 %" in found.told


def test_a_wrong_answer_is_seen_in_latency_without_answers() -> None:
    """All failed before an answer came: there is no latency to compare, and that is no pass."""
    silent = [Point(bucket, 100, 0) for bucket in range(60)]
    found = judge(drawn(1, 60), silent, RULES)
    assert (found.verdict, found.reason) == (Verdict.NO_DATA, "too_few")
    assert "p50, p95" in found.told


def test_no_metric_is_no_pass() -> None:
    assert judge(drawn(1, 50), drawn(2, 50), Rules(())).verdict is Verdict.NO_DATA


# ---------------------------------------------------------------------- what always holds

point = st.builds(
    lambda bucket, requests, bad, ms: Point(bucket, requests, min(bad, requests), 0, [(float(ms), 1.0, requests)]),
    st.integers(0, 1000), st.integers(0, 200), st.integers(0, 5), st.integers(0, 900),
)  # fmt: skip
some = st.lists(point, max_size=70)


@settings(max_examples=150, deadline=None)
@given(some, some)
def test_only_enough_points_of_both_pass(baseline: Sequence[Point], candidate: Sequence[Point]) -> None:
    found = judge(baseline, candidate, RULES)
    if found.verdict.green:
        assert min(sum(1 for p in arm if p.requests) for arm in (baseline, candidate)) >= MIN_POINTS
        assert all(each.finding == "fine" for each in found.metrics)
        assert (overall(candidate, "errors") or 0) <= 0.01
    else:
        assert found.reason


@settings(max_examples=60, deadline=None)
@given(some, some, st.randoms(use_true_random=False))
def test_the_order_of_points_says_nothing(baseline: list[Point], candidate: list[Point], source: random.Random) -> None:
    found = judge(baseline, candidate, RULES)
    source.shuffle(baseline)
    source.shuffle(candidate)
    again = judge(baseline, candidate, RULES)
    assert (again.verdict, again.reason) == (found.verdict, found.reason)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 10_000), st.integers(1, 400))
def test_a_point_beyond_the_veto_is_never_outweighed(seed: int, requests: int) -> None:
    bad = Point(999, requests, requests)
    assert judge(drawn(seed, 50, rate=10), [*drawn(seed + 1, 50, rate=10), bad], RULES).reason == "veto"


# ---------------------------------------------------------------------- decisions


@pytest.mark.parametrize(
    ("before", "during", "wrong"),
    [
        (Mix(1000, 50), Mix(1000, 55), False),
        (Mix(1000, 50), Mix(700, 350), True),
        (Mix(1000, 0), Mix(0, 1000), True),
        (Mix(1000, 0), Mix(850, 150), True),
        (Mix(100, 0), Mix(89, 11), False),  # more than a tenth, by chance as well as not
        (Mix(10, 0), Mix(0, 1000), False),  # nothing was known before
        (Mix(500, 500), Mix(1000, 0), False),
    ],
)
def test_more_denials_than_before_are_seen(before: Mix, during: Mix, wrong: bool) -> None:
    assert bool(more_denied(before, during, 0.1, 0.01)) is wrong


# ---------------------------------------------------------------------- plans


@pytest.mark.parametrize(
    "wrong",
    [
        {"points": 49}, {"steps": [5, 25]}, {"steps": [25, 5, 100]}, {"steps": [100]}, {"bucket_s": 11},
        {"metrics": [{"metric": "p95", "tolerance": 0.1}]}, {"metrics": [{"metric": "errors", "slack": 0.1}]},
        {"metrics": [{"metric": "errors", "veto": 0.1, "floor": 0.1}]},
        {"metrics": [{"metric": "errors", "slack": 0.1, "veto": 0.1}]}, {"most_points": 60, "points": 70}, {"alpha": 0.2},
        {"metrics": [{"metric": "errors", "slack": 0.1, "veto": 0.5, "floor": 0.1}] * 2}, {"patience": 100, "most_points": 150},
    ],
)  # fmt: skip
def test_a_plan_may_only_be_stricter(wrong: dict[str, object]) -> None:
    plain = {"metrics": [{"metric": "errors", "slack": 0.01, "veto": 0.5, "floor": 0.01}], "owner": "uptime"}
    CanaryPlan.model_validate(plain)
    with pytest.raises(ValueError, match="validation error"):
        CanaryPlan.model_validate({**plain, **wrong})
