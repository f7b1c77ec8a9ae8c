"""Errors as answers: the one mapping to RFC 9457 problem+json, and to RFC 6749 for the OAuth endpoints.

A problem holds ``type``, ``title``, ``status``, ``detail``, ``reason``, ``request_id`` and ``instance``, and whatever
members the error adds. What we did not foresee answers 500 ``internal_error`` and tells nothing but the request id,
under which the front logs the traceback.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import Send

from bailiwick.kernel.errors import REASONS, BailiwickError, InvalidRequest
from bailiwick.kernel.redaction import redact_text

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:bailiwick:problem:"

_MAX_ERRORS = 20
_MAX_MESSAGE = 200
_MAX_INSTANCE = 500

_BY_STATUS = {
    400: "invalid_request",
    401: "authentication_required",
    403: "permission_denied",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "payload_too_large",
    415: "unsupported_media_type",
    422: "invalid_request",
    429: "rate_limited",
    503: "not_ready",
}

# RFC 6749 §5.2, RFC 8693 §2.2.2 (a bad or unacceptable subject token is invalid_request), RFC 8707 §2
_OAUTH = {
    "invalid_client": "invalid_client",
    "application_disabled": "invalid_client",
    "authentication_required": "invalid_client",
    "invalid_credentials": "invalid_grant",
    "unsupported_grant_type": "unsupported_grant_type",
    "permission_denied": "unauthorized_client",
    "grant_exceeded": "invalid_scope",
    "insufficient_scope": "invalid_scope",
    "unknown_server": "invalid_target",
    "wrong_audience": "invalid_target",
    "insufficient_user_authentication": "access_denied",
    "policy_denied": "access_denied",
    "policy_error": "access_denied",
    "no_active_policy": "access_denied",
    "zone_archived": "access_denied",
}


class Refused(Protocol):
    """Takes note that a known caller was refused; the composition root puts one at ``app.state.refused``."""

    async def __call__(self, request: Request, error: BailiwickError) -> None:
        """Note it before the refusal is answered; what it raises is answered in its place."""
        ...


def install(app: FastAPI) -> None:
    """Answer every error of ``app`` as a problem, and tell ``app.state.refused``, if there is one, of each 403.

    Starlette sends the answer to an unforeseen exception and raises it again; ``kernel/front.py`` logs it there.
    """
    app.add_exception_handler(BailiwickError, _handle)
    app.add_exception_handler(RequestValidationError, _handle)
    app.add_exception_handler(HTTPException, _handle)
    app.add_exception_handler(Exception, _handle)


def as_error(raised: BaseException) -> BailiwickError:
    """The refusal that ``raised`` amounts to; ``internal_error`` for whatever we did not foresee."""
    if isinstance(raised, BailiwickError):
        return raised
    if isinstance(raised, RequestValidationError):
        return _validation_error(raised.errors())
    if isinstance(raised, HTTPException):
        return _http_error(raised)
    return BailiwickError()


def problem(error: BailiwickError, request_id: str = "", instance: str = "") -> dict[str, Any]:
    """The problem document of ``error`` as JSON values. ``instance`` is the path asked for, without its query."""
    document: dict[str, Any] = {
        **error.extra,
        "type": TYPE_PREFIX + error.reason,
        "title": REASONS[error.reason].meaning,
        "status": error.status,
        "detail": error.detail,
        "reason": error.reason,
        "request_id": request_id,
    }
    if instance:
        document["instance"] = redact_text(instance)[:_MAX_INSTANCE]
    return document


def problem_bytes(error: BailiwickError, request_id: str = "", instance: str = "") -> bytes:
    """The problem document of ``error``, encoded."""
    # ASCII escapes, so that a lone surrogate out of somebody's JSON is no second error
    return json.dumps(problem(error, request_id, instance), default=str, separators=(",", ":")).encode()


def problem_headers(error: BailiwickError) -> dict[str, str]:
    """The headers that go with it: those of the error, and a challenge (RFC 6750) with every 401."""
    headers = {"content-type": MEDIA_TYPE, "cache-control": "no-store"}
    if error.status == 401:
        told = "" if error.reason in {"authentication_required", "invalid_credentials"} else ', error="invalid_token"'
        headers["www-authenticate"] = f'Bearer realm="bailiwick"{told}'
    headers.update((name.lower(), value) for name, value in error.headers.items())
    return headers


def oauth_error(error: BailiwickError) -> tuple[int, dict[str, str]]:
    """Status and body of ``error`` at an OAuth endpoint (RFC 6749 §5.2), with our reason code beside the standard's."""
    status = error.status
    if error.reason in _OAUTH:
        code = _OAUTH[error.reason]
        status = 401 if code == "invalid_client" else 400
    elif status == 429 or status in {502, 503, 504}:
        code = "temporarily_unavailable"
    elif status >= 500:
        code = "server_error"
    else:
        code, status = "invalid_request", status if status in {405, 413, 415} else 400
    return status, {"error": code, "error_description": error.detail, "reason": error.reason}


def problem_response(error: BailiwickError, request_id: str = "", instance: str = "") -> Response:
    """The answer to ``error`` for FastAPI and Starlette."""
    return Response(problem_bytes(error, request_id, instance), error.status, problem_headers(error))


async def send_problem(send: Send, error: BailiwickError, request_id: str = "", instance: str = "") -> None:
    """Answer ``error`` from a raw ASGI endpoint."""
    body = problem_bytes(error, request_id, instance)
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in problem_headers(error).items()]
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def told_of_refusal(request: Request, error: BailiwickError) -> BailiwickError:
    """Tell ``app.state.refused`` of a known caller's 403; what is to be answered: ``error``, or that this failed."""
    refused: Refused | None = getattr(request.app.state, "refused", None)
    if refused is not None and error.status == 403 and request.scope.get("state", {}).get("caller") is not None:
        try:
            await refused(request, error)
        except BailiwickError as unavailable:
            return unavailable
    return error


async def _handle(request: Request, raised: Exception) -> Response:
    state, error = request.scope.get("state", {}), await told_of_refusal(request, as_error(raised))
    return problem_response(error, state.get("request_id", ""), state.get("path", request.url.path))


def _validation_error(errors: Sequence[Any]) -> BailiwickError:
    # `input` and `ctx` of an entry hold what was sent, which may be a secret: only place and message are told
    told = [
        {
            "field": redact_text(".".join(str(part) for part in entry.get("loc", ())))[:_MAX_MESSAGE],
            "message": redact_text(str(entry.get("msg", "")))[:_MAX_MESSAGE],
        }
        for entry in errors[:_MAX_ERRORS]
        if isinstance(entry, Mapping)
    ]
    first = f"{told[0]['field']}: {told[0]['message']}" if told else ""
    return InvalidRequest(first, errors=told)


def _http_error(raised: HTTPException) -> BailiwickError:
    reason = _BY_STATUS.get(raised.status_code)
    if reason is None:
        reason = "invalid_request" if raised.status_code < 500 else "internal_error"
    # only the framework raises these, and its words for a client error tell of the request, not of us
    detail = raised.detail if reason == "invalid_request" and isinstance(raised.detail, str) else ""
    return BailiwickError(redact_text(detail)[:_MAX_MESSAGE], reason=reason, headers=dict(raised.headers or {}))
