"""What overrides can do to the platform of the story."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bailiwick.assurance.operations import Claim, Target
from bailiwick.assurance.override_rules import Class
from bailiwick.evidence.events import Context
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.fields import Body, Line


class Why(Body):
    """What it is done for."""

    why: Line


class _OnThePlatform:
    """An operation in the database of the life; :class:`~bailiwick.app.selftest.world.World` says which."""

    arguments: type[Body] = Why
    external = False
    reversible = False
    database: Database

    def amount(self, arguments: Why) -> int:
        """One thing."""
        return 1


class ForcePayout(_OnThePlatform):
    """Pays what is held up."""

    name = "payout.force"
    title = "force the payout that is held up"
    class_: Class = "finance"

    async def target(self, tx: Transaction, zone: str, arguments: Why) -> Target:
        """The payout, with its amount and state as its version."""
        row = await tx.one("SELECT id, amount, state FROM pay.payouts WHERE id LIKE 'held%' ORDER BY id LIMIT 1")
        return Target(row["id"], f"{row['amount']}/{row['state']}") if row else Target("none", "none")

    async def perform(self, context: Context, arguments: Why, claim: Claim, key: str) -> Mapping[str, Any]:
        """Pay it, as the bank does."""
        async with self.database.begin() as tx:
            await claim(tx)
            await tx.run(
                "WITH paid AS (UPDATE pay.payouts SET state = 'paid' WHERE id LIKE 'held%' RETURNING id, amount)"
                " INSERT INTO pay.statement (ref, value) SELECT id, amount FROM paid"
            )
        return {"paid": True}

    async def undo(self, context: Context, arguments: Why, key: str) -> bool:
        """There is no way back."""
        return False


class PauseProvider(_OnThePlatform):
    """Stops paying out by the provider; taking it back lets it go on."""

    name = "provider.pause"
    title = "stop paying out"
    class_: Class = "narrowing"
    reversible = True

    async def target(self, tx: Transaction, zone: str, arguments: Why) -> Target:
        """The provider and whether it is paused."""
        return Target("provider", str(await tx.value("SELECT paused FROM pay.provider")))

    async def perform(self, context: Context, arguments: Why, claim: Claim, key: str) -> Mapping[str, Any]:
        """Stop."""
        async with self.database.begin() as tx:
            await claim(tx)
            await tx.run("UPDATE pay.provider SET paused = true")
        return {"paused": True}

    async def undo(self, context: Context, arguments: Why, key: str) -> bool:
        """Go on."""
        async with self.database.begin() as tx:
            await tx.run("UPDATE pay.provider SET paused = false")
        return True
