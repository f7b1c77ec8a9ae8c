"""The one severity scheme: P0 to P3, and how soon somebody answers."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum


class Severity(StrEnum):
    """From the most to the least urgent; sorts that way."""

    P0 = "P0"
    P1 = "P1"
    P2 = "P2"
    P3 = "P3"

    @property
    def answered_within(self) -> timedelta:
        """How soon somebody has to acknowledge: at once (P0), 15 minutes, 1 hour, 4 hours."""
        return _ANSWERED[self]

    @property
    def raised(self) -> Severity:
        """The next more urgent one; P0 stays."""
        return _ORDER[max(0, _ORDER.index(self) - 1)]


_ORDER = tuple(Severity)
_ANSWERED = {
    Severity.P0: timedelta(0),
    Severity.P1: timedelta(minutes=15),
    Severity.P2: timedelta(hours=1),
    Severity.P3: timedelta(hours=4),
}
