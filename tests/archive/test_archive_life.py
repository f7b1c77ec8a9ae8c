"""From rows to the archive, back again, and to the end."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest
from archive_world import START, ArchiveWorld, Died, window

from bailiwick.evidence.approvals import recorder_note
from bailiwick.evidence.archive.lives import RELEASE, Keeping, Lives
from bailiwick.evidence.archive.proof import Unproven, verify_archive
from bailiwick.evidence.archive.purge import PURGE, Endings, HotRows
from bailiwick.evidence.archive.restore import Restorer
from bailiwick.evidence.events import Context
from bailiwick.evidence.verify import verify
from bailiwick.identity.holders import holders
from bailiwick.kernel.clock import FakeClock
from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.quorum import Quorum


def hot(world: ArchiveWorld, fault: object = None) -> HotRows:
    return HotRows(
        world.database,
        world.cold,
        world.recorder,
        world.clock,
        fault=fault or (lambda step: None),  # type: ignore[arg-type]
    )


def quorum(world: ArchiveWorld) -> Quorum:
    return Quorum(world.database, world.clock, world.ids, recorder_note(world.recorder), holders, [PURGE, RELEASE])


def endings(world: ArchiveWorld, fault: object = None) -> Endings:
    return Endings(
        world.database, world.places, world.cold, world.recorder, world.clock, quorum(world),
        fault=fault or (lambda step: None),  # type: ignore[arg-type]
    )  # fmt: skip


def keeping(world: ArchiveWorld) -> Keeping:
    return Keeping(world.database, world.clock, world.ids, world.recorder, quorum(world))


def person(world: ArchiveWorld, *names: str, role: str = "admin") -> None:
    for name in names:
        world.do(
            "INSERT INTO bailiwick.users (id, zone, username, email, role, created_at, updated_at)"
            " VALUES (%s, 'default', %s, %s, %s, now(), now())",
            world.ids(), name, f"{name}@example.com", role,
        )  # fmt: skip


async def sealed(world: ArchiveWorld, *counts: int) -> dict[int, bytes]:
    """So many events in windows that are sealed, and one day of another zone; the events."""
    await world.day(*counts)
    await world.filled(5, zone="acme")
    before = world.bodies()
    world.wait(days=8)
    await world.sequence()
    await world.archivist().run()
    return before


def default_rows(world: ArchiveWorld) -> int:
    (count,) = world.rows(
        "SELECT count(*) FROM ledger.events WHERE zone = 'default' AND recorded_at < %s", START + timedelta(days=3)
    )
    return int(count)


async def test_rows_leave_when_proven_and_the_ledger_still_holds(world: ArchiveWorld) -> None:
    before = await sealed(world, 120, 0, 30)
    done = await hot(world).drop_due()
    assert (done["events"], done["kept"]) == (155, {})
    assert default_rows(world) == 0
    report = await verify(world.database, "default", world.head_files, cold=world.cold)
    assert (report.verdict, report.archived, report.purged) == ("PASS", 150, 0)
    assert report.events == report.checked
    without = await verify(world.database, "default", world.head_files)
    assert without.verdict == "FAIL", "without the archive they are missing"
    assert await world.archived() == before
    windows = await world.cold.list_windows("default", START, START + timedelta(days=2))
    assert [(w.events, w.hot) for w in windows] == [(120, False), (30, False)]
    relation = world.cold.duckdb_relation(await world.cold.paths(windows))
    assert relation.columns == [
        "seq", "id", "at", "recorded_at", "code", "outcome", "principal", "server", "request_id", "decision_id", "body",
    ]  # fmt: skip
    assert {row[0]: row[1] for row in relation.project("seq, body").fetchall()} == before


async def test_rows_stay_while_anything_is_unproven(world: ArchiveWorld) -> None:
    await sealed(world, 50)
    part = next(path for path in world.objects() if "default" in path.parts)
    good = part.read_bytes()
    part.write_bytes(good[:-1] + b"X")
    done = await hot(world).drop_due()
    assert default_rows(world) == 50 and "SHA-256" in done["kept"][str(window())]
    part.write_bytes(good)
    world.do("UPDATE ledger.archive_objects SET proven_at = NULL")
    with psycopg.connect(world.url) as connection, pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        connection.execute("SET ROLE bailiwick_app")
        connection.execute("SELECT ledger.drop_archived_partition(%s)", (window().start,))
    await world.sequence()
    world.late(START + timedelta(hours=1), 1)
    with pytest.raises(Unproven, match="51 rows are there, 50 are proven"):
        await hot(world).drop(window())


async def test_the_app_drops_nothing_by_itself(world: ArchiveWorld) -> None:
    await sealed(world, 5)
    name = f"ledger.events_{window().start:%Y%m%d_%H}"
    with psycopg.connect(world.url, autocommit=True) as connection:
        connection.execute("SET ROLE bailiwick_app")
        for statement in (
            f"DROP TABLE {name}", f"DELETE FROM {name}", "DELETE FROM ledger.archives",
            "UPDATE ledger.archives SET note = ''", "DELETE FROM ledger.archive_objects", "DELETE FROM ledger.tombstones",
            "UPDATE ledger.archive_objects SET sha256 = ''", "UPDATE ledger.holds SET reason = ''",
            "INSERT INTO ledger.dropped_partitions VALUES (now(), 1, now())",
        ):  # fmt: skip
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


@pytest.mark.parametrize("step", ["proven", "dropped"])
async def test_a_drop_that_dies_changes_nothing(world: ArchiveWorld, step: str) -> None:
    await sealed(world, 20)

    def die(at: str) -> None:
        if at == step:
            raise Died

    with pytest.raises(Died):
        await hot(world, die).drop_due()
    assert default_rows(world) == 20
    await hot(world).drop_due()
    assert default_rows(world) == 0


async def test_a_clock_that_jumps_back_does_not_reach_into_what_is_sealed(world: ArchiveWorld) -> None:
    await sealed(world, 3)
    await hot(world).drop_due()
    world.do("DELETE FROM ledger.events WHERE zone = 'acme'")
    (end,) = world.rows("SELECT max(window_start) + interval '12 hours' FROM ledger.archives WHERE zone = 'acme'")
    world.clock = FakeClock(START)
    await world.filled(1, zone="acme")
    assert world.rows("SELECT min(recorded_at) FROM ledger.events WHERE zone = 'acme'") == [end]


async def test_restored_rows_are_the_bytes_that_left(world: ArchiveWorld) -> None:
    before = await sealed(world, 80, 20)
    await hot(world).drop_due()
    assert default_rows(world) == 0

    def die(at: str) -> None:
        raise Died

    restorer = Restorer(world.database, world.cold, world.recorder, world.clock, fault=die)
    asked = (Context("default"), START, START + timedelta(hours=1))
    with pytest.raises(Died):
        await restorer.restore(*asked, by="jane")
    assert default_rows(world) == 0, "whole or not at all"
    restorer = Restorer(world.database, world.cold, world.recorder, world.clock)
    done = await restorer.restore(*asked, by="jane")
    assert (done.windows, done.events) == (1, 80)
    restored = world.bodies()
    assert {seq: restored[seq] for seq in range(80)} == {seq: before[seq] for seq in range(80)}
    assert (await restorer.restore(*asked, by="jane")).events == 0, "once"
    report = await verify(world.database, "default", world.head_files, cold=world.cold)
    assert (report.verdict, report.archived) == ("PASS", 20)
    assert [w.hot for w in await world.cold.list_windows("default", START, None, include_hot=True)] == [True, False]
    assert (await hot(world).drop_due())["dropped"] >= 0 and default_rows(world) == 80, "as long as was asked for"
    world.wait(days=8)
    await world.sequence()
    await hot(world).drop_due()
    assert default_rows(world) == 0


async def test_damaged_evidence_is_not_restored(world: ArchiveWorld) -> None:
    await sealed(world, 10)
    await hot(world).drop_due()
    part = next(path for path in world.objects() if "default" in path.parts)
    part.write_bytes(part.read_bytes()[:-1])
    restorer = Restorer(world.database, world.cold, world.recorder, world.clock)
    with pytest.raises(BailiwickError) as refused:
        await restorer.restore(Context("default"), START, START + timedelta(hours=1), by="jane")
    assert refused.value.reason == "archive_unproven" and default_rows(world) == 0
    report = await verify(world.database, "default", world.head_files, cold=world.cold)
    assert report.verdict == "FAIL" and "archive" in {finding.kind for finding in report.findings}


async def over(world: ArchiveWorld) -> None:
    """A year later."""
    await sealed(world, 40, 10)
    await hot(world).drop_due()
    world.wait(days=370)
    await world.sequence()


async def test_the_end_takes_two_and_leaves_a_tombstone(world: ArchiveWorld) -> None:
    person(world, "jane", "olga")
    await over(world)
    end, by = endings(world), START + timedelta(days=1)
    approval = await end.propose(Context("default"), by, "past its life", by="jane")
    assert approval.payload["events"] == 50 and approval.candidates == ("olga",)
    again = await end.propose(Context("default"), by, "once more", by="jane")
    assert again.id == approval.id
    assert (await end.run())["purged"] == 0, "nobody approved"
    vote = {"role": "admin", "approves": True, "payload_sha256": approval.payload_sha256}
    with pytest.raises(BailiwickError) as refused:
        await quorum(world).vote(None, "default", approval.id, person="Jane", **vote)
    assert refused.value.reason == "approval_own_request"
    await quorum(world).vote(Context("default"), "default", approval.id, person="olga", **vote)

    hold = await keeping(world).place(Context("default"), START, None, "lawsuit 17", by="olga")
    done = await end.run()
    assert done["purged"] == 0 and "legal_hold" in done["refused"][approval.id] and len(world.objects()) >= 2
    with pytest.raises(BailiwickError, match="legal_hold"):
        await end.propose(Context("default"), by, "again", by="olga")
    asked = await keeping(world).propose_release(Context("default"), hold.id, "settled", by="jane")
    assert (await keeping(world).release_approved())["released"] == 0, "not by one person"
    await quorum(world).vote(
        None, "default", asked.id, person="olga", role="admin", approves=True, payload_sha256=asked.payload_sha256
    )
    assert await keeping(world).release_approved() == {"released": 1, "refused": {}}

    for step in ("proven", "buried", "committed", "object"):

        def die(at: str, step: str = step) -> None:
            if at == step:
                raise Died

        with pytest.raises(Died):
            await endings(world, die).run()
    await end.run()
    assert not [path for path in world.objects() if "default" in path.parts]
    assert (await end.run())["purged"] == 0, "done once"
    await world.sequence()
    report = await verify(world.database, "default", world.head_files, cold=world.cold)
    assert (report.verdict, report.purged, report.archived) == ("PASS", 50, 0)
    (archive,) = [await verify_archive(world.database, world.cold, "default")]
    assert archive.verdict == "PASS" and archive.purged >= 1
    world.do("UPDATE ledger.tombstones SET event_id = gen_random_uuid()")
    assert (await verify(world.database, "default", world.head_files, cold=world.cold)).verdict == "FAIL"


async def test_the_end_does_not_come_early(world: ArchiveWorld) -> None:
    person(world, "jane", "olga")
    await sealed(world, 4)
    with pytest.raises(BailiwickError, match="kept for 365 days"):
        await endings(world).propose(Context("default"), START + timedelta(days=1), "tidy", by="jane")
    await keeping(world).change_lives(Context("default"), Lives(2, 2, 3, 4), "jane")
    world.wait(days=2)
    with pytest.raises(BailiwickError, match="still in the database"):
        await endings(world).propose(Context("default"), START + timedelta(days=1), "tidy", by="jane")


async def test_a_zone_has_lives_of_its_own(world: ArchiveWorld) -> None:
    await keeping(world).change_lives(Context("default"), Lives(2, 30, 40, 50), "jane")
    await world.day(5)
    world.wait(days=2)
    assert (await world.archivist().run()).to_json()["windows"] == 1, "acme waits for its seven days"
    world.wait(days=10)
    await world.sequence()
    await world.archivist().run()
    await hot(world).drop_due()
    assert default_rows(world) >= 5, "a partition is everybody's: the longest life counts"
    with pytest.raises(BailiwickError):
        await keeping(world).change_lives(Context("default"), Lives(9, 3, 40, 50), "jane")
