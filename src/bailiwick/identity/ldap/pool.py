"""Connections to one directory, kept open and limited; from replica to replica where one is dead."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from bailiwick.identity.directories import LdapOptions
from bailiwick.identity.ldap.connection import Address, Connection, DirectoryError, Refused, connect

Reach = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of (host, port), every one checked; raises a ``BailiwickError`` where we may not connect."""

IDLE_S = 60.0
SHUNNED_S = 30.0
# how many may wait for each connection before the next is told that the directory is too slow
MOST_WAITING = 16


def tls_context(ca: str) -> ssl.SSLContext:
    """Verifies chain and name, against ``ca`` (PEM) or the system's authorities; raises ``DirectoryError``."""
    try:
        context = ssl.create_default_context(cadata=ca or None)
    except (ssl.SSLError, ValueError):
        raise DirectoryError("the configured certificates cannot be read") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class Pool:
    """The connections of a worker to a directory, each bound as its reader or used to try passwords."""

    def __init__(self, options: LdapOptions, bind_password: str, reach: Reach, monotonic: Callable[[], float]) -> None:
        self._options = options
        self._password = bind_password
        self._reach = reach
        self._monotonic = monotonic
        self._tls: ssl.SSLContext | None = None
        self._slots = asyncio.Semaphore(options.pool_size)
        self._waiting = 0
        self._readers: list[Connection] = []
        self._triers: list[Connection] = []
        self._shunned: dict[str, float] = {}

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[Connection]:
        """A connection that may search."""
        async with self._taken(self._readers, as_reader=True) as connection:
            yield connection

    @asynccontextmanager
    async def trier(self) -> AsyncIterator[Connection]:
        """A connection on which somebody's password is tried; what it was bound as before does not count."""
        async with self._taken(self._triers, as_reader=False) as connection:
            yield connection

    async def open(self, url: str, *, as_reader: bool = True) -> Connection:
        """A fresh connection to one replica, bound as the reader; raises ``DirectoryError`` and ``Refused``."""
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 636
        self._tls = self._tls or tls_context(self._options.ca)
        addresses = await self._reach(host, port)
        connection = await connect(Address(host, port, addresses, parts.scheme == "ldaps", self._tls))
        try:
            if as_reader and self._options.bind_dn:
                await self.bind_reader(connection)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def bind_reader(self, connection: Connection) -> None:
        """Bind as who we search as; raises ``Refused``."""
        await connection.bind(self._options.bind_dn, self._password)

    async def close(self) -> None:
        """Close what is idle; what is in use is closed when it comes back."""
        for connection in [*self._readers, *self._triers]:
            await connection.close()
        self._readers.clear()
        self._triers.clear()

    @asynccontextmanager
    async def _taken(self, idle: list[Connection], *, as_reader: bool) -> AsyncIterator[Connection]:
        if self._waiting >= MOST_WAITING * self._options.pool_size:
            raise DirectoryError("too many wait for it already")
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        connection = None
        try:
            connection = await self._idle(idle) or await self._fresh(as_reader)
            yield connection
        except BaseException:
            if connection is not None and not connection.usable:
                await self._shun(connection.url)
            raise
        finally:
            self._slots.release()
            if connection is not None:
                connection.used_at = self._monotonic()
                if connection.usable:
                    idle.append(connection)
                else:
                    await connection.close()

    async def _shun(self, url: str) -> None:
        """Pass a replica over for a while, and what is kept of it: it broke off, or did not answer."""
        self._shunned[url] = self._monotonic() + SHUNNED_S
        for idle in (self._readers, self._triers):
            for connection in [each for each in idle if each.url == url]:
                idle.remove(connection)
                await connection.close()

    async def _idle(self, idle: list[Connection]) -> Connection | None:
        """A kept connection that is still good."""
        while idle:
            connection = idle.pop()
            if connection.alive and self._monotonic() - connection.used_at < IDLE_S:
                return connection
            await connection.close()
        return None

    async def _fresh(self, as_reader: bool) -> Connection:
        """A connection to the first replica that gives one; one that did not is passed over for a while."""
        now, told = self._monotonic(), "no replica is configured"
        good = [url for url in self._options.urls if self._shunned.get(url, 0.0) <= now]
        for url in good or self._options.urls:
            try:
                async with asyncio.timeout(self._options.connect_timeout_s):
                    connection = await self.open(url, as_reader=as_reader)
            except TimeoutError:
                told = f"{url}: no connection in {self._options.connect_timeout_s:g} s"
            except (DirectoryError, Refused) as error:
                told = f"{url}: {error}"
            else:
                self._shunned.pop(url, None)
                connection.url = url
                return connection
            self._shunned[url] = now + SHUNNED_S
        raise DirectoryError(told)
