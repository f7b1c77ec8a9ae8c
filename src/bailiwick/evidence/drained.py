"""Waiting until what was acknowledged before this moment stands in the ledger."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from bailiwick.evidence.frames import written_end
from bailiwick.kernel.db import Database


async def drained(database: Database, spool_root: Path, *, timeout_s: float = 5.0) -> bool:
    """Wait until the ledger holds everything that this machine's spools and the outbox hold now.

    False when it does not within ``timeout_s`` seconds. Raises :class:`Unavailable` when the database is away.
    """
    wanted = await asyncio.to_thread(_written, spool_root)
    async with database.begin() as tx:
        last = await tx.value("SELECT coalesce(max(id), 0) FROM outbox")
    try:
        async with asyncio.timeout(timeout_s):
            while not await _reached(database, spool_root, wanted, last):  # noqa: ASYNC110 - the database has no event
                await asyncio.sleep(0.02)
    except TimeoutError:
        return False
    return True


def _written(root: Path) -> dict[str, tuple[int, int]]:
    """Last segment that holds anything, and its end, by source."""
    written = {}
    for directory in root.iterdir() if root.exists() else ():
        if directory.name.startswith(".") or not directory.is_dir():
            continue
        for path in sorted(directory.glob("*.seg")):
            try:
                fd = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                continue  # it was sequenced while we looked
            try:
                if end := written_end(fd, 0):
                    written[directory.name] = (int(path.stem), end)
            finally:
                os.close(fd)
    return written


async def _reached(database: Database, root: Path, wanted: dict[str, tuple[int, int]], last_outbox: int) -> bool:
    async with database.begin() as tx:
        if await tx.value("SELECT 1 FROM outbox WHERE id <= :last LIMIT 1", last=last_outbox):
            return False
        rows = await tx.all(
            "SELECT DISTINCT ON (source) source, segment, position, finished FROM spool_positions"
            " WHERE source = ANY(:sources) ORDER BY source, segment DESC",
            sources=list(wanted),
        )
    at = {row["source"]: (row["segment"], row["position"]) for row in rows}
    for row in rows:
        if row["finished"]:
            at[row["source"]] = (row["segment"] + 1, 0)
    # a source is removed only after everything in it was committed
    return all(
        at.get(source, (-1, 0)) >= place or (source not in at and not (root / source).exists())
        for source, place in wanted.items()
    )
