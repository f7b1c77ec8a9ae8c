"""What the counts of a service level amount to: its error budget, how fast it burns, and the verdict.

Pure: everything here is a function of tallies and of now. Ratios are exact, so that a budget is spent at the event that
spends it and not at a rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

from bailiwick.kernel.severity import Severity
from bailiwick.kernel.verdicts import Verdict

LEAST_COVERAGE = 0.9
"""Of less of its window measured a budget is not called kept: 27 days of 30."""
FLAGGED_COVERAGE = 0.99
"""Below it a report is flagged."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What was counted from ``begin`` on. ``good`` and ``total`` are events, or slices of time; ``events`` are events;
    ``minutes`` how many were measured; ``impossible`` in how many of them more was good than there was."""

    begin: datetime
    minutes: int = 0
    good: int = 0
    total: int = 0
    events: int = 0
    impossible: int = 0

    @property
    def bad(self) -> int:
        """What was not good."""
        return self.total - self.good


@dataclass(frozen=True, slots=True)
class BurnRule:
    """Alert where the budget burns ``factor`` times as fast as it may, over both windows."""

    severity: Severity
    factor: float
    long: timedelta
    short: timedelta

    @property
    def name(self) -> str:
        """By which alerts and metrics call it: the long window, such as ``1h``."""
        return shorthand(self.long)


def shorthand(length: timedelta) -> str:
    """``1h``, ``30m``, ``3d``."""
    seconds = int(length.total_seconds())
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _hours(hours: float) -> timedelta:
    return timedelta(hours=hours)


BURN_RULES = (
    BurnRule(Severity.P1, 14.4, _hours(1), _hours(1 / 12)),
    BurnRule(Severity.P1, 6.0, _hours(6), _hours(0.5)),
    BurnRule(Severity.P2, 3.0, _hours(24), _hours(2)),
    BurnRule(Severity.P3, 1.0, _hours(72), _hours(6)),
)
"""For a window of 30 days: 2 % of the budget in an hour, 5 % in six, 10 % in a day, 10 % in three."""


@dataclass(frozen=True, slots=True)
class Burn:
    """How fast the budget burns by one rule. ``firing`` is None where there is nothing to judge by: what fires goes on
    firing, and what is quiet stays quiet. ``reachable``: False where even a full outage burns slower than that."""

    rule: BurnRule
    long_rate: float | None
    short_rate: float | None
    events: int
    firing: bool | None
    reachable: bool

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "severity": str(self.rule.severity),
            "factor": self.rule.factor,
            "long": shorthand(self.rule.long),
            "short": shorthand(self.rule.short),
            "long_rate": self.long_rate,
            "short_rate": self.short_rate,
            "events": self.events,
            "firing": self.firing,
            "reachable": self.reachable,
        }


@dataclass(frozen=True, slots=True)
class Terms:
    """What is promised, of all that a judgement needs. ``least``: events that a verdict needs; ``least_burn``: events
    that a burn needs in its long window."""

    target: float
    stale_after: timedelta
    least: int = 1
    least_burn: int = 10
    rules: Sequence[BurnRule] = BURN_RULES

    @property
    def allowed(self) -> Fraction:
        """The share that may be bad."""
        return 1 - Fraction(str(self.target))


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The state of a service level. ``at``: until when it was measured; the window ends there, so that without new
    data the budget stands still. ``left``: share of the budget that is left, below 0 when overspent."""

    verdict: Verdict
    reason: str
    at: datetime | None
    tally: Tally
    window_minutes: int
    target: float
    burns: Sequence[Burn]

    @property
    def sli(self) -> float | None:
        """The share that was good."""
        return self.tally.good / self.tally.total if self.tally.total else None

    @property
    def coverage(self) -> float:
        """The share of the window's minutes that were measured."""
        return self.tally.minutes / self.window_minutes if self.window_minutes else 0.0

    @property
    def left(self) -> float | None:
        """The share of the error budget that is left."""
        allowed = (1 - Fraction(str(self.target))) * self.tally.total
        return float(1 - self.tally.bad / allowed) if allowed else None

    @property
    def exhausted(self) -> bool:
        """Whether more was bad than may be."""
        return exhausted(self.target, self.tally)

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "verdict": str(self.verdict),
            "reason": self.reason,
            "measured_until": self.at,
            "since": self.tally.begin,
            "good": self.tally.good,
            "total": self.tally.total,
            "bad": self.tally.bad,
            "events": self.tally.events,
            "sli": self.sli,
            "target": self.target,
            "budget_left": self.left,
            "coverage": round(self.coverage, 6),
            "burns": [each.document() for each in self.burns],
        }


def exhausted(target: float, tally: Tally) -> bool:
    """Whether more was bad than ``target`` allows."""
    return tally.bad > (1 - Fraction(str(target))) * tally.total


def burn_rate(terms: Terms, tally: Tally) -> Fraction | None:
    """How many times as fast as it may the budget burns; None of nothing."""
    return Fraction(tally.bad, tally.total) / terms.allowed if tally.total > 0 else None


def burns(terms: Terms, tallies: Mapping[timedelta, Tally]) -> list[Burn]:
    """Every rule, from the tallies of its windows by their lengths."""
    found = []
    for rule in terms.rules:
        long, short = tallies[rule.long], tallies[rule.short]
        long_rate, short_rate = burn_rate(terms, long), burn_rate(terms, short)
        reachable = Fraction(str(rule.factor)) * terms.allowed <= 1
        firing: bool | None = None
        if long_rate is not None and short_rate is not None and not long.impossible:
            factor = Fraction(str(rule.factor))
            firing = long.events >= terms.least_burn and long_rate >= factor and short_rate >= factor
        found.append(
            Burn(
                rule,
                float(long_rate) if long_rate is not None else None,
                float(short_rate) if short_rate is not None else None,
                long.events,
                firing,
                reachable,
            )
        )
    return found


def evaluate(
    terms: Terms,
    now: datetime,
    measured_until: datetime | None,
    window: Tally,
    tallies: Mapping[timedelta, Tally],
) -> Evaluation:
    """The state at ``now``. ``window`` is the tally of the budget's window up to ``measured_until``, ``tallies`` those
    of the burn rules' windows by length."""
    minutes = 0
    if measured_until is not None:
        minutes = int((measured_until - window.begin).total_seconds() // 60)
    found = burns(terms, tallies) if measured_until is not None else []
    verdict, reason = _verdict(terms, now, measured_until, window, minutes)
    if verdict is Verdict.STALE:  # frozen: nothing begins to burn, and nothing ends
        found = [Burn(b.rule, b.long_rate, b.short_rate, b.events, None, b.reachable) for b in found]
    return Evaluation(verdict, reason, measured_until, window, minutes, terms.target, found)


def _verdict(
    terms: Terms, now: datetime, measured_until: datetime | None, window: Tally, minutes: int
) -> tuple[Verdict, str]:
    if measured_until is None or window.minutes == 0:
        return Verdict.NO_DATA, "absent"
    if window.impossible:
        return Verdict.ERROR, "impossible"
    if now - measured_until > terms.stale_after:
        return Verdict.STALE, "stale"
    if window.events < terms.least or window.total == 0:
        return Verdict.NO_DATA, "too_few_events"
    if exhausted(terms.target, window):
        return Verdict.FAIL, "budget_exhausted"
    if minutes == 0 or window.minutes < LEAST_COVERAGE * minutes:
        return Verdict.NO_DATA, "window_not_covered"
    return Verdict.PASS, "budget_kept"


REASONS_TOLD = {
    "absent": "nothing was ever measured",
    "impossible": "more was counted good than there was",
    "stale": "nothing was measured lately; the budget stands still",
    "too_few_events": "too few events to judge by",
    "budget_exhausted": "more was bad than the target allows",
    "window_not_covered": "too little of the window was measured",
    "budget_kept": "the budget is kept",
}
"""What each reason of a verdict means."""
