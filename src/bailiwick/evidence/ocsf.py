"""Events in the form of the Open Cybersecurity Schema Framework (OCSF), version 1.7.0.

Classes, activities and required attributes are those of https://schema.ocsf.io/1.7.0/; which code is which class and
activity says the table in ``mapping.py``. What the schema has no place for stands in ``unmapped``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Any

from bailiwick.evidence.events import Actor, Event

VERSION = "1.7.0"
_OTHER = 99
_PRODUCT = {"name": "Bailiwick", "vendor_name": "Bailiwick"}


class Severity(IntEnum):
    """``severity_id``, as far as we use it."""

    INFORMATIONAL = 1
    LOW = 2
    MEDIUM = 3
    HIGH = 4
    CRITICAL = 5


@dataclass(frozen=True, slots=True)
class EventClass:
    """An event class: its ids, and its activities by caption."""

    uid: int
    name: str
    category: str
    activities: Mapping[str, int]

    @property
    def category_uid(self) -> int:
        """The thousands of the class's id are its category's."""
        return self.uid // 1000


_IAM = "Identity & Access Management"
ACCOUNT_CHANGE = EventClass(
    3001,
    "Account Change",
    _IAM,
    {
        "Create": 1,
        "Enable": 2,
        "Password Change": 3,
        "Password Reset": 4,
        "Disable": 5,
        "Delete": 6,
        "Attach Policy": 7,
        "Detach Policy": 8,
        "Lock": 9,
        "MFA Factor Enable": 10,
        "MFA Factor Disable": 11,
        "Unlock": 12,
    },
)
AUTHENTICATION = EventClass(
    3002,
    "Authentication",
    _IAM,
    {
        "Logon": 1,
        "Logoff": 2,
        "Authentication Ticket": 3,
        "Service Ticket Request": 4,
        "Service Ticket Renew": 5,
        "Preauth": 6,
        "Account Switch": 7,
    },
)
AUTHORIZE_SESSION = EventClass(3003, "Authorize Session", _IAM, {"Assign Privileges": 1, "Assign Groups": 2})
ENTITY_MANAGEMENT = EventClass(
    3004,
    "Entity Management",
    _IAM,
    {
        "Create": 1,
        "Read": 2,
        "Update": 3,
        "Delete": 4,
        "Move": 5,
        "Enroll": 6,
        "Unenroll": 7,
        "Enable": 8,
        "Disable": 9,
        "Activate": 10,
        "Deactivate": 11,
        "Suspend": 12,
        "Resume": 13,
    },
)
DETECTION_FINDING = EventClass(2004, "Detection Finding", "Findings", {"Create": 1, "Update": 2, "Close": 3})
API_ACTIVITY = EventClass(
    6003, "API Activity", "Application Activity", {"Create": 1, "Read": 2, "Update": 3, "Delete": 4}
)
CLASSES = (ACCOUNT_CHANGE, AUTHENTICATION, AUTHORIZE_SESSION, ENTITY_MANAGEMENT, DETECTION_FINDING, API_ACTIVITY)

BY_METHOD = "by the method"
"""In place of an activity: the one that the HTTP method of the request stands for."""

_ACTIVITY_OF_METHOD = {
    "GET": "Read",
    "HEAD": "Read",
    "OPTIONS": "Read",
    "POST": "Create",
    "PUT": "Update",
    "PATCH": "Update",
    "DELETE": "Delete",
}
_ENTITY_TYPES = {"user": (2, "User"), "policy": (5, "Policy"), "policy-set": (5, "Policy")}
_STATUS = {"success": (1, "Success"), "allow": (1, "Success"), "failure": (2, "Failure"), "deny": (2, "Failure")}


def build(event: Event, kind: EventClass, activity: str, severity: Severity) -> dict[str, Any]:
    """An event as one of ``kind``; an activity the class does not know becomes its ``Other`` (99)."""
    if activity == BY_METHOD:
        activity = _ACTIVITY_OF_METHOD.get(str(event.details.get("method", "")), "Other")
    activity_id = kind.activities.get(activity, _OTHER)
    status_id, status = _STATUS.get(event.outcome, (_OTHER, "Error"))
    if kind is DETECTION_FINDING:
        status_id, status = (4, "Resolved") if activity == "Close" else (1, "New")
    built = {
        "activity_id": activity_id,
        "activity_name": activity,
        "category_name": kind.category,
        "category_uid": kind.category_uid,
        "class_name": kind.name,
        "class_uid": kind.uid,
        "message": event.name,
        "metadata": _metadata(event),
        "severity": severity.name.capitalize(),
        "severity_id": int(severity),
        "status": status,
        "status_code": event.reasons[0] if event.reasons else None,
        "status_detail": ", ".join(event.reasons),
        "status_id": status_id,
        "time": _milliseconds(event),
        "type_name": f"{kind.name}: {activity}",
        "type_uid": kind.uid * 100 + activity_id,
        "unmapped": _unmapped(event),
        **_OF_CLASS[kind.uid](event),
    }
    if kind is not DETECTION_FINDING:
        built |= {"actor": _actor(event.actor), "http_request": _request(event), "src_endpoint": _source(event)}
    return _filled(built)


def _milliseconds(event: Event) -> int:
    return int(datetime.fromisoformat(event.at).timestamp() * 1000)


def _metadata(event: Event) -> dict[str, Any]:
    return {
        "correlation_uid": event.request_id,
        "event_code": event.code,
        "labels": ["simulated_clock"] if event.simulated_clock else [],
        "log_name": "ledger",
        "original_event_uid": event.id,
        "original_time": event.at,
        "product": _PRODUCT,
        "tenant_uid": event.zone,
        "uid": event.id,
        "version": VERSION,
    }


def _actor(actor: Actor) -> dict[str, Any]:
    """At least one of its attributes has to stand: what nobody did, the program did."""
    if not (actor.user or actor.application or actor.session):
        return {"app_name": _PRODUCT["name"]}
    return {"app_name": actor.application, "session": {"uid": actor.session}, "user": {"name": actor.user}}


def _source(event: Event) -> dict[str, Any]:
    return {"ip": event.network.ip} if event.network.ip else {"svc_name": _PRODUCT["name"]}


def _request(event: Event) -> dict[str, Any]:
    asked = {} if event.details.get("path") is None else {"http_method": event.details.get("method")}
    return {
        **asked,
        "uid": event.request_id,
        "url": {"path": event.details.get("path")},
        "user_agent": event.network.user_agent,
    }


def _unmapped(event: Event) -> dict[str, Any]:
    return {
        **event.details,
        "client_request_id": event.client_request_id,
        "decision_id": event.decision_id,
        "delegation": event.actor.delegation,
        "mandate": event.actor.mandate,
        "policy_set": event.policy_set,
        "trace_id": event.trace_id,
    }


# --- what each class asks for


def _user(name: str) -> dict[str, str]:
    """These classes are about somebody, though a sign-in may not have said about whom."""
    return {"name": name or "unknown"}


def _account(event: Event) -> dict[str, Any]:
    return {"user": _user(event.subject.id if event.subject else event.principal)}


def _authentication(event: Event) -> dict[str, Any]:
    subject = event.subject
    session = subject.id if subject is not None and subject.type == "session" else event.actor.session
    name = subject.id if subject is not None and subject.type == "user" else event.details.get("username")
    return {
        "service": {"name": _PRODUCT["name"], "uid": event.zone},
        "session": {"uid": session},
        "user": _user(str(name or event.principal)),
    }


def _authorization(event: Event) -> dict[str, Any]:
    scopes = str(event.details.get("scope", "")).split()
    return {
        "dst_endpoint": {"svc_name": event.server},
        "privileges": scopes or ["unspecified"],
        "session": {"uid": event.subject.id if event.subject else ""},
        "user": _user(event.principal),
    }


def _entity(event: Event) -> dict[str, Any]:
    subject = event.subject
    if subject is None:
        return {"entity": {"name": event.zone, "type": "zone", "type_id": _OTHER}}
    type_id, type = _ENTITY_TYPES.get(subject.type, (_OTHER, subject.type))
    return {
        "comment": event.details.get("reason"),
        "entity": {"name": subject.id, "type": type, "type_id": type_id, "uid": subject.id},
    }


def _finding(event: Event) -> dict[str, Any]:
    return {
        "finding_info": {"created_time": _milliseconds(event), "title": event.name, "uid": event.id},
        "is_alert": event.outcome != "success" or None,
        "resources": _resources(event),
    }


def _api(event: Event) -> dict[str, Any]:
    return {
        "api": {
            "operation": event.details.get("operation") or event.name,
            "request": {"uid": event.request_id},
            "service": {"name": event.server or _PRODUCT["name"]},
        },
        "resources": _resources(event),
    }


def _resources(event: Event) -> list[dict[str, Any]]:
    if event.subject is not None:
        return [{"name": event.subject.id, "type": event.subject.type}]
    return [{"name": event.server, "type": "server"}] if event.server else []


_OF_CLASS = {
    ACCOUNT_CHANGE.uid: _account,
    AUTHENTICATION.uid: _authentication,
    AUTHORIZE_SESSION.uid: _authorization,
    ENTITY_MANAGEMENT.uid: _entity,
    DETECTION_FINDING.uid: _finding,
    API_ACTIVITY.uid: _api,
}


def _filled(value: dict[str, Any]) -> dict[str, Any]:
    """Without what is empty: an absent attribute says it better than an empty one."""
    kept = {name: _filled(inner) if isinstance(inner, dict) else inner for name, inner in value.items()}
    return {name: inner for name, inner in kept.items() if inner not in (None, "", [], {})}
