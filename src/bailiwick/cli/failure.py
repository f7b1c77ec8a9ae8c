"""How a command ends other than well: one line for the person, an exit code for the script."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

FAILED = 1
USAGE = 2
NO_DATA = 3

P = ParamSpec("P")


class CommandFailed(Exception):
    """Ends a command with ``code`` and one line on standard error."""

    def __init__(self, code: int, message: str) -> None:
        self.code = code
        super().__init__(message)


def command(function: Callable[P, int | None]) -> Callable[P, None]:
    """Make ``function``, which returns an exit code, a typer command that reports :class:`CommandFailed`."""

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = function(*args, **kwargs)
        except CommandFailed as failure:
            print(f"bailiwick: {failure}", file=sys.stderr)
            code = failure.code
        except KeyboardInterrupt:
            code = 130
        except BrokenPipeError:  # `| head` took what it wanted
            sys.stderr.close()
            code = 0
        sys.exit(code or 0)

    return wrapped
