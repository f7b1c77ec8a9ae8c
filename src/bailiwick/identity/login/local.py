"""Signing in by user name and password.

An unknown name costs and answers what a wrong password does: the same time, the same words, the same lock after ten
failures. A lock is looked at again after the password was checked, under a row lock, so that guessing in parallel
learns no more than guessing in turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import structlog

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.identity.login.lockout import LOCK, count_failure, forget_failures, locked_until
from bailiwick.identity.login.sign_ins import FactorDue, SignedIn, SignIns
from bailiwick.identity.passwords import Passwords, Verified
from bailiwick.identity.ports import Revoke
from bailiwick.identity.sessions import end_sessions, printable
from bailiwick.inventory.zones import require_active
from bailiwick.kernel import feed
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import BailiwickError, InvalidRequest, Unauthenticated
from bailiwick.kernel.fields import USER_NAME_PATTERN, matches

_SELECT_USER = """
SELECT id, username, email, role, owns, is_active, mfa_enabled, password_hash, must_change_password FROM users
WHERE zone = :zone AND username = :username
"""

# what a password is checked against, in one look that holds nothing and writes nothing: a lock on the zone would make
# it a transaction that waits for the disk
_LOOK = """
SELECT z.state, u.password_hash, f.locked_until FROM zones z
LEFT JOIN users u ON u.zone = z.name AND u.username = :username
LEFT JOIN login_failures f ON f.zone = z.name AND f.username = :username
WHERE z.name = :zone
"""

# The account, locked, if it is as it was when the password was looked up, and no failure is counted: what nearly
# every sign-in meets. Who is at it, or at the zone, holds what he changes, and is not waited for: then nothing is
# answered, and the locks are taken one after the other in the order of everybody.
AS_LOOKED = """
SELECT u.id, u.username, u.email, u.role, u.owns, u.mfa_enabled, u.must_change_password,
  EXISTS (SELECT FROM factors f
    WHERE f.zone = u.zone AND f.username = u.username AND f.confirmed_at IS NOT NULL) AS has_factors
FROM zones z JOIN users u ON u.zone = z.name
WHERE z.name = :zone AND z.state = 'active' AND u.username = :username AND u.is_active AND u.password_hash = :stored
  AND NOT EXISTS (SELECT FROM login_failures f WHERE f.zone = u.zone AND f.username = u.username)
FOR UPDATE OF u SKIP LOCKED FOR SHARE OF z SKIP LOCKED
"""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why a sign-in is refused; committed to the record before it is raised."""

    reason: str
    locked_until: datetime | None = None

    def error(self, now: datetime) -> BailiwickError:
        if self.locked_until is None:
            return Unauthenticated(reason=self.reason)
        wait = max(1, int((self.locked_until - now).total_seconds()) + 1)
        return BailiwickError(reason=self.reason, headers={"Retry-After": str(wait)})


class LocalLogin:
    """Signs people in by password, and changes passwords."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        recorder: Recorder,
        passwords: Passwords,
        sign_ins: SignIns,
        revocations: Revoke,
    ) -> None:
        self._database = database
        self._clock = clock
        self._recorder = recorder
        self._passwords = passwords
        self._sign_ins = sign_ins
        self._revocations = revocations

    async def sign_in(self, context: Context, username: str, password: str) -> SignedIn:
        """Open a session for the user of ``context.zone``.

        Raises ``Unauthenticated`` with ``invalid_credentials`` or, the password being right, ``account_disabled``,
        ``mfa_required`` or ``mfa_enrolment_required``; ``account_locked`` (429); ``Unavailable`` when too many
        passwords are being checked.
        """
        known = matches(USER_NAME_PATTERN, username)
        stored, locked = await self._look(context.zone, username if known else None)
        if locked is not None:
            await self._refuse(context, username, _Refusal("account_locked", locked))
        verified = await self._passwords.verify(stored, password)
        fresh_hash = await self._passwords.hash(password) if verified.outdated else None
        async with self._database.begin() as tx:
            user = None
            outcome: SignedIn | FactorDue | _Refusal
            if verified.ok and fresh_hash is None:
                user = await tx.one(AS_LOOKED, zone=context.zone, username=username, stored=stored)
            if user is not None:
                outcome = await self._sign_ins.conclude(tx, context, user, "local", ("pwd",))
            else:
                await require_active(tx, context.zone)
                outcome = await self._conclude(tx, context, username, stored, verified, fresh_hash, known=known)
        if isinstance(outcome, _Refusal):
            raise self._refused(context, username, outcome)
        if isinstance(outcome, FactorDue):
            raise outcome.error()
        return outcome

    async def change_password(self, context: Context, username: str, session_id: str, current: str, new: str) -> None:
        """Change one's own password, which ends one's other sessions everywhere before this returns.

        Raises ``invalid_credentials`` for a wrong current password, which counts towards the lock.
        """
        async with self._database.begin() as tx:
            await require_active(tx, context.zone)
            user = await _user(tx, context.zone, username)
            locked = await locked_until(tx, context.zone, username, self._clock.now())
        if locked is not None:
            await self._refuse(context, username, _Refusal("account_locked", locked))
        stored = user["password_hash"] if user is not None else None
        verified = await self._passwords.verify(stored, current)
        if user is not None and verified.ok:
            await self._passwords.check(new, username=username, email=user["email"])
            if new == current:
                raise InvalidRequest("The new password must differ from the current one.")
        fresh = await self._passwords.hash(new) if verified.ok else ""
        async with self._database.begin() as tx:
            refusal, _row = await self._admit(tx, context, username, stored, verified, known=True)
            if refusal is None:
                revision = await self._store_password(tx, context, username, session_id, fresh)
            else:
                await self._record_refusal(tx, context, username, refusal)
        if refusal is not None:
            raise self._refused(context, username, refusal)
        await self._revocations.settle(revision, context)

    async def sweep_failures(self) -> int:
        """Drop failures that no longer count, for the scheduled job; answers how many."""
        async with self._database.begin() as tx:
            return await tx.run("DELETE FROM login_failures WHERE last_at < :before", before=self._clock.now() - LOCK)

    async def _look(self, zone: str, username: str | None) -> tuple[str | None, datetime | None]:
        """The hash to check against, and until when the name is locked. Raises what :func:`require_active` does."""
        rows = await self._database.read(_LOOK, zone=zone, username=username)
        if not rows or rows[0]["state"] != "active":
            async with self._database.begin() as tx:
                await require_active(tx, zone)
        if not rows or username is None:
            return None, None
        row = rows[0]
        until = row["locked_until"]
        return row["password_hash"], until if until is not None and until > self._clock.now() else None

    async def _conclude(
        self,
        tx: Transaction,
        context: Context,
        username: str,
        stored: str | None,
        verified: Verified,
        fresh_hash: str | None,
        *,
        known: bool,
    ) -> SignedIn | FactorDue | _Refusal:
        refusal, user = await self._admit(tx, context, username, stored, verified, known=known)
        if refusal is not None or user is None:
            refusal = refusal or _Refusal("invalid_credentials")
            await self._record_refusal(tx, context, username, refusal)
            return refusal
        if fresh_hash is not None:
            await tx.run("UPDATE users SET password_hash = :fresh WHERE id = :id", fresh=fresh_hash, id=user["id"])
        return await self._sign_ins.conclude(tx, context, user, "local", ("pwd",))

    async def _admit(
        self,
        tx: Transaction,
        context: Context,
        username: str,
        stored: str | None,
        verified: Verified,
        *,
        known: bool,
    ) -> tuple[_Refusal | None, Row | None]:
        """Judge a checked password against the account as it is now, holding the user's row."""
        if not known:
            return _Refusal("invalid_credentials"), None
        user = await _user(tx, context.zone, username, lock=True)
        locked = await locked_until(tx, context.zone, username, self._clock.now(), lock=True)
        if locked is not None:
            return _Refusal("account_locked", locked), user
        if not verified.ok or user is None or user["password_hash"] != stored:
            await count_failure(tx, self._recorder, context, username, self._clock.now())
            return _Refusal("invalid_credentials"), user
        if not user["is_active"]:
            return _Refusal("account_disabled"), user
        return None, user

    async def _store_password(
        self, tx: Transaction, context: Context, username: str, session_id: str, hashed: str
    ) -> int:
        now = self._clock.now()
        await tx.run(
            "UPDATE users SET password_hash = :hash, must_change_password = false, version = version + 1,"
            " invitation_hash = NULL, invitation_expires_at = NULL, updated_at = :now"
            " WHERE zone = :zone AND username = :username",
            hash=hashed,
            now=now,
            zone=context.zone,
            username=username,
        )
        await forget_failures(tx, context.zone, username)
        ended = await end_sessions(tx, context.zone, username, now=now, reason="password changed", but=session_id)
        await self._recorder.record(
            tx,
            codes.AUTH_PASSWORD_CHANGED,
            "success",
            context,
            subject=Subject(id=username, type="user"),
            sessions_ended=len(ended),
        )
        revision = await feed.announce(tx, context.zone, "user", username)
        for other in ended:
            revision = await self._revocations.revoke(tx, context, "session", other, "password changed")
        return revision

    async def _refuse(self, context: Context, username: str, refusal: _Refusal) -> None:
        """Record and raise a refusal."""
        async with self._database.begin() as tx:
            await self._record_refusal(tx, context, username, refusal)
        raise self._refused(context, username, refusal)

    async def _record_refusal(self, tx: Transaction, context: Context, username: str, refusal: _Refusal) -> None:
        await self._recorder.record(
            tx,
            codes.AUTH_LOGIN_FAILURE,
            "failure",
            context,
            subject=Subject(id=printable(username, 100), type="user"),
            reasons=(refusal.reason,),
            method="local",
        )

    def _refused(self, context: Context, username: str, refusal: _Refusal) -> BailiwickError:
        log.warning(
            "authentication failed",
            zone=context.zone,
            username=printable(username, 100),
            ip=context.network.ip,
            reason=refusal.reason,
        )
        return refusal.error(self._clock.now())


async def _user(tx: Transaction, zone: str, username: str, *, lock: bool = False) -> Row | None:
    return await tx.one(
        f"{_SELECT_USER} FOR UPDATE" if lock else _SELECT_USER,
        zone=zone,
        username=username,
    )
