"""C2SP tlog-checkpoint: what a log says about its tree, and under which signatures.

<origin>
<size>
<root, base64>

— <origin> <Ed25519 signature over the three lines>
— <origin> <the same key's signature over them and the time>
— <witness> <the witness's signature over them and its time>
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass

from bailiwick_verify.epochs import Continued, continued_of, keys_of, split_origin
from bailiwick_verify.merkle import HASH_BYTES
from bailiwick_verify.note import Note, NoteError, Signer, VerifierKey, check_name, parse_note

_MOST_LEAVES = 1 << 62


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree head: after ``size`` entries the log called ``origin`` has the root ``root``."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    @property
    def epoch(self) -> int:
        """Which continuation of the log it is of, 1 for the first log."""
        return split_origin(self.origin)[1]

    @property
    def continued(self) -> tuple[Continued, ...]:
        """What it tells of continuations, oldest first; raises :class:`NoteError`."""
        return continued_of(self.origin, self.extensions)

    def text(self) -> str:
        """The note text."""
        lines = [self.origin, str(self.size), base64.b64encode(self.root).decode(), *self.extensions]
        return "\n".join(lines) + "\n"

    def signed(self, signer: Signer, moment: int) -> Note:
        """The checkpoint as a note that the log signs at ``moment`` (POSIX seconds)."""
        text = self.text()
        return Note(text, (signer.sign(text), signer.cosign(text, moment)))


@dataclass(frozen=True, slots=True)
class OpenedCheckpoint:
    """A checkpoint whose log signature holds. ``time``: POSIX seconds when the log signed, 0 when it did not say;
    ``witnesses``: when each known witness cosigned, by its name."""

    checkpoint: Checkpoint
    note: Note
    time: int
    witnesses: dict[str, int]


def parse_checkpoint(text: str) -> Checkpoint:
    """Read a note text; raises :class:`NoteError`."""
    lines = text.split("\n")
    if len(lines) < 4 or lines[-1] or not all(lines[:-1]):
        raise NoteError("not a checkpoint: it needs three lines, none of them empty")
    origin, size, root, *extensions = lines[:-1]
    if not (size.isascii() and size.isdigit()) or (size[0] == "0" and size != "0") or len(size) > 19:
        raise NoteError("a checkpoint's size is not a decimal number")
    try:
        decoded = base64.b64decode(root, validate=True)
    except binascii.Error:
        raise NoteError("a checkpoint's root is not base64") from None
    if len(decoded) != HASH_BYTES or base64.b64encode(decoded).decode() != root or int(size) > _MOST_LEAVES:
        raise NoteError("a checkpoint's root or size is out of range")
    return Checkpoint(origin, int(size), decoded, tuple(extensions))


def open_checkpoint(
    data: bytes, log_keys: Iterable[VerifierKey], witness_keys: Iterable[VerifierKey] = (), *, quorum: int = 0
) -> OpenedCheckpoint:
    """Read a signed checkpoint, and hold it against the keys that are trusted.

    ``log_keys``: the log's Ed25519 keys, old ones included; one must have signed, and the origin must be its name, or
    that of a continuation, which then says so in its lines.
    ``witness_keys``: cosigner keys; at least ``quorum`` must have signed. Raises :class:`NoteError`.
    """
    note = parse_note(data)
    checkpoint = parse_checkpoint(note.text)
    check_name(checkpoint.origin)
    known = keys_of(checkpoint.origin, [*log_keys])
    # every one is looked at: a false signature under a known key condemns the note
    signers = [key for key in known if key.signed(note)]
    if not signers:
        raise NoteError(f"no known key of {checkpoint.origin} signed the checkpoint")
    continued_of(checkpoint.origin, checkpoint.extensions)
    times = [moment for key in known if (moment := key.as_cosigner().time_signed(note)) is not None]
    witnesses = {key.name: moment for key in witness_keys if (moment := key.time_signed(note)) is not None}
    if len(witnesses) < quorum:
        raise NoteError(f"{len(witnesses)} known witnesses signed the checkpoint, {quorum} are needed")
    return OpenedCheckpoint(checkpoint, note, max(times, default=0), witnesses)
