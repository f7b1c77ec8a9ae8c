from __future__ import annotations

from pathlib import Path

import pytest
from supervisor_stage import Stage

from bailiwick.kernel.paths import Layout


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    layout = Layout(tmp_path / "data with späces")
    layout.create()
    orders = tmp_path / "orders"
    orders.mkdir()
    return Stage(layout, orders)
