"""The database: one async engine per process, transactions as context managers, and who it connects as.

PostgreSQL >= 15. SQLAlchemy 2 keeps the connections and the transactions, and says what a driver's error means;
statements are plain SQL with named parameters, and go from here to psycopg 3 itself: what SQLAlchemy's own way of
executing costs is a fifth of a worker's time while people sign in (ADR 64).
``BAILIWICK_DATABASE_URL`` may point at PgBouncer in transaction mode, so nothing here keeps session state: where
the login is not ``bailiwick_app`` itself, each transaction starts with ``SET LOCAL ROLE``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row
from sqlalchemy import make_url, text
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from bailiwick.kernel.errors import BailiwickError, Unavailable

APP_ROLE = "bailiwick_app"

Row = Mapping[str, Any]

Watch = Callable[[str, float, bool], None]
"""Is told of a statement: its text, the seconds it took, and whether it failed."""


def sqlalchemy_url(url: str) -> str:
    """``postgresql://…`` in the spelling that selects the psycopg 3 driver."""
    scheme, _, rest = url.partition("://")
    return f"postgresql+psycopg://{rest}" if scheme in {"postgres", "postgresql"} else url


def libpq_url(url: str) -> str:
    """The same address as libpq and psycopg themselves spell it."""
    _, _, rest = url.partition("://")
    return f"postgresql://{rest}"


class Transaction:
    """One open transaction. Rows come back as mappings. What fails raises SQLAlchemy's errors."""

    def __init__(self, connection: AsyncConnection, watched: Watched | None = None) -> None:
        self.connection = connection
        self._watched = watched

    @property
    def driver(self) -> psycopg.AsyncConnection[tuple[object, ...]]:
        """psycopg's own connection, which this transaction is on."""
        connection = self.connection.sync_connection
        assert connection is not None
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.AsyncConnection)
        return driver

    async def all(self, sql: str, /, **values: Any) -> Sequence[Row]:
        """Every row of the result."""
        return await (await self._execute(sql, values)).fetchall()

    async def one(self, sql: str, /, **values: Any) -> Row | None:
        """The first row, or None."""
        return await (await self._execute(sql, values)).fetchone()

    async def value(self, sql: str, /, **values: Any) -> Any:
        """The first column of the first row, or None."""
        row = await (await self._execute(sql, values)).fetchone()
        return None if row is None else next(iter(row.values()))

    async def run(self, sql: str, /, **values: Any) -> int:
        """Execute; the number of rows touched."""
        return (await self._execute(sql, values)).rowcount

    async def _execute(self, sql: str, values: dict[str, Any]) -> psycopg.AsyncCursor[dict[str, Any]]:
        watched = self._watched
        started = watched.clock() if watched is not None else 0.0
        cursor = self.driver.cursor(row_factory=dict_row)
        try:
            await cursor.execute(_statement(sql), values)
        except psycopg.Error as error:
            if watched is not None:
                watched.tell(sql, watched.clock() - started, True)
            raise await self._failure(sql, error) from error
        if watched is not None:
            watched.tell(sql, watched.clock() - started, False)
        return cursor

    async def _failure(self, sql: str, error: psycopg.Error) -> BaseException:
        """What SQLAlchemy raises for a driver's error."""
        if self.driver.closed:
            # it has to hear of it, to give up the connections that went away with this one: it does when it asks
            try:
                await self.connection.execute(text("SELECT 1"))
            except DBAPIError as told:
                return told
        # without the values: an exception's text must not tell what was to be stored
        return DBAPIError.instance(sql, None, error, psycopg.Error, hide_parameters=True, dialect=_DIALECT)


@dataclass(frozen=True, slots=True)
class Watched:
    """Who is told of every statement, and by which clock (seconds) it is timed."""

    clock: Callable[[], float]
    tell: Watch


class Database:
    """Opens transactions. ``role`` is the database role to act as; None keeps the login's own."""

    def __init__(self, url: str, *, pool_size: int = 8, role: str | None = APP_ROLE) -> None:
        self.url = url
        parsed = make_url(sqlalchemy_url(url))
        self._role = None if parsed.username == role else role
        self._act_as = f"SET LOCAL ROLE {role}; SET LOCAL search_path = bailiwick"
        self.engine: AsyncEngine = create_async_engine(
            parsed,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=5,
            pool_pre_ping=False,
            hide_parameters=True,  # an exception's text must not tell what was to be stored
            connect_args={
                "prepare_threshold": None,  # PgBouncer in transaction mode loses prepared statements
                "connect_timeout": 3,
            },
        )
        # the same pool: what comes from it commits each statement by itself
        self._by_statement = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._watched: Watched | None = None

    def watch(self, clock: Callable[[], float], tell: Watch) -> None:
        """Tell of every statement of the transactions to come. ``clock`` answers seconds."""
        self._watched = Watched(clock, tell)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Transaction]:
        """A transaction committed on leaving, rolled back on an exception.

        Raises :class:`Unavailable` (``database_unavailable``) when the server cannot be reached.
        """
        with _told():
            async with self.engine.begin() as connection:
                if self._role:
                    # a login of our own has this search path by ALTER ROLE; SET ROLE does not apply it
                    # both in one journey, since every transaction begins so; a SELECT of set_config would be a query,
                    # before which alone a transaction may choose its isolation
                    await connection.exec_driver_sql(self._act_as)
                async with _given_up(connection):
                    yield Transaction(connection, self._watched)

    async def read(self, sql: str, /, **values: Any) -> Sequence[Row]:
        """Every row of one statement that changes nothing: a third of what it costs within :meth:`begin`, where BEGIN
        and COMMIT are exchanges with the server like itself. Raises :class:`Unavailable`.
        """
        if self._role:
            async with self.begin() as tx:
                return await tx.all(sql, **values)
        with _told():
            async with self._by_statement.connect() as connection, _given_up(connection):
                return await Transaction(connection, self._watched).all(sql, **values)

    async def close(self) -> None:
        """Give the connections back."""
        await self.engine.dispose()


@asynccontextmanager
async def _given_up(connection: AsyncConnection) -> AsyncIterator[None]:
    """Let a connection go on which something was cancelled that may still run, or which psycopg closed for that.

    What leaves the transaction would fail on it, and that failure would be raised in place of the cancellation.
    """
    try:
        yield
    except asyncio.CancelledError:
        driver = None if connection.invalidated else Transaction(connection).driver
        if driver and (driver.closed or driver.info.transaction_status == TransactionStatus.ACTIVE):
            await connection.invalidate()
        raise


@contextmanager
def _told() -> Iterator[None]:
    """Tell a server that cannot be reached from a statement that fails."""
    try:
        yield
    except BailiwickError:
        raise
    except (OperationalError, InterfaceError, PoolTimeout) as error:
        raise Unavailable("The database does not answer.", reason="database_unavailable") from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise Unavailable("The database went away.", reason="database_unavailable") from error
        raise


_DIALECT = PGDialect_psycopg()  # type: ignore[no-untyped-call]


@lru_cache(maxsize=4096)
def _statement(sql: str) -> str:
    """A text of ours as psycopg spells it, ``%(name)s`` for ``:name``: finding them costs more than most queries."""
    return str(text(sql).compile(dialect=_DIALECT))
