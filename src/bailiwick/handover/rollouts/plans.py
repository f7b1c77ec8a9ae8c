"""The documents by which releases go out: plans of phases, steps and gates; and windows in which none does.

A step is done by an *action* and judged by its *verifications*; ``back`` is what takes it back. What a plan says of
commands, addresses and programs is reviewed by two persons before it is in force, and nothing else is ever run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field, StringConstraints, ValidationError, model_validator

from bailiwick.assurance.book import Book, Kind
from bailiwick.assurance.durations import Duration, DurationOrZero, within
from bailiwick.assurance.probes.spec import PROBE, DnsCheck, Host, HttpCheck, Port, Url, Word
from bailiwick.kernel.errors import InvalidRequest
from bailiwick.kernel.fields import Body, Line, Name, Text
from bailiwick.kernel.permissions import Role
from bailiwick.kernel.severity import Severity
from bailiwick.kernel.verdicts import Verdict

DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$"
VALUE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,199}$"
INSTALLATION_ZONE = "default"
LONGEST = "1h"

Argv = Annotated[list[Word], Field(min_length=1, max_length=64)]
ProbeName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$")]
Variable = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Value = Annotated[str, StringConstraints(pattern=VALUE_PATTERN)]
Relative = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_$][A-Za-z0-9._/${}-]{0,300}$")]
Reference = Annotated[str, StringConstraints(pattern=r"^\$\{[a-z][a-z0-9_]{0,39}\}$")]
Percent = Annotated[int, Field(ge=0, le=100)]

_REFERENCE = re.compile(r"\$\{([a-z][a-z0-9_]{0,39})\}")


# ---------------------------------------------------------------------- actions


class CommandAction(Body):
    """Runs a program without a shell: one that the machine's operator allows, by its name or path."""

    kind: Literal["command"]
    argv: Argv
    timeout: Duration = "5m"


class KubectlAction(Body):
    """Applies manifests, or a kustomization, after recording what ``kubectl diff`` says would change."""

    kind: Literal["kubectl"]
    verb: Literal["apply", "delete"] = "apply"
    path: Relative
    kustomize: bool = False
    namespace: Line = ""
    timeout: Duration = "5m"


class HttpAction(Body):
    """Sends one request. What is answered must have one of the statuses."""

    kind: Literal["http"]
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] = "POST"
    url: Url
    headers: dict[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{1,100}$")], Line] = Field(
        default_factory=dict, max_length=20
    )
    body: Text = ""
    status: Annotated[list[Annotated[int, Field(ge=100, le=599)]], Field(min_length=1, max_length=20)] = Field(
        default_factory=lambda: [200, 201, 202, 204]
    )
    timeout: Duration = "30s"


class WeightsAction(Body):
    """Gives the candidate of a server so much of its traffic."""

    kind: Literal["weights"]
    server: Name | Reference
    percent: Percent


class PolicyAction(Body):
    """Activates a version of a policy of this zone, and waits for whoever has to agree to it."""

    kind: Literal["policy"]
    policy: Name | Reference
    version: Annotated[str, StringConstraints(pattern=r"^([1-9][0-9]{0,8}|\$\{[a-z][a-z0-9_]{0,39}\})$")]


class BookAction(Body):
    """Puts the documents of a directory in force, in place of those that are. What takes two persons waits for both."""

    kind: Literal["book"]
    path: Relative


class Question(Body):
    """What a name server is asked, and what must be among its answers; as a probe of the type ``dns``."""

    name: Host | Reference
    record: Literal["A", "AAAA", "CNAME", "TXT"] = "A"
    server: Host | Reference | None = None
    port: Port = 53
    answers: Annotated[list[Line], Field(max_length=20)] = Field(default_factory=list)

    def check(self) -> DnsCheck:
        """The check, once its variables are filled in."""
        return DnsCheck(type="dns", **self.model_dump())


class DnsAction(Body):
    """Waits until a name server answers as it should."""

    kind: Literal["dns"]
    ask: Question
    within: Duration = "10m"


class WaitAction(Body):
    """Lets time pass. With ``probe``: waits until it is PASS, and has been so for ``lasting``."""

    kind: Literal["wait"]
    probe: ProbeName | None = None
    lasting: DurationOrZero = "0s"
    within: Duration = "1h"

    @model_validator(mode="after")
    def _of_something(self) -> WaitAction:
        if self.probe is None and self.lasting == "0s":
            raise ValueError("waiting is for a probe, or lasts")
        return self


class ManualAction(Body):
    """A person of the step's role does it, and states this."""

    kind: Literal["manual"]
    statement: Annotated[Text, Field(min_length=1)]


class PreflightAction(Body):
    """Looks at the release before anything is changed.

    ``render`` prints the configuration that would be in force; its difference to that of the release before is
    recorded. ``migrations`` prints the statements that the schema would be changed by. ``smoke`` runs the tests of the
    release before against the new schema. Where there is a difference, somebody else than who planned it reads it.
    """

    kind: Literal["preflight"]
    render: Argv
    migrations: Argv
    smoke: Argv
    timeout: Duration = "10m"


Action = Annotated[
    CommandAction
    | KubectlAction
    | HttpAction
    | WeightsAction
    | PolicyAction
    | BookAction
    | DnsAction
    | WaitAction
    | ManualAction
    | PreflightAction,
    Field(discriminator="kind"),
]

HARMLESS = ("manual", "wait", "dns", "preflight")
"""Actions that change nothing by themselves, so that they may come before the GO."""
REPEATABLE = ("wait", "dns", "preflight", "weights", "policy", "book", "manual", "kubectl")
"""Actions that do no more when they are done again."""
_IDEMPOTENT = ("GET", "HEAD", "PUT", "DELETE")  # RFC 9110 §9.2.2


class Verification(Body):
    """One thing that must be so afterwards: a command that ends with 0 (and ``prints``), a web server, a name, or a
    probe of the book that is PASS. It is asked again until it holds, for as long as ``within``."""

    command: Argv | None = None
    prints: Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00]*$")] = ""
    http: HttpCheck | None = None
    dns: Question | None = None
    probe: ProbeName | None = None
    within: DurationOrZero = "0s"

    @model_validator(mode="after")
    def _one(self) -> Verification:
        if sum(map(bool, (self.command, self.http, self.dns, self.probe))) != 1:
            raise ValueError("a verification is one of command, http, dns and probe")
        if self.prints and self.command is None:
            raise ValueError("prints is of a command")
        if self.http is not None and not self.http.asks:
            raise ValueError("an http verification measures nothing")
        return self


class Deed(Body):
    """Something that is done: the action, what shows that all is well, and whether doing it again does no harm.

    ``proves``: what is verified holds only when it was done, so that it tells after a crash whether it was.
    """

    title: Annotated[Line, Field(min_length=1)]
    do: Action
    verify: list[Verification] = Field(default_factory=list, max_length=10)
    idempotent: bool = False
    proves: bool = False
    owner: Role | None = None

    @model_validator(mode="after")
    def _provable(self) -> Deed:
        if self.proves and not self.verify:
            raise ValueError("what proves it is a verification")
        return self

    @property
    def repeatable(self) -> bool:
        """Whether it may be done again where nobody knows whether it was done."""
        by_method = isinstance(self.do, HttpAction) and self.do.method in _IDEMPOTENT
        return self.idempotent or self.do.kind in REPEATABLE or by_method

    @property
    def lost(self) -> str:
        """What becomes of it when its process died before its outcome was known: ``again``, ``verify`` or ``ask``."""
        return "again" if self.repeatable else "verify" if self.proves else "ask"


class Step(Deed):
    """A step. ``duration`` informs; ``owner`` is the role that does it where a person must act, and that confirms it.

    ``distinct_from``: steps that must have been confirmed by others. ``back`` takes it back. ``when_lost``: what comes
    of it when nobody can tell whether it was done.
    """

    name: Name
    duration: Duration | None = None
    distinct_from: list[Name] = Field(default_factory=list, max_length=20)
    back: Deed | None = None
    when_lost: Literal["ask", "roll-back"] = "ask"


class Trigger(Body):
    """What makes somebody decide: a probe that is not green, a firing alert by name or severity, a canary that is not
    PASS. Nobody can decide to go on against a canary. ``fires_on``: those of a probe that fire it; all but PASS."""

    name: Name
    probe: ProbeName | None = None
    fires_on: list[Verdict] = Field(default_factory=lambda: [each for each in Verdict if not each.green], min_length=1)
    alerts: list[Name] = Field(default_factory=list, max_length=50)
    severities: list[Severity] = Field(default_factory=list, max_length=4)
    canary: bool = False

    @model_validator(mode="after")
    def _one(self) -> Trigger:
        if sum(map(bool, (self.probe, self.alerts, self.severities, self.canary))) != 1:
            raise ValueError("a trigger is one of probe, alerts, severities and canary")
        if Verdict.PASS in self.fires_on:
            raise ValueError("PASS is no trouble")
        return self


class Gate(Body):
    """A rollback decision point: closes a phase, and watches it while it lasts.

    When a trigger fires, or a step fails, somebody of the role ``owner`` decides within ``timer``; without a decision
    it is rolled back.
    """

    name: Name
    title: Annotated[Line, Field(min_length=1)]
    owner: Role = Role.OPS_OWNER
    timer: Duration = "10m"
    triggers: list[Trigger] = Field(default_factory=list, max_length=20)


class Phase(Body):
    """A phase. ``before_go``: it changes nothing and comes before the Go/No-Go. ``window`` and ``duration`` inform."""

    name: Name
    title: Annotated[Line, Field(min_length=1)]
    window: Line = ""
    duration: Duration | None = None
    owner: Role
    before_go: bool = False
    steps: list[Step] = Field(min_length=1, max_length=40)
    gate: Gate | None = None


class Plan(Body):
    """How a release goes out and how it comes back.

    ``signatures``: the roles that sign the GO, each by another person, none by who planned. ``service``: whose error
    budgets must let a ``deploy`` pass. ``closing``: what is done when everything was taken back, such as looking at
    the old system; taking back should last no longer than ``rollback_within``, and usually ``rollback_expected``.
    ``gate``: what counts in phases without a gate.
    """

    title: Annotated[Line, Field(min_length=1)]
    service: Name
    change_class: Literal["normal", "security", "sev1"] = "normal"
    variables: dict[Variable, Value | None] = Field(
        default_factory=dict, max_length=40, description="with the value that holds where none is given"
    )
    signatures: list[Role] = Field(min_length=1, max_length=8)
    phases: list[Phase] = Field(min_length=1, max_length=20)
    gate: Gate
    closing: list[Step] = Field(default_factory=list, max_length=20)
    rollback_expected: Duration = "15m"
    rollback_within: Duration = "30m"
    review: Line = Field("", description="the task that a rollback opens afterwards")

    @model_validator(mode="after")
    def _whole(self) -> Plan:
        names = [step.name for step in self.steps()] + [step.name for step in self.closing]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two steps are called {', '.join(twice)}")
        if len(set(self.signatures)) != len(self.signatures):
            raise ValueError("a role signs once")
        before = [phase.before_go for phase in self.phases]
        if before != sorted(before, reverse=True):
            raise ValueError("phases before the GO come first")
        if all(before):
            raise ValueError("some phase comes after the GO")
        for step in self.steps(before_go=True):
            if step.do.kind not in HARMLESS or step.back is not None:
                raise ValueError(f"{step.name} comes before the GO, so it is one of {', '.join(HARMLESS)}")
        if not any(step.do.kind == "preflight" for step in self.steps(before_go=True)):
            raise ValueError("a phase before the GO has a preflight")
        self._known_steps()
        gates = [gate.name for gate in self.gates()]
        if len(set(gates)) != len(gates):
            raise ValueError("two gates have one name")
        for deed in deeds(self):
            if deed.do.kind == "manual" and deed.owner is None and not isinstance(deed, Step):
                raise ValueError(f"{deed.title}: it says whose it is")
            if (timeout := getattr(deed.do, "timeout", None)) is not None:
                within(timeout, "1s", LONGEST)
        if used := sorted(set(_references(self.model_dump())) - {*self.variables, *BUILT_IN}):
            raise ValueError(f"there is no variable {', '.join(used)}")
        return self

    def _known_steps(self) -> None:
        seen: set[str] = set()
        for step in [*self.steps(), *self.closing]:
            if unknown := set(step.distinct_from) - seen:
                raise ValueError(f"{step.name}: no step before it is called {', '.join(sorted(unknown))}")
            seen.add(step.name)

    def steps(self, *, before_go: bool | None = None) -> list[Step]:
        """The steps in their order; those before the GO, those after it, or all."""
        return [step for phase in self.phases if before_go in (None, phase.before_go) for step in phase.steps]

    def gates(self) -> list[Gate]:
        """Every gate."""
        return [self.gate, *(phase.gate for phase in self.phases if phase.gate is not None)]

    def phase_of(self, step: str) -> Phase | None:
        """The phase that a step is of; None for a closing one."""
        return next((phase for phase in self.phases if any(each.name == step for each in phase.steps)), None)

    def step(self, name: str) -> Step | None:
        """A step by its name."""
        return next((each for each in [*self.steps(), *self.closing] if each.name == name), None)

    def owner_of(self, deed: Deed, step: Step) -> Role:
        """Whose it is to do, where a person must."""
        phase = self.phase_of(step.name)
        return deed.owner or step.owner or (phase.owner if phase is not None else self.gate.owner)


class FreezeWindow(Body):
    """A time in which no step of a rollout begins in these environments, but what is taken back is.

    ``except_classes``: classes of change that go on.
    """

    environments: list[Name] = Field(min_length=1, max_length=50)
    since: AwareDatetime
    until: AwareDatetime
    why: Annotated[Line, Field(min_length=1)]
    except_classes: list[Literal["security", "sev1"]] = Field(default_factory=list, max_length=2)

    @model_validator(mode="after")
    def _forward(self) -> FreezeWindow:
        if self.until <= self.since:
            raise ValueError("until comes after since")
        return self


BUILT_IN = ("digest", "environment")
"""Variables that every plan has."""


# ---------------------------------------------------------------------- rules


def deeds(plan: Plan) -> Iterator[Deed]:
    """Everything that a plan may have done."""
    for step in [*plan.steps(), *plan.closing]:
        yield step
        if step.back is not None:
            yield step.back


def filled(plan: Plan, values: Mapping[str, str], *, digest: str, environment: str) -> Plan:
    """The plan with its variables in their places, each within the word it stands in.

    Raises :class:`InvalidRequest` for a variable that is unknown, missing or not of the form of a value.
    """
    if unknown := sorted(set(values) - set(plan.variables)):
        raise InvalidRequest(f"The plan has no variable {', '.join(unknown)}.")
    given = {**plan.variables, **values}
    if missing := sorted(name for name, value in given.items() if value is None):
        raise InvalidRequest(f"Say what {', '.join(missing)} is.", missing=missing)
    known = {**{name: str(value) for name, value in given.items()}, "digest": digest, "environment": environment}
    if bad := sorted(name for name, value in known.items() if re.fullmatch(VALUE_PATTERN[1:-1], value) is None):
        raise InvalidRequest(f"The value of {', '.join(bad)} has a form that no value has.")
    spec = plan.model_dump(mode="json", exclude={"variables"})
    try:
        return Plan.model_validate(_filled(spec, known))
    except ValidationError as error:
        places = [".".join(map(str, each["loc"])) for each in error.errors(include_input=False)]
        raise InvalidRequest(f"With these values the plan does not hold: {', '.join(places[:5])}.") from None


def frozen(windows: Mapping[str, FreezeWindow], environment: str, change_class: str, now: datetime) -> str:
    """Why nothing goes out now; empty where nothing stands against it."""
    for name, window in windows.items():
        if (
            environment in window.environments
            and window.since <= now < window.until
            and change_class not in window.except_classes
        ):
            return f"{name} until {window.until:%Y-%m-%d %H:%M} UTC: {window.why}"
    return ""


def _filled(value: Any, known: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return _REFERENCE.sub(lambda found: known[found[1]], value)
    if isinstance(value, dict):
        return {name: _filled(each, known) for name, each in value.items()}
    return [_filled(each, known) for each in value] if isinstance(value, list) else value


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from _REFERENCE.findall(value)
    elif isinstance(value, dict):
        for each in value.values():
            yield from _references(each)
    elif isinstance(value, list):
        for each in value:
            yield from _references(each)


def _on_the_machine(plan: Plan) -> bool:
    """Whether something of it runs here, or reads files of this machine."""
    return any(
        deed.do.kind in ("command", "kubectl", "preflight", "book") or any(look.command for look in deed.verify)
        for deed in deeds(plan)
    )


def _check(book: Book) -> Iterable[str]:
    probes = book.of(PROBE)
    for name, plan in book.of(PLAN).items():
        place = f"RolloutPlan {name}"
        if book.zone != INSTALLATION_ZONE and _on_the_machine(plan):
            yield f"{place}: commands are for the zone {INSTALLATION_ZONE} alone"
        named = {trigger.probe for gate in plan.gates() for trigger in gate.triggers}
        named |= {look.probe for deed in deeds(plan) for look in deed.verify}
        named |= {getattr(deed.do, "probe", None) for deed in deeds(plan)}
        for probe in sorted(each for each in named if each is not None and each not in probes):
            yield f"{place}: there is no Probe {probe}"


PLAN: Kind[Plan] = Kind(
    # what a plan may run, and who must sign it, is never one person's to say
    "RolloutPlan",
    Plan,
    check=_check,
    two_persons=lambda before, after: True,
)
FREEZE: Kind[FreezeWindow] = Kind(
    # to freeze narrows; to lift or shorten it does not
    "FreezeWindow",
    FreezeWindow,
    two_persons=lambda before, after: before is not None,
)
KINDS = (PLAN, FREEZE)
