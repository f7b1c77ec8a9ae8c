"""The demonstration holds, and is able to fail."""

from __future__ import annotations

import subprocess
import sys

DEMO = (sys.executable, "-m", "bailiwick.cli.main", "demo", "--own-stack")


def test_the_demonstration_holds() -> None:
    done = subprocess.run(DEMO, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "15 steps" in done.stdout
    assert "eyJhbGciOi" not in done.stdout, "a token was printed"


def test_a_story_that_deviates_fails() -> None:
    done = subprocess.run([*DEMO, "--upstream-key", "another"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "✗" in done.stderr
