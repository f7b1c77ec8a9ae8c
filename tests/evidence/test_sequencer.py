from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from itertools import pairwise
from pathlib import Path
from uuid import UUID

import pytest
from ledger_world import World

from bailiwick.evidence import codes, sources
from bailiwick.evidence import spool as spools
from bailiwick.evidence.drained import drained
from bailiwick.evidence.events import Context, encode
from bailiwick.evidence.frames import Kind, encode_frame, parse
from bailiwick.evidence.inputs import digest_of
from bailiwick.evidence.recording import WorkerEvidence
from bailiwick.evidence.search import Search
from bailiwick.evidence.sequencer import Sequencer
from bailiwick.evidence.sources import Place, Portion, SourceReader
from bailiwick.evidence.spool import Spool, loss_of
from bailiwick.evidence.verify import verify
from bailiwick.kernel import outbox
from bailiwick.kernel.clock import FakeClock


async def moved(world: World) -> Sequencer:
    sequencer = world.sequencer()
    await sequencer.drain()
    return sequencer


async def passes(world: World, zone: str = "default") -> bool:
    report = await verify(world.database, zone, world.head_files)
    assert report.verdict == "PASS", report.findings
    return report.unsigned == 0


async def test_what_was_acknowledged_is_ledgered_in_order(world: World) -> None:
    spool = await world.spool()
    ids = await world.put(spool, 300)
    acme = await world.put(spool, 20, zone="acme")
    await moved(world)
    assert world.ledgered() == ids
    assert world.ledgered("acme") == acme
    assert world.rows("SELECT seq FROM ledger.events WHERE zone = 'default' ORDER BY seq") == list(range(300))
    assert await passes(world)
    assert await passes(world, "acme")


async def test_the_outbox_is_emptied_into_the_ledger(world: World) -> None:
    async with world.database.begin() as tx:
        event = await world.recorder.record(tx, codes.USER_CREATED, "success", Context("default"), role="viewer")
    await moved(world)
    assert world.ledgered() == [event.id]
    assert world.rows("SELECT count(*) FROM bailiwick.outbox") == [0]


async def test_an_acknowledged_event_is_visible_soon(world: World) -> None:
    sequencer = world.sequencer()
    running = asyncio.create_task(sequencer.run())
    spool = await world.spool()
    await world.put(spool, 1)
    assert await drained(world.database, world.spool_root)
    delays = []
    for _ in range(20):
        ids = await world.put(spool, 1)
        started = asyncio.get_running_loop().time()
        while ids[0] not in await asyncio.to_thread(world.ledgered):
            pass
        delays.append(asyncio.get_running_loop().time() - started)
        async with world.database.begin() as tx:
            event = await world.recorder.record(tx, codes.USER_CREATED, "success", Context("default"), role="viewer")
        started = asyncio.get_running_loop().time()
        while event.id not in await asyncio.to_thread(world.ledgered):
            pass
        delays.append(asyncio.get_running_loop().time() - started)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert sorted(delays)[len(delays) // 2] < 0.3


async def test_finished_segments_and_dead_sources_are_removed(world: World) -> None:
    spool = await world.spool()
    payload = os.urandom(100_000)
    for _ in range(30):
        await spool.append(Kind.INPUT, "default", payload)
    assert len(list(spool.directory.glob("*.seg"))) >= 3
    await moved(world)
    assert len(list(spool.directory.glob("*.seg"))) <= 2
    ids = await world.put(spool, 3)
    await spool.close()
    await moved_again(world)
    assert world.sources() == []
    assert world.ledgered() == ids
    assert world.rows("SELECT DISTINCT source FROM bailiwick.spool_positions WHERE gone") == [spool.source]


async def moved_again(world: World) -> None:
    for sequencer in world._sequencers:
        sequencer.close()
    await moved(world)


async def test_unparsable_frames_become_dead_letters_and_block_nothing(world: World) -> None:
    spool = await world.spool()
    before = await world.put(spool, 2)
    wrong_zone = world.event(zone="acme")
    nul = encode(world.event(server="abcd")).replace(b"abcd", b"\\u0000")
    bad_id = encode(world.event()).replace(b'"id":"', b'"id":"x')
    await spool.append(Kind.EVENT, "default", b"{not json")
    await spool.append(Kind.EVENT, "default", encode(wrong_zone))
    await spool.append(Kind.EVENT, "default", nul)
    await spool.append(Kind.EVENT, "default", bad_id)
    await spool.append(Kind.EVENT, "nowhere", encode(world.event(zone="nowhere")))
    await spool.append(99, "default", b"of no kind")
    await spool.append(Kind.INPUT, "default", b"short")
    after = await world.put(spool, 2)
    async with world.database.begin() as tx:
        await outbox.put(tx, "default", b"garbage")
    sequencer = await moved(world)
    assert world.ledgered() == before + after
    reasons = [str(reason).partition(":")[0] for reason in world.rows("SELECT reason FROM ledger.dead_letters")]
    assert sorted(reasons) == [
        "a decision input is shorter than its digest",
        "bad_value",
        "not_an_event",
        "not_an_event",
        "nul_character",
        "unknown_kind",
        "unknown_zone",
        "wrong_zone",
    ]
    assert sequencer.figures.dead_letters_total == 8
    assert not sequencer.figures.lost
    assert await passes(world)


async def test_a_row_the_database_refuses_is_set_aside(world: World) -> None:
    spool = await world.spool()
    before = await world.put(spool, 2)
    huge = world.event(user="u" * 30_000 + "".join(chr(0x4E00 + n % 20_000) for n in range(9_000)))
    await spool.append(Kind.EVENT, "default", encode(huge))
    after = await world.put(spool, 2)
    await moved(world)
    assert world.ledgered() == before + after
    assert world.rows("SELECT reason FROM ledger.dead_letters") == ["refused_by_database"]
    assert await passes(world)


def segment_of(spool: Spool) -> Path:
    return next(iter(sorted(spool.directory.glob("*.seg"))))


async def test_corruption_in_the_middle_is_a_dead_letter_and_latches(world: World) -> None:
    """The owner lives and goes on writing: later frames vouch that the damaged one was acknowledged."""
    spool = await world.spool()
    ids = []
    for _ in range(5):
        ids += await world.put(spool, 1)
    path = segment_of(spool)
    content = bytearray(path.read_bytes())
    at = content.index(ids[2].encode())
    with path.open("r+b") as stream:
        stream.seek(at)
        stream.write(b"\xee" * 8)
    await spool.close()
    sequencer = await moved(world)
    assert world.ledgered() == [*ids[:2], *ids[3:]]
    assert len(sequencer.figures.lost) == 1
    assert "acknowledged bytes" in loss_of(world.spool_root)[0]
    (reason,) = world.rows("SELECT reason FROM ledger.dead_letters")
    assert str(reason).startswith("damaged")
    assert await passes(world)


async def test_corruption_under_a_living_owner_is_passed_once_it_has_settled(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_SETTLE_S", 0.05)
    monkeypatch.setattr(spools, "_RETRY_S", 3600)  # the spool itself would find it when it looks, and refuse
    spool = await world.spool()
    ids = []
    for _ in range(4):
        ids += await world.put(spool, 1)
    path = segment_of(spool)
    at = path.read_bytes().index(ids[1].encode())
    with path.open("r+b") as stream:
        stream.seek(at)
        stream.write(b"\xee" * 8)
    sequencer = world.sequencer()
    async with asyncio.timeout(10):
        while len(world.ledgered()) < 3:
            await sequencer.step()
    ids += await world.put(spool, 2)
    await sequencer.drain()
    assert world.ledgered() == [ids[0], *ids[2:]]
    assert sequencer.figures.lost


async def test_a_source_that_cannot_be_read_does_not_hold_up_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = await world.spool("w0"), await world.spool("w1")
    waiting = await world.put(bad, 2)
    ids = await world.put(good, 2)
    read = SourceReader.read

    def failing(self: SourceReader, place: Place, limit: int) -> Portion:
        if self.source == bad.source:
            raise OSError(errno.EIO, "Input/output error")
        return read(self, place, limit)

    sequencer = world.sequencer()
    with monkeypatch.context() as patched:
        patched.setattr(SourceReader, "read", failing)
        await sequencer.drain()
    assert world.ledgered() == ids
    assert list(sequencer.figures.unreadable) == [bad.source]
    await sequencer.drain()
    assert world.ledgered() == ids + waiting
    assert not sequencer.figures.unreadable


async def test_frames_taken_out_are_noticed(world: World) -> None:
    spool = await world.spool()
    ids = []
    for _ in range(4):
        ids += await world.put(spool, 1)
    await spool.close()
    path = segment_of(spool)
    content = path.read_bytes()
    frames, _ = parse(content, 0)
    path.write_bytes(content[: frames[2].offset] + content[frames[2].end :])
    sequencer = await moved(world)
    assert world.ledgered() == [ids[0], *ids[2:]]
    assert sequencer.figures.lost
    assert "taken out" in loss_of(world.spool_root)[0]


async def test_a_torn_tail_of_a_dead_owner_is_kept_and_not_a_loss(world: World) -> None:
    spool = await world.spool()
    ids = await world.put(spool, 3)
    await spool.close()
    path = segment_of(spool)
    frames, end = parse(path.read_bytes(), 0)
    torn = encode_frame(Kind.EVENT, "default", b"x" * 500, frames[-1].sequence + 1, end)[:200]
    with path.open("r+b") as stream:
        stream.seek(end)
        stream.write(torn)
    sequencer = await moved(world)
    assert world.ledgered() == ids
    assert not sequencer.figures.lost
    ((reason, size),) = world.rows("SELECT reason, size FROM ledger.dead_letters")
    assert str(reason).startswith("torn")
    assert size == 200
    assert world.sources() == []


async def test_a_segment_cut_short_is_a_loss(world: World) -> None:
    spool = await world.spool()
    for _ in range(12):
        await spool.append(Kind.INPUT, "default", os.urandom(200_000))
    first = segment_of(spool)
    with first.open("r+b") as stream:
        stream.truncate(300_000)
    ids = await world.put(spool, 1)
    sequencer = await moved(world)
    assert world.ledgered() == ids
    assert "are gone" in sequencer.figures.lost[0]


async def test_a_segment_removed_before_it_was_read_is_a_loss(world: World) -> None:
    spool = await world.spool()
    for _ in range(12):
        await spool.append(Kind.INPUT, "default", os.urandom(200_000))
    segment_of(spool).unlink()
    ids = await world.put(spool, 1)
    sequencer = await moved(world)
    assert world.ledgered() == ids
    assert "the file is gone" in sequencer.figures.lost[0]


async def test_decision_inputs_are_stored_once_and_open_again(world: World) -> None:
    evidence = WorkerEvidence(await world.spool(), world.sealer, world.clock)
    body = b'{"action":"read"}'
    digest = digest_of(body)
    for _ in range(3):
        evidence.decision_input("default", digest, body)
        event = world.event(codes.DECISION_EVALUATED, input=digest)
        await evidence.event("default", encode(event))
    other = world.event(codes.DECISION_EVALUATED, input="ab" * 32)
    await evidence.event("default", encode(other))
    await moved(world)
    assert world.rows("SELECT count(*) FROM bailiwick.decision_inputs") == [1]
    search = Search(world.database, world.sealer)
    found = await search.find_decision("default", UUID(event.decision_id))
    assert found is not None
    assert (found.input, found.input_state) == (body, "present")
    gone = await search.find_decision("default", UUID(other.decision_id))
    assert gone is not None
    assert (gone.input, gone.input_state) == (None, "expired")
    assert await search.find_decision("acme", UUID(event.decision_id)) is None


async def test_two_sequencers_of_one_machine_take_turns(world: World) -> None:
    first, second = world.sequencer(), world.sequencer()
    spool = await world.spool()
    ids = await world.put(spool, 50)
    await first.step()
    assert not await second.step()
    assert world.ledgered() == ids
    assert (first.figures.active, second.figures.active) == (True, False)
    first.close()
    more = await world.put(spool, 5)
    await second.drain()
    assert world.ledgered() == ids + more


async def test_sequencers_of_two_machines_share_one_chain(world: World, tmp_path: Path) -> None:
    there = World(world.url, tmp_path / "other")
    stop = asyncio.Event()

    async def machine(side: World) -> list[str]:
        running = asyncio.create_task(side.sequencer().run())
        spool = await side.spool()
        ids = []
        for _ in range(25):
            ids += await side.put(spool, 20)
            async with side.database.begin() as tx:
                event = await side.recorder.record(tx, codes.USER_CREATED, "success", Context("default"), role="viewer")
            ids.append(event.id)
        assert await drained(side.database, side.spool_root)
        await stop.wait() if side is there else stop.set()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return ids

    here_ids, there_ids = await asyncio.gather(machine(world), machine(there))
    await there.close()
    await moved_again(world)
    assert sorted(world.ledgered()) == sorted(here_ids + there_ids)
    assert await passes(world)


async def test_a_second_reader_of_the_same_spool_changes_nothing(world: World) -> None:
    """The lock file is gone or ignored (a network file system): the place stored in the database still decides."""
    spool = await world.spool()
    ids = await world.put(spool, 10)
    first = world.sequencer()
    await first.drain()
    first._lock.lost = lambda: False  # type: ignore[method-assign]
    (world.spool_root / ".sequencer").unlink()
    second = world.sequencer()
    await second.drain()
    ids += await world.put(spool, 10)
    await asyncio.gather(first.drain(), second.drain())
    ids += await world.put(spool, 10)
    await asyncio.gather(second.drain(), first.drain())
    await first.drain()
    assert world.ledgered() == ids
    assert await passes(world)


async def test_a_zone_without_a_key_keeps_its_events(world: World) -> None:
    world.do("DELETE FROM bailiwick.zone_keys WHERE zone = 'acme'")
    spool = await world.spool()
    ids = await world.put(spool, 3, zone="acme")
    others = await world.put(spool, 3)
    await moved(world)
    assert world.ledgered("acme") == ids
    assert world.ledgered() == others
    report = await verify(world.database, "acme", world.head_files)
    assert (report.verdict, report.unsigned) == ("PASS", 3)


async def test_heads_waiting_for_the_interval_are_signed_later(world: World) -> None:
    world.clock = clock = FakeClock()
    world.recorder._clock = clock
    spool = await world.spool()
    sequencer = world.sequencer(head_interval_s=60.0)
    await world.put(spool, 1)
    await sequencer.drain()
    await world.put(spool, 1)
    await sequencer.drain()
    assert world.rows("SELECT size FROM ledger.heads WHERE zone = 'default'") == [1]
    clock.advance(61)
    await sequencer.step()
    assert world.rows("SELECT size FROM ledger.heads WHERE zone = 'default' ORDER BY size") == [1, 2]
    published = world.head_files.load("default")
    assert published is not None and published.size == 2


async def test_a_clock_that_goes_back_does_not_break_the_order_of_partitions(world: World) -> None:
    world.clock = clock = FakeClock()
    world.recorder._clock = clock
    spool = await world.spool()
    sequencer = world.sequencer()
    await world.put(spool, 1)
    await sequencer.drain()
    clock.advance(-3600)
    await world.put(spool, 1)
    await sequencer.drain()
    clock.advance(4 * 86400)
    await world.put(spool, 1)
    await sequencer.drain()
    recorded = world.rows("SELECT recorded_at FROM ledger.events ORDER BY seq")
    assert recorded == sorted(recorded)
    assert world.rows("SELECT count(*) FROM ledger.events_default") == [0]
    assert await passes(world)


async def test_a_database_that_goes_away_only_delays(world: World) -> None:
    sequencer = world.sequencer()
    running = asyncio.create_task(sequencer.run())
    spool = await world.spool()
    ids = []
    for _ in range(6):
        ids += await world.put(spool, 50)
        await asyncio.to_thread(
            world.rows,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        with contextlib.suppress(Exception):
            await drained(world.database, world.spool_root, timeout_s=0.2)
    async with asyncio.timeout(10):
        while len(await asyncio.to_thread(world.ledgered)) < len(ids):
            await asyncio.sleep(0.05)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert world.ledgered() == ids
    assert await passes(world)


@pytest.mark.parametrize("waits", [True, False])
async def test_drained_tells_whether_the_ledger_caught_up(world: World, waits: bool) -> None:
    spool = await world.spool()
    await world.put(spool, 10)
    if waits:
        assert not await drained(world.database, world.spool_root, timeout_s=0.1)
        await moved(world)
    else:
        await spool.close()
        await moved(world)
    assert await drained(world.database, world.spool_root, timeout_s=0.1)


async def test_a_zone_in_which_nothing_happens_gets_a_head_every_hour(world: World) -> None:
    world.clock = clock = FakeClock()
    world.recorder._clock = clock
    sequencer = world.sequencer()
    for _ in range(3):
        await sequencer.step()
        clock.advance(3601)
    heads = world.rows("SELECT size, at FROM ledger.heads WHERE zone = 'acme' ORDER BY at")
    assert [size for size, _ in heads] == [0, 0, 0]
    assert (heads[2][1] - heads[0][1]).total_seconds() == 7202
    report = await verify(world.database, "acme", world.head_files)
    assert (report.verdict, report.events, report.heads) == ("PASS", 0, 4)  # the published one counts as well


async def test_what_comes_as_a_stream_goes_together(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    sequencer = world.sequencer(gather_s=0.05)
    rounds: list[float] = []
    loop, enough = asyncio.get_running_loop(), asyncio.Event()

    async def step() -> bool:
        rounds.append(loop.time())
        sequencer.wake()  # somebody commits meanwhile
        if len(rounds) == 8:
            enough.set()
            await asyncio.Event().wait()
        return len(rounds) < 5

    monkeypatch.setattr(sequencer, "step", step)
    running = asyncio.create_task(sequencer.run())
    await asyncio.wait_for(enough.wait(), 20)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    apart = [later - earlier for earlier, later in pairwise(rounds)]
    assert min(apart[:4]) >= 0.045, "rounds that find something are apart"
    assert min(apart[4:]) < 0.045, "after one that finds nothing the next comes at once"
