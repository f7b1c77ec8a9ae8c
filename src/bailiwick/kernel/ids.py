"""Identifiers: UUIDv7 (RFC 9562), so that ids sort by the time they were made."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

_RANDOM_BITS = 62
_COUNTER_BITS = 12


class Ids:
    """Makes UUIDv7 strings, strictly increasing within one process even inside a millisecond.

    ``now_ms`` and ``random_bytes`` are injectable for tests.
    """

    def __init__(
        self,
        now_ms: Callable[[], int] | None = None,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._now_ms = now_ms or (lambda: time.time_ns() // 1_000_000)
        self._random_bytes = random_bytes
        self._last_ms = 0
        self._counter = 0
        self._pool = b""
        self._offset = 0

    def __call__(self) -> str:
        """A new lower-case hyphenated UUIDv7."""
        now = self._now_ms()
        if now > self._last_ms:
            self._last_ms, self._counter = now, 0
        else:
            self._counter += 1
            if self._counter >> _COUNTER_BITS:
                self._last_ms, self._counter = self._last_ms + 1, 0
        ms, tail = self._last_ms, self._random62()
        return "%08x-%04x-7%03x-%04x-%012x" % (  # noqa: UP031 - twice as fast as slicing, and this is the hot path
            (ms >> 16) & 0xFFFF_FFFF,
            ms & 0xFFFF,
            self._counter,
            0x8000 | tail >> 48,
            tail & 0xFFFF_FFFF_FFFF,
        )

    def secret(self, length: int = 32) -> str:
        """``length`` random bytes as URL-safe text without padding, for secrets and one-time passwords."""
        from base64 import urlsafe_b64encode

        return urlsafe_b64encode(self._random_bytes(length)).rstrip(b"=").decode()

    def _random62(self) -> int:
        # one system call serves 512 ids: the hot path makes several ids a request
        if self._offset >= len(self._pool):
            self._pool, self._offset = self._random_bytes(4096), 0
        chunk = self._pool[self._offset : self._offset + 8]
        self._offset += 8
        return int.from_bytes(chunk, "big") & ((1 << _RANDOM_BITS) - 1)
