"""Routes of saved queries."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from bailiwick.evidence.asked import FilterParams, PageParams, SavedParams
from bailiwick.evidence.query import Filter
from bailiwick.evidence.requests import context_of
from bailiwick.evidence.saved_queries import SavedQueries
from bailiwick.evidence.search import Entry
from bailiwick.evidence.search_api import TOO_EXPENSIVE, Auditor, Reading
from bailiwick.kernel.answers import page
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.fields import IdPath, after_id
from bailiwick.kernel.http import Cursor, Limit, zone_of

_MAY_BE_ANOTHERS: dict[int | str, dict[str, Any]] = {403: {"description": "Somebody else's"}}


def query_routes(reading: Reading, saved: SavedQueries) -> APIRouter:
    """``/api/v1/audit/queries``."""
    router = APIRouter(prefix="/api/v1/audit/queries", tags=["audit"])

    @router.post("", status_code=201, summary="Keep a query by a name")
    async def save(request: Request, caller: Auditor, body: SavedParams) -> dict[str, Any]:
        body.query.filter(reading.now())  # what cannot be run is not kept
        made = await saved.save(
            context_of(request, caller), caller.name, body.name, body.query.given(), shared=body.shared
        )
        return made.document()

    @router.get("", summary="Your queries and those that are shared")
    async def list_queries(
        request: Request, caller: Auditor, limit: Limit = 100, cursor: Cursor = None
    ) -> dict[str, Any]:
        found, following = await saved.list(zone_of(request), caller.name, after_id(cursor), limit)
        return page([each.document() for each in found], following)

    @router.get("/{query_id}", summary="One query")
    async def show(request: Request, query_id: IdPath, caller: Auditor) -> dict[str, Any]:
        return (await saved.find(zone_of(request), caller.name, query_id)).document()

    @router.get("/{query_id}/events", summary="Run a query", responses=TOO_EXPENSIVE)
    async def run(
        request: Request, query_id: IdPath, caller: Auditor, params: Annotated[PageParams, Query()]
    ) -> dict[str, Any]:
        zone = zone_of(request)
        kept = await saved.find(zone, caller.name, query_id)

        async def find(tx: Transaction, wanted: Filter, after: int | None) -> list[Entry]:
            return await reading.search.events(tx, zone, wanted, order="newest", after=after, limit=params.limit)

        found, following = await reading.page(
            request,
            caller,
            f"queries/{kept.id}",
            FilterParams(**kept.query).filter(reading.now()),
            asked=[],
            order="newest",
            limit=params.limit,
            cursor=params.cursor,
            find=find,
        )
        return {"query": kept.document(), "events": [entry.to_json() for entry in found], "next": following}

    @router.delete("/{query_id}", status_code=204, summary="Remove a query", responses=_MAY_BE_ANOTHERS)
    async def delete(request: Request, query_id: IdPath, caller: Auditor) -> Response:
        await saved.delete(context_of(request, caller), caller.name, query_id)
        return Response(status_code=204)

    return router
