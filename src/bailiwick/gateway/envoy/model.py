"""What the gateway is told: listeners, workers, upstreams and routes, as plain checked values.

Everything here ends in Envoy's configuration, so every value is checked where it is made: a name with a
slash or a header with a line break would otherwise change the meaning of the configuration around it.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

# sockaddr_un.sun_path holds 108 bytes with its terminating zero.
MAX_SOCKET_PATH_BYTES = 107

DEFAULT_ZONE = "default"

_SERVER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,127}")
_HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*")
_HEADER = re.compile(r"[a-z0-9!#$&'*+.^`|~-]{1,64}")
_PATH = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@/%-]{0,1023}")
_TAG = re.compile(r"[A-Za-z0-9._:-]{0,128}")

# Headers Envoy or HTTP itself decides by: a credential in one of them would change the request's framing,
# its route or our own protocol with the check.
_FRAMING = ("host", "connection", "content-length", "transfer-encoding", "te", "trailer", "upgrade", "keep-alive")
_NEVER_A_CREDENTIAL = frozenset(
    (*_FRAMING, "expect", "cookie", "x-request-id", "x-bailiwick", "x-envoy", "x-forwarded")
)


def _require(ok: object, message: str) -> None:
    if not ok:
        raise ValueError(message)


def check_socket_path(path: Path) -> None:
    """Raise `ValueError` when a unix socket cannot be bound at `path`."""
    size = len(str(path).encode())
    _require(path.is_absolute(), f"socket path is not absolute: {path}")
    _require(size <= MAX_SOCKET_PATH_BYTES, f"socket path is {size} bytes, {MAX_SOCKET_PATH_BYTES} at most: {path}")


@dataclass(frozen=True, slots=True)
class Listener:
    """One TCP port. TLS when `tls_cert` and `tls_key` (PEM files) are given; 1.3 alone unless 1.2 is chosen."""

    address: str
    port: int
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_minimum: Literal["1.2", "1.3"] = "1.3"

    def __post_init__(self) -> None:
        ipaddress.ip_address(self.address)
        _require(0 < self.port < 65536, f"port out of range: {self.port}")
        _require((self.tls_cert is None) == (self.tls_key is None), "TLS needs both a certificate and its key")
        _require(self.tls_minimum in ("1.2", "1.3"), f"TLS version is 1.2 or 1.3, not {self.tls_minimum}")

    @property
    def tls(self) -> bool:
        return self.tls_cert is not None


@dataclass(frozen=True, slots=True)
class Worker:
    """One serve process: the socket of its API app and the socket of its check app."""

    name: str
    api_socket: Path
    check_socket: Path

    def __post_init__(self) -> None:
        check_socket_path(self.api_socket)
        check_socket_path(self.check_socket)


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where a server's requests go.

    `addresses` are resolved and vetted (ip, port) pairs: Envoy never resolves a name. `sni` is the host name
    presented and verified when `tls`; `ca_file` is a PEM bundle, the system's when absent. `http2` speaks
    HTTP/2 (gRPC needs it). `timeout_s` bounds a whole answer, unbounded when None and on long-lived routes;
    `idle_timeout_s` bounds silence on a stream. `authority` is the Host sent upstream: `sni` or the first
    address when absent, never the caller's.
    """

    addresses: tuple[tuple[str, int], ...]
    tls: bool = False
    sni: str | None = None
    ca_file: Path | None = None
    http2: bool = False
    timeout_s: float | None = None
    idle_timeout_s: float = 3600.0
    authority: str | None = None

    def __post_init__(self) -> None:
        _require(self.addresses, "an upstream needs at least one address")
        for ip, port in self.addresses:
            ipaddress.ip_address(ip)
            _require(0 < port < 65536, f"port out of range: {port}")
        _require(self.sni is not None or not self.tls, "TLS to an upstream needs the name its certificate must bear")
        _require(self.timeout_s is None or self.timeout_s > 0, "timeout_s must be positive")
        _require(self.idle_timeout_s > 0, "idle_timeout_s must be positive")
        name, _, port_text = (self.authority or "").partition(":")
        _require(
            self.authority is None or (_HOST.fullmatch(name.lower()) and (port_text or "0").isdigit()),
            f"not a host name: {self.authority!r}",
        )

    @property
    def host(self) -> str:
        """The Host header the upstream receives."""
        if self.authority or self.sni:
            return self.authority or self.sni or ""
        ip, port = self.addresses[0]
        return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


@dataclass(frozen=True, slots=True)
class Arm:
    """A part of a server's requests, `weight` percent of them, that goes to an upstream of its own."""

    name: Literal["stable", "baseline", "candidate"]
    upstream: Upstream
    weight: int

    def __post_init__(self) -> None:
        _require(self.name in ("stable", "baseline", "candidate"), f"not an arm: {self.name!r}")
        _require(0 <= self.weight <= 100, f"weight is a percentage: {self.weight}")


@dataclass(frozen=True, slots=True)
class Split:
    """How a server's requests are divided while a canary judges a candidate.

    `canary` names the canary, and the statistics Envoy keeps of its arms. The weights come to 100. An arm of weight
    0 keeps its cluster, so that a change of weights changes nothing but weights. `lasting`: the candidate passed, and
    needs nobody who watches it any more.
    """

    canary: str
    arms: tuple[Arm, ...]
    lasting: bool = False

    def __post_init__(self) -> None:
        _require(re.fullmatch(r"[a-z0-9-]{1,64}", self.canary), f"not a canary's id: {self.canary!r}")
        _require(len({arm.name for arm in self.arms}) == len(self.arms), "an arm is given twice")
        _require(sum(arm.weight for arm in self.arms) == 100, "the weights of a split come to 100")

    @property
    def candidate(self) -> int:
        """What the candidate gets, in percent."""
        return sum(arm.weight for arm in self.arms if arm.name == "candidate")

    @property
    def at_zero(self) -> Split:
        """The same arms with everything going to the stable one; a lasting split as it is."""
        if self.lasting:
            return self
        weights = {arm.name: 100 if arm.name == "stable" else 0 for arm in self.arms}
        return Split(self.canary, tuple(replace(arm, weight=weights[arm.name]) for arm in self.arms))


@dataclass(frozen=True, slots=True)
class Route:
    """How requests for one server find their upstream.

    `zone` other than the default one is part of the server's name wherever it is named: `/z/{zone}/s/{server}`,
    `X-Bailiwick-Server: {zone}/{server}`. `hosts` are the server's own host names (lower case, no port).
    `upstream` None keeps the server known to the check, which refuses with the reason it knows. `path_prefix`
    is the upstream's base path.
    `credential_header` names the header that carries the upstream credential (None: the server needs none).
    `max_request_bytes` bounds a request's body. `long_lived` says that some operation of the server lasts.
    `binding` is an opaque revision of all this; the check receives it and can refuse a request that Envoy
    still routes by an older binding than the one whose credential it would inject. `split` divides what would go
    to `upstream`; all its arms get the server's base path and its credential.
    """

    server: str
    hosts: tuple[str, ...] = ()
    upstream: Upstream | None = None
    path_prefix: str = "/"
    credential_header: str | None = None
    max_request_bytes: int | None = None
    long_lived: bool = False
    binding: str = ""
    zone: str = DEFAULT_ZONE
    split: Split | None = None

    def __post_init__(self) -> None:
        _require(self.split is None or self.upstream is not None, "only what has an upstream can be split")
        _require(_SERVER.fullmatch(self.server), f"not a server name: {self.server!r}")
        _require(_SERVER.fullmatch(self.zone), f"not a zone name: {self.zone!r}")
        for host in self.hosts:
            _require(_HOST.fullmatch(host), f"not a lower-case host name: {host!r}")
        _require(_PATH.fullmatch(self.path_prefix), f"not a base path: {self.path_prefix!r}")
        _require(_TAG.fullmatch(self.binding), f"not a binding tag: {self.binding!r}")
        _require(self.max_request_bytes is None or 0 < self.max_request_bytes < 2**32, "max_request_bytes: 1 to 2³²-1")
        if self.credential_header is not None:
            name = self.credential_header
            family = "-".join(name.split("-")[:2])
            _require(_HEADER.fullmatch(name), f"not a lower-case header name: {name!r}")
            _require(not {name, family} & _NEVER_A_CREDENTIAL, f"a credential cannot travel in {name!r}")

    @property
    def name(self) -> str:
        """The server as callers and the check name it: `server`, or `zone/server` outside the default zone."""
        return self.server if self.zone == DEFAULT_ZONE else f"{self.zone}/{self.server}"

    @property
    def path(self) -> str:
        """The path that names the server at the gateway, without a trailing slash."""
        return f"/s/{self.server}" if self.zone == DEFAULT_ZONE else f"/z/{self.zone}/s/{self.server}"


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """Everything Envoy is configured from.

    `run_dir` (mode 0700) receives Envoy's files and its admin socket. `own_cookies` are the names of our
    session cookies: a Cookie header that holds one never goes upstream.

    `delayed_close_s` is how long the gateway waits for a caller's side after it ended a connection. A stream that
    is cut stops at once, and an HTTP/1.1 caller sees its end this much later; but a caller who asked for
    `Connection: close` and reads nothing for this long loses the rest of his answer.

    `behind_proxies`: the workers are told the X-Forwarded-For that came to the API port, with the peer's address after
    it, and judge which of it to believe; otherwise only the peer's.
    """

    run_dir: Path
    api_listener: Listener
    gateway_listener: Listener
    workers: tuple[Worker, ...]
    guard_socket: Path
    routes: tuple[Route, ...] = ()
    own_cookies: tuple[str, ...] = ("bw_session",)
    check_timeout_s: float = 1.0
    connect_timeout_s: float = 2.0
    delayed_close_s: float = 0.5
    max_connections: int = 16384
    behind_proxies: bool = False

    def __post_init__(self) -> None:
        check_socket_path(self.guard_socket)
        check_socket_path(self.admin_socket)
        for cookie in self.own_cookies:
            _require(_TAG.fullmatch(cookie) and cookie, f"not a cookie name: {cookie!r}")

    @property
    def admin_socket(self) -> Path:
        """Envoy's admin interface: whoever reaches it owns the gateway, so it is never a TCP port."""
        return self.run_dir / "envoy-admin.sock"
