from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from urllib.parse import urlsplit

import psycopg
import pytest

from bailiwick.kernel.migrate import migrate

SERVER = os.environ.get("BAILIWICK_TEST_DATABASE_URL", "postgresql://postgres@127.0.0.1:54999/postgres")


@pytest.fixture(scope="module")
def database_url() -> Iterator[str]:
    name = f"kernel_{secrets.token_hex(6)}"
    with psycopg.connect(SERVER, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        url = urlsplit(SERVER)._replace(path=f"/{name}").geturl()
        try:
            migrate(url)
            yield url
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
