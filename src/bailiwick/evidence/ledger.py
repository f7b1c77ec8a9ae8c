"""The ledger: events in their final order, each zone a hash chain, its heads signed.

Within a zone events are numbered from 0. With ``leaf`` the RFC 6962 leaf hash of an event's bytes,

    chain[-1] = SHA-256("bailiwick-ledger-chain/1\\n" || zone)
    chain[n]  = SHA-256(chain[n-1] || leaf[n])

so the chain of the last event stands for all of them in their order. A *head* is that chain under a signature:

    bailiwick-ledger-head/1
    <zone>
    <number of events>
    <chain, base64>
    <RFC 3339 UTC>

each line ending in a line feed, signed with Ed25519 by the zone's ledger key. The newest head is kept in the table and
in a file outside the database, so that cutting events and heads off the table together is found.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_der_private_key

from bailiwick.evidence.events import rfc3339
from bailiwick.evidence.spool import sync_directory
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.crypto import Sealer
from bailiwick.kernel.db import Database, Transaction

_HEAD_TITLE = "bailiwick-ledger-head/1"
_KEY_LIFE_S = 5.0
ZONE_LOCK = 0x6C656467  # "ledg": first half of the advisory lock of a zone's chain


# ---------------------------------------------------------------------- the chain


def chain_start(zone: str) -> bytes:
    """What the first event of ``zone`` is chained to."""
    return hashlib.sha256(b"bailiwick-ledger-chain/1\n" + zone.encode()).digest()


def chain_next(previous: bytes, leaf: bytes) -> bytes:
    """The chain after one more leaf."""
    return hashlib.sha256(previous + leaf).digest()


# ---------------------------------------------------------------------- heads


@dataclass(frozen=True, slots=True)
class Head:
    """A signed statement: after ``size`` events the chain of ``zone`` was ``chain``."""

    zone: str
    size: int
    chain: bytes
    at: datetime
    kid: str
    signature: bytes

    def signed_text(self) -> bytes:
        """The bytes under the signature."""
        return head_text(self.zone, self.size, self.chain, self.at)

    def signed_by(self, keys: Mapping[str, Ed25519PublicKey]) -> bool:
        """Whether the signature is that of the key the head names, and the key is one of ``keys``."""
        key = keys.get(self.kid)
        if key is None:
            return False
        try:
            key.verify(self.signature, self.signed_text())
        except InvalidSignature:
            return False
        return True

    def to_file(self) -> bytes:
        """The head as its file holds it: the signed text, an empty line, the signature."""
        signature = base64.b64encode(self.signature).decode()
        return self.signed_text() + f"\n— {self.kid} {signature}\n".encode()

    @classmethod
    def from_file(cls, data: bytes) -> Head:
        """Read what :meth:`to_file` wrote; raises ValueError for anything else."""
        text, _, signature_line = data.decode().partition("\n\n")
        title, zone, size, chain, at = text.split("\n")
        dash, kid, signature = signature_line.rstrip("\n").split(" ")
        if title != _HEAD_TITLE or dash != "—":
            raise ValueError("not a ledger head")
        head = cls(
            zone,
            int(size),
            base64.b64decode(chain, validate=True),
            datetime.fromisoformat(at),
            kid,
            base64.b64decode(signature, validate=True),
        )
        if head.to_file() != data:
            raise ValueError("not a ledger head in its canonical form")
        return head


def head_text(zone: str, size: int, chain: bytes, at: datetime) -> bytes:
    """The text a head's signature covers (see the module)."""
    encoded = base64.b64encode(chain).decode()
    return f"{_HEAD_TITLE}\n{zone}\n{size}\n{encoded}\n{rfc3339(at)}\n".encode()


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
        head = Head.from_file(data)
        if head.zone != zone:
            raise ValueError("the head is of another zone")
        return head

    def store(self, head: Head) -> None:
        """Replace the head of a zone, durably; the old one stays until the new one is complete."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = self.directory / f".{head.zone}.new"
        with temporary.open("wb") as stream:
            stream.write(head.to_file())
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(self.path(head.zone))
        sync_directory(self.directory)


# ---------------------------------------------------------------------- keys


class HeadSigner(Protocol):
    """Signs heads with the ledger key of a zone."""

    def sign(self, zone: str, message: bytes) -> Awaitable[tuple[str, bytes]]:
        """The id of the zone's active ledger key and its Ed25519 signature; raises :class:`NoLedgerKey`."""
        ...


class NoLedgerKey(Exception):
    """The zone has no ledger key that can sign; its events are kept, its heads wait."""


class LedgerKeys:
    """Signs with the ledger keys in ``zone_keys`` (purpose ``ledger``, the private half PKCS#8 DER, sealed)."""

    def __init__(self, database: Database, sealer: Sealer, clock: Clock) -> None:
        self._database = database
        self._sealer = sealer
        self._clock = clock
        self._known: dict[str, tuple[float, str, Ed25519PrivateKey]] = {}

    def replace_sealer(self, sealer: Sealer) -> None:
        """Use the KEKs as they are after a rotation."""
        self._sealer = sealer
        self._known.clear()

    async def sign(self, zone: str, message: bytes) -> tuple[str, bytes]:
        """See :class:`HeadSigner`. A rotated key is noticed within five seconds."""
        now = self._clock.monotonic()
        known = self._known.get(zone)
        if known is None or now - known[0] > _KEY_LIFE_S:
            kid, private = await self._load(zone)
            known = self._known[zone] = (now, kid, private)
        return known[1], known[2].sign(message)

    async def _load(self, zone: str) -> tuple[str, Ed25519PrivateKey]:
        async with self._database.begin() as tx:
            row = await tx.one(
                "SELECT kid, private_sealed FROM zone_keys"
                " WHERE zone = :zone AND purpose = 'ledger' AND state = 'active'",
                zone=zone,
            )
        if row is None:
            raise NoLedgerKey(f"zone {zone} has no active ledger key")
        secret = self._sealer.open(bytes(row["private_sealed"]), key_aad(zone, row["kid"]))
        key = load_der_private_key(secret, None)
        if not isinstance(key, Ed25519PrivateKey):
            raise NoLedgerKey(f"the ledger key of zone {zone} is not an Ed25519 key")
        return row["kid"], key


def key_aad(zone: str, kid: str) -> bytes:
    """What the sealed private half of a zone key is bound to."""
    return f"zone-key/{zone}/{kid}".encode()


def public_key(jwk: Mapping[str, Any]) -> Ed25519PublicKey:
    """The key of an Ed25519 JWK (RFC 8037); raises ValueError when it is something else."""
    if jwk.get("crv") != "Ed25519" or not isinstance(jwk.get("x"), str):
        raise ValueError("not an Ed25519 JWK")
    x: str = jwk["x"]
    return Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(x + "=" * (-len(x) % 4)))


async def ledger_keys(tx: Transaction, zone: str) -> dict[str, Ed25519PublicKey]:
    """Every ledger key ``zone`` ever had, by id."""
    rows = await tx.all("SELECT kid, public_jwk FROM zone_keys WHERE zone = :zone AND purpose = 'ledger'", zone=zone)
    return {row["kid"]: public_key(row["public_jwk"]) for row in rows}


# ---------------------------------------------------------------------- the state of a zone's chain


@dataclass(frozen=True, slots=True)
class ChainState:
    """Where a zone's chain stands: how many events, their chain, and when the last was recorded.

    ``head_size`` is the size of the newest stored head.
    """

    size: int
    chain: bytes
    recorded_at: datetime | None
    head_size: int


async def lock_chain(tx: Transaction, zone: str) -> ChainState:
    """Take the zone's chain for this transaction and tell where it stands.

    Several zones must be locked in the order of their names.
    """
    # not the row of `zones`: every insert that refers to it would wait for us
    await tx.run("SELECT pg_advisory_xact_lock(CAST(:lock AS int), hashtext(:zone))", lock=ZONE_LOCK, zone=zone)
    last = await tx.one(
        "SELECT seq, chain, recorded_at FROM ledger.events WHERE zone = :zone ORDER BY seq DESC LIMIT 1", zone=zone
    )
    head = await tx.one("SELECT size, chain FROM ledger.heads WHERE zone = :zone ORDER BY size DESC LIMIT 1", zone=zone)
    size, chain = (last["seq"] + 1, bytes(last["chain"])) if last else (0, chain_start(zone))
    if head is not None and head["size"] > size:
        # events before a signed head are gone (their partition went cold, or they were removed: verify tells which);
        # numbers and chain go on from what was signed
        size, chain = head["size"], bytes(head["chain"])
    return ChainState(size, chain, last["recorded_at"] if last else None, head["size"] if head else 0)


async def chain_at(tx: Transaction, zone: str, size: int) -> bytes | None:
    """The chain the table holds after ``size`` events, None when it does not say."""
    if size == 0:
        return chain_start(zone)
    value = await tx.value("SELECT chain FROM ledger.events WHERE zone = :zone AND seq = :seq", zone=zone, seq=size - 1)
    if value is None:
        value = await tx.value(
            "SELECT chain FROM ledger.heads WHERE zone = :zone AND size = :size", zone=zone, size=size
        )
    return bytes(value) if value is not None else None
