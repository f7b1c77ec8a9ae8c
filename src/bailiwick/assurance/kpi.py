"""Key figures: formulas over named inputs, built for whole periods, held against targets and the period before."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from bailiwick.assurance.book import Book, Kind, canonical
from bailiwick.assurance.books import Books
from bailiwick.assurance.figures import NoFigure, NothingThere
from bailiwick.assurance.inputs import Inputs, Source
from bailiwick.assurance.ports import Alerts, Raised
from bailiwick.assurance.report.model import Block, Heading, Report, Table, number
from bailiwick.assurance.reports import ReportKind
from bailiwick.assurance.slo.openslo import DATA_SOURCE
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import Conflict, NotFound
from bailiwick.kernel.fields import Body, Line, Text
from bailiwick.kernel.severity import Severity
from bailiwick.kernel.verdicts import Verdict, worst

Values = Mapping[str, float | None]
_EPOCH, _TICK = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_PLACEHOLDER = re.compile(r"\b(TBD|TBC|TODO|FIXME|N/A|XXX)\b|\?\?|\[[A-Za-z ]+\]", re.I)


def _ratio(values: Values) -> float | None:
    whole = values["total"]
    part = values["part"]
    return None if not whole or part is None else part / whole


def _without(values: Values) -> float | None:
    share = _ratio(values)
    return None if share is None else 1 - share


def _value(values: Values) -> float | None:
    return values["value"]


def _difference(values: Values) -> float | None:
    more, less = values["more"], values["less"]
    return None if more is None or less is None else more - less


def _per_day(values: Values) -> float | None:
    count, days = values["count"], values["days"]
    return None if count is None or not days else count / days


@dataclass(frozen=True, slots=True)
class Formula:
    """How a figure is made of its inputs; None of nothing. ``inputs``: the names it needs."""

    id: str
    inputs: tuple[str, ...]
    made: Callable[[Values], float | None]
    meaning: str


FORMULAS = {
    each.id: each
    for each in (
        Formula("value", ("value",), _value, "value"),
        Formula("ratio", ("part", "total"), _ratio, "part / total"),
        Formula("remainder", ("part", "total"), _without, "1 - part / total"),
        Formula("difference", ("more", "less"), _difference, "more - less"),
        Formula("per_day", ("count", "days"), _per_day, "count / days"),
    )
}
"""Every formula by id. One never changes its meaning."""

Input = Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,30}$")]


class KpiSpec(Body):
    """A key figure: which formula over which inputs, what is wanted, and which way is better."""

    description: Text
    formula: Literal["value", "ratio", "remainder", "difference", "per_day"]
    inputs: Annotated[dict[Input, Source], Field(min_length=1, max_length=5)]
    unit: Line
    target: Annotated[float, Field(allow_inf_nan=False)]
    better: Literal["higher", "lower"]
    owner: Line
    runbook: Line = "docs/how-to/service-levels.md"

    @model_validator(mode="after")
    def _whole(self) -> KpiSpec:
        if set(self.inputs) != set(FORMULAS[self.formula].inputs):
            raise ValueError(f"the formula {self.formula} needs {' and '.join(FORMULAS[self.formula].inputs)}")
        for text in (self.description, self.unit, self.owner):
            if _PLACEHOLDER.search(text):
                raise ValueError("a placeholder is no text: say what it is, or leave the figure out")
        if not self.owner.strip() or not self.description.strip():
            raise ValueError("a figure has an owner and a description")
        return self

    @property
    def definition(self) -> str:
        """The digest of what is reckoned; a target may change without the history beginning anew."""
        told = self.model_dump(mode="json", include={"formula", "inputs"})
        return hashlib.sha256(canonical(told)).hexdigest()

    def judge(self, value: float | None) -> Verdict:
        """Whether the target is met."""
        if value is None:
            return Verdict.NO_DATA
        met = value >= self.target if self.better == "higher" else value <= self.target
        return Verdict.PASS if met else Verdict.FAIL


def _check(book: Book) -> Iterator[str]:
    sources = book.of(DATA_SOURCE)
    for name, spec in book.of(KPI).items():
        for source in spec.inputs.values():
            if source.data_source is not None and source.data_source not in sources:
                yield f"Kpi {name}: there is no DataSource {source.data_source!r}"


KPI = Kind("Kpi", KpiSpec, check=_check)


@dataclass(frozen=True, slots=True)
class Built:
    """What a figure was over a period. ``inputs`` are the numbers it was made of."""

    name: str
    since: datetime
    until: datetime
    version: int
    value: float | None
    verdict: Verdict
    inputs: Mapping[str, float | None]
    note: str
    built_at: datetime


def compute(formula: str, inputs: Values) -> float | None:
    """The figure of its inputs."""
    return FORMULAS[formula].made(inputs)


def month_of(at: datetime) -> tuple[datetime, datetime]:
    """The last whole month before ``at``, UTC."""
    until = at.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (until - timedelta(days=1)).replace(day=1), until


class Kpis:
    """Builds and keeps the key figures of all zones."""

    def __init__(
        self, database: Database, clock: Clock, recorder: Recorder, books: Books, inputs: Inputs, alerts: Alerts
    ) -> None:
        self._database = database
        self._clock = clock
        self._recorder = recorder
        self._books = books
        self._inputs = inputs
        self._alerts = alerts

    async def build(self, context: Context, since: datetime, until: datetime) -> list[Built]:
        """Build every figure of a period that is over; one that was built and comes out the same stays as it is. One
        whose source fails, or that had a value before and has none now, raises an alert.

        Raises ``window_open`` (409) before the period is over.
        """
        now, zone = self._clock.now(), context.zone
        if until > now:
            raise Conflict("The period is not over.", reason="window_open", until=until.isoformat())
        async with self._database.begin() as tx:
            book = await self._books.current(tx, zone)
        data, made = book.of(DATA_SOURCE), {}
        for name, spec in book.of(KPI).items():
            made[name] = await self._make(zone, spec, data, since, until)
        changed = 0
        async with self._database.begin() as tx:
            await tx.run("SELECT pg_advisory_xact_lock(hashtext('bailiwick.kpi'), hashtext(:zone))", zone=zone)
            for name, (value, verdict, inputs, note) in made.items():
                await self._alert(tx, context, name, book.of(KPI)[name], value, verdict, note, since)
                changed += await self._keep(
                    tx, zone, name, book.of(KPI)[name], since, until, value, verdict, inputs, note
                )
            await self._recorder.record(
                tx,
                codes.KPI_BUILT,
                "success",
                context,
                subject=Subject(id=zone, type="kpi"),
                since=since.isoformat(),
                until=until.isoformat(),
                figures=len(made),
                changed=changed,
            )
            return [
                each for each in [await self.built(tx, zone, name, spec, since, until)
                                  for name, spec in book.of(KPI).items()] if each is not None
            ]  # fmt: skip

    async def _make(
        self, zone: str, spec: KpiSpec, data: Any, since: datetime, until: datetime
    ) -> tuple[float | None, Verdict, dict[str, float | None], str]:
        inputs: dict[str, float | None] = {}
        for name, source in spec.inputs.items():
            try:
                inputs[name] = await self._inputs.read(zone, source, data, since, until)
            except NothingThere as error:
                return None, Verdict.NO_DATA, inputs, f"{name}: {error}"
            except NoFigure as error:
                return None, Verdict.ERROR, inputs, f"{name}: {error}"
        value = compute(spec.formula, inputs)
        return value, spec.judge(value), inputs, ""

    async def _alert(
        self, tx: Transaction, context: Context, name: str, spec: KpiSpec, value: float | None, verdict: Verdict,
        note: str, since: datetime,
    ) -> None:  # fmt: skip
        key = f"kpi/{name}/not-measured"
        if value is not None:
            await self._alerts.clear(tx, context, key)
            return
        # of what was never set up nobody expects a figure
        expected = verdict is Verdict.ERROR or await tx.value(
            "SELECT EXISTS (SELECT FROM kpi_values WHERE zone = :zone AND kpi = :name AND definition = :definition"
            " AND until <= :since AND value IS NOT NULL)",
            zone=context.zone,
            name=name,
            definition=spec.definition,
            since=since,
        )
        if expected:
            told = f"{name} could not be made: {note or 'its sources answered no number'}"[:200]
            raised = Raised(key, "KpiNotMeasured", Severity.P3, told, spec.owner, spec.runbook, {"component": name},
                            {"description": spec.description})  # fmt: skip
            await self._alerts.fire(tx, context, raised)

    async def _keep(
        self, tx: Transaction, zone: str, name: str, spec: KpiSpec, since: datetime, until: datetime,
        value: float | None, verdict: Verdict, inputs: Values, note: str,
    ) -> int:  # fmt: skip
        standing = await self.built(tx, zone, name, spec, since, until)
        if standing is not None and (standing.value, dict(standing.inputs), standing.note) == (value, inputs, note):
            return 0
        return await tx.run(
            "INSERT INTO kpi_values (zone, kpi, definition, since, until, version, value, verdict, inputs, note,"
            " built_at) VALUES (:zone, :name, :definition, :since, :until, :version, :value, :verdict,"
            " CAST(:inputs AS jsonb), :note, :now)",
            zone=zone,
            name=name,
            definition=spec.definition,
            since=since,
            until=until,
            version=standing.version + 1 if standing else 1,
            value=value,
            verdict=str(verdict),
            inputs=json.dumps(inputs),
            note=note[:500],
            now=self._clock.now(),
        )

    async def built(
        self, tx: Transaction, zone: str, name: str, spec: KpiSpec, since: datetime, until: datetime,
        upto: datetime | None = None,
    ) -> Built | None:  # fmt: skip
        """The newest version of a figure of a period (as of ``upto``); None where it was not built."""
        row = await tx.one(
            "SELECT kpi AS name, since, until, version, value, verdict, inputs, note, built_at FROM kpi_values"
            " WHERE zone = :zone AND kpi = :name AND definition = :definition AND since = :since AND until = :until"
            " AND (CAST(:upto AS timestamptz) IS NULL OR built_at <= :upto) ORDER BY version DESC LIMIT 1",
            zone=zone,
            name=name,
            definition=spec.definition,
            since=since,
            until=until,
            upto=upto,
        )
        return _built(row) if row is not None else None

    async def review(self, tx: Transaction, zone: str, since: datetime, until: datetime, *,
                     upto: datetime | None = None, revision: int | None = None) -> dict[str, Any]:  # fmt: skip
        """Every figure of a period beside the period before and its target; what was not built is NO_DATA."""
        book = await (self._books.current(tx, zone) if revision is None else self._books.at(tx, zone, revision))
        before_since = month_of(since)[0] if month_of(until) == (since, until) else since - (until - since)
        figures: list[dict[str, Any]] = []
        for name, spec in book.of(KPI).items():
            now = await self.built(tx, zone, name, spec, since, until, upto)
            before = await self.built(tx, zone, name, spec, before_since, since, upto)
            if now is None:
                verdict = Verdict.NO_DATA
            else:
                verdict = now.verdict if now.value is None else spec.judge(now.value)
            figures.append(
                {
                    "name": name,
                    "description": spec.description,
                    "formula": spec.formula,
                    "unit": spec.unit,
                    "target": spec.target,
                    "better": spec.better,
                    "owner": spec.owner,
                    "value": now.value if now else None,
                    "previous": before.value if before else None,
                    "inputs": dict(now.inputs) if now else {},
                    "note": now.note if now else "not built",
                    "verdict": str(verdict),
                }
            )
        return {
            "zone": zone,
            "since": since.isoformat(),
            "until": until.isoformat(),
            "revision": book.revision,
            "verdict": str(worst(Verdict(each["verdict"]) for each in figures)),
            "figures": figures,
        }

    async def history(self, tx: Transaction, zone: str, name: str) -> tuple[KpiSpec, list[Built]]:
        """The newest version of every period of one figure, oldest first; raises :class:`NotFound`."""
        spec = (await self._books.current(tx, zone)).of(KPI).get(name)
        if spec is None:
            raise NotFound("There is no key figure by that name.")
        rows = await tx.all(
            "SELECT DISTINCT ON (since, until) kpi AS name, since, until, version, value, verdict, inputs, note,"
            " built_at FROM kpi_values WHERE zone = :zone AND kpi = :name AND definition = :definition"
            " ORDER BY since, until, version DESC LIMIT 120",
            zone=zone,
            name=name,
            definition=spec.definition,
        )
        return spec, [_built(row) for row in rows]

    def kinds(self) -> list[ReportKind]:
        """The monthly review."""
        return [ReportKind("kpi-monthly", self._report, show)]

    async def _report(
        self, tx: Transaction, zone: str, since: datetime, until: datetime, cutoff: int | None, revision: int | None
    ) -> dict[str, Any]:
        known = (self._clock.now() - _EPOCH) // _TICK if cutoff is None else cutoff
        upto = _EPOCH + known * _TICK
        told = await self.review(tx, zone, since, until, upto=upto, revision=revision)
        return told | {"cutoff": known}


def _built(row: Row) -> Built:
    told: dict[str, Any] = dict(row)
    return Built(**(told | {"verdict": Verdict(str(row["verdict"]))}))


def show(data: Mapping[str, Any]) -> Report:
    """The review for people."""
    rows = [
        (
            each["name"],
            Verdict(each["verdict"]),
            number(each["value"], each["unit"]),
            number(each["previous"], each["unit"]),
            ("at least " if each["better"] == "higher" else "at most ") + number(each["target"], each["unit"]),
            each["owner"],
        )
        for each in data["figures"]
    ]
    blocks: list[Block] = [
        Heading("Key figures"),
        Table(("figure", "verdict", "now", "before", "target", "owner"), rows, (2, 3, 4)),
        Heading("How they are made"),
        Table(
            ("figure", "formula", "inputs", "note"),
            [
                (
                    each["name"],
                    FORMULAS[each["formula"]].meaning,
                    ", ".join(f"{name} {number(value)}" for name, value in each["inputs"].items()),
                    each["note"],
                )
                for each in data["figures"]
            ],
        ),
    ]
    return Report("Key figures of the month", [("Zone", data["zone"])], Verdict(data["verdict"]), blocks)
