"""Handover packs checked offline: what is genuine holds, and whatever is changed in one is found, even by who has the key."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import zipfile
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from handover_desk import Desk, repacked
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger_world import World

from bailiwick.evidence.archive.places import Places
from bailiwick.evidence.archive.purge import HotRows
from bailiwick.evidence.archive.reader import ColdEvents
from bailiwick.evidence.archive.seal import Archivist, Bounds
from bailiwick.evidence.archive.store import FolderStore
from bailiwick.evidence.evidence_records import Producer
from bailiwick.handover.handovers.section import _receipt
from bailiwick.handover.ports import Statement
from bailiwick.kernel.errors import Conflict
from bailiwick.kernel.verdicts import Verdict
from bailiwick_verify.archive import Archive
from bailiwick_verify.cli import main
from bailiwick_verify.handover import DOCUMENT, RECEIPTS, RECORDS, SIGNATURES
from bailiwick_verify.note import Signer, VerifierKey
from bailiwick_verify.pack import verify_pack
from bailiwick_verify.webauthn import BadAssertion, RelyingParty, decoded, verify_assertion
from people_fixtures import House

Files = dict[str, bytes]
ARCHIVE_TABLES = (
    "archives", "archive_objects", "archive_lives", "dropped_partitions", "restores", "holds", "tombstones",
)  # fmt: skip


@pytest.fixture
async def desk(house: House, database_url: str, tmp_path: Path) -> AsyncIterator[Desk]:
    world = await World.make(database_url, tmp_path)
    house.clock.simulated = False
    world.clock = house.clock
    world.keys._clock = house.clock
    yield await Desk(house, world, tmp_path).open()
    await world.close()


@dataclass
class Accepted:
    """An accepted pack as a file, and the keys."""

    path: Path
    keys: list[VerifierKey]
    signer: Signer

    def bad(self, change: Callable[[Files], None]) -> tuple[str, str]:
        """What is found first after ``change``, though signed anew."""
        out = self.path.with_name("changed.zip")
        report = verify_pack(repacked(self.path, out, self.signer, change), self.keys)
        assert report.verdict == "FAIL" or not report.findings, report
        return report.first_bad, "; ".join(report.findings)


@pytest.fixture
async def accepted(desk: Desk) -> Accepted:
    built = await desk.accepted()
    return Accepted(await desk.zipped(built), await desk.trusted(), await desk.signer())


def edited(name: str, edit: Callable[[Any], None]) -> Callable[[Files], None]:
    """A change to one JSON file; the document stays in its one form."""

    def change(files: Files) -> None:
        told = json.loads(files[name])
        edit(told)
        files[name] = json.dumps(told, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    return change


async def test_an_accepted_handover_holds_and_says_who_signed_how(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    built = await desk.accepted()
    path = await desk.zipped(built)
    report = await desk.check(path)
    assert report.verdict == "PASS", report.findings
    found = report.handover
    assert found is not None and found["sha256"] == built["sha256"] and found["state"] == "accepted"
    assert [(each["team"], each["how"], each["user_verified"]) for each in found["signatures"]] == [
        ("engineering", "webauthn", True), ("operations", "step-up", False), ("security", "webauthn", False),
        ("management", "step-up", False),
    ]  # fmt: skip
    assert (found["accepted_by"], found["missing"], found["verdict"], found["statements"]) == ("olga", [], "PASS", 8)
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
    assert {"handover/handover.html", "handover/handover.pdf", "handover/handover.json"} <= names
    key = str((await desk.trusted())[0])
    assert main(["pack", str(path), "--key", key, "--accepted"]) == 0
    told = capsys.readouterr().out
    assert "by a WebAuthn key over the SHA-256" in told and "by step-up: a receipt in the ledger" in told
    assert "accepted by olga" in told


async def test_what_is_not_accepted_yet_is_genuine_and_said_to_be_open(desk: Desk) -> None:
    built = await desk.build()
    path = await desk.zipped(built)
    report = await desk.check(path)
    assert report.verdict == "PASS" and report.handover is not None, report.findings
    assert report.handover["state"] == "proposed" and len(report.handover["missing"]) == 4
    key = str((await desk.trusted())[0])
    assert main(["pack", str(path), "--key", key]) == 0
    assert main(["pack", str(path), "--key", key, "--accepted"]) == 1


async def test_a_refusal_is_told(desk: Desk) -> None:
    built = await desk.signed()
    await desk.say("sam", "POST", f"/{built['id']}/refuse", {"team": "security", "reason": "a leak"})
    report = await desk.check(await desk.zipped(built))
    assert report.verdict == "PASS" and report.handover is not None, report.findings
    assert report.handover["refused"] == "security: a leak"


async def test_a_simulated_clock_is_not_valid(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.stage.clock.simulated = True
    built = await desk.accepted()
    path = await desk.zipped(built)
    assert (await desk.check(path)).verdict == "SIMULATED"
    assert main(["pack", str(path), "--key", str((await desk.trusted())[0])]) == 1
    assert "SIMULATED" in capsys.readouterr().out


async def sealed(desk: Desk, directory: Path) -> ColdEvents:
    """Everything so far in the archive and out of the database, eight days later."""
    world, places = desk.world, Places(FolderStore(directory / "archive"), None, directory / "archive" / ".work")
    world.do(f"TRUNCATE {', '.join('ledger.' + name for name in ARCHIVE_TABLES)}")
    world.do("UPDATE bailiwick.zones SET created_at = %s", desk.stage.clock.now())
    cold = ColdEvents(world.database, places.local, places.remote, places.cache)
    sequencer = world.sequencer()
    await sequencer.drain()
    desk.stage.clock.advance(8 * 86400)
    await Archivist(world.database, places, world.keys, world.recorder, world.clock, bounds=Bounds()).run()
    assert (await HotRows(world.database, cold, world.recorder, world.clock).drop_due())["dropped"]
    await sequencer.drain()
    sequencer.close()
    return cold


async def test_evidence_that_is_in_the_archive_by_now_is_proven_all_the_same(desk: Desk, tmp_path: Path) -> None:
    cold = await sealed(desk, tmp_path)
    query = "SELECT count(*) FROM ledger.events e JOIN ledger.evidence_records r ON r.event = e.id WHERE r.id = %s"
    assert desk.world.rows(query, desk.proof) == [0]
    built = await desk.accepted()
    report = await desk.check(await desk.zipped(built, cold=cold))
    assert report.verdict == "PASS", report.findings
    async with desk.stage.database.begin() as tx:
        with pytest.raises(Conflict) as refused:
            await _receipt(tx, "default", desk.world.rows("SELECT event::text FROM ledger.evidence_records")[0], None)
    assert refused.value.reason == "evidence_archived"


async def test_an_event_on_its_way_is_not_said_to_be_archived(desk: Desk) -> None:
    built = await desk.build()
    async with desk.stage.database.begin() as tx:
        with pytest.raises(Conflict, match="is on its way into the ledger; ask again"):
            await _receipt(tx, "default", (await desk.found(built)).event, None)
    sequencer = desk.world.sequencer()
    await sequencer.drain()
    sequencer.close()
    async with desk.stage.database.begin() as tx:
        assert bytes(await _receipt(tx, "default", (await desk.found(built)).event, None))


async def test_waived_statements_rest_on_waivers_that_were_approved(desk: Desk) -> None:
    desk.proven = Verdict.NO_DATA
    await desk.waive("storage/backups")
    accepted = await desk.accepted()
    genuine, built = (await desk.found(accepted)).document, accepted["acceptance"]["event"]

    def waived(document: Any) -> Any:
        return next(each for each in document["chapters"][1]["statements"] if each["waiver"])

    changes: dict[str, tuple[Callable[[Any], Any], str]] = {
        "nothing": (lambda d: None, ""),
        "no such": (lambda d: waived(d).update(waiver="w7"), "its waiver is of something else"),
        "any": (lambda d: _first(d).update(waiver="w1"), "its waiver is of something else"),
        "wider": (lambda d: d["waivers"][0].update(scope="staging/storage/backups"), "another one was approved"),
        "longer": (lambda d: d["waivers"][0].update(until="2030-01-01T00:00:00Z"), "another one was approved"),
        "by nobody": (lambda d: d["waivers"][0].update(event=d["handover"]), "the ledger does not say"),
        "by another": (lambda d: d["waivers"][0].update(event=built), "no receipt of its approval"),
        "twice": (lambda d: d["waivers"].append(d["waivers"][0]), "it is named twice"),
        "of what passes": (lambda d: waived(d).update(verdict="PASS"), "its record does not"),
        "of nothing": (lambda d: waived(d).update(waiver=""), "no statement passes by waiver w1"),
        "unnamed": (lambda d: d.update(waivers=[]), "its waiver is of something else"),
    }
    for name, (change, told) in changes.items():
        document = copy.deepcopy(genuine)
        change(document)
        report = await desk.check(await desk.zipped(await desk.stored(document), f"{desk.stage.ids()}.zip"))
        found = report.findings
        assert (not told and not found) or (told and told in found[0]), (name, found)


async def test_what_can_be_derived_is_not_believed(desk: Desk) -> None:
    genuine = (await desk.found(await desk.build())).document

    def swapped(document: Any) -> None:
        one, other = document["chapters"][0]["statements"][:2]
        one["record"], other["record"] = other["record"], one["record"]

    blocker = {"name": "tls", "verdict": "FAIL", "told": "", "waiver": ""}
    changes: tuple[tuple[Callable[[Any], Any], str], ...] = (
        (lambda d: d["readiness"].update(verdict="FAIL", blockers=[blocker]), "that readiness passes, or not"),
        (lambda d: d["readiness"].update(verdict="NO_DATA"), "that readiness passes, or not"),
        (lambda d: d["readiness"].update(passes=False), "that readiness passes, or not"),
        (swapped, "its record is of handover/production/ownership/"),
    )
    for change, told in changes:
        document = copy.deepcopy(genuine)
        change(document)
        report = await desk.check(await desk.zipped(await desk.stored(document), f"{desk.stage.ids()}.zip"))
        assert report.first_bad == DOCUMENT and told in report.findings[0], (told, report.findings)


async def test_an_output_is_read_once_and_only_where_a_statement_needs_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = desk.chapters["storage"]

    async def storage(*asked: Any) -> Any:
        said = await genuine(*asked)
        return [*said, *(replace(said[1], name=f"backups-{number}") for number in range(4))]  # all say the same

    desk.chapters["storage"] = storage
    path = await desk.zipped(await desk.build())
    reads: Counter[str] = Counter()
    read = Archive.read

    def counted(archive: Archive, name: str, most: int) -> bytes:
        reads[name] += name.startswith("handover/outputs/")
        return read(archive, name, most)

    monkeypatch.setattr(Archive, "read", counted)
    assert (await desk.check(path)).verdict == "PASS"
    with zipfile.ZipFile(path) as archive:
        outputs = [name for name in archive.namelist() if name.startswith("handover/outputs/")]
        records = len(archive.read(RECORDS).splitlines())
    assert reads.total() == len(outputs) == records - 4
    reads.clear()

    def more(files: Files) -> None:
        line = json.loads(files[RECORDS].splitlines()[0])
        body = json.dumps({**json.loads(line["body"]), "check": "x"}, separators=(",", ":"))
        line = {"id": hashlib.sha256(body.encode()).hexdigest(), "body": body}
        files[RECORDS] = json.dumps(line).encode() + b"\n" + files[RECORDS]

    signer = await desk.signer()
    report = await desk.check(repacked(path, path.with_name("more.zip"), signer, more))
    assert report.first_bad == RECORDS and "no statement names it" in report.findings[0] and not reads.total()


async def test_the_canary_is_waived_by_nobody(desk: Desk) -> None:
    async def canary(*asked: Any) -> Any:
        return [Statement("release", "it failed", Verdict.FAIL, "canary", asked[3], asked[4])]

    desk.chapters["canary"] = canary  # somebody forgot to say so of it
    await desk.waive("canary/release")
    report = await desk.check(await desk.zipped(await desk.accepted()))
    assert (report.verdict, report.first_bad) == ("FAIL", DOCUMENT)
    assert "no waiver can let it pass" in report.findings[0]


async def test_an_attestation_counts_by_the_review_of_another_of_this_very_item(desk: Desk) -> None:
    now, stated = desk.stage.clock.now(), []

    async def attested(who: str, outcome: str = "", item: str = "list/read") -> str:
        inputs = {"environment": "production", **({"attestation": stated[0], "outcome": outcome} if outcome else {})}
        async with desk.stage.database.begin() as tx:
            made = await desk.stage.records.attest(
                tx, desk.stage.context(who), f"readiness.production/{item}", f"{who} {outcome or 'did'}",
                producer=Producer(name=who, program="bailiwick readiness", version="1"), since=now, until=now,
                inputs=inputs,
            )  # fmt: skip
        return made.id

    stated.append(await attested("viv"))
    accepted, refused = await attested("finn", "accepted"), await attested("finn", "refused")
    own, other = await attested("viv", "accepted"), await attested("finn", "accepted", "list/other")
    for name, record, beside, holds in (
        ("list/read", stated[0], [accepted], True), ("list/read", stated[0], [], False),
        ("list/read", stated[0], [refused], False), ("list/read", stated[0], [own], False),
        ("list/read", stated[0], [other], False), ("list/other", stated[0], [accepted], False),
        ("list/read", accepted, [accepted], False),
    ):  # fmt: skip

        async def readiness(*asked: Any, name: str = name, record: str = record, beside: Any = beside) -> Any:
            told = Statement(name, "somebody did", Verdict.PASS, "bailiwick readiness", asked[3], asked[4], {}, record)
            return [replace(told, beside=beside)]

        desk.chapters["readiness"] = readiness
        report = await desk.check(await desk.zipped(await desk.build(), f"{desk.stage.ids()}.zip"))
        assert report.verdict == ("PASS" if holds else "FAIL"), (name, beside, report.findings)


async def test_who_accepts_is_of_the_team_that_receives_and_did_not_build_it_and_in_time(desk: Desk) -> None:
    for receives, builder, late, told in (
        ({"role": "", "people": ["otto"]}, "ada", False, "olga does not speak for the team that receives"),
        (None, "olga", False, "olga built what he accepted"),
        (None, "ada", True, "it was accepted when the pack was good no more"),
    ):
        document = (await desk.found(await desk.build())).document | {"built_by": builder}
        document |= {"receives": receives or document["receives"]}
        document["producers"] = sorted({*document["producers"], builder})
        built = await desk.forged(document, late=late)
        report = await desk.check(await desk.zipped(built, f"{desk.stage.ids()}.zip"))
        assert (report.verdict, report.first_bad) == ("FAIL", SIGNATURES)
        assert told in report.findings[0], report.findings


def _first(document: Any) -> Any:
    return document["chapters"][0]["statements"][0]


CHANGES: dict[str, tuple[Callable[[Files], None], str]] = {
    "a statement says more": (edited(DOCUMENT, lambda d: _first(d).update(told="all is well")), DOCUMENT),
    "a figure": (edited(DOCUMENT, lambda d: d["chapters"][1]["statements"][1]["figures"].update(count=3)), DOCUMENT),
    "a verdict": (edited(DOCUMENT, lambda d: _first(d).update(verdict="FAIL")), DOCUMENT),
    "the whole verdict": (edited(DOCUMENT, lambda d: d.update(verdict="FAIL")), DOCUMENT),
    "a statement is left out": (edited(DOCUMENT, lambda d: d["chapters"][0]["statements"].pop()), DOCUMENT),
    "a producer is forgotten": (edited(DOCUMENT, lambda d: d["producers"].remove("bailiwick")), DOCUMENT),
    "another receives": (edited(DOCUMENT, lambda d: d.update(receives={"role": "", "people": ["eve"]})), DOCUMENT),
    "what changes hands": (edited(DOCUMENT, lambda d: d["transfer"]["differences"].pop()), DOCUMENT),
    "readiness": (edited(DOCUMENT, lambda d: d["readiness"].update(passes=False)), DOCUMENT),
    "its window": (edited(DOCUMENT, lambda d: d.update(since=d["good_until"])), DOCUMENT),
    "its zone": (edited(DOCUMENT, lambda d: d.update(zone="acme")), DOCUMENT),
    "the clock": (edited(DOCUMENT, lambda d: d.update(simulated_clock=True)), DOCUMENT),
    "a key of a signer": (
        edited(DOCUMENT, lambda d: d["teams"]["security"]["keys"][0].update(person="viv")), DOCUMENT,
    ),
    "no document": (lambda files: files.pop(DOCUMENT) and None, DOCUMENT),
    "a document of nothing": (lambda files: files.update({DOCUMENT: b"[]"}), DOCUMENT),
    "another form": (lambda files: files.update({DOCUMENT: files[DOCUMENT] + b" "}), DOCUMENT),
    "who signed": (edited(SIGNATURES, lambda s: s["signatures"][1].update(person="finn")), SIGNATURES),
    "for which team": (edited(SIGNATURES, lambda s: s["signatures"][0].update(team="management")), SIGNATURES),
    "how": (edited(SIGNATURES, lambda s: s["signatures"][1].update(how="webauthn")), SIGNATURES),
    "when": (edited(SIGNATURES, lambda s: s["signatures"][0].update(at="2026-01-06T00:00:00Z")), SIGNATURES),
    "one signs twice": (edited(SIGNATURES, lambda s: s["signatures"].append(s["signatures"][0])), SIGNATURES),
    "a signature is left out": (edited(SIGNATURES, lambda s: s["signatures"].pop()), SIGNATURES),
    "one person for two": (
        edited(SIGNATURES, lambda s: s["signatures"][1].update(account=s["signatures"][0]["account"])), SIGNATURES,
    ),
    "an assertion": (
        edited(SIGNATURES, lambda s: s["signatures"][0]["assertion"].update(
            signature=s["signatures"][2]["assertion"]["signature"])), SIGNATURES,
    ),
    "the hash that was signed": (edited(SIGNATURES, lambda s: s.update(sha256="0" * 64)), SIGNATURES),
    "the event of its building": (edited(SIGNATURES, lambda s: s.update(event=s["statement_event"])), SIGNATURES),
    "who accepted": (edited(SIGNATURES, lambda s: s["acceptance"].update(person="eve")), SIGNATURES),
    "the revision": (edited(SIGNATURES, lambda s: s["acceptance"].update(revision=99)), SIGNATURES),
    "it was refused": (
        edited(SIGNATURES, lambda s: s.update(state="refused", acceptance=None, statement=None, statement_event="",
               refusal={"team": "security", "person": "sam", "reason": "no", "at": "", "event": s["event"]})), SIGNATURES,
    ),
    "the statement": (edited(SIGNATURES, lambda s: s["statement"].update(text="All is well.")), SIGNATURES),
    "no statement": (edited(SIGNATURES, lambda s: s.update(statement=None)), SIGNATURES),
    "the state": (edited(SIGNATURES, lambda s: s.update(state="signed")), SIGNATURES),
    "a list in place of it": (lambda files: files.update({SIGNATURES: b"[1]"}), SIGNATURES),
    "a record's line": (
        lambda files: files.update({RECORDS: files[RECORDS].replace(b'\\"exit\\":0', b'\\"exit\\":1', 1)}), RECORDS,
    ),
    "a record is left out": (
        lambda files: files.update({RECORDS: b"\n".join(files[RECORDS].splitlines()[1:]) + b"\n"}), "handover/outputs/",
    ),
    "a file nobody names": (lambda files: files.update({"handover/extra.txt": b"x"}), "handover/extra.txt"),
    "an output nobody names": (
        lambda files: files.update({f"handover/outputs/{'0' * 64}.txt": b"x"}), "handover/outputs/",
    ),
}  # fmt: skip


async def test_every_class_of_change_is_found_though_it_was_signed_anew(accepted: Accepted) -> None:
    for name, (change, file) in CHANGES.items():
        first, told = accepted.bad(change)
        assert first.startswith(file), (name, first, told)


async def test_the_documents_of_attestations_are_in_the_pack_and_held_against_their_records(desk: Desk) -> None:
    name = f"handover/attachments/{await desk.attest(b'what was read')}"
    built = await desk.accepted()
    accepted = Accepted(await desk.zipped(built), await desk.trusted(), await desk.signer())
    report = await desk.check(accepted.path)
    assert report.verdict == "PASS", report.findings
    with zipfile.ZipFile(accepted.path) as archive:
        assert archive.read(name) == b"what was read"
    assert accepted.bad(lambda files: files.update({name: b"something else"}))[0] == name
    assert accepted.bad(lambda files: files.pop(name) and None)[0] == name
    extra = f"handover/attachments/{'0' * 64}"
    assert accepted.bad(lambda files: files.update({extra: b"x"})) == (extra, f"{extra}: no record names it")


async def test_an_evidence_pack_carries_the_documents_of_its_window_and_says_which_are_gone(desk: Desk) -> None:
    kept, gone = await desk.attest(b"what was read"), "ab" * 32
    async with desk.stage.database.begin() as tx:
        for number, sha256 in enumerate((kept, gone)):
            await tx.run(
                "INSERT INTO readiness_attestations (id, zone, environment, item, sha256, statement, attachment,"
                " attachment_sha256, author, made_at, expires_at, record) VALUES (:id, 'default', 'production', 'a/b', '',"
                " 's', 'read.pdf', :sha256, 'nina', :now, :now, :record)",
                id=f"a{number}", sha256=sha256, now=desk.stage.clock.now(), record=desk.attested,
            )  # fmt: skip
    with zipfile.ZipFile(await desk.zipped(await desk.build())) as archive:
        assert archive.read(f"readiness/attachments/{kept}") == b"what was read"
        told = {each["sha256"]: each for each in json.loads(archive.read("readiness/attachments.json"))}
        manifest = json.loads(archive.read("manifest.json"))
    assert (told[kept]["missing"], told[kept]["media_type"], told[gone]["missing"]) == (
        "",
        "application/pdf",
        "no_attachment",
    )
    section = next(each for each in manifest["sections"] if each["name"] == "readiness")
    assert (section["verdict"], section["note"]) == ("FAIL", "1 of 2 documents")


async def test_receipts_are_needed_and_must_be_of_what_they_are_said_to_be(accepted: Accepted) -> None:
    with zipfile.ZipFile(accepted.path) as archive:
        receipts = sorted(name for name in archive.namelist() if name.startswith(RECEIPTS))
    assert len(receipts) > 12
    for name in receipts:

        def gone(files: Files, name: str = name) -> None:
            del files[name]

        def other(files: Files, name: str = name) -> None:
            files[name] = files[receipts[0] if name != receipts[0] else receipts[1]]

        assert accepted.bad(gone)[1], name
        assert accepted.bad(other)[0] == name


async def test_any_byte_of_any_file_is_found(accepted: Accepted) -> None:
    with zipfile.ZipFile(accepted.path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    names = sorted(name for name in files if name.startswith("handover/") and files[name])
    out = accepted.path.with_name("flipped.zip")

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.sampled_from(names), st.integers(0, 1 << 20), st.integers(1, 255))
    def flip(name: str, place: int, bits: int) -> None:
        data = bytearray(files[name])
        data[place % len(data)] ^= bits
        with zipfile.ZipFile(out, "w") as archive:
            for each, content in files.items():
                archive.writestr(each, bytes(data) if each == name else content)
        report = verify_pack(out, accepted.keys)
        assert (report.verdict, report.first_bad) == ("FAIL", name)

    flip()


async def test_whatever_json_is_put_in_a_handover_is_refused_in_good_order(accepted: Accepted) -> None:
    junk = st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=6,
    )  # fmt: skip
    with zipfile.ZipFile(accepted.path) as archive:
        told = {name: json.loads(archive.read(name)) for name in (DOCUMENT, SIGNATURES)}

    @settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.sampled_from([DOCUMENT, SIGNATURES]), st.data())
    def put(name: str, data: st.DataObject) -> None:
        member = data.draw(st.sampled_from(sorted(told[name])))
        value = data.draw(junk)
        if told[name][member] == value or (name == SIGNATURES and member == "refusal" and not value):
            return
        first, findings = accepted.bad(edited(name, lambda each: each.update({member: value})))
        assert first in (DOCUMENT, SIGNATURES) and findings, (member, value)

    put()


async def test_an_assertion_by_itself(desk: Desk) -> None:
    key = await desk.key("eve")
    party = RelyingParty("bailiwick.example.com", "https://bailiwick.example.com")
    challenge = bytes(range(32))
    text = base64.urlsafe_b64encode(challenge).rstrip(b"=").decode()
    answer = key.get({"rpId": party.id, "challenge": text})["response"]
    async with desk.stage.database.begin() as tx:
        (named,) = await desk.packer._asked.keys.named(tx, "default", "eve")
    public = base64.b64decode(named["public"])
    parts = [decoded(answer[name]) for name in ("clientDataJSON", "authenticatorData", "signature")]
    assert verify_assertion(party, public, challenge, *parts)
    told = json.loads(parts[0])
    absent = bytearray(parts[1])
    absent[32] &= ~1
    for why, arguments in (
        ("another challenge", (party, public, bytes(32), *parts)),
        ("another origin", (RelyingParty(party.id, "https://x.example"), public, challenge, *parts)),
        ("another relying party", (RelyingParty("x.example", party.origin), public, challenge, *parts)),
        (
            "no assertion",
            (party, public, challenge, json.dumps({**told, "type": "webauthn.create"}).encode(), *parts[1:]),
        ),
        ("not genuine", (party, public, challenge, parts[0], parts[1], parts[2][:-1] + bytes([parts[2][-1] ^ 1]))),
        ("too short", (party, public, challenge, parts[0], b"", parts[2])),
        ("nobody was present", (party, public, challenge, parts[0], bytes(absent), parts[2])),
        ("cannot be read", (party, public, challenge, b"\xff", *parts[1:])),
    ):
        with pytest.raises(BadAssertion, match=why):
            verify_assertion(*arguments)
    with pytest.raises(BadAssertion):
        verify_assertion(party, b"no key", challenge, *parts)
    with pytest.raises(BadAssertion):
        decoded("a+b/")
