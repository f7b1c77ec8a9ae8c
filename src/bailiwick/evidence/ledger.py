"""The ledger: events in their final order, each zone a Merkle tree (RFC 6962), its heads signed checkpoints (C2SP).

Within a zone events are numbered from 0; their canonical bytes are the tree's entries. A *head* is a checkpoint:

    <origin>
    <number of events>
    <root, base64>

signed with Ed25519 by the zone's ledger key, once over the text alone and once (tlog-cosignature) with the time. The
newest head is kept in the table and in a file outside the database, so that cutting events and heads off the table
together is found.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Awaitable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_der_private_key

from bailiwick.evidence.spool import sync_directory
from bailiwick.evidence.tree import load_edge, tree_size
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.crypto import Sealer
from bailiwick.kernel.db import Database, Transaction
from bailiwick_verify.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint
from bailiwick_verify.merkle import Edge
from bailiwick_verify.note import ED25519, NoteError, Signer, VerifierKey, parse_note

_KEY_LIFE_S = 5.0
_LAST_MOMENT = 253_402_300_799  # the end of the year 9999
ZONE_LOCK = 0x6C656467  # "ledg": first half of the advisory lock of a zone's tree


# ---------------------------------------------------------------------- heads


@dataclass(frozen=True, slots=True)
class Head:
    """A signed statement: after ``size`` events the tree of ``zone`` had ``root``. ``note``: the signed checkpoint."""

    zone: str
    size: int
    root: bytes
    at: datetime
    kid: str
    note: bytes

    @classmethod
    def sign(
        cls,
        zone: str,
        size: int,
        root: bytes,
        at: datetime,
        kid: str,
        signer: Signer,
        extensions: Sequence[str] = (),
    ) -> Head:
        """A head of ``zone`` signed now. ``extensions``: what every head of a continued log tells."""
        moment = int(at.timestamp())
        note = Checkpoint(signer.key.name, size, root, tuple(extensions)).signed(signer, moment)
        return cls(zone, size, root, datetime.fromtimestamp(moment, UTC), kid, bytes(note))

    @classmethod
    def read(cls, zone: str, note: bytes) -> Head:
        """The head that a signed checkpoint states; raises ValueError for anything else. Proves nothing by itself."""
        parsed = parse_note(note)
        checkpoint = parse_checkpoint(parsed.text)
        moment = max((line.moment for line in parsed.signatures if line.name == checkpoint.origin), default=0)
        if moment > _LAST_MOMENT:
            raise ValueError("the head claims a time that no calendar has")
        return cls(zone, checkpoint.size, checkpoint.root, datetime.fromtimestamp(moment, UTC), "", note)

    @property
    def said(self) -> Checkpoint:
        """What the note states; raises ValueError where it is none."""
        return parse_checkpoint(parse_note(self.note).text)

    @property
    def epoch(self) -> int:
        """Which continuation of the zone's log it is of, 1 for the first log."""
        return self.said.epoch

    @property
    def order(self) -> tuple[int, int, datetime]:
        """Heads of a zone by how new they are: a continuation may begin at fewer events than were published before."""
        return self.epoch, self.size, self.at

    def false_because(self, keys: Collection[VerifierKey]) -> str | None:
        """Why the head is not genuine, None when one of ``keys`` signed it, and for what its columns say."""
        try:
            opened = open_checkpoint(self.note, keys)
        except NoteError as error:
            return str(error)
        if not opened.time:
            return "its time is not signed"
        said = opened.checkpoint
        if (said.size, said.root) != (self.size, self.root) or opened.time != int(self.at.timestamp()):
            return "its columns say other than what was signed"
        return None


class HeadFiles:
    """The newest head of each zone outside the database: ``<directory>/<zone>.head``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, zone: str) -> Path:
        """Where the head of ``zone`` stands."""
        return self.directory / f"{zone}.head"

    def load(self, zone: str) -> Head | None:
        """The newest head written, None when there is none; raises ValueError when the file is not a head."""
        try:
            data = self.path(zone).read_bytes()
        except FileNotFoundError:
            return None
        return Head.read(zone, data)

    def keep_ended(self, head: Head) -> None:
        """Keep the last head of a log that is continued under another name."""
        path = self.directory / f"{head.zone}.e{head.epoch}.ended"
        if not path.exists():
            temporary = path.with_suffix(".new")
            temporary.write_bytes(head.note)
            temporary.replace(path)
            sync_directory(self.directory)

    def store(self, head: Head) -> None:
        """Replace the head of a zone, durably; the old one stays until the new one is complete."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = self.directory / f".{head.zone}.new"
        with temporary.open("wb") as stream:
            stream.write(head.note)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(self.path(head.zone))
        sync_directory(self.directory)


# ---------------------------------------------------------------------- keys


class HeadSigner(Protocol):
    """Signs heads with the ledger key of a zone."""

    def signer(self, zone: str) -> Awaitable[tuple[str, Signer]]:
        """The id of the zone's active ledger key, and the key under the zone's origin; raises :class:`NoLedgerKey`."""
        ...


class NoLedgerKey(Exception):
    """The zone has no ledger key that can sign; its events are kept, its heads wait."""


class LedgerKeys:
    """Signs with the ledger keys in ``zone_keys`` (purpose ``ledger``, the private half PKCS#8 DER, sealed)."""

    def __init__(self, database: Database, sealer: Sealer, clock: Clock) -> None:
        self._database = database
        self._sealer = sealer
        self._clock = clock
        self._known: dict[str, tuple[float, str, Signer]] = {}

    def replace_sealer(self, sealer: Sealer) -> None:
        """Use the KEKs as they are after a rotation."""
        self._sealer = sealer
        self._known.clear()

    async def signer(self, zone: str) -> tuple[str, Signer]:
        """See :class:`HeadSigner`. A rotated key is noticed within five seconds."""
        now = self._clock.monotonic()
        known = self._known.get(zone)
        if known is None or now - known[0] > _KEY_LIFE_S:
            kid, signer = await self._load(zone)
            known = self._known[zone] = (now, kid, signer)
        return known[1], known[2]

    async def _load(self, zone: str) -> tuple[str, Signer]:
        async with self._database.begin() as tx:
            row = await tx.one(
                "SELECT kid, private_sealed FROM zone_keys"
                " WHERE zone = :zone AND purpose = 'ledger' AND state = 'active'",
                zone=zone,
            )
            origin = await origin_of(tx, zone)
        if row is None or origin is None:
            raise NoLedgerKey(f"zone {zone} has no active ledger key")
        secret = self._sealer.open(bytes(row["private_sealed"]), key_aad(zone, row["kid"]))
        key = load_der_private_key(secret, None)
        if not isinstance(key, Ed25519PrivateKey):
            raise NoLedgerKey(f"the ledger key of zone {zone} is not an Ed25519 key")
        return row["kid"], Signer(origin, key)


def key_aad(zone: str, kid: str) -> bytes:
    """What the sealed private half of a zone key is bound to."""
    return f"zone-key/{zone}/{kid}".encode()


def public_key(jwk: Mapping[str, Any]) -> bytes:
    """The 32 bytes of an Ed25519 JWK (RFC 8037); raises ValueError when it is something else."""
    if jwk.get("crv") != "Ed25519" or not isinstance(jwk.get("x"), str):
        raise ValueError("not an Ed25519 JWK")
    x: str = jwk["x"]
    return base64.urlsafe_b64decode(x + "=" * (-len(x) % 4))


async def origin_of(tx: Transaction, zone: str) -> str | None:
    """The name the zone's log began under, which is for ever that of its first ledger key; None while it has none.
    Continuations of it are named after it (``bailiwick_verify.epochs``).

    Addresses change and installations move: an origin made of the key stays, and no two logs share one.
    """
    first = await tx.value(
        "SELECT kid FROM zone_keys WHERE zone = :zone AND purpose = 'ledger' ORDER BY created_at, kid LIMIT 1",
        zone=zone,
    )
    return f"bailiwick/{first}/{zone}" if first is not None else None


async def ledger_keys(tx: Transaction, zone: str) -> dict[str, VerifierKey]:
    """Every ledger key ``zone`` ever had, by id, under the name that its log began with."""
    origin = await origin_of(tx, zone)
    rows = await tx.all(
        "SELECT kid, public_jwk FROM zone_keys WHERE zone = :zone AND purpose = 'ledger' ORDER BY created_at", zone=zone
    )
    return {row["kid"]: VerifierKey(str(origin), ED25519, public_key(row["public_jwk"])) for row in rows}


# ---------------------------------------------------------------------- the state of a zone's tree


@dataclass(frozen=True, slots=True)
class TreeState:
    """Where a zone's tree stands.

    ``recorded_at``: when the last event was recorded. ``head_size`` and ``head_at``: of the newest stored head, -1 and
    None where there is none.
    ``reloaded``: the edge was read from the table, not continued from what this process knew.
    """

    edge: Edge
    recorded_at: datetime | None
    head_size: int
    reloaded: bool
    head_at: datetime | None = None

    @property
    def size(self) -> int:
        """How many events there are."""
        return self.edge.size


async def lock_tree(tx: Transaction, zone: str, known: Edge | None) -> TreeState:
    """Take the zone's tree for this transaction and tell where it stands; ``known`` is the edge as last seen.

    Several zones must be locked in the order of their names. Raises ``MissingHashes``.
    """
    # not the row of `zones`: every insert that refers to it would wait for us
    await tx.run("SELECT pg_advisory_xact_lock(CAST(:lock AS int), hashtext(:zone))", lock=ZONE_LOCK, zone=zone)
    size = await tree_size(tx, zone)
    recorded_at = await tx.value(
        # rows that left for the archive count too: no later event may be recorded in a window that is sealed
        "SELECT coalesce((SELECT recorded_at FROM ledger.events WHERE zone = :zone ORDER BY seq DESC LIMIT 1),"
        " (SELECT max(window_start) + interval '12 hours' FROM ledger.archives WHERE zone = :zone))",
        zone=zone,
    )
    head = await tx.one(
        "SELECT size, at FROM ledger.heads WHERE zone = :zone ORDER BY size DESC, at DESC LIMIT 1", zone=zone
    )
    reloaded = known is None or known.size != size
    edge = await load_edge(tx, zone, size) if reloaded or known is None else known.copy()
    head_size, head_at = (int(head["size"]), head["at"]) if head is not None else (-1, None)
    return TreeState(edge, recorded_at, head_size, reloaded, head_at)
