"""What the commands to a running installation share: asking the supervisor, and finding that none is there."""

from __future__ import annotations

import fcntl
import json
import os
import select
from typing import Any

from bailiwick.cli.failure import FAILED, NO_DATA, CommandFailed
from bailiwick.kernel.control import SupervisorRefused, SupervisorSilent, ask_supervisor
from bailiwick.kernel.paths import Layout


def ask(layout: Layout, do: str, *, limit: float = 5.0, **arguments: Any) -> dict[str, Any]:
    """The supervisor's answer. Raises :class:`CommandFailed`: 3 when none runs, 1 when it is silent or refuses."""
    import asyncio

    try:
        return asyncio.run(ask_supervisor(layout.control_socket, do, limit=limit, **arguments))
    except SupervisorRefused as refusal:
        raise CommandFailed(FAILED, str(refusal)) from None
    except SupervisorSilent:
        pid = holder(layout)
        if pid is None:
            raise CommandFailed(NO_DATA, f"nothing is running on {layout.data_dir}") from None
        raise CommandFailed(FAILED, f"the supervisor (pid {pid}) does not answer") from None


def holder(layout: Layout) -> int | None:
    """The pid of the supervisor that holds the data directory, whether it answers or not."""
    try:
        fd = os.open(layout.lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        try:
            return int(json.loads(os.pread(fd, 65536, 0))["pid"])
        except (ValueError, KeyError, TypeError):
            return None
    finally:
        os.close(fd)


def wait_until_gone(pid: int, limit: float) -> bool:
    """Wait at most ``limit`` seconds for ``pid`` to end; True when it has."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(limit * 1000))
    finally:
        os.close(pidfd)
