"""From the inventory to Envoy's routing table, kept up to date as the feed says.

Runs in the work role. The table is written to Envoy's files even while Envoy is down, so that a restarted Envoy comes
up with it; while it runs, each change is followed into it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Iterable
from pathlib import Path

import structlog

from bailiwick.authority.snapshot import Snapshot
from bailiwick.gateway.envoy import Arm, EnvoyFiles, EnvoyRejected, Route, Split, Upstream
from bailiwick.gateway.envoy.files import at_zero
from bailiwick.gateway.lease import Lease
from bailiwick.inventory import endpoints
from bailiwick.inventory.loader import ServerEntry, SplitEntry
from bailiwick.inventory.servers import Binding

log = structlog.get_logger(__name__)

_RECONCILE_S = 2.0
_ROUTABLE_LATER = frozenset({None, "credential_missing"})


def route_of(server: ServerEntry, ca_directory: Path) -> Route:
    """The route of one server. A server that cannot be reached keeps a route without upstream: the check refuses it."""
    binding = server.binding
    upstream, split = None, None
    if binding is not None and server.addresses and server.refusal in _ROUTABLE_LATER:
        upstream = _upstream(server.upstream, server.addresses, binding, ca_directory)
        if server.split is not None:
            split = _split(server.split, upstream, binding, ca_directory)
    return Route(
        server=server.name,
        zone=server.zone,
        hosts=server.hosts,
        upstream=upstream,
        path_prefix=server.upstream.base_path or "/",
        credential_header=server.presented.header if server.presented else None,
        max_request_bytes=binding.max_request_bytes if binding else None,
        long_lived=binding is not None and any(operation.long_lived for operation in binding.operations),
        binding=server.binding_tag,
        split=split,
    )


def _upstream(target: endpoints.Upstream, addresses: Iterable[str], binding: Binding, ca_directory: Path) -> Upstream:
    tls = target.scheme == "https"
    return Upstream(
        addresses=tuple((address, target.port) for address in addresses),
        tls=tls,
        sni=target.host if tls else None,
        ca_file=_ca_file(binding.ca_pem, ca_directory) if tls else None,
        http2=binding.protocol == "http2",
        timeout_s=binding.timeout_s,
        idle_timeout_s=binding.idle_timeout_s or 3600.0,
        authority=target.authority if target.address is None else None,
    )


def _split(entry: SplitEntry, stable: Upstream, binding: Binding, ca_directory: Path) -> Split | None:
    """The arms of a canary; None, which is everything to the server's own upstream, where one has no address."""
    if not (entry.baseline.addresses and entry.candidate.addresses):
        return None
    baseline, candidate = (
        _upstream(arm.upstream, arm.addresses, binding, ca_directory) for arm in (entry.baseline, entry.candidate)
    )
    arms = (
        Arm("stable", stable, 100 - entry.baseline.weight - entry.candidate.weight),
        Arm("baseline", baseline, entry.baseline.weight),
        Arm("candidate", candidate, entry.candidate.weight),
    )
    return Split(entry.canary, arms, entry.lasting)


def routes_of(snapshot: Snapshot, ca_directory: Path) -> list[Route]:
    """Every server's route. One that cannot be expressed is left out and told of; the others go on."""
    routes = []
    for zone in snapshot.zones.values():
        for server in zone.servers.values():
            try:
                routes.append(route_of(server, ca_directory))
            except ValueError as error:
                log.error("server cannot be routed", zone=zone.name, server=server.name, problem=str(error))
    return routes


class RouteWriter:
    """Keeps Envoy's table equal to the inventory. A candidate has traffic only while ``lease`` holds."""

    def __init__(self, files: EnvoyFiles, ca_directory: Path, lease: Lease) -> None:
        self._files = files
        self._lease = lease
        self._ca_directory = ca_directory
        self._wanted: list[Route] = []
        self._wake = asyncio.Event()

    def want(self, snapshot: Snapshot) -> None:
        """Take a new snapshot; :meth:`run` brings it into force."""
        self._wanted = routes_of(snapshot, self._ca_directory)
        self._wake.set()

    def write(self) -> None:
        """Put the wanted table into the files, for an Envoy that is not running yet."""
        self._files.write_routes(self._held(self._wanted))

    async def run(self) -> None:
        """Follow until cancelled. Looks again every two seconds, since Envoy may have been restarted meanwhile."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _RECONCILE_S)
            self._wake.clear()
            await self._bring_into_force(self._wanted)

    def _held(self, routes: Iterable[Route]) -> list[Route]:
        wanted = list(routes)
        return wanted if self._lease.holds() else list(at_zero(wanted))

    async def _bring_into_force(self, routes: Iterable[Route]) -> None:
        wanted = self._held(routes)
        try:
            applied = await self._files.apply(wanted)
            if applied.changed:
                log.info("routes in force", servers=len(applied.servers), took_ms=round(applied.seconds * 1000, 1))
        except OSError:
            self._files.write_routes(wanted)  # Envoy is away; it reads the files when it comes
        except (EnvoyRejected, TimeoutError, ValueError) as error:
            log.error("routes not in force", problem=str(error))


def _ca_file(pem: str | None, directory: Path) -> Path | None:
    """A certificate bundle as the file Envoy reads, named by its content."""
    if pem is None:
        return None
    path = directory / f"{hashlib.sha256(pem.encode()).hexdigest()[:32]}.pem"
    if not path.exists():
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_suffix(".new")
        draft.write_text(pem)
        draft.replace(path)
    return path
