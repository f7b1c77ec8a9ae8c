"""Tasks: one list, one open task of a source; overdue twice is raised and fires; done ends the alert."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from stage import Stage

from bailiwick.assurance.ports import Person, Task
from bailiwick.assurance.tasks import MACHINE, Item, TaskList, TaskWatch, missed
from bailiwick.assurance.tasks_api import routes
from bailiwick.kernel.errors import Conflict, InvalidRequest
from bailiwick.kernel.severity import Severity
from people_fixtures import House

JANE = Person("jane", "Jane", "jane@corp.net")


class Played(Stage):
    """A stage with a list of tasks."""

    def __init__(self, house: House) -> None:
        super().__init__(house)
        self.heard.people = {"uptime": JANE, "person:joe": Person("joe", "", "joe@corp.net")}
        self.tasks = TaskList(self.clock, self.ids, self.recorder, self.heard)
        self.watch = TaskWatch(self.clock, self.tasks, self.heard, self.heard, self.heard)
        self.serve(routes(self.database, self.tasks))

    async def open(self, source: str = "test/1", hours: float = 24, owner: str = "uptime", **more: Any) -> str:
        task = Task(source, f"do {source}", owner, self.clock.now() + timedelta(hours=hours), **more)
        async with self.database.begin() as tx:
            return await self.tasks.open(tx, self.context(), task)

    async def get(self, identifier: str) -> Item:
        async with self.database.begin() as tx:
            return await self.tasks.get(tx, "default", identifier)

    async def look(self, hours: float = 0) -> dict[str, int]:
        self.clock.advance(hours * 3600)
        async with self.database.begin() as tx:
            return await self.watch.look(tx, "default")


@pytest.fixture
async def stage(house: House) -> Played:
    return Played(house)


async def test_of_one_source_one_task_is_open_and_its_owner_is_told_once(stage: Played) -> None:
    first = await stage.open()
    assert await stage.open() == first
    assert (await stage.look())["told"] == 1 and (await stage.look())["told"] == 0
    (notice,) = stage.heard.notices
    assert (notice.to, notice.subject) == ("person:jane", "To be done: do test/1")
    assert first in notice.body and all(len(line) <= 80 for line in notice.body.splitlines())
    async with stage.database.begin() as tx:
        assert await stage.tasks.close(tx, stage.context(), "test/1", "over")
        assert not await stage.tasks.close(tx, stage.context(), "test/1", "over")
    assert (await stage.get(first)).state == "closed"
    assert await stage.open() != first
    codes = [event.code for event in await stage.people.events()]
    assert codes == ["BW7121", "BW7124", "BW7121"]


async def test_overdue_twice_is_raised_and_fires_until_it_is_done(stage: Played) -> None:
    task = await stage.open(severity=Severity.P3)
    await stage.look()
    assert (await stage.look(23.9))["overdue"] == 0
    assert (await stage.look(0.2))["overdue"] == 1
    item = await stage.get(task)
    assert (item.state, item.severity, item.misses) == ("overdue", "P3", 1) and stage.heard.open_alerts == {}
    assert (await stage.look(23.9))["overdue"] == 0
    assert (await stage.look(0.2))["overdue"] == 1
    item = await stage.get(task)
    assert (item.state, item.severity, item.misses) == ("escalated", "P2", 2)
    fired = stage.heard.open_alerts["task/test/1"]
    assert (fired.severity, fired.owner) == ("P2", "uptime")
    for _ in range(3):
        await stage.look(24.1)
    item = await stage.get(task)
    assert (item.severity, item.misses) == ("P0", 5)
    assert item.due == item.opened_at + timedelta(hours=24)  # what was asked for stays
    assert len({notice.key for notice in stage.heard.notices}) == 6
    async with stage.database.begin() as tx:
        await stage.tasks.done(tx, stage.context(), task, "done at last", by="jane")
    assert (await stage.look())["cleared"] == 1 and (await stage.look())["cleared"] == 0
    assert stage.heard.open_alerts == {}
    assert [event.details["misses"] for event in await stage.people.events() if event.code == "BW7122"] == [
        1,
        2,
        3,
        4,
        5,
    ]


async def test_a_down_time_is_one_miss_and_a_task_of_minutes_has_an_hour(stage: Played) -> None:
    task = await stage.open(hours=0.01)
    await stage.look(24 * 30)
    assert (await stage.get(task)).misses == 1
    assert (await stage.look(0.5))["overdue"] == 0
    assert (await stage.look(0.6))["overdue"] == 1


async def test_a_task_of_nobody_is_told_to_the_administrators(stage: Played) -> None:
    await stage.open(owner="no-such")
    await stage.look()
    assert [notice.to for notice in stage.heard.notices] == ["role:admin"]


async def test_reassigned_is_told_to_the_new_owner_who_must_be_somebody(stage: Played) -> None:
    task = await stage.open()
    await stage.look()
    async with stage.database.begin() as tx:
        with pytest.raises(InvalidRequest) as refused:
            await stage.tasks.reassign(tx, stage.context(), task, "TBD")
        assert refused.value.reason == "nobody_answers"
        await stage.tasks.reassign(tx, stage.context(), task, "person:joe")
    await stage.look()
    assert [notice.to for notice in stage.heard.notices] == ["person:jane", "person:joe"]
    async with stage.database.begin() as tx:
        await stage.tasks.done(tx, stage.context(), task, "done", by="joe")
        for move in (
            stage.tasks.reassign(tx, stage.context(), task, "uptime"),
            stage.tasks.done(tx, stage.context(), task, "again", by="joe"),
        ):
            with pytest.raises(Conflict) as over:
                await move
            assert over.value.reason == "illegal_transition"


async def test_a_task_without_source_title_or_owner_is_none(stage: Played) -> None:
    for wrong in ({"source": " "}, {"owner": ""}):
        with pytest.raises(InvalidRequest):
            await stage.open(**wrong)  # type: ignore[arg-type]


async def test_two_who_open_at_once_open_one(stage: Played) -> None:
    import asyncio

    found = await asyncio.gather(*(stage.open() for _ in range(6)))
    assert len(set(found)) == 1


async def test_misses_follow_the_machine() -> None:
    assert MACHINE.waiting == ("open", "overdue", "escalated")
    with pytest.raises(Conflict):
        missed(_item("done"), _item("done").due)


async def test_the_api_lists_ends_and_reassigns(stage: Played) -> None:
    root, viewer = await stage.people.signed_in("root"), await stage.people.signed_in("vera", "viewer")
    tasks = [await stage.open(f"test/{number}") for number in range(3)]
    page = (await stage.call("GET", "/api/v1/tasks?limit=2", token=root)).json()
    assert [each["id"] for each in page["items"]] == tasks[:2]
    rest = (await stage.call("GET", f"/api/v1/tasks?limit=2&cursor={page['next']}", token=root)).json()
    assert ([each["id"] for each in rest["items"]], rest["next"]) == (tasks[2:], None)
    one = f"/api/v1/tasks/{tasks[0]}"
    assert (await stage.call("GET", one, token=root)).json()["state"] == "open"
    assert (await stage.call("POST", f"{one}/done", {"outcome": "x"}, token=viewer)).status == 403
    assert (await stage.call("POST", f"{one}/done", {"outcome": ""}, token=root)).status == 400
    assert (await stage.call("POST", f"{one}/reassign", {"owner": "[Name]"}, token=root)).status == 422
    assert (await stage.call("POST", f"{one}/reassign", {"owner": "person:joe"}, token=root)).json()[
        "owner"
    ] == "person:joe"
    done = await stage.call("POST", f"{one}/done", {"outcome": "x"}, token=root)
    assert (done.json()["state"], done.json()["ended_by"]) == ("done", "root")
    assert (await stage.call("POST", f"{one}/done", {"outcome": "x"}, token=root)).status == 409
    over = (await stage.call("GET", "/api/v1/tasks?over=true", token=root)).json()
    assert [each["outcome"] for each in over["items"]] == ["x"]
    mine = (await stage.call("GET", "/api/v1/tasks?owner=uptime", token=root)).json()
    assert len(mine["items"]) == 2
    assert (await stage.call("GET", "/api/v1/tasks?cursor=AAAA", token=root)).status == 400
    missing = "/api/v1/tasks/01981f00-0000-7000-8000-000000000000"
    assert (await stage.call("GET", missing, token=root)).status == 404


def _item(state: Any) -> Item:
    from datetime import UTC, datetime

    now = datetime(2026, 1, 5, tzinfo=UTC)
    return Item("i", "default", "s", "t", "o", Severity.P3, now, state, 0, now, "", False, now, None, None, "", 1)
