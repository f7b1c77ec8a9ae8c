"""The tree as outsiders get it: tiles, proofs, receipts and exports, each checked with the verifier alone."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest
from api_client import ApiClient
from ledger_world import World
from test_audit_cli import Cli, cli  # noqa: F401 - a fixture

from bailiwick.evidence.export import export_log
from bailiwick.evidence.receipts import consistency, inclusion, newest_head, receipt
from bailiwick.evidence.tree import root_at
from bailiwick.kernel.errors import BailiwickError
from bailiwick_verify.checkpoint import open_checkpoint
from bailiwick_verify.log import Folder, Progress, Unreadable, verify_log
from bailiwick_verify.merkle import leaf_hash, verify_consistency, verify_inclusion
from bailiwick_verify.note import VerifierKey
from bailiwick_verify.receipt import Receipt, ReceiptError
from bailiwick_verify.tiles import Tile, decode_bundle, tiles_of


async def keys_of(api: ApiClient, zone: str = "default") -> list[VerifierKey]:
    answer = await api.get(f"/evidence/{zone}/verifier-keys")
    assert answer.status_code == 200, answer.text
    return [VerifierKey.parse(line) for line in answer.text.splitlines()]


def fetching(api: ApiClient) -> Any:
    """``fetch`` of the verifier, from a thread of its own, over the room's routes."""
    loop = asyncio.get_running_loop()

    def fetch(path: str) -> bytes:
        answer = asyncio.run_coroutine_threadsafe(api.get(f"/evidence/default/{path}"), loop).result(30)
        if answer.status_code != 200:
            raise Unreadable(f"{path}: {answer.status_code}")
        return answer.body

    return fetch


async def test_the_verifier_reads_the_log_over_the_routes(world: World, api: ApiClient) -> None:
    written = await world.filled(700)
    keys = await keys_of(api)
    report, progress = await asyncio.to_thread(verify_log, fetching(api), keys)
    assert (report.verdict, report.checked) == ("PASS", 700), report.findings
    await world.filled(400)  # the reading left events of its own: they come along
    report, _ = await asyncio.to_thread(verify_log, fetching(api), keys, known=progress)
    assert report.verdict == "PASS" and report.size > 1100 and report.checked == report.size - 700
    bundle = await api.get("/evidence/default/tile/entries/000")
    assert [json.loads(entry)["id"] for entry in decode_bundle(bundle.body)] == written[:256]


async def test_a_row_changed_in_the_database_is_found_over_the_routes(world: World, api: ApiClient) -> None:
    await world.filled(300)
    world.do("UPDATE ledger.events SET rest = overlay(rest placing 'X'::bytea from 30) WHERE seq = 77")
    report, _ = await asyncio.to_thread(verify_log, fetching(api), await keys_of(api))
    assert (report.verdict, report.first_bad) == ("FAIL", 77)


async def test_every_tile_of_the_signed_tree_is_there_and_none_beyond(world: World, api: ApiClient) -> None:
    await world.filled(700)
    for tile in tiles_of(700):
        answer = await api.get(f"/evidence/default/{tile.path}")
        assert (answer.status_code, len(answer.body)) == (200, tile.width * 32), tile
    beyond = ["tile/0/002", "tile/0/002.p/189", "tile/0/003", "tile/1/000", "tile/2/000.p/1", "tile/entries/002"]
    nonsense = ["tile/0/0", "tile/0/000.p/0", "tile/64/000", "tile/0/../000", "tile/x/000", "tile/entries/0"]
    for path in (*beyond, *nonsense):
        assert (await api.get(f"/evidence/default/{path}")).status_code in {400, 404}, path
    assert (await api.get("/evidence/nowhere/checkpoint")).status_code == 404


async def test_events_no_head_covers_are_not_served(world: World, api: ApiClient) -> None:
    await world.filled(3)
    spool = await world.spool()
    sequencer = world.sequencer(head_interval_s=3600.0)
    await world.put(spool, 1)
    await sequencer.drain()
    (fresh,) = await world.put(spool, 1)
    await sequencer.drain()
    assert (await api.get("/evidence/default/tile/0/000.p/4")).status_code == 200
    assert (await api.get("/evidence/default/tile/0/000.p/5")).status_code == 404
    refused = await api.get(f"/api/v1/audit/events/{fresh}/receipt")
    assert (refused.status_code, refused.json()["reason"]) == (409, "conflict")


async def test_entries_are_for_auditors_of_the_zone(world: World, api: ApiClient) -> None:
    await world.filled(2)
    path = "/evidence/default/tile/entries/000.p/2"
    assert (await api.get(path)).status_code == 200
    assert (await api.get(path, headers={"x-role": "viewer"})).status_code == 403
    assert (await api.get(path, headers={"x-zone": "acme"})).status_code == 403
    sequencer = world.sequencer()
    await sequencer.drain()
    read = [json.loads(body) for body in world.bodies("WHERE code = 'BW5001'")]
    assert [event["subject"]["id"] for event in read] == ["evidence/tile/entries/000.p/2"]


async def test_a_receipt_proves_its_event_offline(world: World, api: ApiClient) -> None:
    written = await world.filled(333)
    keys = await keys_of(api)
    for index in (0, 255, 256, 332):
        answer = await api.get(f"/api/v1/audit/events/{written[index]}/receipt")
        proof = Receipt.parse(answer.body)
        assert json.loads(proof.entry)["id"] == written[index] and proof.index == index
        assert proof.verify(keys).checkpoint.size == 333
    with pytest.raises(ReceiptError):
        proof.verify(await keys_of(api, "acme"))
    assert (await api.get(f"/api/v1/audit/events/{world.ids()}/receipt")).status_code == 404


async def test_proofs_by_the_api(world: World, api: ApiClient) -> None:
    await world.filled(100)
    async with world.database.begin() as tx:
        old_root = await root_at(tx, "default", 100)
    await world.filled(200)
    async with world.database.begin() as tx:
        new_root = await root_at(tx, "default", 300)
        (body,) = world.bodies("WHERE seq = 42")
    told = (await api.get("/api/v1/audit/proofs/inclusion", params={"index": 42})).json()
    path = [base64.b64decode(item) for item in told["path"]]
    assert verify_inclusion(leaf_hash(body), 42, told["size"], path, new_root)
    told = (await api.get("/api/v1/audit/proofs/consistency", params={"old": 100, "new": 300})).json()
    path = [base64.b64decode(item) for item in told["path"]]
    assert verify_consistency(100, 300, old_root, new_root, path)
    for bad in ({"index": 300}, {"index": -1}, {"index": 1, "size": 10_000}, {"index": 5, "size": 5}):
        assert (await api.get("/api/v1/audit/proofs/inclusion", params=bad)).status_code == 400, bad
    for bad in ({"old": 301}, {"old": 5, "new": 4}, {"old": 1, "new": 10_000}):
        assert (await api.get("/api/v1/audit/proofs/consistency", params=bad)).status_code == 400, bad


async def test_a_rotated_key_goes_on_signing_the_same_log(world: World, api: ApiClient) -> None:
    from ledger_world import add_ledger_key

    await world.filled(10)
    (before,) = await keys_of(api)
    import psycopg

    world.do("UPDATE bailiwick.zone_keys SET state = 'retiring' WHERE zone = 'default'")
    with psycopg.connect(world.url, autocommit=True) as connection:
        add_ledger_key(connection, "default")
    world.keys._known.clear()
    await world.filled(10)
    keys = await keys_of(api)
    assert len(keys) == 2 and {key.name for key in keys} == {before.name}
    async with world.database.begin() as tx:
        head = await newest_head(tx, "default")
    assert open_checkpoint(head.note, keys).checkpoint.size == 20
    with pytest.raises(ValueError):
        open_checkpoint(head.note, [before])


async def test_an_export_is_checked_elsewhere_and_grows(world: World, tmp_path: Path) -> None:
    await world.filled(300)
    folder = tmp_path / "export"
    seen = []
    done = await export_log(world.database, "default", folder, lambda n, of: seen.append((n, of)))
    assert (done.events, seen) == (300, [(256, 300), (300, 300)])
    keys = [VerifierKey.parse(line) for line in (folder / "verifier-keys").read_text().splitlines()]
    report, known = verify_log(Folder(folder), keys)
    assert report.verdict == "PASS" and known is not None
    written_before = (folder / Tile(-1, 0).path).stat().st_mtime_ns
    await world.filled(300)
    again = await export_log(world.database, "default", folder)
    assert again.events == 600 and (folder / Tile(-1, 0).path).stat().st_mtime_ns == written_before
    report, _ = verify_log(Folder(folder), keys, known=Progress.from_json(known.to_json()))
    assert (report.verdict, report.checked) == ("PASS", 300)
    world.do("DELETE FROM ledger.events WHERE seq = 5")
    with pytest.raises(BailiwickError, match="not all kept"):
        await export_log(world.database, "default", tmp_path / "other")


async def test_what_is_not_there_is_not_proven(world: World) -> None:
    async with world.database.begin() as tx:
        for ask in (
            receipt(tx, "default", __import__("uuid").uuid4()),
            inclusion(tx, "default", 0, None),
            consistency(tx, "default", 0, None),
        ):
            with pytest.raises(BailiwickError):
                await ask


async def test_the_commands(world: World, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    written = await world.filled(20)
    monkeypatch.chdir(tmp_path)
    assert "event 7 of zone default" in await cli("receipt", written[7])
    proof = Receipt.parse((tmp_path / f"{written[7]}.tlog-proof").read_bytes())
    told = await cli.json("export", str(tmp_path / "log"))
    assert told["events"] == 20
    keys = [VerifierKey.parse(line) for line in (tmp_path / "log" / "verifier-keys").read_text().splitlines()]
    assert proof.verify(keys).checkpoint.size == 20
    await cli("receipt", "nonsense", code=2)
    await cli("receipt", world.ids(), code=3)
    await cli("export", str(tmp_path / "none"), "--zone", "nowhere", code=3)
    await cli("export", "/proc/nowhere", code=1)
