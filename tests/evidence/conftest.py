from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
from ledger_world import World

from bailiwick.kernel.migrate import migrate
from databases import url_of


@pytest.fixture(scope="module")
def database_url() -> Iterator[str]:
    name = f"evidence_{secrets.token_hex(6)}"
    with psycopg.connect(url_of(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        url = url_of(name)
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
