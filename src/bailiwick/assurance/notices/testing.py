"""Trying a channel: a notice that says that it is a test."""

from __future__ import annotations

from bailiwick.assurance.books import Books
from bailiwick.assurance.notices.channels import CHANNEL
from bailiwick.assurance.notices.notices import Marks, Outbox
from bailiwick.assurance.ports import Notice
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.kernel.db import Database
from bailiwick.kernel.errors import NotFound
from bailiwick.kernel.severity import Severity


async def send_test(
    database: Database, recorder: Recorder, books: Books, outbox: Outbox, context: Context, channel: str
) -> str:
    """Leave a test notice for ``channel``; its id. Raises :class:`NotFound`."""
    async with database.begin() as tx:
        if channel not in (await books.current(tx, context.zone)).of(CHANNEL):
            raise NotFound("There is no channel by that name.")
        event = await recorder.record(
            tx,
            codes.CHANNEL_TESTED,
            "success",
            context,
            subject=Subject(id=channel, type="channel"),
            notice=f"test/{channel}",
        )
        notice = Notice(
            f"channel:{channel}",
            f"test/{channel}/{event.id}",
            f"Test of the channel {channel}",
            f"{context.actor.user or 'somebody'} tries this channel. Nothing is wrong and nothing is to be done.",
            Severity.P3,
        )
        return await outbox.post(tx, context.zone, notice, Marks(facts={"source": "test", "rule": "test"}))
