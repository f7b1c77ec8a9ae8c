"""Details as events of each code have them, for tests that need an event and care little what it says."""

from __future__ import annotations

from bailiwick.evidence import codes
from bailiwick.evidence.codes import EventType
from bailiwick.evidence.details import DETAILS
from bailiwick.evidence.events import Detail

_DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_VALUES: dict[str, Detail] = {
    "action": "read",
    "after": "0002_pre_spine",
    "before": "0001_pre_spine",
    "behind_by": 2,
    "cause": "resolution",
    "change": "activate",
    "changed": ["description"],
    "checked": 1200,
    "client_id": "01981f00-0000-7000-8000-0000000000c1",
    "comparison": "complete",
    "credential": "payments-key",
    "dead_letter": 7,
    "dialect": "v1",
    "event": "01981f00-0000-7000-8000-0000000000e1",
    "events": 1200,
    "expires_at": 1_780_000_900,
    "failures": 10,
    "fault": "policy_error",
    "files": 9,
    "findings": ["rules.rego:3: policy_broken"],
    "first": ["user jane read payments"],
    "follow": True,
    "grant": "client_credentials",
    "input": _DIGEST,
    "kek": "k-2",
    "kid": "m-0123456789abcdef",
    "lost": ["w1/7: 3 frames"],
    "members": ["authorization 3"],
    "method": "GET",
    "minutes": 15,
    "operation": "GET /items/{id}",
    "pairs": 1,
    "path": "/items/7",
    "permission": "users:write",
    "presents": "api_key",
    "previous": f"sha256:{_DIGEST}",
    "purpose": "mandate",
    "query": "name=gateway.*",
    "reason": "laptop lost",
    "replaced_by": "m-fedcba9876543210",
    "resource": "server:payments",
    "returned": 20,
    "rewrapped": 12,
    "role": "operator",
    "route": "/api/v1/authz/evaluate",
    "routing": "routable",
    "scope": "items:read",
    "sessions_ended": 2,
    "sha256": _DIGEST,
    "username": "jane.doe",
    "verdict": "PASS",
    "version": 3,
    "what": "tail",
    "workers": ["w1", "w2"],
    "why": "policy_error",
}
_BY_TYPE: dict[str, Detail] = {"str": "some words", "int": 7, "bool": True, "list[str]": ["one", "two"]}
_OF_CODE: dict[EventType, dict[str, Detail]] = {
    codes.AUTH_LOGIN_SUCCESS: {"method": "local"},
    codes.AUTH_LOGIN_FAILURE: {"method": "local"},
    codes.USER_CREATED: {"cause": "bootstrap"},
    codes.POLICY_ROLLED_BACK: {"change": "rollback"},
    codes.AUDIT_VERIFIED: {"findings": 1, "verdict": "FAIL"},
    codes.STREAM_CUT: {"cause": "revoked"},
    codes.ACCESS_REFUSED: {"route": "/api/v1/users"},
    codes.INSTALLATION_STARTED: {"version": "1.0.0"},
    codes.INSTALLATION_STOPPED: {"version": "1.0.0"},
}


def sample_details(kind: EventType, *, optional: bool = False) -> dict[str, Detail]:
    """The required details of ``kind``, or with ``optional`` all of them."""
    values = _VALUES | _OF_CODE.get(kind, {})
    return {
        field.name: values.get(field.name, _BY_TYPE[field.type])
        for field in DETAILS[kind]
        if field.required or optional
    }
