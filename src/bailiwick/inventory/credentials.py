"""Upstream credentials: write-only, sealed, and put on requests by the gateway alone.

A sealed value is bound to its row, and the kind and the header are sealed with it, so that neither can be changed in
the database without the value refusing to open.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.inventory.zones import VersionGuard, any_version, require_active
from bailiwick.kernel import feed
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.crypto import Sealer, SealError
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import Conflict, InvalidRequest, NotFound
from bailiwick.kernel.ids import Ids

MAX_VALUE = 8192

# RFC 9110 §5.6.2 without the underscore, which proxies fold into the hyphen, and the percent sign
_FIELD_NAME = re.compile(r"[!#$&'*+.^`|~0-9A-Za-z-]{1,64}")
_FIELD_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_BEARER = re.compile(r"[\x21-\x7e]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# hop-by-hop and framing fields, and those the gateway itself writes or removes
_RESERVED = frozenset(
    {
        "connection", "content-length", "content-type", "cookie", "date", "dpop", "expect", "forwarded", "host",
        "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "set-cookie", "te", "trailer",
        "transfer-encoding", "upgrade", "via", "x-request-id",
    }
)  # fmt: skip
_RESERVED_PREFIXES = ("x-bailiwick-", "x-envoy-", "x-forwarded-", "sec-websocket-", "grpc-")


@dataclass(frozen=True, slots=True)
class Secret:
    """A credential's material. ``values``: ``token`` | ``username``, ``password`` | ``value`` | nothing, by kind."""

    kind: str
    header: str | None = None
    values: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Credential:
    """What may be known of a credential: never its value."""

    id: str
    zone: str
    name: str
    kind: str
    header: str | None
    version: int
    created_at: datetime
    rotated_at: datetime
    used_by: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "id": self.id,
            "name": self.name,
            "kind": self.kind,
            "header": self.header,
            "used_by": list(self.used_by),
            "version": self.version,
            "created_at": self.created_at,
            "rotated_at": self.rotated_at,
        }


def check_secret(secret: Secret) -> None:
    """Raises ``invalid_request`` for a value that could not stand in a header, never quoting it."""
    if any(not value or len(value) > MAX_VALUE for value in secret.values.values()):
        raise InvalidRequest(f"A credential's value must have 1 to {MAX_VALUE} characters.")
    match secret.kind:
        case "bearer":
            if not _BEARER.fullmatch(secret.values["token"]):
                raise InvalidRequest("A bearer token must be visible ASCII without spaces.")
        case "basic":
            if ":" in secret.values["username"]:
                raise InvalidRequest("A user name for basic authentication must not hold a colon (RFC 7617).")
            if any(_CONTROL.search(value) for value in secret.values.values()):
                raise InvalidRequest("A credential must not hold control characters.")
        case "api_key":
            check_header(secret.header or "")
            if not _FIELD_VALUE.fullmatch(secret.values["value"]):
                raise InvalidRequest("A header value must be printable ASCII and not begin or end with a space.")


def check_header(name: str) -> None:
    """Raises ``invalid_request`` unless a credential may stand in the header ``name``."""
    lower = name.lower()
    if not _FIELD_NAME.fullmatch(name):
        raise InvalidRequest("The header name is not a field name without underscores, at most 64 long (RFC 9110).")
    if lower in _RESERVED or f"{lower}-" in _RESERVED_PREFIXES or lower.startswith(_RESERVED_PREFIXES):
        raise InvalidRequest(f"The header {lower} belongs to the protocol or to the gateway.")


def presentation(kind: str, header: str | None, opened: Mapping[str, str]) -> tuple[str, str] | None:
    """The header (lower-case name, value) by which a credential is presented upstream; None for kind ``none``.

    ``opened`` are the opened values, as :class:`Secret` names them. Raises ``ValueError`` for an unknown kind.
    """
    match kind:
        case "bearer":
            return "authorization", f"Bearer {opened['token']}"
        case "basic":
            pair = f"{opened['username']}:{opened['password']}".encode()
            return "authorization", f"Basic {base64.b64encode(pair).decode()}"
        case "api_key" if header:
            return header.lower(), opened["value"]
        case "none":
            return None
    raise ValueError(f"unknown credential kind {kind!r}")


def credential_aad(zone: str, identifier: str) -> bytes:
    """What a sealed credential is bound to."""
    return f"credential/{zone}/{identifier}".encode()


def seal(sealer: Sealer, zone: str, identifier: str, secret: Secret) -> bytes:
    """The sealed form of a secret for one row."""
    form = {"kind": secret.kind, "header": secret.header, "values": dict(secret.values)}
    return sealer.seal(msgspec.json.encode(form), credential_aad(zone, identifier))


def unseal(sealer: Sealer, zone: str, identifier: str, kind: str, header: str | None, sealed: bytes) -> Secret:
    """The secret of a row; raises :class:`SealError` if the row was put together otherwise than by us."""
    form = msgspec.json.decode(sealer.open(sealed, credential_aad(zone, identifier)))
    if form["kind"] != kind or form["header"] != header:
        raise SealError("the credential's kind or header was altered")
    return Secret(kind, header, form["values"])


_SELECT = """
SELECT c.*, (SELECT coalesce(jsonb_agg(s.name ORDER BY s.name), '[]') FROM servers s
             WHERE s.zone = c.zone AND s.binding ->> 'credential' = c.name) AS used_by
FROM credentials c WHERE c.zone = :zone
"""


class Credentials:
    """Stores, rotates, lists and deletes upstream credentials."""

    def __init__(self, database: Database, clock: Clock, ids: Ids, recorder: Recorder, sealer: Sealer) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._sealer = sealer

    def replace_sealer(self, sealer: Sealer) -> None:
        """Use the KEKs as they are after a rotation."""
        self._sealer = sealer

    async def create(self, context: Context, name: str, secret: Secret) -> Credential:
        """Store a new credential; raises ``Conflict`` (``already_exists``) or ``InvalidRequest``."""
        check_secret(secret)
        identifier, now = self._ids(), self._clock.now()
        async with self._database.begin() as tx:
            await require_active(tx, context.zone)
            row = await tx.one(
                "INSERT INTO credentials (id, zone, name, kind, header, sealed, created_at, rotated_at)"
                " VALUES (:id, :zone, :name, :kind, :header, :sealed, :now, :now)"
                " ON CONFLICT DO NOTHING RETURNING *",
                id=identifier,
                zone=context.zone,
                name=name,
                kind=secret.kind,
                header=secret.header,
                sealed=seal(self._sealer, context.zone, identifier, secret),
                now=now,
            )
            if row is None:
                raise Conflict(f"A credential named {name} exists already.", reason="already_exists")
            await self._record(tx, codes.CREDENTIAL_CREATED, context, row)
            await feed.announce(tx, context.zone, "credential", name)
        return _credential(row)

    async def rotate(
        self, context: Context, name: str, secret: Secret, guard: VersionGuard = any_version
    ) -> Credential:
        """Replace a credential's material; servers bound to it keep their binding."""
        check_secret(secret)
        async with self._database.begin() as tx:
            await require_active(tx, context.zone)
            current = await _locked(tx, context.zone, name)
            guard(current["version"])
            row = await tx.one(
                "UPDATE credentials SET kind = :kind, header = :header, sealed = :sealed, rotated_at = :now,"
                " version = version + 1 WHERE id = :id RETURNING *",
                kind=secret.kind,
                header=secret.header,
                sealed=seal(self._sealer, context.zone, current["id"], secret),
                now=self._clock.now(),
                id=current["id"],
            )
            assert row is not None
            used_by = await _used_by(tx, context.zone, name)
            await self._record(tx, codes.CREDENTIAL_ROTATED, context, row)
            await feed.announce(tx, context.zone, "credential", name)
        return _credential(row, used_by)

    async def delete(self, context: Context, name: str, guard: VersionGuard = any_version) -> None:
        """Remove a credential; raises ``Conflict`` (``in_use``) while a server's binding names it."""
        async with self._database.begin() as tx:
            await require_active(tx, context.zone)
            current = await _locked(tx, context.zone, name)
            guard(current["version"])
            used_by = await _used_by(tx, context.zone, name)
            if used_by:
                raise Conflict("Servers are bound to this credential.", reason="in_use", used_by=list(used_by[:20]))
            await tx.run("DELETE FROM credentials WHERE id = :id", id=current["id"])
            await self._record(tx, codes.CREDENTIAL_DELETED, context, current)
            await feed.announce(tx, context.zone, "credential", name)

    async def get(self, zone: str, name: str) -> Credential:
        """One credential, without its value; raises ``NotFound``."""
        async with self._database.begin() as tx:
            row = await tx.one(f"{_SELECT} AND c.name = :name", zone=zone, name=name)
        if row is None:
            raise NotFound(f"There is no credential {name}.")
        return _credential(row, row["used_by"])

    async def list(self, zone: str, after: str, limit: int) -> tuple[list[Credential], str | None]:
        """Credentials by name after ``after``, at most ``limit``, and the name the next page starts after."""
        async with self._database.begin() as tx:
            rows = await tx.all(
                f"{_SELECT} AND c.name > :after ORDER BY c.name LIMIT :limit", zone=zone, after=after, limit=limit + 1
            )
        found = [_credential(row, row["used_by"]) for row in rows[:limit]]
        return found, found[-1].name if len(rows) > limit else None

    async def _record(self, tx: Transaction, kind: codes.EventType, context: Context, row: Row) -> None:
        await self._recorder.record(
            tx, kind, "success", context, subject=Subject(id=row["name"], type="credential"), presents=row["kind"]
        )


async def _locked(tx: Transaction, zone: str, name: str) -> Row:
    row = await tx.one("SELECT * FROM credentials WHERE zone = :zone AND name = :name FOR UPDATE", zone=zone, name=name)
    if row is None:
        raise NotFound(f"There is no credential {name}.")
    return row


async def _used_by(tx: Transaction, zone: str, name: str) -> tuple[str, ...]:
    rows = await tx.all(
        "SELECT name FROM servers WHERE zone = :zone AND binding ->> 'credential' = :name ORDER BY name",
        zone=zone,
        name=name,
    )
    return tuple(row["name"] for row in rows)


def _credential(row: Row, used_by: Sequence[str] = ()) -> Credential:
    return Credential(
        row["id"],
        row["zone"],
        row["name"],
        row["kind"],
        row["header"],
        row["version"],
        row["created_at"],
        row["rotated_at"],
        tuple(used_by),
    )
