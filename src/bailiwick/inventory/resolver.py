"""Resolving upstream names, and judging every address they resolve to.

We resolve, not the proxy: it is given addresses that were checked, so a name cannot answer one address when it is
checked and another when it is used. One forbidden address makes the whole answer forbidden.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlsplit

import structlog

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.inventory.addresses import (
    NEVER,
    Address,
    AddressKind,
    Network,
    check,
    classify,
    parse_address,
    parse_networks,
)
from bailiwick.inventory.endpoints import Upstream, parse_upstream
from bailiwick.kernel import feed
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row
from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.settings import Settings

MAX_ADDRESSES = 64
# how long a server goes on with its last good addresses while its name server does not answer
KEEP_FOR = timedelta(minutes=10)

log = structlog.get_logger(__name__)


class LookupFailed(Exception):
    """A name did not resolve. ``transient``: nobody could say, as opposed to there being no such name."""

    def __init__(self, transient: bool) -> None:
        super().__init__("transient" if transient else "no such name")
        self.transient = transient


Lookup = Callable[[str, int], Awaitable[Sequence[str]]]
"""Answers the addresses of (host, port) as text, or raises :class:`LookupFailed`."""


class SystemLookup:
    """The system's resolver, in threads of its own so that a dead name server holds up nothing else."""

    def __init__(self, timeout_s: float = 2.0, threads: int = 4) -> None:
        self._timeout_s = timeout_s
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="resolve")
        self._free = asyncio.Semaphore(threads)

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._free.acquire()
                # the slot is given back when the thread ends, which may be long after we stopped waiting
                answer = asyncio.get_running_loop().run_in_executor(self._pool, _getaddrinfo, host, port)
                answer.add_done_callback(self._release)
                return await asyncio.shield(answer)
        except TimeoutError:
            raise LookupFailed(transient=True) from None
        except socket.gaierror as error:
            raise LookupFailed(transient=error.errno in {socket.EAI_AGAIN, socket.EAI_SYSTEM}) from None
        except (OSError, UnicodeError):
            raise LookupFailed(transient=False) from None

    def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _release(self, answer: asyncio.Future[list[str]]) -> None:
        self._free.release()
        if not answer.cancelled():
            answer.exception()  # retrieved here, since nobody may be waiting any more


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a host name came to: addresses, or ``error``: a reason code, a colon and a sentence."""

    addresses: tuple[str, ...]
    error: str | None = None
    transient: bool = False

    @property
    def reason(self) -> str | None:
        """The reason code of the error."""
        return self.error.split(":", 1)[0] if self.error else None


@dataclass(frozen=True, slots=True)
class Refresh:
    """What a scheduled re-check found: servers looked at, changed, and unroutable afterwards."""

    checked: int
    changed: int
    unroutable: int


class Resolver:
    """Resolves upstreams and keeps the servers' addresses current."""

    def __init__(
        self, database: Database, clock: Clock, recorder: Recorder, settings: Settings, lookup: Lookup | None = None
    ) -> None:
        self._database = database
        self._clock = clock
        self._recorder = recorder
        self._allowed: tuple[Network, ...] = parse_networks(settings.allow_upstream_networks)
        self._own_ports = {settings.api_port, settings.gateway_port}
        self._own = {_authority(settings.issuer), _authority(settings.gateway)}
        self._api = _authority(settings.issuer)
        self._listens = (settings.host, settings.api_port)
        self._lookup = lookup or SystemLookup()

    def check_literal(self, upstream: Upstream) -> None:
        """Raises ``upstream_forbidden`` for an address, written as one, that we may not connect to, and for our own."""
        if (upstream.host, upstream.port) in self._own:
            raise BailiwickError("The upstream is this gateway itself.", reason="upstream_forbidden")
        if upstream.address is not None:
            self._check(str(upstream.address), upstream.port)

    async def resolve(self, upstream: Upstream) -> Resolution:
        """The addresses of ``upstream``, every one of them checked; failures are in the answer, not raised."""
        try:
            self.check_literal(upstream)
            if upstream.address is not None:
                return Resolution((str(upstream.address),))
            found = await self._lookup(upstream.host, upstream.port)
        except LookupFailed as error:
            sentence = "its name server does not answer" if error.transient else "there is no such name"
            return Resolution((), f"upstream_unresolved: {upstream.host}: {sentence}", error.transient)
        except BailiwickError as error:
            return Resolution((), f"{error.reason}: {error.detail}")
        addresses = sorted(set(found))[:MAX_ADDRESSES]
        if not addresses:
            return Resolution((), f"upstream_unresolved: {upstream.host}: it has no address")
        try:
            for address in addresses:
                self._check(address, upstream.port)
        except BailiwickError as error:
            return Resolution((), f"{error.reason}: {error.detail}")
        return Resolution(tuple(addresses))

    def is_api(self, host: str, port: int) -> bool:
        """Whether that is where our own API is, by the very host and port that are configured."""
        return (host.lower(), port) == self._api

    async def resolve_api(self) -> Resolution:
        """The addresses of our own API, for what looks at it. No upstream is ever there.

        An address that is configured as one is that address. A name may lead into a private network, as one for
        colleagues does, and to this machine only where the API listens: whoever answers for the name opens nothing else
        that listens here. Link-local and metadata addresses are refused as everywhere.
        """
        host, port = self._api
        written = parse_address(host) is not None
        try:
            found = [host] if written else await self._lookup(host, port)
            addresses = sorted(set(found))[:MAX_ADDRESSES]
            for text in addresses:
                address = parse_address(text.partition("%")[0])
                kind = classify(address) if address is not None else AddressKind.UNSPECIFIED
                here = kind is not AddressKind.LOOPBACK or written or _listens_at(address, port, *self._listens)
                if kind in NEVER or not here:
                    raise BailiwickError(
                        f"The API's address {text} is {kind} and not where it listens.", reason="upstream_forbidden"
                    )
        except LookupFailed as error:
            return Resolution((), f"upstream_unresolved: {host} does not resolve", error.transient)
        except BailiwickError as error:
            return Resolution((), f"{error.reason}: {error.detail}")
        return Resolution(tuple(addresses), None if addresses else f"upstream_unresolved: {host} has no address")

    async def refresh_all(self, concurrency: int = 4) -> Refresh:
        """Resolve every bound server of every active zone again and announce those whose routing changed."""
        async with self._database.begin() as tx:
            rows = await tx.all(
                "SELECT s.* FROM servers s JOIN zones z ON z.name = s.zone"
                " WHERE s.binding IS NOT NULL AND z.state = 'active' ORDER BY s.id"
            )
        slots = asyncio.Semaphore(concurrency)

        async def one(row: Row) -> tuple[bool, bool]:
            async with slots:
                return await self._refresh(row)

        results = await asyncio.gather(*(one(row) for row in rows))
        return Refresh(len(rows), sum(changed for changed, _ in results), sum(bad for _, bad in results))

    async def _refresh(self, row: Row) -> tuple[bool, bool]:
        """Answers whether the server's routing changed, and whether it is unroutable now."""
        upstream = parse_upstream(row["binding"].get("upstream_url") or row["endpoint"])
        fresh = await self.resolve(upstream)
        now = self._clock.now()
        if fresh.transient and row["addresses"] and row["resolved_at"] and now - row["resolved_at"] < KEEP_FOR:
            return False, False
        changed = list(fresh.addresses) != row["addresses"] or fresh.error != row["resolve_error"]
        async with self._database.begin() as tx:
            touched = await tx.run(
                "UPDATE servers SET addresses = cast(:addresses AS jsonb), resolve_error = :error,"
                " resolved_at = coalesce(:resolved_at, resolved_at) WHERE id = :id AND version = :version",
                addresses=json.dumps(fresh.addresses),
                error=fresh.error,
                resolved_at=None if fresh.error else now,
                id=row["id"],
                version=row["version"],  # changed meanwhile: whoever changed it resolved it
            )
            if touched and fresh.reason != _reason(row["resolve_error"]):
                await self._recorder.record(
                    tx,
                    codes.SERVER_CHANGED,
                    "success",
                    Context(zone=row["zone"]),
                    subject=Subject(id=row["name"], type="server"),
                    server=row["name"],
                    cause="resolution",
                    routing=fresh.reason or "routable",
                )
            if touched and changed:
                await feed.announce(tx, row["zone"], "server", row["name"])
        if touched and changed:
            log.info("server addresses changed", zone=row["zone"], server=row["name"], error=fresh.error)
        return bool(touched and changed), fresh.error is not None

    def _check(self, text: str, port: int) -> None:
        address = parse_address(text.partition("%")[0])
        if address is None:
            raise BailiwickError("The upstream's name resolved to no address.", reason="upstream_forbidden")
        check(address, self._allowed)
        if port in self._own_ports and classify(address) is AddressKind.LOOPBACK:
            raise BailiwickError("The upstream is this gateway itself.", reason="upstream_forbidden")


def _getaddrinfo(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return [str(sockaddr[0]) for _family, _type, _proto, _name, sockaddr in found]


def _listens_at(address: Address | None, port: int, host: str, api_port: int) -> bool:
    """Whether a loopback address is one that the API listens on, which does so on ``host`` and ``api_port``."""
    if address is None or port != api_port:
        return False
    if host == "localhost":
        return str(address) in {"127.0.0.1", "::1"}
    if host == "::":
        return True
    if host == "0.0.0.0":  # noqa: S104 - compared, not bound
        return address.version == 4
    return address == parse_address(host)


def _authority(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))


def _reason(error: str | None) -> str | None:
    return error.split(":", 1)[0] if error else None
