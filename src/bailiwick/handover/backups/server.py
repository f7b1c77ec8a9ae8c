"""The database server as backups need it: past any pooler, by its own tools, with a login that may replicate."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from bailiwick.kernel.db import libpq_url
from bailiwick.kernel.errors import BailiwickError, Unavailable
from bailiwick.kernel.processes import Command

_LOCK = 0x6261636B  # "back": held for as long as a backup is made
_HOLD = "SELECT pg_create_physical_replication_slot('bailiwick_taking_' || pg_backend_pid(), true, true)"
_OURS = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server is: its version, the cluster's identifier, timeline, and bytes of a segment of its log."""

    version: str
    system: str
    timeline: int
    segment_bytes: int


class Server:
    """The server at ``url`` (libpq or SQLAlchemy spelling); ``tools``: the directory of PostgreSQL's programs."""

    def __init__(self, url: str, tools: Path) -> None:
        self.url = libpq_url(url)
        known = conninfo_to_dict(self.url)
        self.login, self.database = str(known.get("user") or ""), str(known.get("dbname") or "")
        self._tools = tools

    def command(self, program: str, arguments: Sequence[str]) -> Command:
        """A replication client; the password is handed over in its environment, where ps(1) does not show it."""
        known = conninfo_to_dict(self.url)
        password = known.pop("password", None)
        known.pop("dbname", None)
        address = make_conninfo(**{name: str(value) for name, value in known.items() if value is not None})
        environment = _OURS | ({"PGPASSWORD": str(password)} if password else {})
        return Command(
            [str(self._tools / program), "--dbname", address, "--no-password", *arguments], environment, cwd=Path("/")
        )

    async def facts(self) -> ServerFacts:
        """What it is. Raises :class:`Unavailable`."""
        row = await self._one(
            "SELECT current_setting('server_version'), (SELECT system_identifier::text FROM pg_control_system()),"
            " (SELECT timeline_id FROM pg_control_checkpoint()),"
            " (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size')"
        )
        return ServerFacts(str(row[0]), str(row[1]), int(row[2]), int(row[3]))

    async def flushed(self) -> str:
        """The place up to which its log is durable."""
        return str((await self._one("SELECT pg_current_wal_flush_lsn()::text"))[0])

    async def switch(self) -> None:
        """Begin a new segment of the log, so that the one before is complete and can be stored."""
        await self._one("SELECT pg_switch_wal()::text")

    @asynccontextmanager
    async def alone(self, *, hold_log: bool = False) -> AsyncIterator[None]:
        """Be the only one who makes a backup, over all machines, until leaving or death. ``hold_log``: the server
        keeps the log that is written meanwhile, which the backup takes along at its end.

        Raises ``backup_running`` where somebody else does.
        """
        try:
            connection = await psycopg.AsyncConnection.connect(self.url, autocommit=True, connect_timeout=5)
        except psycopg.Error as error:
            raise _away(error) from error
        async with connection:
            found = await connection.execute("SELECT pg_try_advisory_lock(%s)", (_LOCK,))
            row = await found.fetchone()
            if row is None or not row[0]:
                raise BailiwickError(reason="backup_running")
            if hold_log:
                try:  # a temporary slot: it goes with this connection, whatever ends it
                    await connection.execute(_HOLD)
                except psycopg.Error as error:
                    raise _away(error) from error
            yield

    async def _one(self, sql: str) -> tuple[Any, ...]:
        try:
            connection = await psycopg.AsyncConnection.connect(self.url, autocommit=True, connect_timeout=5)
            async with connection:
                row = await (await connection.execute(sql)).fetchone()
        except psycopg.Error as error:
            raise _away(error) from error
        assert row is not None
        return tuple(row)


def _away(error: psycopg.Error) -> Unavailable:
    told = str(error).strip().splitlines()
    return Unavailable(
        f"The database does not do what a backup needs: {told[0] if told else type(error).__name__}",
        reason="database_unavailable",
    )
