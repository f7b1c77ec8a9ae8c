"""Finds and ends the processes that an earlier life of the supervisor left behind, and never anybody else's."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from bailiwick.cli.supervisor.runner import RUN_ID
from bailiwick.kernel.paths import Layout
from bailiwick.kernel.processes import kill_recorded, started_at


def boot_id() -> str:
    """Names this boot of the machine: pids and start times mean nothing across it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def read_status(layout: Layout) -> dict[str, Any] | None:
    """What a supervisor last wrote; None when there is nothing readable."""
    try:
        found = json.loads(layout.status_file.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


async def end_leftovers(layout: Layout) -> list[str]:
    """End what the last supervisor of ``layout`` recorded and did not live to stop; the names of those parts.

    The caller holds the lock, so that supervisor is gone. A process is ours when its pid and start time are the
    recorded ones in this boot, or when its environment carries the recorded run id.
    """
    status = read_status(layout)
    if status is None or status.get("boot_id") != boot_id():
        return []
    ended = []
    for part in status.get("parts", []):
        pid, started = part.get("pid"), part.get("started_ticks")
        if isinstance(pid, int) and isinstance(started, int) and await kill_recorded(pid, started):
            ended.append(str(part.get("name")))
    if run_id := status.get("run_id"):
        await end_marked(str(run_id))
    for socket in (layout.control_socket, *layout.run.glob("*/*.sock")):
        socket.unlink(missing_ok=True)
    return ended


async def end_marked(run_id: str) -> int:
    """SIGKILL every process but us whose environment carries ``run_id``; how many there were."""
    ended = 0
    for pid, started in _marked(run_id):
        with contextlib.suppress(TimeoutError):
            ended += await kill_recorded(pid, started)
    return ended


def _marked(run_id: str) -> list[tuple[int, int]]:
    mark = f"{RUN_ID}={run_id}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                started = started_at(int(entry.name))  # read first: what is killed is what was looked at
                if started is not None and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append((int(entry.name), started))
    return found
