"""How runs of a job are counted at an instant: what is not late yet counts neither way, and nothing later changes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bailiwick.assurance.checkpoints.rules import Checkpoint, automation
from bailiwick.assurance.dead_man import tally
from bailiwick.assurance.ports import Run
from bailiwick.kernel.jobs import JobDefinition, KnownJob
from bailiwick.kernel.verdicts import Verdict

HOUR, MINUTE, INSTANT = timedelta(hours=1), timedelta(minutes=1), timedelta(microseconds=1)
GRACE = timedelta(minutes=10)
DUE = datetime(2026, 1, 19, 12, tzinfo=UTC)
SINCE = DUE - HOUR  # the slots after it: DUE, DUE + 1 h, …


async def _nothing(due: datetime) -> None: ...


def known(grace: timedelta = GRACE, since: datetime = SINCE - 100 * HOUR) -> KnownJob:
    return KnownJob(JobDefinition("check", HOUR, _nothing, grace=grace), since)


def row(due: datetime = DUE, state: str = "succeeded", *, begun: timedelta | None = MINUTE,
        took: timedelta = MINUTE, verdict: str | None = "PASS", scheduled: bool = True) -> Any:  # fmt: skip
    """A line of history; ``begun``: how long after it was due."""
    started = due + begun if begun is not None else None
    finished = started + took if started is not None and state in ("succeeded", "failed") else None
    return {
        "due_at": due, "state": state, "scheduled": scheduled, "started_at": started,
        "finished_at": finished or (due + GRACE + MINUTE if state == "missed" else None), "verdict": verdict,
    }  # fmt: skip


def counted(occurred: Sequence[Any], until: datetime, job: KnownJob | None = None) -> tuple[int, int, int]:
    run = tally(job or known(), occurred, SINCE, until)
    return run.due, run.on_time, run.green


@pytest.mark.parametrize(
    ("until", "due"),
    [
        (DUE - INSTANT, 0),
        (DUE, 0),  # due, and not late
        (DUE + GRACE - timedelta(seconds=1), 0),
        (DUE + GRACE - INSTANT, 0),
        (DUE + GRACE, 0),  # the scheduler would still run it, and it would be on time
        (DUE + GRACE + INSTANT, 1),
        (DUE + HOUR, 1),  # the next one is due and not late
        (DUE + HOUR + GRACE, 1),
        (DUE + HOUR + GRACE + INSTANT, 2),
    ],
)
@pytest.mark.parametrize(
    "written", [[], [row(state="due", begun=None)]], ids=["nobody wrote it down", "nobody took it"]
)
def test_what_never_ran_counts_once_its_grace_is_over(written: list[Any], until: datetime, due: int) -> None:
    assert counted(written, until) == (due, 0, 0)


@pytest.mark.parametrize(
    ("begun", "on_time"),
    [(timedelta(0), 1), (GRACE - timedelta(seconds=1), 1), (GRACE, 1), (GRACE + INSTANT, 0)],
)
def test_what_began_within_its_grace_was_on_time(begun: timedelta, on_time: int) -> None:
    assert counted([row(begun=begun)], DUE + HOUR - MINUTE) == (1, on_time, 1)


def test_the_next_slot_is_due_while_the_former_may_still_begin() -> None:
    job = known(grace=90 * MINUTE)
    until = DUE + HOUR + 10 * MINUTE
    assert counted([], until, job) == (0, 0, 0)
    # the newer one ran first: it counts, the older one still does not
    assert counted([row(DUE + HOUR)], until, job) == (1, 1, 1)
    assert counted([row(DUE + HOUR), row(state="due", begun=None)], DUE + 91 * MINUTE, job) == (2, 1, 1)


@pytest.mark.parametrize("state", ["succeeded", "failed"])
def test_what_ended_within_its_grace_counts_at_once(state: str) -> None:
    green = int(state == "succeeded")
    assert counted([row(state=state)], DUE + 3 * MINUTE) == (1, 1, green)
    assert counted([row(state=state, verdict="NO_DATA")], DUE + 3 * MINUTE) == (1, 1, 0)


def test_what_runs_counts_against_it_from_the_end_of_its_grace_on() -> None:
    running = row(state="running")
    assert counted([running], DUE + GRACE) == (0, 0, 0)
    assert counted([running], DUE + GRACE + INSTANT) == (1, 0, 0)


def test_many_slots_that_were_missed_count_each_though_few_are_written_down() -> None:
    until = SINCE + 100 * HOUR
    assert counted([], until) == (99, 0, 0)  # of a hundred the last is not late yet
    listed = [row(DUE + n * HOUR, "missed", begun=None) for n in range(60, 70)]
    assert counted(listed, until) == (99, 0, 0)
    assert counted([*listed, row(DUE + 99 * HOUR)], until + 2 * MINUTE) == (100, 1, 1)


def test_while_a_job_was_paused_nothing_was_due() -> None:
    ran = [row(DUE + n * HOUR) for n in range(3)]
    resumed = known(since=DUE + 10 * HOUR + MINUTE)
    until = DUE + 12 * HOUR + 30 * MINUTE
    # three before the pause, two after it that nobody ran: the eight between count neither way
    assert counted(ran, until, resumed) == (5, 3, 3)
    # and what is no job any more is judged by its rows alone, all of them
    assert tally(None, [*ran, row(DUE + 3 * HOUR, "due", begun=None)], SINCE, DUE + 3 * HOUR) == Run(
        4, 3, 3, ran[-1]["finished_at"]
    )


def test_a_clock_put_back_counts_what_had_ended_by_then() -> None:
    ran = [row(DUE), row(DUE + HOUR)]
    assert counted(ran[:1], DUE + MINUTE) == (0, 0, 0)  # it is running at that moment, whatever became of it since
    assert counted(ran, DUE + HOUR) == (1, 1, 1)
    # begun before it was due, by a clock that was put back in between
    assert counted([row(begun=-30 * MINUTE)], DUE + MINUTE) == (1, 1, 1)


def test_what_somebody_asked_for_beside_the_schedule_counts_neither_way() -> None:
    asked = row(DUE + 30 * MINUTE, scheduled=False)
    run = tally(known(), [row(), asked], SINCE, DUE + 59 * MINUTE)
    assert run == Run(1, 1, 1, asked["finished_at"])


def test_a_check_of_which_nothing_is_decided_yet_is_not_green() -> None:
    spec = Checkpoint(title="T", after_days=14, rule="automation", owner="a", checks=["check"])
    run = tally(known(grace=20 * HOUR), [], SINCE, DUE + 10 * HOUR)
    assert run.due == 0
    assert automation(spec, {"check": ["check"]}, {"check": run}, None)[0].verdict is Verdict.NO_DATA


def _history() -> st.SearchStrategy[list[Any]]:
    minutes = st.integers(0, 200).map(lambda n: n * MINUTE)
    one: Callable[..., Any] = lambda n, state, begun, took: row(  # noqa: E731 - a row of its parts
        DUE + n * HOUR, state, begun=None if state in ("due", "missed") else begun, took=took
    )
    states = st.sampled_from(["succeeded", "failed", "missed", "due", "running"])
    rows = st.builds(one, st.integers(0, 9), states, minutes, minutes)
    return st.lists(rows, max_size=10, unique_by=lambda each: each["due_at"])


@given(_history(), st.integers(0, 700).map(lambda n: n * MINUTE))
def test_the_answer_for_an_instant_is_the_same_later(history: list[Any], after: timedelta) -> None:
    until = DUE + after
    then = [each for each in history if each["due_at"] <= until]
    # as the rows stood at that instant
    before = [
        each if each["finished_at"] is None or each["finished_at"] <= until
        else {**each, "state": "running", "finished_at": None}
        for each in then
    ]  # fmt: skip
    run = tally(known(), then, SINCE, until)
    assert run == tally(known(), before, SINCE, until)
    assert 0 <= run.on_time <= run.due and run.green <= run.due
