"""The routes of the policy room. ``POST /api/v1/authz/evaluate`` is not here but in ``evaluate.py``."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any, Protocol
from uuid import UUID

import msgspec
from fastapi import APIRouter, Depends, File, Form, Path, Request, Response, UploadFile
from pydantic import Field

from bailiwick.evidence import codes
from bailiwick.evidence.events import Event, Recorder, Subject
from bailiwick.evidence.requests import context_of
from bailiwick.kernel.agreement import WAITS
from bailiwick.kernel.db import Database
from bailiwick.kernel.errors import BailiwickError, InvalidRequest, NotFound
from bailiwick.kernel.fields import Body, Name, NamePath, Text, after_name
from bailiwick.kernel.http import Caller, Cursor, Limit, decode_cursor, encode_cursor, require, zone_of
from bailiwick.kernel.permissions import Permission
from bailiwick.kernel.quorum import Approval
from bailiwick.policy import sets
from bailiwick.policy.comparison import MAX_PAIRS
from bailiwick.policy.known_good import KnownGood
from bailiwick.policy.policies import MAX_FILE_BYTES, Change, Policies, Upload
from bailiwick.policy.sets import Activation, PolicyListing, PolicyVersion

Reader = Annotated[Caller, Depends(require(Permission.POLICIES_READ))]
Rollbacker = Annotated[Caller, Depends(require(Permission.POLICIES_ROLLBACK))]
Writer = Annotated[Caller, Depends(require(Permission.POLICIES_WRITE))]
Tester = Annotated[Caller, Depends(require(Permission.POLICIES_TEST))]
Operator = Annotated[Caller, Depends(require(Permission.OPERATE))]
Anybody = Annotated[Caller, Depends(require(Permission.SELF))]

MAX_VERSION = 2**31 - 1
MAX_DATA_DEPTH = 40
MAX_PAIRS_LISTED = 20
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,119}")

VersionPath = Annotated[int, Path(ge=1, le=MAX_VERSION)]
SetPath = Annotated[str, Path(pattern=r"^(sha256:)?[0-9a-f]{64}$", max_length=71)]
_KNOWN: dict[int | str, dict[str, Any]] = {200: {"description": "The version these bytes have already"}}
_REFUSED: dict[int | str, dict[str, Any]] = {
    422: {"description": "Not admitted: `findings` is a list of `{file, line, reason, message}`"}
}
_CHANGING = {**WAITS, **_REFUSED}


class ActivateBody(Body):
    """Which version to activate; the newest unless named."""

    version: int | None = Field(None, ge=1, le=MAX_VERSION)


class TryBody(Body):
    """An input to try a policy on."""

    policy_name: Name
    input: dict[str, Any]
    version: int | None = Field(None, ge=1, le=MAX_VERSION)


class LedgerEntry(Protocol):
    """An event in the ledger."""

    @property
    def event(self) -> Event: ...


class FoundDecision(Protocol):
    """A decision in the ledger: its event, and its input as far as it is kept and may be read."""

    @property
    def entry(self) -> LedgerEntry: ...
    @property
    def input(self) -> bytes | None: ...


FindDecision = Callable[[str, UUID], Awaitable[FoundDecision | None]]


def routes(
    policies: Policies, known_good: KnownGood, database: Database, recorder: Recorder, find_decision: FindDecision
) -> APIRouter:
    """The routes over the services; ``find_decision(zone, id)`` looks into the ledger."""
    router = APIRouter(prefix="/api/v1", tags=["policies"])
    _change_routes(router, policies, known_good)
    _read_routes(router, database)
    _decision_routes(router, database, recorder, find_decision)
    return router


def _change_routes(router: APIRouter, policies: Policies, known_good: KnownGood) -> None:
    @router.post("/policies", status_code=201, summary="Upload a policy", responses={**_KNOWN, **WAITS, **_REFUSED})
    async def upload(
        request: Request,
        response: Response,
        caller: Writer,
        file: Annotated[UploadFile, File(description="Rego, v0 or v1, UTF-8, at most 256 KiB")],
        name: Annotated[Name, Form()],
        description: Annotated[Text, Form()] = "",
        activate: Annotated[bool, Form(description="Activate it even if policies are active already")] = False,
        data: Annotated[UploadFile | None, File(description="A JSON object that the set sees as `data`")] = None,
    ) -> dict[str, Any]:
        """The same bytes again answer 200 and the version they have already.

        Admitted in any case; 202 where `activate` was asked for and waits for somebody else. What was active never
        changes by one person: not even an administrator activates another set alone, once there was one.
        """
        upload = Upload(
            name=name,
            file=_file_name(file.filename),
            source=await _read(file),
            description=description,
            data=_json_object(await _read(data)) if data is not None else None,
        )
        done = await policies.upload(context_of(request, caller), upload, activate=activate)
        if not done.created:
            response.status_code = 200
        if done.waits is not None:
            response.status_code = 202
        answer = {**_version(done.version), "active": done.active, "findings": []}
        if done.change is not None:
            answer["activation"] = _changed(done.change)
        if done.waits is not None:
            answer["approval"] = done.waits.document()
        return answer

    @router.post("/policies/test", summary="Try one policy, by itself, on an input")
    async def test(request: Request, caller: Tester, body: TryBody) -> dict[str, Any]:
        """Its newest admitted version, active or not."""
        decided = await policies.test(context_of(request, caller), body.policy_name, body.input, body.version)
        answer: dict[str, Any] = {"allowed": decided.allowed, "reasons": decided.reasons}
        if decided.fault is not None:
            answer["fault"] = decided.fault
        return answer

    @router.post("/policies/rollback", summary="Return to the last-known-good policy set", responses=_CHANGING)
    async def rollback(request: Request, response: Response, caller: Rollbacker) -> dict[str, Any]:
        """One person's to do. While no set is known good it leads to the one before, which takes two."""
        narrow = not caller.may(Permission.POLICIES_WRITE)
        return _told(response, await policies.rollback(context_of(request, caller), known_good_only=narrow))

    @router.post("/policies/cache/flush", summary="Forget remembered decisions on every worker")
    async def flush(request: Request, caller: Operator) -> dict[str, Any]:
        return {"revision": await policies.flush(context_of(request, caller))}

    @router.post("/policies/sets/{set_hash}/known-good", summary="Mark a policy set as known good", responses=WAITS)
    async def mark(request: Request, response: Response, caller: Writer, set_hash: SetPath) -> dict[str, Any]:
        """Takes two persons: one alone may return to what is known good."""
        wanted = set_hash if set_hash.startswith("sha256:") else f"sha256:{set_hash}"
        marked = await known_good.mark(context_of(request, caller), wanted)
        return _waits(response, marked) if isinstance(marked, Approval) else _activation(marked)

    @router.post("/policies/{name}/activate", summary="Put a version into the active set", responses=_CHANGING)
    async def activate(
        request: Request, response: Response, caller: Writer, name: NamePath, body: ActivateBody | None = None
    ) -> dict[str, Any]:
        """Takes two persons, once there was an active set. The approval shows what would newly be allowed."""
        wanted = body.version if body is not None else None
        return _told(response, await policies.activate(context_of(request, caller), name, wanted))

    @router.post("/policies/{name}/deactivate", summary="Take a policy out of the active set", responses=_CHANGING)
    async def deactivate(request: Request, response: Response, caller: Writer, name: NamePath) -> dict[str, Any]:
        """Takes two persons: what is taken out may be what denies."""
        return _told(response, await policies.deactivate(context_of(request, caller), name))


def _read_routes(router: APIRouter, database: Database) -> None:
    @router.get("/policies", summary="List policies and what is active")
    async def list_policies(
        request: Request, caller: Reader, cursor: Cursor = None, limit: Limit = 100
    ) -> dict[str, Any]:
        zone = zone_of(request)
        async with database.begin() as tx:
            found = await sets.read_list(tx, zone, after_name(cursor), limit)
            active = await sets.read_active(tx, zone)
        return {
            "items": [_listing(each, active) for each in found],
            "active_set": active.hash if active and active.members else None,
            "next": encode_cursor(found[-1].name) if len(found) == limit else None,
        }

    @router.get("/policies/history", summary="What was active when, newest first")
    async def history(request: Request, caller: Reader, cursor: Cursor = None, limit: Limit = 50) -> dict[str, Any]:
        async with database.begin() as tx:
            found = await sets.read_history(tx, zone_of(request), _number(cursor), limit)
        following = encode_cursor(found[-1].id) if len(found) == limit else None
        return {"items": [_activation(each, MAX_PAIRS_LISTED) for each in found], "next": following}

    @router.get("/policies/history/{activation_id}", summary="One activation, with all it newly allowed")
    async def activation(
        request: Request, caller: Reader, activation_id: Annotated[int, Path(ge=1, le=MAX_VERSION)]
    ) -> dict[str, Any]:
        async with database.begin() as tx:
            found = await sets.read_history(tx, zone_of(request), activation_id + 1, 1)
        if not found or found[0].id != activation_id:
            raise NotFound("There is no activation by that id.")
        return _activation(found[0])

    @router.get("/policies/{name}", summary="Versions of a policy, newest first")
    async def versions(
        request: Request, caller: Reader, name: NamePath, cursor: Cursor = None, limit: Limit = 50
    ) -> dict[str, Any]:
        zone = zone_of(request)
        async with database.begin() as tx:
            found = await sets.read_versions(tx, zone, name, _number(cursor), limit)
            active = await sets.read_active(tx, zone)
        if not found and cursor is None:
            raise NotFound(f"There is no policy {name}.")
        member = active.member(name) if active else None
        return {
            "name": name,
            "active_version": member.version if member else None,
            "versions": [{**_version(each), "active": each.member == member} for each in found],
            "next": encode_cursor(found[-1].version) if len(found) == limit else None,
        }

    @router.get("/policies/{name}/versions/{version}", summary="One version with its source")
    async def version(request: Request, caller: Reader, name: NamePath, version: VersionPath) -> dict[str, Any]:
        zone = zone_of(request)
        async with database.begin() as tx:
            found = await sets.read_version(tx, zone, name, version)
            active = await sets.read_active(tx, zone)
        if found is None:
            raise NotFound(f"There is no version {version} of the policy {name}.")
        is_active = active is not None and active.member(name) == found.member
        return {**_version(found), "active": is_active, "source": found.source, "data": found.data}


def _decision_routes(router: APIRouter, database: Database, recorder: Recorder, find_decision: FindDecision) -> None:
    @router.get("/decisions/{decision_id}", summary="One decision, with the input it was made from")
    async def decision(request: Request, caller: Anybody, decision_id: UUID) -> dict[str, Any]:
        """Everybody may see what he asked for himself. An input no longer kept is null with `input_status` NO_DATA."""
        found = await find_decision(zone_of(request), decision_id)
        if found is None:
            raise NotFound("There is no decision by that id.")
        event = found.entry.event
        if not _own(event, caller.name) and not caller.may(Permission.DECISIONS_READ):
            raise NotFound("There is no decision by that id.")
        async with database.begin() as tx:
            await recorder.record(
                tx,
                codes.AUDIT_READ,
                "success",
                context_of(request, caller),
                subject=Subject(id=f"decisions/{decision_id}", type="audit"),
                query="",
                returned=1,
            )
        return _decision(event, found.input)


# --- reading ------------------------------------------------------------------------------------------------------


async def _read(upload: UploadFile) -> bytes:
    content = await upload.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise BailiwickError(f"A file is at most {MAX_FILE_BYTES} bytes.", reason="payload_too_large")
    return content


def _file_name(name: str | None) -> str:
    """The name findings call the file by. It is never used as a path, and may not look like one."""
    if name is None or not _FILE_NAME.fullmatch(name) or ".." in name:
        raise InvalidRequest("The file's name must be a plain one, such as authorization.rego.")
    return name


def _json_object(content: bytes) -> dict[str, Any]:
    try:
        data = msgspec.json.decode(content)
    except (ValueError, RecursionError):
        raise InvalidRequest("The data is not JSON.") from None
    if not isinstance(data, dict):
        raise InvalidRequest("The data is not a JSON object.")
    if _depth(data) > MAX_DATA_DEPTH:
        raise InvalidRequest(f"The data nests deeper than {MAX_DATA_DEPTH}.")
    try:
        msgspec.json.encode(data)
    except OverflowError:
        raise InvalidRequest("The data holds a number that is too large.") from None
    return data


def _depth(value: Any) -> int:
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, below), default=0)


def _number(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    (number,) = decode_cursor(cursor, (int,))
    if not 0 <= number <= MAX_VERSION:
        raise InvalidRequest("The cursor is not one this endpoint gave.")
    return int(number)


def _own(event: Event, name: str) -> bool:
    """Whether somebody asked, himself or by an application, for himself."""
    about = event.subject
    return event.actor.user == name and (about is None or (about.type == "user" and about.id == name))


# --- telling ------------------------------------------------------------------------------------------------------


def _version(version: PolicyVersion) -> dict[str, Any]:
    return {
        "name": version.name,
        "version": version.version,
        "sha256": version.sha256,
        "dialect": version.dialect,
        "description": version.description,
        "created_by": version.created_by,
        "created_at": version.created_at,
        "report": version.report,
    }


def _listing(listing: PolicyListing, active: Activation | None) -> dict[str, Any]:
    member = active.member(listing.name) if active else None
    return {
        "name": listing.name,
        "newest_version": listing.newest,
        "versions": listing.versions,
        "active_version": member.version if member else None,
        "sha256": listing.sha256,
        "dialect": listing.dialect,
        "description": listing.description,
        "created_by": listing.created_by,
        "created_at": listing.created_at,
    }


def _changed(change: Change) -> dict[str, Any]:
    return {"changed": change.changed, **_activation(change.activation)}


def _told(response: Response, done: Change | Approval) -> dict[str, Any]:
    return _waits(response, done) if isinstance(done, Approval) else _changed(done)


def _waits(response: Response, approval: Approval) -> dict[str, Any]:
    response.status_code = 202
    return {"changed": False, "approval": approval.document()}


def _activation(activation: Activation, pairs: int = MAX_PAIRS) -> dict[str, Any]:
    return {
        "id": activation.id,
        "policy_set": activation.hash,
        "previous": activation.previous,
        "kind": activation.kind,
        "members": msgspec.to_builtins(activation.members),
        "newly_allowed": list(activation.newly_allowed)[:pairs],
        "comparison": activation.comparison,
        "known_good_at": _moment(activation.known_good_at),
        "suspect_at": _moment(activation.suspect_at),
        "activated_by": activation.activated_by,
        "activated_at": _moment(activation.activated_at),
        "approval": activation.approval,
    }


def _moment(at: datetime | None) -> str | None:
    return at.isoformat() if at is not None else None


def _decision(event: Event, document: bytes | None) -> dict[str, Any]:
    value = None
    if document is not None:
        try:
            value = msgspec.json.decode(document)
        except (ValueError, RecursionError):
            document = None
    return {
        "decision_id": event.decision_id,
        "at": event.at,
        "allowed": event.outcome == "allow",
        "outcome": event.outcome,
        "reasons": event.reasons,
        "policy_revision": event.policy_set or None,
        "actor": msgspec.to_builtins(event.actor),
        "subject": msgspec.to_builtins(event.subject),
        "server": event.server or None,
        "request_id": event.request_id,
        "event": {"id": event.id, "code": event.code, "name": event.name},
        "details": event.details,
        "input": value,
        "input_status": "NO_DATA" if document is None else "PRESENT",
    }
