"""What happens if the process dies here? Real processes, killed with SIGKILL, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import random
from itertools import count
from pathlib import Path

import pytest
from ledger_children import append_until_write, sequence_until, sequence_until_write, start, write_forever
from ledger_world import World

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context
from bailiwick.evidence.verify import verify

KILLED = -9


async def test_every_acknowledged_event_of_killed_writers_is_ledgered_once(world: World, tmp_path: Path) -> None:
    """Writers are killed at random moments, across segment changes, while the ledger is being filled."""
    chance = random.Random(20260105)
    sequencer = world.sequencer()
    running = asyncio.create_task(sequencer.run())

    async def life(number: int) -> None:
        note = tmp_path / f"acknowledged-{number}"
        writer = start(write_forever, world.url, str(world.root), f"w{number}", str(note))
        async with asyncio.timeout(20):
            while not note.exists() or note.stat().st_size == 0:
                await asyncio.sleep(0.01)
        await asyncio.sleep(chance.uniform(0.0, 0.3))
        writer.kill()
        await asyncio.to_thread(writer.join)
        assert writer.exitcode == KILLED

    for first in range(0, 18, 3):
        await asyncio.gather(*[life(first + number) for number in range(3)])
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    after = world.sequencer()
    await after.drain()

    acknowledged = {
        line for note in tmp_path.glob("acknowledged-*") for line in note.read_text().splitlines() if len(line) == 36
    }
    ledgered = world.ledgered()
    assert len(acknowledged) > 200
    assert len(ledgered) == len(set(ledgered))
    assert acknowledged <= set(ledgered)
    assert not after.figures.lost and not sequencer.figures.lost
    assert world.sources() == []
    report = await verify(world.database, "default", world.head_files)
    assert (report.verdict, report.events) == ("PASS", len(ledgered))


STEPS = ["read", "locked", "copied", "signed", "committed", "published", "unlinked", "removed"]


@pytest.mark.parametrize("step", STEPS)
async def test_a_sequencer_killed_at_any_step_neither_loses_nor_repeats(world: World, step: str) -> None:
    ids = []
    for _ in range(2):
        spool = await world.spool()
        for _ in range(4):
            ids += await world.put(spool, 15, path="x" * 20_000)
        ids += await world.put(spool, 5, zone="acme")
        await spool.close()
    async with world.database.begin() as tx:
        ids.append(
            (await world.recorder.record(tx, codes.USER_CREATED, "success", Context("default"), role="viewer")).id
        )

    for countdown in (0, 1):
        dying = start(sequence_until, world.url, str(world.root), step, countdown)
        await asyncio.to_thread(dying.join)
        assert dying.exitcode == KILLED or (step == "removed" and countdown == 1)
    last = world.sequencer()
    await last.drain()

    assert sorted(world.ledgered() + world.ledgered("acme")) == sorted(ids)
    assert not last.figures.lost and not last.figures.contradictions
    assert world.sources() == []
    assert world.rows("SELECT count(*) FROM bailiwick.outbox") == [0]
    for zone in ("default", "acme"):
        report = await verify(world.database, zone, world.head_files)
        assert (report.verdict, report.unsigned) == ("PASS", 0), report.findings


async def test_a_sequencer_killed_at_each_of_its_writes_neither_loses_nor_repeats(world: World) -> None:
    """Statements, commits, files: the first dies at its first write, the next at its second, until one gets through.

    Each finds what the one before left behind, and something new: in the spool of a worker that lives, in that of one
    that has ended, and in the outbox.
    """
    living = await world.spool("w1")
    by_source: dict[str, list[str]] = {living.source: []}
    outbox: list[str] = []
    for calls in count(1):
        ended = await world.spool("w2")
        by_source[living.source] += await world.put(living, 5)
        by_source[ended.source] = await world.put(ended, 5) + await world.put(ended, 2, zone="acme")
        await ended.close()
        async with world.database.begin() as tx:
            outbox.append(
                (await world.recorder.record(tx, codes.USER_CREATED, "success", Context("default"), role="viewer")).id
            )
        dying = start(sequence_until_write, world.url, str(world.root), calls)
        await asyncio.to_thread(dying.join)
        if dying.exitcode == 0:
            break
        assert dying.exitcode == KILLED
    assert calls > 25
    last = world.sequencer()
    await last.drain()

    ledgered = world.ledgered() + world.ledgered("acme")
    assert sorted(ledgered) == sorted([*outbox, *(event for ids in by_source.values() for event in ids)])
    for ids in by_source.values():
        mine = set(ids)
        assert [event for event in ledgered if event in mine] == ids
    assert not last.figures.lost and not last.figures.contradictions and not last.figures.troubles.serious
    assert [path.name for path in world.sources()] == [living.source]
    for zone in ("default", "acme"):
        report = await verify(world.database, zone, world.head_files)
        assert (report.verdict, report.unsigned) == ("PASS", 0), report.findings


async def test_a_worker_killed_at_each_of_its_writes_has_everything_that_it_acknowledged(
    world: World, tmp_path: Path
) -> None:
    """And the machine with it: what was written and not synced is gone, or torn, and had not been acknowledged."""
    notes: dict[str, Path] = {}
    for first in count(1, 4):
        dying = []
        for calls in range(first, first + 4):
            notes[f"w{calls}"] = note = tmp_path / f"acknowledged-{calls}"
            dying.append(start(append_until_write, str(world.root), f"w{calls}", str(note), calls))
        for process in dying:
            await asyncio.to_thread(process.join)
        codes_ = {process.exitcode for process in dying}
        assert codes_ <= {0, KILLED}
        if 0 in codes_:
            break
    assert first > 30
    sequencer = world.sequencer()
    await sequencer.drain()
    assert not sequencer.figures.lost and world.sources() == []
    ledgered = world.ledgered()
    assert len(set(ledgered)) == len(ledgered)
    for note in notes.values():
        acknowledged = note.read_text().split() if note.exists() else []
        mine = set(acknowledged)
        assert [event for event in ledgered if event in mine] == acknowledged
    assert (await verify(world.database, "default", world.head_files)).verdict == "PASS"
