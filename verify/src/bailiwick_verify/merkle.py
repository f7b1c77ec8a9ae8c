"""RFC 6962 section 2.1: the Merkle tree over entries, its right edge, and its proofs.

    leaf = SHA-256(0x00 || entry)        node = SHA-256(0x01 || left || right)        empty root = SHA-256("")

A *perfect* subtree of height ``h`` and index ``i`` covers the leaves ``i * 2**h`` to ``(i + 1) * 2**h - 1``. Proofs are
made from a function that answers the hash of any perfect subtree (``Nodes``), so that they can come from memory, from
tiles on disk or from tiles fetched from a server.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()
TILE_WIDTH = 256

Nodes = Callable[[int, int], bytes]
_sha256 = hashlib.sha256


def leaf_hash(entry: bytes) -> bytes:
    """The hash of one entry."""
    return _sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of two subtrees, the left one perfect."""
    return _sha256(b"\x01" + left + right).digest()


def root_of(hashes: Sequence[bytes]) -> bytes:
    """The root over leaf hashes; for a power of two of them also the hash of that perfect subtree."""
    return fold(_perfect(hashes)) if hashes else EMPTY_ROOT


def fold(subtrees: Iterable[bytes]) -> bytes:
    """The root over perfect subtrees of falling size, given from the left; :data:`EMPTY_ROOT` for none."""
    root = b""
    for subtree in reversed(list(subtrees)):
        root = node_hash(subtree, root) if root else subtree
    return root or EMPTY_ROOT


def _perfect(hashes: Sequence[bytes]) -> list[bytes]:
    """The perfect subtrees that ``hashes`` make up, largest first."""
    found: list[bytes] = []
    level = list(hashes)
    while level:
        if len(level) % 2:
            found.append(level.pop())
        level = [_sha256(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level), 2)]
    found.reverse()
    return found


class FullTile(NamedTuple):
    """A tile that holds its 256 hashes: its place, its 8,192 bytes, and its root, which is a hash one level above."""

    level: int
    number: int
    data: bytes
    root: bytes


class Edge:
    """The right edge of a growing tree, as the partial tile of each level (C2SP tlog-tiles).

    ``levels[l]`` holds the hashes, fewer than 256, of the partial tile of level ``l``. It is all that is needed to go
    on appending, to tell the root, and to serve partial tiles.
    """

    def __init__(self, levels: Iterable[Sequence[bytes]] = ()) -> None:
        self.levels: list[list[bytes]] = [list(level) for level in levels]
        if any(len(level) >= TILE_WIDTH for level in self.levels):
            raise ValueError("a partial tile holds fewer than 256 hashes")
        if any(len(item) != HASH_BYTES for level in self.levels for item in level):
            raise ValueError("a hash has 32 bytes")

    @property
    def size(self) -> int:
        """How many leaves the tree has."""
        return sum(len(level) << (8 * height) for height, level in enumerate(self.levels))

    def root(self) -> bytes:
        """The root of the tree as it is."""
        return fold(subtree for level in reversed(self.levels) for subtree in _perfect(level))

    def extend(self, leaves: Sequence[bytes]) -> list[FullTile]:
        """Append leaf hashes; answers the tiles that became full, level by level in order."""
        full: list[FullTile] = []
        first = self.size
        self._extend(0, leaves, first, full)
        return full

    def copy(self) -> Edge:
        """An edge of its own with the same leaves."""
        return Edge(self.levels)

    def _extend(self, height: int, hashes: Sequence[bytes], first: int, full: list[FullTile]) -> None:
        if len(self.levels) <= height:
            self.levels.append([])
        level = self.levels[height]
        tile = first // TILE_WIDTH
        level.extend(hashes)
        parents = []
        taken = 0
        while len(level) - taken >= TILE_WIDTH:
            hashes_of_tile = level[taken : taken + TILE_WIDTH]
            parents.append(root_of(hashes_of_tile))
            full.append(FullTile(height, tile, b"".join(hashes_of_tile), parents[-1]))
            taken += TILE_WIDTH
            tile += 1
        if parents:
            del level[:taken]
            self._extend(height + 1, parents, first // TILE_WIDTH, full)


# ---------------------------------------------------------------------- proofs


def range_hash(nodes: Nodes, start: int, end: int) -> bytes:
    """The RFC 6962 hash over the leaves ``start`` to ``end - 1``, ``start`` aligned as in the right part of a tree."""
    subtrees = []
    while start < end:
        height = (end - start).bit_length() - 1
        subtrees.append(nodes(height, start >> height))
        start += 1 << height
    return fold(subtrees)


def inclusion_path(index: int, size: int, nodes: Nodes) -> list[bytes]:
    """PATH of RFC 6962 section 2.1.1: from the leaf's sibling up to the root's child. Needs ``0 <= index < size``."""
    if not 0 <= index < size:
        raise ValueError(f"entry {index} is not in a tree of {size}")
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(range_hash(nodes, middle, end))
            end = middle
        else:
            path.append(range_hash(nodes, start, middle))
            start = middle
    path.reverse()
    return path


def consistency_path(old: int, new: int, nodes: Nodes) -> list[bytes]:
    """PROOF of RFC 6962 section 2.1.2 that the tree of ``old`` leaves is a prefix of that of ``new``."""
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {old} leaves does not come before one of {new}")
    if old in (0, new):
        return []
    path: list[bytes] = []
    start, end, whole = 0, new, True
    while old != end:
        middle = start + _split(end - start)
        if old <= middle:
            path.append(range_hash(nodes, middle, end))
            end = middle
        else:
            path.append(range_hash(nodes, start, middle))
            start, whole = middle, False
    if not whole:
        path.append(range_hash(nodes, start, end))
    path.reverse()
    return path


def _split(size: int) -> int:
    """The largest power of two smaller than ``size``."""
    return 1 << ((size - 1).bit_length() - 1)


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether ``path`` proves that the leaf hash stands at ``index`` of the tree (RFC 9162 section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    node, last, current = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return False
        if node & 1 or node == last:
            current = node_hash(sibling, current)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            current = node_hash(current, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and current == root


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, path: Sequence[bytes]) -> bool:
    """Whether ``path`` proves that the old tree is a prefix of the new one (RFC 9162 section 2.1.4.2)."""
    if not 0 <= old <= new:
        return False
    if old == new:
        return not path and old_root == new_root
    if old == 0:
        return not path and old_root == EMPTY_ROOT
    hashes = list(path)
    if old & (old - 1) == 0:
        hashes.insert(0, old_root)
    if not hashes:
        return False
    node, last = old - 1, new - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    first = second = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            second = node_hash(second, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and first == old_root and second == new_root
