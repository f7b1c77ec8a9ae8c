"""Doing at once what many ask for: those who come while a batch is under way share the next one.

Where a change is a few rows, most of what it costs alone is the transaction around it. Nobody waits for company:
whoever finds nothing under way goes at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

A = TypeVar("A")
R = TypeVar("R")

MOST = 64


@dataclass(slots=True)
class _Asked(Generic[A, R]):
    item: A
    answer: asyncio.Future[R] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Together(Generic[A, R]):
    """Hands items to ``work`` in batches of at most ``most``.

    ``work`` answers one result an item, in their order; what it raises, each of them is told. No batch holds two items
    of the same ``key``: the second finds what the first did.
    """

    def __init__(
        self, work: Callable[[Sequence[A]], Awaitable[Sequence[R]]], key: Callable[[A], Hashable], most: int = MOST
    ) -> None:
        self._work = work
        self._key = key
        self._most = most
        self._waiting: list[_Asked[A, R]] = []
        self._runner: asyncio.Task[None] | None = None

    async def ask(self, item: A) -> R:
        """The result for ``item``."""
        asked: _Asked[A, R] = _Asked(item)
        self._waiting.append(asked)
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        return await asked.answer

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch = self._take()
                try:
                    results = await self._work([asked.item for asked in batch])
                except BaseException as error:
                    for asked in batch:
                        if not asked.answer.done():
                            asked.answer.set_exception(
                                error if isinstance(error, Exception) else asyncio.CancelledError()
                            )
                    if not isinstance(error, Exception):
                        raise
                    continue
                for asked, result in zip(batch, results, strict=True):
                    if not asked.answer.done():
                        asked.answer.set_result(result)
        finally:
            self._runner = None

    def _take(self) -> Sequence[_Asked[A, R]]:
        batch: dict[Hashable, _Asked[A, R]] = {}
        rest: list[_Asked[A, R]] = []
        for asked in self._waiting:
            key = self._key(asked.item)
            if key in batch or len(batch) >= self._most:
                rest.append(asked)
            else:
                batch[key] = asked
        self._waiting = rest
        return [*batch.values()]
