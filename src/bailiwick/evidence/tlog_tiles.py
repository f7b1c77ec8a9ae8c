"""C2SP tlog-tiles: a zone's tree as files, for auditors, monitors and witnesses.

``/evidence/{zone}/checkpoint`` and the hash tiles are open: they hold signatures and hashes. The entries are the events
themselves and need ``audit:read`` in that zone. Tiles never change, so they may be cached for ever.
"""

from __future__ import annotations

import gzip
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import PlainTextResponse

from bailiwick.evidence.archive.reader import ColdEvents, kept_bodies
from bailiwick.evidence.continued import continuations_of
from bailiwick.evidence.ledger import ledger_keys
from bailiwick.evidence.receipts import cosigned_head, heads_by_the_hour, newest_head, signed_size
from bailiwick.evidence.tree import MissingHashes, read_tile
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import Denied, NotFound
from bailiwick.kernel.http import Caller, require, zone_of
from bailiwick.kernel.permissions import Permission
from bailiwick_verify.merkle import TILE_WIDTH
from bailiwick_verify.tiles import ENTRIES, Tile, TileError, encode_bundle

_FOR_EVER = "max-age=31536000, immutable"
_FRESH = {"Cache-Control": "public, max-age=1"}
_TEXT = "text/plain; charset=utf-8"
_LAST_MOMENT = 253_402_214_400  # near the end of the year 9999
HOURS_AT_ONCE = 1000


class TileResponse(Response):
    """A tile or a bundle of entries."""

    media_type = "application/octet-stream"


ZonePath = Annotated[str, Path(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
TilePath = Annotated[str, Path(max_length=100, pattern=r"^[0-9a-z./]+$")]
Auditor = Annotated[Caller, Depends(require(Permission.AUDIT_READ))]
Note = Callable[[Transaction, Request, Caller, str, str, int], Awaitable[None]]


def routes(database: Database, note: Note, cold: ColdEvents | None = None) -> APIRouter:
    """The routes under ``/evidence``. ``note`` records that somebody read events; ``cold`` is the archive."""
    router = APIRouter(prefix="/evidence", tags=["evidence"])

    @router.get("/{zone}/checkpoint", summary="The newest signed tree head", response_class=PlainTextResponse)
    async def checkpoint(zone: ZonePath) -> Response:
        async with database.begin() as tx:
            head = await newest_head(tx, zone)
        return Response(head.note, media_type=_TEXT, headers=_FRESH)

    @router.get(
        "/{zone}/cosigned-checkpoint",
        summary="The newest tree head that a quorum of witnesses cosigned",
        response_class=PlainTextResponse,
    )
    async def cosigned_checkpoint(zone: ZonePath) -> Response:
        async with database.begin() as tx:
            head = await cosigned_head(tx, zone)
        if head is None:
            raise NotFound(f"No witnesses have cosigned a tree head of zone {zone}.")
        return Response(head.note, media_type=_TEXT, headers=_FRESH)

    @router.get(
        "/{zone}/heads",
        summary="The first and the last tree head of every hour, oldest first, an empty line between them",
        response_class=PlainTextResponse,
    )
    async def heads(zone: ZonePath, after: Annotated[int, Query(ge=0, le=_LAST_MOMENT)] = 0) -> Response:
        moment = datetime.fromtimestamp(after, UTC)
        async with database.begin() as tx:
            notes = await heads_by_the_hour(tx, zone, moment, HOURS_AT_ONCE)
        return Response(b"\n".join(notes), media_type=_TEXT, headers=_FRESH)

    @router.get(
        "/{zone}/continuations",
        summary="The last known tree heads of the logs that this one continues, oldest first, an empty line between",
        response_class=PlainTextResponse,
    )
    async def continuations(zone: ZonePath) -> Response:
        async with database.begin() as tx:
            notes = [each.note for each in await continuations_of(tx, zone)]
        return Response(b"\n".join(notes), media_type=_TEXT, headers=_FRESH)

    @router.get(
        "/{zone}/verifier-keys",
        summary="The keys that signed this zone's tree heads, one a line",
        response_class=PlainTextResponse,
    )
    async def verifier_keys(zone: ZonePath) -> Response:
        async with database.begin() as tx:
            keys = await ledger_keys(tx, zone)
        if not keys:
            raise NotFound(f"Zone {zone} has no ledger key.")
        text = "".join(f"{key}\n" for key in keys.values())
        return Response(text, media_type=_TEXT, headers={"Cache-Control": "public, max-age=60"})

    @router.get("/{zone}/tile/entries/{path:path}", summary="A bundle of events", response_class=TileResponse)
    async def entries(request: Request, zone: ZonePath, path: TilePath, caller: Auditor) -> Response:
        if zone != zone_of(request):
            raise Denied("The events of a zone are read through that zone's own address.")
        tile = _tile(f"tile/entries/{path}")
        start = tile.index * TILE_WIDTH
        async with database.begin() as tx:
            await _require_signed(tx, zone, tile)
            bodies = await kept_bodies(tx, cold, zone, start, start + tile.width)
            if len(bodies) != tile.width:
                raise NotFound("Not all events of this bundle are kept any more.")
            await note(tx, request, caller, f"evidence/{tile.path}", "", len(bodies))
        data = encode_bundle(bodies)
        headers = {"Cache-Control": f"private, {_FOR_EVER}", "Vary": "Accept-Encoding"}
        if "gzip" in request.headers.get("accept-encoding", ""):
            data, headers["Content-Encoding"] = gzip.compress(data, 6), "gzip"
        return TileResponse(data, headers=headers)

    @router.get("/{zone}/tile/{path:path}", summary="A tile of hashes", response_class=TileResponse)
    async def hashes(zone: ZonePath, path: TilePath) -> Response:
        tile = _tile(f"tile/{path}")
        async with database.begin() as tx:
            await _require_signed(tx, zone, tile)
            try:
                data = await read_tile(tx, zone, tile)
            except MissingHashes:
                raise NotFound("The tree has no such tile.") from None
        return TileResponse(data, headers={"Cache-Control": f"public, {_FOR_EVER}"})

    return router


def _tile(path: str) -> Tile:
    try:
        return Tile.parse(path)
    except TileError as error:
        raise NotFound(f"{error}.") from None


async def _require_signed(tx: Transaction, zone: str, tile: Tile) -> None:
    """Only what a signed head covers is served: nobody can then hold us to a tree we did not sign."""
    size = await signed_size(tx, zone) >> (8 * max(tile.level, 0) if tile.level != ENTRIES else 0)
    if tile.index * TILE_WIDTH + tile.width > size:
        raise NotFound("No signed tree has this tile yet.")
