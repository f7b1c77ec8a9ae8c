"""What a witness has seen: its key, and the last checkpoint of every log, on disk before any cosignature leaves.

    <directory>/key                       Ed25519, PKCS#8 PEM, 0600
    <directory>/name                      what the key signs under, for ever: its id is made of it
    <directory>/seen/<SHA-256 of the origin>.checkpoint
    <directory>/forks/<SHA-256 of the note>.checkpoint       what contradicts one of them, under the log's own signature

The memory is what makes a witness one: a key whose memory is gone must not sign again, for it could be led to sign
another past. So a key without its ``seen`` is refused, and so is a checkpoint that cannot be read.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from bailiwick_verify.checkpoint import Checkpoint, parse_checkpoint
from bailiwick_verify.note import NoteError, Signer, check_name, parse_note

_MOST_FORKS = 100


class MemoryUnusable(Exception):
    """The directory cannot be used as a witness's; the text is one sentence for the operator."""


class OtherName(MemoryUnusable):
    """A witness keeps its name, and needs one at its first start."""


class Memory:
    """The directory of one witness, held by one process at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = directory / "key"
        self._name = directory / "name"
        self._seen = directory / "seen"
        self._forks = directory / "forks"
        self._lock = -1
        self._known: dict[str, Checkpoint] = {}

    def open(self, name: str) -> Signer:
        """Take the directory and read what is in it; answers the key, made when the directory is new.

        ``name``: under which it signs; may be empty once it has one. Raises :class:`MemoryUnusable`, and NoteError
        for what cannot be a name.
        """
        try:
            return self._open(name)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the directory."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def last(self, origin: str) -> Checkpoint | None:
        """The last checkpoint seen of a log; None for a log never seen."""
        return self._known.get(origin)

    def remember(self, checkpoint: Checkpoint, note: bytes) -> None:
        """Replace the last checkpoint of its log; durable when this returns.

        Raises OSError: then nothing may be signed.
        """
        path = self._seen / f"{hashlib.sha256(checkpoint.origin.encode()).hexdigest()}.checkpoint"
        _write(path, note)
        self._known[checkpoint.origin] = checkpoint

    def keep_fork(self, note: bytes) -> None:
        """Keep a checkpoint that its log signed and that contradicts what was seen: proof of the log's misbehaviour."""
        self._forks.mkdir(mode=0o700, exist_ok=True)
        path = self._forks / f"{hashlib.sha256(note).hexdigest()}.checkpoint"
        if not path.exists() and len(list(self._forks.iterdir())) < _MOST_FORKS:
            _write(path, note)

    def _open(self, name: str) -> Signer:
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._take_lock()
            name = self._named(name)
            if not self._key.exists():
                self._make_key()
            elif not self._seen.is_dir():
                raise MemoryUnusable(
                    f"{self._key} has signed before, but what it saw ({self._seen}) is gone: retire this witness"
                )
            self._read()
            pem = self._key.read_bytes()
        except OSError as error:
            raise MemoryUnusable(f"{error.filename or self._directory}: {error.strerror}") from None
        try:
            private = load_pem_private_key(pem, None)
        except ValueError:
            raise MemoryUnusable(f"{self._key} is not a private key") from None
        if not isinstance(private, Ed25519PrivateKey):
            raise MemoryUnusable(f"{self._key} is not an Ed25519 key")
        return Signer(name, private)

    def _take_lock(self) -> None:
        fd = os.open(self._directory / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise MemoryUnusable(f"another witness runs on {self._directory}") from None
        self._lock = fd

    def _named(self, given: str) -> str:
        if self._name.exists():
            kept = self._name.read_text().strip()
            if given not in ("", kept):
                raise OtherName(f"this witness is called {kept}; under another name it would be another witness")
            return kept
        if not given:
            raise OtherName("the first start of a witness needs a name, such as witness.example")
        check_name(given)
        _write(self._name, f"{given}\n".encode())
        return given

    def _make_key(self) -> None:
        self._seen.mkdir(mode=0o700, exist_ok=True)
        pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        _write(self._key, pem)

    def _read(self) -> None:
        for path in self._seen.glob("*.checkpoint"):
            try:
                checkpoint = parse_checkpoint(parse_note(path.read_bytes()).text)
            except NoteError as error:
                raise MemoryUnusable(f"{path} is damaged: {error}") from None
            if path.stem != hashlib.sha256(checkpoint.origin.encode()).hexdigest():
                raise MemoryUnusable(f"{path} is the checkpoint of another log")
            self._known[checkpoint.origin] = checkpoint


def _write(path: Path, data: bytes) -> None:
    """Write a 0600 file whole and durably: after a crash there is the old content or the new."""
    new = path.with_name(f".{path.name}.new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        new.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
