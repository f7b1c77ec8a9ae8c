"""The windows of the archive: the same twelve hours that a partition of ``ledger.events`` covers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

LENGTH = timedelta(hours=12)
_ORIGIN = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """Twelve hours from ``start`` on, by the time of recording."""

    start: datetime

    @classmethod
    def holding(cls, moment: datetime) -> Window:
        """The window in which ``moment`` lies."""
        return cls(_ORIGIN + (moment - _ORIGIN) // LENGTH * LENGTH)

    @property
    def end(self) -> datetime:
        """The first instant that is not in it."""
        return self.start + LENGTH

    @property
    def following(self) -> Window:
        """The next one."""
        return Window(self.end)

    @property
    def folder(self) -> str:
        """Where its objects stand below a zone: ``2026/11/21/T00``."""
        return self.start.astimezone(UTC).strftime("%Y/%m/%d/T%H")

    def __str__(self) -> str:
        return self.start.astimezone(UTC).strftime("%Y-%m-%dT%HZ")


def windows_between(first: Window, until: datetime) -> Iterator[Window]:
    """The windows from ``first`` on that have ended at ``until``."""
    window = first
    while window.end <= until:
        yield window
        window = window.following
