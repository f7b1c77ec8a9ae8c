"""Runs commands of the program in forks of a process that has imported it, for tests that run hundreds of them.

A command begun the usual way spends seconds on imports under coverage. The socket on standard input takes requests
``{"arguments", "environment", "folder"}`` with three descriptors: standard output, standard error, and where the pid
and then the exit code are written, a line each.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import NoReturn

MESSAGE_LIMIT = 1 << 20


def main() -> None:
    """Serve until the other end is closed; a fork becomes the command."""
    requests = socket.socket(fileno=os.dup(0))
    from bailiwick.cli.main import COMMANDS
    from bailiwick.cli.main import main as command

    for entry in COMMANDS.values():
        import_module(entry.target.partition(":")[0])
    for module in ("bailiwick.app.assurance", "bailiwick.app.archive", "bailiwick.kernel.migrate"):
        import_module(module)
    _keep_what_was_measured()
    gc.collect()
    gc.freeze()
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, MESSAGE_LIMIT, 3)
        if not message:
            _end(lambda: None)
        if os.fork() == 0:
            requests.close()
            request = json.loads(message)
            output, errors, ending = descriptors
            child = os.fork()
            if child:
                os.write(ending, f"{child}\n".encode())
                code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                with suppress(OSError):  # whoever asked may have given up
                    os.write(ending, f"{code}\n".encode())
                os._exit(0)
            with open(os.devnull, "rb") as nothing:
                os.dup2(nothing.fileno(), 0)
            os.dup2(output, 1)
            os.dup2(errors, 2)
            for descriptor in descriptors:
                os.close(descriptor)
            os.environ.clear()
            os.environ.update(request["environment"])
            os.chdir(request["folder"])
            sys.argv = ["bailiwick", *request["arguments"]]
            _end(command)
        for descriptor in descriptors:
            os.close(descriptor)
        with suppress(ChildProcessError):  # those that have ended
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _end(command: Callable[[], None]) -> NoReturn:
    """Run it, and leave without taking apart what the imports made, which some libraries complain of."""
    code: object = 0
    try:
        command()
    except SystemExit as ending:
        code = ending.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1 if code else 0)


def _keep_what_was_measured() -> None:
    """Or each fork would write down the lines of all imports once more."""
    with suppress(ImportError):
        from coverage import Coverage

        measuring = Coverage.current()
        if measuring is not None:
            measuring.save()


if __name__ == "__main__":
    main()
