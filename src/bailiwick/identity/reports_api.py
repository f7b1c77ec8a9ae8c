"""The routes of reports about people and their access."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from pydantic import Field

from bailiwick.evidence.requests import context_of
from bailiwick.identity.reports import REVIEW_EVERY, Name, Reports
from bailiwick.kernel.errors import Denied
from bailiwick.kernel.fields import Body, Line, UserNamePath
from bailiwick.kernel.http import Caller, require
from bailiwick.kernel.permissions import Permission

Reader = Annotated[Caller, Depends(require(Permission.USERS_READ))]
Writer = Annotated[Caller, Depends(require(Permission.USERS_WRITE))]
Days = Annotated[int, Query(ge=1, le=7, description="How far failed sign-ins are looked back at")]


class ReviewBody(Body):
    """What a reviewer says: keep or remove, and for how many days it holds."""

    verdict: Literal["keep", "remove"]
    note: Line = ""
    days: Annotated[int, Field(ge=1, le=366)] = REVIEW_EVERY.days


def routes(reports: Reports) -> APIRouter:
    """The routes of reports over their service."""
    router = APIRouter(prefix="/api/v1/reports", tags=["reports"])

    @router.get(
        "/{name}",
        summary="Orphans, the access review, or failed sign-ins",
        response_model=None,
        responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
    )
    async def get_report(
        request: Request,
        caller: Reader,
        name: Name,
        days: Days = 7,
        format: Annotated[Literal["json", "csv"], Query(description="json or csv")] = "json",
    ) -> Response | dict[str, Any]:
        """Failed sign-ins are read from the evidence, which needs audit:read too; the archive is not looked at."""
        if name == "failed-logins" and not caller.may(Permission.AUDIT_READ):
            raise Denied(permission=str(Permission.AUDIT_READ))
        report = await reports.make(context_of(request, caller), name, days=days)
        if format == "csv":
            return Response(report.as_csv(), media_type="text/csv; charset=utf-8")
        return report.document()

    @router.put("/access/{username}", summary="Say of a person's access: keep or remove")
    async def review(request: Request, caller: Writer, username: UserNamePath, body: ReviewBody) -> dict[str, Any]:
        """Nobody's access changes by it; what is to be removed stands in the report until it is. Nobody reviews his
        own, nor that of another account of his.
        """
        due = await reports.review(context_of(request, caller), username, body.verdict, note=body.note, days=body.days)
        return {"username": username, "verdict": body.verdict, "due_at": due}

    return router
