"""A zone from its backup over a lossy restore to a log that goes on, and to the next backup and drill."""

from __future__ import annotations

from pathlib import Path

import pytest
from backup_ground import Ground, now
from continued_world import GROUND, Auditor, Lossy
from ledger_world import World

from bailiwick.evidence.export import export_log
from bailiwick.evidence.ledger import HeadFiles
from bailiwick.evidence.spool import acknowledge_loss, loss_of
from bailiwick.evidence.verify import verify
from bailiwick.kernel.embedded_postgres import DATABASE, EmbeddedPostgres
from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.paths import Layout


async def test_a_restored_installation_goes_on(
    ground: Ground, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = ground.world
    people = Lossy(world)
    auditor = await Auditor(tmp_path, capsys).learn(people)
    await world.filled(12)
    await ground.take()
    async with ground.shipped():
        moment = now()
        ground.user("somebody")  # a commit behind the moment, by which the server knows that it got there
        await world.filled(9)
        await ground.covered(now())
    lost_head = people.published()
    (tmp_path / "lost.head").write_bytes(lost_head.note)
    with pytest.raises(BailiwickError) as refused:
        await ground.restore(to=moment)
    assert refused.value.reason == "restore_behind_head"
    await ground.restore(to=moment, accept_loss=True)
    layout = Layout(ground.root / "restored")
    layout.create()
    postgres = EmbeddedPostgres(layout)
    await postgres.start()
    there = World(postgres.url(DATABASE), layout.data_dir)
    there.head_files = HeadFiles(layout.heads)
    try:
        await goes_on(Lossy(there), auditor, tmp_path, lost_head.size)
        # a backup after it, and what comes of that: the loss is known, and nothing more is missing
        ground.world, ground.postgres, ground.url = there, postgres, postgres.url(DATABASE)
        ground.store = type(ground.store)(ground.root / "second")  # type: ignore[call-arg]
        ground.server = type(ground.server)(ground.url, postgres.tool("postgres").parent)
        await ground.take()
        again = await ground.restore(name="again")
        (zone,) = [each for each in again.zones if each.zone == "default"]
        assert not zone.lost and zone.size == zone.published
        async with ground.running("again") as connection:
            code, told = await auditor("db", connection.info.dsn + f" password={connection.info.password}")
            assert code == 0, told
            assert told["losses"][0]["persons"] == ["ana", "ben"]
    finally:
        await there.close()
        await postgres.stop()
        layout.remove_foreign_run()


async def goes_on(people: Lossy, auditor: Auditor, tmp_path: Path, known: int) -> None:
    world = people.world
    sequencer = world.sequencer()
    await sequencer.drain()
    assert loss_of(world.spool_root), "the loss is latched"
    acknowledge_loss(world.spool_root)
    sequencer.close()
    await people.more(3)
    assert people.published().size == known, "no head is signed over it"
    done = await people.go_on()
    assert (done.kept, done.known) == (12, known)
    await people.more(4)
    assert (await verify(world.database, "default", world.head_files)).verdict == "PASS"
    await export_log(world.database, "default", tmp_path / "export")
    for verb, place in (("export", tmp_path / "export"), ("db", world.url)):
        code, told = await auditor(verb, place, "--head", tmp_path / "lost.head")
        assert code == 0, told
        assert (told["losses"][0]["first"], told["losses"][0]["last"]) == (12, known - 1)
        assert told["losses"][0]["ground"] == GROUND
