"""Routes of backups and drills: to read about them, and to have one made now. Restoring is done on a machine."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request

from bailiwick.evidence import codes
from bailiwick.evidence.events import Recorder, Subject
from bailiwick.evidence.requests import context_of
from bailiwick.handover.backups.drills import listed
from bailiwick.handover.backups.manifest import ID_PATTERN
from bailiwick.handover.backups.service import SELECT, shown
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database
from bailiwick.kernel.errors import BailiwickError, NotFound
from bailiwick.kernel.http import Caller, Limit, require, zone_of
from bailiwick.kernel.jobs import make_due
from bailiwick.kernel.permissions import Permission

BACKUP_JOB = "backup:base@default"
ZONE = "default"

Reader = Annotated[Caller, Depends(require(Permission.ASSURANCE_READ))]
Operator = Annotated[Caller, Depends(require(Permission.OPERATE))]
BackupId = Annotated[str, Path(pattern=ID_PATTERN, examples=["20261121T020000Z-0a1b2c"])]
_UNSET: dict[int | str, dict[str, Any]] = {409: {"description": "No place for backups is set"}}


def routes(database: Database, clock: Clock, recorder: Recorder, place: str | None) -> APIRouter:
    """``/api/v1/backups``. ``place``: where they go, None where none is set."""
    router = APIRouter(prefix="/api/v1/backups", tags=["backups"])

    @router.get("", summary="Backups, newest first, and how far the log is safe")
    async def list_backups(request: Request, caller: Reader, limit: Limit = 50) -> dict[str, Any]:
        _whole_installation(request)
        async with database.begin() as tx:
            rows = await tx.all(f"{SELECT} ORDER BY id DESC LIMIT :limit", limit=limit)
            covered: datetime | None = await tx.value(
                "SELECT covered_until FROM backup_log WHERE place = :place", place=place
            )
        told = covered.isoformat() if covered is not None else None
        return {"place": place, "log_covered_until": told, "items": [shown(row) for row in rows]}

    @router.get("/drills", summary="Drills, newest first")
    async def list_drills(request: Request, caller: Reader, limit: Limit = 50) -> dict[str, Any]:
        _whole_installation(request)
        return {"items": await listed(database, limit)}

    @router.get("/{backup}", summary="One backup")
    async def one(request: Request, backup: BackupId, caller: Reader) -> dict[str, Any]:
        _whole_installation(request)
        async with database.begin() as tx:
            row = await tx.one(f"{SELECT} WHERE id = :id", id=backup)
        if row is None:
            raise NotFound("There is no backup by that id.")
        return shown(row)

    @router.post("", status_code=202, summary="Have a backup made now", responses=_UNSET)
    async def take(request: Request, caller: Operator) -> dict[str, Any]:
        """The work role makes it behind the answer; see the list for how that ends."""
        _whole_installation(request)
        if place is None:
            raise BailiwickError(reason="backup_unconfigured")
        now = clock.now()
        async with database.begin() as tx:
            await make_due(tx, BACKUP_JOB, now)
            await recorder.record(
                tx,
                codes.BACKUP_ASKED,
                "success",
                context_of(request, caller),
                subject=Subject(id=place, type="backup"),
                place=place,
                job=BACKUP_JOB,
            )
        return {"job": BACKUP_JOB, "due_at": now.isoformat()}

    return router


def _whole_installation(request: Request) -> None:
    """Backups are of all zones, and so the default zone's alone to see."""
    if zone_of(request) != ZONE:
        raise NotFound("Backups are of the whole installation; ask its default zone.")
