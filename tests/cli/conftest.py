from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from supervisor_stage import Stage

from bailiwick.kernel.paths import Layout


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    layout = Layout(tmp_path / "data with späces")
    layout.create()
    orders = tmp_path / "orders"
    orders.mkdir()
    yield Stage(layout, orders)
    layout.remove_foreign_run()
