"""What workers keep in memory of the inventory: small frozen forms, ready for use on the hot path."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import msgspec
import structlog

from bailiwick.inventory.credentials import presentation, unseal
from bailiwick.inventory.endpoints import Upstream, parse_upstream
from bailiwick.inventory.operations import OperationIndex
from bailiwick.inventory.servers import Binding, binding_from, status_of
from bailiwick.kernel.crypto import Sealer, SealError
from bailiwick.kernel.db import Row, Transaction
from bailiwick.kernel.errors import BailiwickError

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CredentialEntry:
    """A credential opened. ``header`` is (lower-case name, value) as it goes on requests.

    It is None for kind ``none``, and where the stored value does not open, which ``broken`` says; nothing passes then.
    """

    zone: str
    name: str
    kind: str
    version: int
    header: tuple[str, str] | None = field(repr=False)
    broken: bool = False


@dataclass(frozen=True, slots=True)
class ServerEntry:
    """A server as the gateway and the issuer need it.

    ``refusal`` is the reason code every request to it is refused with, None when it is routable. ``upstream`` and
    ``addresses`` (text, checked) say where requests go; ``inject`` is the header that carries its credential.
    ``digest`` changes when what Envoy must know of the binding does: the upstream, its limits, the credential's header;
    not the credential's value, not the addresses, not the description.
    """

    id: str
    zone: str
    name: str
    version: int
    tags: dict[str, str]
    hosts: tuple[str, ...]
    upstream: Upstream
    addresses: tuple[str, ...]
    binding: Binding | None
    operations: OperationIndex
    credential_name: str
    refusal: str | None
    digest: str
    inject: tuple[str, str] | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class ZoneEntry:
    """A zone: its name, and whether it is archived."""

    name: str
    archived: bool


_SERVERS = """
SELECT s.*, c.id AS credential_id, c.kind AS credential_kind, c.header AS credential_header,
       c.sealed AS credential_sealed, c.version AS credential_version, c.name AS credential_name
FROM servers s LEFT JOIN credentials c ON c.zone = s.zone AND c.name = s.binding ->> 'credential'
WHERE s.zone = :zone
"""


async def load_servers(tx: Transaction, sealer: Sealer, zone: str, name: str | None = None) -> dict[str, ServerEntry]:
    """The servers of ``zone`` by name, or the one named; their credentials are opened with ``sealer``."""
    if name is None:
        rows = await tx.all(_SERVERS, zone=zone)
    else:
        rows = await tx.all(f"{_SERVERS} AND s.name = :name", zone=zone, name=name)
    return {row["name"]: _server(row, sealer) for row in rows}


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


def _server(row: Row, sealer: Sealer) -> ServerEntry:
    zone, name = row["zone"], row["name"]
    binding: Binding | None = None
    operations = OperationIndex(())
    credential = _credential(row, sealer) if row["credential_id"] is not None else None
    try:
        if row["binding"] is not None:
            binding = binding_from(row["binding"])
            operations = OperationIndex(binding.operations)
        upstream = parse_upstream((binding and binding.upstream_url) or row["endpoint"])
    except (BailiwickError, KeyError, TypeError):
        # a row some other hand wrote: this one server refuses, the others go on
        log.error("server binding cannot be read", zone=zone, server=name)
        binding, operations, upstream = None, OperationIndex(()), Upstream("http", "invalid", 80)
    usable = credential is not None and not credential.broken
    status = status_of(binding is not None, row["resolve_error"], row["addresses"], usable)
    inject = credential.header if credential is not None else None
    return ServerEntry(
        id=row["id"],
        zone=zone,
        name=name,
        version=row["version"],
        tags=dict(row["tags"]),
        hosts=binding.hosts if binding is not None else (),
        upstream=upstream,
        addresses=tuple(row["addresses"]),
        binding=binding,
        operations=operations,
        credential_name=credential.name if credential is not None else "",
        refusal=None if status == "routable" else status,
        digest=_digest(row["id"], upstream, binding, inject[0] if inject is not None else None),
        inject=inject,
    )


def _digest(identifier: str, upstream: Upstream, binding: Binding | None, header: str | None) -> str:
    if binding is None:
        return ""
    told = (
        identifier,
        (upstream.scheme, upstream.host, upstream.port, upstream.base_path),
        (binding.protocol, binding.timeout_s, binding.idle_timeout_s, binding.max_request_bytes, binding.ca_pem),
        any(operation.long_lived for operation in binding.operations),
        header,
    )
    return hashlib.sha256(msgspec.json.encode(told)).hexdigest()[:24]


def _credential(row: Row, sealer: Sealer) -> CredentialEntry:
    zone, name, kind = row["zone"], row["credential_name"], row["credential_kind"]
    header, broken = None, False
    try:
        secret = unseal(sealer, zone, row["credential_id"], kind, row["credential_header"], row["credential_sealed"])
        header = presentation(secret.kind, secret.header, secret.values)
    except (SealError, msgspec.DecodeError, KeyError, TypeError, ValueError):
        log.error("credential does not open", zone=zone, credential=name)
        broken = True
    return CredentialEntry(zone, name, kind, row["credential_version"], header, broken)
