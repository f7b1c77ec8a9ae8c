"""Timelines: all that happened in a request, a session, a delegation, or to and by anybody or anything."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from bailiwick.evidence.query import Filter, Order
from bailiwick.evidence.search import Entry, Search
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.errors import NotFound

OwnerOf = Callable[[Transaction, str, str], Awaitable[str | None]]
# clocks of two machines differ by less, and ids tell when they were made
_BEFORE = timedelta(hours=1)
_MANDATE_LIVES = timedelta(hours=1)  # a quarter of one at most, and again for the clocks


class Timelines:
    """Tells what happened, in the order of the ledger.

    ``owner_of(tx, zone, session)`` answers whose session it is, None when it is not known any more.
    """

    def __init__(self, search: Search, owner_of: OwnerOf) -> None:
        self._search = search
        self._owner_of = owner_of

    async def narrowed(self, tx: Transaction, zone: str, wanted: Filter) -> Filter:
        """A filter that finds the same and reads less: sessions have an owner, and ids tell when they were made."""
        about = wanted.about
        named = {kind: getattr(wanted, kind) for kind in ("session", "delegation", "mandate")}
        if about is not None and about.kind in named and not named[about.kind]:
            named[about.kind] = about.id
        if named["session"] and (owner := await self._owner_of(tx, zone, named["session"])):
            if about is not None and about.kind == "session":
                wanted = replace(wanted, about=replace(about, owner=owner))
            elif not wanted.user:
                wanted = replace(wanted, user=owner)
        for kind, identifier in named.items():
            made = made_at(identifier) if identifier else None
            if made is None:
                continue
            if wanted.since is None or wanted.since < made - _BEFORE:
                wanted = replace(wanted, since=made - _BEFORE)
            # a mandate may be revoked long after; nothing is done under it by then
            over = made + _BEFORE + _MANDATE_LIVES
            if kind == "mandate" and wanted.mandate and (wanted.until is None or wanted.until > over):
                wanted = replace(wanted, until=over)
        return wanted

    async def page(
        self, tx: Transaction, zone: str, wanted: Filter, *, order: Order, after: int | None, limit: int
    ) -> list[Entry]:
        """A page of what is wanted; raises ``query_too_expensive``."""
        narrow = await self.narrowed(tx, zone, wanted)
        return await self._search.events(tx, zone, narrow, order=order, after=after, limit=limit)


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
