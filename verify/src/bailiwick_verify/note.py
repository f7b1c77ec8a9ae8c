"""C2SP signed notes, and the two kinds of Ed25519 signature a checkpoint carries.

Type 0x01 signs the text. Type 0x04 (tlog-cosignature) signs it together with a POSIX time: witnesses use it, and the
log itself to say when a checkpoint was made.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ED25519 = 0x01
COSIGNATURE = 0x04
_TYPES = (ED25519, COSIGNATURE)
_MOST_SIGNATURES = 64
_MOST_BYTES = 64 << 10
_DASH = "— "
_TIME = struct.Struct(">Q")
_TIMED_BYTES = _TIME.size + 64


class NoteError(ValueError):
    """Bytes that are no signed note, a key that is none, or a note that no known key signed."""


@dataclass(frozen=True, slots=True)
class SignatureLine:
    """One signature line: who claims to have signed, the four-byte key id, and the signature proper."""

    name: str
    key_id: bytes
    signature: bytes

    @property
    def moment(self) -> int:
        """The time a signature of type 0x04 claims, in POSIX seconds; 0 for one that claims none."""
        return int(_TIME.unpack(self.signature[:8])[0]) if len(self.signature) == _TIMED_BYTES else 0

    def __str__(self) -> str:
        return f"{_DASH}{self.name} {base64.b64encode(self.key_id + self.signature).decode()}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A text, which ends in a line feed, and its signatures, which prove nothing until a key verifies them."""

    text: str
    signatures: tuple[SignatureLine, ...]

    def __bytes__(self) -> bytes:
        return (self.text + "\n" + "".join(map(str, self.signatures))).encode()

    def with_signatures(self, lines: Iterable[SignatureLine]) -> Note:
        """The note with more signatures; one of the same key replaces the earlier one."""
        merged = {(line.name, line.key_id): line for line in self.signatures}
        merged.update({(line.name, line.key_id): line for line in lines})
        return Note(self.text, tuple(merged.values()))


def parse_note(data: bytes) -> Note:
    """Read a signed note; raises :class:`NoteError`."""
    if len(data) > _MOST_BYTES:
        raise NoteError("the note is too large")
    try:
        whole = data.decode()
    except UnicodeDecodeError:
        raise NoteError("the note is not UTF-8") from None
    if any(character < " " and character != "\n" for character in whole):
        raise NoteError("the note holds control characters")
    text, separator, lines = whole.rpartition("\n\n")
    if not separator or not text or not lines.endswith("\n"):
        raise NoteError("the note has no signatures")
    signatures = tuple(parse_signature_line(line) for line in lines[:-1].split("\n"))
    if len(signatures) > _MOST_SIGNATURES:
        raise NoteError("the note has too many signatures")
    return Note(text + "\n", signatures)


def parse_signature_line(line: str) -> SignatureLine:
    """Read one signature line (without its line feed); raises :class:`NoteError`."""
    name, space, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not space:
        raise NoteError("a line is no signature")
    check_name(name)
    try:
        raw = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raise NoteError("a signature is not base64") from None
    if len(raw) <= 4 or base64.b64encode(raw).decode() != encoded:
        raise NoteError("a signature is too short, or not in the one form base64 has for it")
    return SignatureLine(name, raw[:4], raw[4:])


def check_name(name: str) -> None:
    """Raise :class:`NoteError` unless ``name`` can name a key."""
    if not name or "+" in name or any(character.isspace() for character in name):
        raise NoteError("a key's name is empty or holds a space or a plus")


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key with its name and signature type, in text ``<name>+<key id, hex>+<base64(type || key)>``."""

    name: str
    kind: int
    public: bytes

    @property
    def key_id(self) -> bytes:
        """The four bytes that a signature line names the key by."""
        return hashlib.sha256(f"{self.name}\n".encode() + bytes([self.kind]) + self.public).digest()[:4]

    def __str__(self) -> str:
        encoded = base64.b64encode(bytes([self.kind]) + self.public).decode()
        return f"{self.name}+{self.key_id.hex()}+{encoded}"

    def as_cosigner(self) -> VerifierKey:
        """The same key for signatures that tell their time."""
        return VerifierKey(self.name, COSIGNATURE, self.public)

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Read the text form; raises :class:`NoteError`."""
        name, _, rest = text.strip().partition("+")
        key_id, _, encoded = rest.partition("+")
        check_name(name)
        try:
            raw = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            raise NoteError("a verifier key is not base64") from None
        if len(raw) != 33 or raw[0] not in _TYPES:
            raise NoteError("not an Ed25519 verifier key")
        key = cls(name, raw[0], raw[1:])
        if key.key_id.hex() != key_id:
            raise NoteError("a verifier key's id is not that of its name and key")
        return key

    def signed(self, note: Note) -> bool:
        """Whether the note carries a signature of this key; raises :class:`NoteError` if it carries a false one."""
        return self.time_signed(note) is not None

    def time_signed(self, note: Note) -> int | None:
        """When the key signed, in POSIX seconds (0 for a type that tells no time); None when it did not.

        Raises :class:`NoteError` when a signature that claims to be of this key is not.
        """
        newest = None
        for line in note.signatures:
            if line.name == self.name and line.key_id == self.key_id:
                newest = max(newest or 0, self._verify(note.text, line.signature))
        return newest

    def _verify(self, text: str, signature: bytes) -> int:
        moment, message = 0, text.encode()
        if self.kind == COSIGNATURE:
            if len(signature) != _TIMED_BYTES:
                raise NoteError(f"a signature of {self.name} is not genuine")
            (moment,) = _TIME.unpack(signature[:8])
            message, signature = _cosigned(text, moment), signature[8:]
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except (InvalidSignature, ValueError):
            raise NoteError(f"a signature of {self.name} is not genuine") from None
        return moment


class Signer:
    """A private key under its name."""

    def __init__(self, name: str, private: Ed25519PrivateKey) -> None:
        check_name(name)
        self._private = private
        self.key = VerifierKey(name, ED25519, private.public_key().public_bytes_raw())

    def under(self, name: str) -> Signer:
        """The same key under another name, which makes it another one to whoever verifies."""
        return self if name == self.key.name else Signer(name, self._private)

    def sign(self, text: str) -> SignatureLine:
        """A signature over the text (type 0x01)."""
        return SignatureLine(self.key.name, self.key.key_id, self._private.sign(text.encode()))

    def cosign(self, text: str, moment: int) -> SignatureLine:
        """A signature over the text and the time ``moment`` in POSIX seconds (type 0x04)."""
        key = self.key.as_cosigner()
        return SignatureLine(key.name, key.key_id, _TIME.pack(moment) + self._private.sign(_cosigned(text, moment)))


def _cosigned(text: str, moment: int) -> bytes:
    return f"cosignature/v1\ntime {moment}\n{text}".encode()
