"""Databases on the PostgreSQL that the test run started."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg

from bailiwick.kernel import migrate

_LOCK = 7316

FILLED = (
    "SELECT c.oid, quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name, file.size"
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
        _copy(connection, template, name)
        connection.execute("SELECT pg_advisory_unlock(%s)", (_LOCK,))
        try:
            yield url_of(name)
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _copy(connection: psycopg.Connection[Any], template: str, name: str) -> None:
    """Have the kernel copy the files, which PostgreSQL 18 can: page by page it takes ten times as long."""
    copy = f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY"
    try:
        connection.execute("SET file_copy_method = clone")
        connection.execute(copy)
    except psycopg.Error:  # a file system or a sandbox that cannot
        connection.execute("SET file_copy_method = copy")
        connection.execute(copy)


_MOST_DELETED = 1 << 20


def empty(connection: psycopg.Connection[Any], *tables: str) -> None:
    """Empty ``tables`` and whatever refers to them, as TRUNCATE … CASCADE would, which makes new files for the two
    hundred tables that refer to a zone; most of them never held a row. ``connection`` is a superuser's."""
    named = ", ".join(f"'{table}'::regclass::oid" for table in tables)
    filled = connection.execute(
        "WITH RECURSIVE wanted(oid) AS ("
        f" SELECT unnest(ARRAY[{named}]) UNION SELECT other.oid FROM wanted CROSS JOIN LATERAL ("
        "  SELECT conrelid AS oid FROM pg_constraint WHERE contype = 'f' AND confrelid = wanted.oid"
        "  UNION ALL SELECT inhrelid FROM pg_inherits WHERE inhparent = wanted.oid) other)"
        f" SELECT filled.name, filled.size FROM ({FILLED}) filled JOIN wanted ON wanted.oid = filled.oid"
    ).fetchall()
    # tables that are only added to refuse this otherwise
    with connection.transaction():
        connection.execute("SET LOCAL session_replication_role = replica")
        for name, size in filled:
            connection.execute(f"DELETE FROM {name}" if size < _MOST_DELETED else f"TRUNCATE {name} CASCADE")


@cache
def _schema() -> str:
    """What names the schema of this source: a test run may use a server that another began."""
    folder = Path(migrate.__file__).parent / "migrations"
    scripts = sorted([*folder.rglob("*.py"), *folder.rglob("*.sql")])
    return hashlib.sha256(b"".join(path.read_bytes() for path in scripts)).hexdigest()[:12]
