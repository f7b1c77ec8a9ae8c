"""The signing keys of a zone: made, sealed, rotated, published.

Three purposes, each with one active key: ``mandate`` and ``session`` (ES256 on P-256, RFC 7518) and ``ledger``
(Ed25519, RFC 8032). A retiring key still verifies until what it signed has run out, then it is retired. A key revoked
in an emergency verifies nothing from that moment on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from joserfc.jwk import ECKey, OKPKey

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.kernel import feed
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.crypto import Sealer
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import NotFound

Purpose = Literal["mandate", "session", "ledger"]
PURPOSES: tuple[Purpose, ...] = ("mandate", "session", "ledger")
_REVOKED_REMEMBERED = timedelta(days=30)
_MOST_REVOKED = 256
_ALGORITHMS: dict[str, str] = {"mandate": "ES256", "session": "ES256", "ledger": "Ed25519"}


@dataclass(frozen=True, slots=True)
class VerifyKey:
    """A public key that still verifies."""

    kid: str
    zone: str
    purpose: str
    algorithm: str
    state: str
    jwk: Mapping[str, Any]
    key: ECKey | OKPKey


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The active private key of one purpose."""

    kid: str
    zone: str
    purpose: str
    algorithm: str
    key: ECKey
    raw: bytes  # PKCS#8 DER, what is sealed


def aad(zone: str, kid: str) -> bytes:
    """What a sealed private key is bound to."""
    return f"zone-key/{zone}/{kid}".encode()


def generate(purpose: Purpose) -> tuple[str, dict[str, Any], bytes]:
    """A new key: its id (from the public key), its public JWK (RFC 7517) and its private PKCS#8 DER."""
    private: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
    private = ed25519.Ed25519PrivateKey.generate() if purpose == "ledger" else ec.generate_private_key(ec.SECP256R1())
    der = private.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    spki = private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    kid = f"{purpose[0]}-{hashlib.sha256(spki).hexdigest()[:16]}"
    jwk_type = OKPKey if purpose == "ledger" else ECKey
    jwk = dict(jwk_type.import_key(spki).as_dict(private=False))
    jwk.update(kid=kid, use="sig", alg=_ALGORITHMS[purpose])
    return kid, jwk, der


def public_set(keys: Sequence[VerifyKey]) -> dict[str, Any]:
    """A JWK Set (RFC 7517 §5) of what outsiders verify with."""
    return {"keys": [dict(key.jwk) for key in sorted(keys, key=lambda key: key.kid) if key.purpose != "ledger"]}


class KeyStore:
    """Makes, loads and rotates zone keys."""

    def __init__(self, database: Database, sealer: Sealer, clock: Clock, recorder: Recorder) -> None:
        self._database = database
        self._sealer = sealer
        self._clock = clock
        self._recorder = recorder

    def replace_sealer(self, sealer: Sealer) -> None:
        """Use the KEKs as they are after a rotation."""
        self._sealer = sealer

    async def create(self, tx: Transaction, zone: str, context: Context | None = None) -> None:
        """The three keys of a new zone; ``context`` tells on whose behalf, None where nobody is signed in yet."""
        context = msgspec.structs.replace(context or Context(zone), zone=zone)
        for purpose in PURPOSES:
            kid = await self._insert(tx, zone, purpose)
            await self._recorder.record(
                tx, codes.KEY_CREATED, "success", context, subject=Subject(id=kid, type="key"), purpose=purpose
            )

    async def load_public(self, tx: Transaction, zone: str) -> dict[str, VerifyKey]:
        """Every key of ``zone`` that still verifies, by kid."""
        rows = await tx.all(
            "SELECT kid, zone, purpose, algorithm, state, public_jwk FROM zone_keys"
            " WHERE zone = :zone AND state IN ('active', 'retiring')",
            zone=zone,
        )
        return {row["kid"]: _verify_key(row) for row in rows}

    async def load_revoked(self, tx: Transaction, zone: str) -> frozenset[str]:
        """The kids of keys revoked in an emergency within the last month, at most the newest 256.

        For telling why a token fails only: a kid that is not among them verifies nothing either.
        """
        rows = await tx.all(
            "SELECT kid FROM zone_keys WHERE zone = :zone AND state = 'revoked' AND changed_at > :since"
            " ORDER BY changed_at DESC LIMIT :most",
            zone=zone,
            since=self._clock.now() - _REVOKED_REMEMBERED,
            most=_MOST_REVOKED,
        )
        return frozenset(row["kid"] for row in rows)

    async def load_signing(self, tx: Transaction, zone: str, purpose: Purpose) -> SigningKey:
        """The active private key; raises ``NotFound`` where the zone has none."""
        row = await tx.one(
            "SELECT kid, algorithm, private_sealed FROM zone_keys"
            " WHERE zone = :zone AND purpose = :purpose AND state = 'active'",
            zone=zone,
            purpose=purpose,
        )
        if row is None:
            raise NotFound(f"Zone {zone} has no active {purpose} key.")
        der = self._sealer.open(row["private_sealed"], aad(zone, row["kid"]))
        key = ECKey.import_key(der) if purpose != "ledger" else OKPKey.import_key(der)
        return SigningKey(row["kid"], zone, purpose, row["algorithm"], key, der)  # type: ignore[arg-type]

    async def rotate(
        self, tx: Transaction, context: Context, purpose: Purpose, *, emergency: bool, reason: str
    ) -> tuple[str, str, int]:
        """Replace the active key of ``context.zone``; answers (old kid, new kid, feed revision).

        Ordinary rotation leaves the old key verifying (retiring). Emergency rotation revokes it: everything it signed
        is refused from now on.
        """
        zone, now = context.zone, self._clock.now()
        old = await tx.value(
            "UPDATE zone_keys SET state = :state, changed_at = :now"
            " WHERE zone = :zone AND purpose = :purpose AND state = 'active' RETURNING kid",
            state="revoked" if emergency else "retiring",
            now=now,
            zone=zone,
            purpose=purpose,
        )
        if old is None:
            raise NotFound(f"Zone {zone} has no active {purpose} key.")
        new = await self._insert(tx, zone, purpose)
        await self._recorder.record(
            tx,
            codes.KEY_REVOKED if emergency else codes.KEY_ROTATED,
            "success",
            context,
            subject=Subject(id=old, type="key"),
            purpose=purpose,
            replaced_by=new,
            reason=reason,
        )
        return old, new, await feed.announce(tx, zone, "key", old)

    async def retire_expired(self, longest_life: timedelta) -> int:
        """Retire retiring keys whose last signature has run out; answers how many."""
        async with self._database.begin() as tx:
            rows = await tx.all(
                "UPDATE zone_keys SET state = 'retired', changed_at = :now"
                " WHERE state = 'retiring' AND changed_at < :before AND purpose <> 'ledger' RETURNING zone, kid,"
                " purpose",
                now=self._clock.now(),
                before=self._clock.now() - longest_life,
            )
            for row in rows:
                subject = Subject(id=row["kid"], type="key")
                await self._recorder.record(
                    tx, codes.KEY_RETIRED, "success", Context(row["zone"]), subject=subject, purpose=row["purpose"]
                )
                await feed.announce(tx, row["zone"], "key", row["kid"])
        return len(rows)

    async def rewrap(self, tx: Transaction, sealer: Sealer) -> int:
        """Wrap every private key under ``sealer``'s active KEK; answers how many changed."""
        changed = 0
        for row in await tx.all("SELECT kid, zone, private_sealed FROM zone_keys FOR UPDATE"):
            if sealer.kek_of(row["private_sealed"]) == sealer.active:
                continue
            await tx.run(
                "UPDATE zone_keys SET private_sealed = :sealed WHERE kid = :kid",
                sealed=sealer.rewrap(row["private_sealed"], aad(row["zone"], row["kid"])),
                kid=row["kid"],
            )
            changed += 1
        return changed

    async def _insert(self, tx: Transaction, zone: str, purpose: Purpose) -> str:
        kid, jwk, der = generate(purpose)
        now = self._clock.now()
        await tx.run(
            "INSERT INTO zone_keys (kid, zone, purpose, algorithm, public_jwk, private_sealed, created_at, changed_at)"
            " VALUES (:kid, :zone, :purpose, :algorithm, cast(:jwk AS jsonb), :sealed, :now, :now)",
            kid=kid,
            zone=zone,
            purpose=purpose,
            algorithm=_ALGORITHMS[purpose],
            jwk=json.dumps(jwk),
            sealed=self._sealer.seal(der, aad(zone, kid)),
            now=now,
        )
        return kid


def _verify_key(row: Row) -> VerifyKey:
    jwk = row["public_jwk"]
    key = OKPKey.import_key(jwk) if row["purpose"] == "ledger" else ECKey.import_key(jwk)
    return VerifyKey(row["kid"], row["zone"], row["purpose"], row["algorithm"], row["state"], jwk, key)
