"""Stands where a part of the room is not built in yet: what is said to it is logged, and it answers for nobody."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import structlog

from bailiwick.assurance.ports import Found, Level, Notice, Person, Raised, Task
from bailiwick.evidence.events import Context
from bailiwick.kernel.db import Transaction

log = structlog.get_logger(__name__)


class Unheard:
    """Every port at once. Fails closed: nobody owns anything and no waiver covers anything."""

    async def fire(self, tx: Transaction, context: Context, raised: Raised) -> str:
        """Log it."""
        log.error("alert", key=raised.key, severity=raised.severity, summary=raised.summary)
        return ""

    async def clear(self, tx: Transaction, context: Context, key: str) -> bool:
        """There was none."""
        return False

    async def send(self, tx: Transaction, zone: str, notice: Notice) -> str:
        """Log it."""
        log.warning("notice", to=notice.to, key=notice.key, subject=notice.subject)
        return ""

    async def accountable(self, tx: Transaction, zone: str, activity: str, at: datetime) -> Person | None:
        """Nobody."""
        return None

    async def holders(self, tx: Transaction, zone: str, role: str, at: datetime) -> Sequence[Person]:
        """Nobody."""
        return ()

    async def open(self, tx: Transaction, context: Context, task: Task) -> str:
        """Log it."""
        log.warning("task", source=task.source, title=task.title, owner=task.owner)
        return ""

    async def close(self, tx: Transaction, context: Context, source: str, outcome: str) -> bool:
        """It was on no list."""
        return False

    async def covering(self, tx: Transaction, zone: str, control: str, scope: str, at: datetime) -> str | None:
        """None does."""
        return None

    async def used(self, tx: Transaction, context: Context, waiver: str, gate: str) -> None:
        """Nothing to note."""

    async def on_call(self, tx: Transaction, zone: str, level: Level, at: datetime) -> Person | None:
        """Nobody."""
        return None

    async def newest(self, tx: Transaction, zone: str, check: str, at: datetime) -> Found | None:
        """No probe found anything."""
        return None
