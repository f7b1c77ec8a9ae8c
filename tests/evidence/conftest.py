from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from ledger_world import World

from bailiwick.kernel.migrate import migrate

SERVER = os.environ.get("BAILIWICK_TEST_DATABASE_URL", "postgresql://postgres@127.0.0.1:54999/postgres")


@pytest.fixture(scope="module")
def database_url() -> Iterator[str]:
    name = f"evidence_{secrets.token_hex(6)}"
    with psycopg.connect(SERVER, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        url = urlsplit(SERVER)._replace(path=f"/{name}").geturl()
        try:
            migrate(url)
            yield url
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def world(database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """An empty ledger with the zones ``default`` and ``acme``, their keys, a spool directory and a sequencer."""
    made = await World.make(database_url, tmp_path)
    try:
        yield made
    finally:
        await made.close()
