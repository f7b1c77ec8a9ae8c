"""What an incident begins by and ends with, as it is handed to the service: no rows, nothing done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from bailiwick.assurance.ports import Alerts, Notices, OnCall, Raised, Tasks
from bailiwick.evidence.events import Context
from bailiwick.handover.incidents.documents import Class, Trigger
from bailiwick.handover.incidents.records import Incident
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.severity import Severity

RUNBOOK = "docs/how-to/incidents.md"


@dataclass(frozen=True, slots=True)
class Opening:
    """How an incident begins. ``key`` makes two openings the same one; ``alerts``: those it is about."""

    key: str
    title: str
    severity: Severity
    class_: Class
    trigger: str = ""
    owner: str = "incident-response"
    runbook: str = ""
    exits: tuple[str, ...] = ()
    public: str = ""
    began_at: datetime | None = None
    alerts: tuple[str, ...] = ()
    drill: str = ""

    @classmethod
    def of(cls, name: str, trigger: Trigger, *, began_at: datetime | None, alerts: Sequence[str] = ()) -> Opening:
        """What a trigger says."""
        return cls(
            f"trigger/{name}", trigger.title, trigger.severity, trigger.class_, name, trigger.owner,
            trigger.runbook or "", tuple(trigger.exits), trigger.public, began_at, tuple(alerts),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Review:
    """What a review found. ``actions``: what is to be done, each with an owner and a day."""

    summary: str
    cause: str
    actions: tuple[tuple[str, str, datetime], ...] = ()


@dataclass(frozen=True, slots=True)
class Ports:
    """What other parts do for this one."""

    alerts: Alerts
    notices: Notices
    tasks: Tasks
    on_call: OnCall


BackUp = Callable[[Transaction, Context], Awaitable[str]]
"""Has a base backup of the database begun before anybody mends anything; says what was asked for, or that it is not."""


async def nowhere(tx: Transaction, context: Context) -> str:
    """Where backups have no place."""
    return "no base backup: no place for backups is set"


def incident_key(incident: Incident) -> str:
    """The key of the alert by which it escalates."""
    return f"incident/{incident.id}"


def overdue_key(incident: Incident) -> str:
    """The key of the alert that people wait for news."""
    return f"incident/{incident.id}/update"


def raised_of(incident: Incident, owner: str) -> Raised:
    """The alert of an incident that came of none: by which it escalates."""
    return Raised(
        incident_key(incident),
        "IncidentOpen",
        incident.severity,
        f"{incident.name}: {incident.heading}",
        owner,
        RUNBOOK,
        {"component": "incidents", "incident": incident.name},
        {"description": f"bailiwick incident show {incident.name}; acknowledge, contain, preserve, recover."},
    )
