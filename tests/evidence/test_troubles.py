"""Clocks, twins, old backups and lost heads: each detected, named, and safe."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from ledger_world import World
from prometheus_client import CollectorRegistry

from bailiwick.app.work import _facts, ledger_shower
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context
from bailiwick.evidence.ledger import Head, HeadFiles
from bailiwick.evidence.sequencer import Sequencer
from bailiwick.evidence.sources import Portion
from bailiwick.evidence.spool import acknowledge_loss, latch_loss, loss_of
from bailiwick.evidence.troubles import HARMLESS, MEANINGS, Trouble
from bailiwick.evidence.verify import verify
from bailiwick.kernel.clock import FakeClock
from bailiwick.kernel.db import Database
from bailiwick.kernel.errors import Unavailable
from bailiwick.kernel.metrics import Metrics
from databases import url_of


async def running_until(sequencer: Sequencer, condition: Any, limit: float = 20.0) -> None:
    """Have the sequencer run as it does in service until ``condition()``."""
    task = asyncio.create_task(sequencer.run())
    try:
        async with asyncio.timeout(limit):
            while not await asyncio.to_thread(condition):  # it may wait for what the sequencer has locked
                assert not task.done()
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def holds(world: World) -> None:
    report = await verify(world.database, "default", world.head_files)
    assert report.verdict == "PASS", report.findings


# ---------------------------------------------------------------------- the clock


async def test_a_clock_set_back_an_hour_dates_no_head_back_and_is_named(world: World) -> None:
    world.clock = clock = FakeClock()
    world.recorder._clock = clock
    spool, sequencer = await world.spool(), world.sequencer()
    published: list[datetime] = []

    async def more() -> list[str]:
        clock.advance(1)
        ids = await world.put(spool, 3)
        await sequencer.drain()
        head = world.head_files.load("default")
        assert head is not None
        published.append(head.at)
        return ids

    ids = await more() + await more()
    assert not sequencer.figures.troubles
    clock.set_wall(-3600)
    ids += await more() + await more()
    assert Trouble.CLOCK_WENT_BACK in sequencer.figures.troubles
    assert 3590 < sequencer.figures.clock_behind_s <= 3600
    clock.advance(600)
    ids += await more()
    after_restart = world.sequencer()
    sequencer.close()
    sequencer = after_restart
    ids += await more()
    assert Trouble.CLOCK_WENT_BACK in sequencer.figures.troubles, "another process knows it from the ledger"
    clock.advance(3600)
    ids += await more()
    assert not sequencer.figures.troubles and sequencer.figures.clock_behind_s == 0

    assert world.ledgered() == ids
    heads = world.rows("SELECT size, at FROM ledger.heads WHERE zone = 'default' ORDER BY size")
    assert [at for _, at in heads] == sorted(at for _, at in heads)
    assert len(heads) >= 7 and published == sorted(published)
    recorded = world.rows("SELECT recorded_at FROM ledger.events ORDER BY seq")
    assert recorded == sorted(recorded)
    happened = world.rows("SELECT at FROM ledger.events ORDER BY seq")
    assert happened != sorted(happened), "an event tells what the clock of its worker said"
    await holds(world)


async def test_an_idle_zone_gets_no_head_of_the_past_either(world: World) -> None:
    world.clock = clock = FakeClock()
    sequencer = world.sequencer()
    await sequencer.step()
    clock._monotonic += 3601
    clock.set_wall(-1800)
    await sequencer.step()
    clock._monotonic += 3601
    clock.set_wall(3601)
    await sequencer.step()
    heads = world.rows("SELECT at FROM ledger.heads WHERE zone = 'acme' ORDER BY at")
    assert len(heads) == 2 and heads[1] - heads[0] == timedelta(seconds=1801)
    assert (await verify(world.database, "acme", world.head_files)).verdict == "PASS"


# ---------------------------------------------------------------------- two sequencers


async def test_a_sequencer_whose_lock_file_was_replaced_stands_down(world: World) -> None:
    first, second = world.sequencer(), world.sequencer()
    spool = await world.spool()
    ids = await world.put(spool, 5)
    await first.drain()
    (world.spool_root / ".sequencer").unlink()
    ids += await world.put(spool, 5)
    await second.drain()
    ids += await world.put(spool, 5)
    assert not await first.step()
    assert (first.figures.active, second.figures.active) == (False, True)
    await second.drain()
    assert world.ledgered() == ids
    second.close()
    assert await first.step() is False and first.figures.active


async def test_a_second_reader_comes_too_late_for_a_source_that_is_gone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has read a spool to its end when the first commits, removes the spool and is done with it."""
    spool = await world.spool()
    ids = await world.put(spool, 20)
    await spool.close()
    first, second = world.sequencer(), world.sequencer()
    for each in (first, second):  # as on a file system whose locks do not work
        monkeypatch.setattr(each, "_lead", lambda: True)
    move = second._move

    async def too_late(portions: Sequence[Portion], asks_outbox: bool) -> bool:
        assert portions and portions[0].gone
        await first.drain()
        monkeypatch.setattr(second, "_move", move)
        return await move(portions, asks_outbox)

    monkeypatch.setattr(second, "_move", too_late)
    await second.drain()
    assert world.sources() == []
    assert world.ledgered() == ids
    assert Trouble.SEQUENCER_CONTENDED in second.figures.troubles
    assert not second.figures.lost and not second.figures.troubles.serious
    await holds(world)


@pytest.mark.parametrize("step", ["locked", "copied", "signed"])
async def test_a_sequencer_whose_session_dies_has_done_nothing(world: World, step: str) -> None:
    died = 0

    def fault(reached: str) -> None:
        nonlocal died
        if reached == step and died < 2:
            died += world.do(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'idle in transaction'"
            )
            assert world.ledgered() == []

    spool, sequencer = await world.spool(), world.sequencer(fault=fault)
    ids = await world.put(spool, 30)
    named: set[Trouble] = set()

    def ledgered() -> bool:
        named.update(sequencer.figures.troubles)
        # the head is published after the commit: who stops in between leaves that to the next sequencer
        return bool(world.ledgered()) and world.head_files.load("default") is not None

    await running_until(sequencer, ledgered)
    assert died >= 2 and named == {Trouble.DATABASE_UNAVAILABLE}
    assert world.ledgered() == ids
    await holds(world)


# ---------------------------------------------------------------------- an old backup


def copy_database(source: str, target: str) -> None:
    with psycopg.connect(url_of(), autocommit=True) as connection:
        connection.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{source}'")
        connection.execute(f"DROP DATABASE IF EXISTS {target} WITH (FORCE)")
        connection.execute(f"CREATE DATABASE {target} TEMPLATE {source}")


async def test_an_old_backup_stops_everything_until_somebody_looked(world: World) -> None:
    name = urlsplit(world.url).path[1:]
    backup = f"backup_{secrets.token_hex(6)}"
    before = await world.filled(6)
    await world.database.close()
    copy_database(name, backup)
    try:
        await world.filled(4)
        published = world.head_files.load("default")
        assert published is not None and published.size == 10
        await world.database.close()
        copy_database(backup, name)
    finally:
        with psycopg.connect(url_of(), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {backup} WITH (FORCE)")

    spool = await world.spool()
    waiting = await world.put(spool, 8)
    async with world.database.begin() as tx:
        waiting.append(
            (await world.recorder.record(tx, codes.USER_CREATED, "success", Context("default"), role="viewer")).id
        )
    sequencer = world.sequencer()
    await sequencer.drain()
    troubles = sequencer.figures.troubles
    assert set(troubles) == {Trouble.EVIDENCE_LOST, Trouble.LEDGER_CONTRADICTS_HEAD}
    assert "a head over 10 events was published, the table holds 6" in troubles[Trouble.LEDGER_CONTRADICTS_HEAD]
    assert world.ledgered() == before, "were it the wrong backup, what is moved into it would be lost with it"
    assert sequencer.figures.backlog_bytes > 0 and world.rows("SELECT count(*) FROM bailiwick.outbox") == [1]
    async with asyncio.timeout(10):
        while not spool.evidence_lost:
            await asyncio.sleep(0.01)
    with pytest.raises(Unavailable) as refused:
        spool.append(1, "default", b"x")
    assert refused.value.reason == "evidence_lost"
    again = world.sequencer()
    sequencer.close()
    await again.drain()
    assert world.ledgered() == before and len(loss_of(world.spool_root)) == 1

    acknowledge_loss(world.spool_root)
    await again.drain()
    assert sorted(world.ledgered()) == sorted(before + waiting)
    assert again.figures.lost == [] and set(again.figures.troubles) == {Trouble.LEDGER_CONTRADICTS_HEAD}
    last = world.sequencer()
    again.close()
    await last.drain()
    assert loss_of(world.spool_root) == [], "what somebody looked at is not told a second time"
    assert world.rows("SELECT count(*) FROM ledger.heads WHERE zone = 'default' AND size > 6") == [0]
    assert world.head_files.load("default") == published
    assert (await verify(world.database, "default", world.head_files)).verdict == "FAIL"


async def test_a_table_cut_shorter_than_its_own_heads_gets_no_more(world: World) -> None:
    """The published head is gone as well: what the table itself says was signed is left."""
    await world.filled(10)
    world.head_files.path("default").unlink()
    world.do("DELETE FROM ledger.events WHERE seq >= 6")
    world.do("UPDATE ledger.hashes SET count = 6, hashes = substring(hashes FROM 1 FOR 6 * 32) WHERE level = 0")
    spool, sequencer = await world.spool(), world.sequencer()
    await world.put(spool, 2)
    await sequencer.drain()
    assert "a head over 10 events was signed" in sequencer.figures.troubles[Trouble.LEDGER_CONTRADICTS_HEAD]
    assert world.head_files.load("default") is None


async def test_hashes_that_are_gone_stop_sequencing_by_name(world: World) -> None:
    await world.filled(10)
    world.do("UPDATE ledger.hashes SET hashes = substring(hashes FROM 1 FOR 32) WHERE level = 0")
    spool, sequencer = await world.spool(), world.sequencer()
    await world.put(spool, 2)
    await running_until(sequencer, lambda: Trouble.LEDGER_DAMAGED in sequencer.figures.troubles)
    assert len(world.ledgered()) == 10 and world.sources()


# ---------------------------------------------------------------------- published heads


async def test_a_truncated_head_file_is_named_and_left_alone(world: World) -> None:
    ids = await world.filled(4)
    path = world.head_files.path("default")
    torn = path.read_bytes()[:40]
    path.write_bytes(torn)
    spool, sequencer = await world.spool(), world.sequencer()
    ids += await world.put(spool, 3)
    await sequencer.drain()
    assert "cannot be read" in sequencer.figures.troubles[Trouble.LEDGER_CONTRADICTS_HEAD]
    assert world.ledgered() == ids
    assert path.read_bytes() == torn
    assert world.rows("SELECT count(*) FROM ledger.heads WHERE zone = 'default' AND size > 4") == [0]


@pytest.mark.parametrize("how", ["rolled back", "removed"])
async def test_a_head_file_older_than_the_ledger_is_named(world: World, how: str) -> None:
    ids = await world.filled(2)
    path = world.head_files.path("default")
    old = path.read_bytes()
    ids += await world.filled(2) + await world.filled(2)
    path.write_bytes(old) if how == "rolled back" else path.unlink()
    sequencer = world.sequencer()
    await sequencer.drain()
    assert list(sequencer.figures.troubles) == [Trouble.HEAD_FILE_BEHIND]
    assert not sequencer.figures.troubles.serious
    head = world.head_files.load("default")
    assert head is not None and head.size == 6
    await holds(world)


async def test_a_head_that_was_committed_and_not_published_is_no_trouble(world: World) -> None:
    await world.filled(2)
    old = world.head_files.path("default").read_bytes()
    await world.filled(2)
    world.head_files.path("default").write_bytes(old)
    sequencer = world.sequencer()
    await sequencer.drain()
    assert not sequencer.figures.troubles


# ---------------------------------------------------------------------- the database


async def test_a_database_without_connections_left_is_named(world: World) -> None:
    with psycopg.connect(world.url, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS narrow")
        connection.execute("CREATE ROLE narrow LOGIN CONNECTION LIMIT 1 IN ROLE bailiwick_app")
    parts = urlsplit(world.url)
    url = parts._replace(netloc=f"narrow@{parts.netloc.rpartition('@')[2]}").geturl()
    spool = await world.spool()
    ids = await world.put(spool, 10)
    own, world.database = world.database, Database(url, pool_size=1)
    sequencer = world.sequencer()
    narrow, world.database = world.database, own
    with psycopg.connect(url):
        await running_until(sequencer, lambda: sequencer.figures.backlog_age_s > 0)
        assert list(sequencer.figures.troubles) == [Trouble.DATABASE_CONNECTIONS_EXHAUSTED]
        assert "too many connections" in sequencer.figures.troubles[Trouble.DATABASE_CONNECTIONS_EXHAUSTED]
        assert sequencer.figures.backlog_bytes > 1000 and sequencer.figures.lag_s > 0
        assert world.ledgered() == []
    sequencer.close()
    await narrow.close()
    after = world.sequencer()
    await after.drain()
    assert world.ledgered() == ids
    world.do("DROP ROLE narrow")


async def test_a_database_that_takes_no_writes_is_named_and_outlived(world: World) -> None:
    name = urlsplit(world.url).path[1:]
    spool, sequencer = await world.spool(), world.sequencer()
    ids = await world.put(spool, 5)
    await sequencer.drain()
    world.do(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    try:
        await world.database.close()
        ids += await world.put(spool, 5)
        await running_until(sequencer, lambda: Trouble.DATABASE_READ_ONLY in sequencer.figures.troubles)
        assert len(world.ledgered()) == 5
    finally:
        with psycopg.connect(world.url, autocommit=True, options="-c default_transaction_read_only=off") as connection:
            connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    await world.database.close()
    after = world.sequencer()
    await after.drain()
    assert world.ledgered() == ids
    await holds(world)


# ---------------------------------------------------------------------- how it is told


async def test_a_loss_is_told_by_every_later_sequencer_until_it_is_acknowledged(world: World) -> None:
    spool = await world.spool()
    latch_loss(world.spool_root, "frames 3 to 5")
    ids = await world.put(spool, 1) if spool.refusal is None else []
    sequencer = world.sequencer()
    await sequencer.drain()
    assert sequencer.figures.lost == ["frames 3 to 5"]
    assert sequencer.figures.troubles[Trouble.EVIDENCE_LOST] == "frames 3 to 5"
    assert world.ledgered() == ids, "what was acknowledged before belongs into the ledger"
    acknowledge_loss(world.spool_root)
    await sequencer.step()
    assert not sequencer.figures.lost and not sequencer.figures.troubles


async def test_troubles_and_figures_are_metrics_and_part_of_readiness(world: World) -> None:
    spool, sequencer = await world.spool(), world.sequencer()
    await spool.append(1, "default", b"{not json")
    await world.put(spool, 3)
    await sequencer.drain()
    latch_loss(world.spool_root, "frames 3 to 5")
    sequencer._measured_at = float("-inf")
    await sequencer.step()
    metrics = Metrics(CollectorRegistry())
    metrics.before_flush(ledger_shower(metrics, sequencer))
    metrics.flush()
    lines = metrics.collect_text().decode().splitlines()
    assert 'bailiwick_evidence_trouble{trouble="evidence_lost"} 1.0' in lines
    assert 'bailiwick_evidence_trouble{trouble="clock_went_back"} 0.0' in lines
    assert "bailiwick_ledger_dead_letters 1.0" in lines and "bailiwick_ledger_events_total 3.0" in lines
    for figure in ("ledger_lag_seconds", "ledger_backlog_bytes", "ledger_backlog_age_seconds", "clock_behind_seconds"):
        assert f"bailiwick_{figure} 0.0" in lines
    facts = _facts(sequencer)
    assert facts["troubles"] == {"evidence_lost": "frames 3 to 5"}
    assert (facts["sequencing"], facts["dead_letters"], facts["backlog_age_s"]) == ("active", 1, 0)
    assert MEANINGS.keys() == set(Trouble)
    later = world.sequencer()
    sequencer.close()
    await later.step()
    assert later.figures.dead_letters == 1, "they are counted where they are, not since this process began"


async def test_a_zone_made_later_is_compared_before_anything_is_added_to_it(world: World, tmp_path: Path) -> None:
    """The head of a zone from another life of the installation lies in the folder."""
    await world.filled(3)
    sequencer = world.sequencer()
    await sequencer.drain()
    head = world.head_files.load("default")
    assert head is not None
    HeadFiles(world.head_files.directory).store(Head("late", 3, head.root, head.at, head.kid, head.note))
    world.do("INSERT INTO bailiwick.zones (name, created_at) VALUES ('late', now())")
    spool = await world.spool()
    await world.put(spool, 2, zone="late")
    await sequencer.drain()
    assert "late" in sequencer.figures.contradictions
    assert world.ledgered("late") == [] and "zone late" in loss_of(world.spool_root)[0]
    assert world.rows("SELECT count(*) FROM ledger.heads WHERE zone = 'late'") == [0]


def test_every_trouble_is_explained_to_operators() -> None:
    page = (Path(__file__).parent.parent.parent / "docs/how-to/evidence-troubles.md").read_text()
    assert [trouble for trouble in Trouble if f"| `{trouble.value}`" not in page] == []
    told = {name: "(ready)" in line for line in page.splitlines() for name in Trouble if f"| `{name.value}`" in line}
    assert {name for name, harmless in told.items() if harmless} == HARMLESS
