"""The documents by which an environment is watched after it went live: what it is, what is measured of it and when."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationError, model_validator

from bailiwick.assurance.book import Book, Kind
from bailiwick.assurance.durations import Duration, DurationOrZero, span
from bailiwick.assurance.probes.reading import Limit
from bailiwick.assurance.probes.spec import (
    INSTALLATION_ZONE,
    Expectation,
    Probe,
    limit_of,
    of_the_machine,
)
from bailiwick.assurance.thresholds import THRESHOLD, Threshold
from bailiwick.kernel.fields import Body, Line, Name

Profile = Literal["single", "cluster"]
Value = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f'\"\\]{1,300}$")]

_PLACE = re.compile(r"\$\{([a-z][a-z0-9_]{0,40})\}")
_OURS = ("zone", "environment", "live_at", "digest")
"""What a check may name beside the values of its environment."""


class MissingValue(ValueError):
    """A check names a value that its environment does not say."""


class EnvironmentSpec(Body):
    """Where a platform runs. ``platform``: whose go-live the checkpoints count from, where the purpose is production.

    ``has``: what is there beside the program itself (``redis``, ``prometheus``, ``kubernetes``, ``load-balancer``,
    ``ldap``); checks that need something else are listed and never green, and do not count. ``values``: what checks
    name as ``${api}``, ``${prometheus}``, ``${pods}``. ``owner``: an activity of the RACI.
    """

    title: Annotated[Line, Field(min_length=1)]
    platform: Name = "default"
    purpose: Literal["production", "staging", "test", "recovery"]
    profile: Profile = "single"
    has: list[Name] = Field(default_factory=list, max_length=20)
    values: dict[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,40}$")], Value] = Field(
        default_factory=dict, max_length=40
    )
    owner: Annotated[Line, Field(min_length=1)] = "uptime"
    hypercare: Name = "standard"
    suites: list[Name] = Field(default_factory=list, max_length=20)


class WatchedCheck(Body):
    """One thing that is measured: a probe's check, in which ``${name}`` stands for a value of the environment.

    Exactly one of ``threshold`` and ``expect`` where it measures a number. ``needs``: what the environment must have,
    and ``profile`` what it must be, for it to count. ``source``: where it comes from.
    """

    name: Name
    title: Annotated[Line, Field(min_length=1)]
    check: dict[str, Any]
    threshold: Name | None = None
    expect: Expectation | None = None
    window: Duration | None = None
    timeout: Duration = "10s"
    profile: Literal["any", "single", "cluster"] = "any"
    needs: Name | None = None
    source: Line = ""

    @model_validator(mode="after")
    def _whole(self) -> WatchedCheck:
        try:
            self.probe(_Anything())
        except ValidationError as error:
            raise ValueError("; ".join(each["msg"] for each in error.errors(include_input=False))) from None
        return self

    def probe(self, values: Mapping[str, str]) -> Probe:
        """The probe that measures it. Raises :class:`MissingValue`, :class:`pydantic.ValidationError`."""
        return Probe.model_validate(
            {
                "summary": self.title,
                "check": filled(self.check, values),
                "threshold": self.threshold,
                "expect": self.expect.model_dump() if self.expect is not None else None,
                "window": self.window,
                "timeout": self.timeout,
                "owner": "uptime",
            }
        )

    def limit(self, probe: Probe, thresholds: Mapping[str, Threshold]) -> Limit | None:
        """What it is held against. Raises :class:`LookupError`."""
        return limit_of(probe, thresholds)

    def outside(self, environment: EnvironmentSpec) -> str:
        """Why it does not count there; empty where it does."""
        if self.profile not in ("any", environment.profile):
            return f"is for the profile {self.profile}"
        if self.needs is not None and self.needs not in environment.has:
            return f"needs {self.needs}, which the environment does not have"
        return ""


Checks = Annotated[list[WatchedCheck], Field(min_length=1, max_length=60)]


class ValidationSuite(Body):
    """What is validated between ``opens`` and ``closes`` after going live.

    Nothing is reported before it opens. While it is open and not green it is measured again every ``again``; once it
    closed without a report it has failed.
    """

    title: Annotated[Line, Field(min_length=1)]
    opens: DurationOrZero
    closes: Duration
    again: Duration = "15m"
    owner: Annotated[Line, Field(min_length=1)] = "uptime"
    runbook: Line = "docs/how-to/validation-and-hypercare.md#a-validation-is-not-green"
    checks: Checks

    @model_validator(mode="after")
    def _whole(self) -> ValidationSuite:
        if span(self.closes) <= span(self.opens):
            raise ValueError("a suite closes after it opens")
        _one_each(self.checks)
        return self


class Band(Body):
    """How often somebody would look, until so long after going live."""

    until: Duration
    every: Duration


class HypercarePlan(Body):
    """The watch after going live: slots by bands, each filled by measuring ``checks`` within ``grace`` of its instant.

    A P0 or P1 makes it last at least ``calm`` from when that was opened, in the cadence of the last band.
    """

    title: Annotated[Line, Field(min_length=1)]
    bands: Annotated[list[Band], Field(min_length=1, max_length=10)]
    grace: Duration = "15m"
    calm: Duration = "24h"
    owner: Annotated[Line, Field(min_length=1)] = "uptime"
    runbook: Line = "docs/how-to/validation-and-hypercare.md#a-slot-of-hypercare-is-not-green"
    checks: Checks

    @model_validator(mode="after")
    def _whole(self) -> HypercarePlan:
        ends = [span(band.until) for band in self.bands]
        if ends != sorted(set(ends)):
            raise ValueError("each band ends later than the one before")
        if span(self.grace) >= min(span(band.every) for band in self.bands):
            raise ValueError("the grace of a slot is shorter than the time to the next")
        if sum(span(band.until) // span(band.every) for band in self.bands) > 1000:
            raise ValueError("these are more than a thousand slots")
        _one_each(self.checks)
        return self

    @property
    def lasts(self) -> timedelta:
        """How long it lasts when nothing happens."""
        return span(self.bands[-1].until)


def filled(check: Mapping[str, Any], values: Mapping[str, str]) -> dict[str, Any]:
    """``check`` with the values in place of their names. Raises :class:`MissingValue`."""
    return {name: _filled(each, values) for name, each in check.items()}


def _filled(value: Any, values: Mapping[str, str]) -> Any:
    if isinstance(value, str):

        def put(found: re.Match[str]) -> str:
            try:
                return values[found[1]]
            except KeyError:
                raise MissingValue(f"the environment says no value {found[1]!r}") from None

        return _PLACE.sub(put, value)
    if isinstance(value, list):
        return [_filled(each, values) for each in value]
    if isinstance(value, Mapping):
        return {name: _filled(each, values) for name, each in value.items()}
    return value


class _Anything(dict[str, str]):
    """Values by which a check is read before there is an environment."""

    def __missing__(self, name: str) -> str:
        return "2026-01-01T00:00:00+00:00" if name in _OURS else "https://value.invalid"


def _one_each(checks: Iterable[WatchedCheck]) -> None:
    names = [check.name for check in checks]
    if len(set(names)) != len(names):
        raise ValueError("two checks have one name")


def _problems(book: Book) -> Iterable[str]:
    thresholds, plans, suites = book.of(THRESHOLD), book.of(HYPERCARE_PLAN), book.of(VALIDATION_SUITE)
    for kind, documents in (("ValidationSuite", suites), ("HypercarePlan", plans)):
        for name, each in documents.items():
            for check in each.checks:
                place = f"{kind} {name}: {check.name}"
                probe = check.probe(_Anything())
                if book.zone != INSTALLATION_ZONE and of_the_machine(probe.check):
                    yield f"{place}: {probe.check.type} is for the zone {INSTALLATION_ZONE} alone"
                if check.threshold is not None and check.threshold not in thresholds:
                    yield f"{place}: there is no Threshold {check.threshold!r}"
    for name, environment in book.of(ENVIRONMENT).items():
        if environment.hypercare not in plans:
            yield f"Environment {name}: there is no HypercarePlan {environment.hypercare!r}"
        for suite in environment.suites:
            if suite not in suites:
                yield f"Environment {name}: there is no ValidationSuite {suite!r}"


def _environment_takes_two(before: EnvironmentSpec | None, after: EnvironmentSpec | None) -> bool:
    """What makes checks count no longer, or look elsewhere, takes two: its profile and purpose, what it has, its suites
    and plan, its values, or its end. To say what was not said takes one."""
    if before is None:
        return False
    if after is None:
        return True
    return (
        (before.profile, before.platform, before.hypercare, before.purpose)
        != (after.profile, after.platform, after.hypercare, after.purpose)
        or any(after.values.get(name) != value for name, value in before.values.items())
        or not set(before.has) <= set(after.has)
        or not set(before.suites) <= set(after.suites)
    )


def _changed(before: Body | None, after: Body | None) -> bool:
    """What others are judged by is changed by two; so are programs and queries that are run."""
    return before is not None or (after is not None and _runs_code(after))


def _runs_code(spec: Any) -> bool:
    return any(check.check.get("type") in ("command", "sql") for check in spec.checks)


ENVIRONMENT = Kind("Environment", EnvironmentSpec, check=_problems, two_persons=_environment_takes_two)
VALIDATION_SUITE = Kind("ValidationSuite", ValidationSuite, two_persons=_changed)
HYPERCARE_PLAN = Kind("HypercarePlan", HypercarePlan, two_persons=_changed)
KINDS: tuple[Kind[Any], ...] = (ENVIRONMENT, VALIDATION_SUITE, HYPERCARE_PLAN)
