from __future__ import annotations

import secrets
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest

sys.path.append(str(Path(__file__).parent.parent / "evidence"))

from archive_world import ArchiveWorld

from bailiwick.kernel.migrate import migrate
from databases import url_of


@pytest.fixture(scope="module")
def database_url() -> Iterator[str]:
    name = f"archive_{secrets.token_hex(6)}"
    with psycopg.connect(url_of(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        url = url_of(name)
        try:
            migrate(url)
            yield url
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def world(database_url: str, tmp_path: Path) -> AsyncIterator[ArchiveWorld]:
    made = await ArchiveWorld.begin(database_url, tmp_path)
    try:
        yield made
    finally:
        await made.close()
