"""The routes of passkeys: enrolling them, signing in by one, and as the second factor of any other way.

Options are answered as ``publicKey`` in the JSON form that browsers parse by
``PublicKeyCredential.parseCreationOptionsFromJSON`` and ``parseRequestOptionsFromJSON``; what they make of them comes
back as ``toJSON()`` gives it (WebAuthn Level 3 §5.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field, SecretStr, StringConstraints

from bailiwick.evidence.requests import context_of
from bailiwick.identity.cookie_sessions import CookieSessions
from bailiwick.identity.login.passkeys import Passkeys
from bailiwick.identity.login.sign_ins import SignIns
from bailiwick.identity.login.throttle import COUNTED
from bailiwick.kernel.answers import never_store
from bailiwick.kernel.fields import Body, Line
from bailiwick.kernel.http import Caller, require, signed_in
from bailiwick.kernel.permissions import Permission

SelfCaller = Annotated[Caller, Depends(require(Permission.SELF))]
SignedInCaller = Annotated[Caller, Depends(signed_in)]
PendingToken = Annotated[SecretStr, Field(max_length=200)]
KeyName = Annotated[Line, StringConstraints(min_length=1)]


_BASE64URL = r"^[A-Za-z0-9_-]+$"
_Id = Annotated[str, StringConstraints(pattern=_BASE64URL, max_length=1364)]  # 1,023 bytes
_Handle = Annotated[str, StringConstraints(pattern=_BASE64URL, max_length=128)]
_Short = Annotated[str, StringConstraints(pattern=_BASE64URL, max_length=4096)]
_Long = Annotated[str, StringConstraints(pattern=_BASE64URL, max_length=65536)]
_Extensions = Annotated[dict[str, Any], Field(max_length=20)]

_REFUSED: dict[int | str, dict[str, Any]] = {401: {"description": "The passkey does not prove anybody"}}


class Attestation(Body):
    """What a new key says of itself."""

    clientDataJSON: _Short
    attestationObject: _Long
    authenticatorData: _Long | None = None
    publicKey: _Short | None = None
    publicKeyAlgorithm: int | None = None
    transports: Annotated[list[Annotated[str, StringConstraints(max_length=30)]], Field(max_length=10)] = Field(
        default_factory=list
    )


class Assertion(Body):
    """What a key signed."""

    clientDataJSON: _Short
    authenticatorData: _Short
    signature: _Short
    userHandle: _Handle | None = None


class _PublicKeyCredential(Body):
    id: _Id
    rawId: _Id
    type: Literal["public-key"]
    authenticatorAttachment: Literal["platform", "cross-platform"] | None = None
    clientExtensionResults: _Extensions = Field(default_factory=dict)

    def plain(self) -> Mapping[str, Any]:
        """The credential as the service takes it; what a key's extensions say decides nothing."""
        return self.model_dump(exclude_none=True, exclude={"clientExtensionResults"})


class NewCredential(_PublicKeyCredential):
    """What ``navigator.credentials.create()`` made."""

    response: Attestation


class UsedCredential(_PublicKeyCredential):
    """What ``navigator.credentials.get()`` made."""

    response: Assertion


class NewKeyBody(Body):
    """A new key and what to call it."""

    name: KeyName = "Passkey"
    credential: NewCredential


class UsedKeyBody(Body):
    """A key's answer."""

    credential: UsedCredential


class PendingKeyBody(Body):
    """The `mfa_token` of a sign-in that owes its second factor."""

    mfa_token: PendingToken


class EnrolledKeyBody(NewKeyBody):
    """A new key for a sign-in that may not go on without one."""

    mfa_token: PendingToken


class AnsweredKeyBody(UsedKeyBody):
    """A key's answer for a sign-in that owes it."""

    mfa_token: PendingToken


def add_routes(router: APIRouter, passkeys: Passkeys, sign_ins: SignIns, cookies: CookieSessions) -> None:
    """Add the routes of passkeys to identity's."""
    _sign_in_routes(router, passkeys, cookies)
    _second_factor_routes(router, passkeys, cookies)
    _own_key_routes(router, passkeys, sign_ins)


def _sign_in_routes(router: APIRouter, passkeys: Passkeys, cookies: CookieSessions) -> None:
    @router.post("/auth/login/passkey/options", tags=["auth"], summary="Begin to sign in by a passkey")
    async def begin(request: Request, response: Response) -> dict[str, Any]:
        never_store(response)
        return {"publicKey": await passkeys.open_challenge(context_of(request, None))}

    @router.post(
        "/auth/login/passkey/verify",
        tags=["auth"],
        summary="Sign in by a passkey alone",
        responses=_REFUSED,
        dependencies=COUNTED,
    )
    async def finish(request: Request, response: Response, body: UsedKeyBody) -> dict[str, Any]:
        """The passkey must have verified its person, and then no further factor is owed."""
        never_store(response)
        signed_in = await passkeys.sign_in(context_of(request, None), body.credential.plain())
        return cookies.answer(request, response, signed_in)


def _second_factor_routes(router: APIRouter, passkeys: Passkeys, cookies: CookieSessions) -> None:
    @router.post(
        "/auth/mfa/webauthn/options", tags=["auth"], summary="What one's passkeys are asked", responses=_REFUSED
    )
    async def ask(request: Request, response: Response, body: PendingKeyBody) -> dict[str, Any]:
        never_store(response)
        token = body.mfa_token.get_secret_value()
        return {"publicKey": await passkeys.challenge(context_of(request, None), token)}

    @router.post(
        "/auth/mfa/webauthn/verify",
        tags=["auth"],
        summary="Finish a sign-in by a passkey",
        responses=_REFUSED,
        dependencies=COUNTED,
    )
    async def answer(request: Request, response: Response, body: AnsweredKeyBody) -> dict[str, Any]:
        never_store(response)
        token = body.mfa_token.get_secret_value()
        signed_in = await passkeys.answer(context_of(request, None), token, body.credential.plain())
        return cookies.answer(request, response, signed_in)

    @router.post(
        "/auth/mfa/enrolment/webauthn/options",
        tags=["auth"],
        summary="Begin to enrol a passkey where a sign-in needs a factor",
        responses=_REFUSED,
    )
    async def begin_enrolment(request: Request, response: Response, body: PendingKeyBody) -> dict[str, Any]:
        never_store(response)
        token = body.mfa_token.get_secret_value()
        return {"publicKey": await passkeys.enrolment(context_of(request, None), token)}

    @router.post(
        "/auth/mfa/enrolment/webauthn/verify",
        tags=["auth"],
        summary="Enrol the passkey, and sign in",
        responses=_REFUSED,
        dependencies=COUNTED,
    )
    async def finish_enrolment(request: Request, response: Response, body: EnrolledKeyBody) -> dict[str, Any]:
        """The answer holds the recovery codes, which are told once."""
        never_store(response)
        token, context = body.mfa_token.get_secret_value(), context_of(request, None)
        signed_in = await passkeys.enrol(context, token, body.name, body.credential.plain())
        return cookies.answer(request, response, signed_in)

    @router.post("/auth/step-up/webauthn/options", tags=["auth"], summary="What one's passkeys are asked to step up")
    async def ask_again(request: Request, response: Response, caller: SignedInCaller) -> dict[str, Any]:
        never_store(response)
        return {"publicKey": await passkeys.step_up_challenge(context_of(request, caller))}

    @router.post(
        "/auth/step-up/webauthn/verify",
        tags=["auth"],
        summary="Prove by a passkey that it is still you (RFC 9470)",
        responses=_REFUSED,
    )
    async def step_up(
        request: Request, response: Response, caller: SignedInCaller, body: UsedKeyBody
    ) -> dict[str, Any]:
        """The next access token of this session; its `acr` and `auth_time` say what was just proven."""
        never_store(response)
        signed_in = await passkeys.step_up(context_of(request, caller), body.credential.plain())
        return cookies.answer(request, response, signed_in)


def _own_key_routes(router: APIRouter, passkeys: Passkeys, sign_ins: SignIns) -> None:
    @router.post("/auth/factors/webauthn/options", tags=["auth"], summary="Begin to enrol a passkey")
    async def begin(request: Request, response: Response, caller: SelfCaller) -> dict[str, Any]:
        never_store(response)
        await sign_ins.require_recent(caller)
        return {"publicKey": await passkeys.registration(context_of(request, caller))}

    @router.post("/auth/factors/webauthn/verify", tags=["auth"], status_code=201, summary="Enrol the passkey")
    async def finish(request: Request, response: Response, caller: SelfCaller, body: NewKeyBody) -> dict[str, Any]:
        """With the first factor come recovery codes, which are told once."""
        never_store(response)
        await sign_ins.require_recent(caller)
        told = await passkeys.register(context_of(request, caller), body.name, body.credential.plain())
        return {**await sign_ins.own_factors.list(caller.zone, caller.name), "recovery_codes": list(told)}
