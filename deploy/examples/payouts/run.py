"""The payouts example: a day of generated payouts and a statement with differences put in, compared as a run does.

``python deploy/examples/payouts/run.py`` writes 100,000 payouts to a temporary directory, reconciles them by the
document beside this file, prints the report, and exits 0 if exactly what was put in is found. ``--keep DIR`` leaves
the files there, for an installation whose connections lead to them.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from bailiwick.assurance.book import check, read_text
from bailiwick.assurance.reconciliation import report
from bailiwick.assurance.reconciliation.matching import Matcher
from bailiwick.assurance.reconciliation.periods import window
from bailiwick.assurance.reconciliation.spec import CONNECTION, RECONCILIATION
from bailiwick.assurance.stuck.spec import MACHINE
from bailiwick.kernel.verdicts import Verdict

DAY = datetime(2026, 11, 20, tzinfo=UTC)
EACH = 25
Expected = set[tuple[str, str, str]]


def generate(directory: Path, rows: int) -> Expected:
    """A day's ledger and statement; the (type, side, key) of everything that was made to differ."""
    chosen = random.Random(20261120)  # noqa: S311 - the same rows every time
    marked = chosen.sample(range(rows), 5 * EACH)
    lost, wrong, foreign, twice, late = (set(marked[n * EACH : (n + 1) * EACH]) for n in range(5))
    expected: Expected = set()
    ledger, statement = [], []
    for n in range(rows):
        key, amount = f"PO-{n:07}", Decimal(chosen.randrange(100, 500_000)) / 100
        sent = DAY + timedelta(seconds=86_399 * n / rows)
        settled = sent + timedelta(minutes=chosen.randrange(1, 110))  # some of them on the next day
        ledger.append(f"{key},{amount},EUR,{sent.isoformat()}")
        if n in lost:
            expected.add(("missing", "left", key))
            continue
        if n in wrong:
            expected.add(("mismatch", "left", key))
            amount += Decimal("0.01")
        if n in foreign:
            expected.add(("excess", "right", f"XX-{n:07}"))
            statement.append(f"XX-{n:07},{amount},EUR,{sent.isoformat()}")
        if n in late:
            expected.add(("missing", "left", key))
            settled = sent + timedelta(hours=30)  # beyond what may be late: the next day's run tells of the other side
        if n in twice:
            settled = sent  # so that both of them are of this day
        line = f"{key},{amount},EUR,{settled.isoformat()}"
        statement.append(line)
        if n in twice:
            expected.add(("duplicate", "right", key))
            statement.append(line)
    chosen.shuffle(statement)
    for name, header, lines in (
        ("ledger/ledger", "payout_id,amount,currency,sent_at", ledger),
        ("provider/statement", "Reference,Net,Currency,Settled", statement),
    ):
        path = directory / f"{name}-{DAY.date()}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([header, *lines]) + "\n")
    return expected


def reconcile(directory: Path, expected: Expected) -> bool:
    """Match what was generated, print the report, and say whether exactly what was put in was found."""
    documents = read_text((Path(__file__).parent / "payouts.yaml").read_text(), "payouts.yaml")
    book = check("default", documents, {kind.name: kind for kind in (CONNECTION, RECONCILIATION, MACHINE)})
    spec, now = book.of(RECONCILIATION)["payouts"], DAY + timedelta(days=1, hours=3)
    judged = window(spec, str(DAY.date()), now)
    begun, tally = time.perf_counter(), report.Tally()
    matcher = Matcher(spec, directory, now, judged)
    try:
        rows = {
            "left": matcher.load("left", directory / f"ledger/ledger-{DAY.date()}.csv"),
            "right": matcher.load("right", directory / f"provider/statement-{DAY.date()}.csv", spec.right.columns),
        }
        totals = matcher.totals()
        found = list(matcher.differences())
    finally:
        matcher.close()
    for each in found:
        tally.add(spec, each)
    coverage = {side: {"source": getattr(spec, side).connection, "rows": count} for side, count in rows.items()}
    sha256 = book.documents[(RECONCILIATION.name, "payouts")].sha256
    verdict = Verdict.FAIL if found else Verdict.PASS
    made = report.build("payouts", spec, sha256, str(DAY.date()), judged, verdict, totals, tally, 0, coverage)
    sys.stdout.write(report.markdown(made))
    exact = sorted((each.type, each.side, each.key[0]) for each in found) == sorted(expected)
    took = time.perf_counter() - begun
    sys.stdout.write(
        f"\n{sum(rows.values())} rows in {took:.1f} s; {len(expected)} differences put in, {len(found)} found:"
        f" {'exactly those' if exact else 'NOT THE SAME'}\nreport {report.digest(made)}\n"
    )
    return exact


def main() -> int:
    """Generate and reconcile; the exit code."""
    parser = argparse.ArgumentParser(description="Reconcile a day of generated payouts.")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the files here")
    given = parser.parse_args()
    if given.keep is not None:
        return 0 if reconcile(given.keep, generate(given.keep, given.rows)) else 1
    with tempfile.TemporaryDirectory(prefix="payouts-") as name:
        return 0 if reconcile(Path(name), generate(Path(name), given.rows)) else 1


if __name__ == "__main__":
    sys.exit(main())
