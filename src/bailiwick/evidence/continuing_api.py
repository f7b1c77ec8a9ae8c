"""The route by which two persons go on with a ledger that lost events."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field, StringConstraints

from bailiwick.evidence.continuing import MOST_HEAD, Continuing
from bailiwick.evidence.requests import context_of
from bailiwick.kernel.agreement import WAITS
from bailiwick.kernel.answers import never_store
from bailiwick.kernel.fields import Body, Text
from bailiwick.kernel.http import Caller, require
from bailiwick.kernel.permissions import Permission

Ground = Annotated[Text, StringConstraints(strip_whitespace=True, min_length=3)]
Head = Annotated[str, StringConstraints(min_length=1, max_length=MOST_HEAD, pattern=r"^[^\x00-\x09\x0b-\x1f\x7f]*$")]
Purger = Annotated[Caller, Depends(require(Permission.ARCHIVE_PURGE))]


class ContinueBody(Body):
    """Why events were lost, and a signed head that is newer than the published one, where somebody has it."""

    ground: Ground
    head: Annotated[Head | None, Field(description="A checkpoint, from a witness, an auditor or a backup")] = None


def routes(continuing: Continuing) -> APIRouter:
    """The route ``/api/v1/audit/ledger/continue``."""
    router = APIRouter(prefix="/api/v1/audit/ledger", tags=["audit"])

    @router.post("/continue", summary="Go on with a ledger that lost events, under another name", responses=WAITS)
    async def go_on(request: Request, response: Response, body: ContinueBody, caller: Purger) -> dict[str, Any]:
        """Where a restored database lacks events that a published head covers, its log ends with that head, and goes on
        under another name with the events that were kept. Somebody else must approve that first; sent again then, it is
        done. A ledger that is other than what was published is not continued."""
        never_store(response)
        found = await continuing.go_on(
            context_of(request, caller), body.ground, body.head.encode() if body.head is not None else None
        )
        response.status_code = 200 if found.done else 202
        return found.document()

    return router
