"""The commands, against a real database with the book that is shipped: honest, within 80 columns, by exit code."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from stage import Stage
from typer.testing import CliRunner, Result

from bailiwick.app.assurance import KINDS
from bailiwick.assurance.shipped import shipped
from bailiwick.cli.readiness import app
from bailiwick.kernel.clock import FakeClock
from bailiwick.kernel.crypto import KekFile
from people_fixtures import House

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def clock() -> FakeClock:
    """The commands go by the machine's clock, so the stage lives shortly before it."""
    return FakeClock(datetime.now(UTC) - timedelta(days=1))


@pytest.fixture
async def home(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh installation's: the book that is shipped is in force, and nothing was done yet."""
    stage = Stage(house, KINDS)
    await stage.books.ship(stage.context("bailiwick"), shipped("default"))
    monkeypatch.setenv("BAILIWICK_DATABASE_URL", house.database.url)
    monkeypatch.setenv("BAILIWICK_DATA_DIR", str(tmp_path))
    (tmp_path / "secrets").mkdir(mode=0o700)
    KekFile(tmp_path / "secrets" / "kek").ensure()
    return tmp_path


async def _say(home: Path, *words: str, code: int) -> Result:
    done = await asyncio.to_thread(CliRunner().invoke, app, [*words, "--data-dir", str(home)])
    assert done.exit_code == code, (words, done.output, done.exception)
    return done


async def _json(home: Path, *words: str, code: int) -> Any:
    return json.loads((await _say(home, *words, "--json", code=code)).stdout)


def _narrow(done: Result) -> str:
    assert all(len(line) <= 80 for line in done.stdout.splitlines()), done.stdout
    return done.stdout


async def test_a_fresh_installation_is_honestly_not_ready(house: House, home: Path) -> None:
    before = _narrow(await _say(home, "show", code=3))
    assert "production is NOT ready" in before and "never run" in before
    told = _narrow(await _say(home, "run", code=1))
    assert "why not ready:" in told and "pre-deployment/restore-tested" in told
    view = await _json(home, "show", code=1)
    score = view["score"]
    assert score["applicable"] > 130 and score["outside"] == 26 and score["open_must"] > 60 and score["percent"] < 50
    green = {each["item"] for each in view["items"] if each["verdict"] == "PASS"}
    assert "bailiwick/database-answers" in green and "pre-deployment/schema" not in green - green
    red = {each["item"] for each in view["blockers"]}
    assert {"pre-deployment/restore-tested", "pre-deployment/siem", "sign-off/go-live-approved"} <= red
    assert len(view["trend"]) == 1 and view["verdict"] == "FAIL"
    every = _narrow(await _say(home, "show", "--all", code=1))
    assert "outside " in every and "trend" in every
    names = [event.name for event in await house.events()]
    assert {"readiness.asked", "readiness.run", "readiness.read"} <= set(names)


async def test_one_item_is_explained(home: Path) -> None:
    told = _narrow(await _say(home, "explain", "pre-deployment/dns", code=3))
    assert "never looked at" in told and "dns_names" in told and "readiness/pre-deployment/dns" in told
    stated = _narrow(await _say(home, "explain", "pre-deployment/known-issues", code=3))
    assert "nobody has attested it" in stated and "a document goes with it" in stated
    sums = await _json(home, "explain", "sign-off/checklist-complete", code=3)
    assert sums["asks"] == {"requires": ["pre-deployment"]}
    assert "outside" in _narrow(await _say(home, "explain", "pre-deployment/nodes", code=3))


async def test_what_is_not_there_or_takes_a_person_ends_the_command(home: Path, tmp_path: Path) -> None:
    assert "no_readiness" in (await _say(home, "show", "--env", "nowhere", code=3)).output
    assert "no_readiness" in (await _say(home, "run", "--env", "nowhere", code=3)).output
    assert "no_readiness" in (await _say(home, "explain", "pre-deployment/none", code=3)).output
    said = ("attest", "pre-deployment/known-issues", "--statement", "they are")
    assert "signed-in person" in (await _say(home, *said, code=2)).output
    assert "no CHECKLIST/ITEM" in (await _say(home, "attest", "../x", "--statement", "s", code=2)).output
    assert "no id" in (await _say(home, "review", "x", "--accept", code=2)).output
    assert "--attach" in (await _say(home, *said, "--attach", str(tmp_path / "none"), code=2)).output
