"""One sequencer to a machine: a lock on a file among the spools, which the kernel gives back when its holder dies."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import structlog

LOCK_NAME = ".sequencer"

log = structlog.get_logger(__name__)


class MachineLock:
    """``root`` is the directory of all spools of this machine."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._file = root / LOCK_NAME
        self._fd = -1

    @property
    def held(self) -> bool:
        """Whether it was taken and not given back."""
        return self._fd >= 0

    def take(self) -> bool:
        """Whether it is ours, taken now if need be. Raises OSError when the file cannot be opened."""
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            fd = os.open(self._root / LOCK_NAME, os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            fd = os.open(self._root / LOCK_NAME, os.O_RDONLY)  # what is there can still be read
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self._fd = fd
        return True

    def lost(self) -> bool:
        """Whether the file was taken away under us, so that another may hold a lock on a new one; lets go then."""
        try:
            same = os.path.samestat(os.fstat(self._fd), self._file.stat())
        except OSError:
            same = False
        if not same:
            log.error("the sequencer's lock file was replaced; standing down")
            self.release()
        return not same

    def release(self) -> None:
        """Let the next one work."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
