"""A WebAuthn assertion checked offline (W3C WebAuthn Level 3, section 7.2), by a public key known beforehand.

What is checked: the client was asked for an assertion, over this challenge, by this origin; the authenticator answered
for this relying party with somebody present; and its signature is over exactly that. Counters and extensions decide
nothing here: they are for who keeps the key's history.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

_PRESENT, _VERIFIED = 0x01, 0x04
_LEAST_DATA = 37  # RP ID hash, flags, counter
_MOST = 64 << 10


class BadAssertion(ValueError):
    """Bytes that are no assertion over what they should be."""


@dataclass(frozen=True, slots=True)
class RelyingParty:
    """Who asked: a host name, and the origin that its page has."""

    id: str
    origin: str


def verify_assertion(
    party: RelyingParty,
    public: bytes,
    challenge: bytes,
    client_data: bytes,
    authenticator_data: bytes,
    signature: bytes,
) -> bool:
    """Whether the authenticator verified its user as well; raises :class:`BadAssertion` where the assertion fails.

    ``public``: DER SubjectPublicKeyInfo of a P-256, Ed25519 or RSA key.
    """
    _check_client(party, challenge, client_data)
    if len(authenticator_data) < _LEAST_DATA:
        raise BadAssertion("the authenticator's data is too short")
    if authenticator_data[:32] != hashlib.sha256(party.id.encode()).digest():
        raise BadAssertion("it is for another relying party")
    flags = authenticator_data[32]
    if not flags & _PRESENT:
        raise BadAssertion("nobody was present")
    _check_signature(public, signature, authenticator_data + hashlib.sha256(client_data).digest())
    return bool(flags & _VERIFIED)


def decoded(text: str) -> bytes:
    """The bytes of base64url without padding; raises :class:`BadAssertion`."""
    try:
        if len(text) > _MOST or set(text) & set("+/="):
            raise ValueError
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raise BadAssertion("a member is not base64url") from None


def _check_client(party: RelyingParty, challenge: bytes, client_data: bytes) -> None:
    try:
        told = json.loads(client_data)
        kind, answered, origin = told["type"], decoded(str(told["challenge"])), told["origin"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BadAssertion("the client's data cannot be read") from None
    if kind != "webauthn.get":
        raise BadAssertion("it is no assertion")
    if answered != challenge:
        raise BadAssertion("it is over another challenge")
    if origin != party.origin or told.get("crossOrigin") not in (None, False):
        raise BadAssertion("it was given to another origin")


def _check_signature(public: bytes, signature: bytes, signed: bytes) -> None:
    try:
        key = load_der_public_key(public)
        if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
            key.verify(signature, signed, ec.ECDSA(SHA256()))
        elif isinstance(key, Ed25519PublicKey):
            key.verify(signature, signed)
        elif isinstance(key, rsa.RSAPublicKey) and key.key_size >= 2048:
            key.verify(signature, signed, padding.PKCS1v15(), SHA256())
        else:
            raise BadAssertion("its key is of no kind that is known")
    except (InvalidSignature, UnsupportedAlgorithm, TypeError):
        raise BadAssertion("its signature is not genuine") from None
    except ValueError as error:
        raise BadAssertion(str(error) or "its key cannot be read") from None
