"""Envelope encryption of secrets at rest.

Each secret has a data key of its own (AES-256-GCM); the data key is wrapped by a key-encryption key (KEK).
Rotating the KEK re-wraps data keys and leaves the secrets' ciphertexts alone. The associated data binds a sealed
value to the row it belongs to, so a ciphertext copied to another row does not open.

Format: ``b"BW1" | len(kek id) u8 | kek id | nonce 12 | wrapped data key 48 | nonce 12 | ciphertext``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_MAGIC = b"BW1"
_NONCE = 12
_WRAPPED = 32 + 16


class SealError(Exception):
    """A sealed value cannot be opened: unknown KEK, wrong row or altered bytes."""


class Sealer:
    """Seals and opens secrets under a set of KEKs, writing with ``active``."""

    def __init__(self, keks: Mapping[str, bytes], active: str) -> None:
        if active not in keks:
            raise SealError("the active key-encryption key is not among the keys given")
        if any(len(key) != 32 for key in keks.values()):
            raise SealError("a key-encryption key must be 32 bytes")
        self._keks = {kid: AESGCM(key) for kid, key in keks.items()}
        self.active = active

    def seal(self, plaintext: bytes, aad: bytes) -> bytes:
        """Encrypt ``plaintext``, bound to ``aad`` (for example ``b"credential/<id>"``)."""
        data_key = os.urandom(32)
        wrapped = self._wrap(data_key, aad)
        nonce = os.urandom(_NONCE)
        return wrapped + nonce + AESGCM(data_key).encrypt(nonce, plaintext, aad)

    def open(self, sealed: bytes, aad: bytes) -> bytes:
        """The plaintext; raises :class:`SealError` for anything that was not sealed by us for this ``aad``."""
        data_key, rest = self._unwrap(sealed, aad)
        try:
            return AESGCM(data_key).decrypt(rest[:_NONCE], rest[_NONCE:], aad)
        except InvalidTag:
            raise SealError("the sealed value was altered or belongs elsewhere") from None

    def rewrap(self, sealed: bytes, aad: bytes) -> bytes:
        """The same secret with its data key wrapped by the active KEK."""
        data_key, rest = self._unwrap(sealed, aad)
        return self._wrap(data_key, aad) + rest

    @staticmethod
    def kek_of(sealed: bytes) -> str:
        """The id of the KEK that wraps this value."""
        if sealed[:3] != _MAGIC:
            raise SealError("not a sealed value")
        return sealed[4 : 4 + sealed[3]].decode()

    def _wrap(self, data_key: bytes, aad: bytes) -> bytes:
        kid = self.active.encode()
        nonce = os.urandom(_NONCE)
        return _MAGIC + bytes([len(kid)]) + kid + nonce + self._keks[self.active].encrypt(nonce, data_key, aad)

    def _unwrap(self, sealed: bytes, aad: bytes) -> tuple[bytes, bytes]:
        kid = self.kek_of(sealed)
        kek = self._keks.get(kid)
        if kek is None:
            raise SealError(f"key-encryption key {kid!r} is not available")
        start = 4 + len(kid.encode())
        nonce, wrapped = sealed[start : start + _NONCE], sealed[start + _NONCE : start + _NONCE + _WRAPPED]
        try:
            return kek.decrypt(nonce, wrapped, aad), sealed[start + _NONCE + _WRAPPED :]
        except InvalidTag:
            raise SealError("the sealed value was altered or belongs elsewhere") from None


class KekFile:
    """The KEKs of an installation in one 0600 file: a line ``<id> <64 hex digits>`` each, the last is active."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def ensure(self) -> None:
        """Make the file with one fresh key unless it exists."""
        if not self.path.exists():
            self._write([self._fresh()])

    def load(self) -> Sealer:
        """A sealer over all keys of the file; raises :class:`SealError` when it is missing or malformed."""
        keys = dict(self._lines())
        if not keys:
            raise SealError(f"no key-encryption key in {self.path}")
        return Sealer(keys, active=list(keys)[-1])

    def add(self) -> str:
        """Append a fresh key, which becomes the active one; answers its id."""
        fresh = self._fresh()
        self._write([*self._lines(), fresh])
        return fresh[0]

    def ids(self) -> list[str]:
        """The ids of all keys, the active one last."""
        return [kid for kid, _ in self._lines()]

    def retire(self, kid: str) -> None:
        """Remove a key that nothing is wrapped by any more."""
        self._write([(known, key) for known, key in self._lines() if known != kid])

    @staticmethod
    def _fresh() -> tuple[str, bytes]:
        key = os.urandom(32)
        return hashlib.sha256(b"bailiwick-kek" + key).hexdigest()[:12], key

    def _lines(self) -> list[tuple[str, bytes]]:
        try:
            text = self.path.read_text()
        except FileNotFoundError:
            return []
        try:
            return [(line.split()[0], bytes.fromhex(line.split()[1])) for line in text.splitlines() if line.strip()]
        except (IndexError, ValueError):
            raise SealError(f"{self.path} is malformed") from None

    def _write(self, keys: list[tuple[str, bytes]]) -> None:
        temporary = self.path.with_suffix(".new")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "w") as stream:
            stream.writelines(f"{kid} {key.hex()}\n" for kid, key in keys)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(self.path)
