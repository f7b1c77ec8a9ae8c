"""Going on with a ledger after a restore that lost events: by two, under another name, for exactly what was lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import uvicorn
from api_client import ApiClient
from continued_world import ANA, BEN, GROUND, MACHINE, Auditor, Lossy, continue_until
from ledger_children import start
from ledger_world import World
from test_pack import ALL, packed
from test_witnessing import Party, Stage

from bailiwick.evidence import codes
from bailiwick.evidence.events import Actor, Context, decode, encode, leaf_hash
from bailiwick.evidence.export import export_log
from bailiwick.evidence.ledger import Head
from bailiwick.evidence.receipts import receipt
from bailiwick.evidence.spool import loss_of
from bailiwick.evidence.sweep import Sweep
from bailiwick.evidence.troubles import Trouble
from bailiwick.evidence.verify import verify
from bailiwick.evidence.witnessing import Witnessing, seen_by
from bailiwick.kernel import outbox
from bailiwick.kernel.errors import BailiwickError
from bailiwick_verify.epochs import split_origin
from ports import free_port


@pytest.fixture
def lossy(world: World) -> Lossy:
    return Lossy(world)


@pytest.fixture
async def auditor(lossy: Lossy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Auditor:
    return await Auditor(tmp_path, capsys).learn(lossy)


async def refused(lossy: Lossy, reason: str, **options: object) -> BailiwickError:
    with pytest.raises(BailiwickError) as error:
        await lossy.service().go_on(ANA, GROUND, **options)  # type: ignore[arg-type]
    assert error.value.reason == reason, error.value
    return error.value


async def test_a_ledger_goes_on_after_a_loss_and_holds_for_everybody(
    world: World, lossy: Lossy, auditor: Auditor, tmp_path: Path
) -> None:
    ids = await world.filled(20)
    async with world.database.begin() as tx:
        (tmp_path / "old.tlog-proof").write_bytes(bytes(await receipt(tx, "default", UUID(ids[3]))))
    await export_log(world.database, "default", tmp_path / "export")
    assert (await auditor("export", tmp_path / "export", "--state", tmp_path / "state"))[0] == 0
    await world.filled(15)
    known = lossy.published()
    assert (await auditor("db", world.url, "--state", tmp_path / "longer"))[0] == 0
    lossy.restored(20)
    await lossy.sequenced()
    new = await lossy.more(2)
    assert lossy.published() == known, "nothing is signed"
    assert (await verify(world.database, "default", world.head_files)).verdict == "FAIL"

    done = await lossy.go_on()
    assert (done.kept, done.known) == (20, 35)
    head = lossy.published()
    assert head.said.origin == f"{known.said.origin}/e2" == done.log
    assert head.size < known.size, "another log may be shorter"
    assert Head.read("default", (world.head_files.directory / "default.e1.ended").read_bytes()).root == known.root
    await lossy.more(30)
    assert lossy.published().size > known.size

    report = await verify(world.database, "default", world.head_files)
    assert report.verdict == "PASS", report.findings
    await export_log(world.database, "default", tmp_path / "export")
    async with world.database.begin() as tx:
        (tmp_path / "new.tlog-proof").write_bytes(bytes(await receipt(tx, "default", UUID(new[0]))))
    await packed(world, tmp_path / "p.zip", ALL)
    for verb, place in (("export", tmp_path / "export"), ("db", world.url), ("pack", tmp_path / "p.zip")):
        code, told = await auditor(verb, place)
        assert code == 0, (verb, told)
        (loss,) = told["losses"]
        assert (loss["first"], loss["last"], loss["persons"], loss["ground"]) == (20, 34, ["ana", "ben"], GROUND), verb
        assert loss["known_at"] == int(known.at.timestamp())
    assert (await auditor("receipt", tmp_path / "old.tlog-proof"))[0] == 0, "a receipt of before proves what it proved"
    code, told = await auditor("receipt", tmp_path / "new.tlog-proof")
    assert code == 0 and [(each["first"], each["last"]) for each in told["losses"]] == [(20, 34)]
    for state, place in (("state", "export"), ("longer", "export")):  # earlier checks are gone on from, or begun anew
        code, told = await auditor("export", tmp_path / place, "--state", tmp_path / state)
        assert code == 0, told
    assert "of the 35 entries that were checked before, 15 were lost" in told["remarks"]
    code, told = await auditor("export", tmp_path / "export", "--state", tmp_path / "state")
    assert code == 0 and told["checked"] == 0


async def test_what_was_latched_ends_and_only_that(world: World, lossy: Lossy) -> None:
    await world.filled(20)
    await world.filled(15)
    sweep = Sweep(world.database, world.head_files, world.recorder)
    world.do("DELETE FROM bailiwick.job_occurrences")
    lossy.restored(20)
    sequencer = world.sequencer()
    await sequencer.drain()
    assert Trouble.EVIDENCE_LOST in sequencer.figures.troubles
    await sweep.run(whole=True)
    assert "default" in sweep.tampered
    service = lossy.service()  # nobody has acknowledged the loss: two persons doing so is enough
    asked = await service.go_on(ANA, GROUND)
    await lossy.vote(asked)
    assert (await service.go_on(BEN, GROUND)).done
    for _ in range(3):
        sequencer._measured_at = float("-inf")
        await sequencer.drain()
    assert loss_of(world.spool_root) == []
    assert not sequencer.figures.troubles.serious, sequencer.figures.troubles
    assert split_origin(lossy.published().said.origin)[1] == 2
    assert world.rows("SELECT count(*) FROM bailiwick.job_occurrences WHERE job = 'verify-whole-ledger'") == [1]
    await sweep.run(whole=True)
    assert not sweep.tampered
    world.do("UPDATE ledger.events SET outcome = 'deny' WHERE zone = 'default' AND seq = 4")
    await sweep.run(whole=True)
    assert "changed at 4" in sweep.tampered["default"]


async def test_what_is_not_behind_is_not_continued(world: World, lossy: Lossy) -> None:
    await refused(lossy, "ledger_not_behind")
    await world.filled(10)
    await refused(lossy, "ledger_not_behind")
    await refused(lossy, "ledger_not_behind", note=lossy.published().note)
    await refused(lossy, "invalid_request", note=b"not a head\n")


async def test_what_was_rewritten_is_not_continued(world: World, lossy: Lossy) -> None:
    await world.filled(20)
    published = lossy.published()
    lossy.restored(0)
    world.head_files.path("default").unlink()
    await world.filled(20)  # as many, but others
    world.head_files.store(published)
    await refused(lossy, "ledger_rewritten")
    spool = await world.spool()
    await world.put(spool, 1)
    await spool.close()
    sequencer = world.sequencer()
    await sequencer.drain()
    assert Trouble.LEDGER_CONTRADICTS_HEAD in sequencer.figures.troubles
    await refused(lossy, "ledger_rewritten")


async def test_a_loss_does_not_cover_what_was_rewritten_before_it(world: World, lossy: Lossy) -> None:
    await lossy.lose()
    world.do("UPDATE ledger.events SET outcome = 'deny' WHERE zone = 'default' AND seq = 7")
    error = await refused(lossy, "ledger_rewritten")
    assert "Event 7" in error.detail


async def test_one_person_is_not_two(world: World, lossy: Lossy) -> None:
    await lossy.lose()
    service = lossy.service()
    asked = await service.go_on(ANA, GROUND)
    with pytest.raises(BailiwickError) as own:
        await lossy.vote(asked, ANA)
    assert own.value.reason == "approval_own_request"
    lossy.people("olaf", role="operator")
    with pytest.raises(BailiwickError):
        await lossy.vote(asked, Context("default", Actor(user="olaf", session="s")), role="operator")
    again = await service.go_on(ANA, GROUND)
    assert not again.done and again.approval.id == asked.approval.id
    assert world.rows("SELECT count(*) FROM ledger.continuations") == [0]
    # at the machine's command line anybody could be anybody: two others are needed
    asked = await service.go_on(MACHINE, "another ground")
    assert asked.approval.id == again.approval.id, "what is asked for is the same"


async def test_who_asks_on_the_machine_needs_two(world: World, lossy: Lossy, auditor: Auditor) -> None:
    await lossy.lose()
    service = lossy.service()
    asked = await service.go_on(MACHINE, GROUND)
    await lossy.vote(asked)
    assert not (await service.go_on(MACHINE, GROUND)).done
    await lossy.vote(asked, Context("default", Actor(user="cyd", session="s-cyd")))
    assert (await service.go_on(MACHINE, GROUND)).done
    await lossy.sequenced()
    code, told = await auditor("db", world.url)
    assert code == 0, told
    assert told["losses"][0]["persons"] == ["ben", "cyd"]


async def test_a_witness_that_saw_more_is_heard(world: World, lossy: Lossy, tmp_path: Path) -> None:
    keys = await lossy.keys()
    party = Party("one.example", tmp_path / "parties", keys)
    await world.filled(20)
    await world.filled(15)
    newer = lossy.published()
    metrics = Stage(world, party, party).metrics
    asking = Witnessing(world.database, world.recorder, world.clock, metrics, [party.known], interval_s=0.0)
    try:
        await asking.round()
        lossy.restored(20)
        async with world.database.begin() as tx:
            older = await tx.value("SELECT note FROM ledger.heads WHERE zone = 'default' ORDER BY size DESC LIMIT 1")
        await lossy.sequenced()
        await asking.round()
        assert "it saw 35 events, 20 are left" in asking.tampered["default"]
        assert await seen_by([party.known], bytes(older)) == {"one.example": 35}
        done = await lossy.go_on(asked=lambda note: seen_by([party.known], note))
        assert lossy.published().said.origin == done.log
        await asking.round()
        assert asking.tampered == {}
        assert asking.facts()["one.example"]["default"]["size"] == lossy.published().size, "it begins anew, and cosigns"
        assert party.witness.add_checkpoint(b"old 20\n\n" + newer.note).status == 422, "the log before has ended"
    finally:
        await asking.close()
        await party.go_away()


async def test_a_witness_that_saw_more_than_is_known_stops_it(world: World, lossy: Lossy) -> None:
    await lossy.lose()

    async def asked(note: bytes) -> dict[str, int | None]:
        return {"one.example": 36, "two.example": None}

    with pytest.raises(BailiwickError) as error:
        await lossy.service(asked=asked).go_on(ANA, GROUND)
    assert error.value.reason == "ledger_known_more" and "one.example saw 36" in error.value.detail


async def test_a_witness_refuses_a_continuation_from_another_head(world: World, lossy: Lossy, tmp_path: Path) -> None:
    keys = await lossy.keys()
    party = Party("one.example", tmp_path / "parties", keys)
    try:
        await world.filled(20)
        await world.filled(10)
        hidden = lossy.published()
        await world.filled(5)
        assert party.witness.add_checkpoint(b"old 0\n\n" + lossy.published().note).status == 200
        world.head_files.store(hidden)  # the keeper forgets that 35 were published
        lossy.restored(20)
        await lossy.sequenced()
        await lossy.go_on()
        answer = party.witness.add_checkpoint(b"old 0\n\n" + lossy.published().note)
        assert answer.status == 422 and b"had 35 entries" in answer.body
    finally:
        await party.go_away()


async def test_a_loss_upon_a_loss(world: World, lossy: Lossy, auditor: Auditor, tmp_path: Path) -> None:
    await lossy.lose()
    await lossy.go_on()
    size = lossy.published().size
    await lossy.more(10)
    lossy.restored(size)
    await lossy.sequenced()
    done = await lossy.go_on()
    assert split_origin(done.log)[1] == 3
    await lossy.more(5)
    code, told = await auditor("db", world.url)
    assert code == 0, told
    assert [(each["first"], each["last"]) for each in told["losses"]] == [(20, 34), (size, size + 9)]
    # and back to before the first of them was agreed to: its statement is lost as well, what the heads tell is not
    last = lossy.published()
    for table in ("continuations", "continuation_entries", "losses"):
        world.do(f"DELETE FROM ledger.{table}")
    lossy.restored(20)
    await lossy.sequenced()
    done = await lossy.go_on()
    assert (split_origin(done.log)[1], done.kept, done.known) == (4, 20, last.size)
    code, told = await auditor("db", world.url)
    assert code == 0, told
    assert [each["persons"] for each in told["losses"]] == [[], [], ["ana", "ben"]]
    assert (await verify(world.database, "default", world.head_files)).verdict == "PASS"


async def test_the_statement_says_all_of_it(world: World, lossy: Lossy) -> None:
    await lossy.lose()
    done = await lossy.go_on()
    (event,) = [each for each in map(decode, world.bodies()) if each.code == codes.LEDGER_CONTINUED.code]
    assert event.id == done.event_id and event.actor.user == "ana"
    said = json.loads(str(event.details["statement"]))
    assert (said["lost_first"], said["lost_last"], said["ground"]) == (20, 34, GROUND)
    assert Head.read("default", said["head"].encode()).size == 35


@pytest.mark.parametrize("step", ["agreed", "closed", "committed"])
async def test_killed_in_the_middle_it_is_nothing_or_all(world: World, lossy: Lossy, step: str) -> None:
    await lossy.lose()
    asked = await lossy.service().go_on(ANA, GROUND)
    await lossy.vote(asked)
    process = start(continue_until, world.url, str(world.root), step)
    await asyncio.to_thread(process.join)
    assert process.exitcode == -signal.SIGKILL
    done = world.rows("SELECT count(*) FROM ledger.continuations") == [1]
    assert done == (step == "committed")
    state = world.rows("SELECT ended FROM bailiwick.approvals WHERE id = %s", asked.approval.id)
    assert state == (["executed"] if done else [None])
    if not done:
        assert (await lossy.service().go_on(ANA, GROUND)).done
    await lossy.sequenced()
    assert split_origin(lossy.published().said.origin)[1] == 2
    assert (await verify(world.database, "default", world.head_files)).verdict == "PASS"


async def test_what_went_into_the_archive_is_still_told(
    world: World, lossy: Lossy, auditor: Auditor, tmp_path: Path
) -> None:
    await lossy.lose()
    await lossy.go_on()
    await lossy.more(3)
    end = lossy.published().size - 3
    world.do(
        "INSERT INTO ledger.archive_objects (zone, window_start, name, events, first_seq, last_seq, first_at,"
        " last_at, size, sha256) VALUES ('default', date_bin('12 hours', now(), '2000-01-01'), 'x', %s, 0, %s, now(),"
        " now(), 1, '')",
        end, end - 1,
    )  # fmt: skip
    world.do("DELETE FROM ledger.events WHERE zone = 'default' AND seq < %s", end)
    code, told = await auditor("db", world.url, "--archived")
    assert code == 0, told
    assert told["losses"][0]["persons"] == ["ana", "ben"]
    await packed(world, tmp_path / "p.zip", ALL)
    code, told = await auditor("pack", tmp_path / "p.zip")
    assert code == 0, told
    assert told["losses"][0]["persons"] == ["ana", "ben"]
    world.do("UPDATE ledger.continuation_entries SET body = 'x' WHERE seq = (SELECT min(seq) FROM"
             " ledger.continuation_entries)")  # fmt: skip
    code, told = await auditor("db", world.url, "--archived")
    assert code == 1 and "nobody is seen to have asked" in told["findings"][0]


@contextlib.asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    """The application behind a real server, on a port of its own, called by an auditor."""

    async def front(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await app({**scope, "headers": [*scope["headers"], (b"x-role", b"auditor")]}, receive, send)

    port = free_port()
    server = uvicorn.Server(uvicorn.Config(front, port=port, log_level="error", lifespan="off"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await serving


async def test_at_its_address(world: World, lossy: Lossy, auditor: Auditor, api: ApiClient, tmp_path: Path) -> None:
    await world.filled(20)
    async with served(api._app) as url:
        log = f"{url}/evidence/default"
        assert (await auditor("live", log, "--state", tmp_path / "state"))[0] == 0
        await export_log(world.database, "default", tmp_path / "before")
        await world.filled(15)
        last = lossy.published()
        (tmp_path / "last").write_bytes(last.note)
        lossy.restored(20)
        await lossy.sequenced()
        await lossy.more(1)
        code, told = await auditor("live", log, "--head", tmp_path / "last")
        assert code == 1 and told["first_bad"] == 20, "until it is agreed to, it was cut off"
        await lossy.go_on()
        await lossy.more(300)
        code, told = await auditor("live", log, "--state", tmp_path / "state", "--head", tmp_path / "last", "--against",
                                   tmp_path / "before")  # fmt: skip
        assert code == 0, told
        assert [(each["first"], each["last"]) for each in told["losses"]] == [(20, last.size - 1)]
        answer = await api.get("/evidence/default/continuations")
        assert answer.body == last.note, "the last head of the log before is still to be had"


async def test_a_row_that_nobody_agreed_to_ends_nothing(world: World, lossy: Lossy, auditor: Auditor) -> None:
    """Whoever has the database in his hands writes that the log was continued; and has the statement taken in, too."""
    await world.filled(20)
    await world.filled(15)
    known = lossy.published()
    lossy.restored(20)
    sequencer = world.sequencer()
    await sequencer.drain()

    async def looked() -> None:
        for _ in range(3):
            sequencer._measured_at = float("-inf")
            await sequencer.drain()

    statement = world.recorder.make(
        codes.LEDGER_CONTINUED, "success", ANA, log=f"{known.said.origin}/e2", kept=20, known=35, ground=GROUND,
        approval="none", requested_by="ana", approved_by=["ben"], statement="{}",
    )  # fmt: skip
    world.do(
        "INSERT INTO ledger.continuations (zone, epoch, kept, known, known_root, note, at, event_id, leaf, approval)"
        " VALUES ('default', 2, 20, 35, %s, %s, now(), %s, %s, 'none')",
        known.root, known.note, statement.id, leaf_hash(encode(statement)),
    )  # fmt: skip
    await looked()
    assert Trouble.LEDGER_CONTRADICTS_HEAD in sequencer.figures.troubles
    async with world.database.begin() as tx:
        await outbox.put(tx, "default", encode(statement))
    async with asyncio.timeout(20):  # it is judged when the next head is due
        while "without agreement" not in sequencer.figures.troubles[Trouble.LEDGER_CONTRADICTS_HEAD]:
            await looked()
            await asyncio.sleep(0.05)
    assert lossy.published() == known, "no head is signed"
    assert (await auditor("db", world.url))[0] == 1


async def test_what_was_agreed_to_is_looked_at_by_the_clock(world: World, lossy: Lossy) -> None:
    await lossy.lose()
    await lossy.go_on()
    world.do("UPDATE ledger.continuation_entries SET body = 'x' WHERE seq = (SELECT min(seq) FROM"
             " ledger.continuation_entries)")  # fmt: skip
    report = await verify(world.database, "default", world.head_files)
    assert report.verdict == "FAIL" and "nobody is seen to have asked" in report.findings[0].why
