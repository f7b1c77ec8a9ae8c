"""What a look found, what it amounts to, and how a probe stands between its runs. Pure functions of facts and now."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from bailiwick.assurance.thresholds import Comparison, Unit, converted, judge
from bailiwick.kernel.verdicts import Verdict


class LookFailed(Exception):
    """The look itself could not be made, so there is nothing to judge: ERROR."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a look found. ``value`` is what was measured, in ``unit``; None: there was nothing.

    ``wrong`` says, in a few words, what is not as it should be whatever the value; ``absent`` why there is nothing to
    judge, and ``early`` that it could not be there yet: what tells it has only begun, and is not late. ``holds`` is the
    answer of a look that asks a question and measures nothing. ``output`` is kept as evidence.
    """

    value: float | None = None
    unit: Unit = Unit.NONE
    detail: str = ""
    output: bytes = b""
    wrong: str = ""
    absent: str = ""
    holds: bool | None = None
    command: tuple[str, ...] = ()
    output_size: int | None = None
    early: bool = False


@dataclass(frozen=True, slots=True)
class Limit:
    """What a value is held against. ``key`` names the threshold of the catalogue, if it is one."""

    value: float
    comparison: Comparison
    unit: Unit
    key: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """The outcome of one run of a probe. ``window`` is the time the value speaks of, None for an instant. ``early``:
    there is nothing yet and that is nobody's fault, so it is as little green as any NO_DATA and calls nobody."""

    verdict: Verdict
    value: float | None = None
    threshold: Limit | None = None
    unit: Unit = Unit.NONE
    window: timedelta | None = None
    detail: str = ""
    output: bytes = b""
    command: tuple[str, ...] = ()
    output_size: int | None = None
    early: bool = False

    def document(self) -> dict[str, Any]:
        """The JSON form, without the output."""
        return {
            "verdict": str(self.verdict),
            "value": self.value,
            "threshold": self.threshold.value if self.threshold else None,
            "threshold_key": self.threshold.key if self.threshold else "",
            "comparison": str(self.threshold.comparison) if self.threshold else "",
            "unit": str(self.unit),
            "window_s": self.window.total_seconds() if self.window else None,
            "detail": self.detail,
        }


def read(found: Found, limit: Limit | None, window: timedelta | None = None) -> Reading:
    """What a look amounts to. What is wrong fails whatever was measured; what is no number is NO_DATA."""
    value, unit = found.value, found.unit
    if value is not None and not math.isfinite(value):
        return _reading(found, Verdict.NO_DATA, None, limit, unit, window, f"the value is {value}")
    if limit is not None and value is not None:
        if unit is Unit.NONE:
            unit = limit.unit
        try:
            value, unit = converted(value, unit, limit.unit), limit.unit
        except ValueError as error:
            return _reading(found, Verdict.ERROR, value, limit, unit, window, str(error))
    if found.wrong:
        return _reading(found, Verdict.FAIL, value, limit, unit, window, found.wrong)
    if found.absent:
        return _reading(found, Verdict.NO_DATA, None, limit, unit, window, found.absent)
    if limit is not None:
        verdict = judge(value, limit.comparison, limit.value)
        detail = found.detail if value is not None else found.detail or "there is no value"
        return _reading(found, verdict, value, limit, unit, window, detail)
    if found.holds is None:
        return _reading(found, Verdict.NO_DATA, value, None, unit, window, found.detail or "nothing says what is right")
    return _reading(found, Verdict.PASS if found.holds else Verdict.FAIL, value, None, unit, window, found.detail)


def failed(why: str, limit: Limit | None = None, window: timedelta | None = None, output: bytes = b"") -> Reading:
    """The reading of a look that could not be made."""
    return Reading(Verdict.ERROR, None, limit, limit.unit if limit else Unit.NONE, window, why, output or why.encode())


def _reading(
    found: Found,
    verdict: Verdict,
    value: float | None,
    limit: Limit | None,
    unit: Unit,
    window: timedelta | None,
    detail: str,
) -> Reading:
    output = found.output or detail.encode()
    early = found.early and verdict is Verdict.NO_DATA
    return Reading(verdict, value, limit, unit, window, detail, output, found.command, found.output_size, early)


@dataclass(frozen=True, slots=True)
class LastRun:
    """What of a probe's newest run matters for how it stands."""

    verdict: Verdict
    finished_at: datetime
    expires_at: datetime


def standing(last: LastRun | None, overdue_since: datetime | None, now: datetime) -> Verdict:
    """How a probe stands at ``now``. ``overdue_since``: the newest instant at which it should have run and did not.

    Before its first time it is NOT_DUE; where it should have run and never did, NO_DATA; what it found is STALE once
    it expired or the next run was missed.
    """
    if last is None:
        return Verdict.NOT_DUE if overdue_since is None else Verdict.NO_DATA
    if now >= last.expires_at or (overdue_since is not None and overdue_since > last.finished_at):
        return Verdict.STALE
    return last.verdict


_BARS = "▁▂▃▄▅▆▇█"
_MARKS: Mapping[Verdict, str] = {
    Verdict.PASS: "▁", Verdict.FAIL: "█", Verdict.ERROR: "▇", Verdict.NO_DATA: "▄", Verdict.STALE: "▄",
    Verdict.NOT_DUE: " ",
}  # fmt: skip


def sparkline(runs: list[tuple[Verdict, float | None]]) -> str:
    """The trend of the last runs, oldest first: by value where all have one, else by how bad each was."""
    values = [value for _, value in runs if value is not None and math.isfinite(value)]
    if not runs or len(values) < len(runs) or min(values) == max(values):
        return "".join(_MARKS[verdict] for verdict, _ in runs)
    low, high = min(values), max(values)
    return "".join(_BARS[round((value - low) / (high - low) * (len(_BARS) - 1))] for value in values)
