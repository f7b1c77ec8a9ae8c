"""How long the history of runs is kept: nobody but a function of the schema's owner removes any of it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from bailiwick.app.house import House, Part
from bailiwick.assurance.book import Kind
from bailiwick.kernel.db import Database
from bailiwick.kernel.jobs import JobDefinition
from bailiwick.kernel.modes import frozen_zones

KINDS: tuple[Kind[Any], ...] = ()


async def forget_runs(database: Database) -> dict[str, int]:
    """Remove what is past its life (``90_retention.sql``); how many rows of each table went."""
    async with database.begin() as tx:
        if frozen := await frozen_zones(tx):
            return {"frozen_zones": len(frozen)}
        rows = await tx.all("SELECT what, gone FROM bailiwick.forget_runs()")
    return {row["what"]: int(row["gone"]) for row in rows}


def build(house: House) -> Part:
    """The part: one job in the night."""

    async def forget(due_at: datetime) -> dict[str, int]:
        return await forget_runs(house.base.database)

    return Part(jobs=[JobDefinition("forget-runs", "29 3 * * *", forget, grace=timedelta(hours=12), timeout_s=1800.0)])
