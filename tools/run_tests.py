"""Runs the test suite in parallel under coverage, holds coverage at its mark, and closes with pytest's own summary.

What failed is told once more at the end, after the coverage: that is what the tail of a log shows. The table of
coverage goes to ``coverage.txt``; only its total is printed.

Tests here start whole installations beside each other, and a machine that stalls for seconds can break one that is
right. So a few that failed are run once more, alone; the run holds if they pass then, and says which they were. More
than a few, or a secret that got out, is never put down to that.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "coverage.txt"
_TRACEBACK_LINES = 30
_MOST_TRACEBACKS = 20
_MOST_AGAIN = 3
_LAST_FAILED = ROOT / ".pytest_cache" / "v" / "cache" / "lastfailed"
_LEAK = "secrets in evidence or logs"
_BYTECODE = ROOT / ".pytest_cache" / "bytecode"

_SECTION = re.compile(r"=+ (.+?) =+")
_FAILURE = re.compile(r"_{3,} (.+?) _{3,}")
_SHORT = re.compile(r"(FAILED|ERROR) ")
_CLOSING = re.compile(r"\d+ (passed|failed|errors?|skipped|deselected|warnings?)\b.* in [\d.]+s|no tests ran in ")


class Told:
    """What pytest printed, as far as it is told again: failures, their short lines, and the closing line."""

    def __init__(self) -> None:
        self.tracebacks: dict[str, list[str]] = {}
        self.short: list[str] = []
        self.closing = ""
        self.leaked = False
        self._section = ""
        self._failure: list[str] | None = None

    def read(self, line: str) -> None:
        """Take one line of pytest's output into account."""
        line = line.rstrip("\n")
        if _CLOSING.search(line):
            self.closing = line
            self._section, self._failure = "", None
        elif section := _SECTION.fullmatch(line):
            self._section, self._failure = section[1], None
            self.leaked |= section[1] == _LEAK
        elif self._section in {"FAILURES", "ERRORS"}:
            if failure := _FAILURE.fullmatch(line):
                self._failure = self.tracebacks.setdefault(failure[1], [])
            elif self._failure is not None:
                self._failure.append(line)
        elif self._section == "short test summary info" and _SHORT.match(line):
            self.short.append(line)

    def again(self) -> Iterable[str]:
        """What failed, the traceback's end of each; the short lines; the closing line."""
        for name, lines in list(self.tracebacks.items())[:_MOST_TRACEBACKS]:
            yield f"----- {name}"
            yield from lines[-_TRACEBACK_LINES:]
        if len(self.tracebacks) > _MOST_TRACEBACKS:
            yield f"----- and {len(self.tracebacks) - _MOST_TRACEBACKS} more, further up"
        yield from self.short
        if self.closing:
            yield self.closing


def main() -> int:
    """The exit code: pytest's, or 1 where coverage fell below its mark."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 2)
    given, rest = parser.parse_known_args()
    _LAST_FAILED.unlink(missing_ok=True)
    # in the order of tests/conftest.py: the longest files first, so that none is begun when all others are done
    parallel = ["-n", str(given.cores), "--dist", "loadfile", "--no-loadscope-reorder"]
    tested, told = run([*parallel, *rest])
    alone = [] if told.leaked or tested != 1 else worth_another_look(failed())
    if alone:
        print(f"----- {len(alone)} failed beside the others; once more, alone", flush=True)
        tested, again = run([*rest, *alone])
        told = told if tested else again
    covered = report_coverage()
    for line in told.again():
        print(line)
    if alone and not tested:
        print(f"failed beside the others and passed alone: {', '.join(alone)}")
        print(told.closing)
    return tested or covered


def run(options: list[str]) -> tuple[int, Told]:
    """Run pytest under coverage with ``options``; its exit code, and what it printed."""
    command = [sys.executable, "-m", "coverage", "run", "-m", "pytest", "-q", *options]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, errors="replace", env=with_bytecode(os.environ)
    )
    assert process.stdout is not None
    told = Told()
    for line in process.stdout:
        print(line, end="", flush=True)
        told.read(line)
    return process.wait(), told


def with_bytecode(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` in which Python keeps what it compiled: elsewhere where none is wanted beside sources.

    The tests begin hundreds of processes. Each that had to compile the program would spend seconds on it.
    """
    kept = dict(environment)
    if kept.pop("PYTHONDONTWRITEBYTECODE", ""):
        kept.setdefault("PYTHONPYCACHEPREFIX", str(_BYTECODE))
    return kept


def failed() -> list[str]:
    """The tests that failed in the last run, as pytest wrote them down."""
    try:
        return list(json.loads(_LAST_FAILED.read_text()))
    except (OSError, ValueError):
        return []


def worth_another_look(tests: list[str]) -> list[str]:
    """Those of ``tests`` to be run alone: all of a few, none of many."""
    return tests if len(tests) <= _MOST_AGAIN else []


def report_coverage() -> int:
    """Write the table and coverage.xml, print the total; 1 where that is below its mark."""
    coverage = [sys.executable, "-m", "coverage"]
    subprocess.run([*coverage, "combine", "-q"], cwd=ROOT, check=False)
    with subprocess.Popen([*coverage, "xml", "-q", "--fail-under=0"], cwd=ROOT):  # beside the report
        report = subprocess.run([*coverage, "report"], cwd=ROOT, check=False, capture_output=True, text=True)
    TABLE.write_text(report.stdout + report.stderr)
    total = next((line for line in report.stdout.splitlines() if line.startswith("TOTAL")), "")
    print(f"coverage: {total or report.stderr.strip() or 'nothing measured'} (the table is in {TABLE.name})")
    if report.returncode:
        print("coverage is below its mark")
    return 1 if report.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
