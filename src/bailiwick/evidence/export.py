"""A zone's log as a folder to be carried away and checked elsewhere (C2SP tlog-tiles, ``bailiwick-verify``).

Full tiles are written once, so exporting into the same folder again only adds what is new. The checkpoint is replaced
last: a folder is whole whenever it has one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bailiwick.evidence.archive.reader import ColdEvents, kept_bodies
from bailiwick.evidence.continued import continuations_of
from bailiwick.evidence.ledger import ledger_keys
from bailiwick.evidence.receipts import cosigned_head, heads_by_the_hour, newest_head
from bailiwick.evidence.tree import read_tile
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import Conflict
from bailiwick_verify.checkpoint import parse_checkpoint
from bailiwick_verify.epochs import kept_of
from bailiwick_verify.merkle import TILE_WIDTH
from bailiwick_verify.note import NoteError, parse_note
from bailiwick_verify.tiles import ENTRIES, Tile, encode_bundle, tiles_of

_ALL = 1 << 62


@dataclass(frozen=True, slots=True)
class Exported:
    """How many events the folder holds, and how many files were written now."""

    zone: str
    events: int
    files: int


async def export_log(
    database: Database,
    zone: str,
    directory: Path,
    progress: Callable[[int, int], None] = lambda done, of: None,
    *,
    cold: ColdEvents | None = None,
) -> Exported:
    """Write the signed log of ``zone`` into ``directory``; ``progress(done, of)`` counts events.

    ``cold`` is the archive, where older events are.

    Raises ``NotFound`` where nothing is signed, ``Conflict`` where events are not kept any more, and OSError.
    """
    written = 0
    async with database.begin() as tx:
        await tx.run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        head = await newest_head(tx, zone)
        cosigned = await cosigned_head(tx, zone)
        heads = await heads_by_the_hour(tx, zone, datetime(1970, 1, 1, tzinfo=UTC), None)
        keys = await ledger_keys(tx, zone)
        still = _still_so(directory, head.note)
        ended = [each.note for each in await continuations_of(tx, zone)]
        for tile in [*tiles_of(head.size, entries=True), *tiles_of(head.size)]:
            path = directory / tile.path
            if not path.exists() or _end(tile) > still:
                data = (
                    await _entries(tx, cold, zone, tile) if tile.level == ENTRIES else await read_tile(tx, zone, tile)
                )
                _put(path, data)
                written += 1
            if tile.level == ENTRIES:
                progress(min(head.size, tile.index * TILE_WIDTH + tile.width), head.size)
    _put(directory / "verifier-keys", "".join(f"{key}\n" for key in keys.values()).encode())
    _put(directory / "heads", b"\n".join(heads))
    if ended:
        _put(directory / "continuations", b"\n".join(ended))
    if cosigned is not None:
        _put(directory / "cosigned-checkpoint", cosigned.note)
    _put(directory / "checkpoint", head.note)
    return Exported(zone, head.size, written + (3 if cosigned is None else 4))


def _still_so(directory: Path, note: bytes) -> int:
    """Up to how many events the tiles of an earlier export into the folder are those of the log of now: it may have
    been continued after a loss since."""
    now = parse_checkpoint(parse_note(note).text)
    try:
        before = parse_checkpoint(parse_note((directory / "checkpoint").read_bytes()).text)
    except (OSError, NoteError):
        return _ALL
    if before.origin == now.origin:
        return _ALL
    kept = kept_of(now.continued, before.epoch)
    return kept if kept is not None else 0


def _end(tile: Tile) -> int:
    """How many events there are up to the end of a tile."""
    return (tile.index * TILE_WIDTH + tile.width) << (8 * max(tile.level, 0) if tile.level != ENTRIES else 0)


async def _entries(tx: Transaction, cold: ColdEvents | None, zone: str, tile: Tile) -> bytes:
    start = tile.index * TILE_WIDTH
    bodies = await kept_bodies(tx, cold, zone, start, start + tile.width)
    if len(bodies) != tile.width:
        raise Conflict(f"Events {start} to {start + tile.width - 1} are not all kept any more.")
    return encode_bundle(bodies)


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(data)
    new.replace(path)
