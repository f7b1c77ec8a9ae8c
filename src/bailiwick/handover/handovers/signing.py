"""How a team signs: by a WebAuthn key whose challenge is the pack's SHA-256, or by a second factor used just now.

What a key answered is kept as it is, so that anybody can check it with the public key that stands in the pack: the
authenticator signed this hash and nothing else. A step-up leaves no such thing; its proof is the event in the ledger.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from webauthn.helpers import decode_credential_public_key
from webauthn.helpers.decoded_public_key_to_cryptography import decoded_public_key_to_cryptography

from bailiwick.assurance.book import canonical
from bailiwick.identity.factors.keys import count_use, key_by_id, keys_of
from bailiwick.identity.factors.webauthn import (
    InvalidPasskey,
    KnownKey,
    RelyingParty,
    assertion_options,
    check_assertion,
    cloned,
    credential_id_of,
)
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.errors import BailiwickError, Conflict, Unauthenticated

__all__ = ["Keys", "assertion_digest", "key_name"]


def key_name(credential_id: bytes) -> str:
    """How a pack names a key: the SHA-256 of its credential id."""
    return hashlib.sha256(credential_id).hexdigest()


def public_key(key: KnownKey) -> str:
    """The public key as DER SubjectPublicKeyInfo, in base64."""
    decoded = decoded_public_key_to_cryptography(decode_credential_public_key(key.public_key))
    return base64.b64encode(decoded.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


def assertion_digest(assertion: Mapping[str, str] | None) -> str:
    """The SHA-256 of a kept assertion, which its event names; empty of a step-up."""
    return hashlib.sha256(canonical(dict(assertion))).hexdigest() if assertion else ""


class Keys:
    """The keys of those who sign. ``issuer``: the installation's own address."""

    def __init__(self, clock: Clock, issuer: str) -> None:
        self._clock = clock
        self._issuer = issuer

    def party(self) -> RelyingParty | None:
        """Who asks; None where the installation's address has no name, so that there are no keys."""
        try:
            return RelyingParty.of(self._issuer)
        except BailiwickError:
            return None

    async def named(self, tx: Transaction, zone: str, username: str) -> list[dict[str, str]]:
        """The keys of a person as a pack has them."""
        found = await keys_of(tx, zone, username)
        return [{"key": key_name(each.credential_id), "public": public_key(each)} for each in found]

    async def usable(self, tx: Transaction, zone: str, username: str, known: Sequence[str]) -> int:
        """How many keys of a person a pack that names ``known`` can be signed by now."""
        if self.party() is None:
            return 0
        return sum(key_name(each.credential_id) in known for each in await keys_of(tx, zone, username))

    async def options(
        self, tx: Transaction, zone: str, username: str, sha256: str, known: Sequence[str]
    ) -> dict[str, Any]:
        """What the keys of a person that a pack names (``known``) are asked: to sign its hash.

        Raises ``handover_key_unknown`` where it names none of his.
        """
        party = self.party()
        mine = [each for each in await keys_of(tx, zone, username) if key_name(each.credential_id) in known]
        if party is None or not mine:
            raise Conflict(reason="handover_key_unknown")
        return assertion_options(party, bytes.fromhex(sha256), mine, verify_user=False)

    async def assertion(
        self,
        tx: Transaction,
        zone: str,
        username: str,
        sha256: str,
        known: Sequence[str],
        credential: Mapping[str, Any],
    ) -> dict[str, str]:
        """What is kept of a key's answer. Raises ``invalid_passkey``, ``passkey_cloned``, ``handover_key_unknown``."""
        party = self.party()
        try:
            stored = await key_by_id(tx, zone, credential_id_of(credential))
            if party is None or stored is None or stored.username != username or stored.disabled:
                raise InvalidPasskey
            proof = check_assertion(party, credential, bytes.fromhex(sha256), stored.key, verify_user=False)
        except InvalidPasskey:
            raise Unauthenticated(reason="invalid_passkey") from None
        name = key_name(stored.key.credential_id)
        if name not in known:
            raise Conflict(reason="handover_key_unknown")
        if cloned(stored.key.sign_count, proof.sign_count):
            # signing in by it puts it out of use; here nothing is signed
            raise Unauthenticated(reason="passkey_cloned")
        await count_use(tx, stored.id, proof, self._clock.now())
        response = credential["response"]
        return {
            "key": name,
            "client_data": str(response["clientDataJSON"]),
            "authenticator_data": str(response["authenticatorData"]),
            "signature": str(response["signature"]),
        }
