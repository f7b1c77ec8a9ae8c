from __future__ import annotations

import hashlib
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
from policy_stage import Stage

from bailiwick.kernel import migrate
from databases import url_of

_LOCK = 0x706F7473


@pytest.fixture(scope="session")
def migrated_template() -> str:
    schema = Path(migrate.__file__).parent / "migrations" / "versions"
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(schema.glob("*.py")))).hexdigest()[:12]
    name = f"policysvc_template_{digest}"
    with psycopg.connect(url_of("postgres"), autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone()
        if known is None:
            connection.execute(f'CREATE DATABASE "{name}_new"')
            migrate.migrate(url_of(f"{name}_new"))
            connection.execute(f'ALTER DATABASE "{name}_new" RENAME TO "{name}"')
        connection.execute("SELECT pg_advisory_unlock(%s)", (_LOCK,))
    return name


@pytest.fixture(scope="module")
def database_url(migrated_template: str) -> Iterator[str]:
    name = f"policysvc_{secrets.token_hex(6)}"
    with psycopg.connect(url_of("postgres"), autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{migrated_template}"')
        connection.execute("SELECT pg_advisory_unlock(%s)", (_LOCK,))
        yield url_of(name)
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
async def stage(database_url: str) -> AsyncIterator[Stage]:
    made = Stage(database_url)
    await made.open()
    yield made
    await made.close()
