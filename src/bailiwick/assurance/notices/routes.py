"""Routes: which alerts are told by which channels, and when."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from bailiwick.assurance.book import Book, Kind
from bailiwick.assurance.durations import DurationOrZero, span
from bailiwick.assurance.notices.channels import CHANNEL
from bailiwick.assurance.notices.hours import DAYS, Day, Hours
from bailiwick.kernel.fields import Body, Line, Name
from bailiwick.kernel.severity import Severity

LabelName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z_][a-zA-Z0-9_.-]{0,99}$", max_length=100)]
Clock24 = Annotated[str, StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]


class BusinessHours(Body):
    """``days`` from ``begin`` to ``end`` by the clocks of ``timezone``."""

    days: Annotated[list[Day], Field(min_length=1)] = Field(default_factory=lambda: list(DAYS[:5]))
    begin: Clock24 = "09:00"
    end: Clock24 = "17:00"
    timezone: Line = "UTC"

    @model_validator(mode="after")
    def _makes_sense(self) -> BusinessHours:
        self.hours()
        return self

    def hours(self) -> Hours:
        """As what computes with them. Raises :class:`ValueError`."""
        days = tuple(sorted({DAYS.index(day) for day in self.days}))
        return Hours(days, time.fromisoformat(self.begin), time.fromisoformat(self.end), self.timezone)


class RouteSpec(Body):
    """Alerts of ``severities`` (none: all) with ``labels`` go to ``channels``; every route that matches counts.

    Alerts that agree in ``group_by`` are gathered for ``group_wait`` before the first of a group is told, and for
    ``group_interval`` after. ``hours``: those of other times wait for the next business hour.
    """

    severities: list[Severity] = Field(default_factory=list)
    labels: Annotated[dict[LabelName, Line], Field(max_length=20)] = Field(default_factory=dict)
    channels: Annotated[list[Name], Field(min_length=1, max_length=10)]
    group_by: Annotated[list[LabelName], Field(max_length=10)] = Field(default_factory=list)
    group_wait: DurationOrZero = "30s"
    group_interval: DurationOrZero = "5m"
    hours: BusinessHours | None = None


def _check(book: Book) -> Iterable[str]:
    channels = book.of(CHANNEL)
    for name, spec in book.of(ROUTE).items():
        for channel in spec.channels:
            if channel not in channels:
                yield f"Route {name}: there is no channel {channel!r}"


ROUTE = Kind("Route", RouteSpec, check=_check)


@dataclass(frozen=True, slots=True)
class Way:
    """That an alert is told by ``channel``, of which route, with which others, and not before ``due_at``."""

    channel: str
    route: str
    group_key: str
    due_at: datetime


def ways(
    routes: Mapping[str, RouteSpec], severity: Severity, labels: Mapping[str, str], group: str, now: datetime
) -> list[Way]:
    """By which channels an alert is told, each once: the earliest of the routes that lead there."""
    found: dict[str, Way] = {}
    for name, route in routes.items():
        if not _matches(route, severity, labels):
            continue
        # the most urgent ones are told at once; they are gathered only with what fires in the same moment
        wait = timedelta(0) if severity is Severity.P0 else span(route.group_wait)
        due = now + wait
        if route.hours is not None:
            due = route.hours.hours().after(due, timedelta(0))
        together = "/".join(labels.get(label, "") for label in route.group_by) if route.group_by else group
        for channel in route.channels:
            way = Way(channel, name, f"{name}:{together}"[:500], due)
            if channel not in found or way.due_at < found[channel].due_at:
                found[channel] = way
    return [found[channel] for channel in sorted(found)]


def _matches(route: RouteSpec, severity: Severity, labels: Mapping[str, str]) -> bool:
    if route.severities and severity not in route.severities:
        return False
    return all(labels.get(name) == value for name, value in route.labels.items())


# ---------------------------------------------------------------------- matchers, as Alertmanager has them

MATCHER_PATTERN = r"^[a-zA-Z_][a-zA-Z0-9_.-]{0,99}(=~|!~|!=|=)[^\x00-\x1f]{0,200}$"
_MATCHER = re.compile(r"([a-zA-Z_][a-zA-Z0-9_.-]{0,99})(=~|!~|!=|=)([^\x00-\x1f]{0,200})")


@dataclass(frozen=True, slots=True)
class Matcher:
    """A condition on one label: ``=``, ``!=``, ``=~`` and ``!~``; the latter two by shell patterns."""

    name: str
    operator: str
    value: str

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether ``labels`` meet it; a label that is not there is empty."""
        found = labels.get(self.name, "")
        if self.operator in ("=", "!="):
            return (found == self.value) == (self.operator == "=")
        return any(_like(found, each) for each in self.value.split("|")) == (self.operator == "=~")


def read_matcher(text: str) -> Matcher:
    """``severity=P2``, ``service=~pay*|card*``. Raises :class:`ValueError`."""
    found = _MATCHER.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no matcher such as service=payments")
    return Matcher(found[1], found[2], found[3])


def all_hold(matchers: Sequence[Matcher], labels: Mapping[str, str]) -> bool:
    """Whether ``labels`` meet every one."""
    return all(each.holds(labels) for each in matchers)


def _like(text: str, pattern: str) -> bool:
    """Shell patterns of ``*`` alone: an expression of people's making cannot take for ever."""
    first, *rest = pattern.split("*")
    if not rest:
        return text == first
    if not text.startswith(first):
        return False
    place = len(first)
    for part in rest[:-1]:
        at = text.find(part, place)
        if at < 0:
            return False
        place = at + len(part)
    return len(text) >= place + len(rest[-1]) and text.endswith(rest[-1])
