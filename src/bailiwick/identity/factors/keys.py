"""The rows of WebAuthn keys among the factors, and the challenges that wait for an answer."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from bailiwick.identity.factors.webauthn import KnownKey, NewKey, Proof
from bailiwick.kernel.db import Row, Transaction

CHALLENGE_LIFE = timedelta(minutes=5)
MAX_KEYS = 20

Purpose = Literal["register", "enrol", "first", "second", "step-up"]

_KEY = (
    "SELECT id, username, credential_id, public_key, sign_count, transports, disabled_at FROM factors"
    " WHERE zone = :zone AND kind = 'webauthn'"
)


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key, whose it is, and whether it was put out of use."""

    id: str
    username: str
    key: KnownKey
    disabled: bool


async def keys_of(tx: Transaction, zone: str, username: str) -> list[KnownKey]:
    """The keys a user may prove himself by, oldest first."""
    rows = await tx.all(
        f"{_KEY} AND username = :username AND disabled_at IS NULL ORDER BY created_at, id", zone=zone, username=username
    )
    return [_stored(row).key for row in rows]


async def key_by_id(tx: Transaction, zone: str, credential_id: bytes) -> StoredKey | None:
    """The key with a raw credential id, its row locked."""
    row = await tx.one(f"{_KEY} AND credential_id = :id FOR UPDATE", zone=zone, id=credential_id)
    return None if row is None else _stored(row)


async def owner_of_key(tx: Transaction, zone: str, credential_id: bytes) -> str | None:
    """Whose key it is, without a lock: the user's row is locked before his factors'."""
    row = await tx.one(f"{_KEY} AND credential_id = :id", zone=zone, id=credential_id)
    return None if row is None else str(row["username"])


async def add_key(
    tx: Transaction, identifier: str, zone: str, username: str, name: str, key: NewKey, now: datetime
) -> bool:
    """Store a key that was just proven; False when the zone knows it already."""
    return bool(
        await tx.run(
            "INSERT INTO factors (id, zone, username, kind, name, credential_id, public_key, sign_count, aaguid,"
            " transports, backed_up, created_at, confirmed_at) VALUES (:id, :zone, :username, 'webauthn', :name,"
            " :credential, :public_key, :sign_count, :aaguid, :transports, :backed_up, :now, :now)"
            " ON CONFLICT DO NOTHING",
            id=identifier,
            zone=zone,
            username=username,
            name=name,
            credential=key.credential_id,
            public_key=key.public_key,
            sign_count=key.sign_count,
            aaguid=key.aaguid,
            transports=[*key.transports],
            backed_up=key.backed_up,
            now=now,
        )
    )


async def count_use(tx: Transaction, identifier: str, proof: Proof, now: datetime) -> None:
    """Note that a key was used."""
    await tx.run(
        "UPDATE factors SET sign_count = :count, backed_up = :backed_up, last_used_at = :now WHERE id = :id",
        count=proof.sign_count,
        backed_up=proof.backed_up,
        now=now,
        id=identifier,
    )


async def disable_key(tx: Transaction, identifier: str, now: datetime) -> None:
    """Put a key out of use. Its row stays: an account must not lose its need of a second factor by it."""
    await tx.run("UPDATE factors SET disabled_at = :now WHERE id = :id", now=now, id=identifier)


async def remember_challenge(
    tx: Transaction, zone: str, purpose: Purpose, bound_to: str, challenge: bytes, now: datetime
) -> None:
    """A challenge that may be answered once. ``bound_to``: the session or waiting sign-in it was given to, or ''."""
    await tx.run(
        "INSERT INTO passkey_challenges (hash, zone, purpose, bound_to, created_at, expires_at)"
        " VALUES (:hash, :zone, :purpose, :bound_to, :now, :until)",
        hash=_digest(challenge),
        zone=zone,
        purpose=purpose,
        bound_to=bound_to,
        now=now,
        until=now + CHALLENGE_LIFE,
    )


async def take_challenge(
    tx: Transaction, zone: str, purpose: Purpose, bound_to: str, challenge: bytes, now: datetime
) -> bool:
    """Whether the challenge was waiting for this answer; it no longer is."""
    expires_at: datetime | None = await tx.value(
        "DELETE FROM passkey_challenges WHERE hash = :hash AND zone = :zone AND purpose = :purpose"
        " AND bound_to = :bound_to RETURNING expires_at",
        hash=_digest(challenge),
        zone=zone,
        purpose=purpose,
        bound_to=bound_to,
    )
    return expires_at is not None and expires_at > now


def _stored(row: Row) -> StoredKey:
    known = KnownKey(bytes(row["credential_id"]), bytes(row["public_key"]), row["sign_count"], tuple(row["transports"]))
    return StoredKey(row["id"], row["username"], known, row["disabled_at"] is not None)


def _digest(challenge: bytes) -> bytes:
    return hashlib.sha256(challenge).digest()
