"""Routes of the evidence room. Every query leaves one ``audit.read`` event, in the transaction that answers it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import PlainTextResponse

from bailiwick.evidence import codes
from bailiwick.evidence.archive.reader import ColdEvents
from bailiwick.evidence.events import Recorder, Subject
from bailiwick.evidence.ledger import HeadFiles
from bailiwick.evidence.queries_api import query_routes
from bailiwick.evidence.receipts import consistency, inclusion, receipt
from bailiwick.evidence.requests import context_of
from bailiwick.evidence.saved_queries import SavedQueries
from bailiwick.evidence.search import Search
from bailiwick.evidence.search_api import Reading, search_routes
from bailiwick.evidence.stream_api import stream_routes
from bailiwick.evidence.sweep import NEWEST_JOB
from bailiwick.evidence.tail import Tails
from bailiwick.evidence.timelines import OwnerOf, Timelines, nobody
from bailiwick.evidence.tlog_tiles import routes as tile_routes
from bailiwick.evidence.verify import verify
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import InvalidRequest
from bailiwick.kernel.http import Caller, Cursor, Limit, decode_cursor, encode_cursor, require, zone_of
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.jobs import make_due
from bailiwick.kernel.permissions import Permission

MOST_VERIFIED = 1_000_000


TreeSize = Annotated[int, Query(ge=0, lt=1 << 62)]
_RECEIPT: dict[int | str, dict[str, Any]] = {409: {"description": "No signed head covers the event yet"}}
Auditor = Annotated[Caller, Depends(require(Permission.AUDIT_READ))]


def routes(
    database: Database,
    search: Search,
    recorder: Recorder,
    head_files: HeadFiles,
    *,
    ids: Ids | None = None,
    tails: Tails | None = None,
    owner_of: OwnerOf = nobody,
    cold: ColdEvents | None = None,
) -> APIRouter:
    """The routes under ``/api/v1/audit`` and ``/evidence``.

    ``tails`` are those of the process; ``owner_of``: see :class:`Timelines`; ``cold`` is the archive, where older
    events are.
    """
    router = APIRouter(prefix="/api/v1/audit", tags=["audit"])

    async def note(tx: Transaction, request: Request, caller: Caller, what: str, query: str, returned: int) -> None:
        subject = Subject(id=what, type="audit")
        await recorder.record(
            tx,
            codes.AUDIT_READ,
            "success",
            context_of(request, caller),
            subject=subject,
            query=query,
            returned=returned,
        )

    @router.get("/events/{event_id}", summary="One event")
    async def get_event(request: Request, event_id: UUID, caller: Auditor) -> dict[str, Any]:
        async with database.begin() as tx:
            entry = await search.event(tx, zone_of(request), event_id)
            await note(tx, request, caller, f"events/{event_id}", "", 1)
        return entry.to_json()

    @router.get(
        "/events/{event_id}/receipt",
        summary="A receipt that proves one event offline (C2SP tlog-proof)",
        response_class=PlainTextResponse,
        responses=_RECEIPT,
    )
    async def get_receipt(request: Request, event_id: UUID, caller: Auditor) -> Response:
        async with database.begin() as tx:
            made = await receipt(tx, zone_of(request), event_id, cold)
            await note(tx, request, caller, f"events/{event_id}/receipt", "", 1)
        named = {"Content-Disposition": f'attachment; filename="{event_id}.tlog-proof"'}
        return Response(bytes(made), media_type="text/plain; charset=utf-8", headers=named)

    @router.get("/proofs/inclusion", summary="Prove that an event stands in the tree")
    async def prove_inclusion(
        request: Request, caller: Auditor, index: TreeSize, size: TreeSize | None = None
    ) -> dict[str, Any]:
        async with database.begin() as tx:
            of, path = await inclusion(tx, zone_of(request), index, size)
            await note(tx, request, caller, "proofs/inclusion", f"index={index} size={of}", len(path))
        return {"index": index, "size": of, "path": _encoded(path)}

    @router.get("/proofs/consistency", summary="Prove that a smaller tree is the beginning of a larger one")
    async def prove_consistency(
        request: Request, caller: Auditor, old: TreeSize, new: TreeSize | None = None
    ) -> dict[str, Any]:
        async with database.begin() as tx:
            of, path = await consistency(tx, zone_of(request), old, new)
            await note(tx, request, caller, "proofs/consistency", f"old={old} new={of}", len(path))
        return {"old": old, "new": of, "path": _encoded(path)}

    @router.get("/requests/{request_id}", summary="Everything known about one request, in order")
    async def get_request(request: Request, request_id: UUID, caller: Auditor) -> dict[str, Any]:
        async with database.begin() as tx:
            story = await search.request(tx, zone_of(request), request_id)
            await note(tx, request, caller, f"requests/{request_id}", "", len(story["timeline"]))
        return story

    @router.get("/dead-letters", summary="What could not be put into the ledger")
    async def list_dead_letters(
        request: Request, caller: Auditor, limit: Limit = 100, cursor: Cursor = None
    ) -> dict[str, Any]:
        after = _position(cursor, "dead") if cursor else None
        async with database.begin() as tx:
            letters = await search.dead_letters(tx, zone_of(request), after=after, limit=limit)
            await note(tx, request, caller, "dead-letters", "", len(letters))
        following = encode_cursor("dead", letters[-1]["id"]) if len(letters) == limit else None
        return {"dead_letters": letters, "next": following}

    @router.post("/verify", summary="Check the ledger of the zone")
    async def run_verify(
        request: Request,
        caller: Auditor,
        newest: Annotated[int, Query(ge=1, le=MOST_VERIFIED, description="How many of the newest events")] = 100_000,
    ) -> dict[str, Any]:
        """The clock's own verification, which probes and checklists go by, is made due as well."""
        report = await verify(database, zone_of(request), head_files, newest=newest, cold=cold)
        async with database.begin() as tx:
            event = await recorder.record(
                tx,
                codes.AUDIT_VERIFIED,
                "failure" if report.verdict == "FAIL" else "success",
                context_of(request, caller),
                subject=Subject(id=zone_of(request), type="ledger"),
                verdict=report.verdict,
                checked=report.checked,
                findings=report.findings_total,
            )
            await make_due(tx, NEWEST_JOB, datetime.fromisoformat(event.at))
        return report.to_json()

    reading = Reading(database, search, recorder, note)
    whole = APIRouter()
    whole.include_router(search_routes(reading, Timelines(search, owner_of)))
    # before the routes of one event: "stream" is no id
    whole.include_router(stream_routes(reading, tails or Tails(database)))
    whole.include_router(query_routes(reading, SavedQueries(database, recorder, ids or Ids())))
    whole.include_router(router)
    whole.include_router(tile_routes(database, note, cold))
    return whole


def _position(cursor: str | None, order: str) -> int | None:
    if cursor is None:
        return None
    kind, position = decode_cursor(cursor, (str, int))
    if kind != order or not 0 <= position < 1 << 62:
        raise InvalidRequest("The cursor belongs to another query.")
    return int(position)


def _encoded(path: Sequence[bytes]) -> list[str]:
    return [base64.b64encode(item).decode() for item in path]
