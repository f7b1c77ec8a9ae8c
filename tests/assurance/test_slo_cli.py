"""The commands of service levels, capacities and key figures: their exit codes, JSON, and 80 columns."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import Result
from stage import Stage
from typer.testing import CliRunner

from bailiwick.app.assurance.slo import KINDS
from bailiwick.assurance.capacity import CAPACITY
from bailiwick.assurance.slo import buckets
from bailiwick.assurance.slo.levels import levels_of
from bailiwick.cli.main import app
from bailiwick.kernel.crypto import KekFile
from people_fixtures import House

Cli = Callable[..., Result]
SHIPPED = Path(__file__).parent.parent.parent / "src/bailiwick/assurance/shipped"


@pytest.fixture
async def stage(house: House) -> Stage:
    """What ships is in force; a month was measured up to now, the machine's own now."""
    made = Stage(house, KINDS)
    await made.apply("---\n".join((SHIPPED / f"{name}.yaml").read_text() for name in ("slo", "capacity", "kpi")))
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    bad = {"api-errors": 5, "api-latency-p99": 5}
    async with made.database.begin() as tx:
        book = await made.books.current(tx, "default")
        for level in levels_of(book):
            if level.name.startswith("api-"):
                counts = {
                    now - timedelta(minutes=n): (1000 - bad.get(level.name, 0), 1000) for n in range(1, 31 * 1440)
                }
                await buckets.enter(tx, "default", level.name, level.definition, counts, now)
        for name, spec in book.of(CAPACITY).items():
            for day in range(50):
                await tx.run(
                    "INSERT INTO capacity_points VALUES ('default', :name, :definition, :at, :value, 0.8)",
                    name=name,
                    definition=spec.definition,
                    at=now - timedelta(days=day),
                    value=0.7 - day / 100,
                )
    return made


@pytest.fixture
def cli(stage: Stage, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("BAILIWICK_DATABASE_URL", database_url)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "secrets").mkdir(mode=0o700)
    KekFile(tmp_path / "secrets" / "kek").ensure()
    return lambda *words: CliRunner().invoke(app, [*words, "--data-dir", str(tmp_path)])


def test_the_commands_show_what_is_known_in_80_columns(cli: Cli, tmp_path: Path) -> None:
    def shown(code: int, *words: str) -> str:
        done = cli(*words)
        assert done.exit_code == code, (words, done.stdout, done.output)
        assert all(len(line) <= 80 for line in done.stdout.splitlines()), done.stdout
        return done.stdout

    levels = shown(1, "slo", "list")
    assert "api-errors" in levels and "FAIL" in levels and "PASS" in levels and "NO_DATA" in levels
    assert "more was bad" in shown(1, "slo", "show", "api-errors")
    assert "PASS" in shown(0, "slo", "show", "api-latency-p95")
    assert "NO_DATA" in shown(3, "slo", "show", "support-l3")
    assert "FIRING" in shown(1, "slo", "burn", "api-errors")
    assert "quiet" in shown(0, "slo", "burn", "api-latency-p95")
    assert "limit" in shown(1, "capacity", "report")
    assert "payout-sla" in shown(3, "kpi", "show")
    assert cli("slo", "show", "none").exit_code == 3
    assert "slo:bad:ratio_1h" in cli("slo", "rules").stdout
    told = json.loads(cli("slo", "list", "--json").stdout)
    assert {each["verdict"] for each in told} == {"PASS", "FAIL", "NO_DATA"}
    report = cli("slo", "report", "--days", "30", "--format", "pdf", "-o", str(tmp_path / "r.pdf"))
    assert report.exit_code == 1, report.output
    assert (tmp_path / "r.pdf").read_bytes().startswith(b"%PDF")
    assert "# Service levels of 30 days" in cli("slo", "report", "--days", "30").stdout
    assert cli("slo", "report", "--days", "8").exit_code == 2
    assert cli("slo", "report", "--format", "pdf").exit_code == 2
    assert cli("kpi", "build", "--month", "2999-01").exit_code == 1
    assert cli("kpi", "build", "--month", "January").exit_code == 2
