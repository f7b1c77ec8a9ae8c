"""The failover drill: a part of a supervised installation is killed, and how long everything takes to be back measured.

For real: requests fail meanwhile. What was acknowledged before must be there afterwards.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bailiwick.evidence.tree import tree_size
from bailiwick.handover.backups.drills import Drill
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database
from bailiwick.kernel.errors import Conflict, Unavailable
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.processes import kill_recorded, started_at

_LONGEST_S = 300.0
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class Seen:
    """The installation at a moment: the part's process, whether it is up, and whether requests are served."""

    pid: int | None
    up: bool
    serves: bool


async def drill_failover(
    part: str, look: Callable[[], Awaitable[Seen]], database: Database, clock: Clock, ids: Ids, by: str
) -> Drill:
    """Kill ``part`` and wait until it is back; the drill, not yet judged. ``look`` sees how the installation stands.

    Raises ``conflict`` where it is not well to begin with, ``Unavailable`` where it does not come back at all.
    """
    before = await look()
    if before.pid is None or not before.up or not before.serves:
        raise Conflict(f"{part} is not up, or the installation serves nobody: mend that first.")
    held = await _sizes(database)
    drill = Drill(ids(), "failover", clock.now(), by)
    started, began = started_at(before.pid), time.monotonic()
    if started is None or not await kill_recorded(before.pid, started):
        raise Conflict(f"{part} ended by itself just now.")
    drill.note("killed", True, f"{part}, process {before.pid}")
    while True:
        seen = await look()
        if seen.up and seen.serves and seen.pid != before.pid:
            break
        if time.monotonic() - began > _LONGEST_S:
            raise Unavailable(f"{part} did not come back within {_LONGEST_S:.0f} s.", reason="restore_failed")
        await asyncio.sleep(_LOOK_S)
    drill.rto_s = time.monotonic() - began
    drill.note("back", True, f"process {seen.pid}, and requests are served")
    now_held = await _sizes(database)
    lost = sorted(zone for zone, size in held.items() if now_held.get(zone, 0) < size)
    drill.note("ledger", not lost, f"events are missing in {', '.join(lost)}" if lost else "every event is there")
    if not lost:
        drill.rpo_s = 0.0
    return drill


async def _sizes(database: Database) -> dict[str, int]:
    try:
        return await _sizes_now(database)
    except Unavailable:  # over a connection to the server that was killed
        return await _sizes_now(database)


async def _sizes_now(database: Database) -> dict[str, int]:
    async with database.begin() as tx:
        return {row["name"]: await tree_size(tx, row["name"]) for row in await tx.all("SELECT name FROM zones")}
