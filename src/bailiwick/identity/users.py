"""Users: people, their roles and standing.

A user is made with a password or with an invitation, by which the person chooses one. Tokens do not carry the role:
it is read from here (by way of the workers' memory), so a change holds for sessions that are open.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy.exc import IntegrityError

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.identity.enabling import ENABLE, HERE, agreed, provider
from bailiwick.identity.factors.store import forget_factors
from bailiwick.identity.invitations import Invitation, invite
from bailiwick.identity.kept_out import disable_kept_out, let_in
from bailiwick.identity.passwords import Passwords
from bailiwick.identity.persons import note_influence
from bailiwick.identity.ports import Revoke
from bailiwick.identity.removal import remove_user
from bailiwick.identity.sessions import end_sessions
from bailiwick.identity.standing import (
    RANKS,
    administrates,
    lock_administrators,
    require_an_administrator,
    settle_roles,
)
from bailiwick.identity.widening import WAYS_IN, above_viewer, disabled_by, may_not_widen, narrows, require_narrow
from bailiwick.inventory.zones import VersionGuard, any_version, require_active
from bailiwick.kernel import feed
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import Conflict, Denied, NotFound
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.modes import Switch, require_on
from bailiwick.kernel.quorum import Approval, Quorum
from bailiwick.kernel.settings import Settings

# what a PATCH may name, and nothing else
CHANGEABLE = ("is_active", "role", "email", "full_name", "mfa_enabled", "external_id", "profile")

# what user_of reads
_SELECT = """
SELECT *, ARRAY(SELECT i.provider FROM user_identities i
  WHERE i.zone = users.zone AND i.username = users.username ORDER BY i.provider) AS providers FROM users
"""


@dataclass(frozen=True, slots=True)
class User:
    """One user as stored. ``role`` is the one that holds; ``own_role`` the one without what groups give.

    ``invited`` says that an invitation is open. ``external_id`` is what the company's directory calls him, and
    ``profile`` what else it says of him (SCIM). ``providers``: the identity providers that know him. ``owns``: the
    owner roles he has beside ``role``. ``disabled_by``: ``here``, or ``scim:`` and whose account.
    """

    id: str
    zone: str
    username: str
    email: str
    full_name: str
    role: str
    own_role: str
    is_active: bool
    mfa_enabled: bool
    must_change_password: bool
    has_password: bool
    invited: bool
    providers: tuple[str, ...]
    external_id: str | None
    profile: Mapping[str, str]
    last_login_at: datetime | None
    version: int
    created_at: datetime
    updated_at: datetime
    owns: tuple[str, ...] = ()
    disabled_by: str | None = None

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "id": self.id,
            "username": self.username,
            "email": self.email,
            "full_name": self.full_name,
            "role": self.role,
            "own_role": self.own_role,
            "owns": [*self.owns],
            "is_active": self.is_active,
            "disabled_by": self.disabled_by,
            "mfa_enabled": self.mfa_enabled,
            "must_change_password": self.must_change_password,
            "invited": self.invited,
            "providers": [*self.providers],
            "external_id": self.external_id,
            "last_login_at": self.last_login_at,
            "version": self.version,
            "created_at": self.created_at,
            "updated_at": self.updated_at,
        }


@dataclass(frozen=True, slots=True)
class NewUser:
    """What a user is made of. Without ``password`` an invitation is made, unless ``invite`` says no.

    ``cause`` is told by the event where it was no person who made him.
    """

    username: str
    email: str
    role: str
    full_name: str = ""
    mfa_enabled: bool = False
    password: str | None = None
    is_active: bool = True
    external_id: str | None = None
    profile: Mapping[str, str] = field(default_factory=dict)
    invite: bool = True
    cause: str = ""


Patch = Mapping[str, Any] | Callable[[User], Mapping[str, Any]]


def _require_a_password(user: User) -> None:
    """Refuse to make a way around the provider for somebody whom it alone lets in."""
    if user.providers and not user.has_password and not user.invited:
        raise Conflict(f"The user comes by {', '.join(user.providers)} and has no password here.")


class Users:
    """Creates, invites, changes and lists users."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        ids: Ids,
        recorder: Recorder,
        settings: Settings,
        passwords: Passwords,
        revocations: Revoke,
        quorum: Quorum,
    ) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._settings = settings
        self._passwords = passwords
        self._revocations = revocations
        self._quorum = quorum
        quorum.register(ENABLE)

    async def create(self, context: Context, new: NewUser, *, widen: bool = True) -> tuple[User, Invitation | None]:
        """A new user, and the invitation where no password was given.

        ``widen`` False refuses (``Denied``) a role above viewer. Raises ``Conflict`` (``already_exists``) where the
        name or the e-mail address is taken in any letter case. Somebody whose account was deleted while it was disabled
        here gets one that is disabled.
        """
        if not widen and above_viewer(new.role):
            raise may_not_widen()
        hashed = None
        if new.password is not None:
            await self._passwords.check(new.password, username=new.username, email=new.email)
            hashed = await self._passwords.hash(new.password)
        now = self._clock.now()
        async with self._database.begin() as tx:
            await require_active(tx, context.zone)
            await require_on(tx, context.zone, Switch.PROVISION, Switch.READ_ONLY)
            row = await tx.one(
                "INSERT INTO users (id, zone, username, email, full_name, role, is_active, disabled_by, mfa_enabled,"
                " password_hash, external_id, profile, created_at, updated_at) VALUES (:id, :zone, :username, :email,"
                " :full_name, :role, :is_active, :disabled_by, :mfa_enabled, :hash, :external_id,"
                " cast(:profile AS jsonb), :now, :now)"
                " ON CONFLICT DO NOTHING RETURNING *",
                id=self._ids(),
                zone=context.zone,
                username=new.username,
                email=new.email,
                full_name=new.full_name,
                role=new.role,
                is_active=new.is_active,
                disabled_by=None if new.is_active else HERE,
                mfa_enabled=new.mfa_enabled,
                external_id=new.external_id,
                profile=json.dumps(dict(new.profile)),
                hash=hashed,
                now=now,
            )
            if row is None:
                raise Conflict("The user name or the e-mail address is taken.", reason="already_exists")
            invitation = await self._invite(tx, context.zone, row["id"]) if hashed is None and new.invite else None
            await note_influence(tx, context, new.username, "made", now)
            if new.cause:
                await self._record(tx, codes.USER_CREATED, context, new.username, role=new.role, cause=new.cause)
            else:
                await self._record(tx, codes.USER_CREATED, context, new.username, role=new.role)
            kept_out = await disable_kept_out(tx, self._recorder, context.zone, [(context, row)])
            changed = bool(invitation is not None or kept_out)
            user = await _read(tx, context.zone, new.username) if changed else user_of(row)
            await feed.announce(tx, context.zone, "user", new.username)
        return user, invitation

    async def invite(self, context: Context, username: str) -> Invitation:
        """A fresh invitation, by which the person sets a new password; earlier ones are void.

        The present password, if there is one, works until then.
        """
        async with self._database.begin() as tx:
            await require_active(tx, context.zone)
            user = await _locked(tx, context.zone, username)
            _require_a_password(user)
            invitation = await self._invite(tx, context.zone, user.id)
            await note_influence(tx, context, username, "entered", self._clock.now())
            await self._record(tx, codes.USER_CHANGED, context, username, role=user.role, changed=["invitation"])
        return invitation

    async def reset_password(self, context: Context, username: str, *, at_the_machine: bool = False) -> Invitation:
        """End the user's password and sessions everywhere; answers a link by which the person sets another.

        ``at_the_machine``: also for the last administrator who can sign in, whom nobody else could let in again.
        Raises ``NotFound``, and ``Conflict`` for that administrator.
        """
        now = self._clock.now()
        async with self._database.begin() as tx:
            await require_active(tx, context.zone)
            await lock_administrators(tx, context.zone)
            user = await _locked(tx, context.zone, username)
            if not at_the_machine:
                _require_a_password(user)
            administrated = await administrates(tx, context.zone, username)
            await tx.run(
                "UPDATE users SET password_hash = NULL, must_change_password = false, version = version + 1,"
                " updated_at = :now WHERE id = :id",
                now=now,
                id=user.id,
            )
            if administrated and not at_the_machine:
                await require_an_administrator(tx, context.zone)
            link = await self._invite(tx, context.zone, user.id, reset=True)
            await note_influence(tx, context, username, "entered", now)
            ended = await end_sessions(tx, context.zone, username, now=now, reason="password reset")
            await self._record(tx, codes.USER_PASSWORD_RESET, context, username, sessions_ended=len(ended))
            await feed.announce(tx, context.zone, "user", username)
            revision = await self._revocations.revoke(tx, context, "user", username, "password reset")
        await self._revocations.settle(revision, context)
        return link

    async def unlock(
        self, context: Context, username: str, *, within: Callable[[Transaction], Awaitable[None]]
    ) -> dict[str, Any]:
        """Forget the user's failed sign-ins, and with them a lock; answers how many. Raises ``NotFound``.

        ``within`` is called first in the transaction that does it, and raises unless two persons agreed.
        """
        async with self._database.begin() as tx:
            await within(tx)
            await require_active(tx, context.zone)
            await _locked(tx, context.zone, username)
            failures = await tx.value(
                "DELETE FROM login_failures WHERE zone = :zone AND username = :username RETURNING failures",
                zone=context.zone,
                username=username,
            )
            await self._record(tx, codes.USER_UNLOCKED, context, username, failures=failures or 0)
        return {"username": username, "failures_forgotten": failures or 0}

    async def change(
        self,
        context: Context,
        username: str,
        patch: Patch,
        guard: VersionGuard = any_version,
        *,
        widen: bool = True,
        scim: bool = False,
    ) -> User | Approval:
        """Change the members of :data:`CHANGEABLE` that ``patch`` names, or names when it sees the user as he is.

        To enable a disabled account takes two persons: nothing is changed, and the approval that is waited for is
        answered; sent again once that is given, it is done. ``scim``: the provider says so, who alone enables what he
        disabled (``user_disabled_here`` for anything else).

        Disabling ends the user's sessions, and a changed role holds on open ones, everywhere before this returns.
        ``widen`` False refuses (``Denied``) what gives more than there was: a higher role, or a way into the account
        of somebody who is more than a viewer. Raises ``Conflict`` when it would leave the zone without an
        administrator who can sign in.
        """
        now = self._clock.now()
        async with self._database.begin() as tx:
            await require_active(tx, context.zone)
            await lock_administrators(tx, context.zone)
            before = await _locked(tx, context.zone, username)
            guard(before.version)
            present = {member: getattr(before, member) for member in CHANGEABLE} | {"role": before.own_role}
            named = patch(before) if callable(patch) else patch
            wanted = present | {member: named[member] for member in CHANGEABLE if member in named}
            changed = [member for member in CHANGEABLE if wanted[member] != present[member]]
            wanted["disabled_by"] = disabled_by(before, named, wanted["is_active"], provider(context) if scim else HERE)
            if wanted["disabled_by"] == HERE and before.disabled_by not in (None, HERE) and not before.is_active:
                changed.append("disabled_by")
            if not changed:
                return before
            # disabling ends authority, which nothing stops
            if wanted["is_active"] or not {"is_active", "disabled_by"}.issuperset(changed):
                await require_on(tx, context.zone, Switch.PROVISION, Switch.READ_ONLY)
            approval = None
            if wanted["is_active"] and not before.is_active:
                approval = await self._let_in(tx, context, before, {name: wanted[name] for name in changed}, scim)
                if approval is not None and approval.state != "executed":
                    return approval
            administrated = await administrates(tx, context.zone, username)
            row = await self._update(tx, before, wanted, now)
            if not widen:
                require_narrow(before, row, changed)
            if administrated and not (row["is_active"] and row["role"] == "admin"):
                await require_an_administrator(tx, context.zone)
            revision, ended = await self._after_change(tx, context, before, row, changed, now, approval)
            if approval is not None:
                await let_in(tx, context.zone, username)
            user = await _read(tx, context.zone, username)
        if narrows(before, row) or ended:
            await self._revocations.settle(revision, context)
        return user

    async def _let_in(
        self, tx: Transaction, context: Context, before: User, change: Mapping[str, Any], scim: bool
    ) -> Approval | None:
        """The approval by which a disabled account is enabled; None where the provider undoes what was his own."""
        if scim:
            if before.disabled_by != provider(context):
                raise Denied(reason="user_disabled_here")
            return None
        return await agreed(
            self._quorum,
            tx,
            context,
            identifier=before.id,
            username=before.username,
            version=before.version,
            change=change,
            shown={"role": before.role, "owns": [*before.owns], "disabled_by": before.disabled_by},
        )

    async def delete(self, context: Context, username: str, guard: VersionGuard = any_version) -> None:
        """Delete a user with everything of his; nothing he opened or made is accepted when this returns.

        Raises ``NotFound``, and ``Conflict`` for the last administrator.
        """
        async with self._database.begin() as tx:
            await require_active(tx, context.zone)
            await lock_administrators(tx, context.zone)
            user = await _locked(tx, context.zone, username)
            guard(user.version)
            revision = await remove_user(tx, context, user, self._recorder, self._revocations, self._clock.now())
        await self._revocations.settle(revision, context)

    async def reset_mfa(self, context: Context, username: str) -> dict[str, Any]:
        """Forget the user's second factors and end the sessions they opened: the next sign-in enrols anew.

        Answers what was done; raises ``NotFound``.
        """
        now = self._clock.now()
        async with self._database.begin() as tx:
            await require_active(tx, context.zone)
            user = await _locked(tx, context.zone, username)
            removed = await forget_factors(tx, context.zone, username)
            await note_influence(tx, context, username, "entered", now)
            ended = await end_sessions(tx, context.zone, username, now=now, reason="second factors reset")
            await self._recorder.record(
                tx,
                codes.USER_MFA_RESET,
                "success",
                context,
                subject=Subject(id=username, type="user"),
                sessions_ended=len(ended),
                factors_removed=removed,
            )
            revision = await self._revocations.revoke(tx, context, "user", username, "second factors reset")
        await self._revocations.settle(revision, context)
        return {
            "username": username,
            "mfa_enabled": user.mfa_enabled,
            "factors_removed": removed,
            "sessions_ended": len(ended),
        }

    async def get(self, zone: str, username: str) -> User:
        """One user; raises ``NotFound``."""
        async with self._database.begin() as tx:
            return await _read(tx, zone, username)

    async def list(self, zone: str, after: str, limit: int) -> tuple[list[User], str | None]:
        """Users by name after ``after``, at most ``limit``, and the name the next page starts after."""
        async with self._database.begin() as tx:
            rows = await tx.all(
                f"{_SELECT} WHERE zone = :zone AND username > :after ORDER BY username LIMIT :limit",
                zone=zone,
                after=after,
                limit=limit + 1,
            )
        found = [user_of(row) for row in rows[:limit]]
        return found, found[-1].username if len(rows) > limit else None

    async def _invite(self, tx: Transaction, zone: str, identifier: str, *, reset: bool = False) -> Invitation:
        return await invite(tx, self._ids, self._settings, zone, identifier, self._clock.now(), reset=reset)

    async def _update(self, tx: Transaction, before: User, wanted: dict[str, Any], now: datetime) -> Row:
        try:
            row = await tx.one(
                "UPDATE users SET is_active = :is_active, disabled_by = :disabled_by, own_role = :role, email = :email,"
                " full_name = :full_name,"
                " mfa_enabled = :mfa_enabled, external_id = :external_id, profile = cast(:profile AS jsonb),"
                " version = version + 1, updated_at = :now WHERE id = :id RETURNING *",
                **{**wanted, "profile": json.dumps(dict(wanted["profile"]))},
                now=now,
                id=before.id,
            )
        except IntegrityError:
            raise Conflict("The e-mail address is taken.", reason="already_exists") from None
        await settle_roles(tx, before.zone, [before.username])
        row = await tx.one(f"{_SELECT} WHERE id = :id", id=before.id)
        assert row is not None
        return row

    async def _after_change(
        self,
        tx: Transaction,
        context: Context,
        before: User,
        row: Row,
        changed: Sequence[str],
        now: datetime,
        approval: Approval | None,
    ) -> tuple[int, bool]:
        """Record, end sessions, announce; answers the feed revision and whether sessions were ended."""
        kind = codes.USER_CHANGED
        if "is_active" in changed:
            kind = codes.USER_ENABLED if row["is_active"] else codes.USER_DISABLED
        disabled = before.is_active and not row["is_active"]
        if disabled:
            await end_sessions(tx, context.zone, before.username, now=now, reason="user disabled")
        if RANKS.index(row["role"]) > RANKS.index(before.role):
            await note_influence(tx, context, before.username, "raised", now)
        if not WAYS_IN.isdisjoint(changed) or (row["is_active"] and not before.is_active):
            await note_influence(tx, context, before.username, "entered", now)
        if approval is None:
            await self._record(tx, kind, context, before.username, role=row["role"], changed=[*changed])
        else:
            await self._record(
                tx,
                codes.USER_ENABLED,
                context,
                before.username,
                role=row["role"],
                changed=[*changed],
                approval=approval.id,
                approved_by=approval.approved_by,
            )
        revision = await feed.announce(tx, context.zone, "user", before.username)
        if disabled:
            revision = await self._revocations.revoke(tx, context, "user", before.username, "user disabled")
        return revision, disabled

    async def _record(
        self,
        tx: Transaction,
        kind: codes.EventType,
        context: Context,
        username: str,
        **details: Any,
    ) -> None:
        subject = Subject(id=username, type="user")
        await self._recorder.record(tx, kind, "success", context, subject=subject, **details)


async def _read(tx: Transaction, zone: str, username: str) -> User:
    row = await tx.one(f"{_SELECT} WHERE zone = :zone AND username = :username", zone=zone, username=username)
    if row is None:
        raise NotFound(f"There is no user {username}.")
    return user_of(row)


async def _locked(tx: Transaction, zone: str, username: str) -> User:
    row = await tx.one(
        f"{_SELECT} WHERE zone = :zone AND username = :username FOR UPDATE",
        zone=zone,
        username=username,
    )
    if row is None:
        raise NotFound(f"There is no user {username}.")
    return user_of(row)


def user_of(row: Row) -> User:
    """The user a row of the table is."""
    return User(
        row["id"],
        row["zone"],
        row["username"],
        row["email"],
        row["full_name"],
        row["role"],
        row["own_role"] or row["role"],
        row["is_active"],
        row["mfa_enabled"],
        row["must_change_password"],
        row["password_hash"] is not None,
        row["invitation_hash"] is not None,
        tuple(row.get("providers") or ()),
        row["external_id"],
        row["profile"],
        row["last_login_at"],
        row["version"],
        row["created_at"],
        row["updated_at"],
        tuple(row["owns"]),
        row["disabled_by"],
    )
