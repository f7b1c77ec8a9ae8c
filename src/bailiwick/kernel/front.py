"""The front: the one piece every request passes before FastAPI or a hot endpoint.

Pure ASGI, so that streams and disconnects pass untouched. It strips ``/z/{zone}``; names the request (our id, the
caller's, the trace, the address) in ``scope["state"]``; bounds the body; adds the security headers to every answer;
counts, times and logs; turns an exception nobody caught into a problem. Hot endpoints get the scope as FastAPI does
and pay a few microseconds.

``scope["state"]`` holds ``zone``, ``request_id``, ``client_request_id``, ``trace_id``, ``ip`` and ``path`` (as asked
for, before the zone was stripped); routes add ``caller``, and ``long_lived`` where the answer lasts as long as somebody
listens.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from time import perf_counter
from typing import Any, Protocol

import msgspec
import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bailiwick.kernel.clock import Clock
from bailiwick.kernel.errors import BailiwickError, NotFound
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.logging import SLOW_REQUEST, duration_text
from bailiwick.kernel.metrics import OTHER, Metrics, method_label
from bailiwick.kernel.problems import as_error, send_problem

log = structlog.get_logger(__name__)

DEFAULT_ZONE = "default"
MAX_BODY_BYTES = 2 * 1024 * 1024
UNMATCHED = "unmatched"
_MOST_DRAINED_BYTES = 64 << 20
_MOST_DRAINED_S = 5.0
CLIENT_GONE = 499

SECURITY_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    # sent over plain HTTP too: a browser must ignore it there, and TLS may end in front of us
    (b"strict-transport-security", b"max-age=31536000; includeSubDomains"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
        b"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; object-src 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
_READ = frozenset((b"content-length", b"x-forwarded-for", b"x-request-id", b"traceparent", b"transfer-encoding"))
_SECURITY_NAMES = frozenset(name for name, _ in SECURITY_HEADERS)

_ZONE = re.compile(r"/z/([a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)(/.*)?\Z", re.S)
_is_client_id = re.compile(rb"[!-~]{1,128}\Z").match
_traceparent = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?\Z"
).match
_KNOWN_ADDRESSES = 4096
_NO_LENGTH = -1


class RequestRecord(msgspec.Struct, frozen=True):
    """One line of the access log, as in the table ``api_requests``. ``at`` is seconds since the epoch."""

    at: float
    zone: str
    request_id: str
    caller: str
    method: str
    route: str
    status: int
    duration_us: int
    ip: str


class RequestLimits(Protocol):
    """What the front asks about limits (``kernel/ratelimit.py``)."""

    def applies(self, path: str) -> bool:
        """Whether requests to ``path`` are limited."""
        ...

    async def before(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """Count the request; the headers that tell. Raises ``rate_limited``."""
        ...

    def after(self, scope: Scope, status: int) -> None:
        """Learn from the answer who the caller was."""
        ...


class Front:
    """Wraps ``app`` and the hot endpoints of ``routes``, ``{(method, path): ASGI app}``, which are matched first.

    ``large_bodies``: method, path and bytes of what may be longer than ``max_body_bytes``. ``on_request`` gets a
    :class:`RequestRecord` when an answer has ended. ``cors_origins`` allows browsers of other origins; by default none.
    """

    def __init__(
        self,
        app: ASGIApp,
        routes: Mapping[tuple[str, str], ASGIApp],
        *,
        ids: Ids,
        clock: Clock,
        metrics: Metrics,
        slow_ms: int = 1000,
        trusted_proxies: Iterable[str] = (),
        max_body_bytes: int = MAX_BODY_BYTES,
        large_bodies: Iterable[tuple[str, re.Pattern[str], int]] = (),
        cors_origins: Iterable[str] = (),
        on_request: Callable[[RequestRecord], None] | None = None,
        limits: RequestLimits | None = None,
    ) -> None:
        origins = list(cors_origins)
        self._app = app
        self._origins = frozenset(origin.encode("latin-1") for origin in origins)
        self._routes = {key: (hot, *key) for key, hot in routes.items()}
        self._ids = ids
        self._clock = clock
        self._metrics = metrics
        self._slow_s = slow_ms / 1000
        self._addresses = Addresses(trusted_proxies)
        self._max_body_bytes = max_body_bytes
        self._large_bodies = tuple(large_bodies)
        self._on_request = on_request
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                self._describe(scope)
            await self._app(scope, receive, send)
            return

        started = perf_counter()
        path: str = scope["path"]
        state, length, chunked = self._describe(scope)
        error: BailiwickError | None = None
        if path.startswith("/z/"):
            error = _strip_zone(scope, state, path)
        hot = self._routes.get((scope["method"], scope["path"]))
        answer = _Answer(send, state["request_id"].encode(), hot is None)
        if self._origins:
            # on every answer: a page of another origin must be able to read a refusal too
            answer.cors, preflight = self._cross_origin(scope)
            if preflight:
                await _answer_preflight(answer, allowed=len(answer.cors) > 1)
                self._finish(scope, state, hot, answer.status, perf_counter() - started)
                return
        rest = receive
        if chunked or not 0 <= length <= self._max_body_bytes:
            most = self._most_of(scope["method"], scope["path"])
            if not 0 <= length <= most:
                error = _too_large()
            if chunked:
                receive = answer.bounded(receive, most)

        try:
            if error is not None:
                raise error
            if hot is not None:
                await hot[0](scope, receive, answer)
            else:
                await self._call_app(scope, receive, answer)
            if answer.too_large and not answer.status:
                raise _too_large()
        except Exception as raised:  # noqa: BLE001 - the last place: whatever it is becomes an answer or is raised on
            if isinstance(raised, BailiwickError) and raised.status == 413 and not answer.status:
                await _drain(rest)
            await _answer_error(answer, raised, state, scope["method"])
        finally:
            self._finish(scope, state, hot, answer.status or CLIENT_GONE, perf_counter() - started)

    def _most_of(self, method: str, path: str) -> int:
        """How many bytes the body of a request may have."""
        for wanted, pattern, most in self._large_bodies:
            if method == wanted and pattern.fullmatch(path):
                return most
        return self._max_body_bytes

    def _cross_origin(self, scope: Scope) -> tuple[list[tuple[bytes, bytes]], bool]:
        """What the answer says to a page of the request's origin, and whether the request only asks for that."""
        origin, asked = b"", False
        for name, value in scope["headers"]:
            if name == b"origin":
                origin = value
            elif name == b"access-control-request-method":
                asked = scope["method"] == "OPTIONS"
        told = [(b"vary", b"Origin")]
        if origin in self._origins:
            told += [(b"access-control-allow-origin", origin), *_EXPOSED]
        return told, asked and origin != b""

    def _describe(self, scope: Scope) -> tuple[dict[str, Any], int, bool]:
        """The request's names, the length its body announces, and whether it comes in chunks."""
        client_id = trace_id = ""
        forwarded = b""
        length, chunked = 0, False
        for name, value in scope["headers"]:
            if name not in _READ:
                continue
            if name == b"content-length":
                length = int(value) if value.isdigit() and len(value) < 20 else _NO_LENGTH
            elif name == b"x-forwarded-for":
                forwarded = forwarded + b"," + value if forwarded else value
            elif name == b"x-request-id":
                client_id = value.decode() if _is_client_id(value) else ""
            elif name == b"traceparent":
                found = _traceparent(value)
                trace_id = found[1].decode() if found else ""
            else:
                chunked = True
        peer = scope.get("client")
        state: dict[str, Any] = {
            "zone": DEFAULT_ZONE,
            "request_id": self._ids(),
            "client_request_id": client_id,
            "trace_id": trace_id,
            "ip": self._addresses.of(peer[0] if peer else "", forwarded),
            "path": scope["path"],
        }
        shared = scope.get("state")
        scope["state"] = {**shared, **state} if shared else state  # the server may have put the lifespan's state there
        return scope["state"], length, chunked

    async def _call_app(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        limits = self._limits
        if limits is not None and limits.applies(scope["path"]):
            answer.extra = await limits.before(scope)
        structlog.contextvars.bind_contextvars(request_id=scope["state"]["request_id"], zone=scope["state"]["zone"])
        try:
            await self._app(scope, receive, answer)
        finally:
            structlog.contextvars.unbind_contextvars("request_id", "zone")
            if limits is not None and answer.status:
                limits.after(scope, answer.status)

    def _finish(
        self, scope: Scope, state: dict[str, Any], hot: tuple[ASGIApp, str, str] | None, status: int, seconds: float
    ) -> None:
        if hot is not None:
            _, method, route = hot
        else:
            method, route = method_label(scope["method"]), route_of(scope)
        self._metrics.http_requests.inc(method, route, _STATUS[status])
        # a stream that was followed for an hour was not slow
        long_lived = state.get("long_lived", False)
        if not long_lived:
            self._metrics.http_request_seconds.observe(seconds)
        if seconds >= self._slow_s and not long_lived:
            log.warning(
                SLOW_REQUEST,
                duration=duration_text(seconds),
                method=method,
                route=route,
                status=status,
                request_id=state["request_id"],
                zone=state["zone"],
            )
        if self._on_request is not None:
            caller = state.get("caller")
            self._on_request(
                RequestRecord(
                    self._clock.time(),
                    state["zone"],
                    state["request_id"],
                    "" if caller is None else str(getattr(caller, "name", caller)),
                    method,
                    route,
                    status,
                    int(seconds * 1e6),
                    state["ip"],
                )
            )


class _Answer:
    """The ``send`` the endpoint gets: adds headers, remembers how far the answer is."""

    __slots__ = ("_cold", "_request_id", "_send", "complete", "cors", "extra", "status", "too_large")

    def __init__(self, send: Send, request_id: bytes, cold: bool) -> None:
        self._send = send
        self._request_id = request_id
        self._cold = cold
        self.extra: list[tuple[bytes, bytes]] = []
        self.cors: list[tuple[bytes, bytes]] = []
        self.status = 0
        self.complete = False
        self.too_large = False

    def __call__(self, message: Message) -> Awaitable[None]:
        kind = message["type"]
        if kind == "http.response.start":
            if self.too_large and message["status"] != 413:
                return self._refuse_body()
            self.status = message["status"]
            if self._cold:
                headers = [*message.get("headers", ()), (b"x-request-id", self._request_id), *self.extra, *self.cors]
                # a page may need a policy of its own; hot endpoints set none of these
                own = {name.lower() for name, _ in headers} & _SECURITY_NAMES
                headers.extend(header for header in SECURITY_HEADERS if header[0] not in own)
            else:
                headers = [*message["headers"], (b"x-request-id", self._request_id), *self.cors, *SECURITY_HEADERS]
            message["headers"] = headers
        elif kind == "http.response.body":
            if self.complete:
                return _nothing()  # the rest of an answer that a refusal replaced
            self.complete = not message.get("more_body", False)
        return self._send(message)

    def bounded(self, receive: Receive, limit: int) -> Receive:
        """``receive`` for a body of unannounced length, which ends the request when more than ``limit`` came."""
        seen = 0

        async def bounded_receive() -> Message:
            nonlocal seen
            if self.too_large:
                return {"type": "http.disconnect"}
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > limit:
                    self.too_large = True
                    return {"type": "http.disconnect"}
            return message

        return bounded_receive

    async def _refuse_body(self) -> None:
        # whatever the endpoint made of a body that ended early, this is the answer
        await send_problem(
            self,
            _too_large(),
            self._request_id.decode(),
        )


class Addresses:
    """Finds the address a request came from.

    ``peer`` is empty when the request came over our unix socket, that is from Envoy, whose right-most
    ``X-Forwarded-For`` entry is the address it saw itself. From there, entries are believed as long as the address
    that wrote them belongs to ``trusted``, networks in CIDR form. Raises :class:`ValueError` for a malformed network.
    """

    def __init__(self, trusted: Iterable[str]) -> None:
        self._trusted: list[IPv4Network | IPv6Network] = [ip_network(network, strict=False) for network in trusted]
        self._known: dict[bytes | tuple[str, bytes], str] = {}

    def of(self, peer: str, forwarded: bytes) -> str:
        """The address as text, or ``""`` when it cannot be told."""
        key = (peer, forwarded) if peer else forwarded
        found = self._known.get(key)
        if found is None:
            found = self._find(peer, forwarded)
            if len(self._known) >= _KNOWN_ADDRESSES:
                self._known.clear()
            if len(forwarded) <= 256:
                self._known[key] = found
        return found

    def _find(self, peer: str, forwarded: bytes) -> str:
        chain = [part.strip().decode("latin-1") for part in forwarded.split(b",")] if forwarded else []
        current = _address(peer or (chain.pop() if chain else ""))
        while chain and current and any(ip_address(current) in network for network in self._trusted):
            nearer = _address(chain.pop())
            if not nearer:
                break
            current = nearer
        return current


def route_of(scope: Scope) -> str:
    """The template of the route that was matched, which is a bounded label; ``unmatched`` for none."""
    route = scope.get("route")
    path = getattr(route, "path_format", None) or getattr(route, "path", None)
    return path if isinstance(path, str) and path else UNMATCHED


def _strip_zone(scope: Scope, state: dict[str, Any], path: str) -> BailiwickError | None:
    found = _ZONE.match(path)
    if found is None:
        return NotFound("There is no zone by that name.")
    state["zone"] = found[1]
    scope["path"] = found[2] or "/"
    raw = scope.get("raw_path")
    prefix = f"/z/{found[1]}".encode()
    if raw and raw.startswith(prefix):
        scope["raw_path"] = raw[len(prefix) :] or b"/"
    elif raw:
        return NotFound("There is no zone by that name.")  # written with escapes, which nobody needs to
    return None


async def _answer_error(answer: _Answer, raised: Exception, state: dict[str, Any], method: str) -> None:
    error = as_error(raised)
    if isinstance(raised, ClientDisconnect):
        if not answer.too_large:
            return  # nobody is left to answer
        error = _too_large()
    elif error.reason == "internal_error":
        log.error(
            "request failed",
            exc_info=raised,
            request_id=state["request_id"],
            zone=state["zone"],
            method=method,
            path=state["path"],
        )
    if not answer.status:
        await send_problem(answer, error, state["request_id"], state["path"])
    elif not answer.complete:
        raise raised  # the server closes the connection, so that nobody takes the half for the whole


async def _drain(receive: Receive) -> None:
    """Read what is left of a body that is refused: a proxy that is still sending it would not get the refusal."""
    left = _MOST_DRAINED_BYTES
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_MOST_DRAINED_S):
            while left > 0:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
                left -= len(message.get("body", b""))


def _too_large() -> BailiwickError:
    return BailiwickError(reason="payload_too_large", headers={"connection": "close"})


def _address(text: str) -> str:
    try:
        address = ip_address(text.strip("[]"))
    except ValueError:
        return ""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        address = IPv6Address(int(address))  # without a scope id
    return str(address)


async def _nothing() -> None:
    return None


_EXPOSED = ((b"access-control-expose-headers", b"ETag, RateLimit, RateLimit-Policy, Retry-After, X-Request-ID"),)
_PREFLIGHT = (
    (b"access-control-allow-methods", b"GET, POST, PUT, PATCH, DELETE"),
    (
        b"access-control-allow-headers",
        b"Authorization, Content-Type, Idempotency-Key, If-Match, X-API-Key, X-Request-ID",
    ),
    (b"access-control-max-age", b"600"),
    (b"content-length", b"0"),
)


async def _answer_preflight(answer: _Answer, *, allowed: bool) -> None:
    status, headers = (200, [*_PREFLIGHT]) if allowed else (400, [(b"content-length", b"0")])
    await answer({"type": "http.response.start", "status": status, "headers": headers})
    await answer({"type": "http.response.body", "body": b""})


class _Statuses(dict[int, str]):
    """Texts of status codes; what is no status code is one label."""

    def __missing__(self, status: int) -> str:
        text = str(status) if 100 <= status <= 599 else OTHER
        self[status] = text
        return text


_STATUS = _Statuses()
