from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bailiwick_verify.merkle import (
    EMPTY_ROOT,
    Edge,
    consistency_path,
    inclusion_path,
    leaf_hash,
    node_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from bailiwick_verify.tiles import Tile, TileNodes, hashes_of, tiles_of


def slow_root(leaves: list[bytes]) -> bytes:
    """MTH, as RFC 6962 section 2.1 writes it."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + slow_root(leaves[:split]) + slow_root(leaves[split:])).digest()


# the test vectors of certificate-transparency's reference implementation for this eight-leaf tree
ENTRIES = [bytes.fromhex(text) for text in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"
)]  # fmt: skip
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def test_known_roots() -> None:
    leaves = [leaf_hash(entry) for entry in ENTRIES]
    assert [root_of(leaves[: n + 1]).hex() for n in range(8)] == ROOTS
    assert root_of([]) == EMPTY_ROOT == Edge().root()


def grown(count: int) -> tuple[list[bytes], Edge, dict[str, bytes]]:
    leaves = [leaf_hash(str(n).encode()) for n in range(count)]
    edge = Edge()
    files = {}
    for level, index, data, _ in edge.extend(leaves):
        files[Tile(level, index).path] = data
    for level, hashes in enumerate(edge.levels):
        if hashes:
            files[Tile(level, (count >> (8 * level)) // 256, len(hashes)).path] = b"".join(hashes)
    return leaves, edge, files


@pytest.mark.parametrize("count", [0, 1, 2, 3, 255, 256, 257, 511, 512, 700, 65_536, 66_000, 70_000])
def test_an_edge_knows_root_size_and_tiles(count: int) -> None:
    leaves, edge, files = grown(count)
    assert edge.size == count
    assert edge.root() == slow_root(leaves)
    assert sorted(files) == sorted(tile.path for tile in tiles_of(count))
    assert all(len(hashes_of(data, Tile.parse(path).width)) for path, data in files.items())


@given(st.lists(st.integers(0, 600), max_size=8))
def test_it_does_not_matter_in_what_portions_a_tree_grows(portions: list[int]) -> None:
    total = sum(portions)
    leaves, whole, files = grown(total)
    edge, start, seen = Edge(), 0, {}
    for portion in portions:
        for level, index, data, _ in edge.extend(leaves[start : start + portion]):
            seen[Tile(level, index).path] = data
        start += portion
        edge = Edge(edge.levels)
    assert edge.root() == whole.root()
    assert seen == {path: data for path, data in files.items() if ".p/" not in path}


@given(st.integers(1, 1200), st.data())
def test_proofs_from_tiles_prove_and_anything_else_does_not(size: int, data: st.DataObject) -> None:
    leaves, edge, files = grown(size)
    nodes = TileNodes(size, lambda tile: files[tile.path])
    index = data.draw(st.integers(0, size - 1))
    path = inclusion_path(index, size, nodes)
    root = edge.root()
    assert verify_inclusion(leaves[index], index, size, path, root)
    assert not verify_inclusion(leaf_hash(b"other"), index, size, path, root)
    assert not verify_inclusion(leaves[index], index, size, [*path, root], root)
    if path:
        assert not verify_inclusion(leaves[index], index, size, path[:-1], root)
        assert not verify_inclusion(leaves[index], index, size, [path[0][::-1], *path[1:]], root)
    if size > 1:
        other = data.draw(st.integers(0, size - 1).filter(lambda n: n != index))
        assert not verify_inclusion(leaves[index], other, size, path, root)
    old = data.draw(st.integers(0, size))
    proof = consistency_path(old, size, nodes)
    old_root = slow_root(leaves[:old])
    assert verify_consistency(old, size, old_root, root, proof)
    assert not verify_consistency(old, size, leaf_hash(b"forked"), root, proof)
    assert not verify_consistency(old, size, old_root, leaf_hash(b"forked"), proof) or old == 0
    assert not verify_consistency(old, size, old_root, root, [*proof, root])
    if len(proof) > 1:
        assert not verify_consistency(old, size, old_root, root, proof[:-1])
        assert not verify_consistency(old, size, old_root, root, [proof[1], proof[0], *proof[2:]])


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0)])
def test_what_is_not_in_the_tree_has_no_path(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="not in a tree"):
        inclusion_path(index, size, lambda height, number: b"")
    assert not verify_inclusion(leaf_hash(b""), index, size, [], EMPTY_ROOT)


def test_a_larger_tree_does_not_come_first() -> None:
    with pytest.raises(ValueError, match="does not come before"):
        consistency_path(4, 3, lambda height, number: b"")
    assert not verify_consistency(4, 3, EMPTY_ROOT, EMPTY_ROOT, [])


def test_node_hash_is_not_leaf_hash() -> None:
    left, right = leaf_hash(b"l"), leaf_hash(b"r")
    assert node_hash(left, right) != leaf_hash(left + right)


def test_an_edge_refuses_what_is_none() -> None:
    with pytest.raises(ValueError, match="fewer than 256"):
        Edge([[b"\0" * 32] * 256])
    with pytest.raises(ValueError, match="32 bytes"):
        Edge([[b"short"]])
