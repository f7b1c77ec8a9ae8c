"""Time as an argument: every room asks a Clock, so that T+30 can be tested today."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """What a room may ask about time."""

    def now(self) -> datetime:
        """The current instant, timezone-aware UTC."""
        ...

    def time(self) -> float:
        """Seconds since the Unix epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back and that count machine suspend, for ages and leases."""
        ...

    @property
    def simulated(self) -> bool:
        """True when wall time is not the machine's; events made under it say so."""
        ...


class SystemClock:
    """The machine's clock, optionally sped up by ``factor`` from the moment it was made (development only)."""

    def __init__(self, factor: float = 1.0) -> None:
        if factor <= 0:
            raise ValueError("clock factor must be positive")
        self._factor = factor
        self._origin = time.time()
        self.simulated = factor != 1.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.time(), UTC)

    def time(self) -> float:
        if not self.simulated:
            return time.time()
        return self._origin + (time.time() - self._origin) * self._factor

    def monotonic(self) -> float:
        # CLOCK_BOOTTIME counts suspend: a lease must not outlive a sleeping laptop
        return time.clock_gettime(time.CLOCK_BOOTTIME)


class FakeClock:
    """A clock that moves only when told to."""

    def __init__(self, start: datetime | None = None) -> None:
        self._now = start or datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
        self._monotonic = 1000.0
        self.simulated = True

    def now(self) -> datetime:
        return self._now

    def time(self) -> float:
        return self._now.timestamp()

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Move both clocks forward."""
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds

    def set_wall(self, seconds: float) -> None:
        """Move wall time alone, back too, as somebody who sets the machine's clock does."""
        self._now += timedelta(seconds=seconds)
