"""Timelines: all that happened in a request, a session, a delegation, or to and by anybody or anything."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from bailiwick.evidence.query import About, Filter, Order
from bailiwick.evidence.search import Entry, Search
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.errors import NotFound

OwnerOf = Callable[[Transaction, str, str], Awaitable[str | None]]
# clocks of two machines differ by less, and ids tell when they were made
_BEFORE = timedelta(hours=1)
_NAMED_BY_TIME = frozenset({"session", "delegation", "mandate"})


class Timelines:
    """Tells what happened, in the order of the ledger.

    ``owner_of(tx, zone, session)`` answers whose session it is, None when it is not known any more.
    """

    def __init__(self, search: Search, owner_of: OwnerOf) -> None:
        self._search = search
        self._owner_of = owner_of

    async def filter(
        self, tx: Transaction, zone: str, kind: str, identifier: str, since: datetime | None, until: datetime | None
    ) -> Filter:
        """What a timeline looks for, as narrow as the id allows."""
        owner = ""
        if kind == "session":
            owner = await self._owner_of(tx, zone, identifier) or ""
        if kind in _NAMED_BY_TIME and (made := made_at(identifier)) is not None:
            earliest = made - _BEFORE
            since = max(since, earliest) if since is not None else earliest
        return Filter(about=About(kind, identifier, owner), since=since, until=until)

    async def page(
        self, tx: Transaction, zone: str, wanted: Filter, *, order: Order, after: int | None, limit: int
    ) -> list[Entry]:
        """A page of a timeline; raises ``query_too_expensive``."""
        return await self._search.events(tx, zone, wanted, order=order, after=after, limit=limit)


async def nobody(tx: Transaction, zone: str, session: str) -> str | None:
    """An ``owner_of`` that knows no sessions."""
    return None


def item(entry: Entry) -> dict[str, Any]:
    """An entry as a timeline shows it."""
    shown = entry.to_json()
    return {"at": (shown["event"] or {}).get("at") or shown["recorded_at"], "kind": "event", **shown}


def made_at(identifier: str) -> datetime | None:
    """When a UUIDv7 (RFC 9562) was made, None for anything else."""
    try:
        value = UUID(identifier)
    except ValueError:
        return None
    if value.version != 7:
        return None
    try:
        return datetime.fromtimestamp((value.int >> 80) / 1000, UTC)
    except (ValueError, OverflowError):
        return None


def request_named(identifier: str) -> UUID:
    """The id of a request; raises :class:`NotFound` for what is none."""
    try:
        return UUID(identifier)
    except ValueError:
        raise NotFound("Nothing is known about a request by that id.") from None
