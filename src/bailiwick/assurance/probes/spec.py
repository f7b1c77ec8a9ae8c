"""The kind of document that declares a probe: what is looked at, what is right, when, and who answers for it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Annotated, ClassVar, Literal

from croniter import croniter  # type: ignore[import-untyped]
from pydantic import Field, StringConstraints, model_validator

from bailiwick.assurance.book import Book, Kind
from bailiwick.assurance.durations import Duration, span
from bailiwick.assurance.probes.json_path import parse_path
from bailiwick.assurance.probes.reading import Limit
from bailiwick.assurance.thresholds import THRESHOLD, Comparison, Number, Threshold, Unit, convertible, loosened
from bailiwick.kernel.fields import Body, Line, Name, Text
from bailiwick.kernel.severity import Severity

INSTALLATION_ZONE = "default"
LONGEST = timedelta(minutes=5)

Url = Annotated[str, StringConstraints(pattern=r"^https?://[^\s\\#@]{1,2000}$")]
Host = Annotated[str, StringConstraints(pattern=r"^(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9:]([A-Za-z0-9.:-]{0,252}))$")]
Port = Annotated[int, Field(ge=1, le=65535)]
File = Annotated[str, StringConstraints(pattern=r"^/[^\x00-\x1f\x7f]{1,1000}$")]
HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{1,100}$")]
Phrase = Annotated[str, StringConstraints(min_length=1, max_length=500)]
Word = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=2000)]
JsonPath = Annotated[str, StringConstraints(pattern=r"^\$", max_length=300), Field(examples=["$.services.database"])]
Ports = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,5}(-[0-9]{1,5})?$")]


class _Check(Body):
    """What all looks have in common. ``_always_measures``: it has no answer but a number; ``_measures_in``: always in
    this unit."""

    _always_measures: ClassVar[bool] = False
    _measures_in: ClassVar[Unit | None] = None

    @property
    def asks(self) -> bool:
        """Whether it can answer without measuring anything."""
        return not self._always_measures

    @property
    def unit_measured(self) -> Unit | None:
        """The unit of what it measures; None: whatever it is held against."""
        return getattr(self, "unit", Unit.NONE) or self._measures_in


class HttpCheck(_Check):
    """Asks a web server. What it answers must have one of the statuses, the headers, the phrase and the JSON value."""

    type: Literal["http"]
    url: Url
    method: Literal["GET", "HEAD"] = "GET"
    send: dict[HeaderName, Line] = Field(default_factory=dict, max_length=20)
    status: Annotated[list[Annotated[int, Field(ge=100, le=599)]], Field(min_length=1, max_length=20)] = Field(
        default_factory=lambda: [200]
    )
    headers: dict[HeaderName, Line] = Field(default_factory=dict, max_length=20)
    phrase: Phrase | None = None
    json_path: JsonPath | None = None
    json_equals: str | float | bool | None = None
    follow: Annotated[int, Field(ge=0, le=5, description="How many redirects are followed")] = 0
    ca_file: File | None = None
    measure: Literal["time", "json", "nothing"] = "nothing"

    @model_validator(mode="after")
    def _whole(self) -> HttpCheck:
        if self.json_path is not None:
            parse_path(self.json_path)
        if self.json_path is None and (self.json_equals is not None or self.measure == "json"):
            raise ValueError("a JSON value needs json_path")
        return self

    @property
    def asks(self) -> bool:
        return self.measure == "nothing"

    @property
    def unit_measured(self) -> Unit | None:
        return Unit.MILLISECONDS if self.measure == "time" else None


class TlsCheck(_Check):
    """Makes a TLS handshake and measures the days until the certificate ends."""

    _always_measures: ClassVar[bool] = True
    _measures_in: ClassVar[Unit | None] = Unit.DAYS
    type: Literal["tls"]
    host: Host
    port: Port = 443
    names: Annotated[list[Host], Field(max_length=50)] = Field(default_factory=list)
    min_version: Literal["1.2", "1.3"] = "1.2"
    ca_file: File | None = None


class SqlCheck(_Check):
    """A query that answers one number or one boolean; our own database where no ``url_file`` names another.

    ``role``: as whom our own is asked; the two that only read see the views (`users`, `audit_logs` …) and no table.
    """

    type: Literal["sql"]
    query: Annotated[str, StringConstraints(min_length=1, max_length=8000, pattern=r"^[^\x00]*$")]
    url_file: File | None = None
    role: Literal["app", "readonly", "audit_readonly"] = "app"
    unit: Unit = Unit.NONE


class PrometheusCheck(_Check):
    """An instant query at a Prometheus. Several series need ``reduce`` to be one number."""

    _always_measures: ClassVar[bool] = True
    type: Literal["prometheus"]
    url: Url
    query: Annotated[str, StringConstraints(min_length=1, max_length=4000)]
    reduce: Literal["only", "max", "min", "sum"] = "only"
    unit: Unit = Unit.NONE
    ca_file: File | None = None


class CommandCheck(_Check):
    """Runs a program without a shell. Exit 0 is right, 3 nothing to judge, others wrong; or its output is a number."""

    type: Literal["command"]
    argv: Annotated[list[Word], Field(min_length=1, max_length=64)]
    measure: Literal["exit", "output"] = "exit"
    unit: Unit = Unit.NONE

    @property
    def asks(self) -> bool:
        return self.measure == "exit"


class FileAgeCheck(_Check):
    """The age of a file, of the newest where the last part of the path has ``*``."""

    _always_measures: ClassVar[bool] = True
    _measures_in: ClassVar[Unit | None] = Unit.SECONDS
    type: Literal["file_age"]
    path: File


class DnsCheck(_Check):
    """Asks a name server; measures how many answers there are. ``answers`` must all be among them."""

    _measures_in: ClassVar[Unit | None] = Unit.COUNT
    type: Literal["dns"]
    name: Host
    record: Literal["A", "AAAA", "CNAME", "TXT"] = "A"
    server: Host | None = None
    port: Port = 53
    answers: Annotated[list[Line], Field(max_length=20)] = Field(default_factory=list)


class PortScanCheck(_Check):
    """Tries ports of a host: those ``open`` must be, the others of ``ports`` must not. Measures how many are wrong."""

    _measures_in: ClassVar[Unit | None] = Unit.COUNT
    type: Literal["port_scan"]
    host: Host
    ports: Annotated[list[Ports], Field(min_length=1, max_length=50)]
    open: Annotated[list[Port], Field(max_length=200)] = Field(default_factory=list)

    @model_validator(mode="after")
    def _bounded(self) -> PortScanCheck:
        if not 1 <= len(self.numbers()) <= 2000:
            raise ValueError("a scan is of 1 to 2000 ports between 1 and 65535")
        return self

    def numbers(self) -> list[int]:
        """All ports to try."""
        found: set[int] = set(self.open)
        for part in self.ports:
            first, _, last = part.partition("-")
            low, high = int(first), int(last or first)
            if not 1 <= low <= high <= 65535:
                raise ValueError(f"{part} is no range of ports")
            found.update(range(low, high + 1))
        return sorted(found)


class LogPhraseCheck(_Check):
    """How many lines of a log within the probe's window hold a phrase. ``log`` names one of our parts."""

    _always_measures: ClassVar[bool] = True
    _measures_in: ClassVar[Unit | None] = Unit.COUNT
    type: Literal["log_phrase"]
    phrase: Phrase
    log: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,40}$")] | None = None
    path: File | None = None

    @model_validator(mode="after")
    def _one(self) -> LogPhraseCheck:
        if (self.log is None) == (self.path is None):
            raise ValueError("say either log, one of our own, or path")
        return self


class JsonPathCheck(_Check):
    """A value out of a JSON file or address: held against ``equals``, or measured."""

    type: Literal["json_path"]
    path: JsonPath
    file: File | None = None
    url: Url | None = None
    equals: str | float | bool | None = None
    unit: Unit = Unit.NONE
    ca_file: File | None = None

    @model_validator(mode="after")
    def _one(self) -> JsonPathCheck:
        if (self.file is None) == (self.url is None):
            raise ValueError("say either file or url")
        parse_path(self.path)
        return self


class InternalCheck(_Check):
    """Something of our own; see ``docs/how-to/probes.md`` for what there is."""

    type: Literal["internal"]
    what: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,60}$")]
    argument: Line = ""


Check = Annotated[
    HttpCheck
    | TlsCheck
    | SqlCheck
    | PrometheusCheck
    | CommandCheck
    | FileAgeCheck
    | DnsCheck
    | PortScanCheck
    | LogPhraseCheck
    | JsonPathCheck
    | InternalCheck,
    Field(discriminator="type"),
]
_ON_THE_MACHINE = frozenset({"command", "sql", "file_age", "internal", "report", "redis", "kubernetes"})
# not a certificate authority's (``ca_file``): nothing of it is told or sent
_FILES = frozenset({"file", "url_file", "token_file"})


def of_the_machine(check: Body) -> bool:
    """Whether a check runs something here or reads a file of this machine: for :data:`INSTALLATION_ZONE` alone."""
    if isinstance(check, LogPhraseCheck):
        return check.path is not None
    said = check.model_dump(exclude_none=True)
    return said["type"] in _ON_THE_MACHINE or not _FILES.isdisjoint(said)


class Expectation(Body):
    """A comparison of a probe's own, where the catalogue has no threshold."""

    comparison: Comparison
    value: Number
    unit: Unit = Unit.NONE


class Probe(Body):
    """A probe. ``every`` or ``cron`` says when; without either it runs when it is asked for."""

    summary: Line
    check: Check
    threshold: Name | None = None
    expect: Expectation | None = None
    every: Duration | None = None
    cron: Line | None = None
    grace: Duration = "5m"
    timeout: Duration = "10s"
    window: Duration | None = None
    owner: Line
    severity: Severity = Severity.P2
    runbook: Text = ""
    evidence_life: Duration = "1h"

    @model_validator(mode="after")
    def _coherent(self) -> Probe:
        if self.threshold is not None and self.expect is not None:
            raise ValueError("say either threshold or expect")
        if self.every is not None and self.cron is not None:
            raise ValueError("say either every or cron")
        if self.cron is not None and (len(self.cron.split()) != 5 or not croniter.is_valid(self.cron)):
            raise ValueError("cron has five fields")
        if self.threshold is None and self.expect is None and not self.check.asks:
            raise ValueError("what is measured needs threshold or expect")
        if span(self.timeout) > LONGEST:
            raise ValueError("timeout is at most 5m")
        if isinstance(self.check, LogPhraseCheck) and self.window is None:
            raise ValueError("a log is looked through within a window")
        if self.every is not None and span(self.every) < timedelta(seconds=5):
            raise ValueError("a probe runs every 5s at most")
        return self

    @property
    def schedule(self) -> timedelta | str | None:
        """When it is due, as the job runner takes it."""
        return self.cron or (span(self.every) if self.every is not None else None)


def limit_of(probe: Probe, thresholds: Mapping[str, Threshold]) -> Limit | None:
    """What the probe's value is held against. Raises :class:`LookupError` where the catalogue lacks it."""
    if probe.threshold is not None:
        found = thresholds[probe.threshold]
        return Limit(found.value, found.comparison, found.unit, probe.threshold)
    if probe.expect is not None:
        return Limit(probe.expect.value, probe.expect.comparison, probe.expect.unit)
    return None


def job_name(zone: str, probe: str) -> str:
    """What the job of a probe is called."""
    return f"probe:{probe}@{zone}"


def check_name(probe: str) -> str:
    """What evidence records call a probe."""
    return re.sub(r"[^a-z0-9._-]", "-", f"probe.{probe.lower()}")


def _problems(book: Book) -> Iterable[str]:
    thresholds = book.of(THRESHOLD)
    for name, probe in book.of(PROBE).items():
        place = f"Probe {name}"
        if book.zone != INSTALLATION_ZONE and of_the_machine(probe.check):
            yield f"{place}: {probe.check.type} is for the zone {INSTALLATION_ZONE} alone"
        try:
            limit = limit_of(probe, thresholds)
        except LookupError:
            yield f"{place}: there is no Threshold {probe.threshold!r}"
            continue
        measured = probe.check.unit_measured
        if limit is not None and measured is not None and not convertible(measured, limit.unit):
            yield f"{place}: it measures {measured}, and {limit.key or 'expect'} is in {limit.unit or 'no unit'}"


def _two_persons(before: Probe | None, after: Probe | None) -> bool:
    """Running programs, and other people's databases, takes two; so does letting go of what pages somebody."""
    if after is not None and isinstance(after.check, CommandCheck | SqlCheck) and after.check != _check(before):
        return True
    if before is None or before.severity not in (Severity.P0, Severity.P1):
        return False
    if after is None or after.severity > before.severity:
        return True
    if after.expect is not None and before.expect is not None:
        return loosened(_as_threshold(before.expect), _as_threshold(after.expect))
    return before.threshold != after.threshold or before.expect != after.expect


def _check(probe: Probe | None) -> _Check | None:
    return probe.check if probe is not None else None


def _as_threshold(expect: Expectation) -> Threshold:
    return Threshold(value=expect.value, unit=expect.unit, comparison=expect.comparison, meaning="", owner="")


PROBE = Kind("Probe", Probe, check=_problems, two_persons=_two_persons)
