"""The one state-machine helper: which state may follow which; every other move is refused."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from bailiwick.kernel.errors import Conflict


class Machine:
    """The states of one kind of thing. ``moves``: every state with those that may follow; none after a final one.

    Raises :class:`ValueError` for a move to a state that is not listed.
    """

    def __init__(self, name: str, moves: Mapping[str, Collection[str]]) -> None:
        self.name = name
        self.moves = {state: frozenset(following) for state, following in moves.items()}
        if unknown := {state for following in self.moves.values() for state in following} - self.moves.keys():
            raise ValueError(f"{name}: no state is called {', '.join(sorted(unknown))}")

    @property
    def states(self) -> tuple[str, ...]:
        """All states, in the order they were given."""
        return tuple(self.moves)

    @property
    def waiting(self) -> tuple[str, ...]:
        """The states in which something is still to happen: all that are not final."""
        return tuple(state for state, following in self.moves.items() if following)

    def may(self, before: str, after: str) -> bool:
        """Whether ``after`` may follow ``before``."""
        return after in self.moves.get(before, ())

    def require(self, before: str, after: str) -> None:
        """Refuse a move that is none. Raises ``illegal_transition`` (409)."""
        if not self.may(before, after):
            raise Conflict(
                f"A {self.name} that is {before} cannot become {after}.",
                reason="illegal_transition",
                state=before,
                allowed=sorted(self.moves.get(before, ())),
            )
