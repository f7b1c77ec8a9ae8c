"""Routes of evidence records: probes and attestations are recorded, read and listed."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints, model_validator

from bailiwick.evidence import codes
from bailiwick.evidence.events import Recorder, Subject
from bailiwick.evidence.evidence_records import (
    INPUT_PATTERN,
    MOST_OUTPUT,
    SUBJECT_PATTERN,
    EvidenceRecords,
    Producer,
    Stored,
)
from bailiwick.evidence.requests import context_of
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import InvalidRequest
from bailiwick.kernel.fields import Body, Line
from bailiwick.kernel.http import Caller, Cursor, Limit, decode_cursor, encode_cursor, require, zone_of
from bailiwick.kernel.permissions import Permission


def _in_range(value: datetime) -> datetime:
    if not 1970 <= value.year <= 9000:
        raise ValueError("is out of range")
    return value


def _plain(value: str) -> str:
    if "\x00" in value:
        raise ValueError("must not contain NUL")
    return value


Instant = Annotated[AwareDatetime, AfterValidator(_in_range), Field(examples=["2026-01-05T09:00:00Z"])]
Check = Annotated[
    str, StringConstraints(pattern=SUBJECT_PATTERN, max_length=128), Field(examples=["backup.restore-drill"])
]
InputName = Annotated[str, StringConstraints(pattern=INPUT_PATTERN, max_length=64)]
InputValue = (
    bool
    | Annotated[int, Field(ge=-(2**53) + 1, le=2**53 - 1)]
    | Annotated[str, StringConstraints(max_length=2000), AfterValidator(_plain)]
)
Word = Annotated[str, StringConstraints(max_length=4096), AfterValidator(_plain)]
Text = Annotated[str, StringConstraints(max_length=MOST_OUTPUT), AfterValidator(_plain), Field(examples=["ok"])]
RecordId = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", max_length=64)]


class NewRecord(Body):
    """What was run, or what is stated. A probe has ``exit``; an attestation has none."""

    kind: Literal["probe", "attestation"]
    check: Check
    output: Text
    since: Instant
    until: Instant
    exit: Annotated[int, Field(ge=-255, le=255)] | None = None
    command: Annotated[list[Word], Field(max_length=256)] = Field(default_factory=list)
    inputs: Annotated[dict[InputName, InputValue], Field(max_length=64)] = Field(default_factory=dict)
    program: Line = "api"
    program_version: Line = ""
    host: Line = ""
    expires_at: Instant | None = None

    @model_validator(mode="after")
    def _whole(self) -> NewRecord:
        if (self.kind == "probe") != (self.exit is not None):
            raise ValueError("a probe has an exit code, an attestation has none")
        if self.kind == "attestation" and self.command:
            raise ValueError("an attestation runs no command")
        return self


Reader = Annotated[Caller, Depends(require(Permission.EVIDENCE_READ))]
Writer = Annotated[Caller, Depends(require(Permission.EVIDENCE_RECORD))]


def routes(database: Database, records: EvidenceRecords, recorder: Recorder, clock: Clock) -> APIRouter:
    """The routes under ``/api/v1/evidence/records``."""
    router = APIRouter(prefix="/api/v1/evidence/records", tags=["evidence"])

    async def note(tx: Transaction, request: Request, caller: Caller, what: str, returned: int) -> None:
        await recorder.record(
            tx,
            codes.AUDIT_READ,
            "success",
            context_of(request, caller),
            subject=Subject(id=what, type="evidence"),
            query="",
            returned=returned,
        )

    @router.post("", status_code=201, summary="Record what a probe found or a person states")
    async def record(request: Request, body: NewRecord, caller: Writer) -> dict[str, Any]:
        """The same content twice is one record. Secrets are taken out of what is kept; the record says how many."""
        producer = Producer(host=body.host, name=caller.name, program=body.program, version=body.program_version)
        async with database.begin() as tx:
            made = await _record(tx, records, request, body, caller, producer)
        return made.to_json(clock.now())

    @router.get("", summary="List records, newest first")
    async def list_records(
        request: Request,
        caller: Reader,
        check: Annotated[str, Query(max_length=128, pattern=r"^[a-z0-9._/-]*$")] = "",
        kind: Literal["", "probe", "attestation"] = "",
        limit: Limit = 100,
        cursor: Cursor = None,
    ) -> dict[str, Any]:
        after = _after(cursor)
        async with database.begin() as tx:
            found = await records.list(tx, zone_of(request), check=check, kind=kind, after=after, limit=limit)
            await note(tx, request, caller, "records", len(found))
        following = encode_cursor("records", found[-1].number) if len(found) == limit else None
        return {"records": [each.to_json(clock.now()) for each in found], "next": following}

    @router.get("/{record_id}", summary="One record")
    async def get_record(request: Request, record_id: RecordId, caller: Reader) -> dict[str, Any]:
        async with database.begin() as tx:
            found = await records.get(tx, zone_of(request), record_id)
            await note(tx, request, caller, f"records/{record_id}", 1)
        return found.to_json(clock.now())

    @router.get("/{record_id}/output", summary="What is kept of its output", response_class=PlainTextResponse)
    async def get_output(request: Request, record_id: RecordId, caller: Reader) -> Response:
        async with database.begin() as tx:
            data = await records.output(tx, await records.get(tx, zone_of(request), record_id))
            await note(tx, request, caller, f"records/{record_id}/output", 1)
        return Response(data, media_type="text/plain; charset=utf-8")

    return router


async def _record(
    tx: Transaction, records: EvidenceRecords, request: Request, body: NewRecord, caller: Caller, producer: Producer
) -> Stored:
    context = context_of(request, caller)
    if body.exit is None:
        return await records.attest(
            tx,
            context,
            body.check,
            body.output,
            producer=producer,
            since=body.since,
            until=body.until,
            inputs=body.inputs,
            expires_at=body.expires_at,
        )
    return await records.probe(
        tx,
        context,
        body.check,
        body.output.encode("utf-8", "replace"),
        exit_code=body.exit,
        since=body.since,
        until=body.until,
        producer=producer,
        command=body.command,
        inputs=body.inputs,
        expires_at=body.expires_at,
    )


def _after(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    kind, position = decode_cursor(cursor, (str, int))
    if kind != "records" or not 0 <= position < 1 << 62:
        raise InvalidRequest("The cursor belongs to another query.")
    return int(position)
