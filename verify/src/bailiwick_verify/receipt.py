"""C2SP tlog-proof: one entry's place in a log, to be checked without asking anybody (``.tlog-proof``).

The entry itself travels in the ``extra`` line, so that a receipt is complete: it is trusted only because its hash is
what the path leads from.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass

from bailiwick_verify.checkpoint import OpenedCheckpoint, open_checkpoint
from bailiwick_verify.merkle import HASH_BYTES, leaf_hash, verify_inclusion
from bailiwick_verify.note import NoteError, VerifierKey

_TITLE = "c2sp.org/tlog-proof@v1"


class ReceiptError(ValueError):
    """Bytes that are no receipt, or a receipt that proves nothing."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The entry, its index, the inclusion path to the root of the signed ``checkpoint`` (a note's bytes)."""

    entry: bytes
    index: int
    path: tuple[bytes, ...]
    checkpoint: bytes

    def __bytes__(self) -> bytes:
        lines = [_TITLE, f"extra {base64.b64encode(self.entry).decode()}", f"index {self.index}"]
        lines += [base64.b64encode(item).decode() for item in self.path]
        return "\n".join(lines).encode() + b"\n\n" + self.checkpoint

    @classmethod
    def parse(cls, data: bytes) -> Receipt:
        """Read a receipt; raises :class:`ReceiptError`."""
        head, separator, checkpoint = data.partition(b"\n\n")
        try:
            title, extra, index, *path = head.decode("ascii").split("\n")
            if title != _TITLE or not separator or not extra.startswith("extra ") or not index.startswith("index "):
                raise ReceiptError("not a tlog-proof that carries its entry")
            number = index.removeprefix("index ")
            if not number.isdigit() or str(int(number)) != number:
                raise ReceiptError("a receipt's index is not a decimal number")
            hashes = tuple(base64.b64decode(line, validate=True) for line in path)
            entry = base64.b64decode(extra.removeprefix("extra "), validate=True)
        except (UnicodeDecodeError, binascii.Error):
            raise ReceiptError("a receipt is not ASCII or not base64") from None
        except ValueError as error:
            raise ReceiptError(f"not a receipt: {error}") from None
        if any(len(item) != HASH_BYTES for item in hashes) or len(hashes) > 64:
            raise ReceiptError("a receipt's path is not made of SHA-256 hashes")
        return cls(entry, int(number), hashes, checkpoint)

    def verify(
        self, log_keys: Iterable[VerifierKey], witness_keys: Iterable[VerifierKey] = (), *, quorum: int = 0
    ) -> OpenedCheckpoint:
        """The checkpoint that proves the entry; raises :class:`ReceiptError` when it does not."""
        try:
            opened = open_checkpoint(self.checkpoint, log_keys, witness_keys, quorum=quorum)
        except NoteError as error:
            raise ReceiptError(str(error)) from None
        checkpoint = opened.checkpoint
        if not verify_inclusion(leaf_hash(self.entry), self.index, checkpoint.size, self.path, checkpoint.root):
            raise ReceiptError("the path does not lead from the entry to the checkpoint's root")
        return opened
