"""The demonstration holds, is able to fail, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from bailiwick.cli.demo.children import own_stack
from bailiwick.cli.demo.story import STEPS
from bailiwick.kernel.paths import Layout
from unmeasured import unmeasured

DEMO = (sys.executable, "-m", "bailiwick.cli.main", "demo")
LIMIT_S = 120


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A temporary directory of 43 bytes: the sockets of a stack below it fit only into one beside its data."""
    base = tempfile.mkdtemp(prefix="bw demo ", dir="/tmp")
    directory = Path(base) / ("x" * (43 - len(base) - 1))
    directory.mkdir()
    yield directory
    shutil.rmtree(base)


@pytest.fixture
async def running(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Layout]:
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)  # as unmeasured() does
    async with own_stack(1, lambda line: None) as layout:
        yield layout


def run(*arguments: str, temporary: Path | None = None, measured: bool = False) -> subprocess.CompletedProcess[str]:
    """One whole demonstration is measured, and what only others come to."""
    environment = dict(os.environ) if measured else unmeasured()
    if temporary:
        environment["TMPDIR"] = str(temporary)
    return subprocess.run([*DEMO, *arguments], capture_output=True, text=True, timeout=LIMIT_S, env=environment)


def assert_nothing_left(temporary: Path) -> None:
    assert list(temporary.iterdir()) == []
    marks = os.fsencode(temporary)
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                found = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            except OSError:
                continue
            assert marks not in found, found


def test_the_demonstration_holds(temporary: Path) -> None:
    done = run("--own-stack", temporary=temporary, measured=True)
    assert done.returncode == 0, done.stdout + done.stderr
    numbers = [int(number) for number in re.findall(r"^ ?(\d+)  [A-Z]", done.stdout, re.MULTILINE)]
    assert numbers == list(range(1, len(STEPS) + 1))
    assert done.stdout.count("    ✓ ") == len(STEPS)
    assert max(map(len, done.stdout.splitlines())) <= 80
    closing = done.stdout.partition("\nMeasured\n")[2]
    assert re.search(r"governed call +p50 [\d.]+ ms +p99 [\d.]+ ms", closing)
    assert re.search(r"revocation +[\d.]+ ms; settled on 2 workers", closing)
    assert int(re.search(r"stream cut +(\d+) ms", closing)[1]) < 1000
    assert re.search(r"verification +[\d,]+ events/s", closing)
    assert re.search(r"tampered copy +FAIL, as it must: event \d+ named", closing)
    assert f"✓ {len(STEPS)} of {len(STEPS)} steps as told" in closing
    # a beginning, then an ellipsis: of tokens, the upstream's key, client secrets, invitations, passwords
    for beginning in ("eyJ", "pk_", "bws_", "bwi_", r"(?:password|token)="):
        shown = re.findall(rf"\b{beginning}\S+", done.stdout)
        assert shown and all(re.fullmatch(r"\S{1,24}…,?", word) for word in shown), shown
    assert "\x1b[" not in done.stdout
    assert_nothing_left(temporary)


def test_a_story_that_deviates_fails(temporary: Path) -> None:
    done = run("--own-stack", "--upstream-key", "another key entirely", temporary=temporary)
    assert done.returncode == 1, done.stdout + done.stderr
    failed = done.stdout.partition("✗")[2]
    assert failed.startswith(" expected 200 from GET")
    assert "got 401 " in failed
    assert "step 10 deviated: 9 of 16 steps as told" in failed
    assert "Measured" not in failed
    assert_nothing_left(temporary)


@pytest.mark.parametrize("moment", ["nursery", " 9  "])
def test_an_interrupt_leaves_nothing_behind(temporary: Path, moment: str) -> None:
    process = subprocess.Popen(
        [*DEMO, "--own-stack"], stdout=subprocess.PIPE, text=True, env=unmeasured(TMPDIR=str(temporary))
    )
    assert process.stdout is not None
    try:
        assert any(moment in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(LIMIT_S) == 130
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert_nothing_left(temporary)


async def test_against_a_running_installation(running: Layout) -> None:
    """Twice: the second time the one-time password is changed already."""
    for _ in range(2):
        done = run("--data-dir", str(running.data_dir), "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        told = json.loads(done.stdout)
        assert told["ok"] is True and told["passed"] == told["steps"] == len(STEPS) and told["failure"] is None
        assert told["figures"]["revocation_workers"] == 1
        assert told["figures"]["cut_ms"] < 1000
    refused = run("--data-dir", str(running.data_dir), "--password", "not the administrator's")
    assert refused.returncode == 1
    assert "administrator changed the one-time password" in refused.stdout


def test_nothing_running_is_told(temporary: Path) -> None:
    Layout(temporary).create()
    done = run("--data-dir", str(temporary), measured=True)
    assert done.returncode == 3
    assert "nothing is running" in done.stderr
