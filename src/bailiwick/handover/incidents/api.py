"""Routes of incidents. Only translates."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import AwareDatetime, Field, StringConstraints

from bailiwick.evidence.requests import context_of
from bailiwick.handover.incidents.containment import ACTIONS
from bailiwick.handover.incidents.documents import Class
from bailiwick.handover.incidents.metrics import figures
from bailiwick.handover.incidents.records import (
    Incident,
    actions_of,
    alerts_of,
    find,
    lines,
    list_incidents,
    may_read,
    newest_judgement,
)
from bailiwick.handover.incidents.recovery import Condition, overall, unmet_exits
from bailiwick.handover.incidents.service import Incidents, Review
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import NotFound
from bailiwick.kernel.fields import Body, Line, Name, Text, UserName, after_id
from bailiwick.kernel.http import Caller, Cursor, Limit, encode_cursor, require, zone_of
from bailiwick.kernel.permissions import Permission
from bailiwick.kernel.severity import Severity

Reader = Annotated[Caller, Depends(require(Permission.ASSURANCE_READ))]
Worker = Annotated[Caller, Depends(require(Permission.ALERTS_WORK))]
Container = Annotated[Caller, Depends(require(Permission.OVERRIDES_BREAK_GLASS))]
Identifier = Annotated[
    str,
    Path(pattern=r"^(INC-[1-9][0-9]{0,7}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})$"),
]
ActionName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z-]{0,39}$", max_length=40)]
Argument = Annotated[str, StringConstraints(max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._@+-]*$")]
Words = Annotated[Text, Field(min_length=1)]
Day = Annotated[AwareDatetime, Field(examples=["2026-01-05T09:00:00Z"])]


class OpenBody(Body):
    """What is wrong. ``trigger``: an IncidentTrigger that says the rest."""

    title: Annotated[Line, Field(min_length=1)]
    severity: Severity = Severity.P2
    class_: Annotated[Class, Field(alias="class")] = "operations"
    trigger: Name | None = None
    public: Line = ""


class ChangeBody(Body):
    """What changes: who commands, who writes, how severe it is, of which class."""

    commander: UserName | None = None
    scribe: UserName | None = None
    severity: Severity | None = None
    class_: Annotated[Class | None, Field(alias="class")] = None


class TellBody(Body):
    """How it goes. ``public``: what the status page says from now on."""

    told: Words
    public: Line | None = None
    what: Literal["update", "blast-radius"] = "update"


class PreviewBody(Body):
    """An action of containment."""

    action: ActionName
    arguments: dict[Name, Argument] = Field(default_factory=dict, max_length=5)


class ContainBody(PreviewBody):
    """The same, as read: ``sha256`` of its preview."""

    why: Annotated[Line, Field(min_length=1)]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class HowBody(Body):
    """How it was contained without anything that is done here."""

    how: Words


class ActionBody(Body):
    """Something to be done. ``owner``: an activity, ``role:…`` or ``person:…``."""

    title: Annotated[Line, Field(min_length=1)]
    owner: Annotated[Line, Field(min_length=1)]
    due: Day


class ReviewBody(Body):
    """What happened, why, and what is to be done."""

    summary: Words
    cause: Words
    actions: list[ActionBody] = Field(default_factory=list, max_length=50)


class VerifyBody(Body):
    """The evidence record that shows it."""

    record: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


def routes(database: Database, clock: Clock, incidents: Incidents) -> APIRouter:
    """The routes under ``/api/v1/incidents``."""
    router = APIRouter(prefix="/api/v1/incidents", tags=["incidents"])
    _read(router, database, clock)
    _work(router, database, incidents)
    _end(router, database, incidents)
    return router


def _read(router: APIRouter, database: Database, clock: Clock) -> None:
    @router.get("", summary="Incidents, newest first")
    async def list_all(
        request: Request,
        caller: Reader,
        state: Literal["", "ongoing", "open", "contained", "recovered", "reviewed", "closed"] = "",
        limit: Limit = 100,
        cursor: Cursor = None,
    ) -> dict[str, Any]:
        """Those of class security are shown to who works on them, contains, or audits."""
        async with database.begin() as tx:
            found = await list_incidents(tx, zone_of(request), state=state, before=after_id(cursor), limit=limit)
        following = encode_cursor(found[-1].id) if len(found) == limit else None
        return {"incidents": [each.document() for each in found if may_read(each, caller)], "next": following}

    @router.get("/actions", summary="What containment can do")
    async def actions(caller: Reader) -> dict[str, Any]:
        told = [
            {"name": name, "title": each.title, "operation": each.operation, "asks": list(each.asked),
             "taken_back": each.back} for name, each in ACTIONS.items()
        ]  # fmt: skip
        return {"actions": told}

    @router.get("/metrics", summary="How soon incidents were detected, acknowledged, contained and recovered")
    async def metrics(
        request: Request, caller: Reader, days: Annotated[int, Query(ge=1, le=400)] = 90
    ) -> dict[str, Any]:
        async with database.begin() as tx:
            return await figures(tx, zone_of(request), clock.now(), days)

    @router.get("/{incident_id}", summary="One incident with its timeline")
    async def show(request: Request, incident_id: Identifier, caller: Reader) -> dict[str, Any]:
        async with database.begin() as tx:
            incident = await _readable(tx, request, incident_id, caller)
            judged = await newest_judgement(tx, incident.id)
            return {
                **incident.document(),
                "timeline": [line.document() for line in await lines(tx, incident.id)],
                "alerts": await alerts_of(tx, incident.id),
                "actions": await actions_of(tx, incident.id),
                "judged": dict(judged) if judged is not None else None,
                "unmet": await unmet_exits(tx, incident),
            }


def _work(router: APIRouter, database: Database, incidents: Incidents) -> None:
    @router.post("", status_code=201, summary="Open an incident by hand")
    async def open_by_hand(request: Request, body: OpenBody, caller: Worker) -> dict[str, Any]:
        opened = await incidents.by_hand(
            context_of(request, caller), title=body.title, severity=body.severity, class_=body.class_,
            trigger=body.trigger or "", public=body.public,
        )  # fmt: skip
        return opened.document()

    @router.post("/{incident_id}/ack", summary="Say that you work on it")
    async def acknowledge(request: Request, incident_id: Identifier, caller: Worker) -> dict[str, Any]:
        await _require_readable(database, request, incident_id, caller)
        return (await incidents.acknowledge(context_of(request, caller), incident_id)).document()

    @router.post("/{incident_id}/updates", summary="Tell how it goes")
    async def tell(request: Request, incident_id: Identifier, body: TellBody, caller: Worker) -> dict[str, Any]:
        await _require_readable(database, request, incident_id, caller)
        told = await incidents.tell(
            context_of(request, caller), incident_id, body.told, public=body.public, what=body.what
        )
        return told.document()

    @router.patch("/{incident_id}", summary="Give it to others, or another severity or class")
    async def change(request: Request, incident_id: Identifier, body: ChangeBody, caller: Worker) -> dict[str, Any]:
        await _require_readable(database, request, incident_id, caller)
        changed = await incidents.assign(
            context_of(request, caller), incident_id, commander=body.commander, scribe=body.scribe,
            severity=body.severity, class_=body.class_,
        )  # fmt: skip
        return changed.document()

    @router.post("/{incident_id}/preview", summary="What an action of containment would hit")
    async def preview(request: Request, incident_id: Identifier, body: PreviewBody, caller: Worker) -> dict[str, Any]:
        await _require_readable(database, request, incident_id, caller)
        context = context_of(request, caller)
        return (await incidents.preview(context, incident_id, body.action, body.arguments)).document()

    @router.post("/{incident_id}/contain", summary="Do an action of containment, as previewed")
    async def contain(
        request: Request, incident_id: Identifier, body: ContainBody, caller: Container
    ) -> dict[str, Any]:
        """One person, who has just proved himself; another reviews it within a day."""
        await _require_readable(database, request, incident_id, caller)
        incident, done = await incidents.contain(
            context_of(request, caller), caller, incident_id, body.action, body.arguments, why=body.why,
            sha256=body.sha256,
        )  # fmt: skip
        return {"incident": incident.document(), **done}

    @router.post("/{incident_id}/contained", summary="Say how it was contained otherwise")
    async def contained(request: Request, incident_id: Identifier, body: HowBody, caller: Worker) -> dict[str, Any]:
        await _require_readable(database, request, incident_id, caller)
        return (await incidents.declare_contained(context_of(request, caller), incident_id, body.how)).document()

    @router.post("/{incident_id}/preserve", status_code=202, summary="Have its evidence preserved as one signed pack")
    async def preserve(request: Request, incident_id: Identifier, caller: Worker) -> dict[str, Any]:
        """The pack is built behind the answer; ask again until `preserved_at` is set. `progress` says how far it is."""
        await _require_readable(database, request, incident_id, caller)
        incident = await incidents.preserve(context_of(request, caller), incident_id)
        async with database.begin() as tx:
            row = await tx.one(
                "SELECT state, section, done, expected FROM evidence_packs WHERE id = :id", id=incident.pack
            )
        return {**incident.document(), "progress": dict(row) if row is not None else None}


def _end(router: APIRouter, database: Database, incidents: Incidents) -> None:
    @router.post("/{incident_id}/judge", summary="Measure whether it is over")
    async def judge(request: Request, incident_id: Identifier, caller: Worker) -> dict[str, Any]:
        await _require_readable(database, request, incident_id, caller)
        incident, conditions = await incidents.judge(context_of(request, caller), incident_id)
        return _judged(incident, conditions)

    @router.post("/{incident_id}/recover", summary="It is over, if every condition is measured PASS")
    async def recover(request: Request, incident_id: Identifier, caller: Worker) -> dict[str, Any]:
        await _require_readable(database, request, incident_id, caller)
        incident, conditions = await incidents.recover(context_of(request, caller), incident_id)
        return _judged(incident, conditions)

    @router.post("/{incident_id}/review", summary="What happened, why, and what is to be done")
    async def review(request: Request, incident_id: Identifier, body: ReviewBody, caller: Worker) -> dict[str, Any]:
        await _require_readable(database, request, incident_id, caller)
        found = Review(body.summary, body.cause, tuple((each.title, each.owner, each.due) for each in body.actions))
        return (await incidents.review(context_of(request, caller), incident_id, found)).document()

    @router.post("/{incident_id}/actions/{number}/done", summary="An action of the review is done")
    async def done(request: Request, incident_id: Identifier, number: Number, caller: Worker) -> dict[str, Any]:
        await _require_readable(database, request, incident_id, caller)
        return {"actions": await incidents.do_action(context_of(request, caller), incident_id, number)}

    @router.post("/{incident_id}/actions/{number}/verify", summary="It is verified, by somebody else, with evidence")
    async def verify(
        request: Request, incident_id: Identifier, number: Number, body: VerifyBody, caller: Worker
    ) -> dict[str, Any]:
        await _require_readable(database, request, incident_id, caller)
        context = context_of(request, caller)
        return {"actions": await incidents.verify_action(context, incident_id, number, body.record)}

    @router.post("/{incident_id}/close", summary="Close it")
    async def close(request: Request, incident_id: Identifier, caller: Worker) -> dict[str, Any]:
        await _require_readable(database, request, incident_id, caller)
        return (await incidents.close(context_of(request, caller), incident_id)).document()


Number = Annotated[int, Path(ge=1, le=10_000)]


def _judged(incident: Incident, conditions: list[Condition]) -> dict[str, Any]:
    return {
        "incident": incident.document(),
        "verdict": overall(conditions).value,
        "conditions": [each.document() for each in conditions],
    }


async def _readable(tx: Transaction, request: Request, identifier: str, caller: Caller) -> Incident:
    incident = await find(tx, zone_of(request), identifier)
    if not may_read(incident, caller):
        raise NotFound("There is no such incident.")
    return incident


async def _require_readable(database: Database, request: Request, identifier: str, caller: Caller) -> None:
    """Refuse, as what is not there, what the caller may not know of."""
    async with database.begin() as tx:
        await _readable(tx, request, identifier, caller)


__all__ = ["routes"]
