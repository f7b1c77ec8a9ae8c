"""What the parts of this room ask of each other, so that each can be read and tested by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from bailiwick.evidence.events import Context
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.severity import Severity
from bailiwick.kernel.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class Raised:
    """Something somebody must look at.

    ``key`` is what makes two of them the same one (open at most once per zone); ``rule`` what noticed it; ``owner`` the
    activity of the RACI whose accountable person answers for it; ``runbook`` a path or address.
    """

    key: str
    rule: str
    severity: Severity
    summary: str
    owner: str
    runbook: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


class Alerts(Protocol):
    """Where alerts are raised and cleared."""

    async def fire(self, tx: Transaction, context: Context, raised: Raised) -> str:
        """Open the alert, or note that it goes on; its id."""
        ...

    async def clear(self, tx: Transaction, context: Context, key: str) -> bool:
        """What was wrong is right again; whether there was such an alert."""
        ...


@dataclass(frozen=True, slots=True)
class Notice:
    """A message to be delivered. ``to`` names a person (``person:jane``), a role (``role:ops_owner``), or a channel
    (``channel:ops-chat``). The same ``key`` is sent once. ``subject`` is one line, ``body`` plain text.

    Those of one ``thread`` arrive in their order, as one conversation or one ticket where the channel has such.
    ``facts`` stand beside the text where a channel takes fields."""

    to: str
    key: str
    subject: str
    body: str
    severity: Severity = Severity.P3
    thread: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)


class Notices(Protocol):
    """Where messages are left to be delivered, in the transaction that gives cause to them."""

    async def send(self, tx: Transaction, zone: str, notice: Notice) -> str:
        """Leave it; its id."""
        ...


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who can be reached now."""

    username: str
    full_name: str
    email: str


class Owners(Protocol):
    """Who answers for what."""

    async def accountable(self, tx: Transaction, zone: str, activity: str, at: datetime) -> Person | None:
        """The one active person who answers for an activity (or his deputy of the day); None where nobody does."""
        ...

    async def holders(self, tx: Transaction, zone: str, role: str, at: datetime) -> Sequence[Person]:
        """The active persons who hold an owner role."""
        ...


@dataclass(frozen=True, slots=True)
class Task:
    """Something a person has to do. ``source`` is what opened it (``owners/leaving/jane``); it is open once."""

    source: str
    title: str
    owner: str
    due: datetime
    severity: Severity = Severity.P3


class Tasks(Protocol):
    """The one list of what is to be done."""

    async def open(self, tx: Transaction, context: Context, task: Task) -> str:
        """Put it on the list, unless it is on it; its id."""
        ...

    async def close(self, tx: Transaction, context: Context, source: str, outcome: str) -> bool:
        """Take it off; whether it was on it."""
        ...


@dataclass(frozen=True, slots=True)
class Granted:
    """A waiver in force. ``event``: the id of the one in the ledger by which it was approved."""

    id: str
    control: str
    scope: str
    until: datetime
    event: str


class Waivers(Protocol):
    """The only way around a gate."""

    async def covering(self, tx: Transaction, zone: str, control: str, scope: str, at: datetime) -> str | None:
        """The id of the active waiver of ``control`` for ``scope``; None without one."""
        ...

    async def granted(self, tx: Transaction, zone: str, waiver: str, at: datetime) -> Granted | None:
        """The waiver by its id, where it is active at ``at``; None otherwise."""
        ...

    async def used(self, tx: Transaction, context: Context, waiver: str, gate: str) -> None:
        """Note that ``gate`` let something pass because of it."""
        ...


Level = Literal["primary", "secondary", "lead", "manager", "management"]


class OnCall(Protocol):
    """Who is called."""

    async def on_call(self, tx: Transaction, zone: str, level: Level, at: datetime) -> Person | None:
        """The person of that level at that moment, stand-ins taken into account; None where nobody is."""
        ...

    async def uncovered(
        self, tx: Transaction, zone: str, level: Level, since: datetime, until: datetime
    ) -> datetime | None:
        """The first moment between the two at which nobody of that level is called; None where somebody always is."""
        ...


@dataclass(frozen=True, slots=True)
class Run:
    """How often something that is due by the clock did run between two instants, and how it ended."""

    due: int
    on_time: int
    green: int
    last_at: datetime | None


class Runs(Protocol):
    """What the scheduled checks did."""

    async def of(self, tx: Transaction, zone: str, check: str, since: datetime, until: datetime) -> Run:
        """The runs of one job by its name."""
        ...


@dataclass(frozen=True, slots=True)
class Owned:
    """Something that somebody has to answer for and that is no document of the book, as ``waiver/0192…``.

    ``owner``: an activity, ``role:…``, ``person:…``; empty where it is for an activity to cover it by its name.
    """

    thing: str
    owner: str = ""


class Belongings(Protocol):
    """What a part keeps, for ``owners check``. A part with such things puts itself into the house's ``belongings``."""

    async def owned(self, tx: Transaction, zone: str) -> Sequence[Owned]:
        """Everything of it that goes on now."""
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """What a probe found last. ``value`` is None where it found no number."""

    verdict: Verdict
    value: float | None
    at: datetime


class Verdicts(Protocol):
    """What the probes found."""

    async def newest(self, tx: Transaction, zone: str, check: str, at: datetime) -> Found | None:
        """The verdict that counts at a moment, STALE where it is too old; None where there was never one."""
        ...


class Happenings(Protocol):
    """What should have been alerted on."""

    async def happened(
        self, tx: Transaction, context: Context, kind: Literal["test", "drill", "incident"], reference: str,
        began_at: datetime, alert: str | None,
    ) -> None:  # fmt: skip
        """Note a test, drill or incident, with the alert that told of it; without one it was missed."""
        ...


@dataclass(frozen=True, slots=True)
class GateAnswer:
    """What a gate says. ``passes`` may be true of a verdict that is not green: by ``exception`` (a class of change, or
    ``waiver``). ``because``: a line for each thing that is not as it should be."""

    verdict: Verdict
    passes: bool
    because: tuple[str, ...] = ()
    exception: str = ""
    waiver: str | None = None


class Gate(Protocol):
    """The error budgets, asked before something is changed."""

    async def gate(
        self, tx: Transaction, context: Context, action: str, service: str, change_class: str = "normal"
    ) -> GateAnswer:
        """Whether ``action`` on ``service`` may pass now; the answer is recorded."""
        ...


@dataclass(frozen=True, slots=True)
class Automated:
    """What an automatic part of a ceremony found.

    ``query`` names how the figures were got, so that two of the same name mean the same; ``told`` is one line for
    people; ``record`` the id of an evidence record where the part left one itself.
    """

    verdict: Verdict
    query: str
    figures: Mapping[str, int | str | bool] = field(default_factory=dict)
    told: str = ""
    record: str = ""


class Automatic(Protocol):
    """A part of a ceremony that needs nobody: a probe, a report, a query."""

    async def __call__(self, tx: Transaction, zone: str, since: datetime, until: datetime) -> Automated:
        """What is so of the window that ends at ``until``, which is not in the future."""
        ...


Risk = Literal["LOW", "MED", "HIGH", "CRITICAL"]


@dataclass(frozen=True, slots=True)
class OpenWaiver:
    """A waiver in force."""

    id: str
    control: str
    risk: Risk
    until: datetime


class WaiverFacts(Protocol):
    """What stands in the register of waivers."""

    async def open_at(self, tx: Transaction, zone: str, at: datetime) -> Sequence[OpenWaiver] | None:
        """The waivers in force at a moment; None where there is no register to ask."""
        ...


@dataclass(frozen=True, slots=True)
class Drill:
    """A fault that was injected to see the alarm go: when, and when each step came; None for what never did."""

    id: str
    rule: str
    injected_at: datetime
    fired_at: datetime | None
    delivered_at: datetime | None
    acknowledged_at: datetime | None


class DrillFacts(Protocol):
    """What alarm drills showed."""

    async def drills(self, tx: Transaction, zone: str, since: datetime, until: datetime) -> Sequence[Drill] | None:
        """The drills injected in a window, oldest first; None where nobody keeps them."""
        ...


@dataclass(frozen=True, slots=True)
class SloFact:
    """How far an objective is measured: days with enough valid samples, and reports published, in the window."""

    slo: str
    valid_days: int
    reports: int


class SloFacts(Protocol):
    """How far service levels are measured."""

    async def measured(self, tx: Transaction, zone: str, since: datetime, until: datetime) -> Sequence[SloFact] | None:
        """One fact per objective in force; None where nobody measures."""
        ...


@dataclass(frozen=True, slots=True)
class CapacityFact:
    """How far the use of one resource is known: weekly points, and reports published, in the window."""

    resource: str
    weekly_points: int
    reports: int


class CapacityFacts(Protocol):
    """How far capacity is measured."""

    async def trends(
        self, tx: Transaction, zone: str, since: datetime, until: datetime
    ) -> Sequence[CapacityFact] | None:
        """One fact per resource in force; None where nobody measures."""
        ...
