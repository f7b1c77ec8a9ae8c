"""What asks :mod:`forker` for commands: one such process for each process of the test run, begun when first needed."""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path


class Forked:
    """Runs commands as :func:`subprocess.run` would, without the time that their imports take."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        forker = str(Path(__file__).with_name("forker.py"))
        with theirs:
            self._process = subprocess.Popen([sys.executable, forker], stdin=theirs)
        self._socket = ours
        atexit.register(self.close)

    def run(
        self, arguments: Sequence[str], environment: Mapping[str, str], *, timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Raises :class:`subprocess.TimeoutExpired`, the command killed."""
        request = {"arguments": arguments, "environment": dict(environment), "folder": os.getcwd()}
        readable, writable = os.pipe()
        with (
            tempfile.TemporaryFile() as output,
            tempfile.TemporaryFile() as errors,
            open(readable, "rb", buffering=0) as ending,
        ):
            try:
                descriptors = [output.fileno(), errors.fileno(), writable]
                socket.send_fds(self._socket, [json.dumps(request).encode()], descriptors)
            finally:
                os.close(writable)
            pid = int(ending.readline())
            if not select.select([ending], [], [], timeout)[0]:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(list(arguments), timeout)
            code = int(ending.readline())
            output.seek(0)
            errors.seek(0)
            return subprocess.CompletedProcess(
                ["bailiwick", *arguments], code, output.read().decode(), errors.read().decode()
            )

    def close(self) -> None:
        """End the process; what runs in its forks goes on."""
        self._socket.close()
        self._process.wait(30)


@cache
def forked() -> Forked:
    """The one of this process."""
    return Forked()
