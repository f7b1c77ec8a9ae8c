"""Routes that search the evidence: events, facets, timelines. Each query leaves one ``audit.read`` event."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, Path, Query, Request

from bailiwick.evidence import codes
from bailiwick.evidence.asked import SearchParams, TimelineParams
from bailiwick.evidence.events import Recorder, Subject
from bailiwick.evidence.query import About, Filter, Order, Place, cursor_to_place, fingerprint, instant, place_to_cursor
from bailiwick.evidence.requests import context_of
from bailiwick.evidence.search import Entry, Facets, Search
from bailiwick.evidence.timelines import Timelines, item, request_named
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import BailiwickError, InvalidRequest
from bailiwick.kernel.http import Caller, require, zone_of
from bailiwick.kernel.permissions import Permission

Auditor = Annotated[Caller, Depends(require(Permission.AUDIT_READ))]
TOO_EXPENSIVE: dict[int | str, dict[str, Any]] = {
    409: {"description": "A part of the archive that the search needs is not what was sealed"},
    422: {"description": "The search would take too long"},
}
Kind = Annotated[str, Path(pattern=r"^[a-z][a-z0-9-]{0,39}$", description="`request`, `session`, `user`, `server` …")]
Identifier = Annotated[str, Path(min_length=1, max_length=300, pattern=r"^[^\x00]+$")]


class Note(Protocol):
    """Records that somebody read."""

    async def __call__(
        self, tx: Transaction, request: Request, caller: Caller, what: str, query: str, returned: int
    ) -> None: ...


Find = Callable[[Transaction, Filter, int | None], Awaitable[list[Entry]]]


class Reading:
    """One query of a caller, from asking to the event that tells of it."""

    def __init__(self, database: Database, search: Search, recorder: Recorder, note: Note) -> None:
        self.database = database
        self.search = search
        self.recorder = recorder
        self.note = note

    def now(self) -> datetime:
        """The moment relative ones are counted from."""
        return datetime.fromisoformat(self.recorder.now())

    @asynccontextmanager
    async def transaction(self, request: Request, caller: Caller, what: str, query: str) -> AsyncIterator[Transaction]:
        """A transaction for a search; what runs out of time is recorded all the same."""
        async with self.search.slot():
            try:
                async with self.database.begin() as tx:
                    yield tx
            except BailiwickError as error:
                if error.reason == "query_too_expensive":
                    await self._record_failure(request, caller, what, query, error.reason)
                raise

    async def page(
        self,
        request: Request,
        caller: Caller,
        what: str,
        wanted: Filter,
        *,
        asked: Sequence[tuple[str, str]],
        order: Order,
        limit: int,
        cursor: str | None,
        find: Find,
    ) -> tuple[list[Entry], str | None]:
        """A page of what ``find`` answers for ``wanted`` and the cursor of the next."""
        print_ = fingerprint(zone_of(request), order, [("what", what), *asked])
        after = None
        if cursor is not None:
            place = cursor_to_place(cursor, order, print_)
            after, wanted = place.after, replace(wanted, since=place.since, until=place.until)
        async with self.transaction(request, caller, what, wanted.described()) as tx:
            found = await find(tx, wanted, after)
            await self.note(tx, request, caller, what, wanted.described(), len(found))
        if len(found) < limit:
            return found, None
        return found, place_to_cursor(order, print_, Place(found[-1].seq, wanted.since, wanted.until))

    async def facets(self, request: Request, wanted: Filter, names: Sequence[str]) -> Facets:
        """Counts beside a page; the page's event tells of both."""
        async with self.search.slot():
            return await self.search.count(zone_of(request), wanted, names)

    async def _record_failure(self, request: Request, caller: Caller, what: str, query: str, reason: str) -> None:
        async with self.database.begin() as tx:
            await self.recorder.record(
                tx,
                codes.AUDIT_READ,
                "error",
                context_of(request, caller),
                subject=Subject(id=what, type="audit"),
                reasons=(reason,),
                query=query,
                returned=0,
            )


def asked_of(request: Request) -> list[tuple[str, str]]:
    """The parameters that make the query, as they were sent."""
    beside = {"cursor", "limit", "facets"}
    return [(name, value) for name, value in request.query_params.multi_items() if name not in beside]


def search_routes(reading: Reading, timelines: Timelines) -> APIRouter:
    """``/api/v1/audit/events`` and ``/api/v1/audit/timelines``."""
    router = APIRouter(prefix="/api/v1/audit", tags=["audit"])

    @router.get("/events", summary="Search events", responses=TOO_EXPENSIVE)
    async def list_events(
        request: Request, caller: Auditor, params: Annotated[SearchParams, Query()]
    ) -> dict[str, Any]:
        wanted = params.filter(reading.now())
        zone = zone_of(request)

        async def find(tx: Transaction, wanted: Filter, after: int | None) -> list[Entry]:
            return await timelines.page(tx, zone, wanted, order=params.order, after=after, limit=params.limit)

        found, following = await reading.page(
            request,
            caller,
            "events",
            wanted,
            asked=asked_of(request),
            order=params.order,
            limit=params.limit,
            cursor=params.cursor,
            find=find,
        )
        answer: dict[str, Any] = {"events": [entry.to_json() for entry in found], "next": following}
        if params.facets:
            names = [name for name in params.facets.split(",") if name]
            answer["facets"] = (await reading.facets(request, wanted, list(dict.fromkeys(names)))).to_json()
        return answer

    @router.get(
        "/timelines/{kind}/{identifier:path}",
        summary="All that happened in a request or session, or to and by somebody or something",
        responses=TOO_EXPENSIVE,
    )
    async def timeline(
        request: Request,
        kind: Kind,
        identifier: Identifier,
        caller: Auditor,
        params: Annotated[TimelineParams, Query()],
    ) -> dict[str, Any]:
        now, zone, what = reading.now(), zone_of(request), f"timelines/{kind}/{identifier}"
        since = instant(params.since, now) if params.since else None
        until = instant(params.until, now) if params.until else None
        if kind == "request":
            return await _request(request, caller, identifier, what)
        wanted = Filter(about=About(kind, identifier), since=since, until=until)

        async def find(tx: Transaction, wanted: Filter, after: int | None) -> list[Entry]:
            return await timelines.page(tx, zone, wanted, order=params.order, after=after, limit=params.limit)

        found, following = await reading.page(
            request,
            caller,
            what,
            wanted,
            asked=asked_of(request),
            order=params.order,
            limit=params.limit,
            cursor=params.cursor,
            find=find,
        )
        return {"kind": kind, "id": identifier, "timeline": [item(entry) for entry in found], "next": following}

    async def _request(request: Request, caller: Caller, identifier: str, what: str) -> dict[str, Any]:
        if set(request.query_params.keys()) - {"limit", "order"}:
            raise InvalidRequest("The timeline of a request is told whole.")
        wanted = request_named(identifier)
        async with reading.transaction(request, caller, what, "") as tx:
            story = await reading.search.request(tx, zone_of(request), wanted)
            await reading.note(tx, request, caller, what, "", len(story["timeline"]))
        return {"kind": "request", "id": identifier, "timeline": story["timeline"], "next": None}

    return router
