"""What workers keep in memory of the inventory: small frozen forms, ready for use on the hot path."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog

from bailiwick.inventory.credentials import presentation, unseal
from bailiwick.inventory.endpoints import Upstream, parse_upstream
from bailiwick.inventory.operations import OperationIndex
from bailiwick.inventory.servers import Binding, binding_from, status_of
from bailiwick.inventory.zones import DEFAULT_ZONE
from bailiwick.kernel.crypto import Sealer, SealError
from bailiwick.kernel.db import Row, Transaction
from bailiwick.kernel.errors import BailiwickError

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Presentation:
    """How a credential goes on a request: a lower-case header name and its value."""

    header: str
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class CredentialEntry:
    """A credential opened. ``presented`` is None for kind ``none``, and where the stored value does not open, which
    ``broken`` says; nothing passes then.
    """

    zone: str
    name: str
    kind: str
    version: int
    presented: Presentation | None
    broken: bool = False


@dataclass(frozen=True, slots=True)
class ArmEntry:
    """An upstream that gets ``weight`` percent of a server's requests. ``addresses`` are text and checked."""

    upstream: Upstream
    addresses: tuple[str, ...]
    weight: int


@dataclass(frozen=True, slots=True)
class SplitEntry:
    """How a canary divides a server's requests; what is left goes to the server's own upstream. ``lasting``: the
    candidate passed and needs no watching."""

    canary: str
    baseline: ArmEntry
    candidate: ArmEntry
    lasting: bool


@dataclass(frozen=True, slots=True)
class ServerEntry:
    """A server as the gateway and the issuer need it.

    ``route`` is the name Envoy's routes carry, ``binding_tag`` a digest of what Envoy must know of the binding (not
    the credential's value, not the addresses): equal tags mean the same upstream and the same credential header.
    ``operations`` is None without a binding. ``addresses`` are text and checked. ``closed``: an operator closed the way
    to it. ``split``: a canary divides its requests; the tag says nothing of it, since it changes no refusal.
    """

    id: str
    zone: str
    name: str
    version: int
    audience: str
    tags: dict[str, str]
    hosts: tuple[str, ...]
    upstream: Upstream
    addresses: tuple[str, ...]
    binding: Binding | None
    operations: OperationIndex | None
    scopes: frozenset[str]
    credential_name: str
    presented: Presentation | None
    refusal: str | None
    route: str
    binding_tag: str
    closed: bool = False
    split: SplitEntry | None = None

    @property
    def credential_missing(self) -> bool:
        """True when the binding names no credential, or one that is not there or does not open."""
        return self.refusal == "credential_missing"

    @property
    def unresolved(self) -> bool:
        """True when the upstream has no address we may connect to."""
        return self.refusal in {"upstream_unresolved", "upstream_forbidden"}


@dataclass(frozen=True, slots=True)
class ZoneEntry:
    """A zone: its name, and whether it is archived."""

    name: str
    archived: bool


_SERVERS = """
SELECT s.*, c.id AS credential_id, c.kind AS credential_kind, c.header AS credential_header,
       c.sealed AS credential_sealed, c.version AS credential_version, c.name AS credential_name,
       EXISTS (SELECT FROM gateway_closures g
               WHERE g.zone = s.zone AND g.server = s.name AND g.opened_at IS NULL) AS closed,
       (SELECT to_jsonb(k) FROM canaries k
        WHERE k.zone = s.zone AND k.server = s.name AND k.state IN ('running', 'promoted')) AS canary
FROM servers s LEFT JOIN credentials c ON c.zone = s.zone AND c.name = s.binding ->> 'credential'
WHERE s.zone = :zone
"""


async def load_servers(
    tx: Transaction, sealer: Sealer, zone: str, name: str | None = None, *, audience: Callable[[str, str], str]
) -> dict[str, ServerEntry]:
    """The servers of ``zone`` by name, or the one named; their credentials are opened with ``sealer``.

    ``audience(zone, server)`` answers a server's resource URI (:meth:`Settings.audience`).
    """
    if name is None:
        rows = await tx.all(_SERVERS, zone=zone)
    else:
        rows = await tx.all(f"{_SERVERS} AND s.name = :name", zone=zone, name=name)
    return {row["name"]: _server(row, sealer, audience) for row in rows}


async def load_credentials(
    tx: Transaction, sealer: Sealer, zone: str, name: str | None = None
) -> dict[str, CredentialEntry]:
    """The credentials of ``zone`` by name, or the one named, opened with ``sealer``."""
    rows = await tx.all(
        "SELECT id AS credential_id, kind AS credential_kind, header AS credential_header, zone,"
        " sealed AS credential_sealed, version AS credential_version, name AS credential_name"
        " FROM credentials WHERE zone = :zone AND (cast(:name AS text) IS NULL OR name = :name)",
        zone=zone,
        name=name,
    )
    return {row["credential_name"]: _credential(row, sealer) for row in rows}


async def load_zones(tx: Transaction) -> dict[str, ZoneEntry]:
    """Every zone by name."""
    rows = await tx.all("SELECT name, state FROM zones ORDER BY name")
    return {row["name"]: ZoneEntry(row["name"], row["state"] != "active") for row in rows}


def _server(row: Row, sealer: Sealer, audience: Callable[[str, str], str]) -> ServerEntry:
    zone, name = row["zone"], row["name"]
    binding: Binding | None = None
    operations: OperationIndex | None = None
    credential = _credential(row, sealer) if row["credential_id"] is not None else None
    try:
        if row["binding"] is not None:
            binding = binding_from(row["binding"])
            operations = OperationIndex(binding.operations)
        upstream = parse_upstream((binding and binding.upstream_url) or row["endpoint"])
    except (BailiwickError, KeyError, TypeError):
        # a row some other hand wrote: this one server refuses, the others go on
        log.error("server binding cannot be read", zone=zone, server=name)
        binding, operations, upstream = None, None, Upstream("http", "invalid", 80)
    usable = credential is not None and not credential.broken
    status = status_of(binding is not None, row["resolve_error"], row["addresses"], usable)
    presented = credential.presented if credential is not None else None
    return ServerEntry(
        id=row["id"],
        zone=zone,
        name=name,
        version=row["version"],
        audience=audience(zone, name),
        tags=dict(row["tags"]),
        hosts=binding.hosts if binding is not None else (),
        upstream=upstream,
        addresses=tuple(row["addresses"]),
        binding=binding,
        operations=operations,
        scopes=frozenset(operation.scope for operation in (binding.operations if binding is not None else ())),
        credential_name=credential.name if credential is not None else "",
        presented=presented,
        refusal=None if status == "routable" else status,
        route=name if zone == DEFAULT_ZONE else f"{zone}/{name}",
        binding_tag=_tag(row["id"], upstream, binding, presented),
        closed=row["closed"],
        split=_split(row["canary"], upstream),
    )


def _split(canary: dict[str, Any] | None, upstream: Upstream) -> SplitEntry | None:
    """The split a canary asks for; none once the server's own upstream is another than the one it began beside."""
    if canary is None or parse_upstream(canary["stable_url"]) != upstream:
        return None
    baseline, candidate = (
        ArmEntry(parse_upstream(canary[f"{arm}_url"]), tuple(canary[f"{arm}_addresses"]), canary[f"{arm}_percent"])
        for arm in ("baseline", "candidate")
    )
    return SplitEntry(canary["id"], baseline, candidate, canary["state"] == "promoted")


def _tag(identifier: str, upstream: Upstream, binding: Binding | None, presented: Presentation | None) -> str:
    if binding is None:
        return ""
    told = (
        identifier,
        (upstream.scheme, upstream.host, upstream.port, upstream.base_path),
        (binding.protocol, binding.timeout_s, binding.idle_timeout_s, binding.max_request_bytes, binding.ca_pem),
        any(operation.long_lived for operation in binding.operations),
        presented.header if presented is not None else None,
    )
    return hashlib.sha256(msgspec.json.encode(told)).hexdigest()[:24]


def _credential(row: Row, sealer: Sealer) -> CredentialEntry:
    zone, name, kind = row["zone"], row["credential_name"], row["credential_kind"]
    presented, broken = None, False
    try:
        secret = unseal(sealer, zone, row["credential_id"], kind, row["credential_header"], row["credential_sealed"])
        header = presentation(secret.kind, secret.header, secret.values)
        presented = Presentation(*header) if header is not None else None
    except (SealError, msgspec.DecodeError, KeyError, TypeError, ValueError):
        log.error("credential does not open", zone=zone, credential=name)
        broken = True
    return CredentialEntry(zone, name, kind, row["credential_version"], presented, broken)
