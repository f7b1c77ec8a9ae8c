"""What the OpenAPI document says of refusals, so that every status an operation answers stands in it.

FastAPI writes a 422 of its own beside every parameter; what we answer is a problem (RFC 9457) with the status of its
reason. Which statuses an operation can answer follows from its shape: what it reads, whether it needs a credential,
whether it changes something. A run of the whole document against an installation holds this.
"""

from __future__ import annotations

from typing import Any

from bailiwick.kernel.problems import MEDIA_TYPE

_METHODS = frozenset({"get", "put", "post", "delete", "patch", "head", "options", "trace"})
_CHANGES = frozenset({"put", "post", "delete", "patch"})
_FRAMEWORKS_OWN = ("HTTPValidationError", "ValidationError")

_SAID = {
    "400": "The request is malformed, or a field is missing, unknown or out of bounds",
    "401": "No live credential of this zone was presented",
    "403": "The caller is known and may not do this",
    "404": "There is nothing by that name, or the caller may not see it",
    "409": "The state of the resource does not allow this",
    "412": "If-Match names another version",
    "413": "The body is larger than this endpoint accepts",
    "415": "The content type is not one this endpoint reads",
    "422": "What was sent is well-formed and not admitted, or the Idempotency-Key was used with a different request",
    "429": "Too many requests; Retry-After says when to come back",
    "431": "The address with its query is longer than is read",
    "503": "A part that is needed is away, so the answer is no for now",
}

_PROBLEM = {
    "type": "object",
    "title": "Problem",
    "description": "RFC 9457. `reason` is stable; some reasons add members of their own.",
    "required": ["type", "title", "status", "detail", "reason", "request_id"],
    "examples": [
        {
            "type": "urn:bailiwick:problem:permission_denied",
            "title": "Your role does not hold the permission this needs.",
            "status": 403,
            "detail": "This needs the permission users:write.",
            "reason": "permission_denied",
            "request_id": "019a8f2e-7c1b-7000-8f6e-0d15e38770a2",
            "instance": "/api/v1/users",
        }
    ],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "reason": {"type": "string"},
        "request_id": {"type": "string"},
        "instance": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
}
_OAUTH_ERROR = {
    "type": "object",
    "title": "OAuthError",
    "description": "RFC 6749 section 5.2, with our reason code.",
    "required": ["error", "error_description", "reason"],
    "examples": [
        {"error": "invalid_scope", "error_description": "Not granted on that server.", "reason": "grant_exceeded"}
    ],
    "properties": {
        "error": {"type": "string"},
        "error_description": {"type": "string"},
        "reason": {"type": "string"},
    },
}
_PROBLEM_CONTENT = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
_SCIM_ERROR = {
    "type": "object",
    "title": "ScimError",
    "description": "RFC 7644 section 3.12; our reason code ends the detail.",
    "required": ["schemas", "status", "detail"],
    "properties": {
        "schemas": {"type": "array", "items": {"type": "string"}},
        "status": {"type": "string"},
        "scimType": {"type": "string"},
        "detail": {"type": "string"},
    },
}
_SCIM_CONTENT = {
    "application/scim+json": {"schema": {"$ref": "#/components/schemas/ScimError"}},
    # what is refused before it is known to be SCIM
    "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}},
}
_OAUTH_CONTENT = {"application/json": {"schema": {"$ref": "#/components/schemas/OAuthError"}}}


def describe_refusals(document: dict[str, Any]) -> None:
    """Write into ``document``, an OpenAPI 3.1 document as FastAPI generates it, what each operation refuses with.

    What an operation says of a status itself stays, and gets the form of a problem where it names no content.
    """
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method in _METHODS:
                _describe(path, method, operation)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in _FRAMEWORKS_OWN:
        schemas.pop(name, None)
    schemas.update(Problem=_PROBLEM, OAuthError=_OAUTH_ERROR, ScimError=_SCIM_ERROR)


def refusals(path: str, method: str, operation: dict[str, Any]) -> set[str]:
    """The statuses of the refusals that an operation of this shape can answer, beside what it says itself."""
    found = {"503"}
    if path.startswith("/oauth/"):
        return found | {"400", "401", "413", "415", "429"}
    places = {parameter.get("in") for parameter in operation.get("parameters", ())}
    if places or "requestBody" in operation:
        found.add("400")
    if "path" in places:
        found.add("404")
    if "query" in places:
        found.add("431")
    if operation.get("security"):
        found |= {"401", "403"}
    if "requestBody" in operation:
        found |= {"404", "413", "415"}  # what a body names may not be there either
    if path.startswith("/api/"):
        found.add("429")
        if method in _CHANGES:
            found |= {"409", "422"}
        if method in _CHANGES and "path" in places:
            found.add("412")
    return found


def _describe(path: str, method: str, operation: dict[str, Any]) -> None:
    responses = operation.setdefault("responses", {})
    if "HTTPValidationError" in str(responses.get("422", "")):
        del responses["422"]
    content = _PROBLEM_CONTENT
    if path.startswith("/oauth/"):
        content = _OAUTH_CONTENT
    elif path.startswith("/scim/"):
        content = _SCIM_CONTENT
    for status in refusals(path, method, operation):
        responses.setdefault(status, {"description": _SAID[status]})
    for status, response in responses.items():
        if status == "431":
            continue  # the proxy says it, in its own words
        if status[0] in "45":
            response.setdefault("content", content)
        elif path.startswith("/scim/"):
            for described in response.get("content", {}).values():
                described["schema"] = {"type": "object"}  # RFC 7643; /scim/v2/Schemas tells each in its own terms
    operation["responses"] = dict(sorted(responses.items()))
