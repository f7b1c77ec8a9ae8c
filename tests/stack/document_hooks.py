"""Hooks of schemathesis: a walk over the API document as the administrator spares who walks.

Schemathesis learns names from answers and asks for them elsewhere. Were the administrator's own sessions ended on the
way, everything after would be tried without a credential.
"""

from __future__ import annotations

import base64
import json
import os
from typing import Any

import schemathesis

SPARED = ["admin", "default"]


def _own_session() -> str:
    payload = os.environ["WALKERS_TOKEN"].split(".")[1]
    return str(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["sid"])


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    if "WALKERS_TOKEN" not in os.environ:
        return
    spared = [*SPARED, _own_session()]  # what is generated need not be hashable
    for name, value in (case.path_parameters or {}).items():
        if value in spared:
            case.path_parameters[name] = "spared"
    if case.operation.path.endswith("/events/stream") and isinstance(case.query, dict):
        case.query["seconds"] = 0  # or each would last as long as somebody listens
    if (case.operation.method.upper(), case.operation.path) == ("DELETE", "/api/v1/sessions"):
        case.query = {"username": "spared"}  # or it would end the sessions of other tests
    if not isinstance(case.body, dict):
        return
    if case.body.get("user") in spared or case.body.get("session") in spared:
        case.body = {"user": "spared"}
    if case.operation.path.endswith("/keys/rotate") and case.body.get("purpose") == "session":
        case.body = {**case.body, "emergency": False}
