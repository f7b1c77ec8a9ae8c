"""What the inventory needs from rooms above it; the composition root hands it in."""

from __future__ import annotations

from typing import Protocol

from bailiwick.evidence.events import Context
from bailiwick.kernel.db import Transaction


class KeyMaker(Protocol):
    """Makes the signing keys of a zone."""

    async def create(self, tx: Transaction, zone: str, context: Context) -> None:
        """Create the keys of the new ``zone`` in ``tx``."""
        ...


class AdministratorMaker(Protocol):
    """Makes the first administrator of a zone."""

    async def __call__(self, tx: Transaction, zone: str) -> str:
        """Create the user ``admin`` of the new ``zone`` in ``tx``; answers its one-time password."""
        ...


class Settle(Protocol):
    """Waits for workers."""

    async def settle(self, revision: int, context: Context) -> object:
        """Return when every worker that can still be reached has applied ``revision``."""
        ...
