"""Servers: what can be reached. The OAuth resource, its tags, and its binding to an upstream.

Without a binding a server is registered only, and the gateway answers 503 ``no_binding`` for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from cryptography import x509

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.inventory.documents import BindingBody, ServerBody, parse_server
from bailiwick.inventory.endpoints import Upstream, parse_host_name, parse_upstream
from bailiwick.inventory.operations import Operation, operations_of, validate
from bailiwick.inventory.ports import Settle
from bailiwick.inventory.resolver import Resolution, Resolver
from bailiwick.inventory.zones import VersionGuard, any_version, require_active
from bailiwick.kernel import feed
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import BailiwickError, Conflict, InvalidRequest, NotFound
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.rfc7396 import merge
from bailiwick.kernel.settings import Settings

_ATTEMPTS = 4


@dataclass(frozen=True, slots=True)
class Binding:
    """Which upstream a server's requests get. None means the gateway's default, or for ``upstream_url`` the endpoint.

    Times are seconds; ``credential`` names a stored credential; ``hosts`` are lower-case A-label names.
    """

    upstream_url: str | None = None
    operations: tuple[Operation, ...] = ()
    credential: str | None = None
    hosts: tuple[str, ...] = ()
    protocol: str = "http1"
    timeout_s: float | None = None
    idle_timeout_s: float | None = None
    max_request_bytes: int | None = None
    ca_pem: str | None = None

    def document(self) -> dict[str, Any]:
        """The JSON form, as stored and answered."""
        return {
            "upstream_url": self.upstream_url,
            "operations": [operation.document() for operation in self.operations],
            "credential": self.credential,
            "hosts": list(self.hosts),
            "protocol": self.protocol,
            "timeout_s": self.timeout_s,
            "idle_timeout_s": self.idle_timeout_s,
            "max_request_bytes": self.max_request_bytes,
            "ca_pem": self.ca_pem,
        }


@dataclass(frozen=True, slots=True)
class Server:
    """One server as stored. ``status`` is ``routable`` or the reason code requests are refused with."""

    id: str
    zone: str
    name: str
    endpoint: str
    description: str
    tags: dict[str, str]
    binding: Binding | None
    addresses: tuple[str, ...]
    resolve_error: str | None
    resolved_at: datetime | None
    status: str
    version: int
    created_at: datetime
    updated_at: datetime

    def registration(self) -> dict[str, Any]:
        """What its owner wrote: the document a PATCH is merged into."""
        return {
            "name": self.name,
            "endpoint": self.endpoint,
            "description": self.description,
            "tags": self.tags,
            "binding": self.binding.document() if self.binding is not None else None,
        }


@dataclass(frozen=True, slots=True)
class Registration:
    """A checked registration, ready to be resolved and stored."""

    name: str
    endpoint: str
    description: str
    tags: dict[str, str]
    binding: Binding | None

    @property
    def upstream(self) -> Upstream:
        """Where its requests would go."""
        return parse_upstream((self.binding and self.binding.upstream_url) or self.endpoint)


def registration_of(body: ServerBody) -> Registration:
    """The registration a document asks for; raises ``invalid_request`` for what the schema alone cannot refuse."""
    parse_upstream(body.endpoint)
    binding = binding_of(body.binding) if body.binding is not None else None
    registration = Registration(body.name, body.endpoint, body.description, dict(body.tags), binding)
    if binding is not None and binding.ca_pem is not None and registration.upstream.scheme != "https":
        raise InvalidRequest("ca_pem needs an https upstream.")
    return registration


def binding_of(body: BindingBody) -> Binding:
    """The binding a document asks for, normalised; raises ``invalid_request``."""
    if body.upstream_url is not None:
        parse_upstream(body.upstream_url)
    operations = tuple(
        replace(operation, name=operation.name or f"{operation.method} {operation.path}")
        for operation in (each.operation() for each in body.operations)
    )
    validate(operations)
    hosts = tuple(sorted(parse_host_name(host) for host in body.hosts))
    if len(set(hosts)) != len(hosts):
        raise InvalidRequest("A host name is given twice.")
    return Binding(
        upstream_url=body.upstream_url,
        operations=operations,
        credential=body.credential,
        hosts=hosts,
        protocol=body.protocol,
        timeout_s=body.timeout_s,
        idle_timeout_s=body.idle_timeout_s,
        max_request_bytes=body.max_request_bytes,
        ca_pem=_certificates(body.ca_pem) if body.ca_pem else None,
    )


def binding_from(document: dict[str, Any]) -> Binding:
    """The binding of its stored JSON form."""
    return Binding(
        upstream_url=document["upstream_url"],
        operations=operations_of(document["operations"]),
        credential=document["credential"],
        hosts=tuple(document["hosts"]),
        protocol=document["protocol"],
        timeout_s=document["timeout_s"],
        idle_timeout_s=document["idle_timeout_s"],
        max_request_bytes=document["max_request_bytes"],
        ca_pem=document["ca_pem"],
    )


def status_of(bound: bool, resolve_error: str | None, addresses: Sequence[str], has_credential: bool) -> str:
    """``routable``, or the reason code a request to the server is refused with.

    A binding that names no credential is ``credential_missing``: that an upstream needs none is said by binding a
    credential of kind ``none``.
    """
    if not bound:
        return "no_binding"
    if resolve_error is not None:
        return resolve_error.split(":", 1)[0]
    if not addresses:
        return "upstream_unresolved"
    return "routable" if has_credential else "credential_missing"


def _certificates(pem: str) -> str:
    if "PRIVATE KEY" in pem:
        raise InvalidRequest("ca_pem must hold certificates only, and it holds a private key.")
    try:
        x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        raise InvalidRequest("ca_pem does not hold PEM certificates.") from None
    return pem


_SELECT = """
SELECT s.*, c.id IS NOT NULL AS has_credential
FROM servers s LEFT JOIN credentials c ON c.zone = s.zone AND c.name = s.binding ->> 'credential'
WHERE s.zone = :zone
"""


class Servers:
    """Registers, changes, lists and deregisters servers."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        ids: Ids,
        recorder: Recorder,
        settings: Settings,
        resolver: Resolver,
        settle: Settle,
    ) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._settings = settings
        self._resolver = resolver
        self._settle = settle
        # a server answering to our own name would take every other server's traffic
        self._own_hosts = {parse_upstream(url).host for url in (settings.issuer, settings.gateway)} | {"localhost"}

    async def create(self, context: Context, body: ServerBody) -> Server:
        """Register a server.

        Raises ``InvalidRequest``, ``Conflict`` (``already_exists``: the name, or a host name in any zone), and
        ``upstream_forbidden`` for an address, or a name resolving to one, that we may not connect to.
        """
        wanted = registration_of(body)
        self._check_hosts(wanted)
        resolution = await self._resolve(wanted)
        identifier, now = self._ids(), self._clock.now()
        async with self._database.begin() as tx:
            await require_active(tx, context.zone)
            await _hold_credential(tx, context.zone, wanted.binding)
            inserted = await tx.run(
                "INSERT INTO servers (id, zone, name, endpoint, description, tags, binding, addresses, resolve_error,"
                " resolved_at, created_at, updated_at) VALUES (:id, :zone, :name, :endpoint, :description,"
                " cast(:tags AS jsonb), cast(:binding AS jsonb), cast(:addresses AS jsonb), :resolve_error,"
                " :resolved_at, :now, :now) ON CONFLICT DO NOTHING",
                id=identifier,
                zone=context.zone,
                name=wanted.name,
                now=now,
                **_columns(wanted, resolution, now),
            )
            if not inserted:
                raise Conflict(f"A server named {wanted.name} exists already.", reason="already_exists")
            await _claim_hosts(tx, identifier, wanted.binding)
            await self._record(tx, codes.SERVER_CREATED, context, wanted.name)
            server = await _read(tx, context.zone, wanted.name)
            await feed.announce(tx, context.zone, "server", wanted.name)
        return server

    async def change(
        self, context: Context, name: str, patch: dict[str, Any], guard: VersionGuard = any_version
    ) -> Server:
        """Merge ``patch`` (RFC 7396) into the server's registration. Raises as :meth:`create`, and ``NotFound``.

        A narrowed binding holds on every worker when this returns.
        """
        for _ in range(_ATTEMPTS):
            current = await self.get(context.zone, name)
            guard(current.version)
            wanted = registration_of(parse_server(merge(current.registration(), patch)))
            self._check_hosts(wanted)
            resolution = await self._resolve_change(current, wanted)
            changed = await self._store(context, current, wanted, resolution)
            if changed is not None:
                server, revision = changed
                await self._settle.settle(revision, context)
                return server
        raise Conflict("The server is being changed by others; try again.")

    async def delete(self, context: Context, name: str, guard: VersionGuard = any_version) -> None:
        """Deregister a server: nothing reaches it through the gateway when this returns."""
        async with self._database.begin() as tx:
            await require_active(tx, context.zone)
            row = await tx.one(
                "SELECT id, version FROM servers WHERE zone = :zone AND name = :name FOR UPDATE",
                zone=context.zone,
                name=name,
            )
            if row is None:
                raise NotFound(f"There is no server {name}.")
            guard(row["version"])
            await tx.run("DELETE FROM servers WHERE id = :id", id=row["id"])
            await self._record(tx, codes.SERVER_DELETED, context, name)
            revision = await feed.announce(tx, context.zone, "server", name)
        await self._settle.settle(revision, context)

    async def get(self, zone: str, name: str) -> Server:
        """One server; raises ``NotFound``."""
        async with self._database.begin() as tx:
            return await _read(tx, zone, name)

    async def list(self, zone: str, after: str, limit: int) -> tuple[list[Server], str | None]:
        """Servers by name after ``after``, at most ``limit``, and the name the next page starts after."""
        async with self._database.begin() as tx:
            rows = await tx.all(
                f"{_SELECT} AND s.name > :after ORDER BY s.name LIMIT :limit", zone=zone, after=after, limit=limit + 1
            )
        found = [_server(row) for row in rows[:limit]]
        return found, found[-1].name if len(rows) > limit else None

    def document(self, server: Server) -> dict[str, Any]:
        """The JSON form of a server, with its resource URI (RFC 8707)."""
        return {
            "id": server.id,
            **server.registration(),
            "resource": self._settings.audience(server.zone, server.name),
            "status": server.status,
            "addresses": list(server.addresses),
            "resolve_error": server.resolve_error,
            "resolved_at": server.resolved_at,
            "version": server.version,
            "created_at": server.created_at,
            "updated_at": server.updated_at,
        }

    def _check_hosts(self, wanted: Registration) -> None:
        own = self._own_hosts.intersection(wanted.binding.hosts if wanted.binding is not None else ())
        if own:
            raise InvalidRequest("A server cannot answer to the gateway's own host name.", hosts=sorted(own))

    async def _resolve(self, wanted: Registration) -> Resolution:
        """Resolve what is asked for; raises ``upstream_forbidden`` where any of it may not be connected to."""
        endpoint = parse_upstream(wanted.endpoint)
        self._resolver.check_literal(endpoint)
        resolution = await self._resolver.resolve(wanted.upstream)
        also = await self._resolver.resolve(endpoint) if endpoint != wanted.upstream else resolution
        for each in (resolution, also):
            if each.reason == "upstream_forbidden":
                raise BailiwickError((each.error or "").partition(": ")[2], reason="upstream_forbidden")
        return resolution

    async def _resolve_change(self, current: Server, wanted: Registration) -> Resolution | None:
        """None where the change leaves the upstream alone, so that a description can be edited while names are down."""
        before = (current.endpoint, current.binding.upstream_url if current.binding else None)
        after = (wanted.endpoint, wanted.binding.upstream_url if wanted.binding else None)
        return None if before == after else await self._resolve(wanted)

    async def _store(
        self, context: Context, current: Server, wanted: Registration, resolution: Resolution | None
    ) -> tuple[Server, int] | None:
        """Write a change over ``current``; None where somebody else wrote in between."""
        now = self._clock.now()
        values = _columns(wanted, resolution or Resolution(()), now)
        async with self._database.begin() as tx:
            await require_active(tx, context.zone)
            await _hold_credential(tx, context.zone, wanted.binding)
            touched = await tx.run(
                "UPDATE servers SET endpoint = :endpoint, description = :description, tags = cast(:tags AS jsonb),"
                " binding = cast(:binding AS jsonb), updated_at = :now, version = version + 1,"
                # a re-check may have written these since they were read
                " addresses = CASE WHEN :keep THEN addresses ELSE cast(:addresses AS jsonb) END,"
                " resolve_error = CASE WHEN :keep THEN resolve_error ELSE :resolve_error END,"
                " resolved_at = CASE WHEN :keep THEN resolved_at ELSE :resolved_at END"
                " WHERE id = :id AND version = :version",
                id=current.id,
                keep=resolution is None,
                version=current.version,
                now=now,
                **values,
            )
            if not touched:
                return None
            if (current.binding and current.binding.hosts) != (wanted.binding and wanted.binding.hosts):
                await _claim_hosts(tx, current.id, wanted.binding)
            changed = sorted(
                member for member, value in current.registration().items() if value != _registered(wanted)[member]
            )
            await self._record(tx, codes.SERVER_CHANGED, context, current.name, changed=changed)
            server = await _read(tx, context.zone, current.name)
            revision = await feed.announce(tx, context.zone, "server", current.name)
        return server, revision

    async def _record(
        self, tx: Transaction, kind: codes.EventType, context: Context, name: str, **details: Any
    ) -> None:
        subject = Subject(id=name, type="server")
        await self._recorder.record(tx, kind, "success", context, subject=subject, server=name, **details)


async def require_servers(tx: Transaction, zone: str, names: Iterable[str]) -> None:
    """Raise ``unknown_granted_server`` unless all are servers of the zone; none can be deleted before ``tx`` ends."""
    wanted = sorted(set(names))
    rows = await tx.all(
        "SELECT name FROM servers WHERE zone = :zone AND name = ANY(:names) ORDER BY name FOR SHARE",
        zone=zone,
        names=wanted,
    )
    missing = sorted(set(wanted) - {row["name"] for row in rows})
    if missing:
        raise BailiwickError(
            f"No such server in this zone: {missing[0]}.", reason="unknown_granted_server", servers=missing
        )


async def _hold_credential(tx: Transaction, zone: str, binding: Binding | None) -> None:
    """Keep the bound credential from being deleted until the transaction ends."""
    if binding is None or binding.credential is None:
        return
    held = await tx.value(
        "SELECT id FROM credentials WHERE zone = :zone AND name = :name FOR SHARE", zone=zone, name=binding.credential
    )
    if held is None:
        raise InvalidRequest(f"The binding names the credential {binding.credential}, which does not exist.")


async def _claim_hosts(tx: Transaction, identifier: str, binding: Binding | None) -> None:
    """Make the binding's host names this server's own; raises ``already_exists`` if another server has one."""
    # one at a time, or two servers exchanging names would wait for each other
    await tx.run("SELECT pg_advisory_xact_lock(hashtext('bailiwick.server_hosts'))")
    await tx.run("DELETE FROM server_hosts WHERE server_id = :id", id=identifier)
    for host in binding.hosts if binding is not None else ():
        claimed = await tx.run(
            "INSERT INTO server_hosts (host, server_id) VALUES (:host, :id) ON CONFLICT DO NOTHING",
            host=host,
            id=identifier,
        )
        if not claimed:
            raise Conflict(f"The host name {host} belongs to another server.", reason="already_exists")


async def _read(tx: Transaction, zone: str, name: str) -> Server:
    row = await tx.one(f"{_SELECT} AND s.name = :name", zone=zone, name=name)
    if row is None:
        raise NotFound(f"There is no server {name}.")
    return _server(row)


def _registered(wanted: Registration) -> dict[str, Any]:
    return {
        "name": wanted.name,
        "endpoint": wanted.endpoint,
        "description": wanted.description,
        "tags": wanted.tags,
        "binding": wanted.binding.document() if wanted.binding is not None else None,
    }


def _columns(wanted: Registration, resolution: Resolution, now: datetime) -> dict[str, Any]:
    return {
        "endpoint": wanted.endpoint,
        "description": wanted.description,
        "tags": json.dumps(wanted.tags),
        "binding": json.dumps(wanted.binding.document()) if wanted.binding is not None else None,
        "addresses": json.dumps(resolution.addresses),
        "resolve_error": resolution.error,
        "resolved_at": None if resolution.error else now,
    }


def _server(row: Row) -> Server:
    binding = binding_from(row["binding"]) if row["binding"] is not None else None
    return Server(
        row["id"],
        row["zone"],
        row["name"],
        row["endpoint"],
        row["description"],
        row["tags"],
        binding,
        tuple(row["addresses"]),
        row["resolve_error"],
        row["resolved_at"],
        status_of(binding is not None, row["resolve_error"], row["addresses"], row["has_credential"]),
        row["version"],
        row["created_at"],
        row["updated_at"],
    )
