"""An authenticator in software, of ours: it can verify its user, hold discoverable keys, and be copied."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import os
from dataclasses import dataclass, field
from typing import Any

import cbor2
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

_UP, _UV, _BE, _BS, _AT = 0x01, 0x04, 0x08, 0x10, 0x40


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@dataclass
class SoftKey:
    """One key. ``counts`` False shows the count 0 for ever, as synced passkeys do."""

    origin: str = "https://bailiwick.example.com"
    verifies: bool = True
    counts: bool = True
    identifier: bytes = field(default_factory=lambda: os.urandom(32))
    private: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    count: int = 0
    user: bytes = b""

    def copied(self) -> SoftKey:
        """The same key in another hand."""
        return copy.copy(self)

    def create(self, options: dict[str, Any], **changed: Any) -> dict[str, Any]:
        """The answer to registration options; ``changed`` members of the client data are forged."""
        self.user = decoded(options["user"]["id"])
        numbers = self.private.public_key().public_numbers()
        cose = {1: 2, 3: -7, -1: 1, -2: numbers.x.to_bytes(32, "big"), -3: numbers.y.to_bytes(32, "big")}
        attested = bytes(16) + len(self.identifier).to_bytes(2, "big") + self.identifier + cbor2.dumps(cose)
        data = self._data(options["rp"]["id"], _AT) + attested
        made = cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": data})
        client = self._client("webauthn.create", options["challenge"], changed)
        return self._credential(
            {"clientDataJSON": encoded(client), "attestationObject": encoded(made), "transports": ["internal"]}
        )

    def get(self, options: dict[str, Any], *, rp_id: str = "", handle: bool = True, **changed: Any) -> dict[str, Any]:
        """The answer to assertion options."""
        data = self._data(rp_id or options["rpId"], 0)
        client = self._client("webauthn.get", options["challenge"], changed)
        signature = self.private.sign(data + hashlib.sha256(client).digest(), ec.ECDSA(SHA256()))
        response = {
            "clientDataJSON": encoded(client),
            "authenticatorData": encoded(data),
            "signature": encoded(signature),
        }
        if handle:
            response["userHandle"] = encoded(self.user)
        return self._credential(response)

    def _data(self, rp_id: str, flags: int) -> bytes:
        if self.counts:
            self.count += 1
        flags |= _UP | (_UV if self.verifies else 0)
        return hashlib.sha256(rp_id.encode()).digest() + bytes([flags]) + self.count.to_bytes(4, "big")

    def _client(self, kind: str, challenge: str, changed: dict[str, Any]) -> bytes:
        told = {"type": kind, "challenge": challenge, "origin": self.origin, "crossOrigin": False}
        return json.dumps({**told, **changed}).encode()

    def _credential(self, response: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": encoded(self.identifier),
            "rawId": encoded(self.identifier),
            "type": "public-key",
            "authenticatorAttachment": "platform",
            "response": response,
            "clientExtensionResults": {},
        }
