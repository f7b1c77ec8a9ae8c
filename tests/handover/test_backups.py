"""Backups and restores on a real server: whole, to a moment, and refused where something is wrong."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import shutil
from collections.abc import Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from backup_ground import CONTEXT, Ground, now
from file_systems import full, mounted
from ledger_world import World

from bailiwick.evidence.archive.store import FolderStore, ObjectStore
from bailiwick.evidence.events import decode
from bailiwick.handover.backups.escrow import make_pair
from bailiwick.handover.backups.lives import Keep
from bailiwick.handover.backups.restoring import Keys
from bailiwick.handover.backups.service import complete_ids
from bailiwick.kernel.embedded_postgres import DATABASE, EmbeddedPostgres
from bailiwick.kernel.errors import BailiwickError, Unavailable
from bailiwick.kernel.paths import DataDirLock, Layout
from unmeasured import leave


async def users_of(ground: Ground, name: str = "restored") -> list[str]:
    async with ground.running(name) as connection:
        return [row[0] for row in connection.execute("SELECT username FROM bailiwick.users ORDER BY 1").fetchall()]


async def with_log(ground: Ground) -> None:
    """A backup, and users ``one`` and ``two`` after it, each in a segment of the log of its own."""
    await ground.take()
    async with ground.shipped():
        for name in ("one", "two"):
            ground.user(name)
            await ground.covered(now())


def wal(ground: Ground) -> list[Path]:
    return sorted((ground.folder / "wal").iterdir())


def spoil(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)


# ---------------------------------------------------------------------- what comes back


async def test_a_backup_comes_back_with_what_was_committed_until_the_log_ends(ground: Ground) -> None:
    ids = await ground.world.filled(5)
    async with ground.shipped():
        manifest = await ground.take()
        ground.user("after-the-backup")
        await ground.covered(now())
    restored = await ground.restore()
    assert restored.manifest.id == manifest.id
    assert {each.zone: (each.size, each.lost) for each in restored.zones} == {"acme": (0, False), "default": (5, False)}
    async with ground.running() as connection:
        there = [row[0] for row in connection.execute("SELECT username FROM bailiwick.users").fetchall()]
        events = [str(row[0]) for row in connection.execute("SELECT id FROM ledger.events ORDER BY seq").fetchall()]
        told = connection.execute("SELECT backup, to_moment FROM bailiwick.backup_restores").fetchall()
        outbox = [decode(bytes(row[0])).name for row in connection.execute("SELECT event FROM bailiwick.outbox")]
    assert there == ["after-the-backup"]
    assert events == ids
    assert told == [(manifest.id, "latest")]
    assert outbox.count("backup.restored") == 2  # one in each zone


async def test_it_comes_back_as_of_a_moment(ground: Ground) -> None:
    await ground.take()
    async with ground.shipped():
        ground.user("before")
        await asyncio.sleep(0.05)
        moment = now()
        await asyncio.sleep(0.05)
        ground.user("after")
        await ground.covered(now())
    restored = await ground.restore(to=moment)
    assert restored.to == moment and restored.last_commit is not None and restored.last_commit <= moment
    assert await users_of(ground) == ["before"]


async def test_what_was_restored_is_backed_up_into_the_same_place_and_restored_again(ground: Ground) -> None:
    first = await ground.take()
    async with ground.shipped():
        ground.user("one")
        await ground.covered(now())
    await ground.restore()
    await ground.postgres.stop()
    layout = Layout(ground.root / "restored")
    layout.create()
    postgres = EmbeddedPostgres(layout)
    await postgres.start()
    world = World(postgres.url(DATABASE), layout.data_dir)
    try:
        again = Ground(ground.root, postgres, world)
        async with again.shipped():
            again.user("two")
            second = await again.take()
            again.user("three")
            await again.covered(now())
        assert (first.timeline, second.timeline) == (1, 2)
        await again.restore(name="again")
        # from the first backup on, over the change of timeline
        await again.restore(name="from-the-first", backup=first.id)
    finally:
        await world.close()
        await postgres.stop()
        layout.remove_foreign_run()
    for name in ("again", "from-the-first"):
        assert await users_of(again, name) == ["one", "three", "two"]


async def test_sessions_end_with_a_restore(ground: Ground) -> None:
    ground.user("jane")
    ground.world.do(
        "INSERT INTO bailiwick.sessions (id, zone, username, method, auth_time, created_at, last_seen_at, idle_until,"
        " expires_at) VALUES ('s1', 'default', 'jane', 'local', now(), now(), now(), now() + interval '1 hour',"
        " now() + interval '1 hour')"
    )
    await ground.take()
    assert (await ground.restore()).sessions_ended == 1
    async with ground.running() as connection:
        revoked = connection.execute("SELECT kind, key FROM bailiwick.revocations").fetchall()
    assert revoked == [("session", "s1")]


async def test_a_backup_goes_to_a_bucket_and_comes_back(ground: Ground, bucket: ObjectStore) -> None:
    async with ground.shipped(store=bucket):
        await ground.take(store=bucket, part_bytes=8 << 20)
        ground.user("jane")
        await ground.covered(now())
    await ground.restore(store=bucket)
    assert await users_of(ground) == ["jane"]


# ---------------------------------------------------------------------- keys


async def test_the_keys_do_not_lie_beside_the_backup_in_the_clear(ground: Ground) -> None:
    (ground.root / "tls.key").write_text("-- the key of the listeners --")
    private, public = make_pair()
    await ground.take(escrow_key=public)
    key = ground.kek.path.read_text().split()[1]
    for path in ground.folder.rglob("*"):
        if path.is_file():
            body = path.read_bytes()
            body = gzip.decompress(body) if path.suffix == ".gz" else body
            assert key.encode() not in body and bytes.fromhex(key) not in body
            assert b"the key of the listeners" not in body
    await ground.restore(keys=Keys(escrow=private))
    assert (ground.root / "restored/secrets/kek").read_text() == ground.kek.path.read_text()
    assert "listeners" in (ground.root / "restored/restored-configuration/tls.key").read_text()
    assert json.loads((ground.root / "restored/restored-configuration/settings.json").read_text()) == {"api_port": 8080}


async def test_a_wrong_key_restores_nothing(ground: Ground) -> None:
    _, public = make_pair()
    await ground.take(escrow_key=public)
    wrong = ground.root / "wrong"
    wrong.write_text(f"k1 {bytes(32).hex()}\n")
    other = ground.root / "other"
    other.write_text(f"k2 {bytes(32).hex()}\n")
    for keys in (Keys(kek=wrong), Keys(kek=other), Keys(escrow=make_pair()[0]), Keys()):
        with pytest.raises(BailiwickError) as refused:
            await ground.restore(keys=keys)
        assert refused.value.reason == "backup_key_wrong"
    assert not (ground.root / "restored").exists()


async def test_a_key_that_came_after_the_backup_is_asked_for(ground: Ground) -> None:
    """What is replayed was sealed anew by a key that the backup does not know."""
    await ground.take()
    old = ground.root / "old"
    shutil.copy(ground.kek.path, old)
    async with ground.shipped():
        ground.kek.add()
        sealer = ground.kek.load()
        for kid, zone, sealed in ground.world.rows("SELECT kid, zone, private_sealed FROM bailiwick.zone_keys"):
            ground.world.do(
                "UPDATE bailiwick.zone_keys SET private_sealed = %s WHERE kid = %s AND zone = %s",
                sealer.rewrap(bytes(sealed), f"zone-key/{zone}/{kid}".encode()), kid, zone,
            )  # fmt: skip
        await ground.covered(now())
    with pytest.raises(BailiwickError) as refused:
        await ground.restore(keys=Keys(kek=old))
    assert refused.value.reason == "backup_key_wrong" and "rotated" in refused.value.detail
    await ground.restore()


# ---------------------------------------------------------------------- damage


@pytest.mark.parametrize("part", ["cluster-00000.tar.gz", "configuration.sealed", "manifest.json"])
async def test_a_byte_that_changed_is_found_before_anything_is_unpacked(ground: Ground, part: str) -> None:
    manifest = await ground.take()
    spoil(ground.folder / "base" / manifest.id / part)
    with pytest.raises(BailiwickError) as refused:
        await ground.restore()
    assert refused.value.reason == "backup_damaged"
    with pytest.raises(BailiwickError) as refused:
        await ground.backups().verify(CONTEXT, manifest.id)
    assert refused.value.reason == "backup_damaged"
    assert not (ground.root / "restored").exists()


async def test_a_part_that_is_gone_is_found(ground: Ground) -> None:
    manifest = await ground.take(part_bytes=16 << 20)
    assert len(manifest.parts) > 1
    (ground.folder / manifest.parts[1].name).unlink()
    with pytest.raises(BailiwickError) as refused:
        await ground.restore()
    assert refused.value.reason == "backup_damaged"


async def test_a_gap_in_the_log_is_not_passed_over(ground: Ground) -> None:
    await with_log(ground)
    files = wal(ground)
    assert len(files) > 1
    files[0].unlink()
    with pytest.raises(BailiwickError) as refused:
        await ground.restore()
    assert refused.value.reason == "backup_log_missing" and files[0].name[:24] in refused.value.detail
    with pytest.raises(BailiwickError) as refused:
        await ground.restore(to=now())
    assert refused.value.reason == "backup_log_missing"
    assert not (ground.root / "restored").exists()


async def test_a_segment_that_changed_is_found(ground: Ground) -> None:
    await with_log(ground)
    spoil(wal(ground)[-1])
    with pytest.raises(BailiwickError) as refused:
        await ground.restore()
    assert refused.value.reason == "backup_damaged"


async def test_two_servers_that_store_one_log_are_found(ground: Ground) -> None:
    await with_log(ground)
    first = wal(ground)[0]
    first.with_name(f"{first.name[:24]}-{'0' * 64}.gz").write_bytes(b"another")
    with pytest.raises(BailiwickError) as refused:
        await ground.restore()
    assert refused.value.reason == "backup_log_missing" and "Two servers" in refused.value.detail


async def test_a_moment_that_the_log_does_not_reach_is_refused(ground: Ground) -> None:
    await with_log(ground)
    with pytest.raises(BailiwickError) as refused:
        await ground.restore(to=now() + timedelta(hours=1))
    assert refused.value.reason == "backup_log_missing" and "no commit after" in refused.value.detail
    with pytest.raises(BailiwickError) as refused:
        await ground.restore(to=now() - timedelta(days=1))
    assert refused.value.reason == "not_found"


# ---------------------------------------------------------------------- where it goes


async def test_only_an_empty_directory_that_nobody_uses_is_restored_into(ground: Ground) -> None:
    await ground.take()
    target = ground.root / "restored"
    target.mkdir()
    (target / "something").touch()
    with pytest.raises(BailiwickError) as refused:
        await ground.restore()
    assert refused.value.reason == "restore_refused" and "not empty" in refused.value.detail
    (target / "something").unlink()
    lock = DataDirLock(target / "lock")
    lock.acquire(target)
    with pytest.raises(BailiwickError) as refused:
        await ground.restore()
    assert refused.value.reason == "restore_refused" and "runs there" in refused.value.detail
    lock.release()
    await ground.restore()


STEPS = ("keys opened", "parts fetched", "cluster unpacked", "log fetched", "recovered", "settled", "ready")


async def test_a_restore_that_dies_leaves_nothing_that_could_be_started(ground: Ground) -> None:
    await with_log(ground)
    for step in STEPS:
        assert await killed(lambda step=step: _restore_until(ground, step)) == 86, step
        assert not (ground.root / "restored").exists()
    await ground.restore()
    assert await users_of(ground) == ["one", "two"]
    assert [path.name for path in ground.root.iterdir() if "restoring" in path.name] == []


async def killed(run: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """The exit code of a process of its own that ends as by kill -9."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = asyncio.run(run())
        finally:
            leave(code)
    _, status = await asyncio.to_thread(os.waitpid, pid, 0)
    return os.waitstatus_to_exitcode(status)


async def _restore_until(ground: Ground, step: str) -> int:
    def die(at: str) -> None:
        if at == step:
            leave(86)

    await ground.restore(fault=die)
    return 0


# ---------------------------------------------------------------------- one at a time, whole or not at all


async def test_a_second_one_is_refused_while_one_is_made(ground: Ground) -> None:
    async with ground.server.alone():
        with pytest.raises(BailiwickError) as refused:
            await ground.take()
    assert refused.value.reason == "backup_running"
    await ground.take()


TAKING = ("begun", "part 0 made", "part 0 stored", "keys stored", "proven", "manifest stored")


async def test_a_backup_whose_process_dies_is_whole_or_none(ground: Ground) -> None:
    whole = 0
    for step in TAKING:
        assert await killed(lambda step=step: _take_until(ground, step)) == 86, step
        assert ground.world.rows("SELECT count(*) FROM bailiwick.backups WHERE state = 'running'") == [1]
        whole += step == "manifest stored"
        assert len(await complete_ids(ground.store)) == whole, step
    manifest = await ground.take()
    assert (await complete_ids(ground.store))[-1] == manifest.id
    states = ground.world.rows("SELECT state FROM bailiwick.backups")
    assert (states.count("complete"), states.count("failed")) == (2, len(TAKING) - 1)
    # nothing is left of those that were not whole
    assert len([path for path in (ground.folder / "base").iterdir() if any(path.iterdir())]) == 2


async def _take_until(ground: Ground, step: str) -> int:
    def die(at: str) -> None:
        if at == step:
            leave(86)

    await ground.take(fault=die)
    return 0


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone may mount a file system")
async def test_a_full_disk_leaves_no_backup_that_looks_whole(ground: Ground) -> None:
    disk = ground.root / "disk"
    with mounted(disk, "64m"):
        store = FolderStore(disk)
        with full(disk):
            with pytest.raises(Unavailable):
                await ground.take(store=store)
            assert await complete_ids(store) == []
        assert ground.world.rows("SELECT state FROM bailiwick.backups") == ["failed"]
        events = [decode(bytes(body)) for body in ground.world.rows("SELECT event FROM bailiwick.outbox")]
        assert [(each.name, each.outcome) for each in events] == [("backup.taken", "failure")]
        manifest = await ground.take(store=store)
        assert await complete_ids(store) == [manifest.id]


# ---------------------------------------------------------------------- the ledger and its published heads


async def test_a_restore_behind_a_published_head_is_refused_and_never_a_silent_fork(ground: Ground) -> None:
    await ground.world.filled(3)
    await ground.take()
    async with ground.shipped():
        moment = now()
        ground.user("somebody")  # a commit behind the moment, by which the server knows that it got there
        await ground.world.filled(4)
        await ground.covered(now())
    with pytest.raises(BailiwickError) as refused:
        await ground.restore(to=moment)
    assert refused.value.reason == "restore_behind_head" and "3 of 8" in refused.value.detail
    restored = await ground.restore(to=moment, accept_loss=True)
    assert [(each.size, each.published, each.lost) for each in restored.zones if each.zone == "default"] == [
        (3, 8, True)
    ]
    head = (ground.root / "restored/heads/default.head").read_text()
    assert head.splitlines()[1] == "8"
    # as far as the log goes nothing is missing
    shutil.rmtree(ground.root / "restored")
    assert not any(each.lost for each in (await ground.restore()).zones)


async def test_a_newer_head_from_elsewhere_is_heeded(ground: Ground) -> None:
    await ground.world.filled(2)
    await ground.take()
    await ground.world.filled(2)  # after the backup, and the log of it is lost
    with pytest.raises(BailiwickError) as refused:
        await ground.restore(heads=ground.world.head_files.directory)
    assert refused.value.reason == "restore_behind_head" and "2 of 5" in refused.value.detail


# ---------------------------------------------------------------------- ending


async def test_backups_end_when_their_time_is_up_and_the_log_with_them(ground: Ground) -> None:
    async with ground.shipped():
        old = await ground.take()
        ground.user("jane")
        await ground.covered(now())
        new = await ground.take()
        await ground.covered(now())
    ground.world.do(
        "UPDATE bailiwick.backups SET finished_at = finished_at - interval '400 days' WHERE id = %s", old.id
    )
    ground.world.do(  # too old for the log to be kept for them, and among the newest seven
        "INSERT INTO bailiwick.backups (id, state, place, started_at, finished_at, asked_by) SELECT 'b' || n, 'complete',"
        " 'elsewhere', now(), now() - interval '40 days', 'root' FROM generate_series(1, 6) AS n"
    )
    before = len(wal(ground))
    done = await ground.backups().expire(CONTEXT, Keep())
    assert (done["expired"], done["kept"]) == ([old.id], 7)
    assert await complete_ids(ground.store) == [new.id]
    assert done["log_files_removed"] > 0 and len(wal(ground)) == before - done["log_files_removed"]
    await ground.restore()
    assert await users_of(ground) == ["jane"]
