"""kill -9 at every write of a rollout: it goes on, or says that nobody knows; never twice, never half-way silently."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rollout_desk import Desk, kinds
from stage import Stage

from people_fixtures import House
from unmeasured import unmeasured

STEPS = ("plain", "proven", "harmless")


def lives(database_url: str, home: Path, way: str) -> list[dict[str, Any]]:
    script = Path(__file__).with_name("rollouts_killed.py")
    here = [
        str(Path(__file__).parent),
        str(Path(__file__).parent.parent),
        str(Path(__file__).parent.parent / "assurance"),
    ]
    path = os.pathsep.join([*here, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(script), database_url, str(home), way],
        capture_output=True, text=True, timeout=240, env=unmeasured(PYTHONPATH=path),
    )  # fmt: skip
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found and all("state" in life for life in found), done.stdout[-2000:] + done.stderr[-4000:]
    assert not found[-1]["killed"] and len(found) > 20, "the last life is that which nobody ended"
    return found


def test_killed_at_any_write_on_the_way_out(database_url: str, tmp_path: Path) -> None:
    found = lives(database_url, tmp_path, "forward")
    for life in found:
        where = (life["at"], life["after"], life)
        counts = {name: life["done"].count(name) for name in STEPS}
        assert counts["plain"] <= 1 and counts["proven"] <= 1 and counts["harmless"] <= 2, where
        assert not [state for *_, state in life["attempts"] if state in ("begun", "acted")], where
        if life["state"] == "waiting":  # and it says of what
            assert life["blocked_on"] in ("plain", "proven") and "nobody knows" in life["told"], where
            back = life["sent_back"]
            # what was begun is taken back, whether it was done or not
            begun = [step for step, way, _ in back["attempts"] if way == "forward"]
            assert back["state"] == "rolled_back", where
            assert [each for each in back["done"] if each.startswith("undo-")] == [
                f"undo-{name}" for name in reversed(begun)
            ], where
        else:
            assert life["state"] == "done" and all(counts.values()), where
            assert {step for step, _, state in life["attempts"] if state == "passed"} == set(STEPS), where
    assert {life["state"] for life in found} == {"waiting", "done"}
    # killed between the command and its outcome: what cannot be told is asked, what can be told is known
    unknown = [life for life in found if life["state"] == "waiting"]
    assert any(life["done"].count("plain") == 1 and life["blocked_on"] == "plain" for life in unknown)
    assert any(life["blocked_on"] == "proven" and life["done"].count("proven") == 0 for life in unknown)
    assert not any(life["blocked_on"] == "proven" and life["done"].count("proven") == 1 for life in unknown)
    assert any(life["done"].count("harmless") == 2 for life in found)


def test_killed_at_any_write_on_the_way_back(database_url: str, tmp_path: Path) -> None:
    found = lives(database_url, tmp_path, "back")
    for life in found:
        where = (life["at"], life["after"], life)
        counts = {name: life["done"].count(f"undo-{name}") for name in STEPS}
        assert counts["plain"] <= 1 and counts["proven"] <= 1 and counts["harmless"] <= 2, where
        if life["state"] == "stuck":
            assert life["blocked_on"] in ("plain", "proven") and "nobody knows" in life["told"], where
        else:
            assert life["state"] == "rolled_back" and all(counts.values()), where
            order = list(dict.fromkeys(life["done"]))
            assert order == ["undo-harmless", "undo-proven", "undo-plain"], where
    assert {life["state"] for life in found} == {"stuck", "rolled_back"}


# --- what comes of what nobody knows


@pytest.fixture
async def desk(house: House, tmp_path: Path) -> Desk:
    return await Desk(Stage(house, kinds()), tmp_path).open()


async def begun_and_left(desk: Desk, step: str) -> str:
    """A rollout whose process died right after it wrote that ``step`` begins."""
    name = await desk.started()
    shown = await desk.shown(name)
    async with desk.stage.database.begin() as tx:
        await tx.run(
            "INSERT INTO rollout_attempts (rollout, number, step, way, state, begun_at)"
            " VALUES (:id, 100, :step, 'forward', 'begun', :now)",
            id=shown["id"],
            step=step,
            now=desk.stage.clock.now(),
        )
    return name


async def test_a_person_says_that_it_was_done(desk: Desk) -> None:
    name = await begun_and_left(desk, "one")
    await desk.engine.tick()
    shown = await desk.shown(name)
    assert (shown["state"], shown["blocked_on"], desk.done()) == ("waiting", "one", [])
    await desk.confirm(name, "one", "pat", statement="I looked, and it was done")
    await desk.engine.tick()
    assert desk.done() == ["two"]


async def test_a_person_has_it_done_again(desk: Desk) -> None:
    name = await begun_and_left(desk, "one")
    await desk.engine.tick()
    await desk.do("olga", f"/{name}/decide", {"decision": "retry", "why": "it was not done"})
    await desk.engine.tick()
    assert [each.split()[0] for each in desk.done()] == ["one", "two"]


async def test_a_plan_may_say_that_it_is_rolled_back_then(desk: Desk) -> None:
    from rollout_desk import PLAN

    await desk.replan(PLAN.replace("          title: One\n", "          title: One\n          when_lost: roll-back\n"))
    name = await begun_and_left(desk, "one")
    await desk.engine.tick()
    shown = await desk.shown(name)
    assert shown["state"] == "rolled_back" and "nobody knows" in shown["rollback_why"]
    assert desk.done() == ["undo-one", "old"]


async def test_two_processes_do_not_work_on_one(desk: Desk, database_url: str) -> None:
    import asyncio

    from bailiwick.kernel.db import Database

    name = await desk.started()
    others = [Database(database_url, pool_size=3) for _ in range(3)]
    engines = [desk.engine_on(each) for each in others]
    await asyncio.gather(*(engine.tick() for engine in engines))
    for engine in engines:
        await engine.tick()
    assert [each.split()[0] for each in desk.done()] == ["one", "two"]
    assert await desk.state(name) == "waiting"
    for each in others:
        await each.close()
