"""The nursery: imports the application once and forks the roles off, each a child of the supervisor."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import signal
import socket
import sys
from importlib import import_module

from bailiwick.cli import roles
from bailiwick.cli.failure import FAILED, CommandFailed, command
from bailiwick.cli.options import small_app
from bailiwick.cli.supervisor.nursery import MESSAGE_LIMIT
from bailiwick.kernel.processes import belong_to

app = small_app()

_ROLES = ("prepare", "serve", "guard", "work")


@app.command()
@command
def nursery() -> int:
    """Import the application and start roles on request; standard input is a socket of the supervisor's."""
    control = socket.socket(fileno=os.dup(0))
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - a descriptor is wanted
        os.dup2(nothing.fileno(), 0)
    for role in _ROLES:
        import_module(f"{roles.COMPOSITION_ROOT}.{role}")
    import_module("bailiwick.cli.supervisor.stack")  # what prepare needs for the embedded database
    if len(os.listdir("/proc/self/task")) != 1:  # noqa: PTH208
        raise CommandFailed(FAILED, "an import started a thread: forking is not safe")
    gc.collect()
    with contextlib.suppress(AttributeError):  # glibc's; what the imports gave back goes back to the system
        ctypes.CDLL(None).malloc_trim(0)
    gc.freeze()  # what was imported is never garbage: collecting would only unshare its pages
    control.send(b"ready")
    arguments = _serve(control)
    if arguments is None:
        return 0
    sys.argv = ["bailiwick", *arguments]
    from bailiwick.cli.main import main

    main()
    return 0


def _serve(control: socket.socket) -> list[str] | None:
    """Answer requests until the supervisor is gone. In a forked role this returns its arguments."""
    supervisor = os.getppid()
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, MESSAGE_LIMIT, 2)
        if not message:
            return None
        request = json.loads(message)
        readable, writable = os.pipe()
        between = os.fork()
        if between == 0:
            pid = os.fork()
            if pid != 0:
                os.write(writable, str(pid).encode())
                os._exit(0)
            control.close()
            os.close(readable)
            os.close(writable)
            _take_over(supervisor, request, descriptors)
            return list(request["arguments"])
        os.close(writable)
        os.waitpid(between, 0)
        # the role is by now the supervisor's child
        control.send(json.dumps({"pid": int(os.read(readable, 32))}).encode())
        for descriptor in (readable, *descriptors):
            os.close(descriptor)


def _take_over(supervisor: int, request: dict[str, object], descriptors: list[int]) -> None:
    """Become the role: the supervisor's child, with its own environment and output."""
    arguments, environment = request["arguments"], request["environment"]
    assert isinstance(arguments, list) and isinstance(environment, dict)
    belong_to(supervisor, f"bw-{arguments[-1]}")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.dup2(descriptors[0], 1)
    os.dup2(descriptors[-1], 2)
    for descriptor in descriptors:
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
