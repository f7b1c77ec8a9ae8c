"""Letting time pass: each step is in the evidence before it is made, and one command at a time makes them."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bailiwick.cli import clock
from bailiwick.cli.failure import CommandFailed
from bailiwick.evidence.events import decode
from bailiwick.evidence.sources import Place, SourceReader
from bailiwick.kernel.clock_file import clock_of, pace_of, set_pace
from bailiwick.kernel.paths import Layout


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """Where no database is, so that events go into a spool, and nothing comes due."""
    monkeypatch.setenv("BAILIWICK_DATABASE_URL", "postgresql://nobody@127.0.0.1:9/none")

    async def done(*what: Any) -> None:
        return None

    monkeypatch.setattr(clock, "_until_done", done)
    made = Layout(tmp_path / "data")
    made.create()
    set_pace(made, 1.0, stride_s=3600.0)
    return made


def advance(layout: Layout) -> None:
    asyncio.run(clock._advance(layout, timedelta(hours=2), timedelta(hours=1)))


def test_every_step_is_told_before_it_is_made(layout: Layout) -> None:
    before = clock_of(layout).now()
    advance(layout)
    assert clock_of(layout).now() - before >= timedelta(hours=2)
    told = []
    for directory in layout.spool.iterdir():
        reader = SourceReader(directory)
        told += [decode(row.body) for row in reader.read(Place(reader.segments()[0]), 1 << 20).events]
    told.sort(key=lambda event: event.at)
    assert [event.name for event in told] == ["clock.advanced"] * len(told) and len(told) in (2, 3)
    assert 7190 <= sum(event.details["by_s"] for event in told) <= 7203
    moment = before
    for event in told:
        at = datetime.fromisoformat(event.at)
        assert event.simulated_clock and moment <= at < moment + timedelta(minutes=2)
        moment = at + timedelta(seconds=event.details["by_s"] - 1)


def test_a_step_that_cannot_be_told_is_not_made(layout: Layout) -> None:
    layout.spool.rmdir()
    layout.spool.write_text("in the way")
    before = pace_of(layout)
    with pytest.raises(CommandFailed, match="no event of this could be left"):
        advance(layout)
    assert pace_of(layout) == before
