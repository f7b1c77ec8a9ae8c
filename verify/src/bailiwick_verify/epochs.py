"""Logs that go on after their keeper lost entries: their names, and what every checkpoint of theirs tells of it.

A log that was restored to fewer entries than it had published may not go on under its name: a second tree of the same
size would be a fork. It goes on as another log, ``<origin>/e2`` (then ``/e3`` …) under the same keys, whose tree begins
with the entries that were kept. Each checkpoint of that log carries a line (an extension of C2SP tlog-checkpoint) for
every loss there was:

    continued e2 kept 1000 of 1200 <root of the 1200, base64> at 2026-11-21T22:10:00Z entry 1010 <leaf hash, base64>

*kept* is how many entries are still those of the log before, *of* what that one had published. The entry is the
statement of it (``continuation.py``). A checkpoint of such a log without its lines is none.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bailiwick_verify.note import ED25519, NoteError, VerifierKey

_WORD = "continued "
_HASH = r"([A-Za-z0-9+/]{43}=)"
_NUMBER = r"(0|[1-9][0-9]{0,18})"
_LINE = re.compile(
    rf"continued e{_NUMBER} kept {_NUMBER} of {_NUMBER} {_HASH}"
    rf" at (\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ) entry {_NUMBER} {_HASH}"
)
# an origin is three words, the last of which is a zone: a zone may itself be called e2
_CONTINUED = re.compile(r"([^/]+/[^/]+/[^/]+)/e([2-9]|[1-9][0-9]{1,3})")


@dataclass(frozen=True, slots=True)
class Continued:
    """Log number ``epoch`` goes on from the first ``kept`` entries of the log before it, which had published ``known``
    of root ``root``, since ``at`` (RFC 3339). Its statement is ``entry``, of leaf hash ``leaf``."""

    epoch: int
    kept: int
    known: int
    root: bytes
    at: str
    entry: int
    leaf: bytes

    def __str__(self) -> str:
        root, leaf = (base64.b64encode(each).decode() for each in (self.root, self.leaf))
        return f"continued e{self.epoch} kept {self.kept} of {self.known} {root} at {self.at} entry {self.entry} {leaf}"

    @classmethod
    def parse(cls, line: str) -> Continued:
        """Read a line; raises :class:`NoteError`."""
        match = _LINE.fullmatch(line)
        if match is None:
            raise NoteError("a line about a continuation cannot be read")
        epoch, kept, known, root, at, entry, leaf = match.groups()
        found = cls(int(epoch), int(kept), int(known), base64.b64decode(root), at, int(entry), base64.b64decode(leaf))
        if str(found) != line:
            raise NoteError("a line about a continuation is not in its one form")
        if not found.kept < found.known:
            raise NoteError(f"a continuation that lost nothing: {found.kept} of {found.known} entries were kept")
        if found.entry < found.kept:
            raise NoteError(f"a continuation stated by entry {found.entry}, among the {found.kept} that were kept")
        return found


def split_origin(origin: str) -> tuple[str, int]:
    """The origin that a log began under, and which of its continuations this is, 1 for the first log."""
    match = _CONTINUED.fullmatch(origin)
    return (match[1], int(match[2])) if match is not None else (origin, 1)


def origin_in(base: str, epoch: int) -> str:
    """The origin of the log number ``epoch`` of those that began as ``base``."""
    return base if epoch == 1 else f"{base}/e{epoch}"


def keys_of(origin: str, keys: Iterable[VerifierKey]) -> list[VerifierKey]:
    """The log's ``keys`` under the name ``origin``: a continuation is signed by the keys of the log that it continues.

    The name is part of what a key signs, so no signature made under one name is one under another.
    """
    base = split_origin(origin)[0]
    found = [key for key in keys if key.name == origin]
    found += [
        VerifierKey(origin, ED25519, key.public)
        for key in keys
        if key.name != origin and key.kind == ED25519 and split_origin(key.name)[0] == base
    ]
    return list(dict.fromkeys(found))


def continued_of(origin: str, extensions: Sequence[str]) -> tuple[Continued, ...]:
    """What a checkpoint of ``origin`` tells of its continuations, oldest first; raises :class:`NoteError` unless that
    is one line for each."""
    epoch = split_origin(origin)[1]
    lines = tuple(Continued.parse(line) for line in extensions if line.startswith(_WORD))
    if [line.epoch for line in lines] != list(range(2, epoch + 1)):
        told = ", ".join(f"e{line.epoch}" for line in lines) or "none"
        raise NoteError(f"a checkpoint of {origin} tells of these continuations: {told}")
    return lines


def kept_of(lines: Iterable[Continued], epoch: int) -> int | None:
    """How many entries of log number ``epoch`` are still in the log whose checkpoints tell ``lines``; None for all."""
    return min((line.kept for line in lines if line.epoch > epoch), default=None)
