"""Signing in by a directory: the password is the directory's to judge, everything after that is ours.

Somebody whom the directory does not know costs and answers what a wrong password does. Failures are counted per entry
of the directory, so that no other spelling of a name gives further guesses; and before the directory's own lock would
have to.
"""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import Sequence
from datetime import datetime

import structlog

from bailiwick.evidence.events import Context, Recorder
from bailiwick.identity.ldap.connection import DirectoryError
from bailiwick.identity.ldap.directory import Directory, Found, No, Noticed, authenticate
from bailiwick.identity.login.admission import Admissions, Admitted
from bailiwick.identity.login.lockout import count_failure, counted_names, locked_until, locks_under
from bailiwick.identity.login.oidc_options import email_of, line_of
from bailiwick.identity.login.sign_ins import SignedIn
from bailiwick.identity.providers import Provider, Providers, of_kind, options_of
from bailiwick.identity.provisioning import MAX_SUBJECT, Arrival
from bailiwick.identity.removal import forget_failures
from bailiwick.inventory.endpoints import Upstream
from bailiwick.inventory.resolver import Resolver
from bailiwick.inventory.zones import require_active
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.crypto import SealError
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import BailiwickError, Unauthenticated, Unavailable
from bailiwick.kernel.fields import USER_NAME_PATTERN, matches

log = structlog.get_logger(__name__)


class Directories:
    """The directories in use, each with its connections, as they are configured now."""

    def __init__(self, providers: Providers, resolver: Resolver, clock: Clock) -> None:
        self._providers = providers
        self._resolver = resolver
        self._clock = clock
        self._open: dict[str, tuple[int, Directory]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def of(self, provider: Provider) -> Directory:
        """The directory of a provider; raises :class:`SealError` where its secrets do not open."""
        known = self._open.get(provider.id)
        if known is not None and known[0] == provider.version:
            return known[1]
        made = self.make(provider)
        self._open[provider.id] = provider.version, made
        if known is not None:
            task = asyncio.ensure_future(known[1].pool.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        return made

    def make(self, provider: Provider) -> Directory:
        """A directory with connections of its own; raises :class:`SealError`."""
        password = self._providers.secrets(provider).get("bind_password", "")
        return Directory(options_of(provider), password, self._reach, self._clock.monotonic)

    async def close(self) -> None:
        """Close every connection that is idle."""
        for _version, directory in self._open.values():
            await directory.pool.close()
        self._open.clear()

    async def _reach(self, host: str, port: int) -> Sequence[str]:
        found = await self._resolver.resolve(Upstream("https", host.lower(), port))
        if found.error is not None:
            raise DirectoryError(found.error)
        return found.addresses


class LdapLogin:
    """Signs people in by the directories of their zone."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        recorder: Recorder,
        providers: Providers,
        admissions: Admissions,
        directories: Directories,
    ) -> None:
        self._database = database
        self._clock = clock
        self._recorder = recorder
        self._providers = providers
        self._admissions = admissions
        self._directories = directories

    async def sign_in(self, context: Context, username: str, password: str, realm: str | None = None) -> SignedIn:
        """Open a session for somebody of the directory ``realm``, the default one without it.

        Raises ``unknown_realm``, ``invalid_credentials``, ``account_locked``, ``directory_unavailable``; the password
        being right also ``account_disabled``, ``password_expired``, ``account_conflict`` for a name that cannot be one
        here, and what :meth:`Admissions.admit` raises.
        """
        provider, until, any_locked = await self._begin(context.zone, username, realm)
        if not password:
            # an empty password would make an anonymous bind, which succeeds (RFC 4513 §5.1.2)
            await self._refused(context, provider, username, "invalid_credentials", "empty password")
            raise Unauthenticated(reason="invalid_credentials")
        if until is not None:
            await self._refused(context, provider, username, "account_locked")
            raise _locked(until, self._clock.now())
        counted = [_counted(provider, folded(username))]

        async def found_as(found: Found) -> None:
            counted.append(_counted(provider, found.subject or found.dn.casefold()))
            if any_locked:
                await self._heed_lock(context, provider, username, counted[-1])

        answer = await self._ask(context, provider, username, password, found_as)
        if isinstance(answer, No):
            raise await self._refuse(context, provider, username, counted[-1], answer)
        return await self._admit(context, provider, *answer, counted[-1])

    async def _admit(
        self, context: Context, provider: Provider, found: Found, role: str | None, counted: str
    ) -> SignedIn:
        options = self._directories.of(provider).options
        arrival = Arrival(
            options.vouches_as(provider.name),
            found.subject,
            options.name_prefix + found.username,
            email_of(found.email),
            line_of(found.full_name),
            role,
            counted=counted,
        )
        if not matches(USER_NAME_PATTERN, arrival.username) or len(arrival.subject) > MAX_SUBJECT:
            await self._refused(context, provider, arrival.username, "account_conflict")
            raise BailiwickError(reason="account_conflict")

        async def heed_locks(tx: Transaction, user: Row) -> None:
            if not user.get("has_failures", True):
                return
            # after wrong second factors, by the name here; and after wrong passwords, by the directory's entry
            for name in await counted_names(tx, context.zone, user["username"], counted):
                until = await locked_until(tx, context.zone, name, self._clock.now(), lock=True)
                if until is not None:
                    raise _locked(until, self._clock.now())
                if name == counted:
                    await forget_failures(tx, context.zone, counted)

        by = Admitted(provider.name, "ldap", options.create_users, options.link_by_external_id)
        return await self._admissions.admit(context, by, arrival, ("pwd",), after=heed_locks)

    async def _refused(self, context: Context, provider: Provider, username: str, reason: str, cause: str = "") -> None:
        await self._admissions.refused(context, "ldap", provider.name, reason, username=username, cause=cause)

    async def _begin(self, zone: str, username: str, realm: str | None) -> tuple[Provider, datetime | None, bool]:
        """The directory to ask, until when the name is locked there, and whether any name is."""
        async with self._database.begin() as tx:
            # without the lock on the zone that a mutation holds: it would make this a transaction that writes
            for provider in await of_kind(tx, zone, "ldap"):
                if realm is None or provider.name == realm:
                    locks = await locks_under(tx, zone, f"{provider.name}/", self._clock.now())
                    return provider, locks.get(_counted(provider, folded(username))), bool(locks)
            await require_active(tx, zone)
        raise BailiwickError(reason="unknown_realm")

    async def _ask(
        self, context: Context, provider: Provider, username: str, password: str, found_as: Noticed
    ) -> tuple[Found, str | None] | No:
        try:
            answer = await authenticate(self._directories.of(provider), username, password, found_as)
            await self._providers.note(provider, away=False)
            return answer
        except (DirectoryError, SealError) as error:
            log.warning("directory unavailable", zone=context.zone, provider=provider.name, error=str(error)[:300])
            cause = str(error)
        await self._providers.note(provider, away=True)
        await self._refused(context, provider, username, "directory_unavailable", cause)
        raise Unavailable(reason="directory_unavailable", headers={"Retry-After": "5"})

    async def _heed_lock(self, context: Context, provider: Provider, username: str, counted: str) -> None:
        """Refuse while the name is locked, whatever the password is."""
        async with self._database.begin() as tx:
            until = await locked_until(tx, context.zone, counted, self._clock.now())
        if until is not None:
            await self._refused(context, provider, username, "account_locked")
            raise _locked(until, self._clock.now())

    async def _refuse(
        self, context: Context, provider: Provider, username: str, counted: str, no: No
    ) -> BailiwickError:
        """Record a refusal and count it; what to raise."""
        async with self._database.begin() as tx:
            until = await locked_until(tx, context.zone, counted, self._clock.now(), lock=True)
            reason = "account_locked" if until is not None else no.reason
            if no.counts and until is None:
                await count_failure(tx, self._recorder, context, counted, self._clock.now())
            elif not no.counts:
                await forget_failures(tx, context.zone, counted)
            await self._admissions.record_refusal(
                tx, context, "ldap", provider.name, reason, username=username, cause=no.cause
            )
        return _locked(until, self._clock.now()) if until is not None else BailiwickError(reason=reason)


def folded(username: str) -> str:
    """A typed name in the form in which directories compare names, so that no spelling of it counts apart."""
    return " ".join(unicodedata.normalize("NFKC", username).casefold().split())


def _counted(provider: Provider, name: str) -> str:
    """The name under which failures are counted; no local user's, which have no slash."""
    return f"{provider.name}/{name}"[:300]


def _locked(until: datetime, now: datetime) -> BailiwickError:
    wait = max(1, int((until - now).total_seconds()) + 1)
    return BailiwickError(reason="account_locked", headers={"Retry-After": str(wait)})
