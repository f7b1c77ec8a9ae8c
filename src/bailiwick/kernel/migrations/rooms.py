"""Lays down the tables of a room: a script a part, and what the app may do with each table."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from alembic import op
from sqlalchemy import text

_HERE = Path(__file__).parent
_NAMES = text("SELECT tablename FROM pg_tables WHERE schemaname = 'bailiwick'")


def lay(room: str, *, append_only: Collection[str], kept: Collection[str]) -> None:
    """Run the scripts in the folder ``room`` as the owner of the schema, then grant the app what it needs of the
    tables they made: of ``append_only`` to read and add, of ``kept`` all but to remove."""
    before = _tables()
    op.execute("SET ROLE bailiwick_owner")
    op.execute("SET search_path = bailiwick")
    for script in sorted((_HERE / room).glob("*.sql")):
        # as it stands: the text of a script is not one statement with parameters
        op.get_bind().exec_driver_sql(script.read_text(encoding="utf-8").replace("%", "%%"))
    op.execute("RESET ROLE")
    op.execute("RESET search_path")
    op.execute("GRANT USAGE ON ALL SEQUENCES IN SCHEMA bailiwick TO bailiwick_app")
    for table in sorted(_tables() - before):
        rights = "SELECT, INSERT"
        if table not in append_only:
            rights += ", UPDATE" if table in kept else ", UPDATE, DELETE"
        op.execute(f"GRANT {rights} ON bailiwick.{table} TO bailiwick_app")


def _tables() -> set[str]:
    return set(op.get_bind().execute(_NAMES).scalars())
