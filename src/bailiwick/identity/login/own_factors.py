"""A person's own second factors: enrolled, listed, renewed and removed by himself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.identity.factors import totp
from bailiwick.identity.factors.store import (
    begin_totp,
    confirm_totp,
    list_factors,
    recovery_codes_left,
    replace_recovery_codes,
)
from bailiwick.identity.login.outcomes import Enrolment, acting
from bailiwick.inventory.zones import require_active
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.crypto import Sealer
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import Conflict, Unauthenticated
from bailiwick.kernel.ids import Ids


class OwnFactors:
    """Keeps them. ``required(user, context)``: whether a person must have one, whatever he enrolled."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        ids: Ids,
        recorder: Recorder,
        sealer: Sealer,
        required: Callable[[Row, Context], bool],
    ) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._sealer = sealer
        self._required = required

    def replace_sealer(self, sealer: Sealer) -> None:
        """Use the KEKs as they are after a rotation."""
        self._sealer = sealer

    async def add_totp(self, context: Context, name: str) -> Enrolment:
        """A further TOTP secret for the signed-in person, to be confirmed by :meth:`confirm_added`."""
        async with self._database.begin() as tx:
            await require_active(tx, context.zone)
            return await self.begin(tx, context, context.actor.user, name)

    async def confirm_added(self, context: Context, code: str) -> tuple[str, ...]:
        """Confirm a secret; the recovery codes when it is the first factor, else nothing."""
        async with self._database.begin() as tx:
            await require_active(tx, context.zone)
            told = await self.confirm(tx, context, context.actor.user, code)
        if told is None:
            raise Unauthenticated(reason="invalid_code")
        return told

    async def renew_recovery_codes(self, context: Context) -> tuple[str, ...]:
        """Fresh recovery codes; the earlier ones are void."""
        username = context.actor.user
        async with self._database.begin() as tx:
            await require_active(tx, context.zone)
            if not await list_factors(tx, context.zone, username):
                raise Conflict("Enrol a second factor first.")
            told = await replace_recovery_codes(tx, context.zone, username)
            await self._recorder.record(
                tx, codes.AUTH_RECOVERY_CODES_RENEWED, "success", context, subject=Subject(id=username, type="user")
            )
        return tuple(told)

    async def list(self, zone: str, username: str) -> dict[str, Any]:
        """The user's factors, and how many recovery codes are left."""
        async with self._database.begin() as tx:
            found = await list_factors(tx, zone, username)
            left = await recovery_codes_left(tx, zone, username)
        return {"factors": [factor.document() for factor in found], "recovery_codes_left": left}

    async def remove_factor(self, context: Context, identifier: str) -> None:
        """Remove one of one's own factors; not the last one while one is required."""
        username = context.actor.user
        async with self._database.begin() as tx:
            await require_active(tx, context.zone)
            user = await tx.one(
                "SELECT mfa_enabled, role, owns FROM users WHERE zone = :zone AND username = :u FOR UPDATE",
                zone=context.zone,
                u=username,
            )
            found = await list_factors(tx, context.zone, username)
            mine = next((factor for factor in found if factor.id == identifier), None)
            if user is None or mine is None:
                raise Conflict("There is no such factor of yours.", reason="not_found")
            usable = [factor for factor in found if factor.disabled_at is None and factor.id != identifier]
            if not usable and self._required(user, context):
                raise Conflict("This is your last second factor, and your account needs one; add another first.")
            await tx.run("DELETE FROM factors WHERE id = :id", id=identifier)
            await self._recorder.record(
                tx,
                codes.AUTH_FACTOR_REMOVED,
                "success",
                context,
                subject=Subject(id=username, type="user"),
                factor=identifier,
                kind=mine.kind,
            )

    # ------------------------------------------------------------------ parts

    async def begin(self, tx: Transaction, context: Context, username: str, name: str) -> Enrolment:
        """A secret that waits to be confirmed, for an app that is called ``name``."""
        secret = await begin_totp(tx, self._sealer, self._ids(), context.zone, username, name, self._clock.now())
        await self._recorder.record(
            tx,
            codes.AUTH_FACTOR_OFFERED,
            "success",
            acting(context, username, context.actor.session),
            subject=Subject(id=username, type="user"),
            kind="totp",
        )
        issuer = "Bailiwick" if context.zone == "default" else f"Bailiwick {context.zone}"
        return Enrolment(totp.encoded(secret), totp.provisioning_uri(secret, issuer, username))

    async def confirm(self, tx: Transaction, context: Context, username: str, code: str) -> tuple[str, ...] | None:
        """Confirm the waiting factor; the recovery codes when it is the first. None when the code is wrong."""
        first = not await list_factors(tx, context.zone, username)
        plain = code.strip().replace(" ", "")
        if not (plain.isascii() and plain.isdigit() and len(plain) == totp.DIGITS):
            return None
        factor = await confirm_totp(tx, self._sealer, context.zone, username, plain, self._clock.now())
        if factor is None:
            return None
        await self._recorder.record(
            tx,
            codes.AUTH_FACTOR_ENROLLED,
            "success",
            acting(context, username, context.actor.session),
            subject=Subject(id=username, type="user"),
            factor=factor,
            kind="totp",
        )
        return tuple(await replace_recovery_codes(tx, context.zone, username)) if first else ()
