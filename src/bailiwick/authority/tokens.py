"""Tokens: mandates (RFC 9068 access tokens) and people's session tokens, signed ES256 and verified strictly.

What is checked before a signature is looked at: size, three segments, a JSON header with exactly the algorithm and
type we issue, and a key id this zone holds. The key is chosen by our table, never by the token (RFC 8725).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import msgspec
from joserfc import jws
from joserfc.errors import JoseError

from bailiwick.authority.keys import SigningKey, VerifyKey
from bailiwick.kernel.errors import Unauthenticated

T = TypeVar("T")

MAX_TOKEN_BYTES = 8192
MANDATE_TYPE = "at+jwt"
SESSION_TYPE = "bw-session+jwt"
_CLOCK_SKEW_S = 60
_REGISTRY = jws.JWSRegistry(algorithms=["ES256"])


class Act(msgspec.Struct, frozen=True, omit_defaults=True):
    """The actor chain of RFC 8693 §4.1: the current actor outermost."""

    sub: str
    act: Act | None = None


class Mandate(msgspec.Struct, frozen=True, omit_defaults=True, rename={"rev": "bw_rev", "policy": "bw_policy"}):
    """The claims of a mandate. Times are seconds since the epoch.

    ``rev`` is the feed revision the issuer had applied: a revocation with a later revision ends the mandate, whatever
    the clocks say. ``policy`` is the policy set that allowed it, ``sid`` the person's session it stands on, ``amr`` and
    ``auth_time`` how and when he proved himself (RFC 9068 §2.2.1).
    """

    iss: str
    aud: str
    sub: str
    client_id: str
    iat: int
    exp: int
    jti: str
    scope: str
    zone: str
    policy: str
    rev: int
    sub_type: str = "application"
    sid: str = ""
    act: Act | None = None
    amr: tuple[str, ...] = ()
    auth_time: int = 0

    @property
    def scopes(self) -> tuple[str, ...]:
        """The scopes as a tuple."""
        return tuple(self.scope.split())


class SessionToken(msgspec.Struct, frozen=True, rename={"rev": "bw_rev"}):
    """The claims of a person's API token. The role is not in it: the worker's memory knows the current one."""

    iss: str
    aud: str
    sub: str
    iat: int
    exp: int
    jti: str
    sid: str
    zone: str
    rev: int
    auth_time: int
    amr: tuple[str, ...] = ("pwd",)
    acr: str = ""


class _Header(msgspec.Struct):
    alg: str
    typ: str
    kid: str


_header_decoder = msgspec.json.Decoder(_Header)
_mandate_decoder = msgspec.json.Decoder(Mandate)
_session_decoder = msgspec.json.Decoder(SessionToken)


def sign(key: SigningKey, token_type: str, claims: Mandate | SessionToken) -> str:
    """A compact JWS of the claims."""
    header = {"alg": "ES256", "typ": token_type, "kid": key.kid}
    return jws.serialize_compact(header, msgspec.json.encode(claims), key.key, registry=_REGISTRY)


def read_header(token: str) -> _Header:
    """The protected header, unverified; raises ``invalid_token``."""
    if len(token) > MAX_TOKEN_BYTES or token.count(".") != 2:
        raise Unauthenticated("The token is not a compact JWS.", reason="invalid_token")
    segment = token[: token.index(".")]
    try:
        return _header_decoder.decode(base64.b64decode(segment + "=" * (-len(segment) % 4), b"-_", validate=True))
    except (binascii.Error, ValueError, msgspec.MsgspecError, RecursionError):
        raise Unauthenticated("The token's header cannot be read.", reason="invalid_token") from None


def verify_signature(token: str, token_type: str, purpose: str, keys: Mapping[str, VerifyKey]) -> bytes:
    """The payload of a token of ``token_type`` signed by one of ``keys``.

    Raises ``Unauthenticated`` with ``invalid_token`` or ``unknown_key``.
    """
    header = read_header(token)
    if header.alg != "ES256":
        raise Unauthenticated("The token's algorithm is not accepted.", reason="invalid_token")
    if header.typ != token_type:
        raise Unauthenticated("The token is of another type.", reason="invalid_token")
    key = keys.get(header.kid)
    if key is None or key.purpose != purpose:
        raise Unauthenticated(reason="unknown_key")
    try:
        return jws.deserialize_compact(token, key.key, registry=_REGISTRY).payload
    except (JoseError, ValueError, TypeError):
        raise Unauthenticated("The token's signature does not verify.", reason="invalid_token") from None


def decode_mandate(payload: bytes, issuer: str, zone: str, now: float) -> Mandate:
    """The claims, if they are this zone's and in force at ``now``."""
    mandate: Mandate = _decode(_mandate_decoder, payload)
    _check_standing(mandate.iss, mandate.zone, mandate.iat, mandate.exp, issuer, zone, now)
    return mandate


def decode_session(payload: bytes, issuer: str, zone: str, now: float) -> SessionToken:
    """The claims of a session token, if they are this zone's API's and in force at ``now``."""
    session: SessionToken = _decode(_session_decoder, payload)
    _check_standing(session.iss, session.zone, session.iat, session.exp, issuer, zone, now)
    if session.aud != f"{issuer}/api":
        raise Unauthenticated(reason="wrong_audience")
    return session


def _decode(decoder: msgspec.json.Decoder[Any], payload: bytes) -> Any:
    try:
        return decoder.decode(payload)
    except (msgspec.MsgspecError, RecursionError):
        raise Unauthenticated("The token's claims cannot be read.", reason="invalid_token") from None


def _check_standing(iss: str, claimed: str, iat: int, exp: int, issuer: str, zone: str, now: float) -> None:
    if claimed != zone or iss != issuer:
        raise Unauthenticated(reason="wrong_zone")
    if exp <= now:
        raise Unauthenticated(reason="token_expired")
    if iat > now + _CLOCK_SKEW_S:
        raise Unauthenticated("The token is from the future.", reason="invalid_token")


class VerifiedTokens(Generic[T]):
    """Tokens whose signature held, by digest, so that a repeated token costs a hash and not a verification.

    Bounded; an entry answers only what the signature covers, so expiry and revocation are still checked each time.
    """

    def __init__(self, verify: Callable[[str], T], capacity: int = 20_000) -> None:
        self._verify = verify
        self._capacity = capacity
        self._entries: OrderedDict[bytes, T] = OrderedDict()
        self.misses = 0

    def get(self, token: str) -> T:
        """The verified claims; raises what ``verify`` raises."""
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        known = self._entries.get(digest)
        if known is not None:
            return known
        self.misses += 1
        claims = self._verify(token)
        self._entries[digest] = claims
        if len(self._entries) > self._capacity:
            self._entries.popitem(last=False)
        return claims

    def clear(self) -> None:
        """Forget everything: a key was revoked."""
        self._entries.clear()
