"""One event of each code, and what it is in OCSF and ECS: ``python tests/evidence/golden_events.py --write``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from samples import sample_details

from bailiwick.evidence import codes
from bailiwick.evidence.codes import EVENT_TYPES, EventType
from bailiwick.evidence.events import VERSION, Actor, Event, Network, Outcome, Subject
from bailiwick.evidence.mapping import to_ecs, to_ocsf

GOLDEN = Path(__file__).parent / "golden"
FORMS = {"ocsf": to_ocsf, "ecs": to_ecs}

# What the events of a code are about, by the beginning of the code; "" for nothing.
_SUBJECTS = {
    "BW": "zone",
    "BW10": "user",
    "BW11": "user",
    "BW112": "group",
    "BW12": "application",
    "BW130": "zone",
    "BW131": "server",
    "BW132": "credential",
    "BW14": "identity-provider",
    "BW20": "policy-set",
    "BW21": "user",
    "BW3001": "mandate",
    "BW3002": "",
    "BW3003": "session",
    "BW3004": "worker",
    "BW301": "key",
    "BW302": "",
    "BW4001": "",
    "BW4002": "",
    "BW500": "ledger",
    "BW501": "ledger",
    "BW40": "mandate",
    "BW60": "zone",
    "BW6005": "part",
    "BW6007": "user",
    "BW61": "user",
}
_OF_SERVERS = {"BW13", "BW30", "BW40"}
_OUTCOMES: dict[EventType, tuple[Outcome, str]] = {
    codes.AUTH_LOGIN_FAILURE: ("failure", "invalid_credentials"),
    codes.AUTH_ACCOUNT_LOCKED: ("failure", ""),
    codes.POLICY_REFUSED: ("failure", "policy_broken"),
    codes.POLICY_TESTED: ("deny", ""),
    codes.DECISION_EVALUATED: ("deny", "policy_denied"),
    codes.MANDATE_REFUSED: ("deny", "insufficient_scope"),
    codes.GATEWAY_ALLOWED: ("allow", ""),
    codes.GATEWAY_DENIED: ("deny", "operation_not_listed"),
    codes.AUDIT_VERIFIED: ("failure", "audit_tamper_detected"),
    codes.ACCESS_REFUSED: ("deny", "permission_denied"),
}
# Nobody asks for these: the program does them by itself.
_OWN_DOING = {
    codes.KEY_RETIRED,
    codes.POLICY_KNOWN_GOOD,
    codes.POLICY_SUSPECT,
    codes.INSTALLATION_BOOTSTRAPPED,
    codes.INSTALLATION_STARTED,
}


def golden_event(kind: EventType) -> Event:
    """The event of ``kind`` that the golden files show, with every detail it may have."""
    prefix = max((each for each in _SUBJECTS if kind.code.startswith(each)), key=len)
    outcome, reason = _OUTCOMES.get(kind, ("success", ""))
    by_itself = kind in _OWN_DOING
    own = kind.code.startswith("BW10")
    name = {"user": "jane.doe" if own else "john.roe", "zone": "default", "ledger": "default", "part": "w1"}.get(
        _SUBJECTS[prefix], "payments"
    )
    return Event(
        actor=Actor()
        if by_itself
        else Actor(
            application="reporter", mandate="m-7", session="01981f00-0000-7000-8000-0000000000a1", user="jane.doe"
        ),
        at="2026-03-01T12:30:45.123456Z",
        client_request_id="" if by_itself else "their-7",
        code=kind.code,
        details=sample_details(kind, optional=True),
        id=f"01981f00-0000-7000-8000-00000000{kind.code[2:]}",
        name=kind.name,
        network=Network() if by_itself else Network("192.0.2.7", "curl/8.5.0"),
        outcome=outcome,
        policy_set="sha256:1f2e" if outcome in ("allow", "deny") else "",
        reasons=(reason,) if reason else (),
        request_id="" if by_itself else "01981f00-0000-7000-8000-0000000000b1",
        server="payments" if kind.code[:4] in _OF_SERVERS else "",
        subject=Subject(name, _SUBJECTS[prefix]) if _SUBJECTS[prefix] else None,
        trace_id="" if by_itself else "4bf92f3577b34da6a3ce929d0e0e4736",
        v=VERSION,
        zone="default",
    )


def written(form: str, kind: EventType) -> str:
    """The text of a golden file."""
    made: dict[str, Any] = FORMS[form](golden_event(kind))
    return json.dumps(made, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def main() -> int:
    """Write every golden file and remove those of no code."""
    if sys.argv[1:] != ["--write"]:
        print(__doc__)
        return 2
    for form in FORMS:
        folder = GOLDEN / form
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob("*.json"):
            if stale.stem not in EVENT_TYPES:
                stale.unlink()
        for code, kind in EVENT_TYPES.items():
            (folder / f"{code}.json").write_text(written(form, kind))
    print(f"{len(FORMS) * len(EVENT_TYPES)} files in {GOLDEN}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
