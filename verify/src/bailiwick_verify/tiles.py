"""C2SP tlog-tiles: the tree and its entries as files.

``tile/<level>/<index>[.p/<width>]`` holds up to 256 hashes; ``tile/entries/<index>[.p/<width>]`` the entries under a
tile of level 0, each behind its length as a big-endian uint16. An index is written in groups of three digits,
``x001/x234/067``.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bailiwick_verify.merkle import HASH_BYTES, TILE_WIDTH, root_of

MAX_ENTRY_BYTES = 65_535
ENTRIES = -1
_LENGTH = struct.Struct(">H")
_PATH = re.compile(r"tile/(entries|0|[1-9]\d?)/((?:x\d{3}/)*\d{3})(?:\.p/([1-9]\d{0,2}))?")
_MOST_LEVEL = 63


class TileError(ValueError):
    """A path that names no tile, or bytes that are none."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile's place: ``level`` (:data:`ENTRIES` for a bundle of entries), ``index``, and ``width`` up to 256."""

    level: int
    index: int
    width: int = TILE_WIDTH

    @property
    def path(self) -> str:
        """The path below the log's prefix."""
        groups = [f"{self.index % 1000:03d}"]
        rest = self.index // 1000
        while rest:
            groups.append(f"x{rest % 1000:03d}")
            rest //= 1000
        level = "entries" if self.level == ENTRIES else str(self.level)
        partial = "" if self.width == TILE_WIDTH else f".p/{self.width}"
        return f"tile/{level}/{'/'.join(reversed(groups))}{partial}"

    @classmethod
    def parse(cls, path: str) -> Tile:
        """Read a path; raises :class:`TileError` unless it is the one path of that tile."""
        match = _PATH.fullmatch(path)
        if match is None:
            raise TileError("no tile has this path")
        level = ENTRIES if match[1] == "entries" else int(match[1])
        index = int(match[2].replace("/", "").replace("x", ""))
        tile = cls(level, index, int(match[3]) if match[3] else TILE_WIDTH)
        if level > _MOST_LEVEL or (match[3] and tile.width >= TILE_WIDTH) or tile.path != path:
            raise TileError("no tile has this path")
        return tile


def tiles_of(size: int, *, entries: bool = False) -> list[Tile]:
    """Every tile of a tree of ``size`` entries, level by level; with ``entries`` the bundles of entries instead."""
    found: list[Tile] = []
    level, hashes = (ENTRIES if entries else 0), size
    while hashes:
        full, partial = divmod(hashes, TILE_WIDTH)
        found.extend(Tile(level, index) for index in range(full))
        if partial:
            found.append(Tile(level, full, partial))
        if entries:
            break
        level, hashes = level + 1, full
    return found


def encode_bundle(entries: Iterable[bytes]) -> bytes:
    """Entries as a bundle; raises :class:`TileError` for one over 65,535 bytes."""
    parts: list[bytes] = []
    for entry in entries:
        if len(entry) > MAX_ENTRY_BYTES:
            raise TileError(f"an entry of {len(entry)} bytes does not fit into a bundle")
        parts += (_LENGTH.pack(len(entry)), entry)
    return b"".join(parts)


def decode_bundle(data: bytes) -> list[bytes]:
    """The entries of a bundle; raises :class:`TileError`."""
    entries = []
    position, size = 0, len(data)
    unpack = _LENGTH.unpack_from
    while position < size:
        try:
            start = position + 2
            position = start + unpack(data, position)[0]
        except struct.error:
            raise TileError("a bundle of entries is cut off") from None
        if position > size:
            raise TileError("a bundle of entries is cut off")
        entries.append(data[start:position])
    return entries


def hashes_of(data: bytes, width: int) -> list[bytes]:
    """The hashes of a tile's bytes; raises :class:`TileError` when there are not ``width`` of them."""
    if len(data) != width * HASH_BYTES:
        raise TileError(f"a tile of {width} hashes has {len(data)} bytes")
    return [data[start : start + HASH_BYTES] for start in range(0, len(data), HASH_BYTES)]


class TileNodes:
    """Hashes of perfect subtrees from the tiles of a tree of ``size`` entries, for making proofs.

    ``fetch`` answers the bytes of a tile; whatever it raises passes through. Tiles are kept as long as this object.
    """

    def __init__(self, size: int, fetch: Callable[[Tile], bytes]) -> None:
        self._size = size
        self._fetch = fetch
        self._tiles: dict[tuple[int, int], list[bytes]] = {}

    def __call__(self, height: int, index: int) -> bytes:
        level, inner = divmod(height, 8)
        first = index << inner
        tile, start = divmod(first, TILE_WIDTH)
        hashes = self._hashes(level, tile)[start : start + (1 << inner)]
        if len(hashes) != 1 << inner:
            raise TileError(f"the tree of {self._size} entries has no subtree {index} of height {height}")
        return root_of(hashes)

    def needed(self, height: int, index: int) -> Tile:
        """The tile that holds what a perfect subtree's hash is made from."""
        level, inner = divmod(height, 8)
        return self._tile(level, (index << inner) // TILE_WIDTH)

    def _tile(self, level: int, index: int) -> Tile:
        hashes = self._size >> (8 * level)
        return Tile(level, index, min(TILE_WIDTH, hashes - index * TILE_WIDTH))

    def _hashes(self, level: int, index: int) -> Sequence[bytes]:
        found = self._tiles.get((level, index))
        if found is None:
            tile = self._tile(level, index)
            if tile.width < 1:
                raise TileError(f"the tree of {self._size} entries has no tile {index} at level {level}")
            found = self._tiles[level, index] = hashes_of(self._fetch(tile), tile.width)
        return found
