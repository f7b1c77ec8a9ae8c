"""Waiting for NOTIFY without asking again and again.

psycopg's own iterator wakes ten times a second to look whether somebody pressed Ctrl-C; a process that listens all day
pays for that, and a loop that is cancelled need not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg


async def notified(connection: psycopg.AsyncConnection[Any]) -> AsyncIterator[None]:
    """Answers each time that something was notified on what ``connection`` listens to, however much at once.

    Nothing else may use the connection meanwhile. Raises ``psycopg.OperationalError`` when it has ended.
    """
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    descriptor = connection.fileno()
    loop.add_reader(descriptor, readable.set)
    try:
        while True:
            some = False
            while connection.pgconn.notifies() is not None:
                some = True
            if some:
                yield
            await readable.wait()
            readable.clear()
            connection.pgconn.consume_input()
    finally:
        loop.remove_reader(descriptor)
