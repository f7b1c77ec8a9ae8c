"""The pace of an installation's time, in a file that all its processes read, so that none is ahead of another.

There is none until ``bailiwick up --dev`` is told to shift time (``--clock-factor``, ``--clock-stride``). From then on
what is shown never goes back: a later start goes on where the one before stopped, at whatever pace, and everything that
is made there says for ever that its clock is simulated.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bailiwick.kernel.clock import Pace, SystemClock
from bailiwick.kernel.paths import Layout, write_private


class PacedClock(SystemClock):
    """Time as the file at ``path`` says that it runs; what it says from now on counts at once."""

    simulated = True

    def __init__(self, path: Path, pace: Pace) -> None:
        self._path, self._pace = path, pace
        self._seen: tuple[int, int] | None = None

    def time(self) -> float:
        found = self._path.stat()  # it is replaced whole, so another file is another word
        seen = (found.st_ino, found.st_mtime_ns)
        if seen != self._seen:
            self._pace, self._seen = _read(self._path), seen
        return self._pace.at(time.time())


def clock_of(layout: Layout) -> SystemClock:
    """The clock of the installation there. Raises ValueError for a file that cannot be read."""
    pace = pace_of(layout)
    return SystemClock() if pace is None else PacedClock(layout.clock_file, pace)


def pace_of(layout: Layout) -> Pace | None:
    """How its time runs; None for real time. Raises ValueError for a file that cannot be read."""
    try:
        return _read(layout.clock_file)
    except FileNotFoundError:
        return None


def set_pace(layout: Layout, factor: float = 1.0, stride_s: float = 0.0) -> None:
    """From now on time runs ``factor`` times as fast, from where it stands. Raises ValueError as :func:`pace_of`."""
    with _lock(layout.clock_file, wait=True):
        before = pace_of(layout)
        if before is None and factor == 1.0 and not stride_s:
            return
        _write(layout, replace(_now(before), factor=factor, stride_s=stride_s))


def advance(layout: Layout, seconds: float) -> None:
    """Have ``seconds`` pass at once. Raises ValueError where time was not shifted before, or would go back."""
    with _lock(layout.clock_file, wait=True):
        before = pace_of(layout)
        if before is None or seconds < 0:
            raise ValueError("time runs as it does everywhere: start with `bailiwick up --dev --clock-stride`")
        now = _now(before)
        _write(layout, replace(now, shown=now.shown + seconds))


@contextmanager
def advancing(layout: Layout) -> Iterator[None]:
    """The right to let time pass step by step. Raises BlockingIOError where another process does."""
    with _lock(layout.clock_file.with_name("clock-advance"), wait=False):
        yield


@contextmanager
def _lock(path: Path, *, wait: bool) -> Iterator[None]:
    """A lock beside ``path``, which the kernel takes back when its holder dies."""
    fd = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(fd)


def _now(before: Pace | None) -> Pace:
    real = time.time()
    if before is None:
        return Pace(real=real, shown=real)
    return replace(before, real=real, shown=before.at(max(real, before.real)))


def _read(path: Path) -> Pace:
    try:
        told = json.loads(path.read_text())
        return Pace(**{name: float(told[name]) for name in ("factor", "real", "shown", "stride_s")})
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not say how time runs here") from error


def _write(layout: Layout, pace: Pace) -> None:
    told = {"factor": pace.factor, "real": pace.real, "shown": pace.shown, "stride_s": pace.stride_s}
    write_private(layout.clock_file, json.dumps(told))
