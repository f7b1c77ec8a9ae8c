"""What a caller is told when Envoy, not the check and not the upstream, answers (RFC 9457 problem+json).

Nothing of the request or of a credential is repeated. The check's own refusals pass through unchanged; two of
its status codes are translated, because Envoy takes a 5xx of the check for a failure of the check and drops
its body: 470 becomes 503 and 472 becomes 502.
"""

from __future__ import annotations

import json
from typing import Any

from bailiwick.gateway.envoy.protos import Config, set_header
from bailiwick.kernel.errors import REASONS
from bailiwick.kernel.front import SECURITY_HEADERS

REFUSED_503 = 470
REFUSED_502 = 472

# What the filters answer when the check or the guard fails. Envoy wants registered codes here; these two
# appear nowhere else on the way, and no caller ever sees them.
CHECK_FAILED = 511
GUARD_FAILED = 508

# The guard's own refusal (`guard.AUTHORITY_ENDED_STATUS`).
AUTHORITY_ENDED = 510

# Response flags of Envoy's access log documentation.
_UPSTREAM_TIMEOUT = ("UT", "SI", "UMSDR")
_UPSTREAM_UNAVAILABLE = ("UF", "UC", "UR", "UO", "UH", "NC", "URX", "UPE", "LR", "DF")
_REFUSED_BY_CHECK = ("UAEX",)


def gateway_replies() -> Config:
    """The gateway listener's `local_reply_config`. The first mapper that fits counts."""
    return {
        "mappers": [
            {"filter": _status(REFUSED_503), "status_code": 503},
            {"filter": _status(REFUSED_502), "status_code": 502},
            _problem(_status(CHECK_FAILED), "check_unavailable", decided=False),
            {"filter": _flags(_REFUSED_BY_CHECK)},
            _problem(_status(GUARD_FAILED), "guard_unavailable"),
            _problem(_status(AUTHORITY_ENDED), "token_revoked"),
            _problem(_flags(_UPSTREAM_TIMEOUT), "upstream_timeout"),
            _problem(_flags(_UPSTREAM_UNAVAILABLE), "upstream_unavailable"),
            _problem(_status(413), "payload_too_large"),
            *_said_by_http(),
        ]
    }


def api_replies() -> Config:
    """The API listener's `local_reply_config`. Browsers are told what a worker would have told them."""
    no_worker = _problem(_flags(_UPSTREAM_UNAVAILABLE), "not_ready", decided=False)
    secured = [set_header(name.decode(), value.decode()) for name, value in SECURITY_HEADERS]
    mappers = [no_worker, *_said_by_http()]
    return {"mappers": [{**each, "headers_to_add": [*each["headers_to_add"], *secured]} for each in mappers]}


def _said_by_http() -> list[Config]:
    """What is left is said by the protocol itself, before any room of ours had the request."""
    reasons = {
        400: "ambiguous_request",
        403: "forbidden_method",  # an upgrade to something that is not carried
        404: "unknown_server",
        408: "invalid_request",
        426: "invalid_request",
        431: "headers_too_large",
        501: "ambiguous_request",
        503: "not_ready",
    }
    return [_problem(_status(status), reason, decided=False) for status, reason in reasons.items()]


def problem(reason: str) -> dict[str, Any]:
    """The problem document of a reason code, as `kernel.problems` makes it."""
    known = REASONS[reason]
    told = {"type": f"urn:bailiwick:problem:{reason}", "title": known.meaning, "status": known.status}
    return {**told, "detail": known.meaning, "reason": reason}


def _problem(matching: Config, reason: str, *, decided: bool = True) -> Config:
    """Answer `reason` where `matching` fits. `decided` says that the check gave the request its id."""
    document = problem(reason)
    headers = [set_header("cache-control", "no-store")]
    if decided:
        document["request_id"] = "%REQ(X-REQUEST-ID)%"
        headers.append(set_header("x-request-id", "%REQ(X-REQUEST-ID)%"))
    if REASONS[reason].status == 401:
        headers.append(set_header("www-authenticate", 'Bearer error="invalid_token"'))
    return {
        "filter": matching,
        "status_code": REASONS[reason].status,
        "body_format_override": {
            "text_format_source": {"inline_string": json.dumps(document, separators=(",", ":"))},
            "content_type": "application/problem+json",
        },
        "headers_to_add": headers,
    }


def _status(code: int) -> Config:
    value = {"default_value": code, "runtime_key": f"bailiwick.status.{code}"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}


def _flags(flags: tuple[str, ...]) -> Config:
    return {"response_flag_filter": {"flags": list(flags)}}
