"""A tampered copy of the ledger, to see that verification finds it."""

from __future__ import annotations

from pathlib import Path

from bailiwick.evidence.ledger import HeadFiles
from bailiwick.evidence.verify import VerifyReport, verify
from bailiwick.kernel.db import Database
from bailiwick.kernel.embedded_postgres import EmbeddedPostgres
from bailiwick.kernel.migrate import migrate
from bailiwick.kernel.paths import Layout

COPY = "bailiwick_demo_copy"


async def verify_tampered_copy(data_dir: Path, zone: str = "default") -> tuple[int, VerifyReport]:
    """Copy the zone's ledger to a scratch database, change one byte of one event, verify; the row and the report."""
    import asyncio

    import psycopg

    layout = Layout(data_dir)
    server = EmbeddedPostgres(layout)
    await server.drop_database(COPY)
    await server.ensure_database(COPY)
    try:
        await asyncio.to_thread(migrate, server.url(COPY))
        async with (
            await psycopg.AsyncConnection.connect(server.url()) as source,
            await psycopg.AsyncConnection.connect(server.url(COPY)) as copy,
        ):
            for table in ("bailiwick.zones", "bailiwick.zone_keys", "ledger.events", "ledger.heads"):
                await _copy(source, copy, table)
            row = await (
                await copy.execute("SELECT count(*) / 2 FROM ledger.events WHERE zone = %s", (zone,))
            ).fetchone()
            changed = int(row[0]) if row else 0
            await copy.execute(
                "UPDATE ledger.events SET body = set_byte(body, length(body) - 3, get_byte(body, length(body) - 3) # 1)"
                " WHERE zone = %s AND seq = %s",
                (zone, changed),
            )
            await copy.commit()
        database = Database(server.url(COPY))
        try:
            return changed, await verify(database, zone, HeadFiles(layout.heads))
        finally:
            await database.close()
    finally:
        await server.drop_database(COPY)


async def _copy(source: object, copy: object, table: str) -> None:
    from psycopg import AsyncConnection

    assert isinstance(source, AsyncConnection) and isinstance(copy, AsyncConnection)
    async with (
        source.cursor() as reading,
        copy.cursor() as writing,
        reading.copy(f"COPY (SELECT * FROM {table}) TO STDOUT") as rows,  # noqa: S608 - names from above
        writing.copy(f"COPY {table} FROM STDIN") as into,
    ):
        async for part in rows:
            await into.write(part)
