"""Rotating the key-encryption key: everything sealed is wrapped anew, in batches, while the installation runs.

The order matters. The new key is put in the file first and every process told to read it; only when all have
confirmed is anything wrapped under it; only when nothing is wrapped under the old key any more may that one go. What a
worker sealed just before, decision inputs, is still on its way to the database then: that is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bailiwick.assurance.notices.channels import secret_aad as channel_secret_aad
from bailiwick.assurance.secrets import key_aad as fingerprint_aad
from bailiwick.authority.revocation import Revocations
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.evidence.inputs import input_aad
from bailiwick.evidence.ledger import key_aad
from bailiwick.evidence.siem.sinks import sink_aad
from bailiwick.identity.factors.store import factor_aad
from bailiwick.identity.login.id_tokens import pending_aad, session_aad
from bailiwick.identity.providers import provider_aad
from bailiwick.inventory.credentials import credential_aad
from bailiwick.kernel import feed
from bailiwick.kernel.crypto import KekFile, Sealer
from bailiwick.kernel.db import Database, Row
from bailiwick.kernel.errors import Conflict
from bailiwick.kernel.idempotency import answer_aad

_BATCH = 500
_ARRIVING = "decision_inputs"  # by the spools


@dataclass(frozen=True, slots=True)
class SealedColumn:
    """A column of sealed values: its table, the columns of the primary key, and what a value is bound to."""

    table: str
    key: tuple[str, ...]
    column: str
    aad: Callable[[Row], bytes]


SEALED: tuple[SealedColumn, ...] = (
    SealedColumn("zone_keys", ("kid", "zone"), "private_sealed", lambda row: key_aad(row["zone"], row["kid"])),
    SealedColumn("credentials", ("zone", "id"), "sealed", lambda row: credential_aad(row["zone"], row["id"])),
    SealedColumn("siem_sinks", ("zone", "id"), "sealed", lambda row: sink_aad(row["zone"], row["id"])),
    SealedColumn("identity_providers", ("zone", "id"), "sealed", lambda row: provider_aad(row["zone"], row["id"])),
    SealedColumn(
        "channel_secrets", ("zone", "name"), "sealed", lambda row: channel_secret_aad(row["zone"], row["name"])
    ),
    SealedColumn("factors", ("id",), "secret_sealed", lambda row: factor_aad(row["id"])),
    SealedColumn("sessions", ("id",), "id_token_sealed", lambda row: session_aad(row["id"])),
    SealedColumn(
        "pending_sign_ins", ("token_hash",), "id_token_sealed", lambda row: pending_aad(bytes(row["token_hash"]))
    ),
    SealedColumn("decision_inputs", ("zone", "digest"), "sealed", lambda row: input_aad(row["zone"], row["digest"])),
    SealedColumn("fingerprint_keys", ("zone",), "sealed", lambda row: fingerprint_aad(row["zone"])),
    SealedColumn("idempotency_keys", ("zone", "caller", "key"), "body", answer_aad),
)


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a rotation did: the new key's id, the rows wrapped anew by table, and the keys that went.

    ``kept``: keys that stay until the next rotation, since the spools may still hold what one of them wraps.
    """

    kek: str
    rewrapped: dict[str, int]
    retired: tuple[str, ...]
    kept: tuple[str, ...] = ()


class KekRotation:
    """Rotates the KEK of a running or stopped installation.

    ``drained()`` waits until the ledger holds what the spools hold now; False when it does not in time.
    """

    def __init__(
        self,
        database: Database,
        recorder: Recorder,
        file: KekFile,
        revocations: Revocations,
        drained: Callable[[], Awaitable[bool]],
    ) -> None:
        self._database = database
        self._recorder = recorder
        self._file = file
        self._revocations = revocations
        self._drained = drained

    async def rotate(self, context: Context) -> Rotation:
        """Make a new KEK, wrap everything under it, retire the others. Safe to run again after an interruption.

        Raises ``Conflict`` while another rotation runs, on whichever machine: of two at once, the one that ends first
        would retire the key that the other has just wrapped everything under.
        """
        async with self._database.begin() as tx:  # which only holds the lock, until the rotation is over
            if not await tx.value("SELECT pg_try_advisory_xact_lock(hashtext('bailiwick.kek'), 0)"):
                raise Conflict("The key-encryption key is being rotated already; wait for that to end.")
            return await self._rotate(context)

    async def _rotate(self, context: Context) -> Rotation:
        # the file is flushed to disk, which takes as long as the disk is busy: a worker that stands still meanwhile
        # confirms no revocation, and is taken for dead with every request in it
        kek = await asyncio.to_thread(self._file.add)
        async with self._database.begin() as tx:
            revision = await feed.announce(tx, context.zone, "kek", kek)
        await self._revocations.settle(revision, context)
        sealer = await asyncio.to_thread(self._file.load)
        rewrapped = {column.table: await self._rewrap(column, sealer) for column in SEALED}
        # after the long part, so that it has written what it had sealed when it confirmed
        arrived = await self._drained()
        for column in SEALED:
            if column.table == _ARRIVING:
                rewrapped[column.table] += await self._rewrap(column, sealer)
        old = tuple(kid for kid in await asyncio.to_thread(self._file.ids) if kid != kek)
        retired, kept = (old, ()) if arrived else ((), old)
        async with self._database.begin() as tx:
            await self._recorder.record(
                tx,
                codes.KEK_ROTATED,
                "success",
                context,
                subject=Subject(id=kek, type="kek"),
                kek=kek,
                rewrapped=sum(rewrapped.values()),
            )
        for kid in retired:
            await asyncio.to_thread(self._file.retire, kid)
        return Rotation(kek, rewrapped, retired, kept)

    async def _rewrap(self, column: SealedColumn, sealer: Sealer) -> int:
        """Wrap every value of a column that is under another KEK; answers how many."""
        names = ", ".join(column.key)
        place = f"({names})"
        after = tuple("" for _ in column.key)
        changed = 0
        while True:
            bound = ", ".join(f":after_{name}" for name in column.key)
            async with self._database.begin() as tx:
                rows = await tx.all(
                    f"SELECT {names}, {column.column} AS sealed FROM {column.table}"  # noqa: S608 - names from SEALED
                    f" WHERE {place} > ({bound}) AND {column.column} IS NOT NULL"
                    f" ORDER BY {names} LIMIT {_BATCH} FOR UPDATE",
                    **{f"after_{name}": value for name, value in zip(column.key, after, strict=True)},
                )
                for row in rows:
                    if sealer.kek_of(row["sealed"]) != sealer.active:
                        matches = " AND ".join(f"{name} = :{name}" for name in column.key)
                        await tx.run(
                            f"UPDATE {column.table} SET {column.column} = :sealed WHERE {matches}",  # noqa: S608
                            sealed=sealer.rewrap(row["sealed"], column.aad(row)),
                            **{name: row[name] for name in column.key},
                        )
                        changed += 1
            if len(rows) < _BATCH:
                return changed
            after = tuple(row[name] for name in column.key for row in rows[-1:])
