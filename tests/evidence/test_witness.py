"""The witness: what it signs, what it refuses, and what it still knows after it was killed."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner
from witness_world import NOW, Log, Served, post, running

from bailiwick.cli.witness import app
from bailiwick.evidence.tlog_witness import MOST_BYTES, AddCheckpoint, Malformed, parse_conflict
from bailiwick.evidence.witness import server
from bailiwick.evidence.witness.memory import Memory, MemoryUnusable
from bailiwick.evidence.witness.service import Witness
from bailiwick.kernel.clock import FakeClock
from bailiwick_verify.checkpoint import open_checkpoint
from bailiwick_verify.note import ED25519, Signer, VerifierKey, parse_note, parse_signature_line


@pytest.fixture
def log() -> Log:
    return Log().grow(5)


class Desk:
    """A witness without its server."""

    def __init__(self, directory: Path, *logs: Log, **more: object) -> None:
        self.memory = Memory(directory)
        signer = self.memory.open("witness.example")
        self.witness = Witness(self.memory, signer, [log.key for log in logs], FakeClock(), **more)  # type: ignore[arg-type]

    def ask(self, body: bytes) -> tuple[int, bytes]:
        answer = self.witness.add_checkpoint(body)
        return answer.status, answer.body

    def cosigned(self, log: Log, old: int) -> bool:
        status, body = self.ask(log.request(old))
        return status == 200 and genuine(log, body, self.witness.key)


def genuine(log: Log, body: bytes, key: VerifierKey) -> bool:
    note = parse_note(log.checkpoint() + body)
    return open_checkpoint(bytes(note), [log.key], [key], quorum=1).witnesses["witness.example"] > 0


@pytest.fixture
def desk(tmp_path: Path, log: Log) -> Iterator[Desk]:
    made = Desk(tmp_path / "w", log)
    yield made
    made.memory.close()


def test_it_cosigns_what_continues_what_it_saw(desk: Desk, log: Log) -> None:
    assert desk.cosigned(log, 0)
    assert desk.cosigned(log.grow(300), 5)
    assert desk.cosigned(log, 305), "the same checkpoint again, with the time of now"


def test_an_unchanged_log_is_cosigned_at_any_size(tmp_path: Path) -> None:
    desk, log, seen = Desk(tmp_path, log := Log()), log, 0
    for grown in (0, 1, 1, 2, 3, 1, 248, 1, 400):
        log.grow(grown)
        assert desk.cosigned(log, seen), len(log.leaves)
        seen = len(log.leaves)


def test_who_asks_from_another_size_is_told_the_one_it_saw(desk: Desk, log: Log) -> None:
    desk.ask(log.request(0))
    log.grow(7)
    for old in (0, 3, 12):
        answer = desk.witness.add_checkpoint(log.request(old))
        assert (answer.status, answer.size, parse_conflict(answer.body)) == (409, True, 5)
    assert desk.cosigned(log, 5)


def test_a_log_that_was_rolled_back_and_went_another_way_is_refused(desk: Desk, log: Log) -> None:
    """An older backup was restored and new events came: the tree is not a continuation, whatever is claimed."""
    desk.ask(log.grow(15).request(0))
    log.cut(10)
    assert desk.ask(log.request(10))[0] == 409, "it is smaller than what was seen"
    log.grow(4, "after the backup ")
    assert desk.ask(log.request(14))[0] == 409
    log.grow(16, "after the backup ")
    assert desk.ask(log.request(10))[0] == 409
    assert desk.ask(log.request(20))[0] == 422


def test_two_histories_of_one_size_are_a_fork_and_the_proof_is_kept(desk: Desk, log: Log, tmp_path: Path) -> None:
    desk.ask(log.request(0))
    other = Log().grow(5, "another ")
    for old in (0, 5):
        assert desk.ask(other.request(old)) == (409, b"5\n")
    (kept,) = (tmp_path / "w" / "forks").iterdir()
    assert kept.read_bytes() == other.checkpoint()
    assert desk.cosigned(log.grow(1), 5), "the true log goes on"


def test_a_proof_that_does_not_hold(desk: Desk, log: Log) -> None:
    desk.ask(log.request(0))
    log.grow(20)
    good = AddCheckpoint.parse(log.request(5))
    wrong = [
        (),
        good.proof[:-1],
        (*good.proof, good.proof[0]),
        (bytes(32), *good.proof[1:]),
        tuple(reversed(good.proof)),
    ]
    for proof in wrong:
        assert desk.ask(bytes(AddCheckpoint(5, proof, good.checkpoint)))[0] == 422, proof
    assert desk.cosigned(log, 5)
    assert desk.ask(bytes(AddCheckpoint(25, (bytes(32),), good.checkpoint)))[0] == 422, "no proof is due for the same"


def test_an_empty_tree_has_one_root_and_no_proof(tmp_path: Path) -> None:
    log = Log()
    desk = Desk(tmp_path, log)
    from bailiwick_verify.checkpoint import Checkpoint

    forged = bytes(Checkpoint(log.key.name, 0, bytes(32)).signed(log.signer, NOW))
    assert desk.ask(bytes(AddCheckpoint(0, (), forged)))[0] == 422
    assert desk.ask(bytes(AddCheckpoint(0, (bytes(32),), log.checkpoint())))[0] == 422
    assert desk.cosigned(log, 0)


def test_strangers(desk: Desk, log: Log) -> None:
    assert desk.ask(Log(name="log.example/other").grow(1).request(0))[0] == 404
    stranger = Signer(log.key.name, Ed25519PrivateKey.from_private_bytes(b"x" * 32))
    assert desk.ask(bytes(AddCheckpoint(0, (), log.checkpoint(signer=stranger))))[0] == 403
    note = parse_note(log.checkpoint())
    lines = b"".join(str(line).encode() for line in note.signatures)
    other = parse_note(log.grow(1).checkpoint())
    assert desk.ask(bytes(AddCheckpoint(0, (), other.text.encode() + b"\n" + lines)))[0] == 403
    assert desk.ask(bytes(AddCheckpoint(7, (), log.checkpoint())))[0] == 400
    assert desk.memory.last(log.key.name) is None, "nothing was remembered"


def test_a_rotated_log_key_is_followed_once_it_is_configured(tmp_path: Path, log: Log) -> None:
    new = Log(b"n").grow(9)
    first = Desk(tmp_path, log)
    assert first.cosigned(log, 0)
    assert first.ask(new.request(5))[0] == 403
    first.memory.close()
    both = Desk(tmp_path, log, new)
    assert both.cosigned(new, 5)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"old 0",
        b"old 0\n",
        b"old 0\n\n",
        b"old 00\n\n",
        b"old -1\n\n",
        b"old 1e3\n\n",
        b"new 0\n\n",
        b"old 0\nAAAA\n\n",
        b"old 0\n!\n\n",
        b"old 0\n" + b"A" * 43 + b"=\n" * 1 + (b"A" * 43 + b"=\n") * 63 + b"\n",
        b"old 99999999999999999999\n\n",
        "old \u0663\n\n".encode(),
    ],
)
def test_what_is_no_request(desk: Desk, log: Log, body: bytes) -> None:
    assert desk.ask(body)[0] == 400
    assert desk.ask(body + log.checkpoint())[0] == (400 if body != b"old 0\n\n" else 200)


@given(st.data())
def test_no_changed_byte_is_cosigned_as_if_it_were_not(data: st.DataObject) -> None:
    log = Log().grow(9)
    body = bytearray(bytes(AddCheckpoint(4, log.proof(4), log.checkpoint())))
    body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        parsed = AddCheckpoint.parse(bytes(body))
    except Malformed:
        return
    assert bytes(parsed) == bytes(body), "there is one form for a request"


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_whatever_is_sent_is_answered(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as directory:
        log = Log().grow(9)
        desk = Desk(Path(directory), log)
        desk.ask(log.request(0, 4))
        good = log.request(4)
        body = data.draw(
            st.binary(max_size=300)
            | st.text(max_size=200).map(str.encode)
            | st.tuples(st.integers(0, len(good)), st.integers(0, len(good)), st.binary(max_size=20)).map(
                lambda cut: good[: cut[0]] + cut[2] + good[cut[1] :]
            )
        )
        status, _ = desk.ask(body)
        known = desk.memory.last(log.key.name)
        desk.memory.close()
        assert status in {200, 400, 403, 404, 409, 422}
        assert known is not None and known.size == (9 if status == 200 else 4)


# ---------------------------------------------------------------------- its memory


def test_it_knows_after_a_restart_what_it_saw(tmp_path: Path, log: Log) -> None:
    first = Desk(tmp_path / "w", log)
    first.ask(log.request(0))
    with pytest.raises(MemoryUnusable, match="another witness runs"):
        Memory(tmp_path / "w").open("witness.example")
    first.memory.close()
    again = Desk(tmp_path / "w", log)
    assert again.witness.key == first.witness.key
    assert again.ask(Log().grow(8, "other ").request(0)) == (409, b"5\n")
    assert (tmp_path / "w" / "key").stat().st_mode & 0o777 == 0o600


def test_a_memory_that_is_gone_or_damaged_is_not_taken_for_an_empty_one(tmp_path: Path, log: Log) -> None:
    desk = Desk(tmp_path, log)
    desk.ask(log.request(0))
    desk.memory.close()
    (kept,) = (tmp_path / "seen").glob("*.checkpoint")
    content = kept.read_bytes()
    for damaged in (b"", content[:20], content.replace(b"log.example", b"xxx.example")):
        kept.write_bytes(damaged)
        with pytest.raises(MemoryUnusable):
            Memory(tmp_path).open("")
    kept.unlink()
    (tmp_path / "seen").rmdir()
    with pytest.raises(MemoryUnusable, match="retire"):
        Memory(tmp_path).open("")
    (tmp_path / "key").write_text("nonsense")
    (tmp_path / "seen").mkdir()
    with pytest.raises(MemoryUnusable, match="not a private key"):
        Memory(tmp_path).open("")


def test_what_cannot_be_remembered_is_not_signed(desk: Desk, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        desk.ask(log.request(0))
    monkeypatch.undo()
    assert desk.memory.last(log.key.name) is None
    assert desk.cosigned(log, 0)


def _die(directory: str, step: str, body: bytes) -> None:
    def fault(reached: str) -> None:
        if reached == step:
            os.kill(os.getpid(), signal.SIGKILL)

    Desk(Path(directory), Log(), fault=fault).ask(body)


@pytest.mark.parametrize(("step", "known"), [("judged", 5), ("remembered", 9)])
def test_killed_between_remembering_and_answering_it_cannot_sign_another_past(
    tmp_path: Path, log: Log, step: str, known: int
) -> None:
    first = Desk(tmp_path, log)
    first.ask(log.request(0))
    first.memory.close()
    log.grow(4)
    dying = multiprocessing.get_context("fork").Process(target=_die, args=(str(tmp_path), step, log.request(5)))
    dying.start()
    dying.join()
    assert dying.exitcode == -signal.SIGKILL
    after = Desk(tmp_path, log)
    other = Log().grow(5).grow(4, "another ")
    if known == 9:  # it never answered, but it may have: only what it remembers goes on
        assert after.ask(other.request(5)) == (409, b"9\n")
        assert after.cosigned(log, 9)
    else:
        assert after.cosigned(log, 5)


# ---------------------------------------------------------------------- as a process


@pytest.fixture
def served(tmp_path: Path, log: Log) -> Iterator[Served]:
    with running(tmp_path / "w", [log.key]) as made:
        yield made


def test_the_command_serves_the_protocol(served: Served, log: Log, tmp_path: Path) -> None:
    status, body, _ = served.post(log.request(0))
    assert status == 200 and genuine(log, body, served.key)
    assert abs(parse_signature_line(body.decode().rstrip("\n")).moment - time.time()) < 60
    assert served.post(log.grow(2).request(0)) == (409, b"5\n", "text/x.tlog.size")
    assert served.post(bytes(MOST_BYTES + 1))[0] == 413
    assert post(served.url + "/elsewhere", b"")[0] == 404
    served.process.kill()
    served.process.wait()
    with running(tmp_path / "w", [log.key], "--prefix", "/w", name="") as again:
        assert again.key == served.key and again.url.endswith("/w")
        assert again.post(log.request(5))[0] == 200


def test_slow_and_silent_connections_are_closed(log: Log, tmp_path: Path) -> None:
    async def run() -> None:
        desk = Desk(tmp_path, log)
        listening = socket.create_server(("127.0.0.1", 0))
        stopping = asyncio.Event()
        serving_app = server.WitnessApp(desk.witness, body_s=0.2)
        serving = asyncio.create_task(server.serve(serving_app, listening, stopping))
        port = listening.getsockname()[1]
        silent = await asyncio.open_connection("127.0.0.1", port)
        slow = await asyncio.open_connection("127.0.0.1", port)
        slow[1].write(b"POST /add-checkpoint HTTP/1.1\r\nHost: w\r\nContent-Length: 50\r\n\r\nold ")
        dripping = await asyncio.open_connection("127.0.0.1", port)
        dripping[1].write(b"POST /add-ch")
        big = await asyncio.open_connection("127.0.0.1", port)
        big[1].write(b"POST / HTTP/1.1\r\n" + b"X-A: " + b"a" * 20_000)
        async with asyncio.timeout(15):
            assert b"408" in await slow[0].read()
            assert b"400" in await big[0].read()
            assert await silent[0].read() == b""
            assert await dripping[0].read() == b""
        stopping.set()
        await serving
        desk.memory.close()
        for _, writer in (silent, slow, dripping, big):
            writer.close()

    head, server.HEAD_S = server.HEAD_S, 0.3
    try:
        asyncio.run(run())
    finally:
        server.HEAD_S = head


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--host", "0.0.0.0"], 2, "needs TLS"),
        (["--tls-cert", "x"], 2, "go together"),
        (["--tls-cert", "x", "--tls-key", "y"], 2, "cannot be used"),
        (["--log", "no+such+key"], 2, "--log"),
        (["--log", "/nowhere"], 2, "--log"),
        ([], 2, "at least one --log"),
    ],
)
def test_what_the_command_refuses(tmp_path: Path, arguments: list[str], code: int, told: str) -> None:
    done = CliRunner().invoke(app, [str(tmp_path / "w"), "--name", "w", "--port", "0", *arguments])
    assert (done.exit_code, told in done.stderr) == (code, True), done.stderr


def test_a_witness_keeps_its_name(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    with pytest.raises(MemoryUnusable, match="needs a name"):
        memory.open("")
    memory.close()
    key = Memory(tmp_path)
    first = key.open("w.example")
    key.close()
    with pytest.raises(MemoryUnusable, match=r"called w\.example"):
        Memory(tmp_path).open("v.example")
    assert first.key == VerifierKey("w.example", ED25519, first.key.public)
