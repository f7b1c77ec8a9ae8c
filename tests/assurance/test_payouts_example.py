"""The payouts example finds exactly the differences that were put in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parent.parent.parent / "deploy/examples/payouts/run.py"


def test_exactly_what_was_put_in_is_found() -> None:
    done = subprocess.run([sys.executable, str(EXAMPLE)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert "125 found: exactly those" in done.stdout and "# Reconciliation payouts: FAIL" in done.stdout
