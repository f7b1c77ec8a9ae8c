from __future__ import annotations

import secrets
from collections.abc import Iterator

import psycopg
import pytest

from bailiwick.kernel.migrate import migrate
from databases import url_of


@pytest.fixture(scope="module")
def database_url() -> Iterator[str]:
    name = f"kernel_{secrets.token_hex(6)}"
    with psycopg.connect(url_of(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        url = url_of(name)
        try:
            migrate(url)
            yield url
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
