"""Brings a database to this version's schema, and tells where it stands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from bailiwick.kernel.db import sqlalchemy_url

_LOCK = 0x6D696772  # "migr": one migration at a time
_HERE = Path(__file__).parent / "migrations"


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """Where a database stands: its revision, this version's head, and the versions still to run."""

    current: str | None
    head: str
    pending: tuple[str, ...]

    @property
    def up_to_date(self) -> bool:
        """True when nothing is pending."""
        return not self.pending


def migrate(url: str) -> SchemaStatus:
    """Run every pending migration in one transaction each, under a lock; idempotent.

    ``url`` logs in as a role that may create roles and schemas (the database's owner).
    """
    engine = create_engine(sqlalchemy_url(url), poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": _LOCK})
        connection.commit()
        try:
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
        finally:
            connection.rollback()
            connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": _LOCK})
            connection.commit()
        return _status(connection)


def status(url: str) -> SchemaStatus:
    """Where the database at ``url`` stands, changing nothing."""
    engine = create_engine(sqlalchemy_url(url), poolclass=NullPool)
    with engine.connect() as connection:
        return _status(connection)


def _status(connection: object) -> SchemaStatus:
    scripts = ScriptDirectory.from_config(_config())
    context = MigrationContext.configure(connection, opts={"version_table_schema": "public"})  # type: ignore[arg-type]
    current = context.get_current_revision()
    ordered = [script.revision for script in reversed(list(scripts.walk_revisions()))]
    done = ordered.index(current) + 1 if current in ordered else 0
    return SchemaStatus(current, ordered[-1], tuple(ordered[done:]))


def _config() -> Config:
    config = Config()
    # a configuration file's values would be %-interpolated; paths may hold any character
    config.set_main_option("script_location", str(_HERE).replace("%", "%%"))
    return config
