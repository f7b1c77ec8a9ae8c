"""Passwords known from breaches, looked up in files of this machine: nothing of a password leaves it.

Two forms are read. A folder of k-anonymity range files, as the downloaders of Have I Been Pwned write it: ``21BD1.txt``
holds a line ``SUFFIX:COUNT`` for each SHA-1 digest that begins with ``21BD1``. Or one file of 20-byte SHA-1 digests,
sorted, which is mapped into memory and searched by halves. Either is read as it is at each look, so that it can be
replaced while the program runs; a range that is missing is an error and never a clean password.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from pathlib import Path

from bailiwick.kernel.errors import Unavailable

_DIGEST = 20
_PREFIX = 5


class BreachList:
    """The list at ``path``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def holds(self, password: str) -> bool:
        """Whether the password (UTF-8) is known; raises ``Unavailable`` (``not_ready``) where that cannot be told."""
        digest = hashlib.sha1(password.encode("utf-8", "replace"), usedforsecurity=False).digest()
        try:
            return self._in_ranges(digest) if self._path.is_dir() else self._in_file(digest)
        except (OSError, ValueError) as error:
            raise Unavailable("The list of breached passwords cannot be read.") from error

    def _in_ranges(self, digest: bytes) -> bool:
        text = digest.hex().upper()
        prefix, suffix = text[:_PREFIX], text[_PREFIX:]
        for name in (f"{prefix}.txt", prefix, f"{prefix.lower()}.txt", prefix.lower()):
            path = self._path / name
            if path.exists():
                break
        else:
            raise ValueError(f"the range {prefix} is missing")
        with path.open(encoding="ascii") as lines:
            for line in lines:
                told, _, count = line.strip().partition(":")
                # padded answers of the range API hold invented suffixes with the count 0
                if told.upper() == suffix and count != "0":
                    return True
        return False

    def _in_file(self, digest: bytes) -> bool:
        with self._path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size or size % _DIGEST:
                raise ValueError("not a file of SHA-1 digests")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as digests:
                low, high = 0, size // _DIGEST
                while low < high:
                    middle = (low + high) // 2
                    found = digests[middle * _DIGEST : (middle + 1) * _DIGEST]
                    if found == digest:
                        return True
                    low, high = (middle + 1, high) if found < digest else (low, middle)
        return False
