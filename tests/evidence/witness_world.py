"""Logs that tell the truth and logs that lie, and a witness as a process."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bailiwick.evidence.tlog_witness import AddCheckpoint
from bailiwick_verify.checkpoint import Checkpoint
from bailiwick_verify.merkle import consistency_path, leaf_hash, root_of
from bailiwick_verify.note import Signer, VerifierKey

NOW = 1_790_000_000


class Log:
    """A log in memory. ``seed`` makes its key."""

    def __init__(self, seed: bytes = b"l", name: str = "log.example/default") -> None:
        self.signer = Signer(name, Ed25519PrivateKey.from_private_bytes(seed * 32))
        self.leaves: list[bytes] = []

    @property
    def key(self) -> VerifierKey:
        return self.signer.key

    def grow(self, count: int, mark: str = "") -> Log:
        self.leaves += [leaf_hash(f"{mark}{len(self.leaves) + n}".encode()) for n in range(count)]
        return self

    def cut(self, size: int) -> Log:
        del self.leaves[size:]
        return self

    def checkpoint(self, size: int | None = None, signer: Signer | None = None) -> bytes:
        size = len(self.leaves) if size is None else size
        return bytes(
            Checkpoint(self.key.name, size, root_of(self.leaves[:size])).signed(signer or self.signer, NOW + size)
        )

    def proof(self, old: int, size: int | None = None) -> tuple[bytes, ...]:
        size = len(self.leaves) if size is None else size
        leaves = self.leaves
        if old == 0:
            return ()
        return tuple(consistency_path(old, size, lambda h, i: root_of(leaves[i << h : (i + 1) << h])))

    def request(self, old: int, size: int | None = None) -> bytes:
        return bytes(AddCheckpoint(old, self.proof(old, size), self.checkpoint(size)))


@dataclass
class Served:
    """A witness that runs: its process, its key, its address."""

    process: subprocess.Popen[str]
    key: VerifierKey
    url: str

    def post(self, body: bytes) -> tuple[int, bytes, str]:
        return post(self.url + "/add-checkpoint", body)


def post(url: str, body: bytes) -> tuple[int, bytes, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, method="POST"), timeout=20) as answer:
            return answer.status, answer.read(), answer.headers["content-type"]
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers["content-type"]


def start(directory: Path, keys: Sequence[VerifierKey], *more: str, name: str = "witness.example") -> Served:
    command = [sys.executable, "-m", "bailiwick.cli.main", "witness", str(directory), "--port", "0", *more]
    command += [part for key in keys for part in ("--log", str(key))] + (["--name", name] if name else [])
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    key, url = process.stdout.readline().strip(), process.stdout.readline().strip()
    assert url, f"the witness did not start: {process.wait(10)}"
    return Served(process, VerifierKey.parse(key), url)


@contextlib.contextmanager
def running(
    directory: Path, keys: Sequence[VerifierKey], *more: str, name: str = "witness.example"
) -> Iterator[Served]:
    served = start(directory, keys, *more, name=name)
    try:
        yield served
    finally:
        served.process.terminate()
        served.process.wait(15)
        assert served.process.stdout is not None
        served.process.stdout.close()
