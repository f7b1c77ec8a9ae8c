"""Routes of alerts: what is open, what became of it, who looks at it, silences, drills, and the way in for others."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints

from bailiwick.assurance.alerting import alerts as store
from bailiwick.assurance.alerting.alerts import AlertDesk
from bailiwick.assurance.alerting.drills import Drills
from bailiwick.assurance.alerting.figures import AlertFigures
from bailiwick.assurance.alerting.receiver import MOST_BYTES, Receiver, read_payload
from bailiwick.assurance.alerting.rules import Evaluator
from bailiwick.assurance.alerting.silences import Silences
from bailiwick.assurance.notices.routes import MATCHER_PATTERN, LabelName
from bailiwick.assurance.ports import Raised
from bailiwick.evidence.requests import context_of
from bailiwick.kernel.answers import page
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.fields import UUID_PATTERN, Body, IdPath, Line, Text, after_id
from bailiwick.kernel.http import Caller, Cursor, Limit, require, zone_of
from bailiwick.kernel.permissions import Permission
from bailiwick.kernel.severity import Severity


def _in_range(value: datetime) -> datetime:
    if not 1970 <= value.year <= 9000:
        raise ValueError("is out of range")
    return value


Instant = Annotated[AwareDatetime, AfterValidator(_in_range), Field(examples=["2026-01-05T09:00:00Z"])]
Filled = Annotated[Line, Field(min_length=1)]
Key = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,199}$"), Field(examples=["pay/down"])]
RulePath = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", max_length=100)]
Uuid = Annotated[str, StringConstraints(pattern=UUID_PATTERN, max_length=36)]
MatcherText = Annotated[str, StringConstraints(pattern=MATCHER_PATTERN, max_length=310)]


class Page(Body):
    """An alert that a person raises. ``owner`` is an activity of the RACI; ``key`` says what makes it the same one."""

    summary: Filled
    description: Annotated[Text, Field(min_length=1)]
    severity: Severity
    owner: Filled
    service: Filled
    team: Filled
    runbook: Filled
    key: Key | None = None
    labels: Annotated[dict[LabelName, Line], Field(max_length=20)] = Field(default_factory=dict)

    def raised(self, identifier: str) -> Raised:
        """As alerts are raised; without a key each is one of its own."""
        return Raised(
            f"manual/{self.key or identifier}",
            "manual",
            self.severity,
            self.summary,
            self.owner,
            self.runbook,
            {**self.labels, "service": self.service, "team": self.team},
            {"summary": self.summary, "description": self.description, "runbook": self.runbook},
        )


class Note(Body):
    """What there is to say, if anything."""

    note: Text = ""


class Closing(Body):
    """What the alert was. A duplicate names the alert that it repeats."""

    closed_as: Literal["true", "false", "duplicate"]
    note: Text = ""
    duplicate_of: Uuid | None = None


class NewSilence(Body):
    """What is not told, until when, and why."""

    matchers: Annotated[list[MatcherText], Field(min_length=1, max_length=20, examples=[["service=payments"]])]
    ends_at: Instant
    reason: Filled


class NewDrill(Body):
    """What is broken, and the rule whose alert has to come within ``lasts_s`` seconds."""

    fault: Literal["stop-job", "kill-part"]
    target: Filled
    rule: Filled
    lasts_s: Annotated[int, Field(ge=10, le=14_400)] = 900


class NewHappening(Body):
    """Something that should have been alerted on, and the alert that told of it; none: it was missed."""

    kind: Literal["test", "incident"]
    reference: Key
    began_at: Instant
    alert: Uuid | None = None


@dataclass(frozen=True, slots=True)
class AlertServices:
    """What the routes use."""

    database: Database
    desk: AlertDesk
    silences: Silences
    receiver: Receiver
    figures: AlertFigures
    drills: Drills
    evaluator: Evaluator


Reader = Annotated[Caller, Depends(require(Permission.ASSURANCE_READ))]
Worker = Annotated[Caller, Depends(require(Permission.ALERTS_WORK))]
Sender = Annotated[Caller, Depends(require(Permission.ALERTS_RECEIVE))]
State = Literal["pending", "firing", "acknowledged", "resolved", "closed"]

_PAYLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": f"Alertmanager's webhook payload, version 4, of at most {MOST_BYTES} bytes",
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
}


def routes(services: AlertServices) -> APIRouter:
    """The routes under ``/api/v1/alerts``."""
    router = APIRouter(prefix="/api/v1/alerts", tags=["alerts"])
    _reading(router, services)
    _receiving(router, services)
    _silencing(router, services)
    _drilling(router, services)
    _working(router, services)
    return router


async def shown(tx: Transaction, zone: str, identifier: str) -> dict[str, Any]:
    """An alert with its timeline, whom it was told, and what is still to come of its escalation."""
    alert = await store.find(tx, zone, identifier)
    tellings = await tx.all(
        "SELECT channel, what, due_at, done_at, notice FROM alert_tellings WHERE alert = :id ORDER BY due_at, channel",
        id=identifier,
    )
    steps = await tx.all(
        "SELECT number, level, due_at, state, done_at, person, notice FROM escalation_steps WHERE alert = :id"
        " ORDER BY due_at, number",
        id=identifier,
    )
    return {
        **alert.document(),
        "timeline": [each.document() for each in await store.entries(tx, identifier)],
        "told": [dict(row) for row in tellings],
        "escalation": [dict(row) for row in steps],
    }


def _reading(router: APIRouter, services: AlertServices) -> None:
    @router.get("", summary="List alerts, newest first")
    async def list_alerts(
        request: Request,
        caller: Reader,
        state: Annotated[list[State] | None, Query(max_length=5)] = None,
        severity: Severity | None = None,
        limit: Limit = 100,
        cursor: Cursor = None,
    ) -> dict[str, Any]:
        async with services.database.begin() as tx:
            found = await store.list_alerts(
                tx,
                zone_of(request),
                states=state or [],
                severity=severity or "",
                before=after_id(cursor),
                limit=limit,
            )
        return page([each.document() for each in found], found[-1].id if len(found) == limit else None)

    @router.get("/figures", summary="How well alerting goes")
    async def figures(request: Request, caller: Reader, days: Annotated[int, Query(ge=1, le=90)] = 7) -> dict[str, Any]:
        """Precision, noise, time to acknowledge and to resolve, and what was missed, of the last days."""
        async with services.database.begin() as tx:
            return (await services.figures.of(tx, zone_of(request), window=timedelta(days=days))).document()

    @router.get("/rules/{rule}/evaluations", summary="What a rule found, newest first")
    async def evaluations(request: Request, rule: RulePath, caller: Reader, limit: Limit = 100) -> dict[str, Any]:
        async with services.database.begin() as tx:
            return {"items": await services.evaluator.recent(tx, zone_of(request), rule, limit)}


def _receiving(router: APIRouter, services: AlertServices) -> None:
    @router.post("/alertmanager", summary="Hand in what an Alertmanager fires", openapi_extra=_PAYLOAD)
    async def alertmanager(request: Request, caller: Sender) -> dict[str, int]:
        """For the webhook of a Prometheus Alertmanager (version 4), with an API key as its bearer token."""
        payload = read_payload(await request.body())
        return (await services.receiver.take(context_of(request, caller), payload)).document()


def _silencing(router: APIRouter, services: AlertServices) -> None:
    @router.get("/silences", summary="List silences")
    async def list_silences(
        request: Request, caller: Reader, lasting: bool = True, limit: Limit = 100
    ) -> dict[str, Any]:
        async with services.database.begin() as tx:
            found = await services.silences.list(tx, zone_of(request), lasting=lasting, limit=limit)
        return {"items": [each.document() for each in found]}

    @router.post("/silences", status_code=201, summary="Have some alerts told to nobody for a while")
    async def silence(request: Request, body: NewSilence, caller: Worker) -> dict[str, Any]:
        """At most seven days. What fires meanwhile is told at the end, if it still does."""
        made = await services.silences.make(
            context_of(request, caller), body.matchers, ends_at=body.ends_at, reason=body.reason, by=caller.name
        )
        return made.document()

    @router.delete("/silences/{silence_id}", summary="End a silence")
    async def unsilence(request: Request, silence_id: IdPath, caller: Worker) -> dict[str, Any]:
        return (await services.silences.end(context_of(request, caller), silence_id, by=caller.name)).document()


def _drilling(router: APIRouter, services: AlertServices) -> None:
    @router.get("/drills", summary="List drills, newest first")
    async def list_drills(request: Request, caller: Reader, limit: Limit = 100) -> dict[str, Any]:
        async with services.database.begin() as tx:
            return {"items": [each.document() for each in await services.drills.list(tx, zone_of(request), limit)]}

    @router.post("/drills", status_code=201, summary="Break something and see who is told")
    async def drill(request: Request, body: NewDrill, caller: Worker) -> dict[str, Any]:
        """The times come from the alert and the receipt of its notice; without those there are none."""
        made = await services.drills.start(
            context_of(request, caller),
            body.fault,
            body.target,
            body.rule,
            lasts=timedelta(seconds=body.lasts_s),
            by=caller.name,
        )
        return made.document()

    @router.get("/drills/{drill_id}", summary="One drill")
    async def get_drill(request: Request, drill_id: IdPath, caller: Reader) -> dict[str, Any]:
        async with services.database.begin() as tx:
            return (await services.drills.get(tx, zone_of(request), drill_id)).document()

    @router.post("/happenings", status_code=201, summary="Note what should have been alerted on")
    async def happening(request: Request, body: NewHappening, caller: Worker) -> dict[str, Any]:
        """A test or an incident. Sent again with an alert, it was not missed after all."""
        async with services.database.begin() as tx:
            await services.figures.happened(
                tx, context_of(request, caller), body.kind, body.reference, body.began_at, body.alert
            )
        return body.model_dump(mode="json")


def _working(router: APIRouter, services: AlertServices) -> None:
    @router.post("", status_code=201, summary="Raise an alert by hand")
    async def raise_alert(request: Request, body: Page, caller: Worker) -> dict[str, Any]:
        """A manual page. With a ``key`` that is open already, the open one goes on."""
        raised = body.raised(request.state.request_id)
        alert = await services.desk.raise_by_hand(context_of(request, caller), raised, by=caller.name)
        return alert.document()

    @router.get("/{alert_id}", summary="One alert with its timeline")
    async def show(request: Request, alert_id: IdPath, caller: Reader) -> dict[str, Any]:
        async with services.database.begin() as tx:
            return await shown(tx, zone_of(request), alert_id)

    @router.post("/{alert_id}/ack", summary="Say that you look at it")
    async def acknowledge(request: Request, alert_id: IdPath, body: Note, caller: Worker) -> dict[str, Any]:
        """It escalates no further."""
        alert = await services.desk.acknowledge(context_of(request, caller), alert_id, by=caller.name, note=body.note)
        return alert.document()

    @router.post("/{alert_id}/close", summary="Say what it was")
    async def close(request: Request, alert_id: IdPath, body: Closing, caller: Worker) -> dict[str, Any]:
        """True, false, or a duplicate. An alert that is open is resolved by it."""
        alert = await services.desk.close(
            context_of(request, caller),
            alert_id,
            body.closed_as,
            by=caller.name,
            note=body.note,
            duplicate_of=body.duplicate_of or "",
        )
        return alert.document()
