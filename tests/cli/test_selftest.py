"""``bailiwick selftest mutate``: what it prints in 80 columns, how it ends, and that no installation hears of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bailiwick.app.selftest.mutations import MUTATIONS
from unmeasured import unmeasured


def selftest(*words: str, measured: bool = False, **environment: str) -> subprocess.CompletedProcess[str]:
    """Lives are measured in tests/assurance, where they are lived in the tests' own process."""
    return subprocess.run(
        [sys.executable, "-m", "bailiwick.cli.main", "selftest", "mutate", *words],
        capture_output=True, text=True, timeout=300, env=(dict(os.environ) if measured else unmeasured()) | environment,
    )  # fmt: skip


def narrow(text: str) -> bool:
    return all(len(line) <= 80 for line in text.splitlines())


def test_the_faults_are_listed() -> None:
    told = selftest("--list", measured=True)
    assert told.returncode == 0 and told.stderr == "" and narrow(told.stdout)
    assert [line.split()[0] for line in told.stdout.splitlines()] == [each.name for each in MUTATIONS]
    faults = json.loads(selftest("--list", "--json", "--only", "too-late").stdout)["faults"]
    assert [each["name"] for each in faults] == ["too-late"]
    assert "refused doing the override: approval_ended" in faults[0]["red"]


@pytest.mark.parametrize("words", [["--only", "no-such-fault"], ["--no-such-option"], ["too-late"]])
def test_what_it_does_not_know_is_refused(words: list[str]) -> None:
    told = selftest(*words, measured=True)
    assert told.returncode == 2 and told.stdout == ""
    assert "no-such" in told.stderr or "too-late" in told.stderr


def test_a_survivor_fails_the_run_and_is_explained(tmp_path: Path) -> None:
    told = selftest("--only", "nothing", "--only", "waiver-too-long", "--only", "nothing", TMPDIR=str(tmp_path))
    assert told.returncode == 1, told.stderr
    assert told.stdout.splitlines() == [
        "nothing                SURVIVED",
        "waiver-too-long        refused asking for the waiver: waiver_too_long",
        "1 of 2 faults turned red what they have to",
        "",
        "nothing survived: nothing is broken: this one has to survive",
        "  not red: alert JobSilent P1 firing scheduler",
    ]
    # as far as these two need it and no further
    assert told.stderr.splitlines() == ["day    2: going live", "day    5: a waiver lapses and requests fail"]
    assert list(tmp_path.iterdir()) == []


def test_it_touches_no_installation_and_takes_nothing_from_its_settings(tmp_path: Path) -> None:
    home = tmp_path / "installation"
    environment = {
        "BAILIWICK_DATA_DIR": str(home),
        "BAILIWICK_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
        "BAILIWICK_REDIS_URL": "redis://127.0.0.1:1",
        "BAILIWICK_API_PORT": "no number at all",
    }
    told = selftest("--json", "--only", "waiver-too-long", **environment)
    assert told.returncode == 0, told.stderr
    answer = json.loads(told.stdout)
    assert answer["survivors"] == []
    (fault,) = answer["faults"]
    assert fault == {
        "name": "waiver-too-long",
        "meaning": "a HIGH waiver of nine days is asked for",
        "survived": False,
        "red": ["refused asking for the waiver: waiver_too_long"],
        "missing": [],
        "done": [],
        "turned": ["+ refused asking for the waiver: waiver_too_long"],
    }
    assert not home.exists()
