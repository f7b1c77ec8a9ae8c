"""A log as it grows by the hour, written as a folder by somebody honest or by somebody who is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bailiwick_verify.checkpoint import Checkpoint
from bailiwick_verify.merkle import Edge, leaf_hash, root_of
from bailiwick_verify.note import Signer
from bailiwick_verify.tiles import Tile, encode_bundle, tiles_of

START = 1_800_000_000
HOUR = 3600


def signer(seed: bytes, name: str = "bailiwick/k1/default") -> Signer:
    return Signer(name, Ed25519PrivateKey.from_private_bytes(seed * 32))


LOG = signer(b"l")
WITNESSES = [signer(b"w", "one.example"), signer(b"v", "two.example")]


class Maker:
    """Entries, and heads as ``(moment, size, note)``; one hour and some entries at a time."""

    def __init__(self, key: Signer = LOG) -> None:
        self.key = key
        self.entries: list[bytes] = []
        self.heads: list[tuple[int, int, bytes]] = []
        self.now = START
        self.cosigned: bytes | None = None
        self.sign()

    def copy(self) -> Maker:
        other = Maker(self.key)
        other.entries, other.heads = list(self.entries), list(self.heads)
        other.now, other.cosigned = self.now, self.cosigned
        return other

    def hour(self, count: int, mark: str = "", **more: object) -> Maker:
        """An hour passes in which ``count`` entries come; a head at its end."""
        first = len(self.entries)
        self.entries += [
            json.dumps({"id": first + n, "name": f"thing.done{mark}", **more}, separators=(",", ":")).encode()
            for n in range(count)
        ]
        self.now += HOUR
        self.sign()
        return self

    def sign(self, key: Signer | None = None) -> None:
        leaves = [leaf_hash(entry) for entry in self.entries]
        note = Checkpoint(self.key.key.name, len(leaves), root_of(leaves)).signed(key or self.key, self.now)
        self.heads.append((self.now, len(leaves), bytes(note)))

    def cosign(self, by: Iterable[Signer] = WITNESSES) -> None:
        """Witnesses sign the newest head."""
        from bailiwick_verify.note import parse_note

        note = parse_note(self.heads[-1][2])
        self.cosigned = bytes(note.with_signatures(each.cosign(note.text, self.now + 1) for each in by))

    def write(self, folder: Path) -> Path:
        """As a folder; the checkpoint is the newest head."""
        shutil.rmtree(folder, ignore_errors=True)
        write_tiles(folder, self.entries, self.entries)
        (folder / "heads").write_bytes(b"\n".join(note for _, _, note in self.heads))
        if self.cosigned:
            (folder / "cosigned-checkpoint").write_bytes(self.cosigned)
        (folder / "checkpoint").write_bytes(self.heads[-1][2])
        (folder / "verifier-keys").write_text(f"{self.key.key}\n")
        return folder


def write_tiles(folder: Path, entries: list[bytes], hashed: list[bytes]) -> None:
    """Bundles of ``entries``, and the hash tiles of ``hashed``."""
    edge, size = Edge(), len(hashed)
    for full in edge.extend([leaf_hash(entry) for entry in hashed]):
        put(folder, Tile(full.level, full.number), full.data)
    for level, hashes in enumerate(edge.levels):
        if hashes:
            put(folder, Tile(level, (size >> (8 * level)) // 256, len(hashes)), b"".join(hashes))
    for tile in tiles_of(len(entries), entries=True):
        put(folder, tile, encode_bundle(entries[tile.index * 256 : tile.index * 256 + tile.width]))


def put(folder: Path, tile: Tile, data: bytes) -> None:
    path = folder / tile.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
