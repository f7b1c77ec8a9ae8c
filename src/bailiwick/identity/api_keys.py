"""API keys: how automation calls the API on behalf of the person who made the key, with less than his permissions.

A key reads ``bwk_<id>_<secret><checksum>``. The id finds the row, of the secret only a hash is kept (256 random bits
need no slow one), and the checksum lets a scanner of repositories tell a key from noise without asking anybody.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.identity.ports import Revoke
from bailiwick.inventory.zones import VersionGuard, any_version, require_active
from bailiwick.kernel import feed
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import Conflict, Denied, InvalidRequest, NotFound
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.modes import Switch, require_on
from bailiwick.kernel.permissions import Permission, allowed

PREFIX = "bwk_"
MAX_LIFE = timedelta(days=366)
MAX_OVERLAP = timedelta(days=7)
MAX_KEYS = 50  # of one person
CHANGEABLE = ("name", "permissions", "rate_limit", "expires_at", "is_active")
_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
_FORM = re.compile(r"bwk_([0-9a-z]{12})_([0-9a-z]{50})([0-9a-z]{7})")


@dataclass(frozen=True, slots=True)
class ApiKeyEntry:
    """What workers keep in memory of a live key."""

    id: str
    username: str
    permissions: frozenset[str]
    expires_at: datetime
    rate_limit: int | None
    secret_hash: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as its owner sees it: everything but the secret."""

    id: str
    username: str
    name: str
    permissions: tuple[str, ...]
    rate_limit: int | None
    is_active: bool
    version: int
    created_at: datetime
    updated_at: datetime
    expires_at: datetime
    last_used_at: datetime | None
    ended_at: datetime | None

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "id": self.id,
            "username": self.username,
            "name": self.name,
            "permissions": list(self.permissions),
            "rate_limit": self.rate_limit,
            "is_active": self.is_active,
            "version": self.version,
            "created_at": self.created_at,
            "updated_at": self.updated_at,
            "expires_at": self.expires_at,
            "last_used_at": self.last_used_at,
            "ended_at": self.ended_at,
        }


def compose(identifier: str, secret: str) -> str:
    """The key as it is told, once."""
    return f"{PREFIX}{identifier}_{secret}{_checksum(identifier + secret)}"


def parse(key: str) -> tuple[str, str] | None:
    """The id and the secret of what looks like a key of ours with a right checksum, else None."""
    found = _FORM.fullmatch(key)
    if found is None or _checksum(found[1] + found[2]) != found[3]:
        return None
    return found[1], found[2]


def holds(entry: ApiKeyEntry, secret: str, now: datetime) -> bool:
    """Whether ``secret`` is the key's and the key is in force."""
    return hmac.compare_digest(entry.secret_hash, _digest(secret)) and now < entry.expires_at


def widens(key: ApiKey, patch: Mapping[str, Any]) -> bool:
    """Whether ``patch``, of members of :data:`CHANGEABLE`, gives the key anything that it does not have now.

    A limit in place of none counts as more: what holds for a key without one is the installation's, which may be less.
    """
    limit = patch.get("rate_limit", key.rate_limit)
    return (
        not set(patch.get("permissions", key.permissions)) <= set(key.permissions)
        or patch.get("expires_at", key.expires_at) > key.expires_at
        or (limit != key.rate_limit and (limit is None or key.rate_limit is None or limit > key.rate_limit))
        or (patch.get("is_active", key.is_active) and not key.is_active)
    )


class ApiKeys:
    """Makes, lists, changes, rotates and ends keys."""

    def __init__(self, database: Database, clock: Clock, ids: Ids, recorder: Recorder, revocations: Revoke) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._revocations = revocations

    async def create(
        self,
        context: Context,
        role: str,
        name: str,
        permissions: Sequence[str],
        *,
        life: timedelta,
        rate_limit: int | None = None,
    ) -> tuple[ApiKey, str]:
        """A key of the caller with ``permissions`` of his own, and its text.

        Raises ``Denied`` for a permission he does not hold, ``InvalidRequest`` for a life beyond a year.
        """
        _check(role, permissions, life)
        async with self._database.begin() as tx:
            await require_active(tx, context.zone)
            await require_on(tx, context.zone, Switch.PROVISION, Switch.READ_ONLY)
            username = context.actor.user
            live = await tx.value(
                "SELECT count(*) FROM api_keys WHERE zone = :zone AND username = :u AND ended_at IS NULL"
                " AND expires_at > :now",
                zone=context.zone,
                u=username,
                now=self._clock.now(),
            )
            if live >= MAX_KEYS:
                raise Conflict(f"A person has at most {MAX_KEYS} keys; end one first.")
            row, text = await self._insert(tx, context, username, name, permissions, life, rate_limit)
            await self._record(tx, codes.API_KEY_CREATED, context, row, permissions=[*permissions])
            await feed.announce(tx, context.zone, "api_key", row["id"])
        return _key(row), text

    async def get(self, zone: str, identifier: str, *, owner: str | None) -> ApiKey:
        """One key, also one that has ended or expired. ``owner`` restricts to that user's. Raises ``NotFound``."""
        async with self._database.begin() as tx:
            row = await tx.one(
                "SELECT * FROM api_keys WHERE zone = :zone AND id = :id"
                " AND (cast(:owner AS text) IS NULL OR username = :owner)",
                zone=zone,
                id=identifier,
                owner=owner,
            )
        if row is None:
            raise NotFound("There is no such key.")
        return _key(row)

    async def change(
        self,
        context: Context,
        role: str,
        identifier: str,
        patch: Mapping[str, Any],
        guard: VersionGuard = any_version,
        *,
        owner: str | None,
        widen: bool,
    ) -> ApiKey:
        """Change the members of :data:`CHANGEABLE` that ``patch`` names; what it takes holds nowhere when this returns.

        A key never gets a permission that its owner, of ``role``, does not hold, nor lives longer than a year from when
        it was made. Somebody else's key is only ever given less (``Denied``). ``widen`` False raises ``Conflict`` where
        the key would get more than it has. Raises ``NotFound`` for a key that is not in force.
        """
        now = self._clock.now()
        async with self._database.begin() as tx:
            await require_active(tx, context.zone)
            before = _key(await self._live(tx, context.zone, identifier, owner, now))
            guard(before.version)
            present = {member: getattr(before, member) for member in CHANGEABLE}
            wanted = present | {member: patch[member] for member in CHANGEABLE if member in patch}
            same = set(wanted["permissions"]) == set(before.permissions)
            wanted["permissions"] = before.permissions if same else tuple(dict.fromkeys(wanted["permissions"]))
            changed = [member for member in CHANGEABLE if wanted[member] != present[member]]
            if not changed:
                return before
            more = widens(before, wanted)
            if before.username != context.actor.user and (more or "name" in changed):
                raise Denied("Somebody else's key is only given less, or ended.")
            if more and not widen:
                raise Conflict("The key was given less meanwhile; read it again.")
            if more or changed == ["name"]:  # to take something away is never switched off
                await require_on(tx, context.zone, Switch.PROVISION, Switch.READ_ONLY)
            _require_held(role, [each for each in wanted["permissions"] if each not in before.permissions])
            if "expires_at" in changed:
                _check_expiry(before, wanted["expires_at"], now)
            row = await tx.one(
                "UPDATE api_keys SET name = :name, permissions = :permissions, rate_limit = :rate_limit,"
                " expires_at = :expires_at, is_active = :is_active, version = version + 1, updated_at = :now"
                " WHERE id = :id RETURNING *",
                **{**wanted, "permissions": [*wanted["permissions"]]},
                now=now,
                id=identifier,
            )
            assert row is not None
            await self._record(
                tx,
                codes.API_KEY_CHANGED,
                context,
                row,
                changed=changed,
                permissions=[*wanted["permissions"]],
                active=wanted["is_active"],
                widened=more,
            )
            revision = await feed.announce(tx, context.zone, "api_key", identifier)
        await self._revocations.settle(revision, context)
        return _key(row)

    async def rotate(
        self, context: Context, identifier: str, *, owner: str | None, overlap: timedelta
    ) -> tuple[ApiKey, str]:
        """A new key in place of one that stays good for ``overlap``. Raises ``NotFound``."""
        if not timedelta(0) <= overlap <= MAX_OVERLAP:
            raise InvalidRequest(f"The overlap is at most {MAX_OVERLAP.days} days.")
        now = self._clock.now()
        async with self._database.begin() as tx:
            await require_active(tx, context.zone)
            old = await self._live(tx, context.zone, identifier, owner, now)
            if not old["is_active"]:
                raise Conflict("The key is switched off, and another in its place would not be.")
            life = old["expires_at"] - old["created_at"]
            row, text = await self._insert(
                tx, context, old["username"], old["name"], old["permissions"], life, old["rate_limit"]
            )
            until = min(old["expires_at"], now + overlap)
            await tx.run(
                "UPDATE api_keys SET expires_at = :until, version = version + 1, updated_at = :now WHERE id = :id",
                until=until,
                now=now,
                id=identifier,
            )
            await self._record(tx, codes.API_KEY_ROTATED, context, row, replaces=identifier)
            await feed.announce(tx, context.zone, "api_key", row["id"])
            revision = await feed.announce(tx, context.zone, "api_key", identifier)
        await self._revocations.settle(revision, context)
        return _key(row), text

    async def end(self, context: Context, identifier: str, *, owner: str | None) -> None:
        """End a key; nothing takes it when this returns. Raises ``NotFound``."""
        now = self._clock.now()
        async with self._database.begin() as tx:
            row = await self._live(tx, context.zone, identifier, owner, now)
            await tx.run("UPDATE api_keys SET ended_at = :now WHERE id = :id", now=now, id=identifier)
            await self._record(tx, codes.API_KEY_ENDED, context, row)
            revision = await feed.announce(tx, context.zone, "api_key", identifier)
        await self._revocations.settle(revision, context)

    async def list(self, zone: str, username: str | None, after: str, limit: int) -> tuple[list[ApiKey], str | None]:
        """Keys that are in force by id after ``after``, those of ``username`` or everybody's."""
        async with self._database.begin() as tx:
            rows = await tx.all(
                "SELECT * FROM api_keys WHERE zone = :zone AND id > :after AND ended_at IS NULL AND expires_at > :now"
                " AND (cast(:username AS text) IS NULL OR username = :username) ORDER BY id LIMIT :limit",
                zone=zone,
                after=after,
                now=self._clock.now(),
                username=username,
                limit=limit + 1,
            )
        found = [_key(row) for row in rows[:limit]]
        return found, found[-1].id if len(rows) > limit else None

    async def note_use(self, used: Mapping[str, datetime]) -> None:
        """Note when keys were last used; workers tell now and then, not with each request."""
        async with self._database.begin() as tx:
            for identifier, at in sorted(used.items()):
                await tx.run(
                    "UPDATE api_keys SET last_used_at = greatest(last_used_at, :at) WHERE id = :id",
                    at=at,
                    id=identifier,
                )

    async def _insert(
        self,
        tx: Transaction,
        context: Context,
        username: str,
        name: str,
        permissions: Sequence[str],
        life: timedelta,
        rate_limit: int | None,
    ) -> tuple[Row, str]:
        now = self._clock.now()
        identifier, secret = _text(self._ids, 12), _text(self._ids, 50)
        row = await tx.one(
            "INSERT INTO api_keys (id, zone, username, name, permissions, rate_limit, secret_hash, created_at,"
            " updated_at, expires_at) VALUES (:id, :zone, :username, :name, :permissions, :rate_limit, :hash, :now,"
            " :now, :until)"
            " RETURNING *",
            id=identifier,
            zone=context.zone,
            username=username,
            name=name,
            permissions=[*permissions],
            rate_limit=rate_limit,
            hash=_digest(secret),
            now=now,
            until=now + life,
        )
        assert row is not None
        return row, compose(identifier, secret)

    async def _live(self, tx: Transaction, zone: str, identifier: str, owner: str | None, now: datetime) -> Row:
        row = await tx.one(
            "SELECT * FROM api_keys WHERE zone = :zone AND id = :id AND ended_at IS NULL AND expires_at > :now"
            " AND (cast(:owner AS text) IS NULL OR username = :owner) FOR UPDATE",
            zone=zone,
            id=identifier,
            owner=owner,
            now=now,
        )
        if row is None:
            raise NotFound("There is no such key in force.")
        return row

    async def _record(self, tx: Transaction, kind: codes.EventType, context: Context, row: Row, **details: Any) -> None:
        subject = Subject(id=row["id"], type="api_key")
        await self._recorder.record(
            tx, kind, "success", context, subject=subject, username=row["username"], key_name=row["name"], **details
        )


async def load_api_keys(tx: Transaction, zone: str, identifier: str | None = None) -> dict[str, ApiKeyEntry]:
    """The keys of ``zone`` that are neither ended nor switched off, by id, or the one named."""
    rows = await tx.all(
        "SELECT id, username, permissions, rate_limit, expires_at, secret_hash FROM api_keys WHERE zone = :zone"
        " AND ended_at IS NULL AND is_active AND (cast(:id AS text) IS NULL OR id = :id)",
        zone=zone,
        id=identifier,
    )
    return {
        row["id"]: ApiKeyEntry(
            row["id"],
            row["username"],
            frozenset(row["permissions"]),
            row["expires_at"],
            row["rate_limit"],
            bytes(row["secret_hash"]),
        )
        for row in rows
    }


def _check(role: str, permissions: Sequence[str], life: timedelta) -> None:
    if not timedelta(minutes=1) <= life <= MAX_LIFE:
        raise InvalidRequest(f"A key lives at most {MAX_LIFE.days} days.")
    _require_held(role, permissions)


def _check_expiry(key: ApiKey, expires_at: datetime, now: datetime) -> None:
    # counted from when the key was made: one that is to live on is rotated
    if expires_at <= now:
        raise InvalidRequest("A key's end is still to come; to end it now, delete it.")
    if expires_at > max(key.created_at + MAX_LIFE, key.expires_at):
        raise InvalidRequest(f"A key lives at most {MAX_LIFE.days} days from when it was made; rotate it.")


def _require_held(role: str, permissions: Sequence[str]) -> None:
    for permission in permissions:
        # one's own account is for people: a stolen key must not change a password or enrol a factor
        if permission == Permission.SELF or not allowed(role, Permission(permission)):
            raise Denied(f"You cannot give a key the permission {permission}.", permission=permission)


def _text(ids: Ids, length: int) -> str:
    """Random characters of :data:`_ALPHABET`."""
    number = int.from_bytes(ids.random(length), "big")
    return _in_base(number, length)


def _in_base(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(digits)


def _checksum(text: str) -> str:
    return _in_base(zlib.crc32(text.encode()), 7)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _key(row: Row) -> ApiKey:
    return ApiKey(
        row["id"],
        row["username"],
        row["name"],
        tuple(row["permissions"]),
        row["rate_limit"],
        row["is_active"],
        row["version"],
        row["created_at"],
        row["updated_at"],
        row["expires_at"],
        row["last_used_at"],
        row["ended_at"],
    )
