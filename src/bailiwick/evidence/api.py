"""Routes of the evidence room. Every query leaves one ``audit.read`` event, in the transaction that answers it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import AfterValidator, AwareDatetime
from sqlalchemy.exc import DBAPIError

from bailiwick.evidence import codes
from bailiwick.evidence.archive.reader import ColdEvents
from bailiwick.evidence.events import Recorder, Subject
from bailiwick.evidence.ledger import HeadFiles
from bailiwick.evidence.receipts import consistency, inclusion, receipt
from bailiwick.evidence.requests import context_of
from bailiwick.evidence.search import Filter, Search
from bailiwick.evidence.tlog_tiles import routes as tile_routes
from bailiwick.evidence.verify import verify
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import InvalidRequest
from bailiwick.kernel.http import Caller, Cursor, Limit, decode_cursor, encode_cursor, require, zone_of
from bailiwick.kernel.permissions import Permission

MOST_VERIFIED = 1_000_000


def _plain(value: str) -> str:
    if "\x00" in value:
        raise ValueError("must not contain NUL")
    return value


def _in_range(value: datetime | None) -> datetime | None:
    if value is not None and not 1970 <= value.year <= 9000:
        raise ValueError("is out of range")
    return value


Word = Annotated[str, Query(max_length=200), AfterValidator(_plain)]
Moment = Annotated[AwareDatetime | None, Query(), AfterValidator(_in_range)]
TreeSize = Annotated[int, Query(ge=0, lt=1 << 62)]
_RECEIPT: dict[int | str, dict[str, Any]] = {409: {"description": "No signed head covers the event yet"}}
Auditor = Annotated[Caller, Depends(require(Permission.AUDIT_READ))]


def routes(
    database: Database, search: Search, recorder: Recorder, head_files: HeadFiles, cold: ColdEvents | None = None
) -> APIRouter:
    """The routes under ``/api/v1/audit`` and ``/evidence``. ``cold`` is the archive, where older events are."""
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

    @router.get("/events", summary="Search events")
    async def list_events(
        request: Request,
        caller: Auditor,
        code: Word = "",
        name: Annotated[Word, Query(description="Name of the event; may end in `*`")] = "",
        outcome: Literal["", "success", "failure", "allow", "deny", "error"] = "",
        principal: Word = "",
        server: Word = "",
        request_id: UUID | None = None,
        decision_id: UUID | None = None,
        since: Moment = None,
        until: Moment = None,
        text: Annotated[Word, Query(description="Anywhere in the event, whatever its case")] = "",
        order: Literal["newest", "oldest"] = "newest",
        limit: Limit = 100,
        cursor: Cursor = None,
    ) -> dict[str, Any]:
        wanted = Filter(code, name, outcome, principal, server, request_id, decision_id, since, until, text)
        after = _position(cursor, order)
        try:
            async with database.begin() as tx:
                found = await search.events(tx, zone_of(request), wanted, order=order, after=after, limit=limit)
                await note(tx, request, caller, "events", wanted.described(), len(found))
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) == "57014":  # query_canceled
                raise InvalidRequest("The search takes too long: narrow it, for example by time.") from error
            raise
        following = encode_cursor(order, found[-1].seq) if len(found) == limit else None
        return {"events": [entry.to_json() for entry in found], "next": following}

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
        report = await verify(database, zone_of(request), head_files, newest=newest, cold=cold)
        async with database.begin() as tx:
            await recorder.record(
                tx,
                codes.AUDIT_VERIFIED,
                "failure" if report.verdict == "FAIL" else "success",
                context_of(request, caller),
                subject=Subject(id=zone_of(request), type="ledger"),
                verdict=report.verdict,
                checked=report.checked,
                findings=report.findings_total,
            )
        return report.to_json()

    whole = APIRouter()
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
