"""Events in the form of the Elastic Common Schema (ECS), version 8.17.

The categorisation fields take their allowed values from https://www.elastic.co/docs/reference/ecs/ ; which code is in
which category and of which type says the table in ``mapping.py``. What ECS has no field for stands under ``bailiwick``.
"""

from __future__ import annotations

from typing import Any

from bailiwick.evidence.events import Event

VERSION = "8.17.0"

# Categories we use, with the event types ECS expects in each.
CATEGORIES: dict[str, frozenset[str]] = {
    "api": frozenset(
        ["access", "admin", "allowed", "change", "creation", "deletion", "denied", "end", "info", "start", "user"]
    ),
    "authentication": frozenset(["end", "info", "start"]),
    "configuration": frozenset(["access", "change", "creation", "deletion", "info"]),
    "iam": frozenset(["admin", "change", "creation", "deletion", "group", "info", "user"]),
    "session": frozenset(["end", "info", "start"]),
}
KINDS = frozenset(["alert", "event"])
_OUTCOMES = {"success": "success", "allow": "success", "failure": "failure", "deny": "failure"}
_VERDICTS = {"allow": "allowed", "deny": "denied"}


def build(event: Event, categories: tuple[str, ...], types: tuple[str, ...], kind: str) -> dict[str, Any]:
    """An event of these categories and types; to them comes ``allowed`` or ``denied`` where the category knows it."""
    verdict = _VERDICTS.get(event.outcome, "")
    if any(verdict in CATEGORIES[category] for category in categories):
        types = (*types, verdict)
    actor, subject = event.actor, event.subject
    target = subject.id if subject is not None and subject.type == "user" else ""
    method = event.details.get("method") if "path" in event.details else None
    return _filled(
        {
            "@timestamp": event.at,
            "bailiwick": _own(event),
            "ecs": {"version": VERSION},
            "event": {
                "action": event.name,
                "category": list(categories),
                "code": event.code,
                "dataset": "bailiwick.ledger",
                "id": event.id,
                "kind": kind,
                "module": "bailiwick",
                "outcome": _OUTCOMES.get(event.outcome, "unknown"),
                "reason": ", ".join(event.reasons),
                "type": list(types),
            },
            "http": {"request": {"id": event.request_id, "method": method}},
            "message": event.name,
            "organization": {"id": event.zone},
            "related": {
                "ip": [event.network.ip] if event.network.ip else [],
                "user": sorted({name for name in (actor.user, target) if name}),
            },
            "service": {"name": "bailiwick", "type": "bailiwick"},
            "source": {"ip": event.network.ip},
            "trace": {"id": event.trace_id},
            "url": {"path": event.details.get("path")},
            "user": {"name": actor.user, "target": {"name": target}},
            "user_agent": {"original": event.network.user_agent},
        }
    )


def _own(event: Event) -> dict[str, Any]:
    subject = event.subject
    return {
        "application": event.actor.application,
        "client_request_id": event.client_request_id,
        "decision_id": event.decision_id,
        "delegation": event.actor.delegation,
        "details": dict(event.details),
        "mandate": event.actor.mandate,
        "policy_set": event.policy_set,
        "reasons": list(event.reasons),
        "server": event.server,
        "session": event.actor.session,
        "simulated_clock": event.simulated_clock or None,
        "subject": {"id": subject.id, "type": subject.type} if subject is not None else {},
    }


def _filled(value: dict[str, Any]) -> dict[str, Any]:
    kept = {name: _filled(inner) if isinstance(inner, dict) else inner for name, inner in value.items()}
    return {name: inner for name, inner in kept.items() if inner not in (None, "", [], {})}
