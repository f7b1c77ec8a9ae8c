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


@dataclass(frozen=True, slots=True)
class _Answer:
    """A discovery answer: the content of one of Envoy's files, and the version Envoy reports when it runs on it."""

    version: str
    content: bytes

    @classmethod
    def of(cls, *resources: Config) -> _Answer:
        body = json.dumps(resources).encode()
        version = hashlib.sha256(body).hexdigest()[:16]
        return cls(version, b'{"version_info": "%s", "resources": %s}' % (version.encode(), body))


@dataclass(frozen=True, slots=True)
class _Table:
    """A list of routes and what it means to Envoy."""

    routes: tuple[Route, ...]
    clusters: dict[str, Config]
    answer: _Answer
    fallback: _Answer | None

    @classmethod
    def of(cls, routes: Iterable[Route]) -> _Table:
        wanted = tuple(routes)
        clusters = {cluster["name"]: cluster for cluster in upstream_clusters(wanted)}
        safe = at_zero(wanted)
        fallback = _Answer.of(route_configuration(safe)) if safe != wanted else None
        return cls(wanted, clusters, _Answer.of(route_configuration(wanted)), fallback)


def at_zero(routes: Iterable[Route]) -> tuple[Route, ...]:
    """The routes with no traffic for a candidate that is still being judged. They need the same clusters."""
    return tuple(replace(route, split=route.split.at_zero) if route.split is not None else route for route in routes)


def taken_back(before: Iterable[Route], wanted: Iterable[Route]) -> tuple[Route, ...]:
    """The routes of ``before``, in which those candidates have no traffic that ``wanted`` gives none. They need the
    same clusters, so that nothing that may be wrong with another server's keeps a candidate's traffic."""
    given = {route.name: route.split.canary for route in wanted if route.split is not None and route.split.candidate}
    return tuple(
        replace(route, split=replace(route.split, lasting=False).at_zero)
        if route.split is not None and route.split.candidate and given.get(route.name) != route.split.canary
        else route
        for route in before
    )


class EnvoyFiles:
    """Writes Envoy's configuration below `run_dir/envoy` and follows it into Envoy.

    Two processes may each hold one for the same Envoy: whoever owns Envoy's life calls `write`, `set_workers`
    and `refresh_certificates`; whoever knows the inventory calls `write_routes` and `apply`. Neither touches the
    other's files. `monotonic` is a clock in seconds; `retire_after_s` is how long a cluster stays that no route
    names any more: longer than a check may take.
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
        self._last = _Table.of(())
        self._in_force: tuple[Route, ...] | None = None
        self._unused: dict[str, float] = {}
        self._retiring: asyncio.Task[None] | None = None

    @property
    def admin(self) -> EnvoyAdmin:
        return self._admin

    @property
    def admin_socket(self) -> Path:
        """Where Envoy's admin interface listens."""
        return self._config.admin_socket

    def command(self, envoy: str, *, concurrency: int, log_level: str = "warning") -> list[str]:
        """The argument list that starts Envoy (`envoy` is the path of its binary) on these files."""
        path = str(self._layout.bootstrap)
        options = ["--concurrency", str(concurrency), "--log-level", log_level, "--drain-time-s", "5"]
        return [envoy, "--config-path", path, "--disable-hot-restart", *options]

    # -- for an Envoy that is not running --------------------------------------------------------------

    def write(self, workers: Iterable[Worker] | None = None) -> None:
        """Write what Envoy starts with: the bootstrap, the certificates, the workers (the configured ones if None).

        Routes that are there stay; where there are none, the configured ones are written. Raises `ValueError` when
        the configuration contradicts itself, `OSError` or `ssl.SSLError` when a certificate cannot be read or does
        not fit its key.
        """
        # A socket left behind by a killed Envoy would keep the next one from binding.
        self._config.admin_socket.unlink(missing_ok=True)
        for name, listener in self._tls_listeners():
            _write_answer(self._layout.certificate(name), _Answer.of(_read_certificate(name, listener)))
        members = self._config.workers if workers is None else workers
        for name, resource in worker_endpoints(members).items():
            _write_answer(self._layout.workers(name), _Answer.of(resource))
        if not (self._layout.clusters.exists() and self._layout.routes.exists()):
            self.write_routes(self._config.routes)
        _write_bytes(self._layout.bootstrap, json.dumps(bootstrap(self._config, self._layout), indent=1).encode())

    def write_routes(self, routes: Iterable[Route]) -> None:
        """Write the routing table for the next start of Envoy. Raises `ValueError` as `apply` does."""
        wanted = self._table(routes)
        _write_answer(self._layout.clusters, _in_order(wanted.clusters))
        self._lay_ready(wanted.fallback)
        _write_answer(self._layout.routes, wanted.answer)
        self._forget_fallback(wanted)

    # -- for a running Envoy ---------------------------------------------------------------------------

    async def apply(self, routes: Iterable[Route]) -> Applied:
        """Make Envoy route exactly `routes`; returns when it does. Nothing in flight is dropped.

        Applying what is in force already asks Envoy and changes nothing. What is taken from a candidate is taken
        first, whatever is wrong with the rest of it. Raises `ValueError` for routes that contradict each other,
        `EnvoyRejected` when Envoy refuses them, `TimeoutError` when it does not confirm them
        in time, `OSError` when it is not running.
        """
        wanted = self._table(routes)
        async with self._lock:
            started = self._monotonic()
            known = {**_read_clusters(self._layout.clusters), **wanted.clusters}
            try:
                await self._take_back(wanted)
                changed = await self._put(self._layout.clusters, CDS, _in_order(known))
                changed |= await self._put_routes(wanted)
            except (EnvoyRejected, TimeoutError):
                if self._in_force is None:
                    self.fall_back()  # by whom what is in force was put there, and what it gives, nobody knows
                raise
            self._note_unused(known.keys() - wanted.clusters.keys())
            took = self._monotonic() - started
        return Applied(frozenset(route.name for route in wanted.routes), took, changed)

    async def set_workers(self, workers: Iterable[Worker]) -> None:
        """Route to exactly these workers. Requests and streams on one that goes end by themselves.

        Returns when Envoy has taken the change; raises as `apply` does. An Envoy that is away finds it written.
        """
        async with self._lock:
            for name, resource in worker_endpoints(workers).items():
                await self._put(self._layout.workers(name), f"cluster.{name}", _Answer.of(resource))

    def refresh_certificates(self) -> bool:
        """Hand changed certificate files to Envoy; True when there were any.

        A pair that is half written, unreadable or does not match is left for the next call: connections keep
        the certificate in force.
        """
        changed = False
        for name, listener in self._tls_listeners():
            with contextlib.suppress(OSError, ssl.SSLError, ValueError):
                path = self._layout.certificate(name)
                changed |= _write_answer(path, _Answer.of(_read_certificate(name, listener)))
        return changed

    def fall_back(self) -> bool:
        """Put the table in force in which no candidate has traffic; False when it is, or there is none to fall back on.

        For whoever finds that nobody watches the canaries any more; asks neither Envoy nor the database.
        """
        content = _read_bytes(self._layout.fallback)
        if content is None or _read_bytes(self._layout.routes) == content:
            return False
        _write_bytes(self._layout.routes, content)
        return True

    async def close(self) -> None:
        """Forget the pending retirement; the files stay as they are."""
        if self._retiring is not None:
            self._retiring.cancel()
            await asyncio.gather(self._retiring, return_exceptions=True)
        await self._admin.close()

    # -- steps -----------------------------------------------------------------------------------------

    def _table(self, routes: Iterable[Route]) -> _Table:
        wanted = tuple(routes)
        if wanted != self._last.routes:
            self._last = _Table.of(wanted)
        return self._last

    async def _take_back(self, wanted: _Table) -> None:
        """Before anything else, by a table of the clusters that are there."""
        if self._in_force is None:
            return
        left = taken_back(self._in_force, wanted.routes)
        if left != self._in_force:
            await self._put(self._layout.routes, RDS, _Answer.of(route_configuration(left)))
            self._in_force = left

    async def _put_routes(self, wanted: _Table) -> bool:
        """Bring the routes into force, and what takes candidates' traffic away again before and after them.

        The clusters of both are there by now. A table that Envoy refuses leaves what fits the one in force.
        """
        before = _read_bytes(self._layout.fallback)
        self._lay_ready(wanted.fallback)
        try:
            changed = await self._put(self._layout.routes, RDS, wanted.answer)
        except EnvoyRejected:
            if before is None:
                self._layout.fallback.unlink(missing_ok=True)
            elif before != _read_bytes(self._layout.fallback):
                _write_bytes(self._layout.fallback, before)
            raise
        self._in_force = wanted.routes
        self._forget_fallback(wanted)
        return changed

    def _lay_ready(self, fallback: _Answer | None) -> None:
        """Before any candidate has traffic, what takes it away again."""
        if fallback is not None:
            _write_answer(self._layout.fallback, fallback)

    def _forget_fallback(self, wanted: _Table) -> None:
        """Once no candidate has traffic that anybody has to watch."""
        if wanted.fallback is None:
            self._layout.fallback.unlink(missing_ok=True)

    def _tls_listeners(self) -> list[tuple[str, Listener]]:
        listeners = (("api", self._config.api_listener), ("gateway", self._config.gateway_listener))
        return [(name, listener) for name, listener in listeners if listener.tls]

    async def _put(self, path: Path, source: str, answer: _Answer) -> bool:
        """Have Envoy run on this answer; True when it did not before.

        Envoy itself is asked, not the file: what a crash or a refusal left between them is mended here.
        """
        try:
            figures = await self._admin.figures(source, _WARMING)
        except OSError:
            _write_answer(path, answer)
            raise
        if _runs_on(figures, source, answer.version):
            _write_answer(path, answer)
            return False
        before = _read_bytes(path)
        _write_bytes(path, answer.content)
        try:
            await self._confirmed(source, answer.version, _refusals(figures, source))
        except EnvoyRejected:
            if before is not None:
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

    def _note_unused(self, names: Iterable[str]) -> None:
        """Remember since when no route names these clusters; requests on their way may still be bound for them."""
        now = self._monotonic()
        self._unused = {name: self._unused.get(name, now) for name in names}
        if self._unused and (self._retiring is None or self._retiring.done()):
            self._retiring = asyncio.get_running_loop().create_task(self._retire())

    async def _retire(self) -> None:
        while self._unused:
            first = min(self._unused.values())
            await asyncio.sleep(max(0.0, first + self._retire_after_s - self._monotonic()) + _CONFIRM_EVERY_S)
            async with self._lock:
                limit = self._monotonic() - self._retire_after_s
                expired = {name for name, since in self._unused.items() if since <= limit}
                kept = {name: c for name, c in _read_clusters(self._layout.clusters).items() if name not in expired}
                self._unused = {name: since for name, since in self._unused.items() if name not in expired}
                # A failure here leaves clusters nobody names; the next change to the routes retires them.
                with contextlib.suppress(OSError, EnvoyRejected):
                    await self._put(self._layout.clusters, CDS, _in_order(kept))


def _runs_on(figures: dict[str, Any], source: str, version: str) -> bool:
    return figures.get(f"{source}.version_text") == version and not figures.get(_WARMING)


def _refusals(figures: dict[str, Any], source: str) -> int:
    return sum(int(figures.get(f"{source}.{kind}") or 0) for kind in ("update_rejected", "update_failure"))


def _in_order(clusters: dict[str, Config]) -> _Answer:
    return _Answer.of(*(clusters[name] for name in sorted(clusters)))


def _read_clusters(path: Path) -> dict[str, Config]:
    """The clusters in the file, as whoever wrote last left them."""
    content = _read_bytes(path)
    resources: list[Config] = json.loads(content)["resources"] if content else []
    return {cluster["name"]: cluster for cluster in resources}


def _read_certificate(name: str, listener: Listener) -> Config:
    if listener.tls_cert is None or listener.tls_key is None:
        raise ValueError(f"listener {name} has no TLS")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(listener.tls_cert, listener.tls_key, password=lambda: b"")
    return certificate(name, listener.tls_cert.read_text("ascii"), listener.tls_key.read_text("ascii"))


def _write_answer(path: Path, answer: _Answer) -> bool:
    """Write one of Envoy's files; False when it says this already."""
    if _read_bytes(path) == answer.content:
        return False
    _write_bytes(path, answer.content)
    return True


def _read_bytes(path: Path) -> bytes | None:
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    return None


def _write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` in one step; its new content is never seen in part and never readable by others."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Beside the directory Envoy watches, not in it: all it shall see there is this one rename.
    draft = path.parent.parent / f".{path.name}.{secrets.token_hex(4)}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
