"""What the check makes of a request as Envoy forwards it: read once, bounded, and refused when it can be read two ways.

Envoy forwards the caller's method, path (behind ``/check``) and a short list of headers. Nothing is normalised on the
way, so whatever an upstream might read differently from us is refused here.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from bailiwick.kernel.errors import BailiwickError, InvalidRequest, Unauthenticated

PREFIX = b"/check"
MAX_PATH_BYTES = 8192
MAX_TOKEN_BYTES = 8192

# Encoded separators, dots and control characters; empty, dot and dot-with-parameter segments; bytes that have no place
# in a path; a percent sign that encodes nothing.
_HIDDEN = re.compile(
    rb"%(?:2[fFeE]|5[cC]|7[fF]|[01][0-9a-fA-F])|%(?![0-9a-fA-F]{2})|\\|//|/\.{1,2}(?:;[^/]*)?(?=/|\Z)|[\x00-\x20\x7f-\xff#]"
)
_NAMED = re.compile(rb"(?:/z/([^/]+))?/s/([^/]+)(/.*)?\Z")
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

# A header that decides something may stand once. Envoy joins repeated ones with a comma, which none of these may hold.
_ONCE = frozenset({b"host", b"authorization", b"dpop", b"x-bailiwick-server", b"x-bailiwick-route"})


class GatewayRequest(msgspec.Struct, frozen=True):
    """One request at the gateway.

    ``path`` is what the upstream sees (without the naming prefix and the query), ``named`` every (zone, server) the
    caller named by path or header, ``route`` and ``binding`` what Envoy routed it by.
    """

    method: str
    path: str
    host: str
    named: tuple[tuple[str, str], ...]
    route: str
    binding: str
    token: str
    peer: str
    user_agent: str
    client_request_id: str
    trace_id: str


def parse(scope: dict[str, Any]) -> GatewayRequest:
    """Read an ASGI scope of the check's socket.

    Raises ``BailiwickError`` with ``ambiguous_request``, ``forbidden_path``, ``forbidden_method``, ``path_too_long`` or
    ``invalid_request``. A missing token is not refused here: :func:`bearer` is asked when it is needed.
    """
    headers = _headers(scope["headers"])
    method = scope["method"]
    if method not in _METHODS:
        raise BailiwickError(reason="forbidden_method")
    path = scope["raw_path"]
    if not path.startswith(PREFIX):
        raise InvalidRequest("The path did not come through the gateway.")
    path = path[len(PREFIX) :]
    if len(path) + len(scope["query_string"]) > MAX_PATH_BYTES:
        raise BailiwickError(reason="path_too_long")
    if not path.startswith(b"/") or _HIDDEN.search(path):
        raise BailiwickError(reason="forbidden_path")
    named: tuple[tuple[str, str], ...] = ()
    by_path = _NAMED.match(path)
    if by_path:
        zone, server, rest = by_path.groups()
        named = (((zone or b"default").decode(), server.decode()),)
        path = rest or b"/"
    by_header = headers.get(b"x-bailiwick-server")
    if by_header is not None:
        zone_name, _, server_name = _text(by_header, 200).rpartition("/")
        named = (*named, (zone_name or "default", server_name))
    trace = _TRACEPARENT.fullmatch(headers[b"traceparent"]) if b"traceparent" in headers else None
    return GatewayRequest(
        method,
        path.decode("ascii"),
        _text(headers.get(b"host", b""), 260).lower(),
        named,
        _text(headers.get(b"x-bailiwick-route", b""), 260),
        _text(headers.get(b"x-bailiwick-binding", b""), 130),
        _bearer(headers.get(b"authorization")),
        _text(headers.get(b"x-bailiwick-peer", b""), 64),
        _text(headers.get(b"user-agent", b""), 200),
        _text(headers.get(b"x-bailiwick-client-request-id", b""), 128),
        trace[1].decode() if trace else "",
    )


def _headers(pairs: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    headers: dict[bytes, bytes] = {}
    for name, value in pairs:
        if name in _ONCE and (name in headers or b"," in value):
            raise BailiwickError(f"{name.decode()} stands more than once.", reason="ambiguous_request")
        headers[name] = value
    return headers


def _bearer(authorization: bytes | None) -> str:
    if authorization is None:
        return ""
    scheme, _, token = authorization.partition(b" ")
    if scheme.lower() != b"bearer" or not token or len(token) > MAX_TOKEN_BYTES:
        raise Unauthenticated("Authorization is not a bearer token within bounds.", reason="invalid_token")
    try:
        return token.decode("ascii")
    except UnicodeDecodeError:
        raise Unauthenticated("The token is not ASCII.", reason="invalid_token") from None


def _text(value: bytes, limit: int) -> str:
    """Printable text of a header for the record: other bytes are replaced, so that nothing can forge a line."""
    if not value:
        return ""
    known = _texts.get(value)
    if known is None:
        text = value[:limit].decode("ascii", "replace")
        known = text if text.isprintable() else "".join(char if char.isprintable() else "�" for char in text)
        if len(_texts) >= _KNOWN_TEXTS:
            _texts.clear()
        if len(value) <= limit:
            _texts[value] = known
    return known


_texts: dict[bytes, str] = {}  # the same few hosts, routes and user agents come again and again
_KNOWN_TEXTS = 4096
