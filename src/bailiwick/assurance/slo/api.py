"""Routes of service levels, capacities, key figures, support cases, and the reports made of them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints

from bailiwick.assurance.capacity import Capacities
from bailiwick.assurance.kpi import Kpis, month_of
from bailiwick.assurance.report.html import POLICY
from bailiwick.assurance.report.model import MEDIA_TYPES
from bailiwick.assurance.reports import ReportRegister
from bailiwick.assurance.slo.levels import Levels
from bailiwick.assurance.slo.rules import rules_file
from bailiwick.assurance.support import Class, Support
from bailiwick.evidence.requests import context_of
from bailiwick.kernel.answers import page
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database
from bailiwick.kernel.fields import Body, IdPath, Line, Name, NamePath, after_id
from bailiwick.kernel.http import Caller, Cursor, Limit, require, zone_of
from bailiwick.kernel.permissions import Permission

Reader = Annotated[Caller, Depends(require(Permission.ASSURANCE_READ))]
Runner = Annotated[Caller, Depends(require(Permission.PROBES_RUN))]
Worker = Annotated[Caller, Depends(require(Permission.ALERTS_WORK))]
Signer = Annotated[Caller, Depends(require(Permission.REPORTS_SIGN))]
Days = Annotated[int, Query(ge=1, le=93, description="How far to look back")]


def _in_range(value: datetime) -> datetime:
    if not 2000 <= value.year <= 9000:
        raise ValueError("is out of range")
    return value


Instant = Annotated[AwareDatetime, AfterValidator(_in_range), Field(examples=["2026-01-05T00:00:00Z"])]
ReportName = Literal["slo-weekly", "slo-30d", "capacity-weekly", "kpi-monthly"]


class YamlResponse(Response):
    """An answer in YAML (RFC 9512)."""

    media_type = "application/yaml"


class ReportBody(Body):
    """Which report of which window."""

    kind: ReportName
    since: Instant
    until: Instant


class SignBody(Body):
    """What the signer read: the digest of the report."""

    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class GateBody(Body):
    """What is to be done, to which service."""

    action: Name = "deploy"
    service: Name
    change_class: Literal["normal", "standard", "emergency", "security", "sev1"] = "normal"


class PeriodBody(Body):
    """A period; without one it is the last whole month."""

    since: Instant | None = None
    until: Instant | None = None


class CaseBody(Body):
    """A new support case."""

    kind: Class
    title: Annotated[Line, Field(min_length=1)]


def level_routes(database: Database, levels: Levels) -> APIRouter:
    """The routes under ``/api/v1/slos``."""
    router = APIRouter(prefix="/api/v1/slos", tags=["service levels"])

    @router.get("", summary="Every service level with its error budget")
    async def list_levels(request: Request, caller: Reader) -> dict[str, Any]:
        async with database.begin() as tx:
            found = await levels.all(tx, zone_of(request))
            troubles = await levels.troubles(tx, zone_of(request))
        items = [
            {**level.document(), **state.document(), "trouble": troubles.get(level.name, "")} for level, state in found
        ]
        return page(items, None)

    @router.get(
        "/rules",
        summary="The Prometheus rules of the levels in force",
        response_class=YamlResponse,
        responses={200: {"content": {YamlResponse.media_type: {"schema": {"type": "object"}}}}},
    )
    async def rules(request: Request, caller: Reader) -> Response:
        async with database.begin() as tx:
            found = await levels.all(tx, zone_of(request))
        return YamlResponse(rules_file(level for level, _ in found))

    @router.post("/gate", summary="Ask whether the error budgets let a change pass")
    async def gate(request: Request, caller: Runner, body: GateBody) -> dict[str, Any]:
        """The answer is recorded. `passes` may be true of a verdict that is not green, by `exception`."""
        async with database.begin() as tx:
            found = await levels.gate(tx, context_of(request, caller), body.action, body.service, body.change_class)
        return {name: getattr(found, name) for name in found.__slots__}

    @router.post("/recount", summary="Count the last two days again")
    async def recount(request: Request, caller: Runner) -> dict[str, Any]:
        return {"entries": await levels.recount(context_of(request, caller))}

    @router.get("/{name}", summary="One service level with its history")
    async def get_level(request: Request, caller: Reader, name: NamePath, days: Days = 30) -> dict[str, Any]:
        async with database.begin() as tx:
            level, state = await levels.one(tx, zone_of(request), name)
            series = await levels.history(tx, zone_of(request), level, timedelta(days=days), 120)
        return {
            **level.document(),
            **state.document(),
            "history": [{"at": at, "good": good, "total": total} for at, good, total in series],
        }

    return router


def capacity_routes(database: Database, capacities: Capacities) -> APIRouter:
    """The routes under ``/api/v1/capacity``."""
    router = APIRouter(prefix="/api/v1/capacity", tags=["capacity"])

    @router.get("", summary="Every resource with its forecast")
    async def list_resources(request: Request, caller: Reader) -> dict[str, Any]:
        async with database.begin() as tx:
            found = await capacities.all(tx, zone_of(request))
        told = [
            {"name": name, "unit": spec.unit, "owner": spec.owner, "warn_days": spec.warn_days, **state.document()}
            for name, spec, state in found
        ]
        return page(told, None)

    @router.get("/{name}", summary="One resource with its points")
    async def get_resource(request: Request, caller: Reader, name: NamePath) -> dict[str, Any]:
        async with database.begin() as tx:
            spec, state, points = await capacities.one(tx, zone_of(request), name)
        return {
            "name": name,
            "unit": spec.unit,
            "owner": spec.owner,
            "warn_days": spec.warn_days,
            **state.document(),
            "points": [{"at": each.at, "value": each.value, "capacity": each.capacity} for each in points[-2500:]],
        }

    return router


def kpi_routes(database: Database, kpis: Kpis, clock: Clock) -> APIRouter:
    """The routes under ``/api/v1/kpis``."""
    router = APIRouter(prefix="/api/v1/kpis", tags=["key figures"])

    @router.get("", summary="The key figures of the last whole month")
    async def review(request: Request, caller: Reader) -> dict[str, Any]:
        since, until = month_of(clock.now())
        async with database.begin() as tx:
            return await kpis.review(tx, zone_of(request), since, until)

    @router.post("/build", summary="Build the key figures of a period that is over")
    async def build(request: Request, caller: Runner, body: PeriodBody) -> dict[str, Any]:
        """A figure that comes out as it was built before stays; one that differs is a new version."""
        since, until = month_of(clock.now())
        if body.since is not None and body.until is not None:
            since, until = body.since, body.until
        found = await kpis.build(context_of(request, caller), since, until)
        return {"since": since, "until": until, "figures": len(found)}

    @router.get("/{name}", summary="One key figure over all periods")
    async def get_figure(request: Request, caller: Reader, name: NamePath) -> dict[str, Any]:
        async with database.begin() as tx:
            spec, found = await kpis.history(tx, zone_of(request), name)
        return {
            "name": name,
            "description": spec.description,
            "formula": spec.formula,
            "unit": spec.unit,
            "target": spec.target,
            "better": spec.better,
            "owner": spec.owner,
            "periods": [{each_name: getattr(each, each_name) for each_name in each.__slots__} for each in found],
        }

    return router


def report_routes(database: Database, register: ReportRegister) -> APIRouter:
    """The routes of the register of reports."""
    router = APIRouter(prefix="/api/v1/reports", tags=["reports"])

    @router.get("", summary="The reports that were made, newest first")
    async def list_reports(
        request: Request, caller: Reader, kind: ReportName | None = None, limit: Limit = 100, cursor: Cursor = None
    ) -> dict[str, Any]:
        before = after_id(cursor)
        async with database.begin() as tx:
            found = await register.list(tx, zone_of(request), kind=kind or "", before=before, limit=limit)
        return page([each.document() for each in found], found[-1].id if len(found) == limit else None)

    @router.post("", status_code=201, summary="Make the report of a window that is over")
    async def produce(request: Request, caller: Runner, body: ReportBody) -> dict[str, Any]:
        """Of a window of which one was made it answers that one: reports never change."""
        made = await register.produce(context_of(request, caller), body.kind, body.since, body.until, by=caller.name)
        return made.document(whole=True)

    @router.get(
        "/made/{identifier}",
        summary="One report",
        response_model=None,
        responses={200: {"content": {each: {"schema": {"type": "string"}} for each in MEDIA_TYPES.values()}}},
    )
    async def get_report(
        request: Request,
        caller: Reader,
        identifier: IdPath,
        format: Annotated[Literal["json", "md", "html", "pdf"], Query(description="How it is written")] = "json",
    ) -> Response | dict[str, Any]:
        async with database.begin() as tx:
            made = await register.get(tx, zone_of(request), identifier)
        if format == "json":
            return made.document(whole=True)
        headers = {"Content-Security-Policy": POLICY} if format == "html" else {}
        return Response(register.write(made, format), media_type=MEDIA_TYPES[format], headers=headers)

    @router.get("/made/{identifier}/again", summary="Make it again, and compare")
    async def again(request: Request, caller: Reader, identifier: IdPath) -> dict[str, Any]:
        async with database.begin() as tx:
            made = await register.get(tx, zone_of(request), identifier)
            found = await register.again(tx, zone_of(request), made)
        return {"sha256": made.sha256, "again": found, "same": found == made.sha256}

    @router.post("/made/{identifier}/signatures", status_code=201, summary="Sign a report")
    async def sign(request: Request, caller: Signer, identifier: IdPath, body: SignBody) -> dict[str, Any]:
        """By somebody else than who produced it, by the digest that was read."""
        made = await register.sign(context_of(request, caller), identifier, by=caller.name, sha256=body.sha256)
        return made.document()

    return router


def support_routes(database: Database, support: Support, clock: Clock) -> APIRouter:
    """The routes under ``/api/v1/support-cases``."""
    router = APIRouter(prefix="/api/v1/support-cases", tags=["service levels"])

    @router.get("", summary="Support cases, newest first")
    async def list_cases(request: Request, caller: Reader, limit: Limit = 100, cursor: Cursor = None) -> dict[str, Any]:
        before = after_id(cursor)
        async with database.begin() as tx:
            found = await support.list(tx, zone_of(request), before, limit)
        return page([each.document(clock.now()) for each in found], found[-1].id if len(found) == limit else None)

    @router.post("", status_code=201, summary="Open a support case")
    async def open_case(request: Request, caller: Worker, body: CaseBody) -> dict[str, Any]:
        case = await support.open(context_of(request, caller), body.kind, body.title, by=caller.name)
        return case.document(clock.now())

    @router.post("/{identifier}/done", summary="Say that a support case is done")
    async def done(request: Request, caller: Worker, identifier: IdPath) -> dict[str, Any]:
        case = await support.done(context_of(request, caller), identifier, by=caller.name)
        return case.document(clock.now())

    return router
