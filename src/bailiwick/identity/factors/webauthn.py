"""Passkeys and security keys (W3C WebAuthn Level 3): what is asked of them, and whether an answer holds.

Pure rules over the ``webauthn`` library: no row is read here. The relying party is the installation itself, named by
its issuer: the RP ID is the host, the origin is exact. Challenges live on the server, once and for five minutes
(``identity/factors/keys.py``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from webauthn import (
    generate_authentication_options,
    generate_registration_options,
    options_to_json,
    verify_authentication_response,
    verify_registration_response,
)
from webauthn.helpers import base64url_to_bytes
from webauthn.helpers.cose import COSEAlgorithmIdentifier
from webauthn.helpers.structs import (
    AuthenticatorSelectionCriteria,
    AuthenticatorTransport,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from bailiwick.kernel.errors import Conflict

CHALLENGE_BYTES = 32
_TIMEOUT_MS = 5 * 60 * 1000
_ALGORITHMS = [
    COSEAlgorithmIdentifier.EDDSA,
    COSEAlgorithmIdentifier.ECDSA_SHA_256,
    COSEAlgorithmIdentifier.RSASSA_PKCS1_v1_5_SHA_256,
]
# WebAuthn §6.5: ids of more bytes are refused by the standard itself
_LONGEST_CREDENTIAL_ID = 1023
_TRANSPORTS = {each.value: each for each in AuthenticatorTransport}


class InvalidPasskey(Exception):
    """The answer is not one of the key to the challenge: forged, for another origin, or not understood."""


@dataclass(frozen=True, slots=True)
class RelyingParty:
    """Who asks: ``id`` is a host name, ``origin`` what a browser's page has, ``scheme://host[:port]``."""

    id: str
    origin: str

    @classmethod
    def of(cls, issuer: str) -> RelyingParty:
        """The relying party of an installation. Raises ``Conflict`` (``passkeys_unavailable``) where its address has
        no name: browsers make no passkeys for IP addresses."""
        parts = urlsplit(issuer)
        host = (parts.hostname or "").lower()
        try:
            ip_address(host)
        except ValueError:
            pass
        else:
            raise Conflict(reason="passkeys_unavailable")
        default = {"https": 443, "http": 80}.get(parts.scheme)
        port = "" if parts.port in (None, default) else f":{parts.port}"
        return cls(host, f"{parts.scheme}://{host}{port}")


@dataclass(frozen=True, slots=True)
class NewKey:
    """What a registration proved. ``sign_count`` is 0 for authenticators that keep none."""

    credential_id: bytes
    public_key: bytes
    sign_count: int
    aaguid: str
    backed_up: bool
    user_verified: bool
    transports: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A key as stored, to be asked or judged."""

    credential_id: bytes
    public_key: bytes
    sign_count: int
    transports: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Proof:
    """What an assertion proved."""

    sign_count: int
    user_verified: bool
    backed_up: bool


def registration_options(
    party: RelyingParty, challenge: bytes, user_id: str, username: str, display_name: str, known: Sequence[KnownKey]
) -> dict[str, Any]:
    """What ``navigator.credentials.create()`` is called with (``publicKey``, JSON form). ``user_id`` is a UUID: the
    user handle names nobody (WebAuthn §14.6.1)."""
    options = generate_registration_options(
        rp_id=party.id,
        rp_name="Bailiwick",
        user_id=user_handle(user_id),
        user_name=username,
        user_display_name=display_name or username,
        challenge=challenge,
        timeout=_TIMEOUT_MS,
        authenticator_selection=AuthenticatorSelectionCriteria(
            resident_key=ResidentKeyRequirement.PREFERRED, user_verification=UserVerificationRequirement.PREFERRED
        ),
        exclude_credentials=_descriptors(known),
        supported_pub_key_algs=_ALGORITHMS,
    )
    return dict(json.loads(options_to_json(options)))


def assertion_options(
    party: RelyingParty, challenge: bytes, allowed: Sequence[KnownKey], *, verify_user: bool
) -> dict[str, Any]:
    """What ``navigator.credentials.get()`` is called with. Without ``allowed`` the person chooses a passkey."""
    wanted = UserVerificationRequirement.REQUIRED if verify_user else UserVerificationRequirement.PREFERRED
    options = generate_authentication_options(
        rp_id=party.id,
        challenge=challenge,
        timeout=_TIMEOUT_MS,
        allow_credentials=_descriptors(allowed) or None,
        user_verification=wanted,
    )
    return dict(json.loads(options_to_json(options)))


def challenge_of(credential: Mapping[str, Any]) -> bytes:
    """The challenge that an answer claims to be to; raises :class:`InvalidPasskey`."""
    try:
        told = json.loads(base64url_to_bytes(credential["response"]["clientDataJSON"]))
        challenge = base64url_to_bytes(told["challenge"])
    except Exception:  # noqa: BLE001 - a caller's bytes: whatever is wrong with them, they are no answer
        raise InvalidPasskey from None
    if len(challenge) != CHALLENGE_BYTES:
        raise InvalidPasskey
    return challenge


def credential_id_of(credential: Mapping[str, Any]) -> bytes:
    """The raw id of the key that an answer names; raises :class:`InvalidPasskey`."""
    try:
        identifier = base64url_to_bytes(credential["rawId"])
    except Exception:  # noqa: BLE001 - as above
        raise InvalidPasskey from None
    if not 1 <= len(identifier) <= _LONGEST_CREDENTIAL_ID:
        raise InvalidPasskey
    return identifier


def user_handle_of(credential: Mapping[str, Any]) -> bytes | None:
    """The user handle in an assertion, which discoverable keys always tell; None when there is none."""
    told = credential.get("response", {}).get("userHandle")
    try:
        return base64url_to_bytes(told) if told else None
    except Exception:  # noqa: BLE001 - as above
        raise InvalidPasskey from None


def user_handle(user_id: str) -> bytes:
    """What a key remembers the user by."""
    return UUID(user_id).bytes


def check_registration(party: RelyingParty, credential: Mapping[str, Any], challenge: bytes) -> NewKey:
    """The key of an answer to :func:`registration_options`; raises :class:`InvalidPasskey`.

    No attestation is asked for: which maker's key it is changes nothing here, so none is trusted either.
    """
    try:
        verified = verify_registration_response(
            credential=dict(credential),
            expected_challenge=challenge,
            expected_rp_id=party.id,
            expected_origin=party.origin,
            supported_pub_key_algs=_ALGORITHMS,
        )
    except Exception:  # noqa: BLE001 - the library raises much beside its own errors for malformed input
        raise InvalidPasskey from None
    if verified.credential_id != credential_id_of(credential):
        raise InvalidPasskey
    told = credential.get("response", {}).get("transports") or ()
    return NewKey(
        verified.credential_id,
        verified.credential_public_key,
        verified.sign_count,
        verified.aaguid,
        verified.credential_backed_up,
        verified.user_verified,
        tuple(sorted({name for name in told if name in _TRANSPORTS})),
    )


def check_assertion(
    party: RelyingParty, credential: Mapping[str, Any], challenge: bytes, key: KnownKey, *, verify_user: bool
) -> Proof:
    """What an answer to :func:`assertion_options` proves; raises :class:`InvalidPasskey`. The signature count is told
    and not judged: see :func:`cloned`."""
    try:
        verified = verify_authentication_response(
            credential=dict(credential),
            expected_challenge=challenge,
            expected_rp_id=party.id,
            expected_origin=party.origin,
            credential_public_key=key.public_key,
            credential_current_sign_count=0,
            require_user_verification=verify_user,
        )
    except Exception:  # noqa: BLE001 - as above
        raise InvalidPasskey from None
    return Proof(verified.new_sign_count, verified.user_verified, verified.credential_backed_up)


def cloned(known: int, shown: int) -> bool:
    """Whether a signature count says that two copies of the key are in use (WebAuthn §6.1.1). Many keep no count."""
    return (known > 0 or shown > 0) and shown <= known


def _descriptors(keys: Sequence[KnownKey]) -> list[PublicKeyCredentialDescriptor]:
    return [
        PublicKeyCredentialDescriptor(
            id=key.credential_id, transports=[_TRANSPORTS[name] for name in key.transports if name in _TRANSPORTS]
        )
        for key in keys
    ]
