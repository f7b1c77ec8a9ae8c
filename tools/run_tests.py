"""Runs the test suite in parallel under coverage, holds coverage at its mark, and closes with pytest's own summary.

What failed is told once more at the end, after the coverage: that is what the tail of a log shows. The table of
coverage goes to ``coverage.txt``; only its total is printed.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "coverage.txt"
_TRACEBACK_LINES = 30
_MOST_TRACEBACKS = 20

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
    # in the order of tests/conftest.py: the longest files first, so that none is begun when all others are done
    parallel = ["-n", str(given.cores), "--dist", "loadfile", "--no-loadscope-reorder"]
    command = [sys.executable, "-m", "coverage", "run", "-m", "pytest", *parallel]
    process = subprocess.Popen([*command, "-q", *rest], cwd=ROOT, stdout=subprocess.PIPE, text=True, errors="replace")
    assert process.stdout is not None
    told = Told()
    for line in process.stdout:
        print(line, end="", flush=True)
        told.read(line)
    tested = process.wait()
    covered = report_coverage()
    for line in told.again():
        print(line)
    return tested or covered


def report_coverage() -> int:
    """Write the table and coverage.xml, print the total; 1 where that is below its mark."""
    coverage = [sys.executable, "-m", "coverage"]
    subprocess.run([*coverage, "combine", "-q"], cwd=ROOT, check=False)
    subprocess.run([*coverage, "xml", "-q", "--fail-under=0"], cwd=ROOT, check=False)
    report = subprocess.run([*coverage, "report"], cwd=ROOT, check=False, capture_output=True, text=True)
    TABLE.write_text(report.stdout + report.stderr)
    total = next((line for line in report.stdout.splitlines() if line.startswith("TOTAL")), "")
    print(f"coverage: {total or report.stderr.strip() or 'nothing measured'} (the table is in {TABLE.name})")
    if report.returncode:
        print("coverage is below its mark")
    return 1 if report.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
