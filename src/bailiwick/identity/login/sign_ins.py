"""Where every way of signing in ends: a second factor if one is due, then a session with its tokens.

A path (password, directory, provider, key) proves *who*; it calls :meth:`SignIns.conclude` while it holds the user's
row, and has no other way to a session. Whether a factor is due is decided here alone, so that no path can skip it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence, Set
from datetime import datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import Literal

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Event, Recorder, Subject
from bailiwick.identity.factors import totp
from bailiwick.identity.factors.store import (
    Factor,
    list_factors,
    methods_of,
    recovery_codes_left,
    use_recovery_code,
    use_totp,
)
from bailiwick.identity.login import id_tokens
from bailiwick.identity.login.lockout import count_failure, locked_until
from bailiwick.identity.login.outcomes import (
    NOTHING_PROVIDED,
    PENDING_LIFE,
    Enrolment,
    FactorDue,
    Onward,
    Provided,
    SignedIn,
    Waiting,
    acting,
)
from bailiwick.identity.login.own_factors import OwnFactors
from bailiwick.identity.login.rotation import Rotations
from bailiwick.identity.ports import Revoke, SessionTokens
from bailiwick.identity.sessions import open_session
from bailiwick.inventory.zones import require_active
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.crypto import Sealer
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import BailiwickError, Unauthenticated
from bailiwick.kernel.http import Caller
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.settings import Settings

__all__ = ["PENDING_LIFE", "Enrolment", "FactorDue", "SignIns", "SignedIn"]

Method = Literal["local", "ldap", "oidc", "saml", "passkey"]

MAX_ATTEMPTS = 5
# how long a proof counts as fresh for what changes the account itself
RECENT = timedelta(minutes=15)
# by how much the clocks of two machines may differ
_SKEW = timedelta(minutes=1)
# authentication context classes (RFC 9470): by one factor, and by two
ACR_SINGLE = "urn:bailiwick:acr:1fa"
ACR_MFA = "urn:bailiwick:acr:2fa"
# what a first factor may be
ENROLLABLE = ("webauthn", "totp")
PENDING_PREFIX = "bwm_"
REFRESH_PREFIX = "bwr_"

_USER = "SELECT id, username, email, role, owns, is_active, mfa_enabled, must_change_password FROM users"
_PENDING = "SELECT * FROM pending_sign_ins WHERE token_hash = :hash AND zone = :zone"


class SignIns:
    """Concludes sign-ins, takes second factors, and keeps sessions going."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        ids: Ids,
        recorder: Recorder,
        settings: Settings,
        sealer: Sealer,
        tokens: SessionTokens,
        revocations: Revoke,
    ) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._settings = settings
        self._sealer = sealer
        self._tokens = tokens
        self._revocations = revocations
        self._life = timedelta(seconds=settings.session_ttl_s)
        self._idle = timedelta(seconds=settings.session_idle_s)
        self.own_factors = OwnFactors(database, clock, ids, recorder, sealer, self.required)
        self._rotations: Rotations[SignedIn] = Rotations(database, clock, self._idle)

    def replace_sealer(self, sealer: Sealer) -> None:
        """Use the KEKs as they are after a rotation."""
        self._sealer = sealer
        self.own_factors.replace_sealer(sealer)

    # ------------------------------------------------------------------ the way in

    async def conclude(
        self,
        tx: Transaction,
        context: Context,
        user: Row,
        method: Method,
        amr: Sequence[str],
        provided: Provided = NOTHING_PROVIDED,
    ) -> SignedIn | FactorDue:
        """What a proven first factor leads to. The caller holds the user's row, which has :data:`_USER`'s columns, and
        raises :meth:`FactorDue.error` after it committed.
        """
        # who read the user may have seen that he has none, which spares nearly everybody a look
        factors = await list_factors(tx, context.zone, user["username"]) if user.get("has_factors", True) else []
        if "mfa" not in amr and (factors or self.required(user, context)):
            return await self._owe(tx, context, user, method, amr, factors, provided)
        return await self._open(tx, context, user, method, amr, provided)

    def required(self, user: Row, context: Context) -> bool:
        """Whether the person must have a second factor, whatever he enrolled."""
        return self._needs(user["mfa_enabled"], {user["role"], *user["owns"]}, context.network.ip)

    def _needs(self, mfa_enabled: bool, roles: Set[str], ip: str) -> bool:
        if mfa_enabled or outside(ip, self._settings.mfa_required_outside):
            return True
        return not self._settings.dev and not roles.isdisjoint(self._settings.mfa_roles)

    async def _open(
        self,
        tx: Transaction,
        context: Context,
        user: Row,
        method: Method,
        amr: Sequence[str],
        provided: Provided,
        recovery_codes: Sequence[str] = (),
    ) -> SignedIn:
        """Open a session for the locked ``user``: its row, its event, its tokens."""
        username, now = user["username"], self._clock.now()
        session_id, expires_at = self._ids(), _ends_at(now, self._life, provided.origin)
        refresh = REFRESH_PREFIX + self._ids.secret(32)
        event = self._recorder.make(
            codes.AUTH_LOGIN_SUCCESS,
            "success",
            acting(context, username, session_id),
            subject=Subject(id=username, type="user"),
            method=method,
            amr=[*amr],
        )
        over = await open_session(
            tx,
            context,
            session_id,
            username,
            event=event,
            method=method,
            amr=amr,
            now=now,
            idle_until=min(now + self._idle, expires_at),
            expires_at=expires_at,
            origin=provided.origin,
            id_token=id_tokens.sealed(self._sealer, provided.id_token, id_tokens.session_aad(session_id)),
            refresh=_digest(refresh),
            most=self._settings.max_sessions,
        )
        # signed while the row is locked: whoever revokes the user later gets a later revision than the token's
        token, expires_in = self._token(context.zone, username, session_id, expires_at, now, amr)
        for ended in over:
            await self._recorder.record(
                tx,
                codes.AUTH_SESSION_ENDED,
                "success",
                acting(context, username, session_id),
                subject=Subject(id=ended, type="session"),
                username=username,
            )
            await self._revocations.revoke(tx, context, "session", ended, "too many sessions")
        return SignedIn(
            token,
            refresh,
            session_id,
            expires_in,
            user["must_change_password"],
            username,
            user["role"],
            user["email"],
            tuple(recovery_codes),
        )

    # ------------------------------------------------------------------ the second factor

    async def answer(self, context: Context, token: str, code: str) -> SignedIn:
        """Finish a sign-in by a code of an app, or a recovery code.

        Raises ``Unauthenticated`` with ``invalid_token`` (unknown, used up), ``token_expired`` or ``invalid_code``.
        """
        async with self._database.begin() as tx:
            pending, user = await self.pending(tx, context, token, enrolling=False)
            used = await self._use(tx, context, user["username"], code)
            outcome: SignedIn | None = None
            if used is not None:
                outcome = await self.go_on(tx, context, pending, user, (used, "mfa"))
            else:
                await self.fail(tx, context, user["username"], pending["method"], token)
        if outcome is None:
            raise Unauthenticated(reason="invalid_code")
        return outcome

    async def begin_enrolment(self, context: Context, token: str) -> Enrolment:
        """A secret for somebody who may not come in without a second factor and has none."""
        async with self._database.begin() as tx:
            _, user = await self.pending(tx, context, token, enrolling=True)
            return await self.own_factors.begin(tx, context, user["username"], "Authenticator app")

    async def finish_enrolment(self, context: Context, token: str, code: str) -> SignedIn:
        """Confirm the secret by its first code, and sign in. The answer holds the recovery codes, told once."""
        async with self._database.begin() as tx:
            pending, user = await self.pending(tx, context, token, enrolling=True)
            outcome: SignedIn | None = None
            told = await self.own_factors.confirm(tx, context, user["username"], code)
            if told is not None:
                outcome = await self.go_on(tx, context, pending, user, ("otp", "mfa"), told)
            else:
                await self.fail(tx, context, user["username"], pending["method"], token)
        if outcome is None:
            raise Unauthenticated(reason="invalid_code")
        return outcome

    # ------------------------------------------------------------------ a proof of just now

    async def require_recent(self, caller: Caller) -> None:
        """Refuse (RFC 9470) unless the person proved himself just now (:data:`RECENT`), by a second factor if any."""
        async with self._database.begin() as tx:
            has_factor = bool(await list_factors(tx, caller.zone, caller.name))
        if not self._proven(caller, by_factor=has_factor):
            raise _not_enough(by_factor=has_factor)

    async def require_privileged(self, caller: Caller, ip: str) -> None:
        """Refuse (RFC 9470) a person who has a second factor or needs one, unless he proved himself by it just now.

        In development mode a role alone needs none; a factor that is enrolled is asked for there as well.
        """
        if self._proven(caller, by_factor=True):
            return
        async with self._database.begin() as tx:
            row = await tx.one(
                "SELECT u.mfa_enabled, u.role, u.owns, EXISTS (SELECT FROM factors f WHERE f.zone = u.zone"
                " AND f.username = u.username AND f.confirmed_at IS NOT NULL) AS has_factor FROM users u"
                " WHERE u.zone = :zone AND u.username = :username",
                zone=caller.zone,
                username=caller.name,
            )
        if row is None or row["has_factor"] or self._needs(row["mfa_enabled"], {row["role"], *row["owns"]}, ip):
            raise _not_enough(by_factor=True)

    def _proven(self, caller: Caller, *, by_factor: bool) -> bool:
        # a proof of the time to come is of a clock that was put back since: it says nothing about how long ago it was
        age = self._clock.time() - caller.auth_time
        recent = -_SKEW.total_seconds() <= age <= RECENT.total_seconds()
        return recent and ("mfa" in caller.amr or not by_factor)

    async def step_up(self, context: Context, code: str) -> SignedIn:
        """A fresh access token for the session at hand, by a code given now (RFC 9470)."""
        outcome: SignedIn | None = None
        async with self._database.begin() as tx:
            user, session = await self.stay(tx, context)
            used = await self._use(tx, context, user["username"], code)
            if used is None:
                await self.fail(tx, context, user["username"], session["method"], "")
            else:
                outcome = await self.stepped_up(tx, context, user, session, (used, "mfa"))
        if outcome is None:
            raise Unauthenticated(reason="invalid_code")
        return outcome

    async def stay(self, tx: Transaction, context: Context) -> tuple[Row, Row]:
        """The signed-in person and his session, both locked; raises ``session_ended``."""
        await require_active(tx, context.zone)
        user = await tx.one(
            f"{_USER} WHERE zone = :zone AND username = :u AND is_active FOR UPDATE",
            zone=context.zone,
            u=context.actor.user,
        )
        session = await tx.one(
            "SELECT * FROM sessions WHERE zone = :zone AND id = :id AND ended_at IS NULL FOR UPDATE",
            zone=context.zone,
            id=context.actor.session,
        )
        if user is None or session is None:
            raise Unauthenticated(reason="session_ended")
        return user, session

    async def stepped_up(
        self, tx: Transaction, context: Context, user: Row, session: Row, used: Sequence[str]
    ) -> SignedIn:
        """The session's next access token, once its person proved himself by ``used`` (RFC 8176)."""
        username, now = user["username"], self._clock.now()
        amr = [*dict.fromkeys([*session["amr"], *used])]
        await tx.run(
            "UPDATE sessions SET amr = :amr, auth_time = :now, last_seen_at = :now WHERE id = :id",
            amr=amr,
            now=now,
            id=session["id"],
        )
        token, expires_in = self._token(context.zone, username, session["id"], session["expires_at"], now, amr)
        await self._recorder.record(
            tx, codes.AUTH_STEPPED_UP, "success", context, subject=Subject(id=username, type="user"), amr=amr
        )
        return SignedIn(
            token, "", session["id"], expires_in, user["must_change_password"], username, user["role"], user["email"]
        )

    # ------------------------------------------------------------------ going on

    async def refresh(self, context: Context, token: str) -> SignedIn:
        """The next tokens of a session; the one presented is used up.

        One presented twice means that somebody has a copy: the session ends everywhere, and both must sign in again
        (RFC 9700 §4.14). Raises ``Unauthenticated`` with ``invalid_token``, ``refresh_reused`` or ``session_ended``.
        """
        old, fresh = _digest(token), REFRESH_PREFIX + self._ids.secret(32)

        def conclude(row: Row) -> tuple[SignedIn, Event]:
            access, expires_in = self._token(
                context.zone, row["username"], row["id"], row["expires_at"], row["auth_time"], row["amr"]
            )
            event = self._recorder.make(
                codes.AUTH_SESSION_REFRESHED,
                "success",
                acting(context, row["username"], row["id"]),
                subject=Subject(id=row["id"], type="session"),
            )
            signed_in = SignedIn(
                access, fresh, row["id"], expires_in, row["must_change_password"], row["username"], row["role"],
                row["email"],
            )  # fmt: skip
            return signed_in, event

        going_on = await self._rotations.rotate(context.zone, old, _digest(fresh), conclude)
        if going_on is not None:
            return going_on
        async with self._database.begin() as tx:
            await require_active(tx, context.zone)
            revision = await self._refuse_refresh(tx, context, old, self._clock.now())
        if revision is None:
            raise Unauthenticated("The refresh token is unknown.", reason="invalid_token")
        if revision:
            await self._revocations.settle(revision, context)
            raise Unauthenticated(reason="refresh_reused")
        raise Unauthenticated(reason="session_ended")

    async def _refuse_refresh(self, tx: Transaction, context: Context, old: bytes, now: datetime) -> int | None:
        """Why a refresh token did nothing: None unknown, 0 the session is over, else the revision that ended it."""
        row = await tx.one(
            "SELECT s.id, s.username, s.ended_at, r.used_at IS NOT NULL AS again FROM refresh_tokens r"
            " JOIN sessions s ON s.id = r.session_id WHERE r.hash = :hash AND s.zone = :zone FOR UPDATE OF s",
            hash=old,
            zone=context.zone,
        )
        if row is None:
            return None
        if row["ended_at"] is not None or not row["again"]:
            return 0
        await tx.run(
            "UPDATE sessions SET ended_at = :now, end_reason = 'refresh token used twice' WHERE id = :id",
            now=now,
            id=row["id"],
        )
        await self._recorder.record(
            tx,
            codes.AUTH_REFRESH_REUSED,
            "failure",
            acting(context, row["username"], row["id"]),
            subject=Subject(id=row["id"], type="session"),
            username=row["username"],
        )
        return await self._revocations.revoke(tx, context, "session", row["id"], "refresh token used twice")

    # ------------------------------------------------------------------ parts

    def _token(
        self, zone: str, username: str, session_id: str, until: datetime, auth_time: datetime, amr: Sequence[str]
    ) -> tuple[str, int]:
        now = self._clock.now()
        expires_at = min(now + timedelta(seconds=self._settings.access_ttl_s), until)
        token = self._tokens.session_token(
            zone, username, session_id, expires_at.timestamp(), tuple(amr), int(auth_time.timestamp())
        )
        return token, int((expires_at - now).total_seconds())

    async def _owe(
        self,
        tx: Transaction,
        context: Context,
        user: Row,
        method: Method,
        amr: Sequence[str],
        factors: Sequence[Factor],
        provided: Provided,
    ) -> FactorDue:
        token, now = PENDING_PREFIX + self._ids.secret(32), self._clock.now()
        digest = _digest(token)
        await tx.run(
            "INSERT INTO pending_sign_ins (token_hash, zone, username, method, amr, enrolling, origin, id_token_sealed,"
            " return_to, as_cookie, created_at, expires_at) VALUES (:hash, :zone, :username, :method, :amr, :enrolling,"
            " cast(:origin AS jsonb), :id_token, :return_to, :as_cookie, :now, :until)",
            origin=json.dumps(dict(provided.origin)),
            id_token=id_tokens.sealed(self._sealer, provided.id_token, id_tokens.pending_aad(digest)),
            return_to=provided.onward.return_to,
            as_cookie=provided.onward.as_cookie,
            hash=digest,
            zone=context.zone,
            username=user["username"],
            method=method,
            amr=[*amr],
            enrolling=not factors,
            now=now,
            until=now + PENDING_LIFE,
        )
        return FactorDue(token, methods_of(factors) if factors else ENROLLABLE, not factors)

    async def pending(
        self, tx: Transaction, context: Context, token: str, *, enrolling: bool | None = None
    ) -> tuple[Row, Row]:
        """The sign-in that waits under ``token``, and its user as he is now, both locked.

        ``enrolling`` says whether it must owe the enrolment of a factor or one that is there; None takes either.
        """
        await require_active(tx, context.zone)
        row = await tx.one(f"{_PENDING} FOR UPDATE", hash=_digest(token), zone=context.zone)
        other = row is not None and enrolling is not None and row["enrolling"] != enrolling
        if row is None or other or row["attempts"] >= MAX_ATTEMPTS:
            raise Unauthenticated("The sign-in is unknown or used up; start again.", reason="invalid_token")
        if row["expires_at"] <= self._clock.now():
            raise Unauthenticated("The sign-in took too long; start again.", reason="token_expired")
        user = await tx.one(
            f"{_USER} WHERE zone = :zone AND username = :username FOR UPDATE",
            zone=context.zone,
            username=row["username"],
        )
        if user is None or not user["is_active"]:
            raise Unauthenticated(reason="account_disabled")
        if row["enrolling"] and await list_factors(tx, context.zone, row["username"]):
            # somebody enrolled meanwhile: who holds only the password must not add a factor of his own
            raise Unauthenticated("A factor was enrolled meanwhile; start again.", reason="invalid_token")
        return row, user

    async def waiting(self, context: Context, token: str) -> Waiting:
        """What the sign-in under ``token`` owes; raises as :meth:`answer` does for one that is none any more."""
        async with self._database.begin() as tx:
            row, user = await self.pending(tx, context, token)
            factors = await list_factors(tx, context.zone, user["username"])
        methods = ENROLLABLE if row["enrolling"] else methods_of(factors)
        return Waiting(user["username"], methods, row["enrolling"], Onward(row["return_to"], row["as_cookie"]))

    async def go_on(
        self,
        tx: Transaction,
        context: Context,
        pending: Row,
        user: Row,
        used: Sequence[str],
        recovery_codes: Sequence[str] = (),
    ) -> SignedIn:
        """Open the session of a waiting sign-in (:meth:`pending`) whose person proved himself by ``used`` as well."""
        await tx.run("DELETE FROM pending_sign_ins WHERE token_hash = :hash", hash=pending["token_hash"])
        aad = id_tokens.pending_aad(bytes(pending["token_hash"]))
        provided = Provided(pending["origin"], id_tokens.opened(self._sealer, pending["id_token_sealed"], aad))
        amr = [*dict.fromkeys([*pending["amr"], *used])]
        return await self._open(tx, context, user, pending["method"], amr, provided, recovery_codes)

    async def id_token(self, zone: str, session_id: str) -> str:
        """The ID token that a provider gave with the session; empty without one, or when the session is over."""
        async with self._database.begin() as tx:
            kept = await tx.value(
                "SELECT id_token_sealed FROM sessions WHERE zone = :zone AND id = :id", zone=zone, id=session_id
            )
        return id_tokens.opened(self._sealer, kept, id_tokens.session_aad(session_id))

    async def _use(self, tx: Transaction, context: Context, username: str, code: str) -> str | None:
        """The RFC 8176 name of the factor that ``code`` proves, None when it proves none."""
        now = self._clock.now()
        if await locked_until(tx, context.zone, username, now, lock=True) is not None:
            raise BailiwickError(reason="account_locked")
        plain = code.strip().replace(" ", "")
        if plain.isascii() and plain.isdigit() and len(plain) == totp.DIGITS:
            return "otp" if await use_totp(tx, self._sealer, context.zone, username, plain, now) else None
        if await use_recovery_code(tx, context.zone, username, code, now):
            await self._recorder.record(
                tx,
                codes.AUTH_RECOVERY_CODE_USED,
                "success",
                acting(context, username, ""),
                subject=Subject(id=username, type="user"),
                left=await recovery_codes_left(tx, context.zone, username),
            )
            return "rcv"
        return None

    async def fail(
        self, tx: Transaction, context: Context, username: str, method: str, token: str, reason: str = "invalid_code"
    ) -> None:
        """Count a second factor that proved nothing, against the account and against the sign-in that waits."""
        await count_failure(tx, self._recorder, context, username, self._clock.now())
        if token:
            await tx.run(
                "UPDATE pending_sign_ins SET attempts = attempts + 1 WHERE token_hash = :hash", hash=_digest(token)
            )
        await self._recorder.record(
            tx,
            codes.AUTH_LOGIN_FAILURE,
            "failure",
            context,
            subject=Subject(id=username, type="user"),
            reasons=(reason,),
            method=method,
        )


def outside(ip: str, networks: Sequence[str]) -> bool:
    """Whether an address is in none of ``networks`` (CIDR), where there are any. One that cannot be told is outside."""
    if not networks:
        return False
    try:
        address = ip_address(ip)
    except ValueError:
        return True
    return not any(address in ip_network(network) for network in networks)


def _not_enough(*, by_factor: bool) -> Unauthenticated:
    wanted = f'acr_values="{ACR_MFA}", ' if by_factor else ""
    challenge = f'Bearer error="insufficient_user_authentication", {wanted}max_age="{int(RECENT.total_seconds())}"'
    return Unauthenticated(reason="insufficient_user_authentication", headers={"WWW-Authenticate": challenge})


def _ends_at(now: datetime, life: timedelta, origin: Mapping[str, str]) -> datetime:
    """When a session that begins now ends: not after the provider's own (SAML's SessionNotOnOrAfter).

    Raises ``Unauthenticated`` (``session_ended``) when that is over already, a second factor having taken too long.
    """
    until = origin.get("until")
    ends_at = now + life if until is None else min(now + life, datetime.fromisoformat(until))
    if ends_at <= now:
        raise Unauthenticated("The provider's session is over; sign in again.", reason="session_ended")
    return ends_at


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
