"""What opens a backup, sealed: no key that opens its secrets lies beside it in the clear.

The key-encryption keys are sealed to a public key by HPKE (RFC 9180: DHKEM(X25519), HKDF-SHA256, AES-256-GCM), whose
private key is printed once, kept elsewhere, and needed only to restore.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from bailiwick.kernel.errors import BailiwickError

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class WrongKey(BailiwickError):
    """``backup_key_wrong``: the key does not open the backup."""

    default_reason = "backup_key_wrong"


def make_pair() -> tuple[str, str]:
    """A fresh pair: the private key and the public one, each as 64 hexadecimal digits."""
    private = X25519PrivateKey.generate()
    return private.private_bytes_raw().hex(), private.public_key().public_bytes_raw().hex()


def seal_to(public: str, plaintext: bytes, about: str) -> bytes:
    """Seal to the holder of the private key. ``about``: what it belongs to, needed again to open it."""
    key = X25519PublicKey.from_public_bytes(bytes.fromhex(public))
    return _SUITE.encrypt(plaintext, key, info=about.encode())


def open_with(private: str, sealed: bytes, about: str) -> bytes:
    """What was sealed; raises :class:`WrongKey`."""
    try:
        key = X25519PrivateKey.from_private_bytes(bytes.fromhex(private.strip()))
        return _SUITE.decrypt(sealed, key, info=about.encode())
    except (InvalidTag, ValueError):
        raise WrongKey("The escrow key does not open the keys of this backup.") from None
