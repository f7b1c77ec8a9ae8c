"""A serve worker's place in the register: which revision of the feed it has applied, so that others can wait for it.

The row is written before the worker reads its first snapshot. Whoever revokes afterwards sees the row and waits;
whoever revoked before is in the snapshot.
"""

from __future__ import annotations

import os
import socket

from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database
from bailiwick.kernel.errors import Unavailable


class WorkerRegister:
    """This worker's row. ``id`` is unique to one life of the process."""

    def __init__(self, database: Database, clock: Clock, worker_id: str, slot: str) -> None:
        self.id = worker_id
        self.slot = slot
        self.host = socket.gethostname()
        self._database = database
        self._clock = clock

    async def enter(self) -> None:
        """Announce the worker, behind everything. Older lives of the same slot are taken out."""
        now = self._clock.now()
        async with self._database.begin() as tx:
            await tx.run("DELETE FROM workers WHERE host = :host AND slot = :slot", host=self.host, slot=self.slot)
            await tx.run(
                "INSERT INTO workers (id, host, slot, pid, revision, started_at, seen_at)"
                " VALUES (:id, :host, :slot, :pid, 0, :now, :now)",
                id=self.id,
                host=self.host,
                slot=self.slot,
                pid=os.getpid(),
                now=now,
            )

    async def confirm(self, revision: int) -> None:
        """Tell that everything up to ``revision`` has taken effect here."""
        async with self._database.begin() as tx:
            # losing this on a database crash costs a wait, never safety: skip the flush
            await tx.run("SET LOCAL synchronous_commit = off")
            await tx.run(
                "UPDATE workers SET revision = :revision, seen_at = :now WHERE id = :id",
                revision=revision,
                now=self._clock.now(),
                id=self.id,
            )

    async def leave(self) -> None:
        """Take the row out on an orderly stop; a database that is away does not hold the stop up."""
        try:
            async with self._database.begin() as tx:
                await tx.run("DELETE FROM workers WHERE id = :id", id=self.id)
        except Unavailable:
            return
