"""Databases on the PostgreSQL that the test run started."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from bailiwick.kernel import migrate

_LOCK = 7316

FILLED = (
    "SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name"
    " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " CROSS JOIN LATERAL pg_stat_file(pg_relation_filepath(c.oid), true) file"
    " WHERE c.relkind = 'r' AND n.nspname IN ('bailiwick', 'ledger') AND file.size > 0"
)
"""The tables that ever held a row in this database, found by their files: a superuser's question. There are some two
hundred, of which a test fills ten; to look into each is what a new connection would spend its first tenth of a second on."""


def url_of(database: str = "postgres") -> str:
    """The address of ``database``, as the server's superuser."""
    return urlsplit(os.environ["BAILIWICK_TEST_DATABASE_URL"])._replace(path=f"/{database}").geturl()


@contextmanager
def fresh(prefix: str) -> Iterator[str]:
    """The address of a migrated database of one's own: a copy of one that was migrated once for the run."""
    template, name = f"migrated_{_schema()}", f"{prefix}_{secrets.token_hex(6)}"
    with psycopg.connect(url_of(), autocommit=True) as connection:
        # copies are made one at a time, and only of a template that is whole
        connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (template,)).fetchone():
            connection.execute(f"CREATE DATABASE {template}_draft")
            migrate.migrate(url_of(f"{template}_draft"))
            connection.execute(f"ALTER DATABASE {template}_draft RENAME TO {template}")
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        connection.execute("SELECT pg_advisory_unlock(%s)", (_LOCK,))
        try:
            yield url_of(name)
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@cache
def _schema() -> str:
    """What names the schema of this source: a test run may use a server that another began."""
    folder = Path(migrate.__file__).parent / "migrations"
    scripts = sorted([*folder.rglob("*.py"), *folder.rglob("*.sql")])
    return hashlib.sha256(b"".join(path.read_bytes() for path in scripts)).hexdigest()[:12]
