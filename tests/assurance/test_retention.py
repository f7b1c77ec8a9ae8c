"""History of runs ends when its life does: by the owner's function, and in no other way."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.exc import ProgrammingError

from bailiwick.app.assurance.retention import forget_runs
from people_fixtures import House

DAY = timedelta(days=1)
INSERTS = {
    "probe_runs": "INSERT INTO probe_runs (id, zone, probe, due_at, asked_by, started_at, finished_at, expires_at, verdict,"
    " comparison, unit, detail, record) VALUES (:id, 'default', 'p', :at, '', :at, :at, :at, 'PASS', '<', 's', '', 'r')",
    "alert_evaluations": "INSERT INTO alert_evaluations (zone, rule, due_at, at, verdict, told)"
    " VALUES ('default', 'r' || left(:id, 0), :at, :at, 'PASS', '')",
    "stuck_runs": "INSERT INTO stuck_runs (id, zone, machine, started_at, finished_at, verdict)"
    " VALUES (:id, 'default', 'm', :at, :at, 'PASS')",
    "sli_buckets": "INSERT INTO sli_buckets (zone, slo, definition, minute, good, total, counted_at)"
    " VALUES ('default', 's' || left(:id, 0), 'd', date_trunc('minute', cast(:at AS timestamptz), 'UTC'), 1, 1, :at)",
    "gateway_counts": "INSERT INTO gateway_counts (zone, hour, outcome, run, verdicts)"
    " VALUES ('default', :at, 'allow', 'w1-' || cast(:id AS text), 1)",
}


async def keep(house: House, *ages: timedelta) -> None:
    # the function goes by the clock of the database
    now = datetime.now(UTC)
    async with house.database.begin() as tx:
        for number, age in enumerate(sorted(ages, reverse=True)):
            for sql in INSERTS.values():
                await tx.run(sql, id=f"{number:03}", at=now - age)


async def counts(house: House) -> dict[str, Any]:
    async with house.database.begin() as tx:
        return {table: await tx.value(f"SELECT count(*) FROM {table}") for table in INSERTS}


async def test_runs_are_kept_for_90_days_and_what_levels_are_counted_from_for_400(house: House) -> None:
    await keep(house, DAY, 89 * DAY, 91 * DAY, 399 * DAY, 401 * DAY)
    gone = await forget_runs(house.database)
    assert gone == {"probe_runs": 3, "alert_evaluations": 3, "stuck_runs": 3, "sli_buckets": 1, "gateway_counts": 1}
    left = {"probe_runs": 2, "alert_evaluations": 2, "stuck_runs": 2, "sli_buckets": 4, "gateway_counts": 4}
    assert await counts(house) == left
    assert set((await forget_runs(house.database)).values()) == {0}


async def test_the_newest_run_stays_however_old_it_is(house: House) -> None:
    await keep(house, 200 * DAY, 300 * DAY)
    await forget_runs(house.database)
    left = {"probe_runs": 1, "alert_evaluations": 1, "stuck_runs": 1, "sli_buckets": 2, "gateway_counts": 2}
    assert await counts(house) == left


@pytest.mark.parametrize("table", [*INSERTS, "assurance_reports"])
async def test_the_app_removes_nothing_by_itself(house: House, table: str) -> None:
    await keep(house, 500 * DAY)
    with pytest.raises(ProgrammingError, match="permission denied"):
        async with house.database.begin() as tx:
            await tx.run(f"DELETE FROM {table}")
    with pytest.raises(ProgrammingError, match="permission denied|must be owner"):
        async with house.database.begin() as tx:
            await tx.run(f"TRUNCATE {table}")
    assert (await counts(house)).get(table, 1) == 1
