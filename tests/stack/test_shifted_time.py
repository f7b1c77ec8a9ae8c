"""An installation whose time is moved on: every process is there at once, nothing due is left out, all of it says so."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg.rows import dict_row
from rig import PASSWORD, Stack, installation

from bailiwick.evidence import codes
from bailiwick.kernel.embedded_postgres import EmbeddedPostgres
from bailiwick.kernel.paths import Layout


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with installation("--clock-stride", "6h", WORKERS="1") as made:
        yield made


def rows(stack: Stack, query: str) -> list[dict[str, object]]:
    with psycopg.connect(EmbeddedPostgres(Layout(stack.data_dir)).url(), row_factory=dict_row) as connection:  # type: ignore[arg-type]
        return list(connection.execute(query))  # type: ignore[arg-type]


def now_of(stack: Stack) -> datetime:
    """What time it is for whoever signs people in."""
    stack.token = stack.login("admin", PASSWORD)
    claims = stack.token.split(".")[1]
    issued = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["iat"]
    return datetime.fromtimestamp(issued, UTC)


def test_days_pass_in_seconds_and_every_job_is_done(stack: Stack) -> None:
    before = now_of(stack)
    assert before - datetime.now(UTC) < timedelta(minutes=5)
    done = stack.cli("clock", "advance", "1d")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SIMULATED" in done.stdout and "jobs every 6:00:00 at most" in done.stdout
    assert len(max(done.stdout.splitlines(), key=len)) <= 80
    assert timedelta(days=1) <= now_of(stack) - before < timedelta(days=1, minutes=5)

    unfinished = rows(
        stack, "SELECT job, state FROM bailiwick.job_occurrences WHERE state NOT IN ('succeeded', 'failed')"
    )
    assert [each for each in unfinished if each["state"] == "missed"] == []
    runs = rows(
        stack,
        "SELECT count(*) AS n FROM bailiwick.job_occurrences WHERE job = 'watch-waivers' AND state = 'succeeded'"
        f" AND due_at > timestamptz '{before.isoformat()}'",
    )
    assert runs == [{"n": 4}], "one each six hours, where it would be one each minute"

    stack.token = stack.login("admin", PASSWORD)
    told = stack.admin("GET", f"/api/v1/audit/events?code={codes.CLOCK_ADVANCED.code}").json["events"]
    assert all(each["event"]["simulated_clock"] for each in told)
    steps = [each["event"]["details"]["by_s"] for each in told]
    # an event for each step; what else passed is the time that it took
    assert len(steps) in (4, 5) and max(steps) <= 6 * 3600 and 86_400 - 300 <= sum(steps) <= 86_400 + 5
    newest = stack.admin("GET", "/api/v1/audit/events?limit=50").json["events"]
    assert all(each["event"]["simulated_clock"] for each in newest)


def test_time_stays_where_it_is_and_in_development(stack: Stack) -> None:
    before = now_of(stack)
    assert stack.cli("down").returncode == 0
    refused = stack.cli("up", *stack.start[:4], "--detach")
    assert refused.returncode == 2 and "development mode only" in refused.stderr
    as_ever = [option for option in stack.start if option not in ("--clock-stride", "6h")]
    assert stack.cli("up", *as_ever, "--detach").returncode == 0
    assert timedelta() < now_of(stack) - before < timedelta(minutes=5)
    refused = stack.cli("clock", "advance", "1d")
    assert (refused.returncode, "up --dev --clock-stride" in refused.stderr) == (2, True)
    assert "SIMULATED" in stack.cli("clock", "show").stdout
