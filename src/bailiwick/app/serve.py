"""A serve worker: the API with its hot endpoints on one socket, Envoy's check on another, one event loop."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
import uvloop

from bailiwick.app.foundations import lay
from bailiwick.kernel.paths import Layout
from bailiwick.kernel.settings import Settings

log = structlog.get_logger(__name__)


def run(settings: Settings, layout: Layout, slot: str) -> int:
    """Run until SIGTERM; the exit code."""
    return uvloop.run(_Worker(settings, layout, slot).run())


class _Worker:
    """One life of a worker."""

    def __init__(self, settings: Settings, layout: Layout, slot: str) -> None:
        self._base = lay(settings, layout, slot)
        self._slot = slot
        self._id = f"{slot}-{self._base.ids()}"
        self._tasks: list[asyncio.Task[Any]] = []
        self._stopping = asyncio.Event()
