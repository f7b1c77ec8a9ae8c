"""OpenSLO v1: the documents by which service levels are promised, and what of the format is understood.

``kind: SLO`` with its indicator inside, ``kind: DataSource``. What the format leaves to the vendor (``metricSource``)
is where our own sources stand; what it has no place for (who answers for it) is in ``spec.bailiwick``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from bailiwick.assurance.book import Book, Kind
from bailiwick.assurance.slo.windows import Window, fixed
from bailiwick.kernel.fields import Body, Line, Name, Text
from bailiwick.kernel.severity import Severity

OPENSLO = "openslo/v1"
LONGEST_WINDOW = timedelta(days=93)
"""The longest window: what is counted is kept for longer than that, so no window outlives its data."""

Camel = Annotated[str, StringConstraints(max_length=40)]
Label = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]{0,63}$")]
Query = Annotated[str, StringConstraints(min_length=1, max_length=4000, pattern=r"^[^\x00]*$")]
Code = Annotated[str, StringConstraints(pattern=r"^BW[0-9]{4}$")]


class Part(Body):
    """A part of an OpenSLO document: unknown members are refused, since one misspelt would silently do nothing."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, populate_by_name=True)


class Metadata(Part):
    """Name and texts of an inline object."""

    name: Name
    display_name: Line = Field("", alias="displayName")
    labels: dict[str, Any] = Field(default_factory=dict, max_length=20)
    annotations: dict[str, str] = Field(default_factory=dict, max_length=20)


class LedgerSpec(Part):
    """Events of the ledger: of these codes, with one of these outcomes, at one of these servers. Empty means any."""

    codes: Annotated[list[Code], Field(max_length=50)] = Field(default_factory=list)
    outcomes: Annotated[list[Literal["success", "failure", "allow", "deny", "error"]], Field(max_length=5)] = Field(
        default_factory=list
    )
    servers: Annotated[list[Name], Field(max_length=50)] = Field(default_factory=list)


class RequestsSpec(Part):
    """Requests of our own API out of the access log. ``status_below`` and ``faster_than_ms`` are exclusive bounds."""

    methods: Annotated[list[Literal["GET", "POST", "PUT", "PATCH", "DELETE"]], Field(max_length=5)] = Field(
        default_factory=list
    )
    routes: Annotated[list[Annotated[str, StringConstraints(max_length=300)]], Field(max_length=50)] = Field(
        default_factory=list
    )
    status_below: Annotated[int, Field(ge=100, le=600)] | None = None
    faster_than_ms: Annotated[float, Field(gt=0, le=600_000)] | None = None


class MetricSpec(Part):
    """One of our own metrics: the sum of a counter's or gauge's series with these labels, or with ``le`` the count of
    a histogram's observations up to that edge (``+Inf``: of all)."""

    metric: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z_:][a-zA-Z0-9_:]{0,99}$")]
    labels: Annotated[dict[Label, Annotated[str, StringConstraints(max_length=200)]], Field(max_length=10)] = Field(
        default_factory=dict
    )
    le: Annotated[str, StringConstraints(pattern=r"^(\+Inf|[0-9]+(\.[0-9]+)?)$")] = ""


class PrometheusSpec(Part):
    """A query that answers one series: how many there were in each minute."""

    query: Query


class SqlSpec(Part):
    """A SELECT with ``:since`` and ``:until`` (instants) that answers rows of ``minute`` and ``count``."""

    query: Query

    @model_validator(mode="after")
    def _reads(self) -> SqlSpec:
        check_select(self.query)
        return self


class SupportSpec(Part):
    """Support cases by when they were due: the good are those done in time."""

    of: Literal["critical-fix", "l3"] = Field(alias="class")
    in_time: bool = False


Type = Literal["Prometheus", "SQL", "bailiwick/ledger", "bailiwick/requests", "bailiwick/metric", "bailiwick/support"]
SPECS: dict[str, type[Part]] = {
    "Prometheus": PrometheusSpec,
    "SQL": SqlSpec,
    "bailiwick/ledger": LedgerSpec,
    "bailiwick/requests": RequestsSpec,
    "bailiwick/metric": MetricSpec,
    "bailiwick/support": SupportSpec,
}


class MetricSource(Part):
    """Where one number comes from. ``metricSourceRef`` names a DataSource; without one it is this installation."""

    type: Type
    ref: Name | None = Field(None, alias="metricSourceRef")
    spec: dict[str, Any] = Field(max_length=20)

    @model_validator(mode="after")
    def _known(self) -> MetricSource:
        SPECS[self.type].model_validate(self.spec)
        if self.type == "Prometheus" and self.ref is None:
            raise ValueError("a Prometheus source needs metricSourceRef")
        if self.type.startswith("bailiwick/") and self.ref is not None:
            raise ValueError("our own sources have no metricSourceRef")
        return self

    def typed(self) -> Any:
        """The spec as the model of its type."""
        return SPECS[self.type].model_validate(self.spec)


class Metric(Part):
    """A metric is its source."""

    source: MetricSource = Field(alias="metricSource")


class RatioMetric(Part):
    """Good or bad, and all. ``counter`` says that values only grow; for our own sources it has no meaning."""

    counter: bool = True
    good: Metric | None = None
    bad: Metric | None = None
    total: Metric

    @model_validator(mode="after")
    def _one(self) -> RatioMetric:
        if (self.good is None) == (self.bad is None):
            raise ValueError("a ratio has either good or bad beside total")
        part = self.good or self.bad
        if part is not None and (part.source.type, part.source.ref) != (self.total.source.type, self.total.source.ref):
            raise ValueError("both numbers of a ratio come from one source, or they would not be of the same moment")
        return self


class IndicatorSpec(Part):
    """A ratio, or a value that is held against a threshold each minute."""

    description: Text = ""
    ratio: RatioMetric | None = Field(None, alias="ratioMetric")
    threshold: Metric | None = Field(None, alias="thresholdMetric")

    @model_validator(mode="after")
    def _one(self) -> IndicatorSpec:
        if (self.ratio is None) == (self.threshold is None):
            raise ValueError("an indicator has either ratioMetric or thresholdMetric")
        if self.threshold is not None and self.threshold.source.type not in ("Prometheus", "bailiwick/metric"):
            raise ValueError("a threshold is held against Prometheus or bailiwick/metric")
        return self


class Indicator(Part):
    """An inline SLI."""

    metadata: Metadata
    spec: IndicatorSpec


class Calendar(Part):
    """The first beginning of a calendar window, local time, as OpenSLO writes it: ``2026-01-01 00:00:00``."""

    start_time: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}$")] = Field(
        alias="startTime"
    )
    time_zone: Annotated[str, StringConstraints(max_length=64)] = Field("UTC", alias="timeZone")


class TimeWindow(Part):
    """How long a budget lasts."""

    duration: Camel
    rolling: bool = Field(True, alias="isRolling")
    calendar: Calendar | None = None

    @model_validator(mode="after")
    def _known(self) -> TimeWindow:
        if self.rolling == (self.calendar is not None):
            raise ValueError("a window either is rolling or has a calendar")
        if self.window().length() > LONGEST_WINDOW:
            raise ValueError(f"a window is {LONGEST_WINDOW.days} days long at most")
        if self.calendar is not None:
            try:
                ZoneInfo(self.calendar.time_zone)
            except (ZoneInfoNotFoundError, ValueError):
                raise ValueError("there is no such time zone") from None
        elif fixed(self.duration) < timedelta(days=1):
            raise ValueError("a window is a day long at least")
        return self

    def window(self) -> Window:
        """The same, to reckon with. Raises ValueError for what is none."""
        if re.fullmatch(r"[1-9][0-9]{0,3}[mhdwMQY]", self.duration) is None:
            raise ValueError(f"{self.duration!r} is no duration")
        if self.calendar is None:
            fixed(self.duration)
            return Window(self.duration, True)
        start = datetime.fromisoformat(self.calendar.start_time)
        return Window(self.duration, False, start, self.calendar.time_zone)


class Objective(Part):
    """The share that has to be good. ``op`` and ``value`` go with a threshold; the slices with Timeslices."""

    display_name: Line = Field("", alias="displayName")
    target: Annotated[float, Field(gt=0, lt=1)] | None = None
    target_percent: Annotated[float, Field(gt=0, lt=100)] | None = Field(None, alias="targetPercent")
    op: Literal["lte", "gte", "lt", "gt"] | None = None
    value: float | None = None
    slice_target: Annotated[float, Field(gt=0, le=1)] | None = Field(None, alias="timeSliceTarget")
    slice_window: Camel | None = Field(None, alias="timeSliceWindow")

    @model_validator(mode="after")
    def _whole(self) -> Objective:
        if (self.target is None) == (self.target_percent is None):
            raise ValueError("an objective has either target or targetPercent; one of 100 % leaves nothing to manage")
        if (self.op is None) != (self.value is None):
            raise ValueError("op and value go together")
        if self.slice_window is not None and not timedelta(minutes=1) <= fixed(self.slice_window) <= timedelta(hours=1):
            raise ValueError("a slice lasts between a minute and an hour")
        return self

    @property
    def share(self) -> float:
        """The target between 0 and 1."""
        return self.target if self.target is not None else round((self.target_percent or 0) / 100, 12)


class Condition(Part):
    """When an alert is raised: the budget burns ``threshold`` times as fast as it may, over ``lookbackWindow`` and
    over the short window ``alertAfter``."""

    kind: Literal["burnrate"]
    op: Literal["gte"] = "gte"
    threshold: Annotated[float, Field(gt=0, le=1000)]
    lookback: Camel = Field(alias="lookbackWindow")
    after: Camel = Field(alias="alertAfter")

    @model_validator(mode="after")
    def _shorter(self) -> Condition:
        if not timedelta(0) < fixed(self.after) < fixed(self.lookback) <= timedelta(days=7):
            raise ValueError("alertAfter is shorter than lookbackWindow, and that a week at most")
        return self


class ConditionSpec(Part):
    """A condition and how urgent it is: P0 to P3, or OpenSLO's usual ``page`` (P1) and ``ticket`` (P3)."""

    description: Text = ""
    severity: Literal["P0", "P1", "P2", "P3", "page", "ticket"]
    condition: Condition


class AlertCondition(Part):
    """An inline AlertCondition."""

    kind: Literal["AlertCondition"]
    metadata: Metadata
    spec: ConditionSpec


class PolicySpec(Part):
    """What raises an alert. Whom it reaches is the alerts' own business, by severity and owner."""

    description: Text = ""
    no_data: bool = Field(False, alias="alertWhenNoData")
    breaching: bool = Field(True, alias="alertWhenBreaching")
    resolved: bool = Field(False, alias="alertWhenResolved")
    conditions: Annotated[list[AlertCondition], Field(min_length=1, max_length=10)]


class AlertPolicy(Part):
    """An inline AlertPolicy."""

    kind: Literal["AlertPolicy"]
    metadata: Metadata
    spec: PolicySpec


class Ours(Part):
    """What OpenSLO has no place for. ``owner``: the activity of the RACI; ``least_events``: fewer are not judged;
    ``gates``: the actions that an exhausted budget stops; ``settle``: how late events may be to be counted at once."""

    owner: Line = "service-levels"
    runbook: Line = "docs/how-to/service-levels.md"
    least_events: Annotated[int, Field(ge=0, le=1_000_000_000)] = Field(1, alias="leastEvents")
    least_burn_events: Annotated[int, Field(ge=1, le=1_000_000)] = Field(10, alias="leastBurnEvents")
    stale_after: Camel = Field("15m", alias="staleAfter")
    settle: Camel = "2m"
    gates: Annotated[list[Name], Field(max_length=10)] = Field(default_factory=lambda: ["deploy"])

    @model_validator(mode="after")
    def _known(self) -> Ours:
        if fixed(self.stale_after) <= fixed(self.settle):
            raise ValueError("staleAfter is longer than settle")
        return self


class SloSpec(Part):
    """``spec`` of an OpenSLO SLO, as far as it is understood: one indicator, one window, one objective."""

    description: Text = ""
    service: Name
    indicator: Indicator
    windows: Annotated[list[TimeWindow], Field(min_length=1, max_length=1)] = Field(alias="timeWindow")
    method: Literal["Occurrences", "Timeslices"] = Field(alias="budgetingMethod")
    objectives: Annotated[list[Objective], Field(min_length=1, max_length=1)]
    policies: Annotated[list[AlertPolicy], Field(max_length=5)] = Field(default_factory=list, alias="alertPolicies")
    ours: Ours = Field(default_factory=lambda: Ours.model_validate({}), alias="bailiwick")

    @model_validator(mode="after")
    def _together(self) -> SloSpec:
        objective = self.objectives[0]
        if (self.indicator.spec.threshold is not None) != (objective.op is not None):
            raise ValueError("op and value are for a thresholdMetric, which needs them")
        sliced = objective.slice_target is not None and objective.slice_window is not None
        if (self.method == "Timeslices") != sliced:
            raise ValueError("timeSliceTarget and timeSliceWindow are for Timeslices, which needs them")
        return self

    @property
    def objective(self) -> Objective:
        """The one objective."""
        return self.objectives[0]

    @property
    def window(self) -> Window:
        """The one window."""
        return self.windows[0].window()

    def sources(self) -> Iterator[MetricSource]:
        """Every source it counts from."""
        ratio, threshold = self.indicator.spec.ratio, self.indicator.spec.threshold
        for metric in (ratio.good, ratio.bad, ratio.total) if ratio else (threshold,):
            if metric is not None:
                yield metric.source


class Connection(Part):
    """``url`` of a Prometheus, or a libpq address of a PostgreSQL without a password (``passfile=`` names one)."""

    url: Annotated[
        str, StringConstraints(pattern=r"^(https?|postgresql)://[^\s\x00@]*(@[^\s\x00@]*)?$", max_length=500)
    ]


class DataSourceSpec(Part):
    """``spec`` of an OpenSLO DataSource."""

    description: Text = ""
    type: Literal["Prometheus", "PostgreSQL"]
    connection: Connection = Field(alias="connectionDetails")

    @model_validator(mode="after")
    def _fits(self) -> DataSourceSpec:
        if (self.type == "PostgreSQL") != self.connection.url.startswith("postgresql:"):
            raise ValueError("the address is of another type")
        if re.match(r"postgresql://[^/@]*:[^/@]*@", self.connection.url) or "password=" in self.connection.url:
            raise ValueError("a password does not belong into a document; name a passfile")
        return self


def check_select(query: str) -> None:
    """Raises ValueError for a query that is not one SELECT."""
    if not re.match(r"\s*(SELECT|WITH)\b", query, re.I) or ";" in query:
        raise ValueError("the query is one SELECT, without a semicolon")
    if ":since" not in query or ":until" not in query:
        raise ValueError("the query names :since and :until, so that it is of one window")


def burns_of(spec: SloSpec) -> list[tuple[Severity, float, timedelta, timedelta]]:
    """Severity, factor, long and short window of the policies' conditions; empty where it has none of its own."""
    named = {"page": Severity.P1, "ticket": Severity.P3}
    found = []
    for policy in spec.policies:
        for each in policy.spec.conditions:
            condition = each.spec.condition
            severity = named.get(each.spec.severity) or Severity(each.spec.severity)
            found.append((severity, condition.threshold, fixed(condition.lookback), fixed(condition.after)))
    return found


def _check_sources(book: Book) -> Iterator[str]:
    sources = book.of(DATA_SOURCE)
    wanted = {"Prometheus": "Prometheus", "SQL": "PostgreSQL"}
    for name, slo in book.of(SLO).items():
        for source in slo.sources():
            if source.ref is None:
                continue
            if source.ref not in sources:
                yield f"SLO {name}: there is no DataSource {source.ref!r}"
            elif sources[source.ref].type != wanted[source.type]:
                yield f"SLO {name}: DataSource {source.ref!r} is of type {sources[source.ref].type}"


DATA_SOURCE = Kind("DataSource", DataSourceSpec, api_versions=(OPENSLO,))
SLO = Kind("SLO", SloSpec, check=_check_sources, api_versions=(OPENSLO,))
