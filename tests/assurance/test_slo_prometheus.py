"""Service levels and figures counted from a real Prometheus."""

from __future__ import annotations

import asyncio
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from stage import Stage

from bailiwick.app.assurance.slo import KINDS
from bailiwick.assurance.figures import NoFigure, Prometheus, Selects
from bailiwick.assurance.slo.levels import levels_of
from bailiwick.assurance.slo.openslo import DATA_SOURCE
from bailiwick.assurance.slo.sources import Sources
from people_fixtures import House
from ports import free_port

BEGIN = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with an hour of requests: a hundred a minute, of which one fails; none between 08:20 and 08:30."""
    home = tmp_path_factory.mktemp("prometheus")
    lines = ["# TYPE requests counter"]
    for code, each in (("200", 99), ("500", 1)):
        for minute in range(61):
            if not 20 < minute < 30:
                at = (BEGIN + minute * MINUTE).timestamp()
                lines.append(f'requests_total{{code="{code}"}} {each * minute} {at:.0f}')
    (home / "data.om").write_text("\n".join([*lines, "# EOF", ""]))
    (home / "prometheus.yml").write_text("global: {}\n")
    subprocess.run(
        ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(home / "data.om"), str(home / "data")],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    port = free_port()
    server = subprocess.Popen(
        [
            "prometheus", f"--config.file={home / 'prometheus.yml'}", f"--storage.tsdb.path={home / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}", "--storage.tsdb.retention.time=20y",
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_ready(f"http://127.0.0.1:{port}/-/ready", server)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


def wait_ready(url: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        assert server.poll() is None, "Prometheus ended"
        try:
            with urllib.request.urlopen(url, timeout=1) as answer:
                if answer.status == 200:
                    return
        except OSError:
            pass
        asyncio.run(asyncio.sleep(0.1))
    raise AssertionError("Prometheus did not become ready")


async def anywhere(host: str, port: int) -> Sequence[str]:
    return [host]


def documents(url: str, good: str = 'code="200"') -> str:
    query = "sum(increase(requests_total{%s}[1m15s])) / 75 * 60"
    return f"""
apiVersion: openslo/v1
kind: DataSource
metadata: {{name: prom}}
spec: {{type: Prometheus, connectionDetails: {{url: "{url}"}}}}
---
apiVersion: openslo/v1
kind: SLO
metadata: {{name: requests}}
spec:
  service: shop
  indicator:
    metadata: {{name: requests}}
    spec:
      ratioMetric:
        good: {{metricSource: {{type: Prometheus, metricSourceRef: prom, spec: {{query: '{query % good}'}}}}}}
        total: {{metricSource: {{type: Prometheus, metricSourceRef: prom, spec: {{query: '{query % ""}'}}}}}}
  timeWindow: [{{duration: 28d, isRolling: true}}]
  budgetingMethod: Occurrences
  objectives: [{{target: 0.99}}]
"""


async def counted(stage: Stage, text: str) -> dict[datetime, tuple[int, int]]:
    await stage.apply(text)
    async with stage.database.begin() as tx:
        book = await stage.books.current(tx, "default")
    sources = Sources(stage.database, Selects(stage.database), Prometheus(anywhere), None)
    (level,) = levels_of(book)
    until = BEGIN + timedelta(hours=1)
    return dict(await sources.count("default", level.spec, book.of(DATA_SOURCE), BEGIN + 2 * MINUTE, until))


@pytest.fixture
async def stage(house: House) -> Stage:
    return Stage(house, KINDS)


async def test_minutes_are_counted_and_those_without_samples_are_not_zero(stage: Stage, prometheus: str) -> None:
    found = await counted(stage, documents(prometheus))
    calm = [found[BEGIN + n * MINUTE] for n in (3, 10, 17, 40, 55)]
    assert all(abs(total - 100) <= 1 and total - good in (0, 1, 2) for good, total in calm), calm
    assert all(BEGIN + n * MINUTE not in found for n in range(24, 28)), "nobody measured these"


async def test_a_series_that_is_not_there_measures_nothing(stage: Stage, prometheus: str) -> None:
    assert await counted(stage, documents(prometheus, 'code="204"')) == {}


@pytest.mark.parametrize(
    ("query", "told"),
    [("requests_total", "more than one series"), ("sum(", "400"), ("up{", "400")],
)
async def test_what_is_no_answer_is_an_error_with_words(prometheus: str, query: str, told: str) -> None:
    with pytest.raises(NoFigure, match=told):
        await Prometheus(anywhere).range(prometheus, query, BEGIN, BEGIN + MINUTE, 60)


async def test_a_server_that_is_away_is_an_error(prometheus: str) -> None:
    with pytest.raises(NoFigure, match="Prometheus"):
        await Prometheus(anywhere).value("http://127.0.0.1:1", "1", BEGIN)
    assert await Prometheus(anywhere).value(prometheus, "vector(42)", BEGIN) == 42.0
    assert await Prometheus(anywhere).value(prometheus, "absent_series", BEGIN) is None
