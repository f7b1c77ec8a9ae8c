"""What a backup is: a manifest that names its objects, written last. Objects without one are no backup."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime

import msgspec

from bailiwick.kernel.errors import BailiwickError

FORMAT = "bailiwick backup v1"
_NAME = re.compile(r"base/([0-9]{8}T[0-9]{6}Z-[0-9a-f]{6})/manifest\.json")
ID_PATTERN = r"^[0-9]{8}T[0-9]{6}Z-[0-9a-f]{6}$"


class Damaged(BailiwickError):
    """``backup_damaged``: a backup is not what it says it is. The text names the object."""

    default_reason = "backup_damaged"


class Object(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An object of the backup as it lies in the store."""

    name: str
    size: int
    sha256: str


class ZoneHead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The newest published head of a zone's ledger when the backup began; ``note``: the signed checkpoint."""

    zone: str
    size: int
    root: str
    note: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One backup.

    ``parts`` joined and unzipped are a tar of the cluster, with PostgreSQL's own manifest in it. ``start`` to ``stop``
    is the stretch of the log, on ``timeline``, that must be replayed for it to be consistent; it is in the tar.
    ``keks`` are the ids of the keys that open what is sealed in it, the active one last; ``configuration`` is sealed by
    that key, ``escrow`` (None without an escrow key) holds the keys themselves, sealed to ``escrow_key``. ``login`` and
    ``database``: by which the server was reached, which may be somebody else's.
    """

    format: str
    id: str
    program: str
    host: str
    postgres: str
    system: str
    segment_bytes: int
    timeline: int
    start: str
    stop: str
    started_at: str
    finished_at: str
    bytes: int
    parts: tuple[Object, ...]
    heads: tuple[ZoneHead, ...]
    keks: tuple[str, ...]
    configuration: Object
    escrow: Object | None
    escrow_key: str
    simulated_clock: bool
    login: str = ""
    database: str = ""

    @property
    def finished(self) -> datetime:
        """When it was complete; the earliest moment it can be restored to."""
        return datetime.fromisoformat(self.finished_at)

    @property
    def objects(self) -> tuple[Object, ...]:
        """Everything it consists of beside this manifest."""
        return (*self.parts, self.configuration, *([self.escrow] if self.escrow is not None else []))


def new_id(now: datetime, random: str) -> str:
    """An id that sorts by time. ``random``: six hexadecimal digits."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{random}"


def folder_of(identifier: str) -> str:
    """Where the objects of a backup lie."""
    return f"base/{identifier}"


def manifest_name(identifier: str) -> str:
    """The name of its manifest."""
    return f"base/{identifier}/manifest.json"


def ids_among(names: list[str]) -> list[str]:
    """The complete backups among the names of a store's objects, oldest first."""
    return sorted(match[1] for match in map(_NAME.fullmatch, names) if match)


class _Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    manifest: msgspec.Raw
    sha256: str


def encode(manifest: Manifest) -> bytes:
    """Its bytes, with a hash over them."""
    body = msgspec.json.encode(manifest)
    return msgspec.json.encode(_Envelope(msgspec.Raw(body), hashlib.sha256(body).hexdigest()))


def decode(body: bytes, identifier: str) -> Manifest:
    """The manifest of the backup ``identifier``; raises :class:`Damaged` for anything else."""
    try:
        envelope = msgspec.json.decode(body, type=_Envelope)
        found = msgspec.json.decode(envelope.manifest, type=Manifest)
    except msgspec.MsgspecError:
        raise Damaged(f"The manifest of the backup {identifier} cannot be read.") from None
    if hashlib.sha256(envelope.manifest).hexdigest() != envelope.sha256:
        raise Damaged(f"The manifest of the backup {identifier} was altered.")
    if found.format != FORMAT or found.id != identifier:
        raise Damaged(f"What stands as manifest of the backup {identifier} is another's.")
    return found
