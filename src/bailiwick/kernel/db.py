"""The database: one async engine per process, transactions as context managers, and who it connects as.

PostgreSQL >= 15 by SQLAlchemy 2 Core over psycopg 3. Statements are plain SQL with named parameters.
``BAILIWICK_DATABASE_URL`` may point at PgBouncer in transaction mode, so nothing here keeps session state: where
the login is not ``bailiwick_app`` itself, each transaction starts with ``SET LOCAL ROLE``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from sqlalchemy import RowMapping, TextClause, make_url, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from bailiwick.kernel.errors import BailiwickError, Unavailable

APP_ROLE = "bailiwick_app"

Row = RowMapping


def sqlalchemy_url(url: str) -> str:
    """``postgresql://…`` in the spelling that selects the psycopg 3 driver."""
    scheme, _, rest = url.partition("://")
    return f"postgresql+psycopg://{rest}" if scheme in {"postgres", "postgresql"} else url


def libpq_url(url: str) -> str:
    """The same address as libpq and psycopg themselves spell it."""
    _, _, rest = url.partition("://")
    return f"postgresql://{rest}"


class Transaction:
    """One open transaction. Rows come back as mappings."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.connection = connection

    async def all(self, sql: str, /, **values: Any) -> Sequence[Row]:
        """Every row of the result."""
        return (await self.connection.execute(_statement(sql), values)).mappings().all()

    async def one(self, sql: str, /, **values: Any) -> Row | None:
        """The first row, or None."""
        return (await self.connection.execute(_statement(sql), values)).mappings().first()

    async def value(self, sql: str, /, **values: Any) -> Any:
        """The first column of the first row, or None."""
        return (await self.connection.execute(_statement(sql), values)).scalar()

    async def run(self, sql: str, /, **values: Any) -> int:
        """Execute; the number of rows touched."""
        return (await self.connection.execute(_statement(sql), values)).rowcount


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
                yield Transaction(connection)

    async def read(self, sql: str, /, **values: Any) -> Sequence[Row]:
        """Every row of one statement that changes nothing: a third of what it costs within :meth:`begin`, where BEGIN
        and COMMIT are exchanges with the server like itself. Raises :class:`Unavailable`.
        """
        if self._role:
            async with self.begin() as tx:
                return await tx.all(sql, **values)
        with _told():
            async with self._by_statement.connect() as connection:
                return await Transaction(connection).all(sql, **values)

    async def close(self) -> None:
        """Give the connections back."""
        await self.engine.dispose()


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


_statements: dict[str, TextClause] = {}


def _statement(sql: str) -> TextClause:
    # parsing named parameters costs more than most of our queries; the set of texts is small and fixed
    clause = _statements.get(sql)
    if clause is None:
        clause = _statements.setdefault(sql, text(sql))
    return clause
