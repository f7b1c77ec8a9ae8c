"""Manifests: what was sealed, signed by the zone's ledger key, each naming the one before it.

A manifest is a C2SP signed note whose text is a line that says what it is, so that no signature over one can pass for
one over a checkpoint, and a line of canonical JSON. The manifests of a zone are a chain in the order of sealing: each
holds the SHA-256 of the note before it. A window in which nothing happened has one too: that nothing was recorded is a
statement, and its absence would be a gap.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import msgspec

from bailiwick.evidence.archive.store import Digest
from bailiwick_verify.checkpoint import Checkpoint, open_checkpoint
from bailiwick_verify.note import Note, NoteError, Signer, VerifierKey, parse_note

HEADING = "bailiwick archive manifest v1"
MOST_PARTS = 100
"""A note has at most 64 KiB; a window of more parts gets more than one version."""


class ManifestError(ValueError):
    """Bytes that are no manifest, or none that a key of the zone signed."""


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One object: ``sha256`` in hexadecimal, ``first`` to ``last`` the positions in it, none missing."""

    events: int
    first: int
    first_at: str
    last: int
    last_at: str
    name: str
    sha256: str
    size: int

    @property
    def digest(self) -> Digest:
        """What a store must say of it."""
        return Digest(self.size, bytes.fromhex(self.sha256))


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one sealing added to a window.

    ``version`` counts the manifests of the window from 1, ``ordinal`` those of the zone from 0; ``parts`` are the
    objects this one adds. ``tree_size`` and ``root`` are those of the zone's tree by then, ``checkpoint`` the signed
    note that says so. ``previous`` is the SHA-256 of the zone's manifest before, empty for the first.
    """

    checkpoint: str
    events: int
    first: int | None
    last: int | None
    ordinal: int
    parts: tuple[Part, ...]
    previous: str
    root: str
    sealed_at: str
    simulated_clock: bool
    tree_size: int
    version: int
    window_end: str
    window_start: str
    zone: str

    def signed(self, signer: Signer) -> bytes:
        """The manifest as a signed note."""
        text = f"{HEADING}\n{msgspec.json.encode(self, order='deterministic').decode()}\n"
        note = bytes(Note(text, (signer.sign(text),)))
        parse_note(note)  # within the bounds that whoever reads it keeps
        return note

    def agrees_with(self, other: Manifest) -> bool:
        """Whether both seal the same, apart from when and under which checkpoint."""
        return msgspec.structs.replace(self, sealed_at="", checkpoint="") == msgspec.structs.replace(
            other, sealed_at="", checkpoint=""
        )


def open_manifest(note: bytes, keys: Collection[VerifierKey]) -> Manifest:
    """The manifest of a note that one of the zone's ledger ``keys`` signed, its checkpoint checked too.

    Raises :class:`ManifestError`.
    """
    try:
        parsed = parse_note(note)
        if not any(key.signed(parsed) for key in keys):
            raise ManifestError("no ledger key of the zone signed the manifest")
        heading, _, line = parsed.text.partition("\n")
        if heading != HEADING:
            raise ManifestError("the note is not an archive manifest")
        manifest = msgspec.json.decode(line.rstrip("\n"), type=Manifest)
        said: Checkpoint = open_checkpoint(manifest.checkpoint.encode(), keys).checkpoint
    except NoteError as error:
        raise ManifestError(str(error)) from None
    except msgspec.MsgspecError:
        raise ManifestError("the note is not an archive manifest") from None
    if (said.size, said.root.hex()) != (manifest.tree_size, manifest.root):
        raise ManifestError("the manifest's checkpoint is of another tree")
    if manifest.events != sum(part.events for part in manifest.parts) or any(
        part.events != part.last - part.first + 1 or part.last >= manifest.tree_size for part in manifest.parts
    ):
        raise ManifestError("the manifest's counts do not agree")
    return manifest


def sha256_of(note: bytes) -> bytes:
    """By what the next manifest names this one."""
    return hashlib.sha256(note).digest()
