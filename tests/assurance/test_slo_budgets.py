"""What counts amount to: budgets to the event, burn rates by the minute, and every reason not to be green."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bailiwick.assurance.slo.budgets import BURN_RULES, Tally, Terms, evaluate, exhausted
from bailiwick.assurance.slo.windows import Window, fixed
from bailiwick.kernel.verdicts import Verdict

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
MONTH = timedelta(days=30)
TERMS = Terms(0.999, timedelta(minutes=15))
FULL = 30 * 1440


def window(total: int, bad: int, *, minutes: int = FULL, impossible: int = 0) -> Tally:
    return Tally(NOW - MONTH, minutes, total - bad, total, total, impossible)


def judged(tally: Tally, *, at: datetime | None = NOW, now: datetime = NOW, terms: Terms = TERMS) -> tuple[str, str]:
    lengths = {length for rule in terms.rules for length in (rule.long, rule.short)}
    found = evaluate(terms, now, at, tally, {length: Tally(now - length) for length in lengths})
    return found.verdict, found.reason


@pytest.mark.parametrize(
    ("tally", "at", "told"),
    [
        (window(1_000_000, 1_000), NOW, ("PASS", "budget_kept")),  # exactly the budget is not more than it
        (window(1_000_000, 1_001), NOW, ("FAIL", "budget_exhausted")),
        (window(1_000_000, 0, impossible=1), NOW, ("ERROR", "impossible")),
        (window(1_000_000, 0), NOW - timedelta(minutes=16), ("STALE", "stale")),
        (window(1_000_000, 0), None, ("NO_DATA", "absent")),
        (window(0, 0), NOW, ("NO_DATA", "too_few_events")),
        (window(1_000_000, 0, minutes=27 * 1440 - 1), NOW, ("NO_DATA", "window_not_covered")),
        (window(1_000_000, 0, minutes=27 * 1440), NOW, ("PASS", "budget_kept")),
        (window(1_000, 2, minutes=60), NOW, ("FAIL", "budget_exhausted")),
    ],
)
def test_only_a_kept_budget_that_was_measured_is_green(
    tally: Tally, at: datetime | None, told: tuple[str, str]
) -> None:
    assert judged(tally, at=at) == told
    assert Verdict(told[0]).green == (told == ("PASS", "budget_kept"))


def test_fewer_events_than_a_level_asks_for_are_not_judged() -> None:
    terms = Terms(0.999, timedelta(minutes=15), least=100)
    assert judged(window(99, 99), terms=terms) == ("NO_DATA", "too_few_events")
    assert judged(window(100, 99), terms=terms) == ("FAIL", "budget_exhausted")


@given(total=st.integers(0, 10**12), bad=st.integers(0, 10**12), thousandths=st.integers(1, 99_999))
def test_a_budget_is_spent_at_the_event_that_spends_it(total: int, bad: int, thousandths: int) -> None:
    bad = min(bad, total)
    target = thousandths / 100_000
    assert exhausted(target, Tally(NOW, 1, total - bad, total)) == (bad * 100_000 > (100_000 - thousandths) * total)


def test_what_lacks_data_in_either_window_neither_fires_nor_clears() -> None:
    rule = BURN_RULES[0]
    lengths = {length for each in BURN_RULES for length in (each.long, each.short)}
    quiet = {length: Tally(NOW - length, 1, 1000, 1000, 1000) for length in lengths}
    burnt = {length: Tally(NOW - length, 1, 900, 1000, 1000) for length in lengths}
    gap = burnt | {rule.short: Tally(NOW - rule.short)}

    def firing(tallies: dict[timedelta, Tally], now: datetime = NOW) -> list[bool | None]:
        return [burn.firing for burn in evaluate(TERMS, now, NOW, window(1000, 0), tallies).burns]

    assert firing(quiet) == [False] * 4
    assert firing(burnt) == [True] * 4
    assert firing(gap)[0] is None
    assert firing(burnt, NOW + timedelta(hours=1)) == [None] * 4  # stale: frozen


def test_a_factor_that_even_an_outage_does_not_reach_is_told() -> None:
    lengths = {length for each in BURN_RULES for length in (each.long, each.short)}
    tallies = {length: Tally(NOW - length, 1, 0, 1000, 1000) for length in lengths}
    terms = Terms(0.9, timedelta(minutes=15))
    found = evaluate(terms, NOW, NOW, window(1000, 0), tallies).burns
    assert [(burn.reachable, burn.firing) for burn in found] == [
        (False, False),
        (True, True),
        (True, True),
        (True, True),
    ]


def test_windows_begin_where_openslo_says() -> None:
    assert Window("28d", True).begin(NOW) == NOW - timedelta(days=28)
    start = datetime(2026, 1, 31, 0, 0)
    assert Window("1M", False, start).begin(NOW) == datetime(2026, 2, 28, tzinfo=UTC)
    assert Window("1w", False, datetime(2026, 1, 5), "Europe/Berlin").begin(NOW) == datetime(
        2026, 2, 22, 23, tzinfo=UTC
    )
    summer = datetime(2026, 4, 1, 12, tzinfo=UTC)  # the clock was changed: midnight is still midnight
    assert Window("1d", False, datetime(2026, 1, 1), "Europe/Berlin").begin(summer) == datetime(
        2026, 3, 31, 22, tzinfo=UTC
    )
    with pytest.raises(ValueError, match="not begun"):
        Window("1Q", False, datetime(2027, 1, 1)).begin(NOW)
    for bad in ("", "0d", "1.5h", "1M", "5x", "-1d"):
        with pytest.raises(ValueError):
            fixed(bad)
