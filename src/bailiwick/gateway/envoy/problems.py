"""What a caller is told when Envoy, not the check and not the upstream, answers (RFC 9457 problem+json).

Nothing of the request or of a credential is repeated. The check's own refusals pass through unchanged; two of
its status codes are translated, because Envoy takes a 5xx of the check for a failure of the check and drops
its body: 470 becomes 503 and 472 becomes 502.
"""

from __future__ import annotations

import json

from bailiwick.gateway.envoy.protos import Config

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
_REFUSED_BY_CODEC = ("DPE",)


def gateway_replies() -> Config:
    """The gateway listener's `local_reply_config`."""
    return {
        "mappers": [
            {"filter": _status(REFUSED_503), "status_code": 503},
            {"filter": _status(REFUSED_502), "status_code": 502},
            _problem(_status(CHECK_FAILED), 503, "check_unavailable", "No worker could decide on the request."),
            _problem(_status(GUARD_FAILED), 503, "guard_unavailable", "Live streams cannot be watched now."),
            _problem(_status(AUTHORITY_ENDED), 403, "authority_ended", "The authority behind the request ended."),
            _problem(_flags(_UPSTREAM_TIMEOUT), 504, "upstream_timeout", "The upstream did not answer in time."),
            _problem(_flags(_UPSTREAM_UNAVAILABLE), 502, "upstream_unavailable", "The upstream did not answer."),
            *_common_mappers(),
        ]
    }


def api_replies() -> Config:
    """The API listener's `local_reply_config`."""
    return {
        "mappers": [
            _problem(_flags(_UPSTREAM_TIMEOUT), 504, "api_timeout", "The service did not answer in time."),
            _problem(_flags(_UPSTREAM_UNAVAILABLE), 503, "api_unavailable", "No worker answered."),
            *_common_mappers(),
        ]
    }


def _common_mappers() -> list[Config]:
    # The codec, the fault filter (which judges declared lengths) and the overload manager mark their own
    # replies; the check's refusals with the same status keep their body.
    return [
        _problem(_both(413, ("FI",)), 413, "request_too_large", "The body is larger than the server accepts."),
        _problem(_both(400, _REFUSED_BY_CODEC), 400, "request_malformed", "The request is not valid HTTP."),
        _problem(_both(431, _REFUSED_BY_CODEC), 431, "headers_too_large", "The request's headers are too large."),
        _problem(_both(503, ("OM",)), 503, "overloaded", "Too many requests."),
    ]


def problem(status: int, reason: str, detail: str) -> str:
    """A problem document as text."""
    return json.dumps({"type": "about:blank", "status": status, "reason": reason, "detail": detail})


def _problem(matching: Config, status: int, reason: str, detail: str) -> Config:
    return {
        "filter": matching,
        "status_code": status,
        "body_format_override": {
            "text_format_source": {"inline_string": problem(status, reason, detail)},
            "content_type": "application/problem+json",
        },
        "headers_to_add": [
            {
                "header": {"key": "cache-control", "value": "no-store"},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            },
            {
                "header": {"key": "x-request-id", "value": "%REQ(X-REQUEST-ID)%"},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            },
        ],
    }


def _status(code: int) -> Config:
    value = {"default_value": code, "runtime_key": f"bailiwick.status.{code}"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}


def _flags(flags: tuple[str, ...]) -> Config:
    return {"response_flag_filter": {"flags": list(flags)}}


def _both(code: int, flags: tuple[str, ...]) -> Config:
    return {"and_filter": {"filters": [_status(code), _flags(flags)]}}
