from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ledger_world import World
from typer.testing import CliRunner

from bailiwick.cli.audit import app
from bailiwick.evidence import codes
from bailiwick.evidence.events import encode
from bailiwick.evidence.frames import Kind
from bailiwick.evidence.ledger import HeadFiles
from bailiwick.evidence.spool import latch_loss, loss_of


@dataclass
class Cli:
    world: World

    async def __call__(self, *arguments: str, code: int = 0) -> str:
        """Run a command on the installation; its standard output."""
        environment = {"BAILIWICK_DATABASE_URL": self.world.url, "BAILIWICK_DATA_DIR": str(self.world.root)}
        done = await asyncio.to_thread(CliRunner().invoke, app, list(arguments), env=environment)
        assert done.exit_code == code, done.output + repr(done.exception)
        return done.stdout

    async def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(await self(*arguments, "--json", code=code))


@pytest.fixture
def cli(world: World) -> Cli:
    world.head_files = HeadFiles(world.root / "heads")  # where an installation keeps them
    return Cli(world)


async def drain(world: World) -> None:
    sequencer = world.sequencer()
    await sequencer.drain()
    sequencer.close()


async def test_tail_shows_the_newest_in_80_columns(world: World, cli: Cli) -> None:
    spool = await world.spool()
    long = world.event(user="an-unusually-long-name-of-a-person", server="a-server-with-a-long-name-as-well")
    forged = world.event(user="\x1b[31mred\n9999 all is well")
    for event in (long, forged):
        await spool.append(Kind.EVENT, "default", encode(event))
    await world.put(spool, 30)
    await drain(world)
    lines = (await cli("tail", "-n", "40")).splitlines()
    assert len(lines) == 32
    assert [int(line.split()[0]) for line in lines] == list(range(32))
    assert all(len(line) <= 80 for line in lines)
    assert all(line.isprintable() for line in lines)
    assert "jane" in lines[-1] and "gateway.request.allowed" in lines[-1]
    assert len((await cli("tail", "-n", "3", "--name", "gateway.*", "--principal", "jane")).splitlines()) == 3


async def test_tail_of_nothing_is_no_data(cli: Cli) -> None:
    assert await cli("tail", code=3) == ""


async def test_tail_follows(world: World) -> None:
    await world.filled(2)
    following = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from bailiwick.cli.audit import app; app()",
        "tail",
        "-f",
        "--json",
        stdout=subprocess.PIPE,
        env={"BAILIWICK_DATABASE_URL": world.url, "BAILIWICK_DATA_DIR": str(world.root), "PATH": "/usr/bin"}
        | {"PYTHONPATH": ":".join(sys.path)},
    )
    assert following.stdout is not None
    async with asyncio.timeout(20):
        first = [json.loads(await following.stdout.readline())["seq"] for _ in range(2)]
        (news,) = await world.filled(1)
        later = [json.loads(await following.stdout.readline())["event"] for _ in range(2)]
    following.kill()
    await following.wait()
    assert first == [0, 1]
    assert {event["name"] for event in later} == {"audit.read", "gateway.request.allowed"}
    assert news in {event["id"] for event in later}


async def test_show_an_event_a_number_or_a_request(world: World, cli: Cli) -> None:
    request = world.ids()
    spool = await world.spool()
    events = [world.event(kind, request_id=request) for kind in (codes.DECISION_EVALUATED, codes.GATEWAY_ALLOWED)]
    for event in events:
        await spool.append(Kind.EVENT, "default", encode(event))
    await drain(world)
    assert "decision.evaluated" in await cli("show", events[0].id)
    assert (await cli.json("show", "1"))["event"]["id"] == events[1].id
    story = await cli("show", request)
    assert story.index("decision.evaluated") < story.index("gateway.request.allowed")
    assert [item["event"]["id"] for item in await cli.json("show", request)] == [event.id for event in events]
    await cli("show", world.ids(), code=3)
    await cli("show", "99", code=3)
    await cli("show", "not-an-id", code=2)


async def test_reading_leaves_one_event_per_command(world: World, cli: Cli) -> None:
    await world.filled(3)
    await cli("tail")
    await cli("show", "0")
    await cli("verify")
    await drain(world)
    events = [json.loads(line)["event"] for line in (await cli("tail", "--name", "audit.*", "--json")).splitlines()]
    names = [(event["name"], event["zone"]) for event in events]
    assert names[:2] == [("audit.read", "default")] * 2
    assert names[2:] == [("audit.verified", "default")]
    assert all(event["actor"]["user"].startswith("os:") for event in events)


async def test_verify_says_what_is_wrong(world: World, cli: Cli) -> None:
    await cli("verify", code=3)
    await world.filled(5)
    assert "PASS" in await cli("verify", "--zone", "default")
    report = await cli.json("verify")
    assert report["verdict"] == "PASS"
    world.do("DELETE FROM ledger.events WHERE seq = 3")
    assert "removed" in await cli("verify", code=1)
    report = await cli.json("verify", "--zone", "default", code=1)
    assert report["zones"][0]["first_bad"]["seq"] == 3
    await cli("verify", "--zone", "nowhere", code=2)


async def test_verify_checks_a_copy_without_writing_to_it(world: World, cli: Cli, tmp_path: Path) -> None:
    await world.filled(5)
    await cli("verify", "--database-url", world.url, "--heads", str(world.root / "heads"))
    assert world.rows("SELECT count(*) FROM bailiwick.outbox") == [0]
    world.do("DELETE FROM ledger.events WHERE seq = 4")
    world.do("DELETE FROM ledger.heads")
    await cli("verify", "--database-url", world.url, "--heads", str(world.root / "heads"), code=1)
    await cli("verify", "--database-url", world.url, "--heads", str(tmp_path / "nowhere"), code=2)


async def test_a_loss_is_acknowledged_once(world: World, cli: Cli) -> None:
    await cli("acknowledge-loss", code=3)
    world.spool_root.mkdir()
    latch_loss(world.spool_root, "frames 3 to 5")
    assert "frames 3 to 5" in await cli("acknowledge-loss")
    assert loss_of(world.spool_root) == []
    await drain(world)
    (entry,) = (await cli("tail", "--name", "evidence.*", "--json")).splitlines()
    assert json.loads(entry)["event"]["details"] == {"lost": ["frames 3 to 5"]}


async def test_a_database_that_is_away_fails(world: World) -> None:
    environment = {"BAILIWICK_DATABASE_URL": "postgresql://x@127.0.0.1:1/x", "BAILIWICK_DATA_DIR": str(world.root)}
    done = await asyncio.to_thread(CliRunner().invoke, app, ["tail"], env=environment)
    assert done.exit_code == 1
    environment.pop("BAILIWICK_DATABASE_URL")
    done = await asyncio.to_thread(CliRunner().invoke, app, ["tail"], env=environment)
    assert done.exit_code == 3


async def test_a_dead_letter_is_looked_at_and_replayed_once_its_zone_exists(world: World, cli: Cli) -> None:
    assert await cli("dead-letters", code=3) == ""
    spool = await world.spool()
    event = world.event(zone="later")
    await spool.append(Kind.EVENT, "later", encode(event))
    await spool.append(Kind.EVENT, "default", b"{} no event")
    await drain(world)
    lost, nonsense = (await cli.json("dead-letters"))[::-1]
    if "not_an_event" in lost["reason"]:
        lost, nonsense = nonsense, lost
    assert lost["reason"] == "unknown_zone"
    shown = await cli.json("dead-letters", str(lost["id"]))
    assert event.id in shown["text"] and shown["replayed_at"] is None
    await cli("replay", str(lost["id"]), code=1)  # there still is no such zone
    await cli("replay", str(nonsense["id"]), code=1)
    await cli("replay", "999999", code=3)
    world.do("INSERT INTO bailiwick.zones (name, created_at) VALUES ('later', now())")
    assert event.id in await cli("replay", str(lost["id"]))
    await cli("replay", str(lost["id"]), code=1)  # once is enough
    await drain(world)
    assert event.id in world.ledgered("later")
    assert world.rows("SELECT count(*) FROM ledger.events WHERE code = 'BW5012'") == [1]
