"""People who come by an identity provider: known again, made users when they come first, kept as the provider says.

A person is known by what the provider calls him for good (``subject``), never by a name that somebody else could have
here. He has no password of ours. His role follows the provider at each sign-in; without a mapped group it is ``none``,
by which everything is denied.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import structlog

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.identity.login.lockout import counted_names, locked_until
from bailiwick.identity.login.sign_ins import FactorDue, Method, SignedIn, SignIns
from bailiwick.identity.sessions import printable
from bailiwick.identity.standing import NO_ROLE, RANKS
from bailiwick.identity.users import forget_failures
from bailiwick.inventory.zones import require_active
from bailiwick.kernel import feed
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import BailiwickError, Unauthenticated, Unavailable
from bailiwick.kernel.fields import EMAIL_PATTERN, NAME_PATTERN
from bailiwick.kernel.ids import Ids

# where two mapped groups give two roles, the first of these counts
RANK = tuple(role for role in reversed(RANKS) if role != NO_ROLE)

_NAME = re.compile(NAME_PATTERN.removeprefix("^").removesuffix("$"))
_EMAIL = re.compile(EMAIL_PATTERN.removeprefix("^").removesuffix("$"))
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SELECT = """
SELECT id, username, email, full_name, role, is_active, mfa_enabled, must_change_password FROM users
WHERE zone = :zone AND provider = :provider AND subject = :subject
"""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Arrival:
    """Somebody whom a provider vouches for.

    ``provider`` is its name, ``subject`` what stays when the person is renamed, ``username`` what he shall be called
    here when he comes first. ``email`` and ``full_name`` may be empty. ``role``: of :data:`RANK`, None for none mapped.
    """

    provider: str
    subject: str
    username: str
    email: str = ""
    full_name: str = ""
    role: str | None = None


def highest(roles: set[str]) -> str | None:
    """The role that counts of those that a person's groups give him; None without any."""
    return next((role for role in RANK if role in roles), None)


class Arrivals:
    """Lets in who comes by a provider."""

    def __init__(self, database: Database, clock: Clock, ids: Ids, recorder: Recorder, sign_ins: SignIns) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._sign_ins = sign_ins

    async def sign_in(
        self, context: Context, arrival: Arrival, method: Method, amr: tuple[str, ...], counted: str = ""
    ) -> SignedIn:
        """Open a session for who has proved himself to a provider.

        ``counted`` is the name under which failed attempts were counted, if they were; they are forgotten.

        Raises ``account_conflict`` where the name or the e-mail address is another account's here,
        ``account_disabled``, ``account_locked`` (after wrong second factors), ``mfa_required`` and
        ``mfa_enrolment_required``.
        """
        try:
            outcome = await self._known(context, arrival, method, amr, counted)
            if outcome is None:
                await self._welcome(context, arrival)
                outcome = await self._known(context, arrival, method, amr, counted, welcomed=True)
        except BailiwickError as error:
            if error.status >= 500:
                raise
            await self.refused(context, arrival.username, method, arrival.provider, error.reason)
            raise
        if isinstance(outcome, FactorDue):
            raise outcome.error()
        if outcome is None:
            raise Unavailable("The account changed meanwhile; try again.")
        return outcome

    async def _known(
        self,
        context: Context,
        arrival: Arrival,
        method: Method,
        amr: tuple[str, ...],
        counted: str,
        *,
        welcomed: bool = False,
    ) -> SignedIn | FactorDue | None:
        """Conclude for who is a user just as the provider says he is; None where something is to be made or changed.

        One transaction for what nearly every sign-in is. ``welcomed``: what could be changed has been.
        """
        async with self._database.begin() as tx:
            await require_active(tx, context.zone)
            user = await _user(tx, context.zone, arrival, lock=True)
            if user is None or not (welcomed or _as_told(user, arrival)):
                return None
            return await self._conclude(tx, context, user, method, amr, counted)

    async def refused(
        self, context: Context, username: str, method: Method, provider: str, reason: str, cause: str = ""
    ) -> None:
        """Record a sign-in that came to nothing. ``cause``: what the provider says, which the caller is not told."""
        async with self._database.begin() as tx:
            await self.record_refusal(tx, context, username, method, provider, reason, cause)

    async def record_refusal(
        self,
        tx: Transaction,
        context: Context,
        username: str,
        method: Method,
        provider: str,
        reason: str,
        cause: str = "",
    ) -> None:
        """The same within a transaction of the caller's."""
        subject = Subject(id=printable(username, 100), type="user")
        await self._recorder.record(
            tx,
            codes.AUTH_LOGIN_FAILURE,
            "failure",
            context,
            subject=subject,
            reasons=(reason,),
            method=method,
            provider=provider,
            cause=printable(cause, 200),
        )
        log.warning(
            "authentication failed",
            zone=context.zone,
            username=subject.id,
            ip=context.network.ip,
            reason=reason,
            provider=provider,
        )

    async def _conclude(
        self, tx: Transaction, context: Context, user: Row, method: Method, amr: tuple[str, ...], counted: str
    ) -> SignedIn | FactorDue:
        if not user["is_active"]:
            raise Unauthenticated(reason="account_disabled")
        for name in await counted_names(tx, context.zone, user["username"], counted):
            until = await locked_until(tx, context.zone, name, self._clock.now(), lock=True)
            if until is not None:
                wait = max(1, int((until - self._clock.now()).total_seconds()) + 1)
                raise BailiwickError(reason="account_locked", headers={"Retry-After": str(wait)})
            if name == counted:
                await forget_failures(tx, context.zone, counted)
        return await self._sign_ins.conclude(tx, context, user, method, amr)

    async def _welcome(self, context: Context, arrival: Arrival) -> None:
        """Have the user as the provider says he is: made, or changed, where something differs."""
        email, full_name, role = _email(arrival), _full_name(arrival), _role(arrival)
        async with self._database.begin() as tx:
            await require_active(tx, context.zone)
            user = await _user(tx, context.zone, arrival)
            if user is None:
                await self._make(tx, context, arrival, email, full_name, role)
                username = arrival.username
            else:
                user = await _user(tx, context.zone, arrival, lock=True)
                if user is None or not user["is_active"]:
                    raise Unauthenticated(reason="account_disabled")
                username = user["username"]
                if not await self._change(tx, context, user, email if arrival.email else "", full_name, role):
                    return
            await feed.announce(tx, context.zone, "user", username)

    async def _make(
        self, tx: Transaction, context: Context, arrival: Arrival, email: str, full_name: str, role: str
    ) -> None:
        made = None
        if _NAME.fullmatch(arrival.username) and 0 < len(arrival.subject) <= 255 and arrival.subject.isprintable():
            made = await tx.one(
                "INSERT INTO users (id, zone, username, email, full_name, role, provider, subject, created_at,"
                " updated_at) VALUES (:id, :zone, :username, :email, :full_name, :role, :provider, :subject, :now,"
                " :now) ON CONFLICT DO NOTHING RETURNING id",
                id=self._ids(),
                zone=context.zone,
                username=arrival.username,
                email=email,
                full_name=full_name,
                role=role,
                provider=arrival.provider,
                subject=arrival.subject,
                now=self._clock.now(),
            )
        if made is None and await _user(tx, context.zone, arrival) is None:
            raise BailiwickError(reason="account_conflict")
        if made is not None:
            subject = Subject(id=arrival.username, type="user")
            await self._recorder.record(
                tx, codes.USER_CREATED, "success", context, subject=subject, role=role, cause="sign-in"
            )

    async def _change(
        self, tx: Transaction, context: Context, user: Row, email: str, full_name: str, role: str
    ) -> bool:
        """Whether something was changed. An address that somebody else has here is not taken over."""
        if email and await tx.value(
            "SELECT 1 FROM users WHERE zone = :zone AND lower(email) = lower(:email) AND id <> :id",
            zone=context.zone,
            email=email,
            id=user["id"],
        ):
            email = ""
        wanted = {"role": role, "email": email or user["email"], "full_name": full_name}
        changed = [member for member, value in wanted.items() if user[member] != value]
        if not changed:
            return False
        await tx.run(
            "UPDATE users SET role = :role, email = :email, full_name = :full_name, version = version + 1,"
            " updated_at = :now WHERE id = :id",
            **wanted,
            now=self._clock.now(),
            id=user["id"],
        )
        await self._recorder.record(
            tx,
            codes.USER_CHANGED,
            "success",
            context,
            subject=Subject(id=user["username"], type="user"),
            role=role,
            changed=changed,
            cause="sign-in",
        )
        return True


def _as_told(user: Row, arrival: Arrival) -> bool:
    """Whether the user is already as the provider says he is."""
    if (user["role"], user["full_name"]) != (_role(arrival), _full_name(arrival)):
        return False
    return not arrival.email or user["email"] == _email(arrival)


def _role(arrival: Arrival) -> str:
    return arrival.role if arrival.role in RANK else NO_ROLE


def _full_name(arrival: Arrival) -> str:
    return _CONTROL.sub("", arrival.full_name)[:200]


def _email(arrival: Arrival) -> str:
    """The address the provider gives, or one that leads nowhere: users have one."""
    if len(arrival.email) <= 254 and _EMAIL.fullmatch(arrival.email):
        return arrival.email
    return f"{arrival.username[:64]}@{arrival.provider}.invalid"


async def _user(tx: Transaction, zone: str, arrival: Arrival, *, lock: bool = False) -> Row | None:
    return await tx.one(
        f"{_SELECT} FOR UPDATE" if lock else _SELECT, zone=zone, provider=arrival.provider, subject=arrival.subject
    )
