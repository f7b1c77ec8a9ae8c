"""The access log: one row per API request, apart from the ledger, written behind the answers.

It is for looking, not for proof: when the database is away rows wait in bounded memory, and beyond that they are
dropped and counted. Nothing ever waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from datetime import datetime, timedelta
from typing import NamedTuple

import psycopg
import structlog
from sqlalchemy.exc import SQLAlchemyError

from bailiwick.evidence.records import clean
from bailiwick.kernel.db import Database
from bailiwick.kernel.errors import Unavailable

_PORTION = 5000

log = structlog.get_logger(__name__)


class AccessRow(NamedTuple):
    """One answered request. ``route`` is the template, ``caller`` a user or application name, '' when unknown."""

    at: datetime
    zone: str
    request_id: str
    caller: str
    method: str
    route: str
    status: int
    duration_us: int
    ip: str


class AccessLog:
    """Collects rows and writes them every ``interval_s`` seconds; holds at most ``capacity`` of them."""

    def __init__(self, database: Database, *, capacity: int = 50_000, interval_s: float = 1.0) -> None:
        self._database = database
        self._capacity = capacity
        self._interval_s = interval_s
        self._rows: deque[AccessRow] = deque()
        self.dropped = 0
        self.written = 0

    def add(self, row: AccessRow) -> None:
        """Note one request; never waits, never fails."""
        if len(self._rows) >= self._capacity:
            self.dropped += 1
        else:
            self._rows.append(row)

    async def run(self) -> None:
        """Write every interval until cancelled, then once more."""
        try:
            while True:
                await asyncio.sleep(self._interval_s)
                await self._try_flush()
        finally:
            await self._try_flush()

    async def flush(self) -> None:
        """Write what waits; raises :class:`Unavailable` or ``psycopg.Error`` and keeps the rows."""
        while self._rows:
            portion = [self._rows[index] for index in range(min(_PORTION, len(self._rows)))]
            async with self._database.begin() as tx:
                connection = tx.driver
                async with (
                    connection.cursor() as cursor,
                    cursor.copy(
                        "COPY api_requests (at, zone, request_id, caller, method, route, status, duration_us, ip)"
                        " FROM STDIN"
                    ) as copy,
                ):
                    for row in portion:
                        await copy.write_row([clean(part) if isinstance(part, str) else part for part in row])
            for _ in portion:
                self._rows.popleft()
            self.written += len(portion)

    async def _try_flush(self) -> None:
        try:
            await self.flush()
        except (Unavailable, psycopg.OperationalError):
            pass  # they wait for the next interval
        except (psycopg.Error, SQLAlchemyError) as error:
            log.error("access log rows refused", error=str(error).splitlines()[0])
            with contextlib.suppress(IndexError):
                for _ in range(_PORTION):
                    self._rows.popleft()
                    self.dropped += 1


async def purge_api_requests(database: Database, now: datetime, *, days: int = 30) -> int:
    """Delete access log rows older than ``days``; answers how many."""
    return await _purge(
        database,
        "DELETE FROM api_requests WHERE ctid = ANY(ARRAY("
        " SELECT ctid FROM api_requests WHERE at < :before LIMIT :limit))",
        now - timedelta(days=days),
    )


async def purge_decision_inputs(database: Database, now: datetime) -> int:
    """Delete decision inputs past their life; answers how many."""
    return await _purge(
        database,
        "DELETE FROM decision_inputs WHERE ctid = ANY(ARRAY("
        " SELECT ctid FROM decision_inputs WHERE expires_at < :before LIMIT :limit))",
        now,
    )


async def _purge(database: Database, sql: str, before: datetime) -> int:
    # in portions: a month's rows in one statement would hold its locks and its log for minutes
    total = 0
    while True:
        async with database.begin() as tx:
            deleted = await tx.run(sql, before=before, limit=20_000)
        total += deleted
        if deleted < 20_000:
            return total
