"""The demonstration of a handover holds from its first step to its last, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bailiwick.cli.demo_handover.story import STEPS

DEMO = (sys.executable, "-m", "bailiwick.cli.main", "demo-handover")
LIMIT_S = 600


@pytest.fixture
def temporary() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bw-demo-", dir="/tmp") as directory:
        yield Path(directory)


def test_from_nothing_to_a_signed_handover(temporary: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(temporary)}
    done = subprocess.run(
        [*DEMO, "--own-stack"], capture_output=True, text=True, timeout=LIMIT_S, env=environment, check=False
    )
    told = done.stdout
    assert done.returncode == 0, told[-6000:] + done.stderr[-3000:]
    steps = re.findall(r"^ ?(\d+)  (.+)$", told.partition("\nMeasured\n")[0], re.MULTILINE)
    assert [title for _, title in steps] == [step.title for step in STEPS]
    assert told.count("    ✓ ") == len(STEPS) and "✗" not in told
    assert max(map(len, told.splitlines())) <= 80
    for line in (
        r"[56] items stand in the way",
        r"left: nothing",
        r"the chat: \[P2\] A process of the installation ended and was restarted",
        r"fired after [\d.]+ s, delivered after [\d.]+ s, acknowledged after [\d.]+ s",
        r"all was served again after [\d.]+ s, nothing was lost",
        r"withdrawn: it passed, and then errors [\d.]+ % is above 30.00 %",
        r"deciding: canary: canary is FAIL",
        r"409  reason=rollout_canary",
        r"rolled_back: rolled back in \d+ s",
        r"NO-GO: canary of sha256:\w+ is FAIL",
        r"name: INC-\d+, severity: P0, class: security",
        r"T\+7 of .*: PASS",
        r"The platform has been successfully handed over to the BAU operating model",
        r"· SIMULATED",
        r"· FAIL  ",
        r"handover/handover\.json: it is not the file that was packed",
    ):
        assert re.search(line, told), line
    closing = told.partition("\nMeasured\n")[2]
    assert float(re.search(r"bad candidate quiet s +([\d.]+)", closing)[1]) < 5
    assert f"✓ {len(STEPS)} of {len(STEPS)} steps as told" in closing
    for beginning in ("eyJ", "pk_", "bws_", "bwi_"):
        shown = re.findall(rf"\b{beginning}\S+", told)
        assert all(re.fullmatch(r"\S{1,24}…,?", word) for word in shown), shown
    assert list(temporary.iterdir()) == []


def test_it_takes_an_installation_of_its_own() -> None:
    done = subprocess.run([*DEMO], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and "--own-stack" in done.stderr
