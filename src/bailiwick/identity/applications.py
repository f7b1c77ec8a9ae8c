"""Applications: programs that ask for mandates, by a secret of their own.

A secret looks like ``bws_`` + 43 URL-safe characters + a 6-character checksum, so that scanners of repositories and
logs can find one and tell it from chance. It is shown once and kept as an argon2id hash.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.identity.loader import ApplicationEntry
from bailiwick.identity.passwords import Passwords, VerifiedSecrets
from bailiwick.identity.ports import Revoke
from bailiwick.inventory.servers import require_servers
from bailiwick.inventory.zones import VersionGuard, any_version, require_active
from bailiwick.kernel import feed
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import BailiwickError, Conflict, Denied, InvalidRequest, NotFound
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.modes import Switch, require_on
from bailiwick.kernel.permissions import GRANTS, Role
from bailiwick.kernel.rfc7396 import merge

SECRET_PREFIX = "bws_"  # noqa: S105 - what secrets begin with
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SECRET = re.compile(r"bws_([A-Za-z0-9_-]{43})([0-9A-Za-z]{6})")

MAX_GRANTED_SERVERS = 200
MAX_GRANTED_SCOPES = 100


@dataclass(frozen=True, slots=True)
class Application:
    """One application. ``grants`` maps server names to the scopes it may ask for there.

    ``rate_limit``: its own requests per minute on the hot path; 0 for no limit, None for the installation's.
    """

    id: str
    zone: str
    name: str
    description: str
    role: str
    grants: dict[str, list[str]]
    rate_limit: int | None
    owner: str | None
    is_active: bool
    secret_rotated_at: datetime
    version: int
    created_at: datetime
    updated_at: datetime

    def document(self) -> dict[str, Any]:
        """The JSON form; the secret is not in it."""
        return {
            "client_id": self.id,
            "name": self.name,
            "description": self.description,
            "role": self.role,
            "grants": self.grants,
            "rate_limit": self.rate_limit,
            "owner": self.owner,
            "is_active": self.is_active,
            "secret_rotated_at": self.secret_rotated_at,
            "version": self.version,
            "created_at": self.created_at,
            "updated_at": self.updated_at,
        }


def new_secret(ids: Ids) -> str:
    """A fresh secret of 256 random bits in the format above."""
    body = ids.secret(32)
    return f"{SECRET_PREFIX}{body}{_checksum(body)}"


def well_formed(secret: str) -> bool:
    """Whether ``secret`` has the format and its checksum is right."""
    match = _SECRET.fullmatch(secret)
    return match is not None and _checksum(match[1]) == match[2]


def may_hand_out(role: str, given: str) -> bool:
    """Whether somebody of ``role`` may give an application the role ``given``: never more than he holds himself."""
    try:
        return GRANTS[Role(given)] <= GRANTS[Role(role)]
    except ValueError:
        return False


def check_grants(grants: Mapping[str, Sequence[str]]) -> None:
    """Raises ``invalid_request`` beyond the bounds."""
    if len(grants) > MAX_GRANTED_SERVERS:
        raise InvalidRequest(f"An application is granted at most {MAX_GRANTED_SERVERS} servers.")
    if any(len(scopes) > MAX_GRANTED_SCOPES for scopes in grants.values()):
        raise InvalidRequest(f"At most {MAX_GRANTED_SCOPES} scopes are granted on a server.")


def _checksum(body: str) -> str:
    value = zlib.crc32(body.encode())
    digits = ""
    for _ in range(6):
        value, digit = divmod(value, 62)
        digits = _BASE62[digit] + digits
    return digits


class FailureThrottle:
    """At most ``per_minute`` failures a minute for each key, remembered by this process for ``capacity`` keys."""

    def __init__(self, clock: Clock, per_minute: int, capacity: int = 10_000) -> None:
        self._clock = clock
        self._per_minute = per_minute
        self._capacity = capacity
        self._failures: dict[str, tuple[float, int]] = {}

    def require(self, key: str) -> None:
        """Raises ``rate_limited`` (429) when ``key`` has had its failures for this minute."""
        since, count = self._failures.get(key, (0.0, 0))
        left = 60 - (self._clock.monotonic() - since)
        if count >= self._per_minute and left > 0:
            raise BailiwickError(
                "Too many wrong secrets.", reason="rate_limited", headers={"Retry-After": str(int(left) + 1)}
            )

    def failed(self, key: str) -> None:
        """Count a failure."""
        now = self._clock.monotonic()
        since, count = self._failures.get(key, (now, 0))
        if now - since >= 60:
            since, count = now, 0
        if key not in self._failures and len(self._failures) >= self._capacity:
            self._failures.pop(next(iter(self._failures)))
        self._failures[key] = (since, count + 1)


class Applications:
    """Creates, changes, lists applications, rotates their secrets, and verifies them."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        ids: Ids,
        recorder: Recorder,
        passwords: Passwords,
        secrets: VerifiedSecrets,
        revocations: Revoke,
        *,
        failures_per_minute: int = 60,
    ) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._passwords = passwords
        self._secrets = secrets
        self._revocations = revocations
        self._throttle = FailureThrottle(clock, failures_per_minute)

    async def verify(self, application: ApplicationEntry, secret: str) -> bool:
        """Whether ``secret`` is the application's, as the worker's memory knows it. Says nothing about being active.

        Raises ``rate_limited`` after 60 wrong ones in a minute and ``Unavailable`` when too many are waiting.
        """
        if not well_formed(secret):
            return False  # nothing we ever gave out; a wrong checksum costs the caller no attempt and us no argon2
        if self._secrets.known(application.secret_hash, secret):
            return True
        self._throttle.require(application.id)
        right = await self._secrets.verify(application.secret_hash, secret)
        if not right:
            self._throttle.failed(application.id)
        return right

    async def create(
        self,
        context: Context,
        by_role: str,
        name: str,
        *,
        description: str = "",
        role: str = "viewer",
        grants: Mapping[str, Sequence[str]] | None = None,
        rate_limit: int | None = None,
    ) -> tuple[Application, str]:
        """A new application and its secret, which is told only now.

        Raises ``Conflict`` (``already_exists``), ``unknown_granted_server``, and ``Denied`` for a role above
        ``by_role``, the caller's.
        """
        granted = _normal(grants or {})
        check_grants(granted)
        _require_role(by_role, role)
        secret = new_secret(self._ids)
        hashed = await self._passwords.hash(secret)
        now = self._clock.now()
        async with self._database.begin() as tx:
            await require_active(tx, context.zone)
            await require_on(tx, context.zone, Switch.PROVISION, Switch.READ_ONLY)
            await require_servers(tx, context.zone, granted)
            row = await tx.one(
                "INSERT INTO applications (id, zone, name, description, role, grants, rate_limit, owner, secret_hash,"
                " secret_rotated_at, created_at, updated_at) VALUES (:id, :zone, :name, :description, :role,"
                " cast(:grants AS jsonb), :rate_limit, (SELECT username FROM users WHERE zone = :zone AND username ="
                " :owner), :hash, :now, :now, :now) ON CONFLICT DO NOTHING RETURNING *",
                id=self._ids(),
                zone=context.zone,
                name=name,
                description=description,
                role=role,
                grants=json.dumps(granted),
                rate_limit=rate_limit,
                owner=context.actor.user,
                hash=hashed,
                now=now,
            )
            if row is None:
                raise Conflict(f"An application named {name} exists already.", reason="already_exists")
            await self._record(tx, codes.APPLICATION_CREATED, context, row)
            await feed.announce(tx, context.zone, "application", name)
        return _application(row), secret

    async def change(
        self, context: Context, by_role: str, name: str, patch: dict[str, Any], guard: VersionGuard = any_version
    ) -> Application:
        """Merge ``patch`` (RFC 7396: description, role, grants, rate_limit, owner, is_active) into an application.

        Disabling ends its mandates everywhere before this returns; so do a lesser role and fewer grants hold. A grant
        of a server that has been deleted since may stay; a new one raises ``unknown_granted_server``.
        """
        async with self._database.begin() as tx:
            await require_active(tx, context.zone)
            current = _application(await _locked(tx, context.zone, name))
            guard(current.version)
            before = {
                "description": current.description,
                "role": current.role,
                "grants": current.grants,
                "rate_limit": current.rate_limit,
                "owner": current.owner,
                "is_active": current.is_active,
            }
            unsaid: dict[str, Any] = {
                "description": "",
                "role": "viewer",
                "grants": {},
                "rate_limit": None,
                "owner": None,
                "is_active": False,
            }
            after = {**unsaid, **merge(before, patch)}
            after["grants"] = _normal(after["grants"])
            check_grants(after["grants"])
            changed = [member for member, value in before.items() if value != after[member]]
            if not changed:
                return current
            if changed != ["is_active"] or after["is_active"]:  # anybody who may write may switch off
                await require_on(tx, context.zone, Switch.PROVISION, Switch.READ_ONLY)
                _require_role(by_role, current.role)
                _require_role(by_role, after["role"])
            if (
                "owner" in changed
                and after["owner"]
                and not await tx.value(
                    "SELECT 1 FROM users WHERE zone = :zone AND username = :u", zone=context.zone, u=after["owner"]
                )
            ):
                raise InvalidRequest(f"There is no user {after['owner']}.")
            await require_servers(tx, context.zone, after["grants"].keys() - current.grants.keys())
            row = await tx.one(
                "UPDATE applications SET description = :description, role = :role, grants = cast(:grants AS jsonb),"
                " rate_limit = :rate_limit, owner = :owner, is_active = :is_active, version = version + 1,"
                " updated_at = :now WHERE id = :id RETURNING *",
                description=after["description"],
                role=after["role"],
                grants=json.dumps(after["grants"]),
                rate_limit=after["rate_limit"],
                owner=after["owner"],
                is_active=after["is_active"],
                now=self._clock.now(),
                id=current.id,
            )
            assert row is not None
            revision = await self._announce_change(tx, context, current, row, changed)
        await self._revocations.settle(revision, context)
        return _application(row)

    async def rotate_secret(
        self, context: Context, by_role: str, name: str, guard: VersionGuard = any_version
    ) -> tuple[Application, str]:
        """A new secret, told only now; the old one is refused everywhere when this returns."""
        secret = new_secret(self._ids)
        hashed = await self._passwords.hash(secret)
        now = self._clock.now()
        async with self._database.begin() as tx:
            await require_active(tx, context.zone)
            current = await _locked(tx, context.zone, name)
            guard(current["version"])
            _require_role(by_role, current["role"])
            row = await tx.one(
                "UPDATE applications SET secret_hash = :hash, secret_rotated_at = :now, updated_at = :now,"
                " version = version + 1 WHERE id = :id RETURNING *",
                hash=hashed,
                now=now,
                id=current["id"],
            )
            assert row is not None
            await self._record(tx, codes.APPLICATION_SECRET_ROTATED, context, row)
            revision = await feed.announce(tx, context.zone, "application", name)
        await self._revocations.settle(revision, context)
        return _application(row), secret

    async def get(self, zone: str, name: str) -> Application:
        """One application; raises ``NotFound``."""
        async with self._database.begin() as tx:
            row = await tx.one("SELECT * FROM applications WHERE zone = :zone AND name = :name", zone=zone, name=name)
        if row is None:
            raise NotFound(f"There is no application {name}.")
        return _application(row)

    async def list(self, zone: str, after: str, limit: int) -> tuple[list[Application], str | None]:
        """Applications by name after ``after``, at most ``limit``, and the name the next page starts after."""
        async with self._database.begin() as tx:
            rows = await tx.all(
                "SELECT * FROM applications WHERE zone = :zone AND name > :after ORDER BY name LIMIT :limit",
                zone=zone,
                after=after,
                limit=limit + 1,
            )
        found = [_application(row) for row in rows[:limit]]
        return found, found[-1].name if len(rows) > limit else None

    async def _announce_change(
        self, tx: Transaction, context: Context, before: Application, row: Row, changed: Sequence[str]
    ) -> int:
        kind = codes.APPLICATION_CHANGED
        if "is_active" in changed:
            kind = codes.APPLICATION_ENABLED if row["is_active"] else codes.APPLICATION_DISABLED
        await self._record(tx, kind, context, row, changed=[*changed])
        revision = await feed.announce(tx, context.zone, "application", before.name)
        if before.is_active and not row["is_active"]:
            revision = await self._revocations.revoke(
                tx, context, "application", before.id, f"application {before.name} disabled"
            )
        return revision

    async def _record(self, tx: Transaction, kind: codes.EventType, context: Context, row: Row, **details: Any) -> None:
        subject = Subject(id=row["name"], type="application")
        await self._recorder.record(
            tx, kind, "success", context, subject=subject, client_id=row["id"], role=row["role"], **details
        )


def _require_role(by_role: str, role: str) -> None:
    if not may_hand_out(by_role, role):
        raise Denied(f"An application of the role {role} needs somebody who holds at least that.", role=role)


def _normal(grants: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    return {server: sorted(set(scopes)) for server, scopes in sorted(grants.items())}


async def _locked(tx: Transaction, zone: str, name: str) -> Row:
    row = await tx.one(
        "SELECT * FROM applications WHERE zone = :zone AND name = :name FOR UPDATE", zone=zone, name=name
    )
    if row is None:
        raise NotFound(f"There is no application {name}.")
    return row


def _application(row: Row) -> Application:
    return Application(
        row["id"],
        row["zone"],
        row["name"],
        row["description"],
        row["role"],
        row["grants"],
        row["rate_limit"],
        row["owner"],
        row["is_active"],
        row["secret_rotated_at"],
        row["version"],
        row["created_at"],
        row["updated_at"],
    )
