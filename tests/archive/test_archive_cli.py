from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import pytest
from archive_world import START, ArchiveWorld
from typer.testing import CliRunner

from bailiwick.cli.audit import app
from bailiwick.evidence.approvals import recorder_note
from bailiwick.evidence.archive.lives import Keeping, Lives
from bailiwick.evidence.archive.purge import HotRows
from bailiwick.evidence.events import Context, decode
from bailiwick.evidence.ledger import HeadFiles
from bailiwick.identity.holders import holders
from bailiwick.kernel.quorum import Quorum

DAY = ("--since", "2026-01-05", "--until", "2026-01-06")


@dataclass
class Cli:
    world: ArchiveWorld

    async def __call__(self, *arguments: str, code: int = 0) -> str:
        """Run a command of the group on the installation; its standard output."""
        environment = {"BAILIWICK_DATABASE_URL": self.world.url, "BAILIWICK_DATA_DIR": str(self.world.root)}
        done = await asyncio.to_thread(CliRunner().invoke, app, list(arguments), env=environment)
        assert done.exit_code == code, done.output + repr(done.exception)
        return done.stdout

    async def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(await self("archive", *arguments, "--json", code=code))


@pytest.fixture
async def cli(world: ArchiveWorld) -> Cli:
    world.head_files = HeadFiles(world.root / "heads")  # where an installation keeps them
    made = Cli(world)
    await made("archive", "status", code=3)
    await world.day(25, 0)
    world.wait(days=8)
    await world.sequence()
    await world.archivist().run()
    await HotRows(world.database, world.cold, world.recorder, world.clock).drop_due()
    await world.sequence()
    return made


async def test_the_archive_is_shown_and_proven(world: ArchiveWorld, cli: Cli) -> None:
    told = await cli.json("status", code=1)
    assert told["sealed"]["events"] == 25 and told["overdue_s"] > 86400, "the machine's clock is months ahead"
    assert "OVERDUE" in await cli("archive", "status", code=1)
    report = await cli.json("verify", "--zone", "default")
    assert (report["verdict"], report["zones"][0]["events"]) == ("PASS", 25)
    assert "25 of them archived" in await cli("verify", "--zone", "default")
    (part,) = [path for path in world.objects() if "default" in path.parts]
    part.write_bytes(b"")
    assert "SHA-256" in await cli("archive", "verify", code=1)
    await cli("verify", code=1)
    await cli("archive", "verify", "--zone", "nowhere", code=2)
    await cli("archive", "verify", "--since", "yesterday", code=2)


async def test_events_come_back(world: ArchiveWorld, cli: Cli) -> None:
    assert (await cli.json("restore", *DAY))["events"] == 25
    assert "0 events of 0 windows are back" in await cli("archive", "restore", *DAY)
    await cli("archive", "restore", "--since", "2020-01-01", "--until", "2020-01-02", code=3)
    await cli("archive", "restore", "--since", "2026-01-02", "--until", "2026-01-01", code=2)


async def test_a_hold_is_placed_listed_and_let_go(world: ArchiveWorld, cli: Cli) -> None:
    await cli("archive", "hold", code=3)
    await cli("archive", "hold", "--place", code=2)
    (placed,) = await cli.json("hold", "--place", "--reason", "case 17", *DAY)
    await cli("archive", "hold", "--place", "--release", placed["id"], "--reason", "both", code=2)
    assert "in force" in await cli("archive", "hold")
    await cli("archive", "hold", "--release", placed["id"], code=2)
    told = await cli.json("hold", "--release", placed["id"], "--reason", "settled")
    assert (told["needed"], told["payload"]["hold"]) == (2, placed["id"])
    assert "in force" in await cli("archive", "hold"), "until two approved it"
    await cli("archive", "hold", "--release", world.ids(), "--reason", "settled", code=3)


async def test_the_end_is_asked_for_and_takes_two_signed_in(world: ArchiveWorld, cli: Cli) -> None:
    asked = ("--before", "2026-01-06", "--reason", "past its life")
    await cli("archive", "purge", *asked, code=1)
    quorum = Quorum(world.database, world.clock, world.ids, recorder_note(world.recorder), holders, [])
    keeping = Keeping(world.database, world.clock, world.ids, world.recorder, quorum)
    await keeping.change_lives(Context("default"), Lives(2, 2, 3, 4), "jane")
    told = await cli.json("purge", *asked)
    assert (told["needed"], told["payload"]["events"]) == (2, 25) and "invite somebody" in told["blocked"]
    assert told["id"] in await cli("archive", "purge", *asked)
    await cli("archive", "hold", "--place", "--reason", "case 17")
    await cli("archive", "purge", *asked, code=1)


async def test_sealing_is_asked_for(world: ArchiveWorld, cli: Cli) -> None:
    assert "asked for" in await cli("archive", "seal", "--wait", "0")
    assert world.rows("SELECT job, state FROM bailiwick.job_occurrences") == [("seal-archive", "due")]
    await cli("archive", "seal", "--wait", "0.1", code=1)
    world.do("DELETE FROM bailiwick.job_occurrences")
    await world.sequence()
    names = {decode(body).name for body in world.bodies().values()}
    assert "archive.work.asked" in names and START < world.clock.now()
