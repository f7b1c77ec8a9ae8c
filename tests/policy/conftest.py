from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from policy_stage import Stage

from databases import fresh


@pytest.fixture(scope="module")
def database_url() -> Iterator[str]:
    with fresh("policysvc") as url:
        yield url


@pytest.fixture
async def stage(database_url: str) -> AsyncIterator[Stage]:
    made = Stage(database_url)
    await made.open()
    yield made
    await made.close()
