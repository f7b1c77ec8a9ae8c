"""Ports for the servers that tests start.

A port that was found by binding to port 0 is given back before the server takes it, and until then the kernel may give
it to any outgoing connection or to a server of another test. These are below the range the kernel gives from, no two
of them are given in one run of the tests, whichever processes ask, and TCP and UDP are both free.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

from bailiwick.cli.supervisor.ports import quiet_ports

_GIVEN = Path(tempfile.gettempdir(), f"bw-ports-{os.geteuid()}")
_held: dict[int, int] = {}  # port → a locked file, until this process ends


def free_port() -> int:
    """A port of loopback that nobody has, and that is given to nobody else while this process lives."""
    ports = quiet_ports()
    _GIVEN.mkdir(exist_ok=True)
    for _ in range(1000):
        port = random.choice(ports)
        if port not in _held and _hold(port):
            return port
    raise AssertionError("a thousand ports in a row are taken")


def _hold(port: int) -> bool:
    lock = os.open(_GIVEN / str(port), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(type=kind) as probe:
                probe.bind(("", port))
    except OSError:
        os.close(lock)
        return False
    _held[port] = lock
    return True
