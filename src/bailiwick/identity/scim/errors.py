"""SCIM's own form of refusals (RFC 7644 §3.12)."""

from __future__ import annotations

from typing import Any, Literal

from bailiwick.kernel.errors import BailiwickError

ERROR_URN = "urn:ietf:params:scim:api:messages:2.0:Error"

ScimType = Literal[
    "invalidFilter", "tooMany", "uniqueness", "mutability", "invalidSyntax", "invalidPath", "noTarget", "invalidValue"
]

_TYPES: dict[str, ScimType] = {"already_exists": "uniqueness", "invalid_request": "invalidValue"}


class ScimError(BailiwickError):
    """What was asked is not SCIM, or not possible; ``scim_type`` is the standard's word for it."""

    default_reason = "invalid_request"

    def __init__(self, scim_type: ScimType, detail: str, *, reason: str | None = None) -> None:
        super().__init__(detail, reason=reason)
        self.scim_type = scim_type


def error_document(error: BailiwickError, request_id: str) -> dict[str, Any]:
    """The standard's document, with our reason code and the request's id beside it."""
    scim_type = error.scim_type if isinstance(error, ScimError) else _TYPES.get(error.reason)
    return {
        "schemas": [ERROR_URN],
        "status": str(error.status),
        **({"scimType": scim_type} if scim_type else {}),
        "detail": error.detail,
        "reason": error.reason,
        "request_id": request_id,
    }
