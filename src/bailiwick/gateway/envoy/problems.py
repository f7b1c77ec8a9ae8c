"""What a caller is told when Envoy, not the check and not the upstream, answers (RFC 9457 problem+json).

Nothing of the request or of a credential is repeated. The check's own refusals pass through unchanged; two of
its status codes are translated, because Envoy takes a 5xx of the check for a failure of the check and drops
its body: 470 becomes 503 and 472 becomes 502.
"""

from __future__ import annotations

import json
from http import HTTPStatus

from bailiwick.gateway.envoy.protos import Config, set_header

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
            _problem(_status(CHECK_FAILED), 503, "check_unavailable", "No worker could decide on the request."),
            {"filter": _flags(_REFUSED_BY_CHECK)},
            _problem(_status(GUARD_FAILED), 503, "not_ready", "Lasting requests cannot be watched now."),
            _problem(_status(AUTHORITY_ENDED), 401, "token_revoked", "The authority behind the request has ended."),
            _problem(_flags(_UPSTREAM_TIMEOUT), 504, "upstream_timeout", "The upstream did not answer in time."),
            _problem(_flags(_UPSTREAM_UNAVAILABLE), 502, "upstream_unavailable", "The upstream did not answer."),
            *_common_mappers(),
        ]
    }


def api_replies() -> Config:
    """The API listener's `local_reply_config`."""
    return {
        "mappers": [
            _problem(_flags(_UPSTREAM_UNAVAILABLE), 503, "not_ready", "No worker answered."),
            *_common_mappers(),
        ]
    }


def _common_mappers() -> list[Config]:
    """What is left is said by HTTP itself: the codec, the body limits, the overload manager."""
    return [
        _problem(_status(400), 400, "ambiguous_request", "The request is not well-formed HTTP."),
        _problem(_status(403), 403, "forbidden_method", "The connection cannot be upgraded to that."),
        _problem(_status(404), 404, "unknown_server", "The request names no server."),
        _problem(_status(413), 413, "payload_too_large", "The body is larger than the server accepts."),
        _problem(_status(431), 431, "headers_too_large", "The request's headers are too large."),
        _problem(_status(408), 408, "invalid_request", "The request was not sent in time."),
        _problem(_status(426), 400, "invalid_request", "HTTP/1.1 or HTTP/2 is needed."),
        _problem(_status(501), 400, "ambiguous_request", "The transfer coding is not one that is carried."),
        _problem(_status(503), 503, "not_ready", "The gateway cannot take the request now."),
    ]


def problem(status: int, reason: str, detail: str) -> str:
    """A problem document as text."""
    return json.dumps(
        {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "reason": reason,
            "detail": detail,
        }
    )


def _problem(matching: Config, status: int, reason: str, detail: str) -> Config:
    return {
        "filter": matching,
        "status_code": status,
        "body_format_override": {
            "text_format_source": {"inline_string": problem(status, reason, detail)},
            "content_type": "application/problem+json",
        },
        "headers_to_add": [
            set_header("cache-control", "no-store"),
            set_header("x-request-id", "%REQ(X-REQUEST-ID)%"),
        ],
    }


def _status(code: int) -> Config:
    value = {"default_value": code, "runtime_key": f"bailiwick.status.{code}"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}


def _flags(flags: tuple[str, ...]) -> Config:
    return {"response_flag_filter": {"flags": list(flags)}}
