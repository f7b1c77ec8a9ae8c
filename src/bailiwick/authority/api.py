"""The authority room's routes: OAuth token, revocation and metadata endpoints, keys, and revocations."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, unquote_plus

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator

from bailiwick.authority.authenticate import Authenticator
from bailiwick.authority.emergency import EmergencyRotation
from bailiwick.authority.issuer import Issuer
from bailiwick.authority.keys import public_set
from bailiwick.authority.revocation import Revocation, Revocations, Settlement
from bailiwick.authority.rfc8693 import (
    ACCESS_TOKEN_TYPE,
    CLIENT_CREDENTIALS,
    TOKEN_EXCHANGE,
    OAuthError,
    parse_request,
)
from bailiwick.authority.snapshot import SnapshotStore
from bailiwick.authority.tokens import SESSION_TYPE, read_header
from bailiwick.evidence.requests import context_of
from bailiwick.kernel.db import Database
from bailiwick.kernel.errors import BailiwickError, InvalidRequest, NotFound, Unauthenticated
from bailiwick.kernel.http import Caller, Cursor, Limit, require, zone_of
from bailiwick.kernel.permissions import Permission
from bailiwick.kernel.problems import oauth_error

_MAX_FORM_BYTES = 64 * 1024
_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "application/x-www-form-urlencoded": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "grant_type": {"type": "string", "enum": [CLIENT_CREDENTIALS, TOKEN_EXCHANGE]},
                        "client_id": {"type": "string"},
                        "client_secret": {"type": "string"},
                        "resource": {"type": "string", "description": "The server's URI (RFC 8707)"},
                        "audience": {"type": "string", "description": "The server's name"},
                        "scope": {"type": "string", "description": "Scopes separated by spaces"},
                        "subject_token": {"type": "string"},
                        "subject_token_type": {"type": "string"},
                    },
                    "required": ["grant_type", "scope"],
                }
            }
        },
    }
}
_REVOKE_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "application/x-www-form-urlencoded": {
                "schema": {
                    "type": "object",
                    "properties": {"token": {"type": "string"}, "token_type_hint": {"type": "string"}},
                    "required": ["token"],
                }
            }
        },
    }
}


class TokenAnswer(BaseModel):
    """RFC 6749 §5.1 and RFC 8693 §2.2.1."""

    access_token: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105
    expires_in: int
    scope: str
    issued_token_type: str = ACCESS_TOKEN_TYPE


class RevocationRequest(BaseModel):
    """Exactly one of the four is named."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    mandate: str | None = Field(None, min_length=1, max_length=100, pattern=r"^[A-Za-z0-9-]+$", description="A jti")
    session: str | None = Field(None, min_length=1, max_length=100, pattern=r"^[A-Za-z0-9-]+$")
    application: str | None = Field(None, min_length=1, max_length=100, pattern=r"^[A-Za-z0-9._-]+$")
    user: str | None = Field(None, min_length=1, max_length=100, pattern=r"^[A-Za-z0-9._@-]+$")
    reason: str = Field("", max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")

    @model_validator(mode="after")
    def _one(self) -> RevocationRequest:
        if sum(value is not None for value in (self.mandate, self.session, self.application, self.user)) != 1:
            raise ValueError("name exactly one of mandate, session, application, user")
        return self


class RevocationAnswer(BaseModel):
    """When this is answered, nothing it ended is accepted any more."""

    revision: int
    kind: str
    key: str
    confirmed_by: list[str]
    fenced: list[str]
    waited_out: list[str]
    took_ms: float


class RotationRequest(BaseModel):
    """Which key to replace; ``emergency`` ends everything the old one signed."""

    model_config = ConfigDict(extra="forbid")

    purpose: Literal["mandate", "session", "ledger"] = "mandate"
    emergency: bool = False
    reason: str = Field("", max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")


def routes(
    database: Database,
    store: SnapshotStore,
    authenticator: Authenticator,
    issuer: Issuer,
    revocations: Revocations,
    rotation: EmergencyRotation,
    jwks_max_age_s: int = 60,
) -> APIRouter:
    """The router of the authority room."""
    router = APIRouter()

    @router.post(
        "/oauth/token", tags=["oauth"], summary="Get a mandate", openapi_extra=_FORM, response_model=TokenAnswer
    )
    async def token(request: Request) -> Response:
        """Client credentials or token exchange → a mandate for one server."""
        try:
            form = await _form(request)
            state, application = await issuer.client(context_of(request, None), *_client(request, form))
            wanted = parse_request([(name, value) for name, value in form if name != "client_secret"])
            mandate, text = await issuer.issue(state, application, wanted, context_of(request, None))
        except BailiwickError as error:
            return _oauth_refusal(error)
        answer = TokenAnswer(access_token=text, expires_in=mandate.exp - mandate.iat, scope=mandate.scope)
        return JSONResponse(answer.model_dump(), headers=_NO_STORE)

    @router.post(
        "/oauth/revoke",
        tags=["oauth"],
        summary="Give a mandate up",
        openapi_extra=_REVOKE_FORM,
        response_class=Response,
    )
    async def revoke_token(request: Request) -> Response:
        """RFC 7009. Unknown, foreign and expired tokens are answered 200 like revoked ones."""
        try:
            form = await _form(request)
            state, application = await issuer.client(context_of(request, None), *_client(request, form))
            presented = next((value for name, value in form if name == "token"), "")
            if not presented:
                raise InvalidRequest("token is missing.")
            try:
                if read_header(presented).typ == SESSION_TYPE:
                    return Response(headers=_NO_STORE)  # a person's session is not an application's to end
                mandate = authenticator.mandate(presented, state).mandate
            except Unauthenticated:
                return Response(headers=_NO_STORE)
            if mandate.client_id != application.id:
                return Response(headers=_NO_STORE)
            context = context_of(request, None)
            async with database.begin() as tx:
                revision = await revocations.revoke(tx, context, "mandate", mandate.jti, "revoked by its application")
            await revocations.settle(revision, context)
        except BailiwickError as error:
            return _oauth_refusal(error)
        return Response(headers=_NO_STORE)

    @router.get("/.well-known/jwks.json", tags=["oauth"], summary="Public keys of the zone")
    async def jwks(request: Request) -> Response:
        """The keys that mandates and session tokens of this zone verify with."""
        keys = public_set(list(store.current.zone(zone_of(request)).keys.values()))
        return JSONResponse(keys, headers={"Cache-Control": f"public, max-age={jwks_max_age_s}"})

    @router.get("/.well-known/oauth-authorization-server", tags=["oauth"], summary="Where the OAuth endpoints are")
    async def metadata(request: Request) -> dict[str, Any]:
        """RFC 8414."""
        issuer_url = store.current.zone(zone_of(request)).issuer
        return {
            "issuer": issuer_url,
            "token_endpoint": f"{issuer_url}/oauth/token",
            "revocation_endpoint": f"{issuer_url}/oauth/revoke",
            "jwks_uri": f"{issuer_url}/.well-known/jwks.json",
            "grant_types_supported": [CLIENT_CREDENTIALS, TOKEN_EXCHANGE],
            "response_types_supported": [],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
            "revocation_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        }

    @router.post("/api/v1/revocations", tags=["authority"], summary="End authority", status_code=201)
    async def revoke(
        body: RevocationRequest, request: Request, caller: Annotated[Caller, Depends(require(Permission.REVOKE))]
    ) -> RevocationAnswer:
        """End authority everywhere; answers when it has ended."""
        kind, key = _named(body)
        state = store.current.zone(caller.zone)
        if kind == "user" and key not in state.users:
            raise NotFound(f"There is no user {key}.")
        stored = key
        if kind == "application":
            found = next((app.id for app in state.applications.values() if key in (app.name, app.id)), None)
            if found is None:
                raise NotFound(f"There is no application {key}.")
            stored = found
        context = context_of(request, caller)
        async with database.begin() as tx:
            revision = await revocations.revoke(tx, context, kind, stored, body.reason)
        return _settled(await revocations.settle(revision, context), kind, key)

    @router.get("/api/v1/revocations", tags=["authority"], summary="List what was revoked")
    async def list_revocations(
        caller: Annotated[Caller, Depends(require(Permission.REVOCATIONS_READ))],
        cursor: Cursor = None,
        limit: Limit = 50,
    ) -> dict[str, Any]:
        """Newest first."""
        found, following = await revocations.list(caller.zone, cursor, limit)
        return {"items": [_shown(revocation) for revocation in found], "next": following}

    @router.get("/api/v1/keys", tags=["authority"], summary="List signing keys")
    async def list_keys(caller: Annotated[Caller, Depends(require(Permission.REVOCATIONS_READ))]) -> dict[str, Any]:
        """The zone's keys that still verify."""
        keys = store.current.zone(caller.zone).keys.values()
        shown = [{"kid": key.kid, "purpose": key.purpose, "alg": key.algorithm, "state": key.state} for key in keys]
        return {"items": sorted(shown, key=lambda key: str(key["kid"])), "next": None}

    @router.post("/api/v1/keys/rotate", tags=["authority"], summary="Replace a signing key", status_code=201)
    async def rotate(
        body: RotationRequest, request: Request, caller: Annotated[Caller, Depends(require(Permission.KEYS_ROTATE))]
    ) -> dict[str, Any]:
        """Replace a signing key. An emergency ends what the old key signed and lists the mandates affected."""
        return await rotation.rotate(
            context_of(request, caller), body.purpose, emergency=body.emergency, reason=body.reason
        )

    return router


_NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}


async def _form(request: Request) -> list[tuple[str, str]]:
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise InvalidRequest("Send application/x-www-form-urlencoded.")
    body = await request.body()
    if len(body) > _MAX_FORM_BYTES:
        raise BailiwickError(reason="payload_too_large", headers={"connection": "close"})
    try:
        form = parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=50, errors="strict")
    except ValueError:
        raise InvalidRequest("The form cannot be read.") from None
    if any("\x00" in name or "\x00" in value for name, value in form):
        raise InvalidRequest("The form holds a NUL character.")
    return form


def _client(request: Request, form: list[tuple[str, str]]) -> tuple[str, str]:
    """Client id and secret, by HTTP Basic or in the body, never both (RFC 6749 §2.3)."""
    ids = [value for name, value in form if name == "client_id"]
    secrets = [value for name, value in form if name == "client_secret"]
    if len(ids) > 1 or len(secrets) > 1:
        raise InvalidRequest("client_id or client_secret is repeated.")
    authorization = request.headers.get("authorization", "")
    if authorization:
        scheme, _, encoded = authorization.partition(" ")
        if secrets:
            raise InvalidRequest("The client authenticates in two ways.")
        try:
            name, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise Unauthenticated(reason="invalid_client") from None
        if scheme.lower() != "basic" or "\x00" in name:
            raise Unauthenticated(reason="invalid_client")
        return unquote_plus(name), unquote_plus(secret)
    if not ids or not secrets:
        raise Unauthenticated("The client did not authenticate.", reason="invalid_client")
    return ids[0], secrets[0]


def _oauth_refusal(error: BailiwickError) -> Response:
    status, body = oauth_error(error)
    if isinstance(error, OAuthError):
        status, body = (400, {**body, "error": error.code})
    headers = {**_NO_STORE, **error.headers}
    if status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="bailiwick"'
    return JSONResponse(body, status_code=status, headers=headers)


def _named(body: RevocationRequest) -> tuple[Literal["mandate", "session", "application", "user"], str]:
    if body.mandate is not None:
        return "mandate", body.mandate
    if body.session is not None:
        return "session", body.session
    if body.application is not None:
        return "application", body.application
    return "user", body.user or ""


def _settled(settlement: Settlement, kind: str, key: str) -> RevocationAnswer:
    return RevocationAnswer(
        revision=settlement.revision,
        kind=kind,
        key=key,
        confirmed_by=list(settlement.confirmed),
        fenced=list(settlement.fenced),
        waited_out=list(settlement.waited_out),
        took_ms=settlement.took_ms,
    )


def _shown(revocation: Revocation) -> dict[str, Any]:
    return {
        "revision": revocation.revision,
        "kind": revocation.kind,
        "key": revocation.key,
        "reason": revocation.reason,
        "revoked_by": revocation.revoked_by,
        "revoked_at": revocation.revoked_at.isoformat(),
    }
