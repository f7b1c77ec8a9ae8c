from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from api_client import ApiClient
from fastapi import FastAPI, Request
from ledger_world import World

from bailiwick.evidence.api import routes
from bailiwick.evidence.search import Search
from bailiwick.kernel.errors import Unauthenticated
from bailiwick.kernel.http import Caller
from bailiwick.kernel.problems import install
from databases import fresh


@pytest.fixture(scope="module")
def database_url() -> Iterator[str]:
    with fresh("evidence") as url:
        yield url


@pytest.fixture
async def world(database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """An empty ledger with the zones ``default`` and ``acme``, their keys, a spool directory and a sequencer."""
    made = await World.make(database_url, tmp_path)
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
async def api(world: World) -> AsyncIterator[ApiClient]:
    """The room's routes, called by whoever ``X-Role`` says, in the zone that ``X-Zone`` says."""
    app = FastAPI()
    install(app)

    async def authenticate(request: Request) -> Caller:
        role = request.headers.get("x-role")
        if role is None:
            raise Unauthenticated()
        return Caller(request.state.zone, "olga", role, "session-1")

    app.state.authenticate = authenticate
    search = Search(world.database, world.sealer)
    app.include_router(routes(world.database, search, world.recorder, world.head_files))

    async def front(scope: Any, receive: Any, send: Any) -> None:
        zone = dict(scope["headers"]).get(b"x-zone", b"default").decode()
        await app({**scope, "state": {"zone": zone, "request_id": world.ids(), "ip": "192.0.2.1"}}, receive, send)

    yield ApiClient(front, {"x-role": "auditor"})
