"""HTTP to destinations: one client with the same rules for all.

Addresses are checked where the connection is made and the connection goes to what was checked. Redirects are not
followed and no proxy is taken from the environment, both of which would lead elsewhere; certificates are always
checked; answers are read to a bound.
"""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from bailiwick.evidence.siem.destination import Refused, Retry, Stop
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.ids import Ids

Reach = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of (host, port) that we may connect to; raises :class:`BailiwickError` when there is none."""


@dataclass(frozen=True, slots=True)
class Means:
    """What a destination is given to work with. ``host``: the name of this machine, as events name their sender."""

    reach: Reach
    clock: Clock
    ids: Ids
    host: str


_MOST_ANSWERED = 64 << 10
_TOLD = 200
_GZIP_LEVEL = 5
AUTH = frozenset({401, 403, 407})
AGAIN = frozenset({408, 425, 429})
ELSEWHERE = frozenset({404, 405, 410})


@dataclass(frozen=True, slots=True)
class Answer:
    """What a destination answered; of the body the first 64 KiB where nothing else was asked for."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def told(self) -> str:
        """The beginning of the body as text for a log, without control characters."""
        text = self.body[:_TOLD].decode("utf-8", "replace")
        return "".join(each if each.isprintable() else " " for each in text).strip()


class Outgoing:
    """Connections to one destination. ``ca``: PEM certificates to trust in place of the system's; ``most``: how many
    bytes of an answer are read."""

    def __init__(self, reach: Reach, *, timeout_s: float, ca: str = "", most: int = _MOST_ANSWERED) -> None:
        self._reach = reach
        self._most = most
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(10.0, timeout_s))
        self._ca = ca
        self._session: aiohttp.ClientSession | None = None

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], *, compress: bool = False, method: str = "POST"
    ) -> Answer:
        """Send ``body`` and read the answer; raises :class:`Retry` when there is none, :class:`Stop` for bad addresses.

        ``url`` must be encoded already: it goes out as it stands.
        """
        sent = {**headers, "User-Agent": "bailiwick", "Accept-Encoding": "identity"}
        if compress:
            # a batch of a megabyte takes some 20 ms: not on the event loop
            body = await asyncio.to_thread(gzip.compress, body, _GZIP_LEVEL, mtime=0)
            sent["Content-Encoding"] = "gzip"
        target = URL(url, encoded=True)
        try:
            if _is_literal(target.host or ""):  # which never comes to the resolver
                await reached(self._reach, target.host or "", target.port or 0)
            async with self._opened().request(
                method, target, data=body, headers=sent, allow_redirects=False, auto_decompress=False
            ) as answer:
                head = await answer.content.read(self._most)
                while len(head) < self._most and (more := await answer.content.read(self._most - len(head))):
                    head += more
                if not answer.content.at_eof():
                    answer.close()
                return Answer(answer.status, answer.headers, head)
        except aiohttp.ClientConnectorCertificateError as error:
            raise Stop(f"the certificate of {target.host} is not trusted: {error.certificate_error}") from None
        except aiohttp.ClientError as error:
            raise Retry(f"{target.host}: {type(error).__name__}: {error}") from None
        except TimeoutError:
            raise Retry(f"{target.host}: no answer in time") from None
        except (OSError, ssl.SSLError) as error:
            raise Retry(f"{target.host}: {error}") from None

    async def close(self) -> None:
        """Let go of the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                resolver=CheckedResolver(self._reach), use_dns_cache=False, ssl=tls_context(self._ca), limit=4
            )
            # cookies are kept: load balancers keep a channel on one indexer by them
            self._session = aiohttp.ClientSession(connector=connector, timeout=self._timeout, trust_env=False)
        return self._session


class CheckedResolver(AbstractResolver):
    """Resolves to addresses that were checked, and to nothing else."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """See :class:`AbstractResolver`."""
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in await reached(self._reach, host, port)
        ]

    async def close(self) -> None:
        """Nothing is held."""


async def reached(reach: Reach, host: str, port: int) -> Sequence[str]:
    """The addresses to connect to; raises :class:`Stop` for forbidden ones, :class:`Retry` for a name without any."""
    try:
        return await reach(host, port)
    except BailiwickError as error:
        if error.reason == "upstream_forbidden":
            raise Stop(f"{host}: {error.detail}") from None
        raise Retry(f"{host}: {error.detail}") from None


def tls_context(ca: str) -> ssl.SSLContext:
    """TLS 1.2 or later with certificate and name checked, trusting ``ca`` (PEM) or the system's authorities."""
    context = ssl.create_default_context(cadata=ca or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def judge(answer: Answer, now: datetime) -> None:
    """Return for 2xx, else raise what the status means: :class:`Retry`, :class:`Refused` or :class:`Stop`."""
    status = answer.status
    if 200 <= status < 300:
        return
    told = f"{status} {answer.told()}".strip()
    if status in AUTH:
        raise Stop(f"the credential is not accepted: {told}")
    if status in ELSEWHERE or status < 400:
        raise Stop(f"there is nothing that takes events at the address: {told}")
    if status in AGAIN or status >= 500:
        raise Retry(told, retry_after(answer.headers.get("Retry-After"), now))
    raise Refused(told)


def retry_after(header: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After header (RFC 9110 §10.2.3) asks for; None when it says nothing that can be read."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())


def _is_literal(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
