"""The commands of owners, on-call and tasks: what they print in 80 columns, how they end, what they leave behind."""

from __future__ import annotations

import asyncio
import getpass
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from test_owners import SHIPPED, Played, activity, document
from typer.testing import CliRunner

from bailiwick.assurance.book import read_text
from bailiwick.assurance.ports import Task
from bailiwick.cli.main import app
from bailiwick.kernel.crypto import KekFile
from people_fixtures import House

LEVELS = {"primary": {"people": ["ada", "bob"]}}
ROTA = document("Rota", "default", {"owner": "a", "start": "2026-01-05", "levels": LEVELS})


class Terminal:
    """Runs the command on the machine's own database."""

    def __init__(self, stage: Played, data_dir: Path) -> None:
        self.stage = stage
        self.data_dir = data_dir

    async def __call__(self, *words: str, code: int = 0) -> str:
        arguments = [*words, "--data-dir", str(self.data_dir)]
        done: Result = await asyncio.to_thread(lambda: CliRunner().invoke(app, arguments))
        assert done.exit_code == code, (words, done.output, done.exception)
        if "--json" not in words:
            assert all(len(line) <= 80 for line in done.stdout.splitlines()), done.stdout
        return done.output

    async def json(self, *words: str, code: int = 0) -> Any:
        return json.loads(await self(*words, "--json", code=code))


@pytest.fixture
async def terminal(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("BAILIWICK_DATABASE_URL", house.database.url)
    (tmp_path / "secrets").mkdir(mode=0o700)
    KekFile(tmp_path / "secrets" / "kek").ensure()
    return Terminal(Played(house), tmp_path)


async def test_owners_are_listed_shown_and_checked(terminal: Terminal) -> None:
    stage = terminal.stage
    assert (await terminal.json("owners", "check", code=3))["verdict"] == "NO_DATA"
    assert "nobody" in await terminal("owners", "list", code=3)
    await stage.books.ship(stage.context(), read_text(SHIPPED.read_text(), "owners.yaml"))
    told = await terminal("owners", "check", code=1)
    assert "nobody holds ops_owner" in told and "FAIL: " in told.splitlines()[-1]
    await stage.staffed()
    assert (await terminal("owners", "check")).startswith("PASS: ")
    told = await terminal("owners", "list")
    assert "ops_owner                ops-owner1" in told
    assert "reconciliation           role:finance_owner   finance-owner1" in told
    shown = await terminal("owners", "show", "incident-response")
    assert "accountable    role:ops_owner" in shown and "answers now    ops-owner1" in shown
    assert (await terminal.json("owners", "show", "roadmap"))["answers_now"]["username"] == "product-owner1"
    await terminal("owners", "show", "nothing", code=3)
    await terminal("owners", "check", "--zone", "nowhere", code=3)
    (event, *_) = [event for event in await stage.people.events() if event.code == "BW7101"]
    assert event.actor.user == f"os:{getpass.getuser()}"


async def test_on_call_is_shown_and_stood_in_for(terminal: Terminal) -> None:
    stage = terminal.stage
    await terminal("oncall", "now", code=3)
    for name in ("ada", "bob", "cyd"):
        await stage.people.user(name)
    await stage.apply(activity("a", "person:ada") + ROTA)
    who = (await terminal.json("oncall", "now"))[0]["now"]["username"]
    other = "bob" if who == "ada" else "ada"
    assert who in await terminal("oncall", "now") and other in await terminal("oncall", "next")
    assert len((await terminal("oncall", "list")).splitlines()) in (8, 9)
    await terminal("oncall", "overrides", code=3)
    made = await terminal.json("oncall", "override", "cyd", "--until", "8h", "--reason", "doctor")
    assert (await terminal.json("oncall", "now"))[0]["now"]["username"] == "cyd"
    assert "doctor" in await terminal("oncall", "overrides")
    assert "cyd stands in" in (await terminal("oncall", "calendar")).replace("\r\n ", "")
    await terminal("oncall", "withdraw", made[0]["id"])
    assert (await terminal.json("oncall", "now"))[0]["now"]["username"] == who
    hand_over = datetime.fromisoformat((await terminal.json("oncall", "now"))[0]["now"]["until"])
    within = [(hand_over + timedelta(seconds=seconds)).isoformat() for seconds in (-1, 1)]
    assert len(await terminal.json("oncall", "swap", *within)) == 2
    assert (await terminal.json("oncall", "now"))[0]["now"]["username"] == other
    for wrong, code in (
        (("override", "nobody", "--until", "8h", "--reason", "x"), 2),
        (("override", "cyd", "--until", "yesterday", "--reason", "x"), 2),
        (("override", "cyd", "--until", "8h", "--reason", " "), 2),
        (("override", "cyd", "--until", "8h", "--reason", "x", "--level", "boss"), 2),
        (("override", "cyd", "--until", "8h", "--reason", "x", "--rota", "other"), 3),
        (("withdraw", made[0]["id"]), 3),
        (("swap", within[0], within[0]), 2),
    ):
        await terminal("oncall", *wrong, code=code)
    events = [(event.name, event.actor.user) for event in await stage.people.events() if event.code[:5] == "BW711"]
    operator = f"os:{getpass.getuser()}"
    assert events == [
        ("oncall.overridden", operator), ("oncall.override.withdrawn", operator),
        ("oncall.overridden", operator), ("oncall.overridden", operator),
    ]  # fmt: skip
    await stage.people.user("boss")
    for name in ("ada", "bob", "cyd"):
        await stage.disable(name)
    assert "NOBODY" in await terminal("oncall", "now", code=1)


async def test_tasks_are_listed_ended_and_given_away(terminal: Terminal) -> None:
    stage = terminal.stage
    await terminal("task", "list", code=3)
    await stage.people.user("ada")
    async with stage.database.begin() as tx:
        task = Task("test/1", "a long title " * 12, "person:ada", stage.clock.now())
        made = await stage.desk.tasks.open(tx, stage.context(), task)
    assert made in await terminal("task", "list")
    await terminal("task", "reassign", made, "TBD", code=2)
    assert (await terminal.json("task", "reassign", made, "role:admin"))["owner"] == "role:admin"
    await terminal("task", "done", made, "--outcome", " ", code=2)
    assert "is done" in await terminal("task", "done", made, "--outcome", "it is")
    await terminal("task", "done", made, "--outcome", "it is", code=1)
    await terminal("task", "done", "01981f00-0000-7000-8000-000000000000", "--outcome", "x", code=3)
    assert "it is" in await terminal("task", "list", "--over")
    assert [event.code for event in await stage.people.events()] == ["BW7121", "BW7123", "BW7124"]
