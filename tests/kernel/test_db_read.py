"""Reading by one statement: as who the rest is done, outside of any transaction, and without a trace on the connection;
and what is left of a statement that was cancelled or whose connection went away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest
from sqlalchemy.exc import ProgrammingError

from bailiwick.kernel.db import APP_ROLE, Database
from bailiwick.kernel.errors import Unavailable
from databases import fresh


@pytest.fixture(scope="module", params=[None, APP_ROLE], ids=["the login's own role", "another role"])
def role(request: pytest.FixtureRequest) -> str | None:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
async def database(role: str | None) -> AsyncIterator[Database]:
    with fresh("read") as url:
        made = Database(url, pool_size=1, role=role)
        yield made
        await made.close()


async def test_it_reads_as_the_same_role_and_leaves_the_connection_as_it_was(
    database: Database, role: str | None
) -> None:
    who = "SELECT current_user AS role, cast(:n AS int) AS n"
    (row,) = await database.read(who, n=3)
    async with database.begin() as tx:
        assert await tx.one(who, n=3) == row
    assert (row["role"] == role) is (role is not None)
    # what follows on the one connection there is takes back what it did, as ever
    with pytest.raises(RuntimeError):
        async with database.begin() as tx:
            await tx.run("INSERT INTO bailiwick.zones (name, created_at) VALUES ('lost', now())")
            raise RuntimeError
    assert await database.read("SELECT name FROM bailiwick.zones WHERE name = 'lost'") == []


async def test_a_statement_that_fails_and_a_server_that_is_away_are_told_apart(database: Database) -> None:
    with pytest.raises(ProgrammingError):
        await database.read("SELECT nothing FROM nowhere")
    assert await database.read("SELECT 1 AS one"), "the connection is good for the next"
    away = Database("postgresql://somebody@127.0.0.1:1/none", role=None)
    with pytest.raises(Unavailable) as refused:
        await away.read("SELECT 1")
    assert refused.value.reason == "database_unavailable"


@pytest.mark.parametrize("turns", [0, 1, 2, 5])
async def test_who_is_cancelled_twice_is_cancelled_and_nothing_else(database: Database, turns: int) -> None:
    """The second one meets psycopg while it has the server stop, and makes it close the connection."""

    async def asks(reading: bool) -> None:
        if reading:
            await database.read("SELECT pg_sleep(60)")
        async with database.begin() as tx:
            await tx.run("SELECT pg_sleep(60)")

    for reading in (False, True):
        task = asyncio.create_task(asks(reading))
        await asyncio.sleep(0.1)
        task.cancel()
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 30)
        # of the one connection that there may be, the next is a good one
        assert await database.read("SELECT 1 AS one") == [{"one": 1}]


async def test_a_connection_that_was_cut_takes_the_others_of_its_pool_with_it(role: str | None) -> None:
    with fresh("cut") as url:
        database = Database(url, pool_size=3, role=role)
        async with database.begin() as one, database.begin() as two, database.begin() as three:
            for tx in (one, two, three):
                await tx.run("SELECT 1")
        with psycopg.connect(url, autocommit=True) as owner:
            cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            owner.execute(f"{cut} AND datname = current_database()")
        with pytest.raises(Unavailable):
            async with database.begin() as tx:
                await tx.value("SELECT 1")
        for _ in range(6):  # one failed, and none of the rest does
            assert await database.read("SELECT 1 AS one") == [{"one": 1}]
        await database.close()
