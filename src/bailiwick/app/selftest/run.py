"""The self-test: the healthy life once, then every fault from the day before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bailiwick.app.selftest.ground import Ground, ground
from bailiwick.app.selftest.life import tell
from bailiwick.app.selftest.mutations import MUTATIONS, Mutation, live_with
from bailiwick.app.selftest.seen import Seen


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one fault: what turned red (``+``), or what was to come and did not (``-``)."""

    mutation: Mutation
    turned: Sequence[str]

    @property
    def survived(self) -> bool:
        """Whether nobody would have noticed."""
        return not self.turned

    def document(self) -> dict[str, object]:
        """The JSON form."""
        return {
            "name": self.mutation.name,
            "meaning": self.mutation.meaning,
            "survived": self.survived,
            "turned": list(self.turned),
        }


async def mutate(
    mutations: Sequence[Mutation] = MUTATIONS, *, told: Callable[[Outcome], None] = lambda outcome: None
) -> list[Outcome]:
    """Live the life, and each of its chapters with each fault; ``told`` hears of each at once."""
    async with ground() as under:
        return await mutate_on(under, await tell(under), mutations, told=told)


async def mutate_on(
    under: Ground,
    healthy: Sequence[Seen],
    mutations: Sequence[Mutation],
    *,
    told: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """The same where the healthy life was told already."""
    found = []
    for mutation in mutations:
        outcome = Outcome(mutation, await live_with(under, mutation, healthy))
        told(outcome)
        found.append(outcome)
    return found
