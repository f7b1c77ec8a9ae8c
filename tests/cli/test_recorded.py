"""What an operator does on the machine is in the evidence, even while the database is away."""

from __future__ import annotations

import getpass
from pathlib import Path

import pytest

from bailiwick.cli.failure import CommandFailed
from bailiwick.cli.recorded import by_operator, leave
from bailiwick.evidence import codes
from bailiwick.evidence.events import Event, Subject
from bailiwick.evidence.records import EventRow
from bailiwick.evidence.sources import Place, SourceReader
from bailiwick.kernel.clock_file import set_pace
from bailiwick.kernel.paths import Layout


def restarted() -> Event:
    recorder, context = by_operator(None)
    return recorder.make(codes.PART_RESTARTED, "success", context, subject=Subject(id="postgres", type="part"))


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.setenv("BAILIWICK_DATABASE_URL", "postgresql://nobody@127.0.0.1:9/none")
    made = Layout(tmp_path / "data")
    made.create()
    return made


def spooled(layout: Layout) -> list[EventRow]:
    found = []
    for directory in layout.spool.iterdir():
        if directory.is_dir() and list(directory.glob("*.seg")):
            reader = SourceReader(directory)
            found += reader.read(Place(reader.segments()[0]), 1 << 20).events
    return found


def test_without_a_database_it_goes_into_a_spool(layout: Layout) -> None:
    event = restarted()
    leave(layout, event)
    leave(layout, second := restarted())
    assert {str(row.id) for row in spooled(layout)} == {event.id, second.id}
    assert event.principal == f"os:{getpass.getuser()}"


def test_where_neither_takes_it_the_command_fails(layout: Layout) -> None:
    layout.spool.rmdir()
    layout.spool.write_text("in the way")
    with pytest.raises(CommandFailed, match="no event of this could be left"):
        leave(layout, restarted())
    assert layout.spool.is_file()


def test_what_is_done_where_time_is_simulated_says_so(layout: Layout) -> None:
    set_pace(layout, 60.0)
    recorder, context = by_operator(layout)
    event = recorder.make(codes.PART_RESTARTED, "success", context, subject=Subject(id="postgres", type="part"))
    assert event.simulated_clock
