"""When to try again: exponential back-off with jitter, and a circuit breaker over it.

After ``threshold`` failures in a row the breaker opens for ``cap_s``; then one batch is tried, and two that are taken
close it. What is waiting stands in the ledger meanwhile: nothing is dropped while the breaker is open.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

State = Literal["closed", "half-open", "open"]


@dataclass(frozen=True, slots=True)
class Pace:
    """How delivery paces itself; all in seconds but ``threshold``.

    ``longest_wait_s`` bounds what a destination's Retry-After may ask. ``poll_s``: how often the ledger is looked at.
    ``stopped_s``: how often a stopped sink is tried again unasked. ``look_s``: how often the sinks are read.
    """

    base_s: float = 1.0
    cap_s: float = 60.0
    threshold: int = 5
    longest_wait_s: float = 900.0
    poll_s: float = 0.5
    stopped_s: float = 900.0
    look_s: float = 1.0


class Breaker:
    """The state of one sink. ``random`` answers 0 to 1."""

    def __init__(self, pace: Pace, random: Callable[[], float]) -> None:
        self._pace = pace
        self._random = random
        self._probes = 0
        self.failures = 0
        self.state: State = "closed"

    def failed(self, after_s: float | None = None) -> float:
        """Count a failure; how long to wait before the next attempt, at least ``after_s`` within reason."""
        self.failures += 1
        self._probes = 0
        if self.state != "closed" or self.failures >= self._pace.threshold:
            self.state = "open"
            wait = self._pace.cap_s
        else:
            wait = min(self._pace.cap_s, self._pace.base_s * 2 ** (self.failures - 1))
        wait *= 0.5 + self._random() / 2  # so that many senders do not come back at once
        if after_s is not None:
            wait = max(wait, min(after_s, self._pace.longest_wait_s))
        return wait

    def probing(self) -> None:
        """The wait is over: an open breaker lets one batch through."""
        if self.state == "open":
            self.state = "half-open"

    def succeeded(self) -> None:
        """A batch was taken."""
        self.failures = 0
        if self.state == "closed":
            return
        self._probes += 1
        if self._probes >= 2:
            self.reset()
        else:
            self.state = "half-open"

    def reset(self) -> None:
        """Begin anew."""
        self.failures = self._probes = 0
        self.state = "closed"
