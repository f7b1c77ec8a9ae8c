"""The token endpoint's decisions: client credentials (RFC 6749 §4.4) and token exchange (RFC 8693) → a mandate.

Authority only narrows. What comes out is bounded by what the application was granted on the server, by the scopes the
server's operations use, by the subject token (scope, audience, expiry) and by policy, asked once per scope. One scope
refused refuses the request: a caller never has to find out afterwards that it got less than it asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from bailiwick.authority.tokens import Act, Mandate
from bailiwick.identity.login.sign_ins import ACR_MFA
from bailiwick.kernel.errors import BailiwickError, Denied, InvalidRequest, Unauthenticated
from bailiwick.policy.decisions import Decision
from bailiwick.policy.inputs import verb_of

CLIENT_CREDENTIALS = "client_credentials"
TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105 - a grant type's name
ACCESS_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105
JWT_TYPE = "urn:ietf:params:oauth:token-type:jwt"
MAX_ACTORS = 8
STEP_UP = "insufficient_user_authentication"
"""What a policy says to have a person prove himself again; the reason, and the error of RFC 9470."""
_OUR_REASONS = frozenset({"policy_denied", "policy_error", "no_active_policy"})

# Parameters that must not be repeated (RFC 6749 §3.2); `resource` and `audience` may.
_KNOWN = frozenset(
    {
        "grant_type",
        "client_id",
        "client_secret",
        "scope",
        "resource",
        "audience",
        "subject_token",
        "subject_token_type",
        "requested_token_type",
    }
)


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A token request as parsed from the form; ``target`` is the one resource URI or server name asked for."""

    grant_type: str
    target: str
    scopes: tuple[str, ...]
    subject_token: str = ""


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody a policy input speaks of. ``kind`` is ``user`` or ``application``; ``amr`` and ``auth_time`` (epoch
    seconds): how and when a user proved himself."""

    kind: str
    id: str
    role: str
    amr: tuple[str, ...] = ()
    auth_time: int = 0

    def described(self) -> dict[str, Any]:
        """The ``subject`` of an input."""
        told: dict[str, Any] = {"type": self.kind, "id": self.id, "roles": [self.role]}
        if self.amr:
            told["amr"], told["auth_time"] = list(self.amr), self.auth_time
        return told


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The most that may be issued, gathered from everything the request stands on."""

    scopes: frozenset[str]
    expires_at: int | None = None
    user: Principal | None = None
    session: str = ""
    actors: Act | None = field(default=None)


class Grantee(Protocol):
    """The application as the rules need it."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def role(self) -> str: ...
    @property
    def grants(self) -> Mapping[str, Collection[str]]: ...


def parse_request(form: Sequence[tuple[str, str]]) -> TokenRequest:
    """Read the form's fields; raises ``InvalidRequest`` for what RFC 6749 and 8693 do not allow or we do not offer."""
    values: dict[str, str] = {}
    for name, value in form:
        if not value:
            continue  # RFC 6749 §3.1: sent without a value is as if omitted
        if name in values:
            raise InvalidRequest(f"The parameter {name} is repeated.")
        if name in {"actor_token", "actor_token_type"}:
            raise InvalidRequest("The authenticated client is the actor; actor_token is not taken.")
        if name in _KNOWN:
            values[name] = value
    grant_type = values.get("grant_type", "")
    if grant_type not in {CLIENT_CREDENTIALS, TOKEN_EXCHANGE}:
        raise OAuthError("unsupported_grant_type", "The grant type is not offered.")
    target = values.get("resource", "") or values.get("audience", "")
    if not target:
        raise OAuthError("invalid_target", "Name the server by `resource` (its URI) or `audience`.")
    if values.get("resource") and values.get("audience") and values["resource"] != values["audience"]:
        raise OAuthError("invalid_target", "`resource` and `audience` differ.")
    if values.get("requested_token_type", ACCESS_TOKEN_TYPE) not in {ACCESS_TOKEN_TYPE, JWT_TYPE}:
        raise InvalidRequest("Only access tokens are issued.")
    scopes = tuple(dict.fromkeys(values.get("scope", "").split()))
    if not scopes:
        raise OAuthError("invalid_scope", "Name the scopes wanted; there is no default.")
    subject_token = values.get("subject_token", "")
    if grant_type == TOKEN_EXCHANGE:
        if not subject_token:
            raise InvalidRequest("subject_token is missing.")
        if values.get("subject_token_type") not in {ACCESS_TOKEN_TYPE, JWT_TYPE}:
            raise InvalidRequest("subject_token_type is missing or not one we exchange.")
    elif subject_token:
        raise InvalidRequest("client_credentials takes no subject_token.")
    return TokenRequest(grant_type, target, scopes, subject_token)


class OAuthError(BailiwickError):
    """A refusal whose RFC 6749/8693 error code is not derived from the reason."""

    default_reason = "invalid_request"

    def __init__(self, code: str, detail: str, *, reason: str = "invalid_request") -> None:
        super().__init__(detail, reason=reason)
        self.code = code


def granted_scopes(application: Grantee, server: str) -> frozenset[str]:
    """What the application may ever ask for on ``server``."""
    return frozenset(application.grants.get(server, ()))


def narrow_to_subject(mandate: Mandate, audience: str, actor: str) -> Ceiling:
    """The ceiling set by a mandate presented as subject token: same server, no new scope, no later expiry.

    The actor chain grows by ``actor`` and never shrinks (RFC 8693 §4.1).
    """
    if mandate.aud != audience:
        raise OAuthError("invalid_target", "The subject token is for another server.", reason="wrong_audience")
    chain = mandate.act or Act(sub=mandate.client_id)
    depth, link = 1, chain
    while link.act is not None:
        depth, link = depth + 1, link.act
    if depth >= MAX_ACTORS:
        raise Denied(f"The actor chain is {depth} long already.", reason="grant_exceeded")
    user = Principal("user", mandate.sub, "", mandate.amr, mandate.auth_time) if mandate.sub_type == "user" else None
    return Ceiling(
        frozenset(mandate.scopes),
        expires_at=mandate.exp,
        user=user,
        session=mandate.sid,
        actors=chain if chain.sub == actor else Act(sub=actor, act=chain),
    )


def check_scopes(wanted: Sequence[str], ceiling: frozenset[str], offered: frozenset[str]) -> None:
    """Every scope wanted is one the server's operations use and within the ceiling, or the request is refused."""
    unknown = [scope for scope in wanted if scope not in offered]
    if unknown:
        raise OAuthError("invalid_scope", f"The server has no operation with scope {unknown[0]}.")
    beyond = [scope for scope in wanted if scope not in ceiling]
    if beyond:
        raise OAuthError("invalid_scope", f"Not granted: {' '.join(beyond)}.", reason="grant_exceeded")


def denial(decision: Decision) -> Denied | Unauthenticated:
    """The refusal that a policy's no amounts to; what the policy says in its own words goes along as ``reasons``.

    :data:`STEP_UP` among them asks for a second factor, or for a fresh proof: the challenge of RFC 9470.
    """
    if STEP_UP in decision.reasons:
        challenge = {"WWW-Authenticate": f'Bearer error="{STEP_UP}", acr_values="{ACR_MFA}"'}
        return Unauthenticated(reason=STEP_UP, headers=challenge, reasons=list(decision.reasons))
    reason = decision.reasons[0] if decision.reasons and decision.reasons[0] in _OUR_REASONS else "policy_denied"
    return Denied(reason=reason, reasons=list(decision.reasons))


def policy_input(
    *,
    stage: str,
    zone: str,
    subject: Principal,
    application: Grantee,
    server_name: str,
    server_tags: Mapping[str, str],
    scopes: Sequence[str],
    scope: str,
    operation: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The question put to the policy: the full contract and the seed's form (``user``, ``action``, ``resource``)."""
    return {
        "stage": stage,
        "zone": zone,
        "user": {"id": subject.id, "role": subject.role, "roles": [subject.role]},
        "action": verb_of(scope),
        "resource": server_name,
        "subject": subject.described(),
        "client": {
            "id": application.id,
            "name": application.name,
            "role": application.role,
            "grants": {server: sorted(granted) for server, granted in application.grants.items()},
        },
        "server": {"name": server_name, "tags": server_tags},
        "operation": operation if operation is not None else {"scope": scope},
        "scope": list(scopes),
    }
