"""A life of thirty-five days: exactly what is to be seen of it, and that no fault in it goes unnoticed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
from lived import Lived, living

from bailiwick.app.selftest.mutations import CONTROL, FORCING, MUTATIONS, Mutation
from bailiwick.app.selftest.run import judge
from bailiwick.app.selftest.seen import Red, Seen, Sight


@pytest.fixture(scope="module")
def lived() -> Iterator[Lived]:
    with living() as lived:
        yield lived


def test_a_week_after_going_live_an_open_waiver_fails_until_it_is_closed(lived: Lived) -> None:
    assert lived.lines("going live", "checkpoint") == []
    assert lived.lines("T+7", "checkpoint") == ["checkpoint T7 v1 FAIL"]
    assert lived.lines("T+7", "waiver") == ["waiver bank-key approved", "waiver mail-key approved"]
    assert "alert checkpoint.not-passed P1 firing checkpoint/T7" in lived.lines("T+7", "alert")
    assert lived.lines("a payout is stuck", "checkpoint") == ["checkpoint T7 v1 FAIL", "checkpoint T7 v2 PASS"]
    assert "alert checkpoint.not-passed P1 resolved checkpoint/T7" in lived.lines("a payout is stuck", "alert")


def test_every_checkpoint_comes_to_its_exact_verdict(lived: Lived) -> None:
    assert lived.lines("the end", "checkpoint") == [
        "checkpoint T14 v1 PASS",
        "checkpoint T30 v1 PASS",
        "checkpoint T7 v1 FAIL",
        "checkpoint T7 v2 PASS",
    ]


def test_everything_that_happens_has_its_alert_and_its_end(lived: Lived) -> None:
    assert lived.lines("the end", "alert", "nobody", "notice", "refused", "service") == [
        "alert BreakGlass P1 resolved break-glass/*",
        "alert BreakGlassDisputed P1 firing break-glass/*/disputed",
        "alert JobSilent P2 resolved job/owners:check",
        "alert SloBurn P1 resolved slo/errors/burn/6h",
        "alert SloBurn P2 resolved slo/errors/burn/1d",
        "alert SloBurn P3 resolved slo/errors/burn/3d",
        "alert WaiverOverdue P1 firing waiver/*/overdue",
        "alert checkpoint.not-passed P1 resolved checkpoint/T7",
        "alert reconciliation/payouts P2 firing recon/payouts/mismatch/*/2026-01-16",
        "alert reconciliation/payouts P2 resolved recon/payouts/no-data",
        "alert rhythm.automatic P2 resolved rhythm/ops-health/automatic",
        "alert rhythm.overdue P2 resolved rhythm/ops-health/overdue",
        "alert stuck/payouts P0 resolved stuck/payouts",
    ]


def test_what_people_did_stands_in_the_registers(lived: Lived) -> None:
    assert lived.lines("the end", "ceremony", "drill", "override", "report", "task", "job") == [
        "ceremony ops-health missed",
        "ceremony ops-health signed",
        "drill JobSilent acknowledged",
        "job owners:check missed",
        "override payout.force done",
        "override provider.pause disputed broken glass",
        "report capacity-weekly NO_DATA signed",
        "report capacity-weekly PASS signed",
        "report slo-30d NO_DATA signed",
        "report slo-weekly FAIL signed",
        "report slo-weekly PASS signed",
        "task overdue overrides/sample/2026-01",
    ]


# those of the day of the override are in test_life_faults.py
@pytest.mark.parametrize(
    "mutation", [each for each in MUTATIONS if each.chapter != FORCING], ids=lambda each: each.name
)
def test_each_fault_turns_red_what_it_has_to(lived: Lived, mutation: Mutation) -> None:
    outcome = lived.outcome(mutation)
    assert not outcome.survived, outcome.document()


def test_a_fault_that_changes_nothing_is_a_survivor(lived: Lived) -> None:
    outcome = lived.outcome(CONTROL)
    assert outcome.survived and outcome.turned == [] and outcome.red == []
    assert outcome.missing == ["alert JobSilent P1 firing scheduler"]


def test_a_fault_whose_red_is_another_one_is_a_survivor(lived: Lived) -> None:
    (fault,) = [each for each in MUTATIONS if each.name == "waiver-too-long"]
    (refused,) = fault.red
    seen = lived.seen(fault)
    healthy = lived.told[fault.until]
    assert not judge(fault, seen, healthy).survived
    wrong: dict[str, dict[str, object]] = {
        "nothing is declared": {"red": ()},
        "for another reason": {"red": (replace(refused, line="refused asking for the waiver: conflict"),)},
        "one of two is missing": {"red": (refused, Red("alert SloBurn P1 firing slo/errors/burn/1h"))},
        # there all the same without the fault, and so no sign of it
        "red in the healthy life too": {"red": (Red("ceremony ops-health overdue"),)},
        "is there and is not red": {"red": (Red("waiver bank-key approved"),)},
        "was done all the same": {"never": ("waiver bank-key approved",)},
    }
    for why, change in wrong.items():
        outcome = judge(replace(fault, **change), seen, healthy)
        assert outcome.survived, why


def test_what_is_red_once_more_often_is_no_sign_of_a_fault() -> None:
    red = Sight("stuck payouts FAIL", True, "1 critical")
    once, twice = Seen(Counter({red: 1})), Seen(Counter({red: 2}))
    assert twice.turned(once) == ["+ stuck payouts FAIL"]
    assert twice.red(Red("stuck payouts FAIL", "critical"), once) is None
    assert twice.red(Red("stuck payouts FAIL", "critical"), Seen(Counter())) == red


def test_there_are_thirty_faults_and_each_says_what_has_to_turn_red() -> None:
    assert len(MUTATIONS) >= 30
    assert len({each.name for each in MUTATIONS}) == len(MUTATIONS)
    assert all(each.red for each in MUTATIONS)
