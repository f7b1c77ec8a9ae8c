"""What a worker knows: everything a request needs, in memory, replaced whole as the feed says.

A :class:`Snapshot` is immutable. :class:`SnapshotStore` holds the current one and applies the feed's changes: it reads
again what changed, builds the next snapshot and swaps the reference. The revoked set is the one part that only grows in
place, so that a revocation costs nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TypeVar

import structlog

from bailiwick.authority.keys import KeyStore, SigningKey, VerifyKey
from bailiwick.authority.revocation import RevokedSet, load_revocations
from bailiwick.identity.api_keys import ApiKeyEntry, load_api_keys
from bailiwick.identity.loader import ApplicationEntry, UserEntry, load_applications, load_users
from bailiwick.inventory.loader import ServerEntry, load_servers
from bailiwick.kernel import modes
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.crypto import Sealer
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import NotFound
from bailiwick.kernel.feed import Change
from bailiwick.kernel.settings import Settings

T = TypeVar("T")
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ZoneState:
    """One zone's part of the snapshot. Applications stand under their id, everything else under its name.

    ``closed``: its gateway lets nothing through; ``off``: the switches thrown in it (``kernel/modes.py``).
    """

    name: str
    issuer: str
    resources: str
    archived: bool
    servers: Mapping[str, ServerEntry]
    users: Mapping[str, UserEntry]
    applications: Mapping[str, ApplicationEntry]
    api_keys: Mapping[str, ApiKeyEntry]
    keys: Mapping[str, VerifyKey]
    revoked_keys: frozenset[str]
    mandate_key: SigningKey
    session_key: SigningKey
    closed: bool = False
    off: frozenset[str] = frozenset()

    def audience(self, server: str) -> str:
        """The resource URI (RFC 8707) of a server, which is the ``aud`` of its mandates."""
        return self.resources + server


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything at one moment. ``generation`` changes with every swap, for caches built on a snapshot."""

    generation: int
    zones: Mapping[str, ZoneState]
    hosts: Mapping[str, tuple[str, str]]

    def zone(self, name: str) -> ZoneState:
        """The zone's state; raises ``NotFound``."""
        state = self.zones.get(name)
        if state is None:
            raise NotFound(f"There is no zone {name}.")
        return state


class SnapshotStore:
    """The current snapshot, the revoked set, and how they follow the feed.

    ``on_change(zone, kind, key)`` is told after each applied change that is not kept here (policy, cache, limits).
    """

    def __init__(self, settings: Settings, clock: Clock, keys: KeyStore, sealer: Sealer) -> None:
        self._settings = settings
        self._clock = clock
        self._keys = keys
        self._sealer = sealer
        self.current = Snapshot(0, MappingProxyType({}), MappingProxyType({}))
        self.revoked = RevokedSet()
        self.revocations_seen = 0

    def replace_sealer(self, sealer: Sealer) -> None:
        """Use the KEKs as they are after a rotation."""
        self._sealer = sealer
        self._keys.replace_sealer(sealer)

    async def load(self, database: Database) -> int:
        """Read everything; answers the feed revision it includes."""
        async with database.begin() as tx:
            await tx.run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            revision = await tx.value("SELECT coalesce(max(revision), 0) FROM feed")
            names = [row["name"] for row in await tx.all("SELECT name FROM zones ORDER BY name")]
            zones = {name: await self._load_zone(tx, name) for name in names}
            for revocation in await load_revocations(tx, self._clock.now()):
                self.revoked.add(revocation)
        self._swap(zones)
        return int(revision)

    async def apply(self, tx: Transaction, changes: Sequence[Change]) -> None:
        """Bring the snapshot up to date with ``changes``, revocations first."""
        revisions = [change.revision for change in changes if change.kind == "revocation"]
        if revisions:
            for revocation in await load_revocations(tx, self._clock.now(), revisions):
                self.revoked.add(revocation)
            self.revocations_seen += 1
        # the same thing changed ten times is read once
        wanted = dict.fromkeys((change.zone, change.kind, change.key) for change in changes)
        zones = dict(self.current.zones)
        named: dict[str, list[str]] = {}
        for zone, kind, key in wanted:
            if kind in {"zone", "key"} or zone not in zones:
                await self._reload_zone(tx, zones, zone)
                continue
            match kind:
                case "user":
                    named.setdefault(zone, []).append(key)
                case "application":
                    fresh_apps = await load_applications(tx, zone, key)
                    kept = {i: app for i, app in zones[zone].applications.items() if app.name != key}
                    zones[zone] = replace(zones[zone], applications=MappingProxyType({**kept, **fresh_apps}))
                case "api_key":
                    fresh_keys = await load_api_keys(tx, zone, key)
                    zones[zone] = replace(zones[zone], api_keys=_merged(zones[zone].api_keys, fresh_keys, key))
                case "server":
                    fresh = await load_servers(tx, self._sealer, zone, key, audience=self._settings.audience)
                    zones[zone] = replace(zones[zone], servers=_merged(zones[zone].servers, fresh, key))
                case modes.FEED:
                    closed, off = await _closed(tx, zone), await modes.standing(tx, zone)
                    zones[zone] = replace(zones[zone], closed=closed, off=off)
                case "credential":
                    servers = await load_servers(tx, self._sealer, zone, audience=self._settings.audience)
                    zones[zone] = replace(zones[zone], servers=MappingProxyType(dict(servers)))
        for zone, usernames in named.items():  # a directory is imported by the thousand
            fresh_users = await load_users(tx, zone, *usernames)
            zones[zone] = replace(zones[zone], users=_merged(zones[zone].users, fresh_users, *usernames))
        if any(kind != "revocation" for _, kind, _ in wanted):
            self._swap(zones)

    def on_swap(self, listener: Callable[[Snapshot], None]) -> None:
        """Have ``listener`` called with each new snapshot."""
        self._listeners = (*getattr(self, "_listeners", ()), listener)

    def _swap(self, zones: Mapping[str, ZoneState]) -> None:
        hosts = {
            host: (zone.name, server.name)
            for zone in zones.values()
            for server in zone.servers.values()
            for host in server.hosts
        }
        self.current = Snapshot(self.current.generation + 1, MappingProxyType(dict(zones)), MappingProxyType(hosts))
        for listener in getattr(self, "_listeners", ()):
            listener(self.current)

    async def _reload_zone(self, tx: Transaction, zones: dict[str, ZoneState], zone: str) -> None:
        try:
            zones[zone] = await self._load_zone(tx, zone)
        except NotFound:
            zones.pop(zone, None)
            log.warning("zone cannot be loaded", zone=zone)

    async def _load_zone(self, tx: Transaction, zone: str) -> ZoneState:
        state = await tx.value("SELECT state FROM zones WHERE name = :zone", zone=zone)
        if state is None:
            raise NotFound(f"There is no zone {zone}.")
        return ZoneState(
            name=zone,
            issuer=self._settings.zone_issuer(zone),
            resources=self._settings.audience(zone, ""),
            archived=state != "active",
            closed=await _closed(tx, zone),
            off=await modes.standing(tx, zone),
            servers=MappingProxyType(
                dict(await load_servers(tx, self._sealer, zone, audience=self._settings.audience))
            ),
            users=MappingProxyType(dict(await load_users(tx, zone))),
            applications=MappingProxyType(dict(await load_applications(tx, zone))),
            api_keys=MappingProxyType(await load_api_keys(tx, zone)),
            keys=MappingProxyType(await self._keys.load_public(tx, zone)),
            revoked_keys=await self._keys.load_revoked(tx, zone),
            mandate_key=await self._keys.load_signing(tx, zone, "mandate"),
            session_key=await self._keys.load_signing(tx, zone, "session"),
        )


async def _closed(tx: Transaction, zone: str) -> bool:
    return bool(
        await tx.value(
            "SELECT EXISTS (SELECT FROM gateway_closures WHERE zone = :zone AND server = '' AND opened_at IS NULL)",
            zone=zone,
        )
    )


def _merged(entries: Mapping[str, T], fresh: Mapping[str, T], *keys: str) -> Mapping[str, T]:
    merged = dict(entries)
    for key in keys:
        merged.pop(key, None)
    merged.update(fresh)
    return MappingProxyType(merged)
