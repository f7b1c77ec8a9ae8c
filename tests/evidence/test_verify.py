from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from ledger_world import World

from bailiwick.evidence.events import encode, leaf_hash
from bailiwick.evidence.frames import Kind
from bailiwick.evidence.ledger import Head, HeadFiles
from bailiwick.evidence.verify import VerifyReport, verify
from bailiwick.kernel.clock import FakeClock
from bailiwick_verify.merkle import Edge
from bailiwick_verify.note import ED25519, Signer, VerifierKey, parse_note


async def check(world: World, **options: int) -> VerifyReport:
    return await verify(world.database, "default", world.head_files, **options)


def first(report: VerifyReport) -> tuple[str, int]:
    assert report.verdict == "FAIL"
    assert report.first_bad is not None
    return report.first_bad.kind, report.first_bad.seq


async def test_an_untouched_ledger_passes(world: World) -> None:
    await world.filled(50)
    report = await check(world)
    assert (report.verdict, report.events, report.checked, report.unsigned) == ("PASS", 50, 50, 0)
    assert report.complete and report.heads >= 1 and report.head_file == "present"


async def test_an_empty_ledger_is_no_data(world: World) -> None:
    assert (await check(world)).verdict == "NO_DATA"


async def test_a_changed_body_is_found(world: World) -> None:
    await world.filled(20)
    world.do("UPDATE ledger.events SET rest = overlay(rest placing 'X'::bytea from 30) WHERE seq = 7")
    assert first(await check(world)) == ("changed", 7)


async def test_a_changed_body_with_its_leaf_recomputed_is_found(world: World) -> None:
    await world.filled(20)
    body = encode(world.event(user="mallory"))
    world.do("UPDATE ledger.events SET rest = %s WHERE seq = 7", b"\n" + body)
    forged = "overlay(hashes placing %s from 7 * 32 + 1)"
    world.do(f"UPDATE ledger.hashes SET hashes = {forged} WHERE level = 0 AND first = 0", leaf_hash(body))
    report = await check(world)
    assert first(report)[0] in {"column", "head"}
    assert "head" in {finding.kind for finding in report.findings}


@pytest.mark.parametrize(
    ("column", "value", "kind"),
    [
        ("id", "gen_random_uuid()", "changed"),
        ("at", "at + interval '1 microsecond'", "changed"),
        ("code", "'BW9999'", "changed"),
        ("outcome", "'deny'", "changed"),
        ("request_id", "NULL", "changed"),
        ("principal", "'mallory'", "column"),
        ("server", "'elsewhere'", "changed"),
    ],
)
async def test_a_changed_column_is_found(world: World, column: str, value: str, kind: str) -> None:
    await world.filled(10)
    world.do(f"UPDATE ledger.events SET {column} = {value} WHERE seq = 4")
    assert first(await check(world)) == (kind, 4)


async def test_an_event_moved_to_another_zone_is_missing_where_it_was(world: World) -> None:
    await world.filled(10)
    world.do("UPDATE ledger.events SET zone = 'acme' WHERE seq = 4")
    assert first(await check(world)) == ("removed", 4)


async def test_a_removed_row_is_found(world: World) -> None:
    await world.filled(10)
    world.do("DELETE FROM ledger.events WHERE seq IN (3, 4)")
    report = await check(world)
    assert first(report) == ("removed", 3)
    assert "3 to 4" in report.findings[0].why


async def test_a_removed_first_row_is_found(world: World) -> None:
    await world.filled(10)
    world.do("DELETE FROM ledger.events WHERE seq = 0")
    assert first(await check(world)) == ("removed", 0)


async def test_rows_closed_up_after_a_removal_are_found(world: World) -> None:
    await world.filled(10)
    world.do("DELETE FROM ledger.events WHERE seq = 3")
    world.do("UPDATE ledger.events SET seq = seq - 1 WHERE seq > 3")
    assert first(await check(world)) == ("changed", 3)


async def test_an_inserted_row_is_found(world: World) -> None:
    await world.filled(10)
    world.do("INSERT INTO ledger.events SELECT * FROM ledger.events WHERE seq = 5")
    assert first(await check(world)) == ("inserted", 5)


async def test_an_inserted_row_with_the_others_moved_is_found(world: World) -> None:
    await world.filled(10)
    world.do("UPDATE ledger.events SET seq = seq + 1 WHERE seq >= 5")
    world.do(
        "INSERT INTO ledger.events (zone, seq, id, at, recorded_at, code, outcome, request_id,"
        " principal, server, rest)"
        " SELECT zone, 5, id, at, recorded_at, code, outcome, request_id,"
        " principal, server, rest FROM ledger.events WHERE seq = 2"
    )
    assert first(await check(world)) == ("changed", 5)


async def test_swapped_rows_are_found(world: World) -> None:
    await world.filled(10)
    world.do("UPDATE ledger.events SET seq = CASE seq WHEN 4 THEN 5 ELSE 4 END WHERE seq IN (4, 5)")
    assert first(await check(world)) == ("changed", 4)


async def test_truncated_rows_are_found(world: World) -> None:
    await world.filled(10)
    world.do("DELETE FROM ledger.events WHERE seq >= 8")
    assert first(await check(world)) == ("truncated", 8)


async def test_rows_truncated_together_with_their_heads_are_found(world: World) -> None:
    await world.filled(5)
    await world.filled(5)
    world.do("DELETE FROM ledger.events WHERE seq >= 5")
    world.do("DELETE FROM ledger.heads WHERE size > 5")
    assert first(await check(world)) == ("truncated", 5)
    assert first(await verify(world.database, "default")) == ("removed", 5)  # the tree remembers them
    world.do("DELETE FROM ledger.hashes WHERE first >= 5")
    without_file = await verify(world.database, "default")
    assert (without_file.verdict, without_file.head_file) == ("PASS", "not_checked")


async def test_an_emptied_ledger_is_found(world: World) -> None:
    await world.filled(5)
    world.do("DELETE FROM ledger.events")
    world.do("DELETE FROM ledger.heads")
    assert first(await check(world)) == ("truncated", 0)


async def test_a_tree_rewritten_from_one_row_on_is_found_by_the_heads(world: World) -> None:
    """The attacker recomputes everything he can: every later row and the stored tree. Heads he cannot sign."""
    await world.filled(10)
    world.do(
        """UPDATE ledger.events SET principal = 'eve1',
        rest = convert_to(replace(convert_from(rest, 'UTF8'), '"user":"jane"', '"user":"eve1"'), 'UTF8') WHERE seq > 3"""
    )
    leaves = [leaf_hash(body) for body in world.bodies()]
    world.do("UPDATE ledger.hashes SET hashes = %s WHERE level = 0", b"".join(leaves))
    assert first(await check(world)) == ("head", 9)
    edge = Edge([leaves])
    world.do("UPDATE ledger.heads SET root = %s WHERE size = 10", edge.root())
    assert {finding.kind for finding in (await check(world)).findings} == {"head"}
    stranger = Head.sign("default", 10, edge.root(), world.clock.now(), "k", Signer("elsewhere", stranger_key()))
    world.do("UPDATE ledger.heads SET note = %s", stranger.note)
    assert {finding.kind for finding in (await check(world)).findings} == {"head"}
    world.do("DELETE FROM ledger.heads")
    assert first(await check(world)) == ("head", 9)


async def test_a_damaged_tree_is_found_whatever_its_level(world: World) -> None:
    await world.filled(600)
    assert (await check(world)).verdict == "PASS"
    world.do("UPDATE ledger.hashes SET hashes = overlay(hashes placing 'x'::bytea from 300 * 32 + 1) WHERE level = 0")
    assert first(await check(world)) == ("changed", 300)
    world.do("DELETE FROM ledger.hashes WHERE level = 0")
    report = await check(world)
    assert first(report)[0] in {"hash", "truncated", "removed"}


async def test_a_forged_head_is_found(world: World) -> None:
    await world.filled(10)
    note, root, at, kid = world.rows("SELECT note, root, at, kid FROM ledger.heads WHERE size = 10")[0]
    origin = parse_note(bytes(note)).text.split("\n")[0]
    forged = Head.sign("default", 10, bytes(root), at, kid, Signer(origin, stranger_key()))
    world.do("UPDATE ledger.heads SET note = %s WHERE size = 10", forged.note)
    report = await check(world)
    assert first(report) == ("head", 9)
    assert "no known key" in report.findings[0].why


async def test_given_keys_are_used_in_place_of_the_databases(world: World) -> None:
    await world.filled(3)
    stranger = VerifierKey("elsewhere", ED25519, stranger_key().public_key().public_bytes_raw())
    report = await verify(world.database, "default", keys={"k": stranger})
    assert first(report) == ("head", 2)


def stranger_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(b"stranger" * 4)


async def test_a_head_file_that_vanished_or_is_damaged_is_found(world: World) -> None:
    await world.filled(3)
    path = world.head_files.path("default")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\n3\n", b"\n03\n"))
    assert first(await check(world)) == ("head", 0)
    path.unlink()
    report = await check(world)
    assert (report.head_file, first(report)) == ("absent", ("head", 2))


async def test_the_first_head_of_a_zone_may_be_published_while_the_check_runs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.filled(3)
    load, looks = world.head_files.load, 0

    def not_yet(zone: str) -> Head | None:
        nonlocal looks
        looks += 1
        return load(zone) if looks > 2 else None

    monkeypatch.setattr(world.head_files, "load", not_yet)
    report = await verify(world.database, "default", world.head_files)
    assert (report.verdict, looks) == ("PASS", 3)


async def test_a_part_is_checked_from_a_full_tile_on(world: World) -> None:
    for _ in range(5):
        await world.filled(110)
    report = await check(world, newest=15)
    assert (report.verdict, report.first_seq, report.checked, report.complete) == ("PASS", 512, 38, False)
    world.do("UPDATE ledger.events SET outcome = 'deny' WHERE seq = 3")
    assert (await check(world, newest=15)).verdict == "PASS"
    assert first(await check(world, newest=1000)) == ("changed", 3)
    world.do("UPDATE ledger.events SET outcome = 'deny' WHERE seq = 545")
    assert first(await check(world, newest=15)) == ("changed", 545)


async def test_unsigned_events_are_counted(world: World) -> None:
    await world.filled(4)
    spool = await world.spool()
    sequencer = world.sequencer(head_interval_s=3600.0)
    await world.put(spool, 2)
    await sequencer.drain()
    await world.put(spool, 3)
    await sequencer.drain()
    report = await check(world)
    assert (report.verdict, report.events, report.unsigned) == ("PASS", 9, 3)


async def test_the_report_is_plain_values(world: World) -> None:
    spool = await world.spool()
    await spool.append(Kind.EVENT, "default", encode(world.event()))
    await world.sequencer().drain()
    world.do("UPDATE ledger.events SET principal = 'eve'")
    answer = (await check(world)).to_json()
    assert answer["first_bad"] == {"kind": "column", "seq": 0, "why": "column principal says other than the event"}


ORIGIN = "bailiwick/k1/default"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
KNOWN = [VerifierKey(ORIGIN, ED25519, KEY.public_key().public_bytes_raw())]


def signed_head(size: int) -> Head:
    return Head.sign("default", size, bytes(32), FakeClock().now(), "", Signer(ORIGIN, KEY))


def test_a_head_survives_its_file(tmp_path: Path) -> None:
    head = signed_head(7)
    files = HeadFiles(tmp_path / "heads")
    assert files.load("default") is None
    files.store(head)
    assert files.load("default") == head
    assert head.false_because(KNOWN) is None
    assert head.false_because([]) is not None


@given(st.data())
def test_a_head_file_with_any_byte_changed_is_refused_or_not_genuine(data: st.DataObject) -> None:
    content = bytearray(signed_head(7).note)
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    try:
        changed = Head.read("default", bytes(content))
    except ValueError:
        return
    assert changed.false_because(KNOWN) is not None
