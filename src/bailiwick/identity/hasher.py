"""The program that hashes passwords in a process of its own (``hashers.py`` starts it and speaks with it).

It takes one job a line on its standard input, answers one line each, and ends when nobody asks for a while or when
whoever started it is gone. It imports little, since somebody waits for it while it starts.
"""

from __future__ import annotations

import json
import os
import select
import sys

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError
from argon2.low_level import Type


def make_hasher(memory_kib: int, passes: int, lanes: int) -> PasswordHasher:
    """Argon2id by these parameters."""
    return PasswordHasher(time_cost=passes, memory_cost=memory_kib, parallelism=lanes, type=Type.ID)


def matches(hasher: PasswordHasher, stored: str, password: str) -> bool:
    """Whether ``password`` is the one hashed as ``stored``; no for a hash that is none."""
    try:
        return hasher.verify(stored, password)
    except VerifyMismatchError:
        return False
    except (VerificationError, InvalidHashError):
        return False


def main() -> None:
    """``memory_kib passes lanes idle_s behind``: serve standard input until it ends or ``idle_s`` pass without a job.

    ``behind`` is 1 to run behind everybody else.
    """
    memory_kib, passes, lanes, idle_s, behind = map(int, sys.argv[1:6])
    hasher = make_hasher(memory_kib, passes, lanes)
    if behind:
        _stand_behind()
    jobs, answers = sys.stdin.buffer, sys.stdout.buffer
    # one job is sent at a time, so nothing waits in the buffer while we look at the descriptor
    while select.select([jobs], [], [], idle_s)[0] and (line := jobs.readline()):
        stored, password = json.loads(line)
        answer = hasher.hash(password) if stored is None else matches(hasher, stored, password)
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


def _stand_behind() -> None:
    """Give way at once to every other process that wakes up, on the processor it wakes up on.

    A nice value would not do: it changes how much a process gets, not that it finishes its slice first.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except (AttributeError, OSError):
        os.nice(19)  # not Linux, or a sandbox that does not let us
