"""The question put to a policy, in the two forms that every input carries at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def verb_of(scope: str) -> str:
    """The action a scope stands for in ``input.action``: ``payments:read`` → ``read``."""
    return scope.replace(".", ":").rsplit(":", 1)[-1]


def evaluate_input(zone: str, user: str, role: str, action: str, resource: Any) -> dict[str, Any]:
    """May this user do that to this resource? ``role`` is empty for a user the zone does not have."""
    roles = [role] if role else []
    return {
        "stage": "evaluate",
        "zone": zone,
        "user": {"id": user, "role": role, "roles": roles},
        "action": action,
        "resource": resource,
        "subject": {"type": "user", "id": user, "roles": roles},
    }


def request_input(
    zone: str,
    application: Mapping[str, Any],
    server: Mapping[str, Any],
    operation: Mapping[str, str],
    scopes: Iterable[str],
) -> dict[str, Any]:
    """May this application, acting for itself, send this request?

    ``application`` has ``id``, ``name``, ``role``, ``grants``; ``server`` has ``name`` and ``tags``; ``operation`` has
    ``method``, ``template``, ``path`` and ``scope``.
    """
    role = application["role"]
    return {
        "stage": "request",
        "zone": zone,
        "user": {"id": application["name"], "role": role, "roles": [role]},
        "action": verb_of(operation["scope"]),
        "resource": server["name"],
        "subject": {"type": "application", "id": application["name"], "roles": [role]},
        "client": dict(application),
        "server": dict(server),
        "operation": dict(operation),
        "scope": list(scopes),
    }
