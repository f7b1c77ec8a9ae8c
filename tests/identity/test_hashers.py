"""Processes that hash behind everybody else: they are few, they are replaced when they die, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop

from bailiwick.identity import hashers as module
from bailiwick.identity.hashers import Cost, Hashers
from bailiwick.identity.passwords import COST, Passwords
from bailiwick.kernel.errors import Unavailable

QUICK = Cost(memory_kib=64, passes=1, lanes=1)
STORED = "$argon2id$v=19$m=64,t=1,p=1$"


class Watched(Hashers):
    """Hashers whose processes a test can look at."""

    started: list[module._Process]

    async def _start(self, *, behind: bool) -> module._Process:
        process = await super()._start(behind=behind)
        self.started = [*getattr(self, "started", []), process]
        return process

    def pids(self) -> list[int]:
        return [process._process.pid for process in self.started]


@pytest.fixture
async def hashers() -> AsyncIterator[Watched]:
    made = Watched(QUICK, most=2, patience_s=60)
    yield made
    made.close()
    for process in getattr(made, "started", []):
        await process._process.wait()


async def test_a_password_is_hashed_and_found_right_apart(hashers: Watched) -> None:
    stored = await hashers.hash("correct horse\n\x00 bättery")
    assert stored.startswith(STORED)
    assert await hashers.matches(stored, "correct horse\n\x00 bättery")
    assert not await hashers.matches(stored, "wrong horse battery")
    assert not await hashers.matches("no hash", "wrong horse battery")
    assert len(hashers.pids()) == 1, "one at a time is done by one process"
    assert os.getpid() not in hashers.pids()


async def test_no_more_are_started_than_allowed(hashers: Watched) -> None:
    stored = await asyncio.gather(*(hashers.hash(f"password {number}") for number in range(12)))
    right = await asyncio.gather(*(hashers.matches(each, f"password {n}") for n, each in enumerate(stored)))
    assert right == [True] * 12
    assert len(set(hashers.pids())) == 2


@pytest.mark.parametrize(("cores", "most"), [(1, 1), (4, 1), (7, 1), (8, 2), (64, 2)])
def test_a_processor_is_left_to_others(cores: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    assert module.at_once() == most


async def test_they_stand_behind_everybody_and_know_nothing_of_ours(hashers: Watched) -> None:
    await hashers.hash("password")
    (pid,) = hashers.pids()
    assert os.sched_getscheduler(pid) == os.SCHED_IDLE
    told = Path(f"/proc/{pid}/environ").read_bytes()
    assert {pair.partition(b"=")[0].decode() for pair in told.split(b"\0") if pair} == module._ENVIRONMENT.keys()
    assert b"password" not in Path(f"/proc/{pid}/cmdline").read_bytes()


async def test_whoever_waits_too_long_is_served_before_others() -> None:
    now = 0.0
    hashers = Watched(QUICK, most=1, patience_s=0, clock=lambda: now)
    try:
        assert (await hashers.hash("password")).startswith(STORED)
        assert os.sched_getscheduler(hashers.pids()[-1]) == os.SCHED_OTHER
        hashers._patience_s = 60
        now = module.IMPATIENT_S - 1
        await hashers.hash("password")
        assert os.sched_getscheduler(hashers.pids()[-1]) == os.SCHED_OTHER
        now = module.IMPATIENT_S
        await hashers.hash("password")
        assert os.sched_getscheduler(hashers.pids()[-1]) == os.SCHED_IDLE
    finally:
        hashers.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_one_that_was_killed_is_replaced(hashers: Watched, number: signal.Signals) -> None:
    stored = await hashers.hash("password")
    os.kill(hashers.pids()[0], number)
    assert await hashers.matches(stored, "password")
    assert len(hashers.pids()) == 2


async def test_one_that_is_killed_at_its_work_is_replaced(hashers: Watched) -> None:
    stored = await hashers.hash("password")
    os.kill(hashers.pids()[0], signal.SIGSTOP)
    asking = asyncio.create_task(hashers.matches(stored, "password"))
    await asyncio.sleep(0)
    os.kill(hashers.pids()[0], signal.SIGKILL)
    assert await asking


async def test_a_caller_who_goes_away_leaves_no_answer_to_the_next(hashers: Watched) -> None:
    stored = await hashers.hash("password")
    os.kill(hashers.pids()[0], signal.SIGSTOP)
    asking = asyncio.create_task(hashers.matches(stored, "password"))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert not await hashers.matches(stored, "another password")
    assert await hashers.started[0]._process.wait() == -signal.SIGKILL


async def test_they_end_when_nobody_asks_and_begin_anew(hashers: Watched) -> None:
    hashers._idle_s = 0
    await hashers.hash("password")
    assert await asyncio.wait_for(hashers.started[0]._process.wait(), 20) == 0
    assert (await hashers.hash("password")).startswith(STORED)


async def test_none_to_be_had_is_a_refusal(hashers: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BOOTSTRAP", "raise SystemExit(1)")
    with pytest.raises(Unavailable) as refused:
        await hashers.matches(STORED, "password")
    assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "1"})
    monkeypatch.setattr(module.sys, "executable", "/nowhere/python")
    with pytest.raises(Unavailable):
        await hashers.hash("password")


async def test_passwords_are_checked_there_and_nobodys_like_anybodys() -> None:
    asked: list[str] = []

    class Noting(Hashers):
        async def matches(self, stored: str, password: str) -> bool:
            asked.append(stored)
            return await super().matches(stored, password)

    passwords = Passwords(hashing=Noting(COST, patience_s=60))
    stored = await passwords.hash("correct horse battery")
    assert (await passwords.verify(stored, "correct horse battery")).ok
    assert not (await passwords.verify(None, "nobody has this password")).ok
    begins = {each[: each.index("p=1$")] for each in asked}
    assert len(asked) == 2 and len(begins) == 1, "as much work for a name nobody has"
    passwords.close()


def test_one_that_ended_long_ago_is_replaced_under_the_loop_that_serves() -> None:
    """uvloop closes the pipe of a process that ended, and says so in its own way."""

    async def hashed_twice() -> str:
        hashers = Watched(QUICK, most=1, patience_s=60)
        await hashers.hash("password")
        (process,) = hashers.started
        process.kill()
        await process._process.wait()
        assert process._process.stdin is not None
        process._process.stdin.close()
        await asyncio.sleep(0.05)
        stored = await hashers.hash("password")
        assert len(hashers.started) == 2
        hashers.close()
        await hashers.started[1]._process.wait()
        return stored

    assert uvloop.run(hashed_twice()).startswith(STORED)
