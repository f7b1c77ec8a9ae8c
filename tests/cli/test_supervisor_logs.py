from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bailiwick.cli.supervisor.logsink import LogSink, Pump, text_of

AT = datetime(2026, 1, 5, 9, tzinfo=UTC)


def sink(path: Path, **changes) -> LogSink:
    return LogSink(path, "w1", now=lambda: AT, **changes)


def test_a_structured_line_passes_and_any_other_is_wrapped(tmp_path: Path) -> None:
    log = sink(tmp_path / "w1.log")
    log.write(b'{"event": "own", "level": "INFO"}')
    log.write(b"Traceback (most recent call last):")
    log.write(b"plain \xff\x1b[31m words")
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "w1.log").read_text().splitlines()]
    assert lines[0] == {"event": "own", "level": "INFO"}
    assert lines[1]["level"] == "ERROR" and lines[1]["part"] == "w1"
    assert lines[2] == {
        "ts": "2026-01-05T09:00:00.000Z",
        "level": "INFO",
        "event": "plain �\x1b[31m words",
        "part": "w1",
    }
    assert "\x1b" not in (tmp_path / "w1.log").read_text()
    assert (tmp_path / "w1.log").stat().st_mode & 0o777 == 0o600


def test_logfmt_wraps_and_reads_back(tmp_path: Path) -> None:
    log = sink(tmp_path / "w1.log", form="logfmt")
    log.write(b"ts=1 level=INFO event=own")
    log.write(b'it said "no"\tand left')
    own, wrapped = (tmp_path / "w1.log").read_text().splitlines()
    assert own == "ts=1 level=INFO event=own"
    assert text_of(wrapped) == 'it said "no"\tand left'
    assert log.tail(1) == ['it said "no"\tand left']
    log.close()


def test_rotation_keeps_the_newest_files(tmp_path: Path) -> None:
    log = sink(tmp_path / "w1.log", size=400, keep=2)
    for number in range(40):
        log.write(b"line %d" % number)
    log.close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["w1.log", "w1.log.1", "w1.log.2"]
    assert all(path.stat().st_size <= 400 for path in tmp_path.iterdir())
    assert text_of((tmp_path / "w1.log").read_text().splitlines()[-1]) == "line 39"


def test_a_log_that_cannot_be_written_is_counted_and_holds_nobody_up(tmp_path: Path) -> None:
    log = sink(tmp_path / "w1.log")
    (tmp_path / "full.log").symlink_to("/dev/full")
    log.write(b"fine")
    refused = sink(tmp_path / "full.log")  # a symlink is not followed
    refused.write(b"lost")
    assert (log.lost, refused.lost) == (0, 1)
    log.close()


async def test_the_pump_takes_whole_lines_the_rest_at_the_end_and_cuts_endless_ones() -> None:
    taken: list[bytes] = []
    readable, writable = os.pipe()
    pump = Pump(os.fdopen(readable, "rb"), taken.append)
    os.write(writable, b"one\ntw")
    await asyncio.sleep(0)
    os.write(writable, b"o\nthree")
    os.close(writable)
    pump.close()
    assert taken == [b"one", b"two", b"three"]
    readable, writable = os.pipe()
    taken.clear()
    pump = Pump(os.fdopen(readable, "rb"), taken.append)

    def pour() -> None:
        with os.fdopen(writable, "wb") as file:
            file.write(b"x" * 200_000)

    await _both(pour, lambda: sum(map(len, taken)) >= 131_072)
    pump.close()
    assert sum(map(len, taken)) == 200_000
    assert max(map(len, taken)) <= 2 * 65536


async def _both(pour, enough) -> None:
    pouring = asyncio.create_task(asyncio.to_thread(pour))
    async with asyncio.timeout(5):
        while not (enough() and pouring.done()):
            await asyncio.sleep(0.001)


@pytest.fixture
def logs_dir(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    for name, minutes in (("w1", (1, 3)), ("guard", (2,))):
        lines = [json.dumps({"ts": f"2026-01-05T09:0{minute}:00Z", "event": f"{name} {minute}"}) for minute in minutes]
        (tmp_path / "logs" / f"{name}.log").write_text("\n".join(lines) + "\n")
    return tmp_path


def run_logs(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bailiwick.cli.main", "logs", *arguments], capture_output=True, text=True, timeout=20
    )


def test_logs_of_all_parts_come_in_order_of_time(logs_dir: Path) -> None:
    shown = run_logs("--data-dir", str(logs_dir), "-n", "2")
    assert re.findall(r'"event": "(.*?)"', shown.stdout) == ["guard 2", "w1 3"]
    assert shown.returncode == 0


def test_logs_of_an_unknown_part_name_the_known_ones(logs_dir: Path) -> None:
    shown = run_logs("--data-dir", str(logs_dir), "w9")
    assert shown.returncode == 2
    assert "guard, w1" in shown.stderr
    assert run_logs("--data-dir", str(logs_dir / "nowhere")).returncode == 3


def test_logs_follow_across_a_rotation(logs_dir: Path) -> None:
    path = logs_dir / "logs" / "w1.log"
    following = subprocess.Popen(
        [sys.executable, "-u", "-m", "bailiwick.cli.main", "logs", "w1", "-f", "-n", "1", "--data-dir", str(logs_dir)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert following.stdout is not None
        assert "w1 3" in following.stdout.readline()
        with path.open("a") as file:
            file.write("appended\n")
        assert following.stdout.readline() == "appended\n"
        path.replace(path.with_name("w1.log.1"))
        path.write_text("after\n")
        assert following.stdout.readline() == "after\n"
    finally:
        following.kill()
        following.communicate()
