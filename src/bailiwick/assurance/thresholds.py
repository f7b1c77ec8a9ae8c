"""The one catalogue of thresholds: every number that something is held against, with its unit, owner and source.

A threshold is a document of the book, so every version of it is kept. One that is ``critical`` may be tightened by one
person and loosened by two.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from bailiwick.assurance.book import Kind
from bailiwick.kernel.fields import Body, Line, Text
from bailiwick.kernel.verdicts import Verdict

Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e15, le=1e15)]


class Comparison(StrEnum):
    """How a value has to stand to the threshold so that all is well."""

    BELOW = "<"
    AT_MOST = "<="
    ABOVE = ">"
    AT_LEAST = ">="
    EQUAL = "=="


class Unit(StrEnum):
    """What a number counts. Times, and ratios and percentages, are converted into each other."""

    NONE = ""
    COUNT = "count"
    MILLISECONDS = "ms"
    SECONDS = "s"
    MINUTES = "min"
    HOURS = "h"
    DAYS = "d"
    RATIO = "ratio"
    PERCENT = "%"
    BYTES = "B"
    PER_SECOND = "/s"


class Threshold(Body):
    """One number. ``owner`` is the activity whose accountable person answers for it; ``source`` where it comes from."""

    value: Number
    unit: Unit
    comparison: Comparison
    meaning: Text
    owner: Line
    source: Line = ""
    critical: bool = False


# ---------------------------------------------------------------------- rules

_SECONDS = {Unit.MILLISECONDS: 0.001, Unit.SECONDS: 1, Unit.MINUTES: 60, Unit.HOURS: 3600, Unit.DAYS: 86_400}
_SHARES = {Unit.RATIO: 1.0, Unit.PERCENT: 0.01}


def convertible(before: Unit, after: Unit) -> bool:
    """Whether a value in one unit can be told in the other."""
    return before == after or any(before in family and after in family for family in (_SECONDS, _SHARES))


def converted(value: float, before: Unit, after: Unit) -> float:
    """A value in another unit. Raises :class:`ValueError` where there is no way."""
    if before == after:
        return value
    for family in (_SECONDS, _SHARES):
        if before in family and after in family:
            return value * family[before] / family[after]
    raise ValueError(f"{before or 'a bare number'} cannot be told in {after or 'a bare number'}")


def judge(value: float | None, comparison: Comparison, threshold: float) -> Verdict:
    """PASS where ``value`` stands to ``threshold`` as it should; what is no number is NO_DATA, never green."""
    if value is None or not math.isfinite(value) or not math.isfinite(threshold):
        return Verdict.NO_DATA
    match comparison:
        case Comparison.BELOW:
            holds = value < threshold
        case Comparison.AT_MOST:
            holds = value <= threshold
        case Comparison.ABOVE:
            holds = value > threshold
        case Comparison.AT_LEAST:
            holds = value >= threshold
        case Comparison.EQUAL:
            holds = value == threshold
    return Verdict.PASS if holds else Verdict.FAIL


_UPPER, _LOWER = {Comparison.BELOW, Comparison.AT_MOST}, {Comparison.ABOVE, Comparison.AT_LEAST}


def loosened(before: Threshold, after: Threshold | None) -> bool:
    """Whether something that failed ``before`` may pass ``after``; removing one, or turning it around, is that too."""
    if after is None or not convertible(after.unit, before.unit):
        return True
    value = converted(after.value, after.unit, before.unit)
    if {before.comparison, after.comparison} <= _UPPER:
        return value > before.value or (
            value == before.value and before.comparison is Comparison.BELOW and after.comparison is Comparison.AT_MOST
        )
    if {before.comparison, after.comparison} <= _LOWER:
        return value < before.value or (
            value == before.value and before.comparison is Comparison.ABOVE and after.comparison is Comparison.AT_LEAST
        )
    return before.comparison != after.comparison or value != before.value


def _two_persons(before: Threshold | None, after: Threshold | None) -> bool:
    if before is None or not before.critical:
        return False
    return loosened(before, after) or (after is not None and not after.critical)


THRESHOLD = Kind("Threshold", Threshold, two_persons=_two_persons)
