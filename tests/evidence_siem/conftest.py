from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "evidence"))

from hec_server import HecServer
from ledger_world import World
from siem_world import SiemWorld

from databases import fresh


@pytest.fixture(scope="module")
def database_url() -> Iterator[str]:
    with fresh("siem") as url:
        yield url


@pytest.fixture
async def siem(database_url: str, tmp_path: Path) -> AsyncIterator[SiemWorld]:
    """An empty ledger, no sink, and deliveries that end with the test."""
    world = await World.make(database_url, tmp_path)
    made = SiemWorld(world)
    try:
        yield made
    finally:
        await made.close()
        await world.close()


@pytest.fixture
async def hec() -> AsyncIterator[HecServer]:
    server = HecServer()
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
