"""Governed load at a fixed rate for a long time: does latency or memory drift, does evidence keep up?"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from bench.common import free_port, hey, nginx, report, rss_mb, stack
from bench.governed import governed_server, mandate, wait_governed

RATE = 2_000.0
_SLICE_S = 30.0


def run(minutes: float, baseline: str | None, out: str | None) -> int:
    """Measure in slices; with a baseline, 1 where p99 or memory is worse than it by more than half."""
    upstream_port = free_port()
    p99: list[float] = []
    rss: list[float] = []
    errors = 0
    with nginx(upstream_port), stack(workers=1) as made:
        form = governed_server(made, upstream_port)
        url = f"{made.gateway}/s/bench/items"
        wait_governed(url, mandate(made, form))
        worker = made.parts()["w1"]
        slices = max(1, round(minutes * 60 / _SLICE_S))
        for _ in range(slices):
            token = mandate(made, form)
            load = hey(url, min(_SLICE_S, minutes * 60), 16, RATE, {"Authorization": f"Bearer {token}"})
            p99.append(load.p99)
            rss.append(rss_mb(worker))
            errors += load.errors
        verdict = made.api.call("POST", "/api/v1/audit/verify")["verdict"]
    figures = {
        "minutes": minutes,
        "rate_rps": RATE,
        "errors": errors,
        "p99_ms_first": p99[0],
        "p99_ms_last": p99[-1],
        "p99_ms_worst": max(p99),
        "worker_rss_mb_first": round(rss[0], 1),
        "worker_rss_mb_last": round(rss[-1], 1),
        "ledger_intact": float(verdict == "PASS"),
    }
    report("sustained", figures, out, path="through Envoy", method=f"hey at {RATE:g} req/s in slices of {_SLICE_S:g} s")
    if baseline is None:
        return 0
    known = json.loads(Path(baseline).read_text())["figures"]
    worse = [name for name in ("p99_ms_worst", "worker_rss_mb_last") if figures[name] > 1.5 * known[name]]
    return 1 if worse or errors else 0


def main(arguments: list[str]) -> int:
    """``python -m bench sustained``."""
    parser = argparse.ArgumentParser(prog="python -m bench sustained")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--baseline", metavar="FILE")
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args(arguments)
    return run(given.minutes, given.baseline, given.json)
