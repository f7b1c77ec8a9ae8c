"""The factors a person enrolled: TOTP secrets (sealed), recovery codes (hashed), and the rows they live in.

The rows of WebAuthn keys are made and used in ``keys.py`` beside this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bailiwick.identity.factors import recovery, totp
from bailiwick.kernel.crypto import Sealer
from bailiwick.kernel.db import Transaction


@dataclass(frozen=True, slots=True)
class Factor:
    """One confirmed factor of a person, without its secret. ``kind`` is ``totp`` or ``webauthn``.

    A disabled one proves nothing any more, and still says that the person has to prove himself by a second factor.
    """

    id: str
    kind: str
    name: str
    created_at: datetime
    last_used_at: datetime | None
    disabled_at: datetime | None = None

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "id": self.id,
            "kind": self.kind,
            "name": self.name,
            "created_at": self.created_at,
            "last_used_at": self.last_used_at,
            "disabled_at": self.disabled_at,
        }


async def list_factors(tx: Transaction, zone: str, username: str) -> list[Factor]:
    """The confirmed factors of a user, oldest first."""
    rows = await tx.all(
        "SELECT id, kind, name, created_at, last_used_at, disabled_at FROM factors"
        " WHERE zone = :zone AND username = :username AND confirmed_at IS NOT NULL ORDER BY created_at, id",
        zone=zone,
        username=username,
    )
    names = ("id", "kind", "name", "created_at", "last_used_at", "disabled_at")
    return [Factor(*(row[name] for name in names)) for row in rows]


def methods_of(factors: Sequence[Factor]) -> tuple[str, ...]:
    """What a person with these factors may answer by, as ``methods`` of the refusal tells it."""
    kinds = {factor.kind for factor in factors if factor.disabled_at is None}
    return (*tuple(kind for kind in ("webauthn", "totp") if kind in kinds), "recovery_code")


async def begin_totp(
    tx: Transaction, sealer: Sealer, identifier: str, zone: str, username: str, name: str, now: datetime
) -> bytes:
    """A TOTP factor that waits for its first code, in place of an earlier one that waited; answers its secret."""
    secret = totp.new_secret()
    await tx.run(
        "DELETE FROM factors WHERE zone = :zone AND username = :username AND kind = 'totp' AND confirmed_at IS NULL",
        zone=zone,
        username=username,
    )
    await tx.run(
        "INSERT INTO factors (id, zone, username, kind, name, secret_sealed, created_at)"
        " VALUES (:id, :zone, :username, 'totp', :name, :sealed, :now)",
        id=identifier,
        zone=zone,
        username=username,
        name=name,
        sealed=sealer.seal(secret, factor_aad(identifier)),
        now=now,
    )
    return secret


async def confirm_totp(
    tx: Transaction, sealer: Sealer, zone: str, username: str, code: str, now: datetime
) -> str | None:
    """Confirm the waiting TOTP factor by a code of it; its id, None when the code is wrong or none waits."""
    row = await tx.one(
        "SELECT id, secret_sealed FROM factors WHERE zone = :zone AND username = :username AND kind = 'totp'"
        " AND confirmed_at IS NULL FOR UPDATE",
        zone=zone,
        username=username,
    )
    if row is None:
        return None
    secret = sealer.open(bytes(row["secret_sealed"]), factor_aad(row["id"]))
    step = totp.matching_step(secret, code, now.timestamp(), -1)
    if step is None:
        return None
    await tx.run(
        "UPDATE factors SET confirmed_at = :now, last_step = :step, last_used_at = :now WHERE id = :id",
        now=now,
        step=step,
        id=row["id"],
    )
    return str(row["id"])


async def use_totp(tx: Transaction, sealer: Sealer, zone: str, username: str, code: str, now: datetime) -> bool:
    """Whether ``code`` is a fresh code of one of the user's TOTP factors, which it then no longer is."""
    rows = await tx.all(
        "SELECT id, secret_sealed, last_step FROM factors WHERE zone = :zone AND username = :username"
        " AND kind = 'totp' AND confirmed_at IS NOT NULL ORDER BY id FOR UPDATE",
        zone=zone,
        username=username,
    )
    for row in rows:
        secret = sealer.open(bytes(row["secret_sealed"]), factor_aad(row["id"]))
        step = totp.matching_step(secret, code, now.timestamp(), row["last_step"])
        if step is not None:
            await tx.run(
                "UPDATE factors SET last_step = :step, last_used_at = :now WHERE id = :id",
                step=step,
                now=now,
                id=row["id"],
            )
            return True
    return False


async def use_recovery_code(tx: Transaction, zone: str, username: str, code: str, now: datetime) -> bool:
    """Whether ``code`` is an unused recovery code of the user, which it then no longer is."""
    hashed = recovery.digest(code)
    if hashed is None:
        return False
    return bool(
        await tx.run(
            "UPDATE recovery_codes SET used_at = :now WHERE zone = :zone AND username = :username AND hash = :hash"
            " AND used_at IS NULL",
            now=now,
            zone=zone,
            username=username,
            hash=hashed,
        )
    )


async def replace_recovery_codes(tx: Transaction, zone: str, username: str) -> list[str]:
    """Fresh recovery codes in place of all earlier ones; they are told once."""
    codes = recovery.new_codes()
    await tx.run("DELETE FROM recovery_codes WHERE zone = :zone AND username = :username", zone=zone, username=username)
    for code in codes:
        await tx.run(
            "INSERT INTO recovery_codes (zone, username, hash) VALUES (:zone, :username, :hash)",
            zone=zone,
            username=username,
            hash=recovery.digest(code),
        )
    return codes


async def recovery_codes_left(tx: Transaction, zone: str, username: str) -> int:
    """How many recovery codes are unused."""
    left = await tx.value(
        "SELECT count(*) FROM recovery_codes WHERE zone = :zone AND username = :username AND used_at IS NULL",
        zone=zone,
        username=username,
    )
    return int(left)


async def forget_factors(tx: Transaction, zone: str, username: str) -> int:
    """Remove the user's factors and recovery codes; answers how many confirmed factors there were."""
    await tx.run("DELETE FROM recovery_codes WHERE zone = :zone AND username = :username", zone=zone, username=username)
    rows = await tx.all(
        "DELETE FROM factors WHERE zone = :zone AND username = :username RETURNING confirmed_at",
        zone=zone,
        username=username,
    )
    return sum(1 for row in rows if row["confirmed_at"] is not None)


def factor_aad(identifier: str) -> bytes:
    """What the sealed secret of a factor is bound to."""
    return f"factor:{identifier}".encode()
