"""The document ``Machine``: the states of one kind of work, and how long anything may stay in each."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from bailiwick.assurance.book import Book, Kind
from bailiwick.assurance.durations import Duration, span
from bailiwick.assurance.reconciliation.spec import CONNECTION, Column, SourceSpec
from bailiwick.assurance.stuck.own import OWN_MACHINES
from bailiwick.kernel.fields import Body, Line
from bailiwick.kernel.severity import Severity

StateName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_. -]{0,62}$")]
HttpPath = Annotated[str, StringConstraints(pattern=r"^/[^\s]{0,300}$")]


class StateSpec(Body):
    """A state: final, or with the ``limit`` that something may stay in it."""

    limit: Duration | None = None
    final: bool = False


class RequeueSpec(Body):
    """How something is started again. Only what is declared ``idempotent`` is, by POST to ``path`` of the connection
    of the source; what is our own is started by us."""

    idempotent: bool = False
    path: HttpPath | None = None


class DeadLetterSpec(Body):
    """After how many attempts at starting it again something may be given up, by POST to ``path``."""

    after: Annotated[int, Field(ge=1, le=100)] = 3
    path: HttpPath


class MachineSpec(Body):
    """A state machine and where its items are.

    Columns of the source: ``item`` and ``state`` name what and where; ``entered_at``, if there is one, when it came
    there, which is believed to be earlier than what we saw, and to be later only where ``history`` says that nothing
    but a transition moves it. ``own`` sources bring their states with them.
    """

    description: Line = ""
    owner: Line
    runbook: Line = ""
    source: SourceSpec
    item: Column = "item"
    state: Column = "state"
    entered_at: Column | None = None
    item_owner: Column | None = None
    history: bool = False
    states: Annotated[dict[StateName, StateSpec], Field(min_length=1, max_length=64)]
    may_be_empty: bool = False
    every: Duration = "5m"
    cap: Annotated[int, Field(ge=1, le=200_000)] = 50_000
    severity: Severity = Severity.P2
    requeue: RequeueSpec | None = None
    dead_letter: DeadLetterSpec | None = None
    heartbeat: Duration | None = None

    @model_validator(mode="after")
    def _whole(self) -> MachineSpec:
        if self.history and self.entered_at is None and self.source.own is None:
            raise ValueError("a source with history has a column entered_at")
        for each in (self.requeue, self.dead_letter):
            if each is not None and each.path is not None and self.source.path is None:
                raise ValueError("only a source by HTTP is told by POST")
        return self

    def limit(self, state: str) -> timedelta | None:
        """How long something may be in ``state``; None where it is final."""
        found = self.states[state]
        return span(found.limit) if found.limit is not None else None

    @property
    def final(self) -> frozenset[str]:
        """The states in which nothing is waited for; of our own also those that the code declares."""
        own = OWN_MACHINES.get(self.source.own or "")
        code = {state for state in own.machine.states if state not in own.waiting} if own is not None else set()
        return frozenset({name for name, each in self.states.items() if each.final} | code)


def _check(book: Book) -> Iterator[str]:
    connections = book.of(CONNECTION)
    for name, spec in book.of(MACHINE).items():
        for state, each in spec.states.items():
            if each.final == (each.limit is not None):
                told = "is final and has a limit" if each.final else "is not final and has no limit"
                yield f"Machine {name}: the state {state} {told}"
        source = spec.source
        if source.ldap is not None:
            yield f"Machine {name}: a directory has no states of work"
            continue
        if source.own is None:
            if source.connection not in connections:
                yield f"Machine {name}: there is no Connection {source.connection!r}"
            elif connections[source.connection].kind != source.takes:
                yield f"Machine {name}: Connection {source.connection} is not of kind {source.takes}"
            continue
        own = OWN_MACHINES.get(source.own)
        if own is None:
            yield f"Machine {name}: there is no machine of our own called {source.own!r}"
            continue
        limited = {state for state, each in spec.states.items() if each.limit is not None}
        for state in sorted(set(own.waiting) - limited):
            yield f"Machine {name}: the state {state} of {source.own} has no limit"
        for state in sorted(set(spec.states) - set(own.machine.states)):
            yield f"Machine {name}: {source.own} has no state {state}"
        if spec.requeue is not None and own.requeue is None:
            yield f"Machine {name}: nothing of {source.own} is started again"


MACHINE: Kind[MachineSpec] = Kind("Machine", MachineSpec, check=_check)
