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
    summary = ""
    for line in process.stdout:
        print(line, end="", flush=True)
        if re.search(r"\d+ (passed|failed|error)", line):
            summary = line
    tested = process.wait()
    subprocess.run([sys.executable, "-m", "coverage", "combine", "-q"], cwd=ROOT, check=False)
    subprocess.run([sys.executable, "-m", "coverage", "xml", "-q", "--fail-under=0"], cwd=ROOT, check=False)
    covered = subprocess.run([sys.executable, "-m", "coverage", "report"], cwd=ROOT, check=False).returncode
    if covered:
        print("coverage is below its mark")
    print(summary, end="")
    return tested or (1 if covered else 0)


if __name__ == "__main__":
    sys.exit(main())
