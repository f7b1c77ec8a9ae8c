"""Envoy's files, written by rename, and the order that keeps every request routable while they change.

A new upstream's cluster must be known to Envoy before a route names it, and must stay until no request that
chose the old route can still be on its way: clusters, then (when Envoy shows them) routes, then, a while
later, the clusters nobody names any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import secrets
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bailiwick.gateway.envoy.admin import EnvoyAdmin
from bailiwick.gateway.envoy.bootstrap import Layout, bootstrap
from bailiwick.gateway.envoy.clusters import upstream_clusters, worker_endpoints
from bailiwick.gateway.envoy.listeners import certificate
from bailiwick.gateway.envoy.model import GatewayConfig, Listener, Route, Worker
from bailiwick.gateway.envoy.protos import Config
from bailiwick.gateway.envoy.routes import route_configuration

CDS, RDS = "cluster_manager.cds", "http.gateway.rds.gateway"
_WARMING = "cluster_manager.warming_clusters"
_CONFIRM_EVERY_S = 0.002


class EnvoyRejected(RuntimeError):
    """Envoy refused a configuration; the one before it stays in force and is back on disk."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What an update did: the servers Envoy now routes, and how long it took to do so, in seconds."""

    servers: frozenset[str]
    seconds: float
    changed: bool


class EnvoyFiles:
    """Writes Envoy's configuration below `run_dir/envoy` and follows it into Envoy.

    One per installation, in the process that owns Envoy's life. `write` before Envoy starts; then `apply`
    whenever routes change, `set_workers` whenever a worker comes or goes, `refresh_certificates` now and
    then. `monotonic` is a clock in seconds, `retire_after_s` how long an unused cluster stays: longer than
    a check may take.
    """

    def __init__(
        self,
        config: GatewayConfig,
        *,
        monotonic: Callable[[], float],
        retire_after_s: float = 5.0,
        confirm_within_s: float = 5.0,
    ) -> None:
        self._config = config
        self._layout = Layout(config.run_dir / "envoy")
        self._admin = EnvoyAdmin(config.admin_socket)
        self._monotonic = monotonic
        self._retire_after_s = retire_after_s
        self._confirm_within_s = confirm_within_s
        self._lock = asyncio.Lock()
        self._clusters: dict[str, Config] = {}
        self._retiring: asyncio.Task[None] | None = None

    @property
    def config(self) -> GatewayConfig:
        """The configuration with the routes and workers last applied."""
        return self._config

    @property
    def admin(self) -> EnvoyAdmin:
        return self._admin

    def command(self, envoy: str, *, concurrency: int, log_level: str = "warning") -> list[str]:
        """The argument list that starts Envoy (`envoy` is the path of its binary) on these files."""
        return [
            envoy,
            "--config-path",
            str(self._layout.bootstrap),
            "--concurrency",
            str(concurrency),
            "--disable-hot-restart",
            "--log-level",
            log_level,
            "--drain-time-s",
            "5",
        ]

    def write(self, workers: Iterable[Worker] | None = None) -> None:
        """Write every file, for an Envoy that is not running yet.

        With ``workers`` given, a routing table that is there already is left alone: it belongs to whoever follows the
        inventory. Raises `ValueError` when the configuration contradicts itself, `OSError` or `ssl.SSLError` when a
        certificate cannot be read or does not fit its key.
        """
        if workers is not None:
            self._config = replace(self._config, workers=tuple(workers))
        self._make_directories()
        # A socket left behind by a killed Envoy would keep the next one from binding.
        self._config.admin_socket.unlink(missing_ok=True)
        for name, listener in self._tls_listeners():
            _write_resources(self._layout.certificate(name), [_read_certificate(name, listener)])
        for name, resource in worker_endpoints(self._config.workers).items():
            _write_resources(self._layout.workers(name), [resource])
        if workers is None or not (self._layout.routes.exists() and self._layout.clusters.exists()):
            self.write_routes(self._config.routes)
        _write_json(self._layout.bootstrap, bootstrap(self._config, self._layout))

    def write_routes(self, routes: Iterable[Route]) -> None:
        """Write the routing table and its clusters for an Envoy that is not running. Raises `ValueError`."""
        wanted = tuple(routes)
        clusters, table = _by_name(upstream_clusters(wanted)), route_configuration(wanted)
        self._make_directories()
        _write_resources(self._layout.clusters, list(clusters.values()))
        _write_resources(self._layout.routes, [table])
        self._config, self._clusters = replace(self._config, routes=wanted), clusters

    async def apply(self, routes: Iterable[Route]) -> Applied:
        """Make Envoy route exactly `routes`; returns when it does. Nothing in flight is dropped.

        Raises `ValueError` for routes that contradict each other, `EnvoyRejected` when Envoy refuses them,
        `TimeoutError` when it does not confirm them in time, `OSError` when it is not running.
        """
        wanted = tuple(routes)
        table = route_configuration(wanted)
        needed = _by_name(upstream_clusters(wanted))
        async with self._lock:
            started = self._monotonic()
            changed = await self._put_clusters({**self._clusters, **needed})
            changed |= await self._put(self._layout.routes, RDS, [table])
            self._config = replace(self._config, routes=wanted)
            self._schedule_retirement()
            took = self._monotonic() - started
        return Applied(frozenset(route.name for route in wanted), took, changed)

    async def set_workers(self, workers: Iterable[Worker]) -> None:
        """Route to exactly these workers. Requests and streams on one that goes end by themselves.

        Returns when Envoy has taken the change; raises as `apply` does.
        """
        members = tuple(workers)
        async with self._lock:
            for name, resource in worker_endpoints(members).items():
                await self._put(self._layout.workers(name), f"cluster.{name}", [resource])
            self._config = replace(self._config, workers=members)

    def refresh_certificates(self) -> bool:
        """Hand changed certificate files to Envoy; True when there were any.

        A pair that is half written, unreadable or does not match is left for the next call: connections keep
        the certificate in force.
        """
        changed = False
        for name, listener in self._tls_listeners():
            with contextlib.suppress(OSError, ssl.SSLError, ValueError):
                path = self._layout.certificate(name)
                changed |= _write_resources(path, [_read_certificate(name, listener)])
        return changed

    async def close(self) -> None:
        """Forget the pending retirement; the files stay as they are."""
        if self._retiring is not None:
            self._retiring.cancel()
            await asyncio.gather(self._retiring, return_exceptions=True)
        await self._admin.close()

    # -- steps -----------------------------------------------------------------------------------------

    def _make_directories(self) -> None:
        self._config.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        files = [self._layout.bootstrap, self._layout.clusters, self._layout.routes]
        files += [self._layout.workers(name) for name in worker_endpoints(())]
        files += [self._layout.certificate(name) for name, _ in self._tls_listeners()]
        for file in files:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _tls_listeners(self) -> list[tuple[str, Listener]]:
        listeners = (("api", self._config.api_listener), ("gateway", self._config.gateway_listener))
        return [(name, listener) for name, listener in listeners if listener.tls]

    async def _put_clusters(self, clusters: dict[str, Config]) -> bool:
        ordered = [clusters[name] for name in sorted(clusters)]
        changed = await self._put(self._layout.clusters, CDS, ordered)
        self._clusters = clusters
        return changed

    async def _put(self, path: Path, source: str, resources: list[Config]) -> bool:
        """Have Envoy run on these resources; True when it did not before.

        Envoy itself is asked, not the file: what a crash or a refusal left between them is mended here.
        """
        version = _version(resources)
        figures = await self._admin.figures(source, _WARMING)
        if _runs_on(figures, source, version):
            _write_resources(path, resources)
            return False
        before = _read_bytes(path)
        _write_bytes(path, _discovery_answer(resources))
        try:
            await self._confirmed(source, version, _refusals(figures, source))
        except EnvoyRejected:
            _write_bytes(path, before)
            raise
        return True

    async def _confirmed(self, source: str, version: str, refusals_before: int) -> None:
        deadline = self._monotonic() + self._confirm_within_s
        while True:
            figures = await self._admin.figures(source, _WARMING)
            if _runs_on(figures, source, version):
                return
            if _refusals(figures, source) > refusals_before:
                raise EnvoyRejected(f"Envoy refused {source} {version}")
            if self._monotonic() > deadline:
                raise TimeoutError(f"Envoy did not take {source} {version} in time")
            await asyncio.sleep(_CONFIRM_EVERY_S)

    def _schedule_retirement(self) -> None:
        if self._retiring is not None:
            self._retiring.cancel()
            self._retiring = None
        if self._clusters.keys() != self._needed().keys():
            self._retiring = asyncio.get_running_loop().create_task(self._retire())

    def _needed(self) -> dict[str, Config]:
        return _by_name(upstream_clusters(self._config.routes))

    async def _retire(self) -> None:
        await asyncio.sleep(self._retire_after_s)
        async with self._lock:
            # A failure here leaves clusters nobody names; the next change retires them.
            with contextlib.suppress(OSError, TimeoutError, EnvoyRejected):
                await self._put_clusters(self._needed())


def _runs_on(figures: dict[str, Any], source: str, version: str) -> bool:
    return figures.get(f"{source}.version_text") == version and not figures.get(_WARMING)


def _refusals(figures: dict[str, Any], source: str) -> int:
    return sum(int(figures.get(f"{source}.{kind}") or 0) for kind in ("update_rejected", "update_failure"))


def _by_name(clusters: Iterable[Config]) -> dict[str, Config]:
    return {cluster["name"]: cluster for cluster in clusters}


def _read_certificate(name: str, listener: Listener) -> Config:
    if listener.tls_cert is None or listener.tls_key is None:
        raise ValueError(f"listener {name} has no TLS")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(listener.tls_cert, listener.tls_key, password=lambda: b"")
    return certificate(name, listener.tls_cert.read_text("ascii"), listener.tls_key.read_text("ascii"))


def _version(resources: list[Config]) -> str:
    return hashlib.sha256(json.dumps(resources, sort_keys=True).encode()).hexdigest()[:16]


def _discovery_answer(resources: list[Config]) -> bytes:
    return json.dumps({"version_info": _version(resources), "resources": resources}).encode()


def _write_resources(path: Path, resources: list[Config]) -> bool:
    """Write a discovery answer; False when the file says this already."""
    answer = _discovery_answer(resources)
    with contextlib.suppress(FileNotFoundError):
        if path.read_bytes() == answer:
            return False
    _write_bytes(path, answer)
    return True


def _read_bytes(path: Path) -> bytes:
    return path.read_bytes()


def _write_json(path: Path, content: Config) -> None:
    _write_bytes(path, json.dumps(content, indent=1).encode())


def _write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` in one step; its new content is never seen in part and never readable by others."""
    # The name must not vary the directory Envoy watches by more than this one rename.
    draft = path.parent.parent / f".{path.name}.{secrets.token_hex(4)}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
