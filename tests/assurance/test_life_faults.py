"""The day on which a payout is forced, lived again with one fault at a time: each turns red what it has to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lived import Lived, living

from bailiwick.app.selftest.mutations import FORCING, MUTATIONS, Mutation

FAULTS = [each for each in MUTATIONS if each.chapter == FORCING]


@pytest.fixture(scope="module")
def lived() -> Iterator[Lived]:
    with living(until=max(each.until for each in FAULTS)) as lived:
        yield lived


@pytest.mark.parametrize("mutation", FAULTS, ids=lambda each: each.name)
def test_each_fault_turns_red_what_it_has_to(lived: Lived, mutation: Mutation) -> None:
    outcome = lived.outcome(mutation)
    assert not outcome.survived, outcome.document()
