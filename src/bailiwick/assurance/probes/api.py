"""Routes of probes and thresholds: how each stands, what each run found, and asking for a run."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from bailiwick.assurance.books import Books
from bailiwick.assurance.probes import runs
from bailiwick.assurance.probes.runner import Probes
from bailiwick.assurance.thresholds import THRESHOLD
from bailiwick.evidence.requests import context_of
from bailiwick.kernel.db import Database
from bailiwick.kernel.errors import InvalidRequest, NotFound
from bailiwick.kernel.fields import NamePath
from bailiwick.kernel.http import Caller, Cursor, Limit, decode_cursor, encode_cursor, require, zone_of
from bailiwick.kernel.permissions import Permission
from bailiwick.kernel.verdicts import worst

Reader = Annotated[Caller, Depends(require(Permission.ASSURANCE_READ))]
Runner = Annotated[Caller, Depends(require(Permission.PROBES_RUN))]


def routes(database: Database, probes: Probes, books: Books) -> APIRouter:
    """The routes under ``/api/v1/probes``, and the catalogue of thresholds."""
    router = APIRouter(prefix="/api/v1", tags=["assurance"])

    @router.get("/thresholds", summary="The catalogue of thresholds")
    async def thresholds(request: Request, caller: Reader) -> dict[str, Any]:
        """Every number that something is held against."""
        async with database.begin() as tx:
            found = (await books.current(tx, zone_of(request))).of(THRESHOLD)
        return {"thresholds": [{"key": key, **each.model_dump(mode="json")} for key, each in found.items()]}

    @router.get("/probes", summary="How every probe stands")
    async def list_probes(request: Request, caller: Reader) -> dict[str, Any]:
        """The verdict of each while it counts, and what all amount to. Only PASS is green."""
        async with database.begin() as tx:
            found = await probes.standings(tx, zone_of(request), each=1)
        return {"verdict": str(worst(each.verdict for each in found)), "probes": [each.document() for each in found]}

    @router.get("/probes/{name}", summary="One probe with its newest runs")
    async def get_probe(request: Request, name: NamePath, caller: Reader) -> dict[str, Any]:
        async with database.begin() as tx:
            found = [each for each in await probes.standings(tx, zone_of(request)) if each.name == name]
        if not found:
            raise NotFound("There is no such probe in force.")
        return {**found[0].document(), "runs": [run.document() for run in found[0].runs]}

    @router.get("/probes/{name}/runs", summary="What a probe found, newest first")
    async def list_runs(
        request: Request, name: NamePath, caller: Reader, limit: Limit = 100, cursor: Cursor = None
    ) -> dict[str, Any]:
        async with database.begin() as tx:
            found = await runs.newest(tx, zone_of(request), name, before=_before(cursor), limit=limit)
        following = encode_cursor("probe-runs", found[-1].finished_at.isoformat()) if len(found) == limit else None
        return {"runs": [each.document() for each in found], "next": following}

    @router.post("/probes/{name}/run", status_code=202, summary="Have a probe run now")
    async def run(request: Request, name: NamePath, caller: Runner) -> dict[str, Any]:
        """The work role runs it; its run is the one with this `due_at`."""
        async with database.begin() as tx:
            due = await probes.ask(tx, context_of(request, caller), name)
        return {"probe": name, "due_at": due}

    return router


def _before(cursor: str | None) -> datetime | None:
    if cursor is None:
        return None
    kind, position = decode_cursor(cursor, (str, str))
    try:
        moment = datetime.fromisoformat(position)
    except ValueError:
        moment = None
    if kind != "probe-runs" or moment is None or moment.tzinfo is None or not 1970 <= moment.year <= 9000:
        raise InvalidRequest("The cursor belongs to another query.")
    return moment
