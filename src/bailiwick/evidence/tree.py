"""The Merkle tree of a zone in the database: RFC 6962 hashes in runs, level by level, as C2SP tlog-tiles cuts them.

At level 0 stands the leaf hash of every event, at level n the root of every full tile of 256 hashes of level n - 1. The
table is only ever added to, so the tree of any earlier size can still be told from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bailiwick.kernel.db import Transaction
from bailiwick_verify.merkle import HASH_BYTES, TILE_WIDTH, Edge, Nodes
from bailiwick_verify.tiles import ENTRIES, Tile, TileNodes

_LEVELS = 8


class MissingHashes(Exception):
    """The tree's hashes are not all there: somebody took some away."""


async def tree_size(tx: Transaction, zone: str) -> int:
    """How many leaves the zone's tree has."""
    end = await tx.value(
        "SELECT first + count FROM ledger.hashes WHERE zone = :zone AND level = 0 ORDER BY first DESC LIMIT 1",
        zone=zone,
    )
    return int(end or 0)


async def read_hashes(tx: Transaction, zone: str, level: int, start: int, end: int) -> list[bytes]:
    """The hashes ``start`` to ``end - 1`` of a level; raises :class:`MissingHashes` unless all are there."""
    if start >= end:
        return []
    rows = await tx.all(
        "SELECT first, count, hashes FROM ledger.hashes WHERE zone = :zone AND level = :level AND first < :end"
        " AND first >= coalesce((SELECT max(first) FROM ledger.hashes"
        "  WHERE zone = :zone AND level = :level AND first <= :start), 0) ORDER BY first",
        zone=zone,
        level=level,
        start=start,
        end=end,
    )
    found: list[bytes] = []
    at = start
    for row in rows:
        data = bytes(row["hashes"])
        skip = at - row["first"]
        if skip < 0 or len(data) != row["count"] * HASH_BYTES:
            break
        take = min(row["count"], end - row["first"])
        found.extend(data[n * HASH_BYTES : (n + 1) * HASH_BYTES] for n in range(skip, take))
        at = max(at, row["first"] + take)
    if len(found) != end - start:
        raise MissingHashes(f"level {level} of the tree of zone {zone} lacks hashes between {start} and {end}")
    return found


async def put_run(tx: Transaction, zone: str, level: int, first: int, hashes: Sequence[bytes]) -> None:
    """Add a run of hashes behind those there are."""
    if hashes:
        await tx.run(
            "INSERT INTO ledger.hashes (zone, level, first, count, hashes)"
            " VALUES (:zone, :level, :first, :count, :hashes)",
            zone=zone,
            level=level,
            first=first,
            count=len(hashes),
            hashes=b"".join(hashes),
        )


async def load_edge(tx: Transaction, zone: str, size: int) -> Edge:
    """The right edge of the tree as it was after ``size`` events; raises :class:`MissingHashes`."""
    levels = []
    for level in range(_LEVELS):
        hashes = size >> (8 * level)
        if not hashes:
            break
        levels.append(await read_hashes(tx, zone, level, hashes - hashes % TILE_WIDTH, hashes))
    return Edge(levels)


async def root_at(tx: Transaction, zone: str, size: int) -> bytes:
    """The root after ``size`` events; raises :class:`MissingHashes`."""
    return (await load_edge(tx, zone, size)).root()


async def read_tile(tx: Transaction, zone: str, tile: Tile) -> bytes:
    """The bytes of a hash tile; raises :class:`MissingHashes` where the tree does not reach that far."""
    assert tile.level != ENTRIES
    start = tile.index * TILE_WIDTH
    return b"".join(await read_hashes(tx, zone, tile.level, start, start + tile.width))


async def prove(tx: Transaction, zone: str, size: int, make: Callable[[Nodes], list[bytes]]) -> list[bytes]:
    """A proof in the tree of ``size`` events: ``make`` is asked once what it needs, and once with that at hand."""
    wanted: dict[str, Tile] = {}
    plan = TileNodes(size, lambda tile: b"")

    def note(height: int, index: int) -> bytes:
        tile = plan.needed(height, index)
        wanted[tile.path] = tile
        return bytes(HASH_BYTES)

    make(note)
    tiles = {path: await read_tile(tx, zone, tile) for path, tile in wanted.items()}
    return make(TileNodes(size, lambda tile: tiles[tile.path]))
