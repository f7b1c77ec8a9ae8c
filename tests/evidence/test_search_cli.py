"""Searching from the terminal."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import pty
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ledger_world import World
from searching import bodies_of, event, ledgered, sequenced
from typer.testing import CliRunner

from bailiwick.cli.audit import app
from bailiwick.cli.audit_search import FILTERS
from bailiwick.evidence import codes
from bailiwick.evidence.asked import FilterParams

pytestmark = pytest.mark.made_up_events


@dataclass
class Cli:
    world: World

    @property
    def environment(self) -> dict[str, str]:
        return {"BAILIWICK_DATABASE_URL": self.world.url, "BAILIWICK_DATA_DIR": str(self.world.root)}

    async def __call__(self, *arguments: str, code: int = 0) -> str:
        done = await asyncio.to_thread(CliRunner().invoke, app, list(arguments), env=self.environment)
        assert done.exit_code == code, done.output + repr(done.exception)
        return done.output

    async def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(await self(*arguments, "--json", code=code))


@pytest.fixture
def cli(world: World) -> Cli:
    return Cli(world)


async def told(world: World) -> list[Any]:
    await sequenced(world)
    return bodies_of(world, "BW500")


def test_the_terminal_filters_by_what_the_api_does() -> None:
    assert set(FILTERS) == set(FilterParams.model_fields)


async def test_search_in_80_columns(world: World, cli: Cli) -> None:
    made = [event(world, user="jane", server="pay", session="s-1") for _ in range(3)]
    made += [
        event(world, codes.GATEWAY_DENIED, outcome="deny", user="\x1b[31mjoe " + "x" * 90, reasons=("policy_denied",))
    ]
    await ledgered(world, made)
    lines = (await cli("search")).splitlines()
    assert [int(line.split()[0]) for line in lines] == [3, 2, 1, 0]
    assert all(len(line) <= 80 and line.isprintable() for line in lines)
    assert [int(line.split()[0]) for line in (await cli("search", "--user", "jane", "--oldest")).splitlines()] == [
        0,
        1,
        2,
    ]
    assert len((await cli("search", "--since", "-24h", "--reason", "policy_denied")).splitlines()) == 1
    found = await cli.json("search", "--session", "s-1", "-n", "2", "--facets")
    assert [each["seq"] for each in found["events"]] == [2, 1] and found["facets"]["complete"] is True
    shown = await cli("search", "--facets", "-n", "1")
    assert "outcome:" in shown and "BW4002" in shown and "--export" in shown
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert await cli("search", "--user", "nobody", code=3) == ""
    assert (await told(world))[0]["details"] == {"what": "events", "query": "", "returned": 4}


@pytest.mark.parametrize(
    "arguments",
    [
        ("search", "--since", "yesterday"),
        ("search", "--outcome", "perhaps"),
        ("search", "--request-id", "1"),
        ("search", "--user", "x" * 300),
        ("search", "--export", "x", "--format", "xlsx"),
        ("timeline", "user", "jane", "--until", "2026-02-30T00:00:00Z"),
        ("queries", "save", "x", "--since", "tomorrow"),
        ("queries", "save", ""),
    ],
)
async def test_what_is_no_query_is_a_usage_error(cli: Cli, arguments: tuple[str, ...]) -> None:
    shown = await cli(*arguments, code=2)
    assert "bailiwick:" in shown and "Traceback" not in shown


async def test_timelines(world: World, cli: Cli) -> None:
    request, session = world.ids(), world.ids()
    await ledgered(
        world,
        [
            event(world, user="jane", session=session, request_id=request),
            event(world, codes.AUTH_SESSION_ENDED, outcome="success", user="olga", subject=(session, "session")),
            event(world, user="joe"),
        ],
    )
    world.do(
        "INSERT INTO bailiwick.api_requests (at, zone, request_id, caller, method, route, status, duration_us)"
        " VALUES (now() + interval '1 second', 'default', %s, 'jane', 'POST', '/oauth/token', 200, 1500)",
        request,
    )
    assert [int(line.split()[0]) for line in (await cli("timeline", "session", session)).splitlines()] == [0, 1]
    lines = (await cli("timeline", "request", request)).splitlines()
    assert "gateway.request.allowed" in lines[0] and "POST /oauth/token answered 200" in lines[1]
    assert all(len(line) <= 80 for line in lines)
    assert [each["kind"] for each in (await cli.json("timeline", "request", request))["timeline"]] == [
        "event",
        "answer",
    ]
    assert [each["seq"] for each in (await cli.json("timeline", "user", "jane"))["timeline"]] == [0]
    await cli("timeline", "user", "nobody", code=3)
    await cli("timeline", "request", "nonsense", code=3)


async def test_queries_by_name(world: World, cli: Cli) -> None:
    await ledgered(world, [event(world, codes.GATEWAY_DENIED, outcome="deny", user="jane"), event(world, user="joe")])
    await cli("queries", "list", code=3)
    assert "kept" in await cli("queries", "save", "Refusals", "--outcome", "deny", "--since", "-7d", "--shared")
    assert "already" in await cli("queries", "save", "Refusals", code=1)
    assert "since=-7d" in await cli("queries", "list")
    assert "outcome" in await cli("queries", "show", "Refusals")
    assert len((await cli("queries", "run", "Refusals")).splitlines()) == 1
    run = await cli.json("queries", "run", "Refusals")
    assert [each["seq"] for each in run["events"]] == [0] and run["query"]["shared"] is True
    world.do("UPDATE bailiwick.saved_queries SET owner = 'paul'")
    await cli("queries", "delete", "Refusals", code=1)
    world.do("UPDATE bailiwick.saved_queries SET owner = %s", run["query"]["owner"])
    assert "removed" in await cli("queries", "delete", "Refusals")
    for command in ("show", "run", "delete"):
        await cli("queries", command, "Refusals", code=3)


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
async def test_an_export_has_a_manifest(world: World, cli: Cli, tmp_path: Path, form: str) -> None:
    await ledgered(world, [event(world, user="jane" if n % 2 else "joe") for n in range(10)])
    path = tmp_path / f"out.{form}"
    shown = await cli("search", "--user", "jane", "--export", str(path), "--format", form)
    assert "5 events" in shown and all(len(line) <= 80 or str(path) in line for line in shown.splitlines())
    manifest = json.loads((tmp_path / f"out.{form}.manifest.json").read_text())
    data = path.read_bytes()
    assert (manifest["sha256"], manifest["bytes"]) == (hashlib.sha256(data).hexdigest(), len(data))
    assert (manifest["events"], manifest["first_seq"], manifest["last_seq"]) == (5, 1, 9)
    assert (manifest["query"], manifest["format"], manifest["file"]) == ("user=jane", form, path.name)
    assert manifest["ledger"]["signed"] == 10 and manifest["tool"].startswith("bailiwick ")
    assert [each["name"] for each in await told(world)] == ["audit.exported"]
    assert not list(tmp_path.glob(".*.new"))


async def test_an_export_that_cannot_be_written_says_so(world: World, cli: Cli, tmp_path: Path) -> None:
    await ledgered(world, [event(world)])
    shown = await cli("search", "--export", str(tmp_path / "nowhere" / "x.csv"), "--format", "csv", code=1)
    assert "No such file" in shown
    await cli("search", "--user", "nobody", "--export", str(tmp_path / "empty.jsonl"), code=3)
    assert (tmp_path / "empty.jsonl").read_bytes() == b""


async def test_progress_is_shown_on_a_terminal(world: World, cli: Cli, tmp_path: Path) -> None:
    await ledgered(world, [event(world, user="jane") for _ in range(250)])
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", "from bailiwick.cli.audit import app; app()", "search", "--export", "x.jsonl"]
    environment = {
        **cli.environment,
        "PATH": "/usr/bin",
        "PYTHONPATH": ":".join(sys.path),
        "TERM": "xterm",
        "COLUMNS": "80",
    }
    process = await asyncio.create_subprocess_exec(
        *command, cwd=tmp_path, env=environment, stdout=asyncio.subprocess.DEVNULL, stderr=theirs
    )
    os.close(theirs)
    assert await asyncio.wait_for(process.wait(), 30) == 0
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    assert b"events" in shown and b"%" in shown
    assert (tmp_path / "x.jsonl").read_bytes().count(b"\n") == 250
