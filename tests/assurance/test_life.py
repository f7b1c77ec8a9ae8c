"""A life of thirty-five days: exactly what is to be seen of it, and that no fault in it goes unnoticed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import structlog

from bailiwick.app.selftest.ground import Ground, ground
from bailiwick.app.selftest.life import CHAPTERS, tell
from bailiwick.app.selftest.mutations import MUTATIONS, Mutation
from bailiwick.app.selftest.run import mutate_on
from bailiwick.app.selftest.seen import Seen


class Lived:
    """The healthy life, told once, on a ground that can be gone back to."""

    def __init__(self, loop: asyncio.AbstractEventLoop, under: Ground, told: list[Seen]) -> None:
        self.loop, self.under, self.told = loop, under, told

    def turned(self, mutation: Mutation) -> list[str]:
        (outcome,) = self.loop.run_until_complete(mutate_on(self.under, self.told, [mutation]))
        assert outcome.survived is not bool(outcome.turned)
        return list(outcome.turned)

    def lines(self, chapter: str, *kinds: str) -> list[str]:
        """What there was to see at the end of a chapter, of these kinds."""
        number = [each.name for each in CHAPTERS].index(chapter)
        return sorted(line for line in self.told[number].lines if line.split()[0] in kinds)


@pytest.fixture(scope="module")
def lived() -> Iterator[Lived]:
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    loop = asyncio.new_event_loop()
    standing = ground()
    under = loop.run_until_complete(standing.__aenter__())
    try:
        yield Lived(loop, under, loop.run_until_complete(tell(under)))
    finally:
        loop.run_until_complete(standing.__aexit__(None, None, None))
        loop.close()
        structlog.configure(**before)


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
        "alert BreakGlass P1 firing break-glass/*",
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


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda each: each.name)
def test_no_fault_goes_unnoticed(lived: Lived, mutation: Mutation) -> None:
    assert lived.turned(mutation)


def test_a_fault_that_changes_nothing_is_a_survivor(lived: Lived) -> None:
    assert lived.turned(Mutation("nothing", "nothing is broken", 4)) == []


def test_there_are_thirty_faults_and_each_has_a_name_of_its_own() -> None:
    assert len(MUTATIONS) >= 30
    assert len({each.name for each in MUTATIONS}) == len(MUTATIONS)
