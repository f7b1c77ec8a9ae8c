"""Time as an argument: every room asks a Clock, so that T+30 can be tested today."""

from __future__ import annotations

import time
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Pace:
    """How time is shown: at the machine's ``real`` it was ``shown``, both Unix time, and since then it runs ``factor``
    times as fast. All processes of an installation must know the same one. ``stride_s``: no job is due more often."""

    factor: float = 1.0
    real: float = 0.0
    shown: float = 0.0
    stride_s: float = 0.0

    def at(self, real: float) -> float:
        """What is shown at ``real``."""
        return self.shown + (real - self.real) * self.factor


class SystemClock:
    """The machine's clock."""

    simulated = False

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.time(), UTC)

    def time(self) -> float:
        return time.time()

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
