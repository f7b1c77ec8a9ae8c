from __future__ import annotations

import asyncio
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from archive_world import START, ArchiveWorld, Died, window
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bailiwick.evidence.archive.manifest import ManifestError, open_manifest
from bailiwick.evidence.archive.proof import Unproven, prove_window, verify_archive
from bailiwick.evidence.archive.seal import SealFailed
from bailiwick.evidence.events import decode
from bailiwick.evidence.ledger import ledger_keys
from bailiwick_verify.note import Signer
from unmeasured import unmeasured


async def test_old_windows_are_sealed_and_hold(world: ArchiveWorld) -> None:
    await world.day(300, 0, 40)
    before = world.bodies()
    done = await world.archivist().run()
    assert done.windows == 0, "nothing is seven days old yet"
    world.wait(days=7)
    await world.day(1)
    done = await world.archivist(rows=128).run()
    assert (done.windows, done.events, done.more) == (2 * 4, 340, False)
    assert await world.archived() == before, "the bytes are those of the rows"
    report = await verify_archive(world.database, world.cold, "default")
    assert (report.verdict, report.manifests, report.objects, report.events) == ("PASS", 4, 4, 340)
    assert (await verify_archive(world.database, world.cold, "acme")).verdict == "PASS"
    assert (await world.archivist().run()).windows == 0, "once is enough"
    await world.sequence()
    sealed = [decode(body) for body in world.bodies().values() if b"archive.sealed" in body]
    assert [event.details["events"] for event in sealed] == [300, 0, 40, 0]


async def test_a_window_without_events_has_a_manifest(world: ArchiveWorld) -> None:
    await world.day(0, 0)
    world.wait(days=7)
    assert (await world.archivist().run("default")).windows == 2
    assert len(world.objects(".note")) == 2 and not world.objects()
    report = await verify_archive(world.database, world.cold, "default")
    assert (report.verdict, report.manifests, report.events) == ("PASS", 2, 0)
    world.do("DELETE FROM ledger.archives WHERE zone = 'default' AND ordinal = 0")
    assert (await verify_archive(world.database, world.cold, "default")).verdict == "FAIL"


STEPS = ("written", "put", "noted", "signed", "manifest", "committed")


@pytest.mark.parametrize("step", STEPS)
async def test_a_run_that_dies_is_taken_up(world: ArchiveWorld, step: str) -> None:
    await world.day(200)
    world.wait(days=7)
    before = world.bodies()
    for number in range(1, 3):
        seen = 0

        def die(at: str, number: int = number) -> None:
            nonlocal seen
            seen += at == step
            if seen == number:
                raise Died

        try:
            await world.archivist(fault=die, rows=120).run("default")
        except Died:
            pass
    await world.archivist(rows=120).run("default")
    assert {seq: body for seq, body in (await world.archived()).items() if seq in before} == before
    assert (await verify_archive(world.database, world.cold, "default")).verdict == "PASS"
    assert world.rows("SELECT count(*) FROM ledger.archive_objects WHERE version IS NULL AND void_at IS NULL") == [0]
    left = [path for path in (world.root / "archive").rglob("*") if path.is_file()]
    assert len(left) == 3, "two parts, one manifest, and nothing of the runs that died"


async def test_killed_processes_leave_nothing_that_counts(world: ArchiveWorld) -> None:
    await world.day(200)
    world.wait(days=7)
    before, child = world.bodies(), str(Path(__file__).parent / "archive_child.py")
    for step in STEPS:
        command = [sys.executable, child, world.url, str(world.root), world.clock.now().isoformat(), step]
        done = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, timeout=60, env=unmeasured()
        )
        assert done.returncode == 9, done.stderr
    await world.archivist(rows=120).run("default")
    assert {seq: body for seq, body in (await world.archived()).items() if seq in before} == before
    report = await verify_archive(world.database, world.cold, "default")
    assert (report.verdict, report.manifests, report.events) == ("PASS", 1, 200)
    kept = [path for path in (world.root / "archive").rglob("*") if path.is_file() and ".work" not in path.parts]
    assert len(kept) == 3


async def test_a_run_keeps_to_its_bounds_and_the_next_goes_on(world: ArchiveWorld) -> None:
    await world.day(400)
    world.wait(days=7)
    before, runs = world.bodies(), 0
    while (await world.archivist(bytes=30_000, rows=50).run("default")).more:
        runs += 1
        assert runs < 20
    assert runs >= 2
    assert await world.archived() == before


async def test_large_events_are_sealed_in_small_parts(world: ArchiveWorld) -> None:
    await world.day(30, path="x" * 3000)
    world.wait(days=7)
    before = world.bodies()
    await world.archivist(part_bytes=20_000).run("default")
    assert len(world.objects()) == 5 and await world.archived() == before


async def test_late_events_go_into_a_further_version(world: ArchiveWorld) -> None:
    await world.day(10, 10)
    world.wait(days=7)
    await world.day(6)
    await world.archivist().run("default")
    before = world.bodies()
    late = world.late(START + timedelta(minutes=5), 3)
    await world.sequence()
    done = await world.archivist().run("default")
    assert done.late == 3
    versions = world.rows("SELECT version FROM ledger.archives WHERE window_start = %s", window().start)
    assert sorted(versions) == [1, 1, 2] or sorted(versions) == [1, 2]
    archived = await world.archived()
    assert len(archived) >= 23 and all(before[seq] == body for seq, body in archived.items())
    assert set(late) <= {decode(body).id for body in archived.values()}
    assert await prove_window(world.database, world.cold, "default", window()) == 13
    assert (await verify_archive(world.database, world.cold, "default")).verdict == "PASS"


async def test_what_does_not_hold_is_not_sealed(world: ArchiveWorld) -> None:
    await world.day(50)
    world.wait(days=7)
    world.do("UPDATE ledger.events SET outcome = 'deny' WHERE seq = 20")
    with pytest.raises(SealFailed, match="event 20 is not the one"):
        await world.archivist().run("default")
    assert not world.rows("SELECT FROM ledger.archives WHERE zone = 'default'")


async def test_missing_rows_are_not_sealed_over(world: ArchiveWorld) -> None:
    await world.day(50)
    world.wait(days=7)
    world.do("DELETE FROM ledger.events WHERE seq BETWEEN 20 AND 24")
    with pytest.raises(SealFailed, match="missing between 20 and 24"):
        await world.archivist().run("default")


async def test_damage_is_found(world: ArchiveWorld) -> None:
    await world.day(60)
    world.wait(days=7)
    await world.archivist().run("default")
    (part,) = world.objects()
    good = part.read_bytes()
    part.write_bytes(good[:500] + b"X" + good[501:])
    with pytest.raises(Unproven, match="SHA-256"):
        await prove_window(world.database, world.cold, "default", window())
    part.unlink()
    report = await verify_archive(world.database, world.cold, "default")
    assert report.verdict == "FAIL" and "missing" in report.findings[0].why
    part.write_bytes(good)
    assert (await verify_archive(world.database, world.cold, "default")).verdict == "PASS"
    note = bytes(world.rows("SELECT note FROM ledger.archives WHERE zone = 'default'")[0])
    world.do(
        "UPDATE ledger.archives SET note = %s WHERE zone = 'default'", note.replace(b'"events":60', b'"events":61')
    )
    assert "not genuine" in (await verify_archive(world.database, world.cold, "default")).findings[0].why


async def test_a_manifest_counts_only_under_a_key_of_the_zone(world: ArchiveWorld) -> None:
    await world.day(3)
    world.wait(days=7)
    await world.archivist().run()
    note = bytes(world.rows("SELECT note FROM ledger.archives WHERE zone = 'default'")[0])
    async with world.database.begin() as tx:
        mine = list((await ledger_keys(tx, "default")).values())
        others = list((await ledger_keys(tx, "acme")).values())
        head = bytes(await tx.value("SELECT note FROM ledger.heads WHERE zone = 'default' LIMIT 1"))
    manifest = open_manifest(note, mine)
    assert (manifest.events, manifest.version, manifest.previous) == (3, 1, "")
    with pytest.raises(ManifestError, match="no ledger key"):
        open_manifest(note, others)
    forged = Signer(mine[0].name, Ed25519PrivateKey.generate())
    with pytest.raises(ManifestError, match="no ledger key"):
        open_manifest(manifest.signed(forged), mine)
    with pytest.raises(ManifestError, match="not an archive manifest"):
        open_manifest(head, mine)
    for damaged in (b"", note[:-1], note + b"\n", b"x" * 70_000, note.replace(b'"version":1', b'"version":2')):
        with pytest.raises(ManifestError):
            open_manifest(damaged, mine)
