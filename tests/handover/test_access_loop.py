"""What a loop of access makes, by the rooms' own services: it is one loop's at a time, and none leaves any of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from canary_ground import DIGEST
from stage import Stage, room_of

from bailiwick.app.handover.canary import Rooms
from bailiwick.evidence.events import Context
from bailiwick.handover.canary import loop
from bailiwick.handover.canary.loop import APPLICATION, AccessLoop, Ways
from bailiwick.inventory.documents import ServerBody
from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.permissions import Role
from people_fixtures import House

FIRST, SECOND = "access-loop-00000001", "access-loop-00000002"
UPSTREAM = "http://93.184.216.10:8080"


class Made:
    """The fixture of loops over a real database, and what there is of it."""

    def __init__(self, people: House, directory: Path) -> None:
        self.people, self.context = people, Stage(people).context("root")
        self.rooms = Rooms(room_of(people, directory).house)

    async def make(self, name: str) -> tuple[str, str, str]:
        return await self.rooms.make(self.context, name, UPSTREAM, "key")

    async def application(self) -> tuple[bool, dict[str, Any], str]:
        found = await self.rooms._applications.get("default", APPLICATION)
        return found.is_active, dict(found.grants), found.description

    async def names(self) -> tuple[list[str], list[str]]:
        async with self.people.database.begin() as tx:
            rows = [await tx.all(f"SELECT name FROM {table} ORDER BY 1") for table in ("servers", "credentials")]
        return [row["name"] for row in rows[0]], [row["name"] for row in rows[1]]


@pytest.fixture
def made(house: House, tmp_path: Path) -> Made:
    return Made(house, tmp_path)


async def test_what_a_killed_loop_left_is_swept_by_the_next_and_nobody_elses(made: Made) -> None:
    for name, tags in (("access-loop-0000000a", {}), ("access-loop-mine", {"for": APPLICATION})):
        await made.people.servers.create(made.context, ServerBody(name=name, endpoint=UPSTREAM, tags=tags))
    await made.make(FIRST)  # and its process died
    status, _, _ = await made.make(SECOND)
    assert status == "routable"
    assert await made.names() == ([SECOND, "access-loop-0000000a", "access-loop-mine"], [SECOND])
    active, grants, _ = await made.application()
    assert active and list(grants) == [SECOND]
    await made.rooms.remove(made.context, SECOND)
    assert await made.names() == (["access-loop-0000000a", "access-loop-mine"], [])
    assert not (await made.application())[0]


async def test_an_application_of_that_name_that_no_loop_made_is_nobodys_to_take(made: Made) -> None:
    theirs = {"description": "Ours, of before.", "grants": {}}
    await made.rooms._applications.create(made.context, Role.ADMIN, APPLICATION, **theirs)
    with pytest.raises(BailiwickError) as refused:
        await made.make(FIRST)
    assert refused.value.reason == "already_exists"
    await made.rooms.remove(made.context, FIRST)
    assert await made.application() == (True, {}, "Ours, of before.")
    assert await made.names() == ([], [])


async def test_what_cannot_be_removed_keeps_nothing_else_from_being(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any) -> None:
        raise TimeoutError("a worker does not answer")

    await made.make(FIRST)
    monkeypatch.setattr(made.rooms._applications, "change", refuse)
    with pytest.raises(TimeoutError):
        await made.rooms.remove(made.context, FIRST)
    assert await made.names() == ([], [])


# ---------------------------------------------------------------------- loops


class Counting:
    """Makes nothing, slowly; how many were made at once."""

    def __init__(self, failing: str = "") -> None:
        self.now = self.most = 0
        self.failing = failing

    async def make(self, context: Context, name: str, upstream: str, key: str) -> tuple[str, str, str]:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.05)
        raise BailiwickError(reason="upstream_forbidden")

    async def revoke(self, context: Context, mandate: str) -> bool:
        raise AssertionError("nothing was given")

    async def remove(self, context: Context, name: str) -> None:
        self.now -= 1
        if self.failing:
            raise RuntimeError(self.failing)


def walker(house: House, fixture: Counting) -> AccessLoop:
    """As one process has it."""
    stage = Stage(house)
    return AccessLoop(
        stage.database, stage.clock, stage.ids, stage.recorder, stage.records, fixture,
        lambda zone: Ways("http://127.0.0.1:9", "http://127.0.0.1:9"), release=DIGEST,
    )  # fmt: skip


async def test_two_processes_walk_one_after_the_other(house: House) -> None:
    fixture = Counting()
    context = Stage(house).context("root")
    await asyncio.gather(*(walker(house, fixture).run(context, DIGEST) for _ in range(3)))
    assert fixture.most == 1


async def test_what_a_loop_found_is_kept_though_it_leaves_something_behind(house: House) -> None:
    found = await walker(house, Counting("it is stuck")).run(Stage(house).context("root"), DIGEST)
    assert (found.verdict, found.told) == ("FAIL", "prepared: expected routable, got upstream_forbidden")
    removed = next(each for each in found.steps if each["name"] == "removed")
    assert removed["actual"] == "not removed: RuntimeError; no answer" and not removed["holds"]


@pytest.fixture
async def endless() -> AsyncIterator[str]:
    """An upstream whose answer has no end; its address."""

    async def answer(request: web.Request) -> web.StreamResponse:
        told = web.StreamResponse()
        await told.prepare(request)
        await told.write(b'{"key": "ours", "more": "')
        while True:
            await told.write(b"x" * 4096)

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    await runner.cleanup()


async def test_an_answer_without_end_is_not_read_to_it(endless: str) -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as http, asyncio.timeout(20):
        assert await loop._call(http, "GET", endless) == (200, {}, "")
