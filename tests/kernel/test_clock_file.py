"""The pace of an installation's time: one for all of its processes, and it never goes back."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bailiwick.kernel.clock import Pace, SystemClock
from bailiwick.kernel.clock_file import advance, advancing, clock_of, pace_of, set_pace
from bailiwick.kernel.paths import Layout


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "data")
    layout.create()
    return layout


def test_time_is_the_machines_unless_it_was_ever_sped_up(layout: Layout) -> None:
    set_pace(layout, 1.0)
    assert not layout.clock_file.exists()
    clock = clock_of(layout)
    assert not clock.simulated
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(seconds=5)


def test_processes_that_begin_at_different_times_show_the_same(layout: Layout) -> None:
    set_pace(layout, 100_000.0)
    time.sleep(0.05)
    here, before = clock_of(layout), time.time()
    shown = (
        "from bailiwick.kernel.clock_file import clock_of; from bailiwick.kernel.paths import Layout; import sys, time"
    )
    shown += "; clock = clock_of(Layout(sys.argv[1])); real = time.time(); print(real, clock.time(), time.time())"
    told = subprocess.run(
        [sys.executable, "-c", shown, str(layout.data_dir)], capture_output=True, text=True, check=True, timeout=60
    )
    began, there, ended = map(float, told.stdout.split())
    pace = pace_of(layout)
    assert pace is not None
    assert before < began and pace.at(began) <= there <= pace.at(ended)
    assert here.simulated and here.time() >= there


def test_time_goes_on_where_it_stood_whatever_its_pace_becomes(layout: Layout) -> None:
    set_pace(layout, 100_000.0)
    time.sleep(0.02)
    far = clock_of(layout).time()
    assert far > time.time() + 1000
    for factor in (1.0, 60.0, 1.0):
        set_pace(layout, factor)
        clock = clock_of(layout)
        assert clock.simulated, "what was shifted once is shifted for ever"
        assert clock.time() >= far
        far = clock.time()
    assert far < clock_of(layout).time() < far + 60


def test_a_machine_set_back_does_not_set_it_back(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    set_pace(layout, 10.0)
    stood = pace_of(layout)
    assert stood is not None
    real = time.time
    monkeypatch.setattr("bailiwick.kernel.clock_file.time.time", lambda: real() - 3600)
    set_pace(layout, 1.0)
    now = pace_of(layout)
    assert now is not None and now.shown >= stood.shown


@pytest.mark.parametrize("content", ["", "{}", '{"factor": "fast"}', '{"factor": 1, "real": null, "shown": 2}', "[1]"])
def test_a_file_that_does_not_say_is_an_error_and_not_real_time(layout: Layout, content: str) -> None:
    layout.clock_file.write_text(content)
    with pytest.raises(ValueError, match="does not say how time runs"):
        clock_of(layout)
    with pytest.raises(ValueError, match="does not say how time runs"):
        set_pace(layout, 1.0)


def test_what_a_pace_shows() -> None:
    pace = Pace(60.0, real=1000.0, shown=5000.0)
    assert pace.at(1001.0) == 5060.0
    assert not SystemClock().simulated


def test_what_is_moved_on_is_seen_at_once_by_who_reads_already(layout: Layout) -> None:
    with pytest.raises(ValueError, match="clock-stride"):
        advance(layout, 60.0)
    set_pace(layout, 1.0, stride_s=3600.0)
    here, another = clock_of(layout), clock_of(layout)
    before = max(here.time(), another.time())
    advance(layout, 86_400.0)
    for clock in (here, another):
        assert before + 86_400 <= clock.time() < before + 86_460
    pace = pace_of(layout)
    assert pace is not None and (pace.factor, pace.stride_s) == (1.0, 3600.0)
    with pytest.raises(ValueError, match="as it does everywhere"):
        advance(layout, -1.0)


def test_a_file_that_vanishes_does_not_make_time_real(layout: Layout) -> None:
    set_pace(layout, 60.0)
    clock = clock_of(layout)
    layout.clock_file.unlink()
    with pytest.raises(FileNotFoundError):
        clock.now()


def test_two_that_move_it_on_at_once_both_do(layout: Layout) -> None:
    """Each reads where time stands and writes where it goes on: nothing of it is lost in between."""
    set_pace(layout, 1.0, stride_s=3600.0)
    before = clock_of(layout).time()
    move = "from bailiwick.kernel.clock_file import advance; from bailiwick.kernel.paths import Layout; import sys\n"
    move += "for _ in range(100): advance(Layout(sys.argv[1]), 1000.0)"
    both = [subprocess.Popen([sys.executable, "-c", move, str(layout.data_dir)]) for _ in range(2)]
    assert [each.wait(timeout=60) for each in both] == [0, 0]
    assert before + 200_000 <= clock_of(layout).time() < before + 200_000 + 100


def test_one_lets_time_pass_step_by_step(layout: Layout) -> None:
    set_pace(layout, 1.0, stride_s=3600.0)
    with advancing(layout):
        with pytest.raises(BlockingIOError), advancing(layout):
            raise AssertionError
        advance(layout, 60.0)  # which it does not hold up
        set_pace(layout)
    with advancing(layout):
        pass
