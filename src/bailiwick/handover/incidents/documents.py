"""The documents by which incidents go: what opens one, what is done in its first hour, what must be decided how."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from bailiwick.assurance.book import Book, Kind
from bailiwick.assurance.durations import DurationOrZero
from bailiwick.assurance.notices.channels import CHANNEL
from bailiwick.evidence.codes import EVENT_TYPES
from bailiwick.kernel.fields import Body, Line, Name, Scope, Text, UserName
from bailiwick.kernel.severity import Severity
from bailiwick.kernel.verdicts import Verdict

Class = Literal["security", "availability", "evidence", "operations"]
Exit = Literal["secret-rotated", "blast-radius"]
Phase = Literal["contain", "preserve", "diagnose", "recover", "validate", "review"]
PHASES: tuple[Phase, ...] = ("contain", "preserve", "diagnose", "recover", "validate", "review")
ProbeName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$")]

_BY_NAME = {each.name: each.code for each in EVENT_TYPES.values()}


def cadence(severity: Severity) -> timedelta:
    """How often people are told how it goes: every half hour (P0, P1), hourly (P2, P3)."""
    return timedelta(minutes=30) if severity in (Severity.P0, Severity.P1) else timedelta(hours=1)


class Trigger(Body):
    """What opens an incident by itself: one of these alerts that stands for ``sustained``, an alert of one of these
    severities, an event, or a probe that is not green.

    ``exits``: what must be so, beside recovery, before the severity may drop. ``owner`` is an activity of the RACI,
    by which the incident's own alert escalates. ``runbook`` names a Runbook of the book.
    """

    alerts: list[Name] = Field(default_factory=list, max_length=50)
    severities: list[Severity] = Field(default_factory=list, max_length=4)
    except_alerts: list[Name] = Field(default_factory=list, max_length=50, description="other triggers speak of them")
    events: list[Line] = Field(default_factory=list, max_length=20, description="names of events, `policy.suspect`")
    probe: ProbeName | None = None
    on: list[Verdict] = Field(default_factory=lambda: [Verdict.FAIL, Verdict.ERROR])
    sustained: DurationOrZero = "0s"
    severity: Severity
    class_: Annotated[Class, Field(alias="class")]
    title: Annotated[Line, Field(min_length=1)]
    owner: Annotated[Line, Field(min_length=1)] = "incident-response"
    runbook: Name | None = None
    exits: list[Exit] = Field(default_factory=list, max_length=2)
    public: Line = ""

    @model_validator(mode="after")
    def _of_something(self) -> Trigger:
        if sum(map(bool, (self.alerts or self.severities, self.events, self.probe))) != 1:
            raise ValueError("a trigger is over alerts, or events, or a probe")
        if unknown := set(self.events) - _BY_NAME.keys():
            raise ValueError(f"there is no event {', '.join(sorted(unknown))}")
        if Verdict.PASS in self.on:
            raise ValueError("PASS is no trouble")
        return self

    def codes(self) -> list[str]:
        """The codes of the events it is over."""
        return [_BY_NAME[name] for name in self.events]


class Step(Body):
    """One step of a runbook: an action of containment, a probe, a measurement of recovery, the evidence pack, or
    what a person attests that he did or saw."""

    phase: Phase
    name: Name
    title: Annotated[Line, Field(min_length=1)]
    action: Name | None = None
    arguments: dict[Name, Annotated[str, StringConstraints(max_length=200)]] = Field(default_factory=dict)
    probe: ProbeName | None = None
    measure: Literal["recovery", "preserved", "exits", "reviewed"] | None = None
    attest: Text = Field("", description="what a person states when it is done")

    @model_validator(mode="after")
    def _one_kind(self) -> Step:
        if sum(map(bool, (self.action, self.probe, self.measure, self.attest))) != 1:
            raise ValueError("a step is one of action, probe, measure and attest")
        if self.phase == "preserve" and self.measure != "preserved":
            raise ValueError("preserving is measured: the pack is built or it is not")
        return self


class Runbook(Body):
    """What is done about an incident, in this order. ``alerts``: those it is for."""

    title: Annotated[Line, Field(min_length=1)]
    alerts: list[Name] = Field(default_factory=list, max_length=50)
    steps: list[Step] = Field(min_length=1, max_length=40)

    @model_validator(mode="after")
    def _in_order(self) -> Runbook:
        places = [PHASES.index(step.phase) for step in self.steps]
        if places != sorted(places):
            raise ValueError("the phases come in the order contain, preserve, diagnose, recover, validate, review")
        if missing := [phase for phase in PHASES if phase not in {step.phase for step in self.steps}]:
            raise ValueError(f"a runbook has steps of every phase: {', '.join(missing)} has none")
        names = [step.name for step in self.steps]
        if len(set(names)) != len(names):
            raise ValueError("two steps have one name")
        return self


class Expected(Body):
    """A decision that is known: what an application asks for, for ``user`` or for itself, must come out so by its
    grants and the active policies, and without a ``user`` at the gateway. Recovery is measured by these.

    ``path``: what is asked for there; without one, the server's first operation of that scope that only reads.
    """

    application: Name
    user: UserName | None = None
    server: Name
    scope: Scope
    expect: Literal["allow", "deny"]
    method: Literal["GET", "HEAD"] = "GET"
    path: Annotated[str, StringConstraints(pattern=r"^(/[!-~]{0,500})?$", max_length=501)] = ""


class DrillZone(Body):
    """Says that drills may be held in this zone: nobody depends on it."""

    sandbox: Literal[True]


class Room(Body):
    """Where people follow an incident: each of ``channels`` (chat, ticket or mail) has one thread, or one ticket, an
    incident of ``severities`` (none: all).

    Of security incidents is told that they are there and how far they are; with ``security`` also what they are: set
    it where only those read who may.
    """

    channels: list[Name] = Field(min_length=1, max_length=5)
    severities: list[Severity] = Field(default_factory=list, max_length=4)
    security: bool = False


def _check_room(book: Book) -> Iterable[str]:
    channels = book.of(CHANNEL)
    for name, room in book.of(ROOM).items():
        for channel in room.channels:
            spec = channels.get(channel)
            if spec is None:
                yield f"IncidentRoom {name}: there is no channel {channel!r}"
            elif spec.pagerduty is not None:
                yield f"IncidentRoom {name}: {channel} calls people, which the incident's alert does already"


def _check(book: Book) -> Iterable[str]:
    runbooks = book.of(RUNBOOK)
    for name, trigger in book.of(TRIGGER).items():
        if trigger.runbook is not None and trigger.runbook not in runbooks:
            yield f"IncidentTrigger {name}: there is no Runbook {trigger.runbook}"


TRIGGER = Kind("IncidentTrigger", Trigger, check=_check)
RUNBOOK = Kind("Runbook", Runbook)
# recovery is measured by these: to rewrite the one that fails takes two
EXPECTED = Kind("ExpectedDecision", Expected, two_persons=lambda before, after: before is not None)
# whoever calls a zone a sandbox lets drills throw its switches
DRILL_ZONE = Kind("DrillZone", DrillZone, two_persons=lambda before, after: True)
ROOM = Kind("IncidentRoom", Room, check=_check_room)
KINDS = (TRIGGER, RUNBOOK, EXPECTED, DRILL_ZONE, ROOM)
