"""Identifiers: UUIDv7 (RFC 9562), so that ids sort by the time they were made."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

_COUNTER_BITS = 12
_POOL_BYTES = 4096
_TAIL_DIGITS = 16
_COUNTS = tuple(f"{count:03x}" for count in range(1 << _COUNTER_BITS))
# the first digit of the tail carries the variant 0b10 and two random bits
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


def made_at(identifier: UUID) -> datetime | None:
    """When a UUIDv7 was made, to the millisecond; None for an identifier of another kind."""
    if identifier.version != 7:
        return None
    return datetime.fromtimestamp((identifier.int >> 80) / 1000, UTC)


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
        self._prefix = ""
        self._pool = ""
        self._offset = 0

    def __call__(self) -> str:
        """A new lower-case hyphenated UUIDv7."""
        now = self._now_ms()
        if now > self._last_ms:
            self._start(now)
        else:
            self._counter += 1
            if self._counter >> _COUNTER_BITS:
                self._start(self._last_ms + 1)
        offset = self._offset
        if offset >= len(self._pool):
            # one system call serves 512 ids: the hot path makes several ids a request
            self._pool, offset = self._random_bytes(_POOL_BYTES).hex(), 0
        self._offset = end = offset + _TAIL_DIGITS
        pool = self._pool
        return (
            f"{self._prefix}{_COUNTS[self._counter]}-{_VARIANT[pool[offset]]}{pool[offset + 1 : offset + 4]}"
            f"-{pool[offset + 4 : end]}"
        )

    def random(self, length: int) -> bytes:
        """``length`` random bytes."""
        return self._random_bytes(length)

    def secret(self, length: int = 32) -> str:
        """``length`` random bytes as URL-safe text without padding, for secrets and one-time passwords."""
        from base64 import urlsafe_b64encode

        return urlsafe_b64encode(self._random_bytes(length)).rstrip(b"=").decode()

    def _start(self, ms: int) -> None:
        self._last_ms, self._counter = ms, 0
        digits = f"{ms & 0xFFFF_FFFF_FFFF:012x}"
        self._prefix = f"{digits[:8]}-{digits[8:]}-7"
