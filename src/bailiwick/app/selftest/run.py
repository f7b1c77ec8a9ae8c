"""The self-test: the healthy life once, then every fault from the day before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bailiwick.app.selftest.ground import Ground, ground
from bailiwick.app.selftest.life import Chapter, tell
from bailiwick.app.selftest.mutations import MUTATIONS, Mutation, live_with
from bailiwick.app.selftest.seen import Seen


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one fault. ``red``: what turned red as it had to; ``missing``: what had to and did not;
    ``done``: what must not have been done and was; ``turned``: everything else that came (``+``) or did not (``-``)."""

    mutation: Mutation
    red: Sequence[str]
    missing: Sequence[str]
    done: Sequence[str]
    turned: Sequence[str]

    @property
    def survived(self) -> bool:
        """Whether nobody would have noticed, or noticed too little."""
        return not self.red or bool(self.missing) or bool(self.done)

    def document(self) -> dict[str, object]:
        """The JSON form."""
        return {
            "name": self.mutation.name,
            "meaning": self.mutation.meaning,
            "survived": self.survived,
            "red": list(self.red),
            "missing": list(self.missing),
            "done": list(self.done),
            "turned": list(self.turned),
        }


def judge(mutation: Mutation, seen: Seen, healthy: Seen) -> Outcome:
    """What became of ``mutation``, of what there was to see with it and without."""
    found = [(wanted, seen.red(wanted, healthy)) for wanted in mutation.red]
    return Outcome(
        mutation,
        [f"{sight.line}: {sight.cause}" if sight.cause else sight.line for _, sight in found if sight is not None],
        [str(wanted) for wanted, sight in found if sight is None],
        [line for line in mutation.never if line in seen.lines],
        seen.turned(healthy),
    )


async def mutate(
    mutations: Sequence[Mutation] = MUTATIONS,
    *,
    heard: Callable[[Chapter], None] = lambda chapter: None,
    told: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Live the life as far as it is needed, and its chapters with each fault; ``heard`` hears of each chapter and
    ``told`` of each fault at once."""
    async with ground() as under:
        healthy = await tell(under, until=max(each.until for each in mutations), heard=heard)
        return await mutate_on(under, healthy, mutations, told=told)


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
        outcome = judge(mutation, await live_with(under, mutation), healthy[mutation.until])
        told(outcome)
        found.append(outcome)
    return found
