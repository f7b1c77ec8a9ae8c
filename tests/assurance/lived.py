"""A healthy life, told once for a file of tests, on a ground that can be gone back to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from bailiwick.app.selftest.ground import Ground, ground
from bailiwick.app.selftest.life import CHAPTERS, tell
from bailiwick.app.selftest.mutations import Mutation, live_with
from bailiwick.app.selftest.run import Outcome, judge
from bailiwick.app.selftest.seen import Seen


class Lived:
    """What there was to see at the end of each chapter, and what there is with a fault."""

    def __init__(self, loop: asyncio.AbstractEventLoop, under: Ground, told: list[Seen]) -> None:
        self.loop, self.under, self.told = loop, under, told

    def seen(self, mutation: Mutation) -> Seen:
        """What there is to see in the end with the fault."""
        return self.loop.run_until_complete(live_with(self.under, mutation))

    def outcome(self, mutation: Mutation) -> Outcome:
        """What became of the fault."""
        return judge(mutation, self.seen(mutation), self.told[mutation.until])

    def lines(self, chapter: str, *kinds: str) -> list[str]:
        """What there was to see at the end of a chapter, of these kinds."""
        number = [each.name for each in CHAPTERS].index(chapter)
        return sorted(line for line in self.told[number].lines if line.split()[0] in kinds)


@contextmanager
def living(until: int = len(CHAPTERS) - 1) -> Iterator[Lived]:
    """The life to the end of a chapter."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    loop = asyncio.new_event_loop()
    standing = ground()
    under = loop.run_until_complete(standing.__aenter__())
    try:
        yield Lived(loop, under, loop.run_until_complete(tell(under, until=until)))
    finally:
        loop.run_until_complete(standing.__aexit__(None, None, None))
        loop.close()
        structlog.configure(**before)
