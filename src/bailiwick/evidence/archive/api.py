"""Routes of the archive. Sealing is the work role's; asking for it makes its job due now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints

from bailiwick.evidence import codes
from bailiwick.evidence.archive import status as standing
from bailiwick.evidence.archive.lives import LONGEST_DAYS, Hold, Keeping, Lives, lives_of
from bailiwick.evidence.archive.places import Places
from bailiwick.evidence.archive.proof import verify_archive
from bailiwick.evidence.archive.purge import Endings
from bailiwick.evidence.archive.reader import ColdEvents
from bailiwick.evidence.archive.restore import LONGEST_DAYS as LONGEST_RESTORE
from bailiwick.evidence.archive.restore import Restorer
from bailiwick.evidence.events import Recorder, Subject
from bailiwick.evidence.requests import context_of
from bailiwick.kernel.answers import version_guard
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database
from bailiwick.kernel.errors import InvalidRequest
from bailiwick.kernel.fields import Body, IdPath, Text
from bailiwick.kernel.http import Caller, Cursor, Limit, decode_cursor, encode_cursor, require, set_etag, zone_of
from bailiwick.kernel.jobs import make_due
from bailiwick.kernel.permissions import Permission

SEAL_JOB = "seal-archive"
MOST_RESTORED = 200_000
MOST_VERIFIED = 2_000_000_000


def _in_range(value: datetime | None) -> datetime | None:
    if value is not None and not 1970 <= value.year <= 9000:
        raise ValueError("is out of range")
    return value


Moment = Annotated[AwareDatetime, AfterValidator(_in_range)]
Since = Annotated[AwareDatetime | None, Query(), AfterValidator(_in_range)]
Days = Annotated[int, Field(ge=1, le=LONGEST_DAYS)]
Reason = Annotated[Text, StringConstraints(strip_whitespace=True, min_length=3)]
Auditor = Annotated[Caller, Depends(require(Permission.AUDIT_READ))]
Keeper = Annotated[Caller, Depends(require(Permission.ARCHIVE_HOLD))]
Operator = Annotated[Caller, Depends(require(Permission.ARCHIVE_OPERATE))]
Purger = Annotated[Caller, Depends(require(Permission.ARCHIVE_PURGE))]


class LivesBody(Body):
    """Days from the end of a window, each at least the one before."""

    seal_days: Days = 7
    hot_days: Days = 7
    local_days: Days = 90
    archive_days: Days = 365

    def lives(self) -> Lives:
        """As the rules know them."""
        return Lives(self.seal_days, self.hot_days, self.local_days, self.archive_days)


class HoldBody(Body):
    """What is to be kept, by the time of recording; without limits everything of the zone."""

    since: Moment | None = None
    until: Moment | None = None
    reason: Reason


class ReleaseBody(Body):
    """Why a hold is to be let go."""

    reason: Reason


class RestoreBody(Body):
    """What is to come back into the database, and for how many days."""

    since: Moment
    until: Moment
    days: Annotated[int, Field(ge=1, le=LONGEST_RESTORE)] = 7


class PurgeBody(Body):
    """What is to be destroyed: everything sealed of windows that ended by then."""

    before: Moment
    reason: Reason


@dataclass(frozen=True, slots=True)
class ArchiveServices:
    """What the routes translate to."""

    places: Places
    cold: ColdEvents
    keeping: Keeping
    endings: Endings
    restorer: Restorer


def routes(database: Database, services: ArchiveServices, recorder: Recorder, clock: Clock) -> APIRouter:
    """The routes under ``/api/v1/audit/archive``."""
    router = APIRouter(prefix="/api/v1/audit/archive", tags=["archive"])

    @router.get("", summary="What is sealed, where it lies and what is due")
    async def get_status(request: Request, caller: Auditor) -> dict[str, Any]:
        async with database.begin() as tx:
            return await standing.status(tx, services.places, zone_of(request), clock.now())

    @router.get("/windows", summary="The sealed windows, newest first")
    async def list_windows(
        request: Request, caller: Auditor, limit: Limit = 100, cursor: Cursor = None
    ) -> dict[str, Any]:
        before = 1 << 62
        if cursor is not None:
            (before,) = decode_cursor(cursor, (int,))
            if not 0 <= before < 1 << 62:
                raise InvalidRequest("The cursor is not one this endpoint gave.")
        async with database.begin() as tx:
            found = await standing.windows(tx, zone_of(request), before, limit)
        following = encode_cursor(found[-1]["ordinal"]) if len(found) == limit else None
        return {"windows": found, "next": following}

    @router.get(
        "/manifests/{ordinal}", summary="A signed manifest (C2SP signed note)", response_class=PlainTextResponse
    )
    async def get_manifest(
        request: Request, ordinal: Annotated[int, Path(ge=0, lt=1 << 62)], caller: Auditor
    ) -> Response:
        async with database.begin() as tx:
            note = await standing.manifest(tx, zone_of(request), ordinal)
        return Response(note, media_type="text/plain; charset=utf-8")

    @router.put("/lives", summary="How long evidence of this zone stays in which form")
    async def change_lives(request: Request, response: Response, body: LivesBody, caller: Operator) -> dict[str, Any]:
        async with database.begin() as tx:
            _, version = await lives_of(tx, zone_of(request))
        expected = None
        if request.headers.get("if-match") is not None:
            version_guard(request)(version)
            expected = version
        changed = await services.keeping.change_lives(context_of(request, caller), body.lives(), caller.name, expected)
        set_etag(response, changed)
        return {**body.model_dump(), "version": changed}

    @router.post("/seal", summary="Seal what is due now", status_code=202)
    async def seal(request: Request, caller: Operator) -> dict[str, Any]:
        now = clock.now()
        async with database.begin() as tx:
            await make_due(tx, SEAL_JOB, now)
            await recorder.record(
                tx,
                codes.ARCHIVE_ASKED,
                "success",
                context_of(request, caller),
                subject=Subject(id=zone_of(request), type="archive"),
                job=SEAL_JOB,
            )
        return {"job": SEAL_JOB, "due_at": now}

    @router.post("/verify", summary="Prove the archive: signatures, chain, objects, and every event against the tree")
    async def verify(request: Request, caller: Auditor, since: Since = None, until: Since = None) -> dict[str, Any]:
        zone = zone_of(request)
        sealed = await services.cold.list_windows(zone, None, None, include_hot=True)
        size = sum(
            part.digest.size
            for window in sealed
            for part in window.objects
            if (since is None or window.start >= since) and (until is None or window.start < until)
        )
        if size > MOST_VERIFIED:
            raise InvalidRequest("That is more than is proven while you wait: name a time, or use the command line.")
        report = await verify_archive(database, services.cold, zone, since=since, until=until)
        async with database.begin() as tx:
            await recorder.record(
                tx,
                codes.ARCHIVE_VERIFIED,
                "failure" if report.verdict == "FAIL" else "success",
                context_of(request, caller),
                subject=Subject(id=zone, type="archive"),
                verdict=report.verdict,
                events=report.events,
                findings=report.findings_total,
            )
        return report.to_json()

    @router.post("/restore", summary="Put sealed events back into the database for a while")
    async def restore(request: Request, body: RestoreBody, caller: Operator) -> dict[str, Any]:
        done = await services.restorer.restore(
            context_of(request, caller),
            body.since,
            body.until,
            by=caller.name,
            days=body.days,
            most_events=MOST_RESTORED,
        )
        return {"windows": done.windows, "events": done.events, "until": done.until}

    @router.get("/holds", summary="Legal holds, newest first")
    async def list_holds(request: Request, caller: Auditor) -> dict[str, Any]:
        return {"holds": [_hold(hold) for hold in await services.keeping.holds(zone_of(request))]}

    @router.post("/holds", summary="Keep evidence past its life", status_code=201)
    async def place_hold(request: Request, body: HoldBody, caller: Keeper) -> dict[str, Any]:
        hold = await services.keeping.place(
            context_of(request, caller), body.since, body.until, body.reason, caller.name
        )
        return _hold(hold)

    @router.post(
        "/holds/{hold_id}/release", summary="Ask to let go of a hold; somebody else must approve", status_code=202
    )
    async def release_hold(request: Request, hold_id: IdPath, body: ReleaseBody, caller: Keeper) -> dict[str, Any]:
        approval = await services.keeping.propose_release(
            context_of(request, caller), hold_id, body.reason, by=caller.name
        )
        return approval.document()

    @router.post(
        "/purge", summary="Ask for the end of evidence past its life; somebody else must approve", status_code=202
    )
    async def purge(request: Request, body: PurgeBody, caller: Purger) -> dict[str, Any]:
        approval = await services.endings.propose(context_of(request, caller), body.before, body.reason, by=caller.name)
        return approval.document()

    return router


def _hold(hold: Hold) -> dict[str, Any]:
    return {name: getattr(hold, name) for name in Hold.__slots__}
