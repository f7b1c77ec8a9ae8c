"""What the clock does about environments: takes what two people declared, begins hypercare, fills slots, validates.

Everything is looked up in rows and measured at most once for what it is of, so it may run twice or late.
"""

from __future__ import annotations

from bailiwick.assurance.books import Books
from bailiwick.evidence.events import Context
from bailiwick.handover.environments.hypercare import Hypercare
from bailiwick.handover.environments.states import EnvironmentStates, read, read_all
from bailiwick.handover.environments.validation import Validation
from bailiwick.kernel.db import Database
from bailiwick.kernel.errors import BailiwickError


class EnvironmentClock:
    """Looks at the environments of all zones."""

    def __init__(
        self, database: Database, books: Books, states: EnvironmentStates, validation: Validation, hypercare: Hypercare
    ) -> None:
        self._database = database
        self._books = books
        self._states = states
        self._validation = validation
        self._hypercare = hypercare

    async def keep(self) -> dict[str, int]:
        """Everything once; how much was done. What fails of one environment does not keep it from the others."""
        told = {"declared": 0, "filled": 0, "missed": 0, "measured": 0}
        troubles: list[Exception] = []
        for approval in await self._states.approved():
            try:
                told["declared"] += await self._states.take(approval)
            except (BailiwickError, ValueError, OSError) as error:
                troubles.append(error)
        async with self._database.begin() as tx:
            zones = [row["name"] for row in await tx.all("SELECT name FROM zones WHERE state = 'active' ORDER BY name")]
        for zone in zones:
            async with self._database.begin() as tx:
                names = [each.name for each in await read_all(tx, self._books, zone)]
            for name in names:
                try:
                    done = await self._keep(zone, name)
                except (BailiwickError, ValueError, OSError) as error:
                    troubles.append(error)
                    continue
                for what, count in done.items():
                    told[what] += count
        if troubles:
            raise troubles[0]
        return told

    async def _keep(self, zone: str, name: str) -> dict[str, int]:
        async with self._database.begin() as tx:
            found = await read(tx, self._books, zone, name)
            if found is not None and found.stage == "live":
                await self._states.begin_hypercare(tx, Context(zone), name)
                found = await read(tx, self._books, zone, name)
        if found is None or found.life is None:
            return {}
        filled = await self._hypercare.keep(zone, found)
        measured = await self._validation.keep(zone, found)
        return {
            "filled": filled["filled"],
            "measured": measured["measured"],
            "missed": filled["missed"] + measured["missed"],
        }
