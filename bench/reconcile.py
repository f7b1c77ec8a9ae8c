"""Reconciling two large sources: how long it takes, in how much memory, and whether exactly what differs is found.

Two statements are written as CSV, with differences of every type put in at known keys; a child process then compares
them as a run of the product does (reading, checking every amount, grouping, joining, telling every difference). Its
peak resident memory is the kernel's figure, and what it found is compared with what was put in.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from bench.common import report

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
_SEEDED = 250
_AT = "2026-11-20T{:02}:{:02}:{:02}.{:06}Z"


def write(directory: Path, rows: int) -> set[tuple[str, str, str]]:
    """The two files of ``rows`` rows each; the (type, side, key) of everything that was made to differ."""
    chosen = random.Random(20261121)
    picked = chosen.sample(range(rows), 4 * _SEEDED)
    missing, mismatch, doubled, stale = (set(picked[n * _SEEDED : (n + 1) * _SEEDED]) for n in range(4))
    order = list(range(rows))
    chosen.shuffle(order)
    expected: set[tuple[str, str, str]] = set()
    with (directory / "left.csv").open("w") as left, (directory / "right.csv").open("w") as right:
        left.write("id,amount,currency,booked_at\n")
        right.write("reference,value,unit,seen_at\n")
        for n in range(rows):
            left.write(f"payout-{n:09},{amount(n)},EUR,{_AT.format(n % 24, n % 60, n % 59, n % 1_000_000)}\n")
        for n in order:
            key, value = f"payout-{n:09}", amount(n)
            if n in missing:
                expected |= {("missing", "left", key), ("excess", "right", f"other-{n:09}")}
                key = f"other-{n:09}"
            elif n in mismatch:
                expected.add(("mismatch", "left", key))
                value += "000000000000001"
            elif n in doubled:
                expected.add(("duplicate", "right", key))
                right.write(f"{key},{value},EUR,{_AT.format(n % 24, n % 60, n % 59, n % 1_000_000)}\n")
            day = "2026-11-10T00:00:00Z" if n in stale else _AT.format(n % 24, n % 60, n % 59, n % 1_000_000)
            if n in stale:
                expected.add(("stale", "right", key))
            right.write(f"{key},{value},EUR,{day}\n")
    return expected


def amount(n: int) -> str:
    """An amount that a float would spoil."""
    return f"{9_007_199_254_740_993 + n}.{n % 100:02}"


def compare(directory: Path, rows: int) -> None:
    """What the child does; prints what it found and how long it took."""
    import resource

    from bailiwick.assurance.reconciliation.matching import Matcher
    from bailiwick.assurance.reconciliation.spec import ReconciliationSpec

    spec = ReconciliationSpec.model_validate(
        {
            "owner": "payouts",
            "left": {"connection": "books", "file": "left.csv"},
            "right": {"connection": "bank", "file": "right.csv"},
            "keys": [{"left": "id", "right": "reference"}],
            "fields": [
                {"left": "amount", "right": "value", "kind": "decimal"},
                {"left": "currency", "right": "unit"},
            ],
            "stale": {"column": "seen_at", "after": "7d"},
            "weigh": "amount",
            "cap": 2 * rows,
        }
    )
    begun = time.perf_counter()
    matcher = Matcher(spec, directory, NOW)
    matcher.load("left", directory / "left.csv")
    matcher.load("right", directory / "right.csv")
    totals = matcher.totals()
    found = [(each.type, each.side, each.key[0]) for each in matcher.differences()]
    took = time.perf_counter() - begun
    matcher.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"took_s": took, "peak_rss_mb": peak, "found": found, "totals": totals.document()}))


def measure(rows: int) -> dict[str, float]:
    """All figures."""
    with tempfile.TemporaryDirectory(prefix="bw-bench-", dir="/tmp") as name:
        directory = Path(name)
        expected = write(directory, rows)
        command = [sys.executable, "-m", "bench.reconcile", str(directory), str(rows)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        told = json.loads(done.stdout)
        read = told["totals"]["left_rows"] + told["totals"]["right_rows"]
        found = [tuple(each) for each in told["found"]]
        return {
            "rows_per_s": round(read / told["took_s"]),
            "peak_rss_mb": round(told["peak_rss_mb"], 1),
            "findings_exact": sorted(found) == sorted(expected),
            "took_s": round(told["took_s"], 2),
            "findings": len(found),
            "rows": read,
        }


def main(arguments: list[str]) -> None:
    """``python -m bench reconcile``."""
    parser = argparse.ArgumentParser(prog="python -m bench reconcile")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of each side")
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args(arguments)
    figures = measure(given.rows)
    method = (
        f"{given.rows} rows against as many, shuffled; {_SEEDED} of each type put in; one process, from CSV to findings"
    )
    report("reconcile", figures, given.json, path="matching engine, no HTTP", method=method)


if __name__ == "__main__":
    compare(Path(sys.argv[1]), int(sys.argv[2]))
