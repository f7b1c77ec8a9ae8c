"""Where numbers come from, for everything that measures: our own metrics, a Prometheus, SELECTs here and elsewhere.

What cannot be had is an error with words, never a zero.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import psycopg
from prometheus_client.parser import text_string_to_metric_families
from psycopg.rows import dict_row
from sqlalchemy.exc import DBAPIError

from bailiwick.evidence.siem.destination import Refused, Retry, Stop
from bailiwick.evidence.siem.outgoing import Outgoing, Reach
from bailiwick.kernel.db import Database
from bailiwick.kernel.errors import Unavailable

TIMEOUT_S = 20.0
MOST_ROWS = 100_000


class NoFigure(Exception):
    """A source that did not answer, or not with what was asked for; says so in one line without secrets."""


class NothingThere(NoFigure):
    """The source was never set up, so there is no data, and nothing is broken."""


class OwnMetrics:
    """The metrics of all processes of the installation, as a scrape would tell them. ``text`` makes the scrape."""

    def __init__(self, text: Callable[[], bytes]) -> None:
        self._text = text

    def read(self) -> Readings:
        """All values at this moment."""
        samples: dict[str, list[tuple[Mapping[str, str], float]]] = {}
        for family in text_string_to_metric_families(self._text().decode()):
            for sample in family.samples:
                samples.setdefault(sample.name, []).append((sample.labels, sample.value))
        return Readings(samples)


class Readings:
    """The values of one scrape."""

    def __init__(self, samples: Mapping[str, Sequence[tuple[Mapping[str, str], float]]]) -> None:
        self._samples = samples

    def sum(self, metric: str, labels: Mapping[str, str], le: str = "") -> float | None:
        """The sum of the series of ``metric`` with these labels; with ``le`` of that bucket. None where there is none,
        or where one of them is no number."""
        name, wanted = (f"{metric}_bucket", {**labels, "le": _edge(le)}) if le else (metric, dict(labels))
        found = [
            value
            for told, value in self._samples.get(name, ())
            if all((_edge(told.get(key, "")) if key == "le" else told.get(key)) == text for key, text in wanted.items())
        ]
        total = sum(found) if found else math.nan
        return None if math.isnan(total) else total


def _edge(text: str) -> str:
    return text if text in ("", "+Inf") else repr(float(text))


class Prometheus:
    """Queries of a Prometheus server (its HTTP API, ``/api/v1``). Addresses are checked by ``reach``."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach

    async def range(self, url: str, query: str, since: datetime, until: datetime, step_s: int) -> dict[datetime, float]:
        """The values of the one series ``query`` answers, by instant from ``since`` to ``until``, both included.

        Empty where it answers none. Raises :class:`NoFigure`, also for more than one series.
        """
        asked = {"query": query, "start": since.timestamp(), "end": until.timestamp(), "step": step_s}
        series = await self._series(url, "query_range", asked)
        return {
            datetime.fromtimestamp(float(at), UTC): float(value)
            for at, value in (series or {"values": []})["values"]
            if not math.isnan(float(value))
        }

    async def value(self, url: str, query: str, at: datetime) -> float | None:
        """The value of the one series at an instant. Raises :class:`NoFigure`."""
        series = await self._series(url, "query", {"query": query, "time": at.timestamp()})
        value = float(series["value"][1]) if series else math.nan
        return None if math.isnan(value) else value

    async def _series(self, url: str, what: str, asked: Mapping[str, Any]) -> dict[str, Any] | None:
        http = Outgoing(self._reach, timeout_s=TIMEOUT_S)
        try:
            answer = await http.post(f"{url.rstrip('/')}/api/v1/{what}?{urlencode(asked)}", b"", {}, method="GET")
        except (Retry, Stop, Refused) as error:
            raise NoFigure(f"Prometheus: {error}") from None
        finally:
            await http.close()
        try:
            told = json.loads(answer.body)
            if answer.status != 200 or told["status"] != "success":
                raise NoFigure(f"Prometheus answered {answer.status}: {answer.told()}")
            found = told["data"]["result"]
            if not isinstance(found, list) or len(found) > 1:
                raise NoFigure("the query answers more than one series; sum them")
            return dict(found[0]) if found else None
        except (ValueError, KeyError, TypeError):
            raise NoFigure("Prometheus answered what is no answer to a query") from None


class Selects:
    """SELECTs, read-only and bounded in time, in our own database or in another PostgreSQL."""

    def __init__(self, database: Database, timeout_s: float = TIMEOUT_S) -> None:
        self._database = database
        self._timeout_s = timeout_s

    async def rows(self, url: str | None, query: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What ``query`` answers, its ``:names`` bound to ``values``. Raises :class:`NoFigure`."""
        try:
            async with asyncio.timeout(self._timeout_s + 5):
                return await (self._own(query, values) if url is None else self._other(url, query, values))
        except (DBAPIError, psycopg.Error, Unavailable) as error:
            cause = getattr(error, "orig", None) or error
            raise NoFigure(f"SQL: {str(cause).splitlines()[0] if str(cause) else type(cause).__name__}") from None
        except TimeoutError:
            raise NoFigure("SQL: no answer in time") from None

    async def _own(self, query: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        async with self._database.begin() as tx:
            await tx.run("SET TRANSACTION READ ONLY")
            await tx.run(f"SET LOCAL statement_timeout = {int(self._timeout_s * 1000)}")
            # by the driver itself: its parameters make it one statement, and the text is not kept for ever
            return await _fetch(tx.driver, query, values)

    async def _other(self, url: str, query: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        options = f"-c default_transaction_read_only=on -c statement_timeout={int(self._timeout_s * 1000)}"
        connection = await psycopg.AsyncConnection.connect(url, options=options, connect_timeout=5)
        async with _closing(connection):
            return await _fetch(connection, query, values)


@asynccontextmanager
async def _closing(connection: psycopg.AsyncConnection[Any]) -> Any:
    try:
        yield
    finally:
        await connection.close()


async def _fetch(connection: Any, query: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    text = query.replace("%", "%%")
    for name in values:
        text = re.sub(rf"(?<!:):{name}\b", f"%({name})s", text)
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(text, dict(values))
        rows: list[dict[str, Any]] = await cursor.fetchmany(MOST_ROWS + 1)
    if len(rows) > MOST_ROWS:
        raise NoFigure(f"SQL: more than {MOST_ROWS} rows")
    return rows
