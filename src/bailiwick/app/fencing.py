"""Fencing a worker that does not confirm a revocation: killed through this machine's supervisor."""

from __future__ import annotations

import socket
from pathlib import Path

from bailiwick.kernel.control import SupervisorRefused, SupervisorSilent, fence


class Fence:
    """Asks the supervisor. A worker of another machine is out of reach, and without a supervisor so is every other."""

    def __init__(self, control_socket: Path) -> None:
        self._control_socket = control_socket
        self._host = socket.gethostname()

    async def __call__(self, host: str, slot: str) -> bool:
        """Make sure the worker at ``slot`` of ``host`` answers nothing more; False when we could not."""
        if host != self._host:
            return False
        try:
            await fence(self._control_socket, slot)
        except (SupervisorRefused, SupervisorSilent):
            return False
        return True
