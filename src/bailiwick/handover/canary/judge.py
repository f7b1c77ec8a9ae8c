"""The judge of a canary: a pure function of the points of both arms and what the plan says is tolerable.

A *point* is what one arm did in one bucket of time; a bucket without requests is none. The candidate is compared with a
fresh baseline that had the same share of the same traffic in the same buckets, never with the old instances.

For each metric two one-sided Mann-Whitney tests (H. B. Mann, D. R. Whitney 1947) are made against the baseline moved by
what is tolerable: one would show that the candidate is *worse than tolerable*, the other that it is *not* (a test of
non-inferiority). Shown worse, with an effect that matters (A of Vargha and Delaney 2000): FAIL. All metrics shown not
worse: PASS. Neither: inconclusive, which is no pass. The chance of a wrong FAIL is divided among the metrics and the
looks at them (Bonferroni); a PASS needs every metric, so it needs no such correction.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

from bailiwick.kernel.verdicts import Verdict

ArmName = Literal["stable", "baseline", "candidate"]
MetricName = Literal["errors", "refusals", "p50", "p95", "p99"]
Reason = Literal["", "veto", "floor", "worse", "denied", "inconclusive", "unbalanced", "too_few", "no_data"]

Histogram = Sequence[tuple[float, float, int]]
"""Bins: where each begins, how wide it is, and how much it counted."""

MIN_POINTS = 50
"""Below so many points of either arm nothing is judged. A plan may ask for more, never for fewer."""

_EXACT_UP_TO = 400
"""Pairs of values up to which a p-value without ties is counted out and not approximated."""


@dataclass(frozen=True, slots=True)
class Point:
    """What an arm did in one bucket. ``errors``: answers of 5xx; ``refused``: its own 401 and 403."""

    bucket: int
    requests: int
    errors: int
    refused: int = 0
    histogram: Histogram = ()

    def value(self, metric: MetricName) -> float | None:
        """One metric: shares from 0 to 1, latencies in milliseconds; None where there is nothing to tell it by."""
        if not self.requests:
            return None
        if metric == "errors":
            return self.errors / self.requests
        if metric == "refusals":
            return self.refused / self.requests
        return percentile(self.histogram, float(metric[1:]))


@dataclass(frozen=True, slots=True)
class Metric:
    """What is tolerable of one metric.

    The candidate may be worse than the baseline by ``tolerance`` (a part of it) and ``slack`` (in the metric's own
    unit) together. ``veto``: one bucket above it ends the canary, however few there are. ``floor``: what the service
    promises, whatever the baseline does: all points together must not be above it.
    """

    name: MetricName
    tolerance: float
    slack: float
    veto: float | None = None
    floor: float | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """How a canary is judged. ``alpha``: the chance of a wrong FAIL that is borne over all metrics and ``looks``;
    ``proof``: the chance, for each metric, of a wrong proof that it is tolerable; ``effect``: the least A (0.5 is no
    difference, 1 every value above) at which a difference matters."""

    metrics: Sequence[Metric]
    points: int = MIN_POINTS
    most_points: int = 3 * MIN_POINTS
    every: int = 10
    alpha: float = 0.01
    proof: float = 0.05
    effect: float = 0.64

    @property
    def looks(self) -> int:
        """How often a phase is judged at most."""
        return 1 + (self.most_points - self.points) // self.every


@dataclass(frozen=True, slots=True)
class Compared:
    """What was found of one metric. ``a``: the chance that a candidate's point is above a baseline's. ``baseline`` and
    ``candidate`` are medians; ``limit`` what the candidate's had to stay below."""

    name: MetricName
    finding: Literal["fine", "worse", "unclear", "no_data"]
    points: tuple[int, int]
    baseline: float = 0.0
    candidate: float = 0.0
    limit: float = 0.0
    u: float = 0.0
    a: float = 0.5
    p_worse: float = 1.0
    p_fine: float = 1.0

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        told = {name: getattr(self, name) for name in self.__slots__}
        return {name: round(each, 6) if isinstance(each, float) else each for name, each in told.items()}


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the points amount to. ``final``: more of them would change nothing, or there will be none."""

    verdict: Verdict
    reason: Reason
    told: str
    final: bool
    points: int
    metrics: Sequence[Compared] = field(default=())


# ---------------------------------------------------------------------- the judgement


def judge(baseline: Sequence[Point], candidate: Sequence[Point], rules: Rules) -> Judgement:
    """Judge one phase. Points without requests do not count, nor does their order matter."""
    ours = [point for point in candidate if point.requests]
    theirs = [point for point in baseline if point.requests]
    fewest = min(len(ours), len(theirs))
    if veto := vetoed(ours, rules):
        return Judgement(Verdict.FAIL, "veto", veto, True, fewest)
    if not ours or not theirs:
        nobody = "candidate" if not ours else "baseline"
        return Judgement(Verdict.NO_DATA, "no_data", f"the {nobody} had no request", False, fewest)
    if fewest < rules.points:
        return Judgement(Verdict.NO_DATA, "too_few", f"{fewest} of {rules.points} points", False, fewest)
    if below := _under_the_floor(ours, rules):
        return Judgement(Verdict.FAIL, "floor", below, True, fewest)
    final = fewest >= rules.most_points
    if told := _unbalanced(theirs, ours):
        return Judgement(Verdict.FAIL, "unbalanced", told, final, fewest)
    compared = [_compare(metric, theirs, ours, rules) for metric in rules.metrics]
    return _of(compared, fewest, final)


def _of(compared: Sequence[Compared], points: int, final: bool) -> Judgement:
    worse = [each.name for each in compared if each.finding == "worse"]
    if worse:
        return Judgement(Verdict.FAIL, "worse", f"worse than tolerable: {', '.join(worse)}", True, points, compared)
    if missing := [each.name for each in compared if each.finding == "no_data"]:
        told = f"too few points of {', '.join(missing)}"
        return Judgement(Verdict.NO_DATA, "too_few", told, final, points, compared)
    if unclear := [each.name for each in compared if each.finding == "unclear"]:
        told = f"not shown to be tolerable: {', '.join(unclear)}"
        return Judgement(Verdict.FAIL, "inconclusive", told, final, points, compared)
    if not compared:
        return Judgement(Verdict.NO_DATA, "no_data", "no metric is compared", True, points)
    return Judgement(Verdict.PASS, "", f"tolerable in all of {len(compared)} metrics", True, points, compared)


def vetoed(candidate: Sequence[Point], rules: Rules) -> str:
    """What no number of points is waited for; empty where there is nothing of it."""
    for metric in rules.metrics:
        for point in candidate:
            value = point.value(metric.name)
            if metric.veto is not None and value is not None and value > metric.veto:
                return f"{metric.name} {shown(metric.name, value)} is above {shown(metric.name, metric.veto)}"
    return ""


def _under_the_floor(candidate: Sequence[Point], rules: Rules) -> str:
    for metric in rules.metrics:
        if metric.floor is None:
            continue
        value = overall(candidate, metric.name)
        if value is not None and value > metric.floor:
            return f"{metric.name} {shown(metric.name, value)}, promised is {shown(metric.name, metric.floor)}"
    return ""


def _unbalanced(baseline: Sequence[Point], candidate: Sequence[Point]) -> str:
    """Both have the same weight: where one had twice the requests of the other, the traffic was not the same."""
    theirs, ours = sum(point.requests for point in baseline), sum(point.requests for point in candidate)
    if max(theirs, ours) > 2 * min(theirs, ours):
        return f"the candidate had {ours} requests and the baseline {theirs}"
    return ""


def _compare(metric: Metric, baseline: Sequence[Point], candidate: Sequence[Point], rules: Rules) -> Compared:
    theirs = [value for point in baseline if (value := point.value(metric.name)) is not None]
    ours = [value for point in candidate if (value := point.value(metric.name)) is not None]
    points = (len(theirs), len(ours))
    if min(points) < rules.points:
        return Compared(metric.name, "no_data", points)
    limit = [value * (1 + metric.tolerance) + metric.slack for value in theirs]
    moved, plain = mann_whitney(ours, limit), mann_whitney(ours, theirs)
    corrected = rules.alpha / (len(rules.metrics) * rules.looks)
    finding: Literal["fine", "worse", "unclear"] = "unclear"
    if moved.p_greater <= corrected and plain.a >= rules.effect:
        finding = "worse"
    elif moved.p_less <= rules.proof:
        finding = "fine"
    return Compared(
        metric.name,
        finding,
        points,
        median(theirs),
        median(ours),
        median(limit),
        plain.u,
        plain.a,
        moved.p_greater,
        moved.p_less,
    )


def shown(metric: MetricName, value: float) -> str:
    """A value for people."""
    return f"{100 * value:.2f} %" if metric in ("errors", "refusals") else f"{value:.1f} ms"


# ---------------------------------------------------------------------- figures


def percentile(histogram: Histogram, percent: float) -> float | None:
    """The value below which ``percent`` of what was counted lies, evenly spread within a bin; None of nothing."""
    total = sum(count for _, _, count in histogram)
    if not total:
        return None
    wanted, below = total * percent / 100, 0
    for lower, width, count in sorted(histogram):
        if count and below + count >= wanted:
            return lower + width * (wanted - below) / count
        below += count
    raise AssertionError("the last bin holds what is wanted")


def merged(histograms: Sequence[Histogram]) -> list[tuple[float, float, int]]:
    """One histogram of all."""
    counts: Counter[tuple[float, float]] = Counter()
    for histogram in histograms:
        for lower, width, count in histogram:
            counts[lower, width] += count
    return [(lower, width, count) for (lower, width), count in sorted(counts.items())]


def overall(points: Sequence[Point], metric: MetricName) -> float | None:
    """A metric over all points together, as if they were one bucket."""
    whole = Point(
        0,
        sum(point.requests for point in points),
        sum(point.errors for point in points),
        sum(point.refused for point in points),
        merged([point.histogram for point in points]),
    )
    return whole.value(metric)


# ---------------------------------------------------------------------- the test


@dataclass(frozen=True, slots=True)
class MannWhitney:
    """``u``: of how many pairs (ties half) the first sample has the greater value; ``a``: that as a share of all.
    ``p_greater`` and ``p_less``: one-sided, that the first sample is greater, or less."""

    u: float
    a: float
    p_greater: float
    p_less: float

    @property
    def p_two_sided(self) -> float:
        """That they differ."""
        return min(1.0, 2 * min(self.p_greater, self.p_less))


def mann_whitney(first: Sequence[float], second: Sequence[float]) -> MannWhitney:
    """The Mann-Whitney U test of two samples, each of at least one value.

    Exact where there are no ties and at most 400 pairs; else by the normal approximation with the correction for ties
    and for continuity. Raises :class:`ValueError` for an empty sample and for what is no number.
    """
    n, m = len(first), len(second)
    if not n or not m:
        raise ValueError("a sample is empty")
    if not all(map(math.isfinite, first)) or not all(map(math.isfinite, second)):
        raise ValueError("a value is not finite")
    ranks, ties = _ranks([*first, *second])
    u = sum(ranks[:n]) - n * (n + 1) / 2
    p_greater, p_less = _exact(u, n, m) if not ties and n * m <= _EXACT_UP_TO else _approximate(u, n, m, ties)
    return MannWhitney(u, u / (n * m), p_greater, p_less)


def _ranks(values: Sequence[float]) -> tuple[list[float], list[int]]:
    """The rank of each value, ties sharing theirs; and how large each group of ties is."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks, ties = [0.0] * len(values), []
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for place in range(start, end + 1):
            ranks[order[place]] = (start + end) / 2 + 1
        if end > start:
            ties.append(end - start + 1)
        start = end + 1
    return ranks, ties


def _exact(u: float, n: int, m: int) -> tuple[float, float]:
    """How many of the equally likely orders have at least, and at most, this U."""
    counts = _orders(n, m)
    total = sum(counts)
    at = round(u)
    return sum(counts[at:]) / total, sum(counts[: at + 1]) / total


def _orders(n: int, m: int) -> list[int]:
    """How many orders of n and m values have each U: the coefficients of the Gaussian binomial."""
    counts = [1] + [0] * (n * m)
    for i in range(1, n + 1):
        for at in range(n * m, m + i - 1, -1):
            counts[at] -= counts[at - m - i]
        for at in range(i, n * m + 1):
            counts[at] += counts[at - i]
    return counts


def _approximate(u: float, n: int, m: int, ties: Sequence[int]) -> tuple[float, float]:
    whole = n + m
    lost = sum(size**3 - size for size in ties) / (whole * (whole - 1))
    variance = n * m / 12 * (whole + 1 - lost)
    if variance <= 0:  # every value is the same: nothing is shown
        return 1.0, 1.0
    deviation = math.sqrt(2 * variance)
    off = u - n * m / 2
    return 0.5 * math.erfc((off - 0.5) / deviation), 0.5 * math.erfc((-off - 0.5) / deviation)
