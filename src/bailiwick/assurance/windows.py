"""The guard of every report: nothing is said of a window before it is over."""

from __future__ import annotations

from datetime import UTC, datetime

from bailiwick.kernel.errors import Conflict


def require_over(until: datetime, now: datetime) -> None:
    """Refuse a report of a window that ends after ``now``. Raises ``window_not_over`` (409)."""
    if until > now:
        raise Conflict(
            f"This ends at {until.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC, which has not come.", reason="window_not_over"
        )
