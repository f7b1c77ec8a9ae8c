"""The commands of environments and registers: what they print in 80 columns, how they end; and the scripts that call them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from environment_desk import Around
from stage import room_of
from typer.testing import CliRunner

from bailiwick.app.assurance import ship
from bailiwick.app.handover import incidents
from bailiwick.app.handover.environments import Services, services
from bailiwick.cli.main import app
from bailiwick.evidence.events import Actor, Context
from bailiwick.kernel.clock import SystemClock
from bailiwick.kernel.crypto import KekFile
from people_fixtures import House

SCRIPTS = Path(__file__).parents[2] / "scripts"
DIGEST = f"sha256:{'a' * 64}"


class Terminal:
    """Runs the command on the machine's own database, in which the shipped book is in force."""

    def __init__(self, people: House, made: Services, data_dir: Path) -> None:
        self.people = people
        self.made = made
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
    build = incidents.build

    def quiet(house: Any) -> Any:
        """The part of incidents, with a register in which nothing is open."""
        made = build(house)
        house.open_incidents = Around()
        return made

    monkeypatch.setattr(incidents, "build", quiet)
    # the commands go by the machine's clock
    wall(house, timedelta(hours=2))
    room = room_of(house, tmp_path)
    async with house.database.begin() as tx:
        assert await ship(room.house.books, tx, "default")
    return Terminal(house, services(room.house), tmp_path)


def wall(people: House, ago: timedelta) -> None:
    """Set the clock of what was built in this process to so long ago by the machine's."""
    people.clock.set_wall((SystemClock().now() - ago - people.clock.now()).total_seconds())


async def go_live(terminal: Terminal, ago: timedelta) -> None:
    wall(terminal.people, ago)
    async with terminal.people.database.begin() as tx:
        await terminal.made.states.went_live(tx, Context("default", Actor(user="jane")), "production", DIGEST, "r-1")


async def test_an_environment_is_listed_shown_and_declared(terminal: Terminal) -> None:
    assert "planned" in await terminal("environment", "list")
    told = await terminal("environment", "show", "production")
    assert "PLANNED" in told and "NOT_DUE" in told
    await terminal("environment", "show", "nowhere", code=3)
    await terminal("environment", "declare", "production", "--at", "soon", "--reason", "x", code=2)
    await terminal("environment", "declare", "production", "--at", "2099-01-01", "--reason", "x", code=2)
    asked = await terminal.json("environment", "declare", "production", "--at", "2026-01-05T08:00Z", "--reason", "runs")
    assert asked["approval"]["missing"] == 2
    await go_live(terminal, timedelta(minutes=1))
    assert (await terminal.json("environment", "list"))[0]["digest"] == DIGEST
    assert "planned to live: rollout r-1" in await terminal("environment", "show", "production")


async def test_validation_ends_by_its_verdict_and_never_before_its_time(terminal: Terminal) -> None:
    await terminal("validate", "run", "production", "first-hour", code=1)  # nothing is live
    await go_live(terminal, timedelta(minutes=4))
    told = await terminal("validate", "run", "production", "first-day", code=3)
    assert "NOT_DUE" in told
    await terminal("validate", "show", "production", code=3)


async def test_a_suite_is_measured_from_the_command_line(terminal: Terminal) -> None:
    await go_live(terminal, timedelta(minutes=30))
    told = await terminal("validate", "run", "production", "first-hour", code=1)
    # the address is ours where the environment says none, and nothing listens there
    assert "FAIL" in told and "outside" in told and re.search(r"ERROR +health: 127\.0\.0\.1: ClientConnector", told)
    assert re.search(r"PASS +database-version", told) and re.search(r"PASS +schema", told)
    again = await terminal.json("validate", "run", "production", "first-hour", code=1)
    assert again["attempt"] == 2 and again["intact"] and again["asked_by"].startswith("os:")
    shown = await terminal("validate", "show", "production", "--suite", "first-hour", code=1)
    assert "attempt 2" in shown
    await terminal("validate", "show", "production", "--suite", "none", code=3)


async def test_hypercare_is_shown_slot_by_slot(terminal: Terminal) -> None:
    assert "nothing went live" in await terminal("hypercare", "show", "production", code=3)
    await go_live(terminal, timedelta(hours=2))
    told = await terminal("hypercare", "show", "production", code=1)  # nothing ran at 0:30, 1:00 and 1:30
    assert "0 of 36 green, 3 red" in told and "XXX?" in told
    assert told.count("nothing was measured in its time") == 3
    assert (await terminal("hypercare", "show", "production", "--all", code=1)).count("its time has not come") == 32
    found = await terminal.json("hypercare", "show", "production", code=1)
    assert (found["verdict"], found["passes"], len(found["slots"])) == ("FAIL", False, 36)


async def test_known_issues_from_the_command_line(terminal: Terminal) -> None:
    assert "single-region" in await terminal("known-issue", "list")
    words = ["--title", "Search is slow", "--severity", "P3", "--impact", "People wait.", "--workaround", "Ask less.",
             "--fix", "An index.", "--target", "0.2.0", "--owner", "uptime"]  # fmt: skip
    await terminal("known-issue", "add", "slow", *words, "--due", "2026-01-01")
    assert "LATE" in await terminal("known-issue", "list", code=1)
    assert "An index." in await terminal("known-issue", "show", "slow")
    await terminal("known-issue", "add", "slow", *words, code=1)
    await terminal("known-issue", "add", "worse", *[word.replace("P3", "P9") for word in words], code=2)
    await terminal("known-issue", "fixed", "slow", "--record", "0" * 64, code=2)
    record = await terminal("evidence", "record", "--check", "search", "--attest", "it is quick now", "--json")
    await terminal("known-issue", "fixed", "slow", "--record", json.loads(record)["id"])
    assert "slow" not in await terminal("known-issue", "list")


async def test_documents_from_the_command_line(
    terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "nobody has reviewed it yet" in await terminal("documents", "list", code=3)
    assert "PASS" in await terminal("documents", "review", "backups", "--statement", "read, and restored by it")
    monkeypatch.setenv("BAILIWICK_DOCUMENTS_DIR", str(tmp_path))
    assert "there is no docs/how-to/backups.md" in await terminal("documents", "check", code=1)
    await terminal("documents", "review", "backups", "--statement", "never seen it", code=2)


async def test_announcing_from_the_command_line(terminal: Terminal) -> None:
    assert "maintenance" in await terminal("announce", "templates")
    assert "missing: " in await terminal("announce", "preview", "handover", code=2)
    given = [
        word for name in ("platform", "environment", "team", "at", "on_call", "pack") for word in ("--set", f"{name}=x")
    ]
    assert "x is handed over to x" in await terminal("announce", "preview", "handover", *given)
    await terminal("announce", "list", code=3)
    await terminal("announce", "send", "handover", code=2)
    await terminal("announce", "send", "handover", "--set", "platform", code=2)
    sent = await terminal.json("announce", "send", "handover", *given)
    assert len(sent["receipts"]) == 4
    await terminal("announce", "show", sent["id"], code=3)  # nobody delivers in this test
    assert sent["id"] in await terminal("announce", "list")


# ------------------------------------------------------------------- scripts


def _fake(tmp_path: Path, codes: dict[str, int]) -> dict[str, str]:
    """A command that notes how it was called and ends as it is told."""
    program = tmp_path / "bailiwick"
    cases = "\n".join(f'  "{words}"*) exit {code};;' for words, code in codes.items())
    program.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/calls\ncase "$*" in\n{cases}\nesac\nexit 0\n')
    program.chmod(0o755)
    return {**os.environ, "BAILIWICK": str(program)}


@pytest.mark.parametrize(
    ("codes", "ends", "told"),
    [({}, 0, "PASS"), ({"slo list": 3}, 3, "NO_DATA"), ({"alerts list": 1, "slo list": 3}, 1, "FAIL"),
     ({"status": 130}, 1, "FAIL"), ({"status": 2}, 2, "FAIL")],
)  # fmt: skip
def test_the_daily_health_check_ends_by_the_worst_it_saw(
    tmp_path: Path, codes: dict[str, int], ends: int, told: str
) -> None:
    done = subprocess.run(
        [SCRIPTS / "daily-health-check.sh", "--data-dir", "/x"], env=_fake(tmp_path, codes), capture_output=True, text=True,
        timeout=20,
    )  # fmt: skip
    assert done.returncode == ends and done.stdout.splitlines()[-1] == f"daily health check: {told}"
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == 7 and all(call.endswith("--data-dir /x") for call in calls)


@pytest.mark.parametrize(
    ("script", "codes", "ends", "calls"),
    [
        ("backup-postgresql.sh", {}, 0, ["backup run --place file:///b", "backup verify --place file:///b"]),
        ("backup-postgresql.sh", {"backup run": 1}, 1, ["backup run --place file:///b"]),
        ("backup-postgresql.sh", {"backup verify": 1}, 1, ["backup run --place file:///b", "backup verify --place file:///b"]),
        ("backup-redis.sh", {"backup redis": 3}, 3, ["backup redis --place file:///b"]),
    ],
)  # fmt: skip
def test_the_backup_scripts_end_as_their_commands(
    tmp_path: Path, script: str, codes: dict[str, int], ends: int, calls: list[str]
) -> None:
    done = subprocess.run(
        [SCRIPTS / script, "--place", "file:///b"], env=_fake(tmp_path, codes), capture_output=True, timeout=20
    )
    assert done.returncode == ends
    assert (tmp_path / "calls").read_text().splitlines() == calls


def test_every_command_that_a_script_calls_is_there() -> None:
    for script in SCRIPTS.glob("*.sh"):
        for words in re.findall(
            r"(?:look '[^']*'|\$bailiwick|:-bailiwick\}) ([a-z]+(?: [a-z]+)?) ?\"?\$", script.read_text()
        ):
            done = CliRunner().invoke(app, [*words.split(), "--help"])
            assert done.exit_code == 0, (script.name, words)
