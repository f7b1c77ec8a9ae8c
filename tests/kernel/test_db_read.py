"""Reading by one statement: as who the rest is done, outside of any transaction, and without a trace on the connection."""

from __future__ import annotations

from collections.abc import AsyncIterator

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
