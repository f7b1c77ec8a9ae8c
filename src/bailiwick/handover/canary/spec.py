"""``CanaryPlan``: in which steps a candidate gets traffic, and by what it is judged. ``AccessCanary``: see there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from bailiwick.assurance.book import Book, Kind
from bailiwick.assurance.durations import Duration
from bailiwick.handover.canary.judge import MIN_POINTS, Metric, MetricName, Rules
from bailiwick.kernel.fields import Body, Line, Name
from bailiwick.kernel.severity import Severity

POINT_S = 10.0
"""How long a point is. A plan with shorter ones is for trying: what it finds counts in development mode only."""

Share = Annotated[float, Field(ge=0, le=1)]
Percent = Annotated[int, Field(ge=1, le=100)]


class MetricSpec(Body):
    """What is tolerable of one metric. Shares are from 0 to 1, latencies in milliseconds.

    ``tolerance``: by what part the candidate may be above the baseline; ``slack``: by how much beside that. ``veto``:
    a single bucket above it ends the canary. ``floor``: what the service promises.
    """

    metric: MetricName
    tolerance: Annotated[float, Field(ge=0, le=1)] = 0.0
    slack: Annotated[float, Field(ge=0, le=60_000)] = 0.0
    veto: Annotated[float, Field(gt=0, le=600_000)] | None = None
    floor: Annotated[float, Field(gt=0, le=600_000)] | None = None

    @model_validator(mode="after")
    def _can_be_shown(self) -> MetricSpec:
        if not self.tolerance and not self.slack:
            raise ValueError("with neither tolerance nor slack nothing could be shown to be tolerable")
        return self


class Decisions(Body):
    """What is tolerable of the gateway's decisions about the server, compared with as long before the canary: by how
    much the share of denials may grow."""

    more_denied: Share = 0.1


class CanaryPlan(Body):
    """How a candidate is brought in. ``steps``: its percentages, the last of them 100; up to 50 the baseline gets as
    much, above it what is left. A phase is judged once both have ``points``, and anew with every ten more until
    ``most_points``; what is unclear then is no pass. ``patience``: how many buckets a phase may take.
    """

    servers: list[Name] = Field(default_factory=list, max_length=200, description="none: any server")
    steps: list[Percent] = Field(default_factory=lambda: [5, 25, 50, 100], min_length=2, max_length=20)
    metrics: list[MetricSpec] = Field(min_length=1, max_length=5)
    decisions: Decisions = Decisions()
    points: Annotated[int, Field(ge=MIN_POINTS, le=1000)] = MIN_POINTS
    most_points: Annotated[int, Field(ge=MIN_POINTS, le=3000)] = 3 * MIN_POINTS
    patience: Annotated[int, Field(ge=MIN_POINTS, le=100_000)] = 360
    bucket_s: Annotated[float, Field(ge=0.1, le=POINT_S)] = POINT_S
    alpha: Annotated[float, Field(gt=0, le=0.05)] = 0.01
    proof: Annotated[float, Field(gt=0, le=0.05)] = 0.05
    effect: Annotated[float, Field(ge=0.5, le=0.71)] = 0.64
    automatic: bool = True
    owner: Annotated[Line, Field(min_length=1)]
    severity: Severity = Severity.P2

    @model_validator(mode="after")
    def _sensible(self) -> CanaryPlan:
        if self.steps != sorted(set(self.steps)) or self.steps[-1] != 100:
            raise ValueError("the steps grow, and the last of them is 100")
        names = [each.metric for each in self.metrics]
        if len(set(names)) != len(names):
            raise ValueError("a metric is given twice")
        errors = next((each for each in self.metrics if each.metric == "errors"), None)
        if errors is None or errors.veto is None or errors.floor is None:
            # a few errors in many buckets hardly move their ranks: it is the floor that finds them
            raise ValueError("errors are always compared, and have a veto and a floor")
        if self.most_points < self.points or self.patience < self.most_points:
            raise ValueError("each of points, most_points and patience is at least the one before")
        return self

    @property
    def rules(self) -> Rules:
        """The same for the judge."""
        metrics = [Metric(each.metric, each.tolerance, each.slack, each.veto, each.floor) for each in self.metrics]
        return Rules(
            metrics,
            points=self.points,
            most_points=self.most_points,
            alpha=self.alpha,
            proof=self.proof,
            effect=self.effect,
        )

    def weights(self, percent: int) -> tuple[int, int]:
        """What baseline and candidate get when the candidate gets ``percent``."""
        return min(percent, 100 - percent), percent


def _looser(before: CanaryPlan | None, after: CanaryPlan | None) -> bool:
    """A plan that stands decides what may go live: to change or remove it takes two."""
    return before is not None and before != after


class AccessCanary(Body):
    """That the loop of access is walked of every policy set that is activated.

    ``every``: how often is looked for one that was not walked yet, beside at once; one that did not pass is walked
    again after ``again``. ``upstream_url``: what answers GET with 200, where our own listener on loopback may not be an
    upstream. An alert of ``known_severity`` tells that a known decision is another now, one of ``severity`` that the
    loop does not close.
    """

    every: Duration = "1m"
    again: Duration = "15m"
    upstream_url: Annotated[str, StringConstraints(pattern=r"^(https?://[!-~]{1,1990})?$")] = ""
    owner: Annotated[Line, Field(min_length=1)]
    severity: Severity = Severity.P2
    known_severity: Severity = Severity.P1


def _one_of_a_zone(book: Book) -> Iterable[str]:
    if len(names := list(book.of(ACCESS_CANARY))) > 1:
        yield f"AccessCanary: a zone has one, not {', '.join(sorted(names))}"


CANARY_PLAN = Kind("CanaryPlan", CanaryPlan, two_persons=_looser)
# who takes it away takes away who would tell of a bad policy
ACCESS_CANARY = Kind(
    "AccessCanary",
    AccessCanary,
    check=_one_of_a_zone,
    two_persons=lambda before, after: before is not None and before != after,
)
KINDS = (CANARY_PLAN, ACCESS_CANARY)
