"""Which rows a run judges, and what its period is called, so that the same period can be gone over again."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal

from bailiwick.assurance.durations import span
from bailiwick.assurance.reconciliation.matching import Window
from bailiwick.assurance.reconciliation.spec import ReconciliationSpec
from bailiwick.kernel.errors import InvalidRequest

Mode = Literal["delta", "full", "manual", "verify"]

_DAY = timedelta(days=1)
_PERIOD = re.compile(r"(full-)?([0-9]{4}-[0-9]{2}-[0-9]{2})")
PERIOD_PATTERN = r"^(full-)?[0-9]{4}-[0-9]{2}-[0-9]{2}$"


def late(spec: ReconciliationSpec) -> timedelta:
    """How long rows may be on their way."""
    return span(spec.time.late) if spec.time is not None else timedelta(0)


def newest(spec: ReconciliationSpec, now: datetime, *, full: bool = False) -> str:
    """The period that is due: the newest day that is over, also for what comes late; today without instants."""
    until = now.astimezone(UTC) - late(spec)
    day = until.date() - _DAY if spec.time is not None else until.date()
    return f"full-{day}" if full else str(day)


def window(spec: ReconciliationSpec, period: str, now: datetime) -> Window:
    """The rows of ``period``. Raises ``invalid_request`` for none, and for one that is not over yet."""
    found = _PERIOD.fullmatch(period)
    try:
        day = date.fromisoformat(found[2]) if found else None
    except ValueError:
        day = None
    if found is None or day is None or day.year < 1971:
        raise InvalidRequest("A period is a day such as 2026-01-31, or full-2026-01-31.")
    begin = datetime.combine(day, time(), UTC)
    until = begin + _DAY
    if spec.time is None:
        if begin > now:
            raise InvalidRequest("This period has not begun.")
        return Window(begin, min(until, now))
    if until + late(spec) > now:
        raise InvalidRequest("This period is not over, or rows of it may still be on their way.")
    return Window(until - span(spec.schedule.reach), until) if found[1] else Window(begin, until)


def read_range(spec: ReconciliationSpec, judged: Window) -> Window:
    """What is read to judge a window: partners may be a little before and after it."""
    return Window(judged.since - late(spec), judged.until + late(spec))
