"""How long the arms of canaries may keep their traffic without anybody watching.

A candidate has traffic while somebody judges it. The work role says so in a file, for a few seconds at a time; when
it stops (it is dead, it hangs, or the database under it does) the file runs out, and any serve worker of the machine
puts the routing table in force that was laid ready for this: everything to the stable arms. The instant is of the
machine's own monotonic clock (``CLOCK_BOOTTIME``), which every process of it reads alike and nobody sets.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from bailiwick.gateway.envoy import EnvoyFiles

HELD_S = 15.0
"""How long after it was last judged a candidate keeps its traffic."""

_LOOK_S = 1.0

log = structlog.get_logger(__name__)


def boottime() -> float:
    """Seconds since the machine started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lease:
    """The file, for whoever renews it and whoever looks."""

    def __init__(self, path: Path, *, now: Callable[[], float] = boottime) -> None:
        self._path = path
        self._now = now

    def renew(self, for_s: float) -> None:
        """Let it hold for so many seconds from now. Raises :class:`OSError`."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = self._path.with_suffix(".new")
        draft.write_text(f"{self._now() + for_s:.3f}\n")
        draft.replace(self._path)

    def holds(self) -> bool:
        """Whether it does; one that cannot be read does not, nor one from before the machine started."""
        try:
            until = float(self._path.read_text())
        except (OSError, ValueError):
            return False
        return self._now() < until <= self._now() + HELD_S


class DeadMan:
    """Gives all traffic back to the stable arms when the lease has run out. Runs in every serve worker."""

    def __init__(self, files: EnvoyFiles, lease: Lease) -> None:
        self._files = files
        self._lease = lease

    async def run(self) -> None:
        """Look every second until cancelled."""
        while True:
            with contextlib.suppress(OSError):
                self.look()
            await asyncio.sleep(_LOOK_S)

    def look(self) -> bool:
        """Whether traffic had to be given back. Raises :class:`OSError`."""
        if self._lease.holds() or not self._files.fall_back():
            return False
        log.error("nobody watches the canaries: their candidates get no traffic")
        return True
