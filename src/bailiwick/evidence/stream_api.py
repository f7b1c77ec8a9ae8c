"""Routes that send the evidence as it comes: exports of a search, and the live tail (Server-Sent Events)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from bailiwick import __version__
from bailiwick.evidence import codes, search_export
from bailiwick.evidence.asked import ExportParams, TailParams
from bailiwick.evidence.events import Subject
from bailiwick.evidence.query import Filter, matcher
from bailiwick.evidence.requests import context_of
from bailiwick.evidence.search import Entry
from bailiwick.evidence.search_api import TOO_EXPENSIVE, Auditor, Reading
from bailiwick.evidence.tail import EventStream, Tails
from bailiwick.kernel.errors import Denied, InvalidRequest, NotFound, Unavailable
from bailiwick.kernel.fields import IdPath
from bailiwick.kernel.http import Caller, zone_of
from bailiwick.kernel.permissions import Permission

_EXPORTS = 2
_PAGE = 200
_FILES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file",
        "content": {media.partition(";")[0]: {} for media in search_export.MEDIA_TYPES.values()},
    }
}
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-Sent Events: `event` with an event as in a search and its number as `id`;"
        " a comment at least every 15 s; at last `end` with the `reason`",
        "content": {"text/event-stream": {}},
    }
}


class _Export(StreamingResponse):
    """An answer whose pieces are being made; ``over`` is called when it has ended, however it did."""

    def __init__(self, pieces: AsyncGenerator[bytes, None], over: Callable[[], None], **more: Any) -> None:
        super().__init__(pieces, **more)
        self._pieces = pieces
        self._over = over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._over()
            await self._pieces.aclose()


def _manifest_path(request_id: str) -> str:
    return f"/api/v1/audit/exports/{request_id}/manifest"


async def _keep(reading: Reading, zone: str, request_id: str, manifest: dict[str, Any]) -> None:
    async with reading.database.begin() as tx:
        await tx.run(
            "INSERT INTO audit_exports (zone, request_id, manifest, at)"
            " VALUES (:zone, :id, cast(:manifest AS jsonb), :now)",
            zone=zone,
            id=request_id,
            manifest=json.dumps(manifest),
            now=reading.now(),
        )


def stream_routes(reading: Reading, tails: Tails) -> APIRouter:
    """``/api/v1/audit/export`` and ``/api/v1/audit/events/stream``."""
    router = APIRouter(prefix="/api/v1/audit", tags=["audit"])
    exports = asyncio.Semaphore(_EXPORTS)

    @router.get(
        "/export",
        summary="Export what a search finds as JSON lines, CSV or Parquet",
        response_class=Response,
        responses=_FILES | TOO_EXPENSIVE,
    )
    async def export(request: Request, caller: Auditor, params: Annotated[ExportParams, Query()]) -> Response:
        zone, wanted = zone_of(request), params.filter(reading.now())
        if exports.locked():
            raise Unavailable("As many exports run as may.", reason="search_busy", headers={"Retry-After": "30"})
        await exports.acquire()
        try:
            pieces, reach = await begin(request, caller, zone, wanted, params)
        except BaseException:
            exports.release()
            raise
        request.state.long_lived = True
        return _Export(
            pieces,
            exports.release,
            media_type=search_export.MEDIA_TYPES[params.format],
            headers={
                "Content-Disposition": f'attachment; filename="events.{params.format}"',
                "Cache-Control": "no-store",
                "X-Ledger-Size": str(reach.size),
                "Link": f'<{_manifest_path(request.state.request_id)}>; rel="describedby"',
            },
        )

    @router.get(
        "/exports/{request_id}/manifest",
        summary="What an export was: its query, counts and digest, and the signed head by which it can be checked",
    )
    async def manifest(request: Request, request_id: IdPath, caller: Auditor) -> dict[str, Any]:
        async with reading.database.begin() as tx:
            found = await tx.value(
                "SELECT manifest FROM audit_exports WHERE zone = :zone AND request_id = :id",
                zone=zone_of(request),
                id=request_id,
            )
            if found is None:
                raise NotFound("No export of that request was read to its end in the last 30 days.")
            await reading.note(tx, request, caller, "exports/manifest", request_id, 1)
        return dict(found)

    async def begin(
        request: Request, caller: Caller, zone: str, wanted: Filter, params: ExportParams
    ) -> tuple[AsyncGenerator[bytes, None], search_export.Extent]:
        """The file in pieces, the first of which is there: a search that fails at once is refused, not cut off."""
        async with reading.database.begin() as tx:
            reach = await search_export.extent(tx, zone)
            await reading.recorder.record(
                tx,
                codes.AUDIT_EXPORTED,
                "success",
                context_of(request, caller),
                subject=Subject(id="events", type="audit"),
                query=wanted.described(),
                format=params.format,
                reach=reach.size,
            )
        found = search_export.entries(reading.database, reading.search, zone, wanted, params.order, reach)
        tally = search_export.Tally()
        pieces = search_export.written(found, params.format, tally)
        first = await anext(pieces, b"")

        async def whole() -> AsyncGenerator[bytes, None]:
            # a piece is given out when the next one is there: the last one only when the manifest is
            given = first
            async for piece in pieces:
                yield given
                given = piece
            told = search_export.manifest(
                zone, wanted, params.order, params.format, reach, tally, reading.now(), f"bailiwick {__version__}"
            )
            await _keep(reading, zone, request.state.request_id, told)
            yield given

        return whole(), reach

    @router.get("/events/stream", summary="Follow the ledger live", response_class=Response, responses=_STREAM)
    async def stream(
        request: Request,
        caller: Auditor,
        params: Annotated[TailParams, Query()],
        last_event_id: Annotated[str, Header(max_length=20, pattern=r"^[0-9]{0,18}$")] = "",
    ) -> Response:
        zone, wanted = zone_of(request), params.filter(reading.now())
        after = int(last_event_id) if last_event_id else None
        if after is not None and after > await tails.newest(zone):
            raise InvalidRequest("Last-Event-ID is of no event of this zone.")
        async with reading.database.begin() as tx:
            await reading.note(tx, request, caller, "events/stream", wanted.described(), 0)

        async def before(seen: int) -> Sequence[Entry]:
            async with reading.search.slot(), reading.database.begin() as tx:
                return await reading.search.events(tx, zone, wanted, order="oldest", after=seen, limit=_PAGE)

        async def still() -> None:
            now = await request.app.state.authenticate(request)
            if not now.may(Permission.AUDIT_READ):
                raise Denied(permission=str(Permission.AUDIT_READ))

        request.state.long_lived = True
        return EventStream(tails, zone, matcher(wanted), still, after=after, before=before, seconds=params.seconds)

    return router
