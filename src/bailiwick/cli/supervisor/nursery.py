"""The supervisor's end of the nursery: a process that has the application imported and forks roles off at once.

Importing the application takes longer than everything else a role does at its start, and each role would do it for
itself. The nursery does it once. A role that it forks becomes a child of the supervisor, so the nursery may die at
any time and takes nobody along; while it is away roles are started in the ordinary way.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Callable, Sequence
from typing import IO, Any

from bailiwick.cli.supervisor.part import Part
from bailiwick.kernel.processes import Child, Command

MESSAGE_LIMIT = 192 << 10
_REPLY_SECONDS = 2.0


class Nursery:
    """Starts roles through the process that ``command`` runs; ``base`` is what their command lines begin with."""

    def __init__(self, command: Callable[[], Command], base: Sequence[str]) -> None:
        self._command = command
        self._base = list(base)
        self._ours: socket.socket | None = None
        self._ready = False

    def part(self, stage: int) -> Part:
        """The nursery itself, as a part."""
        return Part(
            name="nursery",
            title="has the application in memory",
            command=self._command,
            ready=self.ready,
            alive=self._asked_still,
            stage=stage,
            stop_rank=50,
            start_seconds=60.0,
            drain_seconds=2.0,
            stdin=self._connect,
        )

    async def ready(self) -> bool:
        """True when it has imported everything."""
        if self._ours is not None and not self._ready:
            with contextlib.suppress(OSError):
                self._ready = self._ours.recv(64, socket.MSG_DONTWAIT) == b"ready"
        return self._ready

    def spawn(self, command: Command, *, stdin: int | None = None, stdout: Any = None, stderr: Any = None) -> Child:
        """Start ``command`` as :meth:`Child.spawn` does with its output piped, quicker when the nursery is there."""
        arguments = list(command.argv)[len(self._base) :]
        if self._ready and stdin is None and list(command.argv)[: len(self._base)] == self._base:
            with contextlib.suppress(OSError, ValueError, KeyError):
                return self._fork(arguments, command, apart=stderr == subprocess.PIPE)
            self.forget()
        return Child.spawn(command, stdin=stdin, stdout=stdout, stderr=stderr)

    def forget(self) -> None:
        """Ask it nothing any more; it ends when it notices, or is killed as hung."""
        self._ready = False
        if self._ours is not None:
            self._ours.close()
            self._ours = None

    async def _asked_still(self) -> bool:
        return self._ours is not None

    def _connect(self) -> int:
        self.forget()
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return theirs.detach()

    def _fork(self, arguments: list[str], command: Command, *, apart: bool) -> Child:
        assert self._ours is not None
        request = {"arguments": arguments, "environment": dict(command.env)}
        mine: list[IO[bytes]] = []
        given: list[int] = []
        try:
            for _ in range(2 if apart else 1):
                readable, writable = os.pipe()
                mine.append(os.fdopen(readable, "rb", buffering=0))
                given.append(writable)
            self._ours.settimeout(_REPLY_SECONDS)
            socket.send_fds(self._ours, [json.dumps(request).encode()], given)
            pid = int(json.loads(self._ours.recv(MESSAGE_LIMIT))["pid"])
            return Child.adopt(pid, stdout=mine[0], stderr=mine[1] if apart else None)
        except BaseException:
            for pipe in mine:
                pipe.close()
            raise
        finally:
            for descriptor in given:
                os.close(descriptor)
