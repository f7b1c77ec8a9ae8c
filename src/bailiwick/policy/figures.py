"""What the metrics tell of active policies, from the record: a restart forgets nothing, and what another process or a
command activated counts as well."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import structlog

from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import Unavailable
from bailiwick.kernel.feed import Change
from bailiwick.kernel.metrics import Metrics

log = structlog.get_logger(__name__)


class PolicyFigures:
    """Keeps them. One process of an installation does, or the newest word would not be the last."""

    def __init__(self, metrics: Metrics, database: Database) -> None:
        self._metrics = metrics
        self._database = database
        self._wake = asyncio.Event()

    def heed(self, changes: Sequence[Change]) -> None:
        """Look at once where a policy or a zone changed."""
        if any(change.kind in ("policy", "zone") for change in changes):
            self._wake.set()

    async def run(self, every_s: float = 5.0) -> None:
        """Look until cancelled."""
        while True:
            try:
                await self.sample()
            except Unavailable:
                log.warning("figures of policies stay as they are: the database does not answer")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), every_s)
            self._wake.clear()

    async def sample(self) -> None:
        """Look once. Raises :class:`Unavailable`."""
        async with self._database.begin() as tx:
            found = await newly_allowed(tx)
        self._metrics.newly_allowed_pairs.set(max(found.values(), default=0))


async def newly_allowed(tx: Transaction) -> dict[str, int]:
    """How many pairs the active set of each zone newly allows, which somebody may be alerted of until it is another."""
    rows = await tx.all(
        "SELECT DISTINCT ON (a.zone) a.zone,"
        " coalesce((a.comparison ->> 'newly_allowed')::int, jsonb_array_length(a.newly_allowed)) AS pairs"
        " FROM policy_activations a JOIN zones z ON z.name = a.zone WHERE z.state = 'active'"
        " ORDER BY a.zone, a.id DESC"
    )
    return {row["zone"]: int(row["pairs"]) for row in rows}
