"""Processes that need not be measured, since what they run is measured where it is tested by itself.

A process under coverage is half as fast or worse, and has a file to write when it ends, as each of its forks has.
"""

from __future__ import annotations

import os
import posix
from typing import NoReturn


def unmeasured(**more: str) -> dict[str, str]:
    """The environment of this process without what has coverage.py measure a process, and ``more`` in it."""
    return {name: value for name, value in os.environ.items() if name != "COVERAGE_PROCESS_CONFIG"} | more


def leave(code: int) -> NoReturn:
    """End this process, which was forked from a measured one, at once: ``os._exit`` is where coverage.py writes down
    what a process ran, and for a fork that is all that its parent did so far."""
    posix._exit(code)
