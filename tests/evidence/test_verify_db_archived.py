"""``bailiwick-verify db`` on a copy whose older rows went elsewhere: never silently."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ledger_world import World
from test_verify_db import Auditor


@pytest.fixture
def moved(world: World) -> Iterator[World]:
    """Tables of an archive, of which only what the verifier reads matters here."""
    world.do("DROP TABLE IF EXISTS ledger.archive_objects, ledger.tombstones CASCADE")
    world.do("CREATE TABLE ledger.archive_objects (zone text, first_seq bigint, last_seq bigint, void_at timestamptz)")
    world.do("CREATE TABLE ledger.tombstones (zone text, first_seq bigint, last_seq bigint)")
    yield world
    world.do("DROP TABLE ledger.archive_objects, ledger.tombstones")


async def test_rows_in_the_archive_are_absent_only_where_that_is_allowed(
    moved: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await moved.filled(400)
    audit = Auditor(moved, tmp_path / "keys", capsys)
    await audit.learn_keys()
    moved.do("DELETE FROM ledger.events WHERE zone = 'default' AND seq < 300")
    moved.do("INSERT INTO ledger.tombstones VALUES ('default', 0, 99)")
    moved.do("INSERT INTO ledger.archive_objects VALUES ('default', 100, 299, NULL), ('default', 300, 350, now())")
    code, report = await audit()
    assert (code, report["first_bad"]) == (1, 0) and "said to hold them" in report["findings"][0]
    code, report = await audit("--archived")
    assert (code, report["checked"], report["elsewhere"], report["findings"]) == (0, 100, 300, [])
    assert "300 events are not here" in report["remarks"][0]
    moved.do("DELETE FROM ledger.events WHERE zone = 'default' AND seq IN (310, 311)")
    code, report = await audit("--archived")
    assert (code, report["first_bad"]) == (1, 310) and "entries 310 to 311" in report["findings"][0]
    moved.do("UPDATE ledger.archive_objects SET first_seq = 150 WHERE first_seq = 100")
    code, report = await audit("--archived")
    assert (code, report["first_bad"]) == (1, 100) and "entries 100 to 149" in report["findings"][0]
    moved.do("UPDATE ledger.archive_objects SET first_seq = 0, last_seq = 399 WHERE first_seq = 150")
    moved.do("DELETE FROM ledger.events WHERE zone = 'default'")
    code, report = await audit("--archived")
    assert (code, report["checked"], report["elsewhere"]) == (0, 0, 400), report["findings"]
    moved.do("UPDATE ledger.hashes SET hashes = overlay(hashes placing 'x'::bytea from 20) WHERE level = 0")
    assert (await audit("--archived"))[0] == 1, "their hashes are still held by the heads"
