"""The pace of an installation's time, in a file that all its processes read, so that none is ahead of another.

There is none until ``bailiwick up --dev --clock-factor N`` speeds time up for the first time. From then on what is
shown never goes back: a later start goes on where the one before stopped, at whatever pace, and everything that is
made there says for ever that its clock is simulated.
"""

from __future__ import annotations

import json
import time

from bailiwick.kernel.clock import Pace, SystemClock
from bailiwick.kernel.paths import Layout, write_private


def clock_of(layout: Layout) -> SystemClock:
    """The clock of the installation there. Raises ValueError for a file that cannot be read."""
    return SystemClock(pace_of(layout))


def pace_of(layout: Layout) -> Pace | None:
    """How its time runs; None for real time. Raises ValueError for a file that cannot be read."""
    try:
        told = json.loads(layout.clock_file.read_text())
        pace = Pace(float(told["factor"]), float(told["real"]), float(told["shown"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{layout.clock_file} does not say how time runs here") from error
    return pace


def set_pace(layout: Layout, factor: float) -> None:
    """From now on time runs ``factor`` times as fast, from where it stands. Raises ValueError as :func:`pace_of`."""
    before, real = pace_of(layout), time.time()
    if before is None and factor == 1.0:
        return
    shown = real if before is None else before.at(max(real, before.real))
    write_private(layout.clock_file, json.dumps({"factor": factor, "real": real, "shown": shown}))
