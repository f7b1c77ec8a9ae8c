"""The sources of capacities and key figures: one number of one window, from where a document says.

``metric`` (our own), ``Prometheus``, ``SQL`` (one row, one column ``value``), ``ledger`` (events counted), ``csv`` (a
file of the installation's ``figures`` directory). What cannot be had raises
:class:`~bailiwick.assurance.figures.NoFigure`; that there was nothing is None.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from statistics import fmean, median
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from bailiwick.assurance.figures import NoFigure, NothingThere, OwnMetrics, Prometheus, Selects
from bailiwick.assurance.slo.openslo import (
    Code,
    DataSourceSpec,
    LedgerSpec,
    MetricSource,
    MetricSpec,
    PrometheusSpec,
    Query,
    check_select,
)
from bailiwick.assurance.slo.sources import ledger_counts
from bailiwick.kernel.db import Database
from bailiwick.kernel.fields import Body, Name

MOST_BYTES = 16 << 20


class CsvSpec(Body):
    """A CSV file with a header, of the directory ``figures`` beside the data. ``at`` is the column of the row's instant
    (ISO 8601, UTC where it says nothing); rows of other times are left out. ``do`` makes one number of ``column``."""

    file: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}\.csv$")]
    at: Name
    column: Name
    do: Literal["sum", "count", "mean", "median", "last"] = "sum"
    equals: Annotated[dict[Name, Annotated[str, StringConstraints(max_length=200)]], Field(max_length=5)] = Field(
        default_factory=dict
    )


class Source(Body):
    """Where a number comes from: exactly one of these."""

    metric: MetricSpec | None = None
    prometheus: PrometheusSpec | None = None
    sql: Query | None = None
    ledger: LedgerSpec | None = None
    csv: CsvSpec | None = None
    data_source: Name | None = None

    @model_validator(mode="after")
    def _one(self) -> Source:
        given = [name for name in ("metric", "prometheus", "sql", "ledger", "csv") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("a source is exactly one of metric, prometheus, sql, ledger, csv")
        if (self.prometheus is not None and self.data_source is None) or (
            self.data_source is not None and given[0] not in ("prometheus", "sql")
        ):
            raise ValueError("data_source names the server of prometheus, or of sql elsewhere")
        if self.sql is not None:
            check_select(self.sql)
        return self

    @property
    def kind(self) -> str:
        """Which it is."""
        return next(
            name for name in ("metric", "prometheus", "sql", "ledger", "csv") if getattr(self, name) is not None
        )


class Inputs:
    """Reads sources. ``directory`` holds the CSV files."""

    def __init__(
        self,
        database: Database,
        selects: Selects,
        prometheus: Prometheus,
        metrics: OwnMetrics | None,
        directory: Path,
    ) -> None:
        self._database = database
        self._selects = selects
        self._prometheus = prometheus
        self._metrics = metrics
        self._directory = directory

    async def read(
        self, zone: str, source: Source, data: Mapping[str, DataSourceSpec], since: datetime, until: datetime
    ) -> float | None:
        """The number of the window; None where nothing happened. Raises NoFigure."""
        if source.metric is not None:
            if self._metrics is None:
                raise NoFigure("our own metrics are seen by the work role alone")
            return self._metrics.read().sum(source.metric.metric, source.metric.labels, source.metric.le)
        if source.prometheus is not None:
            url = data[source.data_source or ""].connection.url
            return await self._prometheus.value(url, source.prometheus.query, until)
        if source.sql is not None:
            elsewhere = data[source.data_source].connection.url if source.data_source else None
            return await self._value(elsewhere, source.sql, zone, since, until)
        if source.ledger is not None:
            counted = MetricSource.model_validate(
                {"type": "bailiwick/ledger", "spec": source.ledger.model_dump(mode="json")}
            )
            async with self._database.begin() as tx:
                return float(sum((await ledger_counts(tx, zone, counted, since, until)).values()))
        assert source.csv is not None
        return self._of_csv(source.csv, since, until)

    async def _value(self, url: str | None, query: str, zone: str, since: datetime, until: datetime) -> float | None:
        rows = await self._selects.rows(url, query, {"since": since, "until": until, "zone": zone})
        if len(rows) > 1 or (rows and "value" not in rows[0]):
            raise NoFigure("SQL: the answer is one row with a column called value")
        value = rows[0]["value"] if rows else None
        if value is None:
            return None
        try:
            return float(value)
        except (TypeError, ValueError):
            raise NoFigure("SQL: value is no number") from None

    def _of_csv(self, spec: CsvSpec, since: datetime, until: datetime) -> float | None:
        path = self._directory / spec.file
        try:
            if path.stat().st_size > MOST_BYTES:
                raise NoFigure(f"{spec.file}: larger than {MOST_BYTES} bytes")
            text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            raise NothingThere(f"{spec.file} is not in the directory of figures") from None
        except (OSError, UnicodeDecodeError) as error:
            raise NoFigure(f"{spec.file}: {type(error).__name__}") from None
        found: list[Decimal] = []
        for number, row in enumerate(csv.DictReader(io.StringIO(text)), 2):
            try:
                at = datetime.fromisoformat(row[spec.at])
                at = at if at.tzinfo else at.replace(tzinfo=UTC)
                if not since <= at < until or any(row[name] != text for name, text in spec.equals.items()):
                    continue
                found.append(Decimal(1) if spec.do == "count" else Decimal(row[spec.column]))
            except (KeyError, TypeError, ValueError, InvalidOperation):
                raise NoFigure(f"{spec.file}:{number}: no {spec.at} or {spec.column} that can be read") from None
        if not found:
            return None
        made: dict[str, Any] = {
            "sum": sum,
            "count": len,
            "mean": fmean,
            "median": median,
            "last": lambda all_: all_[-1],
        }
        return float(made[spec.do](found))


__all__ = ["Code", "CsvSpec", "Inputs", "Source"]
