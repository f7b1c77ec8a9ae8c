"""Jobs that are due at once when the feed tells of a change, beside their schedule.

That the feed told is not written down: a job that a change makes due finds by its schedule what it was not told of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import structlog

from bailiwick.kernel.errors import NotFound, Unavailable
from bailiwick.kernel.feed import Change
from bailiwick.kernel.jobs import Jobs

log = structlog.get_logger(__name__)

Follows = Mapping[str, Callable[[str], str]]
"""By the kind of a change: the job of a zone that it makes due."""


class Following:
    """Makes them due."""

    def __init__(self, jobs: Jobs, follows: Sequence[Follows]) -> None:
        self._jobs = jobs
        self._follows = follows
        self._due: dict[str, None] = {}
        self._wake = asyncio.Event()

    def heed(self, changes: Sequence[Change]) -> None:
        """Take in what the feed told."""
        for change in changes:
            for each in self._follows:
                if change.kind in each:
                    self._due[each[change.kind](change.zone)] = None
                    self._wake.set()

    async def run(self) -> None:
        """Make due what is asked for until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            due, self._due = self._due, {}
            for job in due:
                try:
                    await self._jobs.trigger(job)
                except NotFound:
                    pass  # the book of that zone does not ask for it
                except Unavailable:
                    log.warning("a job waits for its schedule: the database does not answer", job=job)
