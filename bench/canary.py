"""How often the judge of canaries is wrong: a candidate like the baseline, and candidates worse by a known amount.

Nothing is started: arms are drawn, bucket by bucket, as services behave. Latencies are lognormal with a slow tail,
requests per bucket vary, and what the machine does to everybody (a slow minute) is shared by both arms and drifts.
Each arm has a drift of its own besides, which no test of independent values expects.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from time import perf_counter

from bailiwick.assurance.book import read_text
from bailiwick.handover.canary.judge import Judgement, Point, Rules, judge, merged
from bailiwick.handover.canary.spec import CANARY_PLAN
from bench.common import report

SLOWEST_MS = 30_000


@dataclass(frozen=True, slots=True)
class Service:
    """A service: median latency, spread of its logarithm, part in a slow tail, requests a bucket, errors, and by how
    much the machine (``shared``) and an instance (``own``) drift, in the logarithm."""

    ms: float = 80.0
    spread: float = 0.5
    tail: float = 0.02
    requests: int = 60
    errors: float = 0.001
    shared: float = 0.10
    own: float = 0.02


SERVICES = {
    "busy": Service(requests=300),
    "usual": Service(),
    "quiet": Service(requests=12),
    "fast": Service(ms=4.0, requests=120),
    "ragged": Service(ms=30.0, spread=0.9, tail=0.04, shared=0.25, own=0.05),
}
WORSE = {
    "p50 +10 %": {"slower": 1.10},
    "p50 +25 %": {"slower": 1.25},
    "p50 +50 %": {"slower": 1.50},
    "p50 x2": {"slower": 2.0},
    "tail x5": {"tails": 5.0},
    "errors +0.5 %": {"errors": 0.005},
    "errors +2 %": {"errors": 0.02},
    "errors +5 %": {"errors": 0.05},
}


def _drift(source: random.Random, size: float) -> Iterator[float]:
    """A first-order autoregressive factor: what is slow now is likely slow in the next bucket."""
    state = 0.0
    while True:
        state = 0.8 * state + source.gauss(0, size * 0.6)
        yield math.exp(state)


def _point(
    source: random.Random, service: Service, bucket: int, factor: float, slower: float, tails: float, errors: float
) -> Point:
    requests = max(0, round(source.gauss(service.requests, math.sqrt(service.requests))))
    times, failed = [], 0
    for _ in range(requests):
        ms = source.lognormvariate(math.log(service.ms * factor * slower), service.spread)
        if source.random() < service.tail * tails:
            ms *= source.uniform(3, 10)
        failed += source.random() < service.errors + errors
        times.append(min(ms, SLOWEST_MS))
    return Point(bucket, requests, failed, 0, merged([[_bin(each) for each in times]]))


def _bin(ms: float) -> tuple[float, float, int]:
    """As Envoy keeps it: whole milliseconds, in bins of two significant digits."""
    whole = int(ms)
    if whole == 0:
        return 0.0, 0.0, 1
    width = 10.0 ** (math.floor(math.log10(whole)) - 1)
    return math.floor(whole / width) * width, width, 1


def run_once(
    rules: Rules, service: Service, seed: int, *, slower: float = 1.0, tails: float = 1.0, errors: float = 0.0
) -> tuple[Judgement, int]:
    """One phase as it is driven: judged at the first points, then with every ten more; and how many buckets it took."""
    source = random.Random(seed)
    shared, one, other = (_drift(source, size) for size in (service.shared, service.own, service.own))
    baseline: list[Point] = []
    candidate: list[Point] = []
    looked = 0
    for bucket in range(2 * rules.most_points):
        machine = next(shared)
        baseline.append(_point(source, service, bucket, machine * next(one), 1.0, 1.0, 0.0))
        candidate.append(_point(source, service, bucket, machine * next(other), slower, tails, errors))
        usable = min(sum(1 for each in arm if each.requests) for arm in (baseline, candidate))
        if usable < (looked + rules.every if looked else rules.points):
            continue
        looked = usable
        judged = judge(baseline, candidate, rules)
        if judged.final:
            return judged, bucket + 1
    return judge(baseline, candidate, rules), 2 * rules.most_points


def _outcomes(job: tuple[Rules, Service, Sequence[int], dict[str, float]]) -> list[tuple[str, str, int]]:
    rules, service, seeds, change = job
    found = [run_once(rules, service, seed, **change) for seed in seeds]
    return [(judged.verdict.value, judged.reason, buckets) for judged, buckets in found]


def _shares(outcomes: Sequence[tuple[str, str, int]]) -> dict[str, float]:
    count = len(outcomes)
    reasons = Counter(reason or "pass" for _, reason, _ in outcomes)
    lengths = sorted(buckets for _, _, buckets in outcomes)
    return {
        **{name: round(many / count, 4) for name, many in sorted(reasons.items())},
        "median_points": lengths[count // 2],
    }


def main(arguments: Sequence[str]) -> int:
    """Simulate and print."""
    parser = argparse.ArgumentParser(prog="python -m bench canary", description=__doc__)
    parser.add_argument("--runs", type=int, default=1000, help="phases of each service without a difference")
    parser.add_argument("--worse", type=int, default=200, help="phases of each service for each regression")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", metavar="FILE", help="write the JSON to FILE; - is standard output alone")
    options = parser.parse_args(arguments)
    rules = shipped_rules()
    began = perf_counter()
    with ProcessPoolExecutor(options.processes) as pool:
        alike = {
            name: pool.submit(_outcomes, (rules, service, range(options.runs), {}))
            for name, service in SERVICES.items()
        }
        worse = {
            (name, change): pool.submit(_outcomes, (rules, service, range(10**6, 10**6 + options.worse), by))
            for name, service in SERVICES.items()
            for change, by in WORSE.items()
        }
        same = {name: each.result() for name, each in alike.items()}
        power: dict[str, dict[str, dict[str, float]]] = {}
        for (name, change), each in worse.items():
            power.setdefault(change, {})[name] = _shares(each.result())
    every = [outcome for outcomes in same.values() for outcome in outcomes]
    wrong = sum(reason in ("worse", "veto", "floor") for _, reason, _ in every)
    figures = {
        "false_alarm_rate": round(wrong / len(every), 5),
        "false_no_go_rate": round(sum(verdict != "PASS" for verdict, _, _ in every) / len(every), 5),
        "phases_without_difference": len(every),
        "alpha": rules.alpha,
        "points": rules.points,
        "looks": rules.looks,
        "took_s": round(perf_counter() - began, 1),
    }
    alike_told = {name: _shares(outcomes) for name, outcomes in same.items()}
    report("canary", figures, options.out, alike=alike_told, worse=power)
    return 0


def shipped_rules() -> Rules:
    """The rules of the plan we ship."""
    text = files("bailiwick.assurance.shipped").joinpath("canary.yaml").read_text(encoding="utf-8")
    (document,) = read_text(text, "canary.yaml")
    return CANARY_PLAN.read(document.spec).rules


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
