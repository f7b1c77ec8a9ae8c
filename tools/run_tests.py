"""Runs the test suite in parallel under coverage, holds coverage at its mark, and closes with pytest's own summary."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main() -> int:
    """The exit code: pytest's, or 1 where coverage fell below its mark."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 2)
    given, rest = parser.parse_known_args()
    command = [sys.executable, "-m", "coverage", "run", "-m", "pytest", "-n", str(given.cores), "--dist", "loadfile"]
    process = subprocess.Popen([*command, "-q", *rest], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    closing: list[str] = []
    for line in process.stdout:
        print(line, end="", flush=True)
        if line.startswith(("FAILED ", "ERROR ")) or re.search(r"\d+ (passed|failed|error)", line):
            closing.append(line)
    tested = process.wait()
    subprocess.run([sys.executable, "-m", "coverage", "combine", "-q"], cwd=ROOT, check=False)
    subprocess.run([sys.executable, "-m", "coverage", "xml", "-q", "--fail-under=0"], cwd=ROOT, check=False)
    report = subprocess.run([sys.executable, "-m", "coverage", "report"], cwd=ROOT, capture_output=True, text=True)
    (ROOT / ".coverage" / "report.txt").write_text(report.stdout)
    print(f"{''.join(report.stdout.splitlines(keepends=True)[-3:])}every file: .coverage/report.txt")
    if covered := report.returncode:
        print("coverage is below its mark")
    # what failed stands last, where whoever sees only the end of a log looks
    print("".join(closing), end="")
    return tested or (1 if covered else 0)


if __name__ == "__main__":
    sys.exit(main())
