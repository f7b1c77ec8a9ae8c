"""How a process of an installation lives: signals, background tasks that must not end, an orderly stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any

import structlog

from bailiwick.kernel.ending import end

log = structlog.get_logger(__name__)


class Background:
    """Tasks that run as long as the process. One that ends is a fault: it is told of and the process stops."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self.failed = False
        self._tasks: list[asyncio.Task[Any]] = []

    def heed_signals(self) -> None:
        """SIGTERM and SIGINT stop the process in order."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)

    def start(self, name: str, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run ``coroutine`` beside everything else."""
        task = asyncio.create_task(coroutine, name=name)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    async def cancel(self) -> None:
        """End all tasks, newest first."""
        for task in reversed(self._tasks):
            await end(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if task.cancelled() or self.stopping.is_set():
            return
        log.error("background task ended", task=task.get_name(), exc_info=task.exception())
        self.failed = True
        self.stopping.set()
