"""kill -9 at every write of a containment and of preserving: done whole or not at all, never twice, and never silent."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from unmeasured import unmeasured


def lives(url: str, directory: Path, what: str) -> list[dict[str, Any]]:
    """Each life with what was found after it."""
    script = Path(__file__).with_name("incident_killed.py")
    done = subprocess.run(
        [sys.executable, str(script), url, str(directory), what],
        capture_output=True, text=True, timeout=240, env=unmeasured(),
    )  # fmt: skip
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert said and not any("error" in each for each in said), done.stdout + done.stderr
    return [{**life, **found} for life, found in zip(said[::2], said[1::2], strict=True)]


@pytest.mark.parametrize("action", ["freeze", "fail-closed", "revoke"])
def test_a_containment_is_whole_or_not_there_and_never_twice(database_url: str, tmp_path: Path, action: str) -> None:
    found = lives(database_url, tmp_path / "here", action)
    assert not found[-1]["killed"] and len(found) > 5, "the last life is that which nobody ended"
    seen = set()
    for life in found:
        where = life["at"]
        left, looked, end = life["left"], life["looked"], life["end"]
        done = left["effects"]
        # act, override, line and state are one
        assert (left["overrides"], left["acts"], left["lines"]) == (done, done, done), where
        assert left["state"] == ("contained" if done else "open"), where
        open_end = done and not left["settled"]
        assert looked["interrupted"] == bool(open_end), where  # it says so
        seen.add((done, bool(open_end)))
        # whoever asks again is answered with what was done, or does it now
        assert life["again"] in (200, 0) and (life["again"] or action == "revoke"), where
        assert (end["overrides"], end["effects"], end["lines"], end["state"]) == (1, 1, 1, "contained"), where
        assert end["settled"] == 1, where
    assert seen == {(0, False), (1, True), (1, False)}


def test_preserving_goes_on_after_any_death_and_makes_one_pack(database_url: str, tmp_path: Path) -> None:
    found = lives(database_url, tmp_path / "here", "preserve")
    assert not found[-1]["killed"] and len(found) > 5
    for life in found:
        where = life["at"]
        (pack,) = life["packs"]
        assert (pack["state"], life["pack"], life["lines"]) == ("built", pack["id"], 1), where
        assert life["files"] == [f"{pack['id']}.zip"], where
        assert 1 <= pack["attempts"] <= 2, where
    assert any(life["packs"][0]["attempts"] == 2 for life in found)
    (last,) = found[-1]["packs"]
    body = (tmp_path / "here" / "packs" / f"{last['id']}.zip").read_bytes()
    assert hashlib.sha256(body).hexdigest() == last["sha256"]
