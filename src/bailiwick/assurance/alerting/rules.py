"""Rules that this installation evaluates itself: a verdict of a probe, an expression over its metrics, or SQL.

Each rule is a job of its own; each evaluation leaves a row with its verdict. FAIL means that the condition holds.
Where there is nothing to judge by, an open alert stays as it is, and after a while an alert tells that the rule is
blind: neither of them is green.
"""

from __future__ import annotations

import asyncio
import json
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

import structlog
from pydantic import Field, StringConstraints, field_validator, model_validator
from sqlalchemy import text as sql_text
from sqlalchemy.exc import SQLAlchemyError

from bailiwick.assurance.alerting.alerts import AlertDesk, Opening
from bailiwick.assurance.alerting.expressions import BadExpression, Expression, Kept, exported, read, select
from bailiwick.assurance.book import Book, Kind
from bailiwick.assurance.durations import Duration, DurationOrZero, span, within
from bailiwick.assurance.notices.routes import LabelName
from bailiwick.assurance.ports import Raised, Verdicts
from bailiwick.evidence.events import Context
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.fields import Body, Line, Text
from bailiwick.kernel.jobs import JobDefinition
from bailiwick.kernel.redaction import redact_text
from bailiwick.kernel.severity import Severity
from bailiwick.kernel.verdicts import Verdict

log = structlog.get_logger(__name__)

BLIND_AFTER = 3
SQL_TIMEOUT_MS = 5000

Comparison = Literal[">", ">=", "<", "<=", "==", "!="]
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip


class Labels(Body):
    """What tells one alert from another; ``service`` or ``component``, and ``team``, have to be there."""

    service: Line = ""
    component: Line = ""
    team: Annotated[Line, Field(min_length=1)]
    more: Annotated[dict[LabelName, Line], Field(max_length=20)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _of_something(self) -> Labels:
        if not (self.service or self.component):
            raise ValueError("an alert names the service or the component it is about")
        return self

    def labels(self) -> dict[str, str]:
        """All of them."""
        own = {"service": self.service, "component": self.component, "team": self.team}
        return {**self.more, **{name: value for name, value in own.items() if value}}


class AlertRuleSpec(Body):
    """When an alert is opened: exactly one of ``probe``, ``metric`` and ``sql`` is the source.

    The condition is ``value compare threshold`` and has to last as long as ``for`` says and is looked at ``every`` so
    often. A probe needs neither value: every verdict of ``on`` is the condition. ``owner`` is an activity of the RACI.
    """

    probe: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$")] | None = None
    metric: Annotated[str, StringConstraints(max_length=1000)] | None = None
    sql: Annotated[str, StringConstraints(max_length=4000)] | None = None
    on: list[Verdict] = Field(default_factory=lambda: [Verdict.FAIL, Verdict.ERROR, Verdict.STALE])
    compare: Comparison = ">"
    threshold: float | None = None
    for_: Annotated[DurationOrZero, Field(alias="for")] = "0s"
    every: Duration = "1m"
    severity: Severity
    owner: Annotated[Line, Field(min_length=1)]
    runbook: Annotated[Line, Field(min_length=1)]
    summary: Annotated[Line, Field(min_length=1)]
    description: Annotated[Text, Field(min_length=1)]
    labels: Labels

    @field_validator("for_")
    @classmethod
    def _not_forever(cls, value: str) -> str:
        return within(value, "0s", "7d")

    @field_validator("every")
    @classmethod
    def _often(cls, value: str) -> str:
        return within(value, "5s", "1d")

    @field_validator("metric")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                read(value)
            except BadExpression as error:
                raise ValueError(str(error)) from None
        return value

    @field_validator("sql")
    @classmethod
    def _a_question(cls, value: str | None) -> str | None:
        if value is not None:
            first = value.split(None, 1)[0].lower() if value.strip() else ""
            if first not in ("select", "with") or ";" in value or "\x00" in value:
                raise ValueError("is one SELECT without a semicolon")
        return value

    @model_validator(mode="after")
    def _one_source(self) -> AlertRuleSpec:
        if sum(each is not None for each in (self.probe, self.metric, self.sql)) != 1:
            raise ValueError("a rule has exactly one of probe, metric and sql")
        if self.probe is None and (self.threshold is None or not math.isfinite(self.threshold)):
            raise ValueError("a rule over a metric or SQL has a threshold")
        if Verdict.PASS in self.on or Verdict.NO_DATA in self.on:
            raise ValueError("PASS is no trouble, and NO_DATA is told of by itself")
        return self


ALERT_RULE = Kind("AlertRule", AlertRuleSpec)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one evaluation found. FAIL: the condition holds."""

    verdict: Verdict
    value: float | None = None
    told: str = ""


# ---------------------------------------------------------------------- rules


def judge(value: float | None, compare: Comparison, threshold: float) -> Evaluation:
    """The verdict on a value; none and what is no number are NO_DATA."""
    if value is None or not math.isfinite(value):
        return Evaluation(Verdict.NO_DATA, None, "there is no value")
    holds = _COMPARE[compare](value, threshold)
    return Evaluation(Verdict.FAIL if holds else Verdict.PASS, value, f"{value:g} {compare} {threshold:g}")


def raised_of(name: str, spec: AlertRuleSpec, found: Evaluation) -> Raised:
    """The alert of a rule whose condition holds."""
    return Raised(
        f"rule/{name}",
        name,
        spec.severity,
        f"{spec.summary}: {found.told}" if found.told else spec.summary,
        spec.owner,
        spec.runbook,
        {**spec.labels.labels(), "alertname": name},
        {"summary": spec.summary, "description": spec.description, "runbook": spec.runbook},
    )


def blind_since(past: Sequence[tuple[datetime, Verdict]], every: timedelta) -> bool:
    """Whether the last evaluations, newest first, had nothing to judge by, as often as tells of a blind rule."""
    last = [verdict for _, verdict in past[:BLIND_AFTER]]
    return len(last) == BLIND_AFTER and all(verdict in (Verdict.NO_DATA, Verdict.ERROR) for verdict in last)


# ---------------------------------------------------------------------- service


class Evaluator:
    """Evaluates rules. ``export`` answers the metrics of all processes in Prometheus' text form."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        desk: AlertDesk,
        verdicts: Verdicts,
        export: Callable[[], bytes],
    ) -> None:
        self._database = database
        self._clock = clock
        self._desk = desk
        self._verdicts = verdicts
        self._export = export

    def jobs(self, zone: str, book: Book) -> Iterable[JobDefinition]:
        """A job a rule."""
        for name, spec in book.of(ALERT_RULE).items():
            document = book.documents[(ALERT_RULE.name, name)]
            yield JobDefinition(
                f"alerts:{name}@{zone}",
                span(spec.every),
                self._handler(zone, name, spec),
                grace=max(timedelta(minutes=1), 5 * span(spec.every)),
                timeout_s=60.0,
                since=document.applied_at,
            )

    def _handler(self, zone: str, name: str, spec: AlertRuleSpec) -> Callable[[datetime], Any]:
        async def evaluate(due: datetime) -> Mapping[str, Any]:
            found = await self.evaluate(zone, name, spec, due)
            return {"verdict": found.verdict, "value": found.value, "threshold": spec.threshold, "told": found.told}

        return evaluate

    async def evaluate(self, zone: str, name: str, spec: AlertRuleSpec, due: datetime) -> Evaluation:
        """Evaluate a rule, keep the row, and open, hold or clear its alert."""
        found = await self._find(zone, name, spec)
        context = Context(zone)
        async with self._database.begin() as tx:
            await self._keep(tx, zone, name, spec, due, found)
            if found.verdict is Verdict.FAIL:
                opening = Opening("rule", span(spec.for_))
                await self._desk.open(tx, context, raised_of(name, spec, found), opening)
            elif found.verdict is Verdict.PASS:
                await self._desk.clear(tx, context, f"rule/{name}")
            else:
                await self._desk.freeze(tx, context, f"rule/{name}")
            await self._blindness(tx, context, name, spec, found)
        return found

    async def _find(self, zone: str, name: str, spec: AlertRuleSpec) -> Evaluation:
        try:
            if spec.probe is not None:
                return await self._of_probe(zone, spec)
            assert spec.threshold is not None
            value = await (self._of_metric(zone, name, spec) if spec.metric is not None else self._of_sql(zone, spec))
            return judge(value, spec.compare, spec.threshold)
        except (SQLAlchemyError, ValueError, BailiwickError) as error:
            cause = getattr(error, "orig", None) or error
            return Evaluation(Verdict.ERROR, None, redact_text(f"{type(cause).__name__}: {cause}")[:300])

    async def _of_probe(self, zone: str, spec: AlertRuleSpec) -> Evaluation:
        async with self._database.begin() as tx:
            found = await self._verdicts.newest(tx, zone, spec.probe or "", self._clock.now())
        if found is None or found.verdict in (Verdict.NO_DATA, Verdict.NOT_DUE):
            return Evaluation(Verdict.NO_DATA, None, f"{spec.probe} found nothing")
        holds = found.verdict in spec.on
        verdict = Verdict.FAIL if holds else Verdict.PASS if found.verdict.green else Verdict.NO_DATA
        return Evaluation(verdict, found.value, f"{spec.probe} is {found.verdict}")

    async def _of_metric(self, zone: str, name: str, spec: AlertRuleSpec) -> float | None:
        expression = read(spec.metric or "")
        text = await asyncio.to_thread(lambda: self._export().decode())
        samples = exported(text)
        now = self._clock.now()
        async with self._database.begin() as tx:
            history = await self._history(tx, zone, name, expression, now)
            kept = Kept(samples, history, now)
            for selector, window in expression.selectors:
                if window:
                    await tx.run(
                        "INSERT INTO alert_samples (zone, rule, selector, at, series)"
                        " VALUES (:zone, :rule, :selector, :now, cast(:series AS jsonb)) ON CONFLICT DO NOTHING",
                        zone=zone,
                        rule=name,
                        selector=selector.text,
                        now=now,
                        series=json.dumps(select(samples, selector)),
                    )
                    await tx.run(
                        "DELETE FROM alert_samples WHERE zone = :zone AND rule = :rule AND selector = :selector"
                        " AND at < :before",
                        zone=zone,
                        rule=name,
                        selector=selector.text,
                        before=now - 2 * window,
                    )
        return expression.compute(kept)

    async def _history(
        self, tx: Transaction, zone: str, name: str, expression: Expression, now: datetime
    ) -> dict[str, list[tuple[datetime, Mapping[str, float]]]]:
        found: dict[str, list[tuple[datetime, Mapping[str, float]]]] = {}
        for selector, window in expression.selectors:
            if window:
                rows = await tx.all(
                    "SELECT at, series FROM alert_samples WHERE zone = :zone AND rule = :rule"
                    " AND selector = :selector AND at >= :since AND at < :now ORDER BY at",
                    zone=zone,
                    rule=name,
                    selector=selector.text,
                    since=now - window,
                    now=now,
                )
                found[selector.text] = [(row["at"], row["series"]) for row in rows]
        return found

    async def _of_sql(self, zone: str, spec: AlertRuleSpec) -> float | None:
        async with self._database.begin() as tx:
            await tx.connection.execute(sql_text("SET TRANSACTION READ ONLY"))
            await tx.connection.execute(sql_text(f"SET LOCAL statement_timeout = {SQL_TIMEOUT_MS}"))
            # as it stands: a colon in it is no parameter of ours
            result = await tx.connection.exec_driver_sql((spec.sql or "").replace("%", "%%"))
            row = result.first()
        return None if row is None or row[0] is None else float(row[0])

    async def _keep(
        self, tx: Transaction, zone: str, name: str, spec: AlertRuleSpec, due: datetime, found: Evaluation
    ) -> None:
        await tx.run(
            "INSERT INTO alert_evaluations (zone, rule, due_at, at, verdict, value, threshold, told)"
            " VALUES (:zone, :rule, :due, :now, :verdict, :value, :threshold, :told)"
            " ON CONFLICT (zone, rule, due_at) DO UPDATE SET at = EXCLUDED.at, verdict = EXCLUDED.verdict,"
            " value = EXCLUDED.value, threshold = EXCLUDED.threshold, told = EXCLUDED.told",
            zone=zone,
            rule=name,
            due=due,
            now=self._clock.now(),
            verdict=str(found.verdict),
            value=found.value,
            threshold=spec.threshold,
            told=found.told,
        )

    async def _blindness(
        self, tx: Transaction, context: Context, name: str, spec: AlertRuleSpec, found: Evaluation
    ) -> None:
        key = f"rule/{name}/blind"
        if found.verdict in (Verdict.PASS, Verdict.FAIL):
            await self._desk.clear(tx, context, key)
            return
        rows = await tx.all(
            "SELECT at, verdict FROM alert_evaluations WHERE zone = :zone AND rule = :rule"
            " ORDER BY due_at DESC LIMIT 3",
            zone=context.zone,
            rule=name,
        )
        if await self._covers_no_window(tx, context.zone, name, spec):
            return
        if blind_since([(row["at"], Verdict(row["verdict"])) for row in rows], span(spec.every)):
            raised = Raised(
                key,
                "rule/blind",
                Severity.P2,
                f"The rule {name} cannot judge: {found.told}",
                spec.owner,
                spec.runbook,
                {**spec.labels.labels(), "alertname": f"{name}Blind"},
                {"description": f"{spec.summary} would not be noticed now. An open alert of it stays as it is."},
            )
            await self._desk.open(tx, context, raised, Opening("rule"))

    async def _covers_no_window(self, tx: Transaction, zone: str, name: str, spec: AlertRuleSpec) -> bool:
        """Whether evaluations have only begun (again), so that they cannot cover the window of the rule's expression
        yet: as :class:`Kept` has it, from half of it on."""
        windows = [window for _, window in read(spec.metric).selectors] if spec.metric is not None else []
        window, now = max(windows, default=timedelta(0)), self._clock.now()
        oldest = await tx.value(
            "SELECT min(at) FROM alert_evaluations WHERE zone = :zone AND rule = :rule AND at >= :since",
            zone=zone,
            rule=name,
            since=now - window,
        )
        return bool(window) and (oldest is None or now - oldest < window / 2)

    async def recent(self, tx: Transaction, zone: str, rule: str, limit: int = 50) -> list[dict[str, Any]]:
        """The newest evaluations of a rule."""
        rows = await tx.all(
            "SELECT due_at, at, verdict, value, threshold, told FROM alert_evaluations"
            " WHERE zone = :zone AND rule = :rule ORDER BY due_at DESC LIMIT :limit",
            zone=zone,
            rule=rule,
            limit=limit,
        )
        return [dict(row) for row in rows]
