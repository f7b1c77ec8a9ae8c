"""How a command that changes something leaves its event, also while the database is away."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bailiwick.evidence.events import Context, Event, Recorder
    from bailiwick.kernel.paths import Layout

_SEGMENT_BYTES = 1 << 20


def by_operator(layout: Layout | None, zone: str = "default") -> tuple[Recorder, Context]:
    """A recorder with the clock of the installation there, if it is on this machine, and the context of whoever works
    on the machine: he is named by his system account."""
    import getpass

    from bailiwick.cli.local import clock_of
    from bailiwick.evidence.events import Actor, Context, Recorder
    from bailiwick.kernel.clock import SystemClock
    from bailiwick.kernel.ids import Ids

    clock = SystemClock() if layout is None else clock_of(layout)
    return Recorder(clock, Ids()), Context(zone, Actor(user=f"os:{getpass.getuser()}"))


def leave(layout: Layout, event: Event) -> None:
    """Make an event durable: in the database, or in a spool of its own where that does not answer.

    For commands that must work just then, such as stopping everything. Ends the command when neither takes it.
    """
    asyncio.run(leave_now(layout, event))


async def leave_now(layout: Layout, event: Event) -> None:
    """The same in the midst of a command that goes on."""
    from bailiwick.cli.failure import FAILED, CommandFailed
    from bailiwick.kernel.errors import Unavailable

    try:
        await _leave(layout, event)
    except (Unavailable, OSError) as error:
        raise CommandFailed(FAILED, f"no event of this could be left: {error}") from None


async def _leave(layout: Layout, event: Event) -> None:
    from sqlalchemy.exc import SQLAlchemyError

    from bailiwick.cli.failure import CommandFailed
    from bailiwick.cli.local import database_url
    from bailiwick.evidence.events import encode
    from bailiwick.kernel import outbox
    from bailiwick.kernel.db import Database
    from bailiwick.kernel.errors import Unavailable

    body = encode(event)
    try:
        database = Database(database_url(layout.data_dir), pool_size=1)
        try:
            async with database.begin() as tx:
                await outbox.put(tx, event.zone, body)
        finally:
            await database.close()
    except (Unavailable, CommandFailed, SQLAlchemyError):  # away, not made yet, or of another schema
        await _spool(layout, event.zone, body)


async def _spool(layout: Layout, zone: str, body: bytes) -> None:
    from bailiwick.evidence.frames import Kind
    from bailiwick.evidence.spool import Spool
    from bailiwick.kernel.ids import Ids

    spool = Spool(layout.spool, "cli", Ids()(), segment_bytes=_SEGMENT_BYTES)
    await spool.start()
    try:
        await spool.append(Kind.EVENT, zone, body)
    finally:
        await spool.close()
