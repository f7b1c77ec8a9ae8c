"""C2SP tlog-witness: what a log sends to a witness, and what the witness may answer.

    POST <prefix>/add-checkpoint

    old <size the witness has seen>
    <consistency proof, one base64 hash a line, at most 63>

    <signed checkpoint>

200: signature lines (tlog-cosignature) · 400: malformed, or the old size is above the new one · 403: no known key of
the log signed · 404: the witness does not follow this log · 409: the old size is not the one it has seen, which the
body tells · 422: the proof does not hold.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass

from bailiwick_verify.merkle import HASH_BYTES

PATH = "/add-checkpoint"
SIZE_TYPE = "text/x.tlog.size"
MOST_HASHES = 63
MOST_BYTES = (64 << 10) + 4096
"""A note of the largest size and the longest proof."""
_MOST_SIZE = 1 << 62


class Malformed(ValueError):
    """Bytes that are no request, or no answer."""


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """A request: the size the witness is taken to have seen, the proof from there, the signed checkpoint."""

    old: int
    proof: tuple[bytes, ...]
    checkpoint: bytes

    def __bytes__(self) -> bytes:
        lines = [f"old {self.old}", *(base64.b64encode(item).decode() for item in self.proof)]
        return "\n".join(lines).encode() + b"\n\n" + self.checkpoint

    @classmethod
    def parse(cls, body: bytes) -> AddCheckpoint:
        """Read a request's body; raises :class:`Malformed`. The checkpoint is taken as it stands."""
        head, separator, checkpoint = body.partition(b"\n\n")
        try:
            first, *rest = head.decode("ascii").split("\n")
            proof = tuple(base64.b64decode(line, validate=True) for line in rest)
        except (UnicodeDecodeError, binascii.Error):
            raise Malformed("the proof is not base64") from None
        if not separator or not first.startswith("old "):
            raise Malformed("not an old size, a proof and a checkpoint")
        if len(proof) > MOST_HASHES or any(
            len(item) != HASH_BYTES or base64.b64encode(item).decode() != line
            for item, line in zip(proof, rest, strict=True)
        ):
            raise Malformed("the proof is not made of at most 63 hashes")
        return cls(parse_size(first.removeprefix("old ")), proof, checkpoint)


def parse_size(text: str) -> int:
    """A tree size in its one decimal form; raises :class:`Malformed`."""
    if not (text.isascii() and text.isdigit()) or len(text) > 19 or str(int(text)) != text or int(text) > _MOST_SIZE:
        raise Malformed("a size is not a decimal number")
    return int(text)


def parse_conflict(body: bytes) -> int:
    """The size a witness tells with 409; raises :class:`Malformed`."""
    text = body.decode("ascii", "replace")
    if not text.endswith("\n"):
        raise Malformed("a conflict does not tell a size")
    return parse_size(text[:-1])


def answer_of(lines: Sequence[object]) -> bytes:
    """The body of a 200: signature lines, each of which ends in a line feed."""
    return "".join(map(str, lines)).encode()
