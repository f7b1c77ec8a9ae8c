"""Waiting for NOTIFY: told of everything, at once, and of the end of the connection."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from bailiwick.kernel.db import libpq_url
from bailiwick.kernel.listening import notified


async def test_everything_that_is_notified_wakes_and_the_end_of_the_connection_raises(database_url: str) -> None:
    url = libpq_url(database_url)
    woken: asyncio.Queue[None] = asyncio.Queue()
    async with (
        await psycopg.AsyncConnection.connect(url, autocommit=True) as listener,
        await psycopg.AsyncConnection.connect(url, autocommit=True) as other,
    ):
        await listener.execute("LISTEN of_this_test")

        async def follow() -> None:
            async for _ in notified(listener):
                woken.put_nowait(None)

        following = asyncio.create_task(follow())
        for number in range(3):
            await other.execute("SELECT pg_notify('of_this_test', %s)", [str(number)])
            await asyncio.wait_for(woken.get(), 10)
        await other.execute("SELECT pg_notify('another', 'x')")
        assert not following.done()
        await other.execute("SELECT pg_terminate_backend(%s)", [listener.info.backend_pid])
        with pytest.raises(psycopg.OperationalError):
            await asyncio.wait_for(following, 10)
