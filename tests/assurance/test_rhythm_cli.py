"""The commands, against a real database: what they print fits a terminal, how they end, and which events they leave."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from rhythm_stage import RhythmStage, ceremony, document
from typer.testing import CliRunner, Result

from bailiwick.assurance.rhythm.minutes import Said
from bailiwick.cli.checkpoint import app as checkpoint
from bailiwick.cli.register import app as register
from bailiwick.cli.rhythm import app as rhythm
from bailiwick.kernel.clock import FakeClock
from bailiwick.kernel.crypto import KekFile
from people_fixtures import House

GROUPS: dict[str, typer.Typer] = {"rhythm": rhythm, "checkpoint": checkpoint, "register": register}
BOOK = (
    ceremony("daily", 'cron: "0 9 * * *"', "automatic: [rhythm.actions]\ngrace: 4000m").replace(
        "sections: [actions]", "sections: [figures, actions]"
    )
    + ceremony("once", 'after_go_live: {days: [1], at: "09:00"}', "grace: 1h")
    + document("Checkpoint", "T7", "title: a week after\nafter_days: 7\nrule: waivers\nowner: uptime")
    + document("RoadmapItem", "slo", "item: measure\ntrack: product\nowner: uptime\nacceptance: seen\ndue_days: 1")
)


@pytest.fixture
def clock() -> FakeClock:
    """The commands go by the machine's clock, so the stage lives shortly before it."""
    return FakeClock(datetime.now(UTC) - timedelta(days=9))


class Terminal:
    """Runs commands on the machine of an installation that has the stage's database."""

    def __init__(self, stage: RhythmStage, home: Path) -> None:
        self.stage = stage
        self.home = home

    async def __call__(self, *words: str, code: int = 0, wide: bool = False) -> Result:
        # each command runs a loop of its own
        group, *rest = words
        done = await asyncio.to_thread(CliRunner().invoke, GROUPS[group], [*rest, "--data-dir", str(self.home)])
        assert done.exit_code == code, (words, done.output, done.exception)
        if not wide:
            assert all(len(line) <= 80 for line in done.stdout.splitlines()), done.stdout
        return done

    async def json(self, *words: str, code: int = 0) -> Any:
        done = await self(*words, "--json", code=code, wide=True)
        assert done.stdout, done.output
        return json.loads(done.stdout)


@pytest.fixture
async def terminal(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    stage = RhythmStage(house)
    await stage.holds("olga", "ops_owner", "uptime")
    await stage.people.user("scribe")
    monkeypatch.setenv("BAILIWICK_DATABASE_URL", house.database.url)
    monkeypatch.setenv("BAILIWICK_DATA_DIR", str(tmp_path))
    (tmp_path / "secrets").mkdir(mode=0o700)
    KekFile(tmp_path / "secrets" / "kek").ensure()
    await stage.apply(BOOK)
    return Terminal(stage, tmp_path)


async def events(stage: RhythmStage, code: str) -> list[str]:
    return [event.actor.user for event in await stage.people.events() if event.code == code]


async def test_a_meeting_by_commands_alone(terminal: Terminal, tmp_path: Path) -> None:
    stage = terminal.stage
    await stage.live(1.5, step_h=1)
    now = stage.clock.now()
    occurrence = next(each.id for each in await stage.all() if each.state == "pack_built" and each.starts_at <= now)
    listed = await terminal("rhythm", "list")
    assert "pack_built" in listed.output and occurrence in listed.output and "next of 2:" in listed.output
    shown = await terminal("rhythm", "pack", occurrence, wide=True)
    assert shown.output.startswith("# daily") and "rhythm.actions" in shown.output
    assert "<h1>daily</h1>" in (await terminal("rhythm", "pack", occurrence, "--html", wide=True)).output
    assert (await terminal("rhythm", "pack", occurrence, "--verify")).output.startswith("holds ")
    notes = tmp_path / "minutes.yaml"
    notes.write_text("attendees: [olga]\ndecisions: [Go on.]\nactions:\n  - {title: x, owner: olga}\n")
    assert "action_incomplete" in (await terminal("rhythm", "minutes", occurrence, "--file", str(notes), code=2)).output
    notes.write_text("attendees: [olga]\nsurprise: 1\n")
    await terminal("rhythm", "minutes", occurrence, "--file", str(notes), code=2)
    notes.write_text("attendees: [scribe]\ndecisions: [Go on.]\n")
    await terminal("rhythm", "minutes", occurrence, "--file", str(notes))
    assert "quorum_missing" in (await terminal("rhythm", "hold", occurrence, code=1)).output
    assert "illegal_transition" in (await terminal("rhythm", "sign", occurrence, code=1)).output
    assert (await events(stage, "BW7303"))[0].startswith("os:")
    await stage.live(1, step_h=1)
    now = stage.clock.now()
    second = [each.id for each in await stage.all() if each.state == "pack_built" and each.starts_at <= now][-1]
    assert second != occurrence
    await stage.hold(second, Said(["olga"]))
    await terminal("rhythm", "sign", second)
    assert (await events(stage, "BW7304"))[0].startswith("os:")
    assert "signed by" not in (await terminal("rhythm", "show", second)).output
    found = await terminal.json("rhythm", "show", second)
    assert found["state"] == "signed" and found["signature"]["signed_by"].startswith("os:")
    assert (await terminal("rhythm", "actions")).output == "0 action items\n"
    await terminal("rhythm", "show", "ghost", code=3)


async def test_the_calendar_and_what_is_overdue(terminal: Terminal) -> None:
    stage = terminal.stage
    body = (await terminal("rhythm", "calendar", "--days", "3")).stdout
    assert body.startswith("BEGIN:VCALENDAR")
    await stage.go_lives.record(stage.context(), "default", stage.clock.now(), by="root", reason="live")
    await stage.live(4, step_h=12)
    listed = await terminal("rhythm", "list", "--ceremony", "once", code=1)
    assert "overdue    once" in listed.output
    assert (await terminal.json("rhythm", "list", code=1))["ceremonies"][0]["name"] == "daily"


async def test_a_checkpoint_ends_by_its_verdict(terminal: Terminal) -> None:
    stage = terminal.stage
    assert "NOT_DUE" in (await terminal("checkpoint", "list", code=3)).output
    await terminal("checkpoint", "go-live", code=3)
    at = stage.clock.now().isoformat()
    await terminal("checkpoint", "go-live", "default", "--at", at, code=2)  # says no reason
    await terminal("checkpoint", "go-live", "default", "--at", "yesterday", "--reason", "x", code=2)
    assert "went live" in (await terminal("checkpoint", "go-live", "default", "--at", at, "--reason", "live")).output
    later = (stage.clock.now() + timedelta(hours=1)).isoformat()
    waits = await terminal.json("checkpoint", "go-live", "default", "--at", later, "--reason", "later", code=1)
    assert waits["approval"]["needed"] == 2, "nobody signed in, so it takes one more"
    judged = await terminal("checkpoint", "eval", "T7")
    assert judged.stdout.startswith("PASS") and "0 open" in judged.stdout and "record" in judged.stdout
    ahead = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert "window_not_over" in (await terminal("checkpoint", "eval", "T7", "--at", ahead, code=1)).output
    assert (await terminal.json("checkpoint", "show", "T7"))[0]["version"] == 1
    await terminal("checkpoint", "eval", "T99", code=3)
    assert (await events(stage, "BW7312"))[0].startswith("os:")


async def test_the_registers(terminal: Terminal) -> None:
    stage = terminal.stage
    listed = await terminal("register", "list", "roadmap", code=1)
    assert "LATE" in listed.output and listed.output.endswith("1 items, 1 late\n")
    await terminal("register", "list", "risks", code=3)
    await terminal("register", "list", "nonsense", code=2)
    await terminal("register", "move", "roadmap", "slo", "nonsense", code=2)
    assert "evidence_needed" in (await terminal("register", "move", "roadmap", "slo", "done", code=2)).output
    await terminal("register", "move", "roadmap", "slo", "done", "--record", await stage.proof())
    assert "done" in (await terminal("register", "show", "roadmap", "slo")).output
    assert (await events(stage, "BW7321"))[0].startswith("os:")
