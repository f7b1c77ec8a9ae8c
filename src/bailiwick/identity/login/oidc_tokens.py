"""What OpenID providers say, judged: discovery documents, key sets, ID tokens and logout tokens. No input or output.

OpenID Connect Core 1.0 §3.1.3.7, Discovery 1.0 §4.3, Back-Channel Logout 1.0 §2.6, RFC 8725 and RFC 9700. The
algorithm and the key are chosen by our tables, never by the token; a key belongs to one family of algorithms, so a
public key never becomes an HMAC secret.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from bailiwick.kernel.settings import LOOPBACK

CLOCK_SKEW_S = 60
# an ID token is used seconds after it was made; one from long ago comes from somewhere else
OLDEST_TOKEN_S = 600
MAX_TOKEN_BYTES = 32 * 1024
MAX_KEYS = 100
_LONGEST_HEADER = 8192
LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"
# algorithm: kind of key, curve where there is one, and the hash of `at_hash`
_ALGORITHMS: Mapping[str, tuple[str, str, str]] = {
    "RS256": ("RSA", "", "sha256"),
    "RS384": ("RSA", "", "sha384"),
    "RS512": ("RSA", "", "sha512"),
    "PS256": ("RSA", "", "sha256"),
    "PS384": ("RSA", "", "sha384"),
    "PS512": ("RSA", "", "sha512"),
    "ES256": ("EC", "P-256", "sha256"),
    "ES384": ("EC", "P-384", "sha384"),
    "ES512": ("EC", "P-521", "sha512"),
    "EdDSA": ("OKP", "Ed25519", "sha512"),
    "Ed25519": ("OKP", "Ed25519", "sha512"),
}
ALGORITHMS = tuple(_ALGORITHMS)
"""Algorithms a provider may sign with: neither ``none`` nor one with a shared secret."""
# longer ones only serve to keep us busy
_RSA_BITS = range(2048, 8193)
_LONGEST_SUBJECT = 255

PublicKey = RSAKey | ECKey | OKPKey


class ProviderFault(Exception):
    """What a provider said does not hold, or it said nothing. ``told``: a sentence for an operator; no secrets.

    ``away`` says that it could not be reached or answered in time, as opposed to having answered wrongly.
    """

    def __init__(self, told: str, *, away: bool = False) -> None:
        super().__init__(told)
        self.told = told
        self.away = away


class UnknownKey(ProviderFault):
    """A token names a key that the set at hand does not have; the provider may have rotated its keys."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a discovery document says, after it was judged."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str
    end_session_endpoint: str
    algorithms: tuple[str, ...]
    auth_methods: tuple[str, ...]
    names_itself: bool  # RFC 9207: every authorization response carries `iss`
    backchannel_logout: bool


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One public key of a provider, and the algorithms it may be used with."""

    kid: str
    key: PublicKey
    algorithms: frozenset[str]


@dataclass(frozen=True, slots=True)
class Expected:
    """What an ID token must say. ``nonce`` None only where no sign-in is at hand; ``now`` in seconds since 1970."""

    issuer: str
    client_id: str
    algorithms: tuple[str, ...]
    now: float
    nonce: str | None = None
    access_token: str = ""


@dataclass(frozen=True, slots=True)
class LogoutToken:
    """A judged logout token: whose sessions end (``subject``), or which one (``sid``); one of them may be empty."""

    subject: str
    sid: str
    jti: str
    expires_at: float


# ---------------------------------------------------------------------- addresses and documents


def checked_url(text: Any, what: str) -> str:
    """An https address (http on loopback) without user, fragment or odd characters; raises :class:`ProviderFault`."""
    if not isinstance(text, str) or len(text) > 2000 or not text.isascii() or any(ord(char) <= 32 for char in text):
        raise ProviderFault(f"{what} is not an address")
    try:
        parts = urlsplit(text)
        host, _port = parts.hostname, parts.port
    except ValueError:
        raise ProviderFault(f"{what} is not an address") from None
    if not host or "@" in parts.netloc or "\\" in text or parts.fragment or text.endswith("#"):
        raise ProviderFault(f"{what} is not an address")
    if parts.scheme != "https" and not (parts.scheme == "http" and host in LOOPBACK):
        raise ProviderFault(f"{what} is not an https address")
    return text


def parse_metadata(document: Any, issuer: str) -> Metadata:
    """The discovery document of ``issuer``; raises :class:`ProviderFault` for one that is somebody else's or unfit."""
    if not isinstance(document, dict):
        raise ProviderFault("the discovery document is not a JSON object")
    # compared as strings (Discovery §4.3): a document that names another issuer would let it sign for this one
    if document.get("issuer") != issuer:
        raise ProviderFault("the discovery document names another issuer than the one configured")
    methods = _strings(document, "code_challenge_methods_supported")
    if methods is not None and "S256" not in methods:
        raise ProviderFault("the provider does not offer PKCE with S256")
    responses = _strings(document, "response_types_supported")
    if responses is not None and "code" not in responses:
        raise ProviderFault("the provider does not offer the authorization code flow")
    signs = _strings(document, "id_token_signing_alg_values_supported")
    algorithms = tuple(name for name in (signs if signs is not None else ["RS256"]) if name in _ALGORITHMS)
    if not algorithms:
        raise ProviderFault("the provider signs ID tokens with no algorithm that is accepted here")
    return Metadata(
        issuer=issuer,
        authorization_endpoint=checked_url(document.get("authorization_endpoint"), "authorization_endpoint"),
        token_endpoint=checked_url(document.get("token_endpoint"), "token_endpoint"),
        jwks_uri=checked_url(document.get("jwks_uri"), "jwks_uri"),
        userinfo_endpoint=_optional_url(document, "userinfo_endpoint"),
        end_session_endpoint=_optional_url(document, "end_session_endpoint"),
        algorithms=algorithms,
        auth_methods=tuple(_strings(document, "token_endpoint_auth_methods_supported") or ["client_secret_basic"]),
        names_itself=document.get("authorization_response_iss_parameter_supported") is True,
        backchannel_logout=document.get("backchannel_logout_supported") is True,
    )


def parse_keys(document: Any) -> tuple[SigningKey, ...]:
    """The signing keys of a JWK set that we can use; others are left out. Raises :class:`ProviderFault` for no set."""
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list) or len(listed) > MAX_KEYS:
        raise ProviderFault("the key set is not a JWK set")
    found = [key for each in listed if (key := _signing_key(each)) is not None]
    if not found:
        raise ProviderFault("the key set has no public key that is accepted here")
    return tuple(found)


# ---------------------------------------------------------------------- tokens


def verify_id_token(token: Any, keys: Sequence[SigningKey], expected: Expected) -> dict[str, Any]:
    """The claims of an ID token; raises :class:`UnknownKey`, or :class:`ProviderFault` saying what does not hold."""
    header, claims = _verified(token, keys, expected.algorithms, "the ID token")
    # RFC 8725 §3.11: a logout token or an access token is not an ID token
    if str(header.get("typ", "JWT")).lower() not in ("jwt", "id_token+jwt"):
        raise ProviderFault("the ID token is of another type")
    if "events" in claims:
        raise ProviderFault("the ID token is a logout token")
    _check_issuer_and_audience(claims, expected, "the ID token")
    _check_times(claims, expected.now, "the ID token")
    if expected.nonce is not None and not _same(claims.get("nonce"), expected.nonce):
        raise ProviderFault("the ID token answers another sign-in (nonce)")
    if "at_hash" in claims and expected.access_token:
        digest = hashlib.new(_ALGORITHMS[header["alg"]][2], expected.access_token.encode()).digest()
        if not _same(claims["at_hash"], _b64(digest[: len(digest) // 2])):
            raise ProviderFault("the access token is not the one of the ID token (at_hash)")
    subject_of(claims)
    return claims


def verify_logout_token(token: Any, keys: Sequence[SigningKey], expected: Expected) -> LogoutToken:
    """A logout token (Back-Channel Logout §2.6); raises like :func:`verify_id_token`."""
    header, claims = _verified(token, keys, expected.algorithms, "the logout token")
    if str(header.get("typ", "logout+jwt")).lower() not in ("logout+jwt", "jwt"):
        raise ProviderFault("the logout token is of another type")
    _check_issuer_and_audience(claims, expected, "the logout token")
    # older providers give it no expiry; its age is bounded all the same
    until = _check_times(claims, expected.now, "the logout token", needs_expiry=False)
    events = claims.get("events")
    if not isinstance(events, dict) or not isinstance(events.get(LOGOUT_EVENT), dict):
        raise ProviderFault("the token tells of no logout")
    if "nonce" in claims:  # which is how an ID token is kept from being sent as one
        raise ProviderFault("the logout token has a nonce")
    jti, sid = claims.get("jti"), claims.get("sid", "")
    if not isinstance(jti, str) or not 1 <= len(jti) <= 500:
        raise ProviderFault("the logout token has no id (jti)")
    if not isinstance(sid, str) or len(sid) > 500:
        raise ProviderFault("the logout token's sid is not text")
    subject = subject_of(claims) if "sub" in claims else ""
    if not subject and not sid:
        raise ProviderFault("the logout token names neither a person nor a session")
    return LogoutToken(subject, sid, jti, until)


def subject_of(claims: Mapping[str, Any]) -> str:
    """``sub``: text of at most 255 characters (Core §2), compared as it stands."""
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 1 <= len(subject) <= _LONGEST_SUBJECT or not subject.isprintable():
        raise ProviderFault("the subject (sub) is missing or not text")
    return subject


def _verified(
    token: Any, keys: Sequence[SigningKey], algorithms: tuple[str, ...], what: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    if not isinstance(token, str) or not token.isascii() or len(token) > MAX_TOKEN_BYTES or token.count(".") != 2:
        raise ProviderFault(f"{what} is not a signed token")
    header = _json_object(token.split(".")[0], what)
    algorithm, kid = header.get("alg"), header.get("kid", "")
    if not isinstance(algorithm, str) or algorithm not in algorithms or algorithm not in _ALGORITHMS:
        raise ProviderFault(f"{what} is signed by an algorithm that is not accepted")
    if "crit" in header or "b64" in header:
        raise ProviderFault(f"{what} asks for extensions that are not known here")
    if not isinstance(kid, str):
        raise ProviderFault(f"{what} is not a signed token")
    key = _choose(keys, algorithm, kid, what)
    registry = jws.JWSRegistry(algorithms=[algorithm])
    registry.max_header_length = _LONGEST_HEADER  # some send their certificates along, which are not looked at
    try:
        jws.deserialize_compact(token, key, algorithms=[algorithm], registry=registry)
    except (JoseError, ValueError):
        raise ProviderFault(f"the signature of {what} does not hold") from None
    return header, _json_object(token.split(".")[1], what)


def _choose(keys: Sequence[SigningKey], algorithm: str, kid: str, what: str) -> PublicKey:
    fitting = [each for each in keys if algorithm in each.algorithms and (not kid or each.kid == kid)]
    if len(fitting) == 1:
        return fitting[0].key
    if fitting:
        raise ProviderFault(f"{what} does not say which key signed it, and several may have")
    raise UnknownKey(f"{what} is signed by a key that the provider does not publish")


def _check_issuer_and_audience(claims: Mapping[str, Any], expected: Expected, what: str) -> None:
    if not _same(claims.get("iss"), expected.issuer):
        raise ProviderFault(f"{what} comes from another issuer")
    audience = claims.get("aud")
    audiences = [audience] if isinstance(audience, str) else audience
    if not isinstance(audiences, list) or not all(isinstance(each, str) for each in audiences):
        raise ProviderFault(f"{what} names no audience")
    if expected.client_id not in audiences:
        raise ProviderFault(f"{what} is for another client (aud)")
    party = claims.get("azp")
    if (len(audiences) > 1 or party is not None) and party != expected.client_id:
        raise ProviderFault(f"{what} was given to another client (azp)")


def _check_times(claims: Mapping[str, Any], now: float, what: str, *, needs_expiry: bool = True) -> float:
    """Judges ``iat``, ``nbf`` and ``exp``; answers until when the token could be shown again."""
    issued, expires, begins = _instant(claims, "iat"), _instant(claims, "exp"), _instant(claims, "nbf")
    if issued is None or (expires is None and needs_expiry):
        raise ProviderFault(f"{what} does not say when it was made or when it ends")
    if issued > now + CLOCK_SKEW_S or (begins is not None and begins > now + CLOCK_SKEW_S):
        raise ProviderFault(f"{what} is from the future; compare the clocks")
    if issued < now - OLDEST_TOKEN_S - CLOCK_SKEW_S or (expires is not None and expires <= now - CLOCK_SKEW_S):
        raise ProviderFault(f"{what} is too old; compare the clocks")
    return issued + OLDEST_TOKEN_S + 2 * CLOCK_SKEW_S


def _instant(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    # a year of five digits is no instant, and NaN compares as never too old
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 253_402_300_800:
        raise ProviderFault(f"the token's {name} is not an instant")
    return float(value)


# ---------------------------------------------------------------------- keys


def _signing_key(jwk: Any) -> SigningKey | None:
    if not isinstance(jwk, dict) or jwk.get("use", "sig") != "sig":
        return None
    operations = jwk.get("key_ops")
    if operations is not None and (not isinstance(operations, list) or "verify" not in operations):
        return None
    kind, curve, kid, named = jwk.get("kty"), jwk.get("crv", ""), jwk.get("kid", ""), jwk.get("alg")
    fitting = {name for name, (kty, crv, _) in _ALGORITHMS.items() if (kty, crv) == (kind, curve if crv else "")}
    if named is not None:
        fitting &= {named} if isinstance(named, str) else set()
    if not fitting or not isinstance(kid, str) or len(kid) > 500:
        return None
    key = _import(kind, {name: jwk[name] for name in ("kty", "crv", "n", "e", "x", "y") if name in jwk})
    return SigningKey(kid, key, frozenset(fitting)) if key is not None else None


def _import(kind: Any, public: dict[str, Any]) -> PublicKey | None:
    """The public half alone, whatever else stood there."""
    try:
        if kind == "RSA":
            modulus = int.from_bytes(base64.urlsafe_b64decode(public["n"] + "=="))
            return RSAKey.import_key(public) if modulus.bit_length() in _RSA_BITS else None
        return ECKey.import_key(public) if kind == "EC" else OKPKey.import_key(public)
    except (JoseError, ValueError, TypeError, KeyError, AttributeError):
        return None


# ---------------------------------------------------------------------- parts


def _strings(document: Mapping[str, Any], name: str) -> list[str] | None:
    value = document.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or len(value) > 200:
        raise ProviderFault(f"{name} of the discovery document is not a list")
    return [each for each in value if isinstance(each, str)]


def _optional_url(document: Mapping[str, Any], name: str) -> str:
    return checked_url(document[name], name) if document.get(name) is not None else ""


def _json_object(segment: str, what: str) -> dict[str, Any]:
    try:
        raw = base64.b64decode(segment + "=" * (-len(segment) % 4), altchars=b"-_", validate=True)
        value = json.loads(raw, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise ProviderFault(f"{what} is not a signed token") from None
    if not isinstance(value, dict):
        raise ProviderFault(f"{what} is not a signed token")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names stand once each: readers differ about which of two counts."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _same(left: Any, right: str) -> bool:
    return isinstance(left, str) and hmac.compare_digest(_bytes(left), _bytes(right))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # JSON may hold half a character


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
