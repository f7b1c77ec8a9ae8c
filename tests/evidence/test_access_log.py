from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from ledger_world import World

from bailiwick.evidence.access_log import AccessLog, AccessRow, purge_api_requests, purge_decision_inputs
from bailiwick.kernel.db import Database
from bailiwick.kernel.errors import Unavailable

NOW = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)


def row(number: int = 0, *, at: datetime = NOW, caller: str = "jane") -> AccessRow:
    return AccessRow(at, "default", f"request-{number}", caller, "GET", "/api/v1/users", 200, 1234, "192.0.2.1")


async def test_rows_are_written_together(world: World) -> None:
    log = AccessLog(world.database)
    for number in range(12_000):
        log.add(row(number, caller="with\ttab\x00and\\backslash"))
    await log.flush()
    assert world.rows("SELECT count(*), count(DISTINCT request_id) FROM bailiwick.api_requests") == [(12_000, 12_000)]
    assert world.rows("SELECT DISTINCT caller FROM bailiwick.api_requests") == ["with\ttab\ufffdand\\backslash"]
    assert (log.written, log.dropped) == (12_000, 0)


async def test_rows_wait_in_bounded_memory_while_the_database_is_away(world: World) -> None:
    away = Database("postgresql://nobody@127.0.0.1:1/none")
    log = AccessLog(away, capacity=10)
    for number in range(25):
        log.add(row(number))
    with pytest.raises(Unavailable):
        await log.flush()
    assert (log.dropped, log.written) == (15, 0)
    log._database = world.database
    await log.flush()
    assert log.written == 10
    await away.close()


async def test_what_waits_is_written_at_the_end(world: World) -> None:
    log = AccessLog(world.database, interval_s=3600)
    running = asyncio.create_task(log.run())
    await asyncio.sleep(0)
    log.add(row())
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert world.rows("SELECT request_id FROM bailiwick.api_requests") == ["request-0"]


async def test_old_rows_and_inputs_are_purged(world: World) -> None:
    log = AccessLog(world.database)
    log.add(row(1, at=NOW - timedelta(days=31)))
    log.add(row(2, at=NOW - timedelta(days=29)))
    await log.flush()
    for digest, expires in (("old", NOW - timedelta(seconds=1)), ("new", NOW + timedelta(seconds=1))):
        world.do("INSERT INTO bailiwick.decision_inputs VALUES ('default', %s, '', %s, %s)", digest, NOW, expires)
    assert await purge_api_requests(world.database, NOW) == 1
    assert world.rows("SELECT request_id FROM bailiwick.api_requests") == ["request-2"]
    assert await purge_decision_inputs(world.database, NOW) == 1
    assert world.rows("SELECT digest FROM bailiwick.decision_inputs") == ["new"]
