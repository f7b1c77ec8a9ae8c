"""A copy of the ledger in a throw-away database, to show that changing one byte of it is found."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from psycopg import AsyncConnection, sql

from bailiwick.cli.demo.children import remove_run
from bailiwick.evidence.ledger import HeadFiles, ledger_keys
from bailiwick.evidence.tree import tree_size
from bailiwick.evidence.verify import VerifyReport, verify
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.embedded_postgres import throwaway_postgres
from bailiwick.kernel.migrate import migrate
from bailiwick.kernel.paths import Layout
from bailiwick_verify.merkle import TILE_WIDTH

ZONE = "default"
MOST_COPIED = 50_000
"""Of a larger ledger only the newest events are copied, from a full tile on."""


@dataclass(frozen=True, slots=True)
class Tampered:
    """The event whose byte was changed, and what verification says of the copy before and after."""

    seq: int
    offset: int
    before: VerifyReport
    after: VerifyReport


async def tamper(database_url: str, heads: Path, request_id: str) -> Tampered:
    """Copy the newest of the ledger, change a byte of the event of ``request_id`` there, and verify both times.

    The ledger itself is only read.
    """
    database = Database(database_url, pool_size=2)
    try:
        async with _scratch() as copy, _own_heads(heads) as files:
            async with database.begin() as tx:
                await tx.run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                keys = await ledger_keys(tx, ZONE)
                await _copy(tx, copy.url)
            # the keys are the original's: who rewrites a copy could bring his own
            before = await verify(copy, ZONE, files, keys, newest=MOST_COPIED)
            async with copy.begin() as tx:
                seq, offset = await _change_a_byte(tx, request_id)
            return Tampered(seq, offset, before, await verify(copy, ZONE, files, keys, newest=MOST_COPIED))
    finally:
        await database.close()


@asynccontextmanager
async def _scratch() -> AsyncIterator[Database]:
    layout: Layout | None = None
    try:
        async with throwaway_postgres() as server:
            layout = server.layout
            url = await server.fresh()
            await asyncio.to_thread(migrate, url)
            copy = Database(url, pool_size=2, role=None)
            try:
                yield copy
            finally:
                await copy.close()
    finally:
        if layout is not None:
            remove_run(layout)


@asynccontextmanager
async def _own_heads(heads: Path) -> AsyncIterator[HeadFiles]:
    """The published heads as they are now: a head is published after its rows, so all its rows will be copied."""
    directory = Path(tempfile.mkdtemp(prefix="bw-heads-"))
    try:
        published = HeadFiles(heads).path(ZONE)
        if published.exists():
            shutil.copy(published, directory)
        yield HeadFiles(directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def _copy(tx: Transaction, target_url: str) -> None:
    # from a full tile on, with all hashes: the tree before the copied events is told from them
    first = max(0, await tree_size(tx, ZONE) - MOST_COPIED) // TILE_WIDTH * TILE_WIDTH
    source = tx.driver
    parts = (("events", "seq", first), ("heads", "size", first), ("hashes", "first", 0))
    async with await AsyncConnection.connect(target_url) as target:
        for table, position, start in parts:
            name = sql.Identifier("ledger", table)
            read = sql.SQL("COPY (SELECT * FROM {} WHERE zone = {} AND {} >= {}) TO STDOUT (FORMAT binary)").format(
                name, sql.Literal(ZONE), sql.Identifier(position), sql.Literal(start)
            )
            write = sql.SQL("COPY {} FROM STDIN (FORMAT binary)").format(name)
            async with source.cursor().copy(read) as rows, target.cursor().copy(write) as into:
                async for block in rows:
                    await into.write(block)


async def _change_a_byte(tx: Transaction, request_id: str) -> tuple[int, int]:
    """Say another path in the stored bytes of the event; its sequence number, and where the byte stands."""
    row = await tx.one(
        "SELECT seq, rest FROM ledger.events WHERE zone = :zone AND request_id = :id ORDER BY seq LIMIT 1",
        zone=ZONE,
        id=UUID(request_id),
    )
    assert row is not None, "the event was found through the API before"
    rest = bytes(row["rest"])
    offset = rest.index(b'"path":"/payments') + len(b'"path":"/payments') - 1
    changed = rest[:offset] + b"5" + rest[offset + 1 :]
    await tx.run(
        "UPDATE ledger.events SET rest = :rest WHERE zone = :zone AND seq = :seq",
        rest=changed,
        zone=ZONE,
        seq=row["seq"],
    )
    return int(row["seq"]), offset
