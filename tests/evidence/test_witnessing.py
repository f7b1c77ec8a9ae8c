"""The service asks witnesses, some of which lie, and is found out by them when its own ledger was rolled back."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from api_client import ApiClient
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ledger_world import World
from prometheus_client import CollectorRegistry
from pydantic import ValidationError
from structlog.testing import capture_logs

from bailiwick.evidence.export import export_log
from bailiwick.evidence.ledger import ledger_keys
from bailiwick.evidence.receipts import cosigned_head, newest_head, receipt
from bailiwick.evidence.sweep import ALERT
from bailiwick.evidence.tlog_witness import AddCheckpoint
from bailiwick.evidence.witness.memory import Memory
from bailiwick.evidence.witness.server import WitnessApp, serve
from bailiwick.evidence.witness.service import Answer, Witness
from bailiwick.evidence.witnessing import KnownWitness, Witnessing
from bailiwick.kernel.clock import SystemClock
from bailiwick.kernel.metrics import Metrics
from bailiwick.kernel.settings import Settings, parse_witness
from bailiwick_verify.checkpoint import open_checkpoint, parse_checkpoint
from bailiwick_verify.note import COSIGNATURE, Signer, VerifierKey, parse_note


class Party:
    """Another party: its witness on a port of its own, which answers as ``lie`` says where that is given."""

    def __init__(self, name: str, directory: Path, keys: list[VerifierKey]) -> None:
        self.name = name
        self.memory = Memory(directory / name)
        self.witness = Witness(self.memory, self.memory.open(name), keys, SystemClock())
        self.lie: Callable[[bytes], Answer] | None = None
        self.asked: list[bytes] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._stopping = asyncio.Event()
        self._serving = asyncio.create_task(serve(WitnessApp(self), self._socket, self._stopping))  # type: ignore[arg-type]

    def add_checkpoint(self, body: bytes) -> Answer:
        if b"/default\n" in body:
            self.asked.append(body)
        return self.lie(body) if self.lie and b"/default\n" in body else self.witness.add_checkpoint(body)

    @property
    def known(self) -> KnownWitness:
        return KnownWitness(f"http://127.0.0.1:{self._socket.getsockname()[1]}", self.witness.key)

    async def go_away(self) -> None:
        self._stopping.set()
        await self._serving
        self._socket.close()
        self.memory.close()


class Stage:
    """A ledger and two witnesses."""

    def __init__(self, world: World, first: Party, second: Party) -> None:
        self.world, self.first, self.second = world, first, second
        self.metrics = Metrics(CollectorRegistry())
        self.asking = self.witnessing(quorum=2)

    def witnessing(self, *, quorum: int = 1) -> Witnessing:
        known = [self.first.known, self.second.known]
        clock = self.world.clock
        return Witnessing(
            self.world.database, self.world.recorder, clock, self.metrics, known, quorum=quorum, interval_s=0.0
        )

    @property
    def keys(self) -> list[VerifierKey]:
        return [self.first.known.key, self.second.known.key]

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics._registry.get_sample_value(name, labels)

    def signed_by(self, size: int) -> set[str]:
        return set(
            self.world.rows("SELECT witness FROM ledger.cosignatures WHERE zone = 'default' AND size = %s", size)
        )


@pytest.fixture
async def stage(world: World, tmp_path: Path) -> AsyncIterator[Stage]:
    async with world.database.begin() as tx:
        keys = [key for zone in ("default", "acme") for key in (await ledger_keys(tx, zone)).values()]
    parties = [Party(name, tmp_path / "parties", keys) for name in ("one.example", "two.example")]
    made = Stage(world, *parties)
    yield made
    await made.asking.close()
    for party in parties:
        if not party._stopping.is_set():
            await party.go_away()


async def test_the_newest_head_of_every_zone_is_cosigned(stage: Stage, world: World) -> None:
    await world.filled(5)
    await stage.asking.round()
    assert stage.signed_by(5) == {"one.example", "two.example"}
    assert world.rows("SELECT count(*) FROM ledger.cosignatures WHERE zone = 'acme' AND size = 0") == [2]
    asked = len(stage.first.asked)
    await stage.asking.round()
    assert len(stage.first.asked) == asked, "there is nothing new to sign"
    await world.filled(300)
    await stage.asking.round()
    assert stage.signed_by(305) == {"one.example", "two.example"}
    assert AddCheckpoint.parse(stage.first.asked[-1]).old == 5
    assert stage.value("bailiwick_witness_answers_total", witness="one.example", result="cosigned") >= 3
    assert stage.asking.facts()["one.example"]["default"]["size"] == 305
    assert not stage.asking.tampered


async def test_a_new_process_goes_on_where_the_old_one_was(stage: Stage, world: World) -> None:
    await world.filled(5)
    await stage.asking.round()
    await world.filled(5)
    again = stage.witnessing()
    await again.round()
    await again.close()
    assert [AddCheckpoint.parse(body).old for body in stage.first.asked[-1:]] == [5]
    world.do("DELETE FROM ledger.cosignatures")
    await world.filled(5)
    forgetful = stage.witnessing()
    await forgetful.round()
    await forgetful.close()
    assert stage.signed_by(15) == {"one.example", "two.example"}, "the witness says where it is"


async def test_who_can_be_shown_a_cosigned_head_is(stage: Stage, world: World, api: ApiClient, tmp_path: Path) -> None:
    first = await world.filled(5)
    assert (await api.get("/evidence/default/cosigned-checkpoint")).status_code == 404
    await stage.asking.round()
    async with world.database.begin() as tx:
        keys = list((await ledger_keys(tx, "default")).values())
    for path in ("checkpoint", "cosigned-checkpoint"):
        served = await api.get(f"/evidence/default/{path}")
        opened = open_checkpoint(served.body, keys, stage.keys, quorum=2)
        assert set(opened.witnesses) == {"one.example", "two.example"}
    await world.filled(5)
    newest = open_checkpoint((await api.get("/evidence/default/checkpoint")).body, keys, stage.keys)
    cosigned = open_checkpoint(
        (await api.get("/evidence/default/cosigned-checkpoint")).body, keys, stage.keys, quorum=2
    )
    assert (newest.checkpoint.size, newest.witnesses, cosigned.checkpoint.size) == (10, {}, 5)
    proof = await api.get(f"/api/v1/audit/events/{first[2]}/receipt")
    from bailiwick_verify.receipt import Receipt

    assert Receipt.parse(proof.body).verify(keys, stage.keys, quorum=2).checkpoint.size == 5
    (fresh,) = world.rows("SELECT id FROM ledger.events WHERE seq = 8")
    async with world.database.begin() as tx:
        assert (await receipt(tx, "default", fresh)).verify(keys).checkpoint.size == 10
    await export_log(world.database, "default", tmp_path / "export")
    kept = (tmp_path / "export" / "cosigned-checkpoint").read_bytes()
    assert open_checkpoint(kept, keys, stage.keys, quorum=2).checkpoint.size == 5


async def test_one_of_two_is_no_quorum_of_two(stage: Stage, world: World) -> None:
    await stage.second.go_away()
    await world.filled(5)
    await stage.asking.round()
    async with world.database.begin() as tx:
        assert await cosigned_head(tx, "default") is None
        assert len(parse_note((await newest_head(tx, "default")).note).signatures) == 3
    assert "cannot be reached" in stage.asking.facts()["two.example"]["default"]["trouble"]
    assert not stage.asking.tampered
    asked = stage.value("bailiwick_witness_answers_total", witness="two.example", result="away")
    stage.asking._away["two.example"].until += 60
    await world.filled(5)
    await stage.asking.round()
    assert stage.signed_by(10) == {"one.example"}
    assert stage.value("bailiwick_witness_answers_total", witness="two.example", result="away") == asked


def lying_signer(party: Party) -> Signer:
    return Signer(party.name, Ed25519PrivateKey.from_private_bytes(b"x" * 32))


def cosign(signer: Signer, body: bytes, moment: int) -> Answer:
    checkpoint = parse_checkpoint(parse_note(AddCheckpoint.parse(body).checkpoint).text)
    return Answer(200, str(signer.cosign(checkpoint.text(), moment)).encode())


LIES: dict[str, Callable[[Party], Callable[[bytes], Answer]]] = {
    "another key": lambda party: lambda body: cosign(lying_signer(party), body, 1_700_000_000),
    "another text": lambda party: (
        lambda body: Answer(
            200, str(party.memory and party.witness._signer.cosign("elsewhere\n1\nAAAA\n", 1_700_000_000)).encode()
        )
    ),
    "a time to come": lambda party: lambda body: cosign(party.witness._signer, body, 9_000_000_000),
    "nothing": lambda party: lambda body: Answer(200, b""),
    "no text": lambda party: lambda body: Answer(200, b"\xff\xff\n"),
    "too much": lambda party: lambda body: Answer(200, b"x" * 1_000_000),
    "no size": lambda party: lambda body: Answer(409, b"many\n"),
    "any size": lambda party: lambda body: Answer(409, b"%d\n" % ((AddCheckpoint.parse(body).old + 1) % 5)),
    "its own size refused": lambda party: lambda body: Answer(409, b"%d\n" % AddCheckpoint.parse(body).old),
    "a redirection": lambda party: lambda body: Answer(307, b""),
    "a stranger": lambda party: lambda body: Answer(404, b"who?\n"),
    "broken": lambda party: lambda body: Answer(500, b""),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_witness_that_answers_nonsense_neither_counts_nor_alarms(stage: Stage, world: World, lie: str) -> None:
    await world.filled(5)
    stage.second.lie = LIES[lie](stage.second)
    await stage.asking.round()
    assert stage.signed_by(5) == {"one.example"}
    assert stage.asking.facts()["two.example"]["default"]["trouble"]
    assert not stage.asking.tampered, stage.asking.tampered
    stage.second.lie = None
    await stage.asking.round()
    assert stage.signed_by(5) == {"one.example", "two.example"}


ACCUSATIONS: dict[str, Callable[[bytes], Answer]] = {
    "more": lambda body: Answer(409, b"1000\n", size=True),
    "fork": lambda body: Answer(409, b"5\n", size=True),
    "proof": lambda body: Answer(422, b"no\n"),
}


@pytest.mark.parametrize("accusation", ACCUSATIONS)
async def test_a_witness_that_accuses_is_heard_and_named_while_the_other_goes_on(
    stage: Stage, world: World, accusation: str
) -> None:
    """One of the two lies: nobody can tell which, so people must look; what the other signs still counts."""
    await world.filled(5)
    stage.second.lie = ACCUSATIONS[accusation]
    await stage.asking.round()
    await stage.asking.round()
    assert "two.example" in stage.asking.tampered["default"]
    assert stage.signed_by(5) == {"one.example"}
    assert stage.value("bailiwick_witness_refuses", zone="default", witness="two.example") == 1
    assert stage.value("bailiwick_witness_refuses", zone="default", witness="one.example") == 0
    stage.second.lie = None
    await stage.asking.round()
    assert not stage.asking.tampered
    await world.sequencer().drain()
    told = [json.loads(body) for body in world.bodies("WHERE zone = 'default' AND code LIKE 'BW504_'")]
    assert [event["name"] for event in told] == ["ledger.witness.refused", "ledger.witness.recovered"]
    assert told[0]["reasons"] == [ALERT] and told[0]["subject"]["id"] == "two.example"


async def test_a_ledger_rolled_back_with_its_heads_is_refused_by_the_witness(stage: Stage, world: World) -> None:
    """An older backup is restored, head file and all: nothing inside can tell, what the witness saw can."""
    await world.filled(10)
    await stage.asking.round()
    backup = world.head_files.load("default")
    assert backup is not None
    await world.filled(10)
    await stage.asking.round()
    for table, condition in (
        ("events", "seq >= 10"),
        ("heads", "size > 10"),
        ("cosignatures", "size > 10"),
        ("cosigned", "size > 10"),
        ("hashes", "level = 0 AND first >= 10"),
    ):
        world.do(f"DELETE FROM ledger.{table} WHERE zone = 'default' AND {condition}")
    world.head_files.store(backup)
    restored = stage.witnessing()
    world.do("UPDATE ledger.heads SET at = at + interval '1 second' WHERE zone = 'default' AND size = 10")
    await restored.round()
    assert "it saw 20 events, 10 are left" in restored.tampered["default"]
    await world.filled(15)  # and life went on: it is longer than what the witness saw
    await restored.round()
    assert "does not continue" in restored.facts()["one.example"]["default"]["trouble"]
    assert "default" in restored.tampered and stage.signed_by(25) == set()
    fresh = stage.witnessing()
    await fresh.round()
    assert "does not continue" in fresh.tampered["default"]
    for witnessing in (restored, fresh):
        await witnessing.close()
    assert stage.value("bailiwick_witness_answers_total", witness="one.example", result="bad_proof") == 2


async def test_a_witness_far_behind_is_told_of_once(stage: Stage, world: World) -> None:
    await world.filled(5)
    stage.second.lie = lambda body: Answer(500, b"")
    await stage.asking.round()
    stage.asking._standings["default", "two.example"].current_at -= 1000
    with capture_logs() as told:
        for _ in range(3):
            await stage.asking.round()
    assert [line["witness"] for line in told if line["event"] == "witness_behind"] == ["two.example"]
    behind = stage.value("bailiwick_witness_behind_seconds", zone="default", witness="two.example")
    assert behind is not None and behind >= 1000


async def test_the_loop_asks_by_itself_and_survives_a_database_that_is_away(stage: Stage, world: World) -> None:
    stage.asking._interval_s = 0.05
    real = world.database.begin
    calls = 0

    def flaky(*arguments: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls < 3:
            from bailiwick.kernel.errors import Unavailable

            raise Unavailable("away")
        return real(*arguments, **more)

    await world.filled(5)
    world.database.begin = flaky  # type: ignore[method-assign]
    running = asyncio.create_task(stage.asking.run())
    try:
        async with asyncio.timeout(20):
            while stage.signed_by(5) != {"one.example", "two.example"}:
                await asyncio.sleep(0.02)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        world.database.begin = real  # type: ignore[method-assign]


def test_settings_say_who_the_witnesses_are(tmp_path: Path) -> None:
    key = Signer("w.example", Ed25519PrivateKey.from_private_bytes(b"w" * 32)).key
    url, known = parse_witness(f"https://w.example/ {key}")
    assert (url, known.kind, known.name) == ("https://w.example", COSIGNATURE, "w.example")
    good = Settings(data_dir=tmp_path, witnesses=f"https://w.example {key}, http://127.0.0.1:1 {_other(key)}")  # type: ignore[arg-type]
    assert len(good.witnesses) == 2
    for witnesses, quorum in (
        (f"http://w.example {key}", 1),
        (f"https://w.example {key}", 2),
        (f"https://a {key},https://b {key}", 1),
        ("https://w.example", 1),
        (f"{key}", 1),
    ):
        with pytest.raises(ValidationError):
            Settings(data_dir=tmp_path, witnesses=witnesses, witness_quorum=quorum)  # type: ignore[arg-type]


def _other(key: VerifierKey) -> VerifierKey:
    return VerifierKey("v.example", key.kind, key.public)
