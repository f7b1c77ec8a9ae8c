"""A task is ended however it takes its cancellation."""

from __future__ import annotations

import asyncio

from bailiwick.kernel.ending import end


async def test_who_mistakes_a_cancellation_for_a_fault_is_told_again() -> None:
    mistaken = 0

    async def survives() -> None:
        nonlocal mistaken
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if mistaken == 2:
                    raise
                mistaken += 1

    task = asyncio.create_task(survives())
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await end(task, again_s=0.01)
    assert task.cancelled() and mistaken == 2


async def test_who_tidies_up_is_given_the_time() -> None:
    tidied = asyncio.Event()

    async def tidies() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            tidied.set()

    task = asyncio.create_task(tidies())
    await asyncio.sleep(0)
    await end(task)
    assert tidied.is_set()


async def test_what_it_raised_is_nobody_s_concern() -> None:
    async def fails() -> None:
        raise ValueError("before it was asked")

    task = asyncio.create_task(fails())
    await asyncio.sleep(0)
    await end(task)
    assert isinstance(task.exception(), ValueError)
