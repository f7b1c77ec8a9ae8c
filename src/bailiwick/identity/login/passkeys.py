"""Passkeys: enrolling them, signing in by one alone, and as the second factor of any other way.

A passkey that verified its person (by touch and PIN, fingerprint or face) is two factors in one, so signing in by it
owes no further one. As a second factor the person need only be present. Every challenge is answered once: it is used
up in the transaction that judges the answer, whatever the judgement.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.identity.factors.keys import (
    MAX_KEYS,
    Purpose,
    StoredKey,
    add_key,
    count_use,
    disable_key,
    key_by_id,
    keys_of,
    owner_of_key,
    remember_challenge,
    take_challenge,
)
from bailiwick.identity.factors.store import list_factors, replace_recovery_codes
from bailiwick.identity.factors.webauthn import (
    CHALLENGE_BYTES,
    InvalidPasskey,
    KnownKey,
    NewKey,
    Proof,
    RelyingParty,
    assertion_options,
    challenge_of,
    check_assertion,
    check_registration,
    cloned,
    credential_id_of,
    registration_options,
    user_handle,
    user_handle_of,
)
from bailiwick.identity.login.lockout import locked_until
from bailiwick.identity.login.outcomes import acting
from bailiwick.identity.login.sign_ins import FactorDue, SignedIn, SignIns
from bailiwick.inventory.zones import require_active
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import BailiwickError, Conflict
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.settings import Settings

Credential = Mapping[str, Any]
"""The JSON form of a browser's ``PublicKeyCredential`` (WebAuthn Level 3, ``toJSON()``)."""

# RFC 8176: possession of a key, a test of the person, and so more than one factor
AMR_ALONE = ("hwk", "user", "mfa")

_USER = (
    "SELECT id, username, email, full_name, role, owns, is_active, mfa_enabled, must_change_password FROM users"
    " WHERE zone = :zone AND username = :username FOR UPDATE"
)


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why an answer is refused; committed to the record before it is raised."""

    reason: str
    username: str = ""

    def error(self) -> BailiwickError:
        return BailiwickError(reason=self.reason)


class Passkeys:
    """Enrols passkeys, and signs people in by them."""

    def __init__(
        self, database: Database, clock: Clock, ids: Ids, recorder: Recorder, settings: Settings, sign_ins: SignIns
    ) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._settings = settings
        self._sign_ins = sign_ins

    # ------------------------------------------------------------------ one's own keys

    async def registration(self, context: Context) -> dict[str, Any]:
        """What a browser makes a key of, for the signed-in person."""
        async with self._database.begin() as tx:
            user, _ = await self._sign_ins.stay(tx, context)
            return await self._registration(tx, context, "register", context.actor.session, user["username"])

    async def register(self, context: Context, name: str, credential: Credential) -> tuple[str, ...]:
        """Enrol the key of an answer; the recovery codes when it is the first factor, else nothing.

        Raises ``invalid_passkey``, and ``Conflict`` (``already_exists``) for a key that is enrolled already.
        """
        async with self._database.begin() as tx:
            user, _ = await self._sign_ins.stay(tx, context)
            told = await self._register(
                tx, context, "register", context.actor.session, user["username"], name, credential
            )
        return _held(told)

    async def enrolment(self, context: Context, token: str) -> dict[str, Any]:
        """What a browser makes a key of, for somebody who may not come in without a second factor and has none."""
        async with self._database.begin() as tx:
            _, user = await self._sign_ins.pending(tx, context, token, enrolling=True)
            return await self._registration(tx, context, "enrol", _bound(token), user["username"])

    async def enrol(self, context: Context, token: str, name: str, credential: Credential) -> SignedIn:
        """Enrol the key and sign in. The answer holds the recovery codes, told once."""
        async with self._database.begin() as tx:
            pending, user = await self._sign_ins.pending(tx, context, token, enrolling=True)
            username, outcome = user["username"], None
            told = await self._register(tx, context, "enrol", _bound(token), username, name, credential)
            if isinstance(told, _Refusal):
                await self._sign_ins.fail(tx, context, username, pending["method"], token, told.reason)
            else:
                outcome = await self._sign_ins.go_on(tx, context, pending, user, ("hwk", "mfa"), told)
        return _opened(outcome, told)

    # ------------------------------------------------------------------ the second factor

    async def challenge(self, context: Context, token: str) -> dict[str, Any]:
        """What the keys of a sign-in that waits are asked; raises ``Conflict`` where there is none."""
        async with self._database.begin() as tx:
            _, user = await self._sign_ins.pending(tx, context, token, enrolling=False)
            return await self._asked(tx, context, "second", _bound(token), user["username"])

    async def answer(self, context: Context, token: str, credential: Credential) -> SignedIn:
        """Finish a sign-in by a key; raises ``invalid_passkey`` or ``passkey_cloned``."""
        async with self._database.begin() as tx:
            pending, user = await self._sign_ins.pending(tx, context, token, enrolling=False)
            outcome: SignedIn | None = None
            used = await self._prove(tx, context, "second", _bound(token), user["username"], credential)
            if isinstance(used, _Refusal):
                await self._count(tx, context, used, pending["method"], token)
            else:
                outcome = await self._sign_ins.go_on(tx, context, pending, user, used)
        return _opened(outcome, used)

    async def step_up_challenge(self, context: Context) -> dict[str, Any]:
        """What the keys of the signed-in person are asked."""
        async with self._database.begin() as tx:
            user, _ = await self._sign_ins.stay(tx, context)
            return await self._asked(tx, context, "step-up", context.actor.session, user["username"])

    async def step_up(self, context: Context, credential: Credential) -> SignedIn:
        """A fresh access token for the session at hand, by a key used now (RFC 9470)."""
        async with self._database.begin() as tx:
            user, session = await self._sign_ins.stay(tx, context)
            outcome: SignedIn | None = None
            used = await self._prove(tx, context, "step-up", context.actor.session, user["username"], credential)
            if isinstance(used, _Refusal):
                await self._count(tx, context, used, session["method"], "")
            else:
                outcome = await self._sign_ins.stepped_up(tx, context, user, session, used)
        return _opened(outcome, used)

    # ------------------------------------------------------------------ the only factor

    async def open_challenge(self, context: Context) -> dict[str, Any]:
        """What any passkey of this installation is asked, before it is known whose."""
        party, challenge = self._party(), self._ids.random(CHALLENGE_BYTES)
        async with self._database.begin() as tx:
            await require_active(tx, context.zone)
            await remember_challenge(tx, context.zone, "first", "", challenge, self._clock.now())
        return assertion_options(party, challenge, (), verify_user=True)

    async def sign_in(self, context: Context, credential: Credential) -> SignedIn:
        """Open a session by a discoverable passkey alone, which must have verified its person.

        Raises ``Unauthenticated`` or its kind with ``invalid_passkey``, ``passkey_cloned``, ``account_locked``, and the
        passkey being right, ``account_disabled``.
        """
        async with self._database.begin() as tx:
            await require_active(tx, context.zone)
            outcome = await self._sign_in(tx, context, credential)
            if isinstance(outcome, _Refusal):
                await self._recorder.record(
                    tx,
                    codes.AUTH_LOGIN_FAILURE,
                    "failure",
                    context,
                    subject=Subject(id=outcome.username, type="user") if outcome.username else None,
                    reasons=(outcome.reason,),
                    method="passkey",
                )
        if isinstance(outcome, FactorDue):
            raise outcome.error()
        return _opened(outcome if isinstance(outcome, SignedIn) else None, outcome)

    async def _sign_in(
        self, tx: Transaction, context: Context, credential: Credential
    ) -> SignedIn | FactorDue | _Refusal:
        try:
            owner = await owner_of_key(tx, context.zone, credential_id_of(credential))
            handle = user_handle_of(credential)
        except InvalidPasskey:
            owner = handle = None
        user = await _user(tx, context.zone, owner) if owner is not None else None
        # a discoverable key names its user itself; one that names another, or nobody, was not asked rightly
        if user is None or handle != user_handle(user["id"]):
            await self._use_up(tx, context, credential)
            return _Refusal("invalid_passkey", user["username"] if user is not None else "")
        used = await self._prove(tx, context, "first", "", user["username"], credential, verify_user=True)
        if isinstance(used, _Refusal):
            return used
        if not user["is_active"]:
            return _Refusal("account_disabled", user["username"])
        return await self._sign_ins.conclude(tx, context, user, "passkey", used)

    async def _use_up(self, tx: Transaction, context: Context, credential: Credential) -> None:
        try:
            await take_challenge(tx, context.zone, "first", "", challenge_of(credential), self._clock.now())
        except InvalidPasskey:
            pass

    # ------------------------------------------------------------------ parts

    def _party(self) -> RelyingParty:
        return RelyingParty.of(self._settings.issuer)

    async def _registration(
        self, tx: Transaction, context: Context, purpose: Purpose, bound_to: str, username: str
    ) -> dict[str, Any]:
        party, challenge = self._party(), self._ids.random(CHALLENGE_BYTES)
        user, known = await _user(tx, context.zone, username), await keys_of(tx, context.zone, username)
        assert user is not None  # whose row the caller holds
        if len(known) >= MAX_KEYS:
            raise Conflict(f"You have {MAX_KEYS} keys; remove one first.")
        await remember_challenge(tx, context.zone, purpose, bound_to, challenge, self._clock.now())
        return registration_options(party, challenge, user["id"], username, user["full_name"], known)

    async def _register(
        self,
        tx: Transaction,
        context: Context,
        purpose: Purpose,
        bound_to: str,
        username: str,
        name: str,
        credential: Credential,
    ) -> tuple[str, ...] | _Refusal:
        party, now = self._party(), self._clock.now()
        new: NewKey | None = None
        try:
            challenge = challenge_of(credential)
            if await take_challenge(tx, context.zone, purpose, bound_to, challenge, now):
                new = check_registration(party, credential, challenge)
        except InvalidPasskey:
            pass
        if new is None:
            return _Refusal("invalid_passkey", username)
        first, identifier = not await list_factors(tx, context.zone, username), self._ids()
        if not await add_key(tx, identifier, context.zone, username, name, new, now):
            return _Refusal("already_exists", username)
        await self._recorder.record(
            tx,
            codes.AUTH_FACTOR_ENROLLED,
            "success",
            acting(context, username, context.actor.session),
            subject=Subject(id=username, type="user"),
            factor=identifier,
            kind="webauthn",
        )
        return tuple(await replace_recovery_codes(tx, context.zone, username)) if first else ()

    async def _asked(
        self, tx: Transaction, context: Context, purpose: Purpose, bound_to: str, username: str
    ) -> dict[str, Any]:
        party, challenge = self._party(), self._ids.random(CHALLENGE_BYTES)
        known: list[KnownKey] = await keys_of(tx, context.zone, username)
        if not known:
            raise Conflict("There is no passkey of yours.")
        await remember_challenge(tx, context.zone, purpose, bound_to, challenge, self._clock.now())
        return assertion_options(party, challenge, known, verify_user=False)

    async def _prove(
        self,
        tx: Transaction,
        context: Context,
        purpose: Purpose,
        bound_to: str,
        username: str,
        credential: Credential,
        *,
        verify_user: bool = False,
    ) -> tuple[str, ...] | _Refusal:
        """By what (RFC 8176) a key of the locked user proves him, or why it does not."""
        party, now = self._party(), self._clock.now()
        if await locked_until(tx, context.zone, username, now, lock=True) is not None:
            return _Refusal("account_locked", username)
        stored: StoredKey | None = None
        proof: Proof | None = None
        try:
            challenge = challenge_of(credential)
            if await take_challenge(tx, context.zone, purpose, bound_to, challenge, now):
                stored = await key_by_id(tx, context.zone, credential_id_of(credential))
                if stored is not None and stored.username == username and not stored.disabled:
                    proof = check_assertion(party, credential, challenge, stored.key, verify_user=verify_user)
        except InvalidPasskey:
            pass
        if stored is None or proof is None:
            return _Refusal("invalid_passkey", username)
        if cloned(stored.key.sign_count, proof.sign_count):
            await self._put_out_of_use(tx, context, stored, proof)
            return _Refusal("passkey_cloned", username)
        await count_use(tx, stored.id, proof, now)
        return AMR_ALONE if proof.user_verified else ("hwk", "mfa")

    async def _count(self, tx: Transaction, context: Context, refusal: _Refusal, method: str, token: str) -> None:
        if refusal.reason != "account_locked":  # which another failure must not prolong
            await self._sign_ins.fail(tx, context, refusal.username, method, token, refusal.reason)

    async def _put_out_of_use(self, tx: Transaction, context: Context, stored: StoredKey, proof: Proof) -> None:
        await disable_key(tx, stored.id, self._clock.now())
        await self._recorder.record(
            tx,
            codes.AUTH_FACTOR_CLONED,
            "failure",
            context,
            subject=Subject(id=stored.username, type="user"),
            factor=stored.id,
            kind="webauthn",
            known=stored.key.sign_count,
            shown=proof.sign_count,
        )


def _held(told: tuple[str, ...] | _Refusal) -> tuple[str, ...]:
    if isinstance(told, _Refusal):
        raise told.error()
    return told


def _opened(outcome: SignedIn | None, told: object) -> SignedIn:
    """The session, or the refusal in place of it."""
    if isinstance(told, _Refusal):
        raise told.error()
    assert outcome is not None
    return outcome


def _bound(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


async def _user(tx: Transaction, zone: str, username: str) -> Row | None:
    return await tx.one(_USER, zone=zone, username=username)
