"""Batches: nobody waits for company, each gets his own answer, and a fault is told to all it befell."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from bailiwick.kernel.together import Together


class Work:
    """Doubles numbers; holds the first batch until it is let go, and cannot do thirteen."""

    def __init__(self) -> None:
        self.batches: list[Sequence[int]] = []
        self.go = asyncio.Event()

    async def __call__(self, batch: Sequence[int]) -> Sequence[int]:
        self.batches.append(batch)
        await self.go.wait()
        if 13 in batch:
            raise ValueError("thirteen")
        return [2 * number for number in batch]


async def asked(together: Together[int, int], *numbers: int) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(together.ask(number)) for number in numbers]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def test_who_comes_meanwhile_shares_the_next_batch() -> None:
    work = Work()
    together = Together(work, lambda number: number, most=3)
    tasks = await asked(together, 1)
    tasks += await asked(together, 2, 3, 4, 5)
    work.go.set()
    assert await asyncio.gather(*tasks) == [2, 4, 6, 8, 10]
    assert work.batches == [[1], [2, 3, 4], [5]]
    assert await together.ask(6) == 12


async def test_two_of_a_key_never_share() -> None:
    work = Work()
    together = Together(work, lambda number: number % 10)
    tasks = await asked(together, 0)
    tasks += await asked(together, 1, 11, 2)
    work.go.set()
    assert await asyncio.gather(*tasks) == [0, 2, 22, 4]
    assert work.batches == [[0], [1, 2], [11]]


async def test_a_fault_is_told_to_its_batch_and_the_next_goes_on() -> None:
    work = Work()
    together = Together(work, lambda number: number, most=2)
    tasks = await asked(together, 0)
    tasks += await asked(together, 13, 1, 2)
    work.go.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [int, ValueError, ValueError, int]


async def test_who_goes_away_takes_nobody_along() -> None:
    work = Work()
    together = Together(work, lambda number: number)
    first, second = [*await asked(together, 0), *await asked(together, 1)]
    first.cancel()
    work.go.set()
    assert await second == 2
    with pytest.raises(asyncio.CancelledError):
        await first
