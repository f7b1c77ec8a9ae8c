"""Disks that are full or read-only under the spool, the published heads and the database: real file systems."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

import psycopg
import pytest
from file_systems import full, mounted, read_only
from ledger_world import SMALL_SEGMENT, World
from test_troubles import running_until

from bailiwick.evidence.frames import Kind
from bailiwick.evidence.spool import LOST_NAME, Spool, latch_loss, loss_of
from bailiwick.evidence.troubles import Trouble
from bailiwick.evidence.verify import verify
from bailiwick.kernel.errors import Unavailable

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="root alone may mount a file system")


async def until_it_refuses(world: World, spool: Spool) -> list[str]:
    """Append until evidence is refused; the ids of the events that were acknowledged."""
    acknowledged: list[str] = []
    with pytest.raises(Unavailable) as refused:
        while True:
            await spool.append(Kind.INPUT, "default", os.urandom(200_000))
            acknowledged += await world.put(spool, 1)
    assert refused.value.reason == "evidence_unavailable"
    return acknowledged


async def writes_again(spool: Spool) -> None:
    async with asyncio.timeout(20):
        while spool.refusal is not None:
            await asyncio.sleep(0.02)


async def drained_whole(world: World, ids: list[str]) -> None:
    sequencer = world.sequencer()
    await sequencer.drain()
    assert world.ledgered() == ids
    assert not sequencer.figures.lost and not sequencer.figures.troubles
    report = await verify(world.database, "default", world.head_files)
    assert (report.verdict, report.unsigned) == ("PASS", 0)


@pytest.mark.parametrize("trouble", [full, read_only], ids=["full", "read-only"])
async def test_a_spool_that_cannot_be_written_refuses_and_comes_back(world: World, trouble) -> None:
    with mounted(world.spool_root):
        spool = await world.spool()
        ids = await world.put(spool, 2)
        with trouble(world.spool_root):
            ids += await until_it_refuses(world, spool)
            with pytest.raises(Unavailable):
                spool.append(Kind.EVENT, "default", b"x")
        await writes_again(spool)
        ids += await world.put(spool, 2)
        await spool.close()
        await drained_whole(world, ids)


@pytest.mark.parametrize("trouble", [full, read_only], ids=["full", "read-only"])
async def test_a_worker_does_not_start_on_a_spool_that_cannot_be_written(world: World, trouble) -> None:
    with mounted(world.spool_root, "2m"), trouble(world.spool_root):
        spool = Spool(world.spool_root, "w0", "boot", segment_bytes=SMALL_SEGMENT)
        with pytest.raises(Unavailable) as refused:
            await spool.start()
        assert refused.value.reason == "evidence_unavailable"


async def test_a_read_only_spool_is_moved_into_the_ledger_all_the_same(world: World) -> None:
    with mounted(world.spool_root):
        ended, living = await world.spool("w1"), await world.spool("w2")
        for spool in (ended, living):
            for _ in range(6):  # over more than one segment
                await spool.append(Kind.INPUT, "default", os.urandom(200_000))
        ids = await world.put(ended, 3)
        await ended.close()
        ids += await world.put(living, 3)
        (world.spool_root / ".sequencer").touch()
        sequencer = world.sequencer()
        with read_only(world.spool_root):
            await sequencer.drain()
            assert sorted(world.ledgered()) == sorted(ids)
            assert list(sequencer.figures.troubles) == [Trouble.SPOOL_UNWRITABLE]
            for _ in range(3):
                assert not await sequencer.step(), "what cannot be removed is not moved a second time"
            sequencer.close()
            sequencer = world.sequencer()
            await sequencer.drain()
            assert len(world.sources()) == 2
        sequencer._measured_at = float("-inf")
        await sequencer.step()
        assert [path.name for path in world.sources()] == [living.source]
        assert len(list(living.directory.glob("*.seg"))) <= 2
        assert not sequencer.figures.troubles
        await living.close()
        sequencer.close()
        await drained_whole(world, world.ledgered())


async def test_a_loss_stops_workers_even_where_it_cannot_be_written_down(world: World) -> None:
    with mounted(world.spool_root):
        spool = await world.spool()
        with full(world.spool_root):
            with pytest.raises(OSError, match="No space left"):
                latch_loss(world.spool_root, "frames 3 to 5")
            assert (world.spool_root / LOST_NAME).exists() and loss_of(world.spool_root)
            async with asyncio.timeout(10):
                while not spool.evidence_lost:
                    await asyncio.sleep(0.02)
            with pytest.raises(Unavailable) as refused:
                spool.append(Kind.EVENT, "default", b"x")
            assert refused.value.reason == "evidence_lost"


@pytest.mark.parametrize("trouble", [full, read_only], ids=["full", "read-only"])
async def test_heads_that_cannot_be_published_hold_up_no_event(world: World, trouble) -> None:
    with mounted(world.head_files.directory, "64k"):
        spool, sequencer = await world.spool(), world.sequencer()
        ids = await world.put(spool, 2)
        await sequencer.drain()
        published = world.head_files.load("default")
        with trouble(world.head_files.directory):
            for _ in range(3):
                ids += await world.put(spool, 2)
                await sequencer.drain()
            assert Trouble.HEADS_UNWRITABLE in sequencer.figures.troubles
            assert world.ledgered() == ids
            assert world.head_files.load("default") == published
            # the file is never more than one head behind: that is how a file that was rolled back is known
            assert world.rows("SELECT size FROM ledger.heads WHERE zone = 'default' ORDER BY size") == [2, 4]
        await sequencer.drain()
        await sequencer.step()
        head = world.head_files.load("default")
        assert head is not None and head.size == 8
        assert not sequencer.figures.troubles
        sequencer.close()
        await drained_whole(world, ids)


async def test_a_database_without_room_is_named_and_outlived(world: World, tmp_path: Path) -> None:
    """The table of hashes stands on a small disk of its own, which is full when it must grow."""
    place = Path(tempfile.mkdtemp(prefix="bw-tablespace-", dir="/tmp"))
    with mounted(place, "4m"), psycopg.connect(world.url, autocommit=True) as connection:
        owner = Path(str(connection.execute("SHOW data_directory").fetchone()[0])).stat()  # type: ignore[index]
        os.chown(place, owner.st_uid, owner.st_gid)
        connection.execute(f"CREATE TABLESPACE tight LOCATION '{place}'")
        connection.execute("ALTER TABLE ledger.hashes SET TABLESPACE tight")
        try:
            spool, sequencer = await world.spool(), world.sequencer()
            ids = await world.put(spool, 5)
            await sequencer.drain()
            with full(place):
                ids += await world.put(spool, 600)
                await running_until(sequencer, lambda: sequencer.figures.backlog_age_s > 0)
                assert list(sequencer.figures.troubles) == [Trouble.DATABASE_FULL]
                assert len(world.ledgered()) == 5
                assert sequencer.figures.backlog_bytes > 100_000
                ids += await world.put(spool, 5)
            after = world.sequencer()
            await running_until(after, lambda: len(world.ledgered()) == len(ids))
            assert not after.figures.troubles
            await drained_whole(world, ids)
        finally:
            connection.execute("ALTER TABLE ledger.hashes SET TABLESPACE pg_default")
            connection.execute("DROP TABLESPACE tight")
    place.rmdir()
