from __future__ import annotations

from collections.abc import Iterator

import pytest

from databases import fresh


@pytest.fixture(scope="module")
def database_url() -> Iterator[str]:
    with fresh("kernel") as url:
        yield url
