"""Decision inputs: what a decision was made from, stored once per digest, sealed, apart from the event.

The event names the digest in ``details.input``; the worker puts the sealed bytes into the spool as a frame of
their own, the first time it sees the digest.
"""

from __future__ import annotations

import hashlib

from bailiwick.kernel.crypto import Sealer

DETAIL = "input"
_DIGEST_BYTES = 32


def digest_of(plaintext: bytes) -> str:
    """The SHA-256 of an input's bytes, in hexadecimal."""
    return hashlib.sha256(plaintext).hexdigest()


def input_aad(zone: str, digest: str) -> bytes:
    """What a sealed input is bound to."""
    return f"decision-input/{zone}/{digest}".encode()


def input_payload(sealer: Sealer, zone: str, digest: str, plaintext: bytes) -> bytes:
    """The payload of an INPUT frame: the digest (32 bytes), then the sealed input."""
    return bytes.fromhex(digest) + sealer.seal(plaintext, input_aad(zone, digest))


def split_payload(payload: bytes) -> tuple[str, bytes]:
    """Digest and sealed bytes of an INPUT frame's payload; raises ValueError when it is too short."""
    if len(payload) <= _DIGEST_BYTES:
        raise ValueError("a decision input is shorter than its digest")
    return payload[:_DIGEST_BYTES].hex(), payload[_DIGEST_BYTES:]
