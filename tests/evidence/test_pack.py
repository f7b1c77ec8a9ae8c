"""Evidence packs built from a real ledger, checked by the verifier, and tampered with in every part."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ledger_world import World

from bailiwick.evidence.events import Actor, Context, encode
from bailiwick.evidence.evidence_records import EvidenceRecords, Producer
from bailiwick.evidence.frames import Kind
from bailiwick.evidence.inputs import digest_of
from bailiwick.evidence.ledger import ledger_keys
from bailiwick.evidence.pack import Outcome, Pack, PackBuilder, Section, Selection, Window
from bailiwick.evidence.pack_sections import evidence_sections
from bailiwick.evidence.recording import WorkerEvidence
from bailiwick.kernel.clock import FakeClock
from bailiwick.kernel.errors import BailiwickError, InvalidRequest, NotFound
from bailiwick_verify.cli import main
from bailiwick_verify.note import VerifierKey
from bailiwick_verify.pack import PackReport, PackStatement, verify_pack

CONTEXT = Context("default", Actor(user="olga"))
ALL = Window(datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))


def builder(world: World, *more: Section, **options: Any) -> PackBuilder:
    made = PackBuilder(
        world.database, world.clock, world.ids, world.recorder, world.keys, "1.2.3", head_files=world.head_files,
        **options,
    )  # fmt: skip
    for section in (*evidence_sections(lambda: world.sealer), *more):
        made.register(section)
    return made


async def keys(world: World) -> list[VerifierKey]:
    async with world.database.begin() as tx:
        return list((await ledger_keys(tx, "default")).values())


async def check(world: World, path: Path) -> PackReport:
    return verify_pack(path, await keys(world))


async def packed(world: World, path: Path, *windows: Window, requests: tuple[UUID, ...] = (), **more: Any) -> Path:
    await builder(world).build(Selection("default", requests, windows, **more), path, CONTEXT)
    return path


async def test_a_window_is_packed_and_holds(world: World, tmp_path: Path) -> None:
    await world.filled(700)
    path = await packed(world, tmp_path / "p.zip", ALL)
    report = await check(world, path)
    assert (report.verdict, report.events, report.gaps, report.tree_size) == ("PASS", 700, 0, 700), report.findings
    assert report.first_bad == "" and report.signed_at and report.checkpoint_at
    with zipfile.ZipFile(path) as archive:
        lines = archive.read("events/events.jsonl").splitlines()
    assert lines == world.bodies()


async def test_a_request_is_packed_with_receipts(world: World, tmp_path: Path) -> None:
    request = world.ids()
    await world.filled(300)
    await world.filled(2, request_id=request)
    await world.filled(300)
    await world.filled(1, request_id=request)
    path = await packed(world, tmp_path / "p.zip", requests=(UUID(request),))
    report = await check(world, path)
    assert (report.verdict, report.events, report.gaps) == ("PASS", 3, 300), report.findings
    with zipfile.ZipFile(path) as archive:
        assert len([name for name in archive.namelist() if name.startswith("receipts/")]) == 3
        timeline = [json.loads(line) for line in archive.read("timeline/timeline.jsonl").splitlines()]
    assert [each["seq"] for each in timeline] == [300, 301, 602]


async def test_requests_and_windows_together_are_their_union(world: World, tmp_path: Path) -> None:
    request = world.ids()
    await world.filled(5)
    moment = datetime.now(UTC)
    await world.filled(5)
    later = datetime.now(UTC)
    await world.filled(1, request_id=request)
    await world.filled(5)
    path = await packed(world, tmp_path / "p.zip", Window(moment, later), requests=(UUID(request),))
    report = await check(world, path)
    assert (report.verdict, report.events) == ("PASS", 6), report.findings


async def test_a_window_without_events_is_a_genuine_pack_of_none(world: World, tmp_path: Path) -> None:
    await world.filled(3)
    window = Window(datetime(2020, 1, 1, tzinfo=UTC), datetime(2020, 1, 2, tzinfo=UTC))
    path = await packed(world, tmp_path / "p.zip", window)
    report = await check(world, path)
    assert (report.verdict, report.events, report.findings) == ("NO_DATA", 0, [])
    assert main(["pack", str(path), "--key", str((await keys(world))[0])]) == 3


async def test_what_cannot_be_packed_leaves_nothing(world: World, tmp_path: Path) -> None:
    path = tmp_path / "p.zip"
    with pytest.raises(NotFound):
        await packed(world, path, ALL)  # nothing is signed
    await world.filled(3)
    with pytest.raises(NotFound):
        await packed(world, path, requests=(UUID(world.ids()),))
    with pytest.raises(InvalidRequest):
        await packed(world, path)
    with pytest.raises(InvalidRequest):
        await packed(world, path, Window(ALL.until, ALL.since))
    with pytest.raises(NotFound):
        await builder(world).build(Selection("nowhere", windows=(ALL,)), path, CONTEXT)
    with pytest.raises(OSError, match="No such file"):
        await packed(world, tmp_path / "nowhere" / "p.zip", ALL)

    async def explode(pack: Pack) -> Outcome:
        await pack.put("begun", b"x")
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        bad = Section("bad", "", "", explode)
        await builder(world, bad).build(Selection("default", windows=(ALL,)), path, CONTEXT)
    assert list(tmp_path.glob("*.zip")) == list(tmp_path.glob(".*")) == []
    assert world.rows("SELECT count(*) FROM bailiwick.outbox") == [0], "no event of a pack that is not there"


async def test_no_incident_register_is_told_so(world: World) -> None:
    async with world.database.begin() as tx:
        with pytest.raises(BailiwickError) as refused:
            await builder(world).of_incident(tx, "default", "INC-1")
        assert refused.value.reason == "no_incident_register"

        async def register(tx: Any, zone: str, incident: str) -> Selection:
            return Selection(zone, windows=(ALL,), name=incident)

        found = await builder(world, incidents=register).of_incident(tx, "default", "INC-1")
    assert found.name == "INC-1"


async def test_the_ledger_knows_the_pack_by_its_hash(world: World, tmp_path: Path) -> None:
    await world.filled(3)
    built = await builder(world).build(Selection("default", windows=(ALL,)), tmp_path / "p.zip", CONTEXT)
    data = built.path.read_bytes()
    assert (built.sha256, built.bytes) == (hashlib.sha256(data).hexdigest(), len(data))
    (event,) = [json.loads(bytes(body)) for body in world.rows("SELECT event FROM bailiwick.outbox")]
    assert (event["name"], event["details"]["sha256"]) == ("evidence.pack.built", built.sha256)
    assert (event["subject"]["id"], event["actor"]["user"]) == (built.id, "olga")
    assert built.path.stat().st_mode & 0o777 == 0o600


async def test_the_same_content_is_the_same_file(world: World, tmp_path: Path) -> None:
    await world.filled(30)
    clock = FakeClock(datetime.now(UTC) + timedelta(seconds=1))
    archives = []
    for name in ("a.zip", "b.zip"):
        made = PackBuilder(world.database, clock, world.ids, world.recorder, world.keys, "1")
        for section in evidence_sections(lambda: world.sealer):
            made.register(section)
        await made.build(Selection("default", windows=(ALL,)), tmp_path / name, CONTEXT, identifier="same")
        archives.append((tmp_path / name).read_bytes())
    assert archives[0] == archives[1]
    names = zipfile.ZipFile(tmp_path / "a.zip").namelist()
    assert names == sorted(names)
    assert {info.date_time for info in zipfile.ZipFile(tmp_path / "a.zip").infolist()} == {(1980, 1, 1, 0, 0, 0)}


async def test_a_simulated_clock_is_never_valid(world: World, tmp_path: Path) -> None:
    await world.filled(3)
    simulated = FakeClock(datetime.now(UTC) + timedelta(seconds=1))
    made = PackBuilder(world.database, simulated, world.ids, world.recorder, world.keys, "1")
    for section in evidence_sections(None):
        made.register(section)
    built = await made.build(Selection("default", windows=(ALL,)), tmp_path / "p.zip", CONTEXT)
    assert (await check(world, built.path)).verdict == "SIMULATED"
    assert main(["pack", str(built.path), "--key", str((await keys(world))[0])]) == 1


async def test_a_simulated_event_makes_a_pack_simulated(world: World, tmp_path: Path) -> None:
    spool = await world.spool()
    event = msgspec.structs.replace(world.event(), simulated_clock=True)
    await spool.append(Kind.EVENT, "default", encode(event))
    await world.filled(2)
    assert (await check(world, await packed(world, tmp_path / "p.zip", ALL))).verdict == "SIMULATED"


async def test_records_and_their_outputs_are_packed(world: World, tmp_path: Path) -> None:
    await world.filled(3)
    now = datetime.now(UTC)
    producer = Producer(name="olga", program="test", version="1")
    async with world.database.begin() as tx:
        for code, said in ((0, b"fine"), (1, b"broken")):
            await EvidenceRecords(world.clock, world.recorder).probe(
                tx, CONTEXT, "disk.space", said, exit_code=code, since=now, until=now, producer=producer
            )
    path = await packed(world, tmp_path / "p.zip", ALL)
    assert (await check(world, path)).verdict == "PASS"
    with zipfile.ZipFile(path) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        outputs = {each["path"]: each["verdict"] for each in manifest["files"] if "/outputs/" in each["path"]}
        assert {archive.read(name): verdict for name, verdict in outputs.items()} == {
            b"fine": "PASS",
            b"broken": "FAIL",
        }
    (section,) = [each for each in manifest["sections"] if each["name"] == "records"]
    assert section["verdict"] == "FAIL"


async def test_decision_inputs_are_packed_when_asked_for(world: World, tmp_path: Path) -> None:
    body = b'{"action":"read","user":{"id":"jane"}}'
    digest = digest_of(body)
    spool = await world.spool()
    evidence = WorkerEvidence(spool, world.sealer, world.clock)
    evidence.decision_input("default", digest, body)
    await evidence.event("default", encode(world.event(input=digest)))
    await evidence.event("default", encode(world.event(input=digest_of(b"long gone"))))
    await world.filled(1)
    without = await packed(world, tmp_path / "a.zip", ALL)
    path = await packed(world, tmp_path / "b.zip", ALL, inputs=True)
    assert "inputs/inputs.jsonl" not in zipfile.ZipFile(without).namelist()
    told = {
        each["digest"]: each for each in map(json.loads, zipfile.ZipFile(path).read("inputs/inputs.jsonl").splitlines())
    }
    assert told[digest] == {"digest": digest, "state": "present", "body": body.decode()}
    assert told[digest_of(b"long gone")]["state"] == "expired"
    assert (await check(world, path)).verdict == "PASS"


async def test_a_damaged_ledger_is_packed_and_the_verifier_says_where(world: World, tmp_path: Path) -> None:
    await world.filled(600)
    world.do("UPDATE ledger.events SET server = 'elsewhere' WHERE seq = 300")
    report = await check(world, await packed(world, tmp_path / "a.zip", ALL))
    assert (report.verdict, report.first_bad) == ("FAIL", "events/events.jsonl")
    assert "position 300" in report.findings[0]
    world.do("DELETE FROM ledger.hashes WHERE level = 0 AND first = 0")
    path = await packed(world, tmp_path / "b.zip", ALL)
    assert (await check(world, path)).verdict == "FAIL"
    manifest = json.loads(zipfile.ZipFile(path).read("manifest.json"))
    assert [each["verdict"] for each in manifest["sections"] if each["name"] == "log"] == ["ERROR"]


async def test_a_ledger_cut_off_together_with_its_heads_is_seen_by_the_head_outside(
    world: World, tmp_path: Path
) -> None:
    await world.filled(5)
    await world.filled(5)
    world.do("DELETE FROM ledger.events WHERE seq >= 5")
    world.do("DELETE FROM ledger.heads WHERE size > 5")
    world.do("DELETE FROM ledger.hashes WHERE first >= 5")
    report = await check(world, await packed(world, tmp_path / "p.zip", ALL))
    assert (report.verdict, report.first_bad) == ("FAIL", "heads/published")
    assert "cut off" in report.findings[0]


async def test_a_forged_index_is_harmless_text(world: World, tmp_path: Path) -> None:
    await world.filled(1)
    path = await packed(world, tmp_path / "p.zip", ALL, name="<script>alert(1)</script>|x")
    with zipfile.ZipFile(path) as archive:
        page, readme = archive.read("index.html").decode(), archive.read("README.md").decode()
        index = json.loads(archive.read("index.json"))
    assert "<script" not in page and "&lt;script&gt;" in page
    assert "bailiwick-verify pack" in readme and index["selection"]["name"].startswith("<script>")
    assert "events/events.jsonl" in {each["path"] for each in index["files"]}


# ---------------------------------------------------------------------- tampering


def rewritten(path: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """The archive with other content, written anew."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    bad = path.with_name("bad.zip")
    with zipfile.ZipFile(bad, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return bad


async def resigned(world: World, path: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """The same by somebody who has the key: what he cannot forge is the tree."""
    _, signer = await world.keys.signer("default")

    def sign(files: dict[str, bytes]) -> None:
        change(files)
        manifest = json.loads(files["manifest.json"])
        listed = {each["path"]: each for each in manifest["files"]}
        manifest["files"] = [
            {**listed.get(name, {}), "path": name, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
            for name, data in files.items()
            if name not in ("manifest.json", "manifest.note")
        ]
        files["manifest.json"] = json.dumps(manifest).encode()
        statement = PackStatement.of(signer.key.name, files["manifest.json"])
        files["manifest.note"] = bytes(statement.signed(signer, 1))

    return rewritten(path, sign)


@pytest.fixture
async def whole(world: World, tmp_path: Path) -> Path:
    await world.filled(300)
    await world.filled(5)
    now = datetime.now(UTC)
    async with world.database.begin() as tx:
        await EvidenceRecords(world.clock, world.recorder).probe(
            tx, CONTEXT, "disk.space", b"fine", exit_code=0, since=now, until=now,
            producer=Producer(name="olga", program="test", version="1"),
        )  # fmt: skip
    requests = tuple(world.rows("SELECT request_id FROM ledger.events ORDER BY seq DESC LIMIT 3"))
    return await packed(world, tmp_path / "whole.zip", ALL, requests=requests)


async def test_every_file_changed_added_removed_or_renamed_is_found(world: World, whole: Path) -> None:
    known = await keys(world)
    names = zipfile.ZipFile(whole).namelist()
    assert {name.split("/")[0] for name in names} >= {"events", "log", "heads", "records", "timeline", "README.md"}
    assert verify_pack(whole, known).verdict == "PASS"
    for name in names:

        def flip(files: dict[str, bytes], name: str = name) -> None:
            data = bytearray(files[name] or b"x")
            data[len(data) // 2] ^= 1
            files[name] = bytes(data)

        def grow(files: dict[str, bytes], name: str = name) -> None:
            files[name] += b"\n"

        def remove(files: dict[str, bytes], name: str = name) -> None:
            del files[name]

        for change in (flip, grow, remove):
            report = verify_pack(rewritten(whole, change), known)
            assert report.verdict == "FAIL" and report.findings, (name, change.__name__)
            if name not in ("manifest.json", "manifest.note"):
                assert report.first_bad == name, (name, change.__name__, report.findings)

    report = verify_pack(rewritten(whole, lambda files: files.update({"events/more.txt": b"x"})), known)
    assert (report.verdict, report.first_bad) == ("FAIL", "events/more.txt")


async def test_each_bit_of_the_signature_counts_and_so_does_the_key(world: World, whole: Path) -> None:
    known = await keys(world)
    note = zipfile.ZipFile(whole).read("manifest.note")
    for at in range(0, len(note), 7):
        changed = note[:at] + bytes([note[at] ^ 4]) + note[at + 1 :]
        report = verify_pack(rewritten(whole, lambda files, to=changed: files.update({"manifest.note": to})), known)
        assert report.verdict == "FAIL", at
    stranger = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    assert verify_pack(whole, [VerifierKey(known[0].name, known[0].kind, stranger)]).first_bad == "manifest.note"
    assert verify_pack(whole, []).verdict == "FAIL"


def _event_changed(files: dict[str, bytes]) -> None:
    files["events/events.jsonl"] = files["events/events.jsonl"].replace(b'"user":"jane"', b'"user":"eve1"', 1)


def _event_dropped_with_its_position(files: dict[str, bytes]) -> None:
    files["events/events.jsonl"] = b"".join(files["events/events.jsonl"].splitlines(True)[1:])


def _events_swapped(files: dict[str, bytes]) -> None:
    first, second, *rest = files["events/events.jsonl"].splitlines(True)
    files["events/events.jsonl"] = b"".join([second, first, *rest])


def _positions_out_of_order(files: dict[str, bytes]) -> None:
    first, second, *rest = files["events/positions.txt"].splitlines(True)
    files["events/positions.txt"] = b"".join([second, first, *rest])


def _position_too_many(files: dict[str, bytes]) -> None:
    files["events/positions.txt"] += b"304\n"


def _tile_changed(files: dict[str, bytes]) -> None:
    files["log/tile/0/000"] = bytes(32) + files["log/tile/0/000"][32:]


def _edge_changed(files: dict[str, bytes]) -> None:
    files["log/tile/0/001.p/49"] = bytes(32) + files["log/tile/0/001.p/49"][32:]


def _tile_removed(files: dict[str, bytes]) -> None:
    del files["log/tile/0/000"]


def _stray_tile(files: dict[str, bytes]) -> None:
    files["log/tile/0/007"] = bytes(8192)


def _checkpoint_of_before(files: dict[str, bytes]) -> None:
    files["log/checkpoint"] = json.loads(files["heads/heads.jsonl"].splitlines()[0])["note"].encode()


def _receipt_changed(files: dict[str, bytes]) -> None:
    for name in [name for name in files if name.startswith("receipts/")]:
        files[name] = files[name].replace(b"index ", b"index 1", 1)


def _record_changed(files: dict[str, bytes]) -> None:
    files["records/records.jsonl"] = files["records/records.jsonl"].replace(b'\\"exit\\":0', b'\\"exit\\":1')


def _output_changed(files: dict[str, bytes]) -> None:
    (name,) = [name for name in files if name.startswith("records/outputs/")]
    files[name] = b"fin3"


def _head_forged(files: dict[str, bytes]) -> None:
    files["heads/heads.jsonl"] = files["heads/heads.jsonl"].replace(b"\\n300\\n", b"\\n299\\n")


def _head_out_of_order(files: dict[str, bytes]) -> None:
    files["heads/heads.jsonl"] = b"".join(reversed(files["heads/heads.jsonl"].splitlines(True)))


def _consistency_changed(files: dict[str, bytes]) -> None:
    told = json.loads(files["heads/consistency.json"])
    files["heads/consistency.json"] = json.dumps({**told, "path": told["path"][:-1]}).encode()


def _counted_otherwise(files: dict[str, bytes]) -> None:
    manifest = json.loads(files["manifest.json"])
    manifest["events"]["count"] -= 1
    files["manifest.json"] = json.dumps(manifest).encode()


def _asked_for_otherwise(files: dict[str, bytes]) -> None:
    manifest = json.loads(files["manifest.json"])
    manifest["selection"]["windows"] = []
    files["manifest.json"] = json.dumps(manifest).encode()


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (_event_changed, "events/events.jsonl"),
        (_event_dropped_with_its_position, "events/events.jsonl"),
        (_events_swapped, "events/events.jsonl"),
        (_positions_out_of_order, "events/events.jsonl"),
        (_position_too_many, "events/positions.txt"),
        (_tile_changed, "log/tile/0/000"),
        (_edge_changed, "log/checkpoint"),
        (_tile_removed, "log/tile/0/000"),
        (_stray_tile, "log/tile/0/007"),
        (_checkpoint_of_before, "log/tile/0/001.p/44"),
        (_record_changed, "records/records.jsonl"),
        (_output_changed, "records/outputs/"),
        (_head_forged, "heads/heads.jsonl"),
        (_head_out_of_order, "heads/heads.jsonl"),
        (_consistency_changed, "heads/consistency.json"),
        (_counted_otherwise, "events/events.jsonl"),
        (_asked_for_otherwise, "events/events.jsonl"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
async def test_who_has_the_key_still_cannot_forge_the_evidence(
    world: World, whole: Path, change: Callable[[dict[str, bytes]], None], where: str
) -> None:
    report = verify_pack(await resigned(world, whole, change), await keys(world))
    assert report.verdict == "FAIL" and report.first_bad.startswith(where), report.findings


async def test_a_forged_receipt_is_found(world: World, tmp_path: Path) -> None:
    await world.filled(20)
    path = await packed(world, tmp_path / "p.zip", ALL)
    report = verify_pack(await resigned(world, path, _receipt_changed), await keys(world))
    assert report.verdict == "FAIL" and report.first_bad.startswith("receipts/")
