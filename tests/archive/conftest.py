from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "evidence"))

from archive_world import ArchiveWorld

from databases import fresh


@pytest.fixture(scope="module")
def database_url() -> Iterator[str]:
    with fresh("archive") as url:
        yield url


@pytest.fixture
async def world(database_url: str, tmp_path: Path) -> AsyncIterator[ArchiveWorld]:
    made = await ArchiveWorld.begin(database_url, tmp_path)
    try:
        yield made
    finally:
        await made.close()
