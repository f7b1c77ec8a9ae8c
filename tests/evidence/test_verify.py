from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from ledger_world import World

from bailiwick.evidence.events import encode, leaf_hash
from bailiwick.evidence.frames import Kind
from bailiwick.evidence.ledger import Head, HeadFiles, chain_next, chain_start, head_text
from bailiwick.evidence.verify import VerifyReport, verify
from bailiwick.kernel.clock import FakeClock


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
    world.do("UPDATE ledger.events SET body = overlay(body placing 'X'::bytea from 30) WHERE seq = 7")
    assert first(await check(world)) == ("changed", 7)


async def test_a_changed_body_with_its_leaf_recomputed_is_found(world: World) -> None:
    await world.filled(20)
    body = encode(world.event(user="mallory"))
    world.do("UPDATE ledger.events SET body = %s, leaf = %s WHERE seq = 7", body, leaf_hash(body))
    report = await check(world)
    assert report.first_bad is not None
    assert report.first_bad.seq == 7
    assert {finding.kind for finding in report.findings} >= {"chain"}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("id", "gen_random_uuid()"),
        ("at", "at + interval '1 microsecond'"),
        ("code", "'BW9999'"),
        ("outcome", "'deny'"),
        ("request_id", "NULL"),
        ("decision_id", "gen_random_uuid()"),
        ("principal", "'mallory'"),
        ("server", "'elsewhere'"),
    ],
)
async def test_a_changed_column_is_found(world: World, column: str, value: str) -> None:
    await world.filled(10)
    world.do(f"UPDATE ledger.events SET {column} = {value} WHERE seq = 4")
    report = await check(world)
    assert first(report) == ("column", 4)
    assert column in report.findings[0].why
    assert report.findings_total == 1


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
    assert first(await check(world)) == ("chain", 3)


async def test_an_inserted_row_is_found(world: World) -> None:
    await world.filled(10)
    world.do("INSERT INTO ledger.events SELECT * FROM ledger.events WHERE seq = 5")
    assert first(await check(world)) == ("inserted", 5)


async def test_an_inserted_row_with_the_others_moved_is_found(world: World) -> None:
    await world.filled(10)
    world.do("UPDATE ledger.events SET seq = seq + 1 WHERE seq >= 5")
    world.do(
        "INSERT INTO ledger.events (zone, seq, id, at, recorded_at, code, outcome, request_id, decision_id,"
        " principal, server, leaf, chain, source, position, body)"
        " SELECT zone, 5, id, at, recorded_at, code, outcome, request_id, decision_id,"
        " principal, server, leaf, chain, source, position, body FROM ledger.events WHERE seq = 2"
    )
    assert first(await check(world)) == ("chain", 5)


async def test_swapped_rows_are_found(world: World) -> None:
    await world.filled(10)
    world.do("UPDATE ledger.events SET seq = CASE seq WHEN 4 THEN 5 ELSE 4 END WHERE seq IN (4, 5)")
    assert first(await check(world)) == ("chain", 4)


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
    without_file = await verify(world.database, "default")
    assert (without_file.verdict, without_file.head_file) == ("PASS", "not_checked")


async def test_an_emptied_ledger_is_found(world: World) -> None:
    await world.filled(5)
    world.do("DELETE FROM ledger.events")
    world.do("DELETE FROM ledger.heads")
    assert first(await check(world)) == ("truncated", 0)


async def test_a_chain_rewritten_from_one_row_on_is_found_by_the_heads(world: World) -> None:
    """The attacker recomputes everything he can: leaf and chain of every later row. Heads he cannot sign."""
    await world.filled(10)
    rows = world.rows("SELECT seq, body, chain FROM ledger.events ORDER BY seq")
    chain = bytes(rows[3][2])
    for seq, body, _ in rows[4:]:
        forged = bytes(body).replace(b'"user":"jane"', b'"user":"eve1"')
        chain = chain_next(chain, leaf_hash(forged))
        world.do(
            "UPDATE ledger.events SET body = %s, leaf = %s, chain = %s, principal = 'eve1' WHERE seq = %s",
            forged,
            leaf_hash(forged),
            chain,
            seq,
        )
    assert first(await check(world)) == ("head", 9)
    world.do("UPDATE ledger.heads SET chain = %s WHERE size = 10", chain)
    assert {finding.kind for finding in (await check(world)).findings} == {"head"}
    world.do("DELETE FROM ledger.heads")
    assert first(await check(world)) == ("head", 9)


async def test_a_forged_head_is_found(world: World) -> None:
    await world.filled(10)
    (kid,) = world.rows("SELECT kid FROM ledger.heads")
    chain, at = world.rows("SELECT chain, at FROM ledger.heads")[0]
    stranger = Ed25519PrivateKey.generate()
    world.do("UPDATE ledger.heads SET signature = %s", stranger.sign(head_text("default", 10, bytes(chain), at)))
    report = await check(world)
    assert first(report) == ("head", 9)
    assert "not that of its key" in report.findings[0].why
    world.do("UPDATE ledger.heads SET kid = 'l-unknown' WHERE kid = %s", kid)
    assert "its key is not known" in (await check(world)).findings[0].why


async def test_given_keys_are_used_in_place_of_the_databases(world: World) -> None:
    await world.filled(3)
    stranger = Ed25519PrivateKey.generate().public_key()
    (kid,) = world.rows("SELECT kid FROM ledger.heads")
    report = await verify(world.database, "default", keys={kid: stranger})
    assert first(report) == ("head", 2)


async def test_a_head_file_that_vanished_or_is_damaged_is_found(world: World) -> None:
    await world.filled(3)
    path = world.head_files.path("default")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\n3\n", b"\n03\n"))
    assert first(await check(world)) == ("head", 0)
    path.unlink()
    report = await check(world)
    assert (report.head_file, first(report)) == ("absent", ("head", 2))


async def test_a_part_is_checked_from_a_signed_head_on(world: World) -> None:
    for _ in range(5):
        await world.filled(10)
    report = await check(world, newest=15)
    assert (report.verdict, report.first_seq, report.checked, report.complete) == ("PASS", 30, 20, False)
    world.do("UPDATE ledger.events SET outcome = 'deny' WHERE seq = 3")
    assert (await check(world, newest=15)).verdict == "PASS"
    assert first(await check(world, newest=1000)) == ("column", 3)
    world.do("UPDATE ledger.events SET outcome = 'deny' WHERE seq = 45")
    assert first(await check(world, newest=15)) == ("column", 45)


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
    world.do("UPDATE ledger.events SET code = 'BW1'")
    answer = (await check(world)).to_json()
    assert answer["first_bad"] == {"kind": "column", "seq": 0, "why": "column code says other than the event"}


def signed_head(size: int, chain: bytes, key: Ed25519PrivateKey) -> Head:
    at = FakeClock().now()
    return Head("default", size, chain, at, "k1", key.sign(head_text("default", size, chain, at)))


def test_a_head_survives_its_file(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    head = signed_head(7, chain_start("default"), key)
    files = HeadFiles(tmp_path / "heads")
    assert files.load("default") is None
    files.store(head)
    assert files.load("default") == head
    assert head.signed_by({"k1": key.public_key()})
    assert not head.signed_by({})


@given(st.data())
def test_a_head_file_with_any_byte_changed_is_refused_or_unsigned(data: st.DataObject) -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    head = signed_head(7, bytes(32), key)
    content = bytearray(head.to_file())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    try:
        changed = Head.from_file(bytes(content))
    except ValueError:
        return
    assert not changed.signed_by({"k1": key.public_key()})
