"""Cookies of our own (RFC 6265): read from whatever a browser, or somebody who is none, sends; written strictly.

Only pairs by the wanted name are looked at, so that what other programs of the same host leave in a browser neither
disturbs nor deceives. A name that comes twice is refused: which of two a server takes is how one's cookie is replaced
by another's. So is a value that we would not have written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from starlette.types import Scope

from bailiwick.kernel.errors import InvalidRequest

MAX_HEADER_BYTES = 16 * 1024
MAX_PAIRS = 200
MAX_VALUE = 4000

_VALUE = re.compile(rb"[A-Za-z0-9._~-]{1,4000}\Z")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}\Z")
_BLANK = b" \t"


def cookie_of(scope: Scope, name: str) -> str | None:
    """The cookie ``name`` of a request, None without one; raises as :func:`read_cookie` does."""
    return read_cookie([value for field, value in scope["headers"] if field == b"cookie"], name)


def read_cookie(headers: Iterable[bytes], name: str) -> str | None:
    """The value of ``name`` in the Cookie fields ``headers`` (HTTP/2 may send several, RFC 9113 §8.2.3).

    An empty value is none: so a cookie is deleted. Raises ``InvalidRequest`` for more than :data:`MAX_HEADER_BYTES` or
    :data:`MAX_PAIRS`, a name that comes twice, and a value that is not of letters, digits and ``. _ ~ -``.
    """
    wanted, pairs, size = name.encode("ascii"), 0, 0
    found: bytes | None = None
    for header in headers:
        size += len(header)
        pairs += header.count(b";") + 1
        if size > MAX_HEADER_BYTES or pairs > MAX_PAIRS:
            raise InvalidRequest("There are too many cookies.")
        for pair in header.split(b";"):
            key, equals, value = pair.partition(b"=")
            if key.strip(_BLANK) != wanted or not equals:
                continue
            value = value.strip(_BLANK)
            if found is not None:
                raise InvalidRequest("A cookie of ours came twice.")
            if value and not _VALUE.match(value):
                raise InvalidRequest("A cookie of ours holds what we never wrote.")
            found = value
    return found.decode("ascii") if found else None


def cookie_header(name: str, value: str, *, life_s: int, secure: bool, same_site: str, path: str = "/") -> str:
    """A Set-Cookie field: for this host alone and not for scripts. An empty ``value`` or no life deletes it.

    Raises :class:`ValueError` for a name or a value that :func:`read_cookie` would not take.
    """
    if not _NAME.match(name) or (value and not _VALUE.match(value.encode("utf-8", "replace"))):
        raise ValueError("the cookie's name or value is not of the form wanted")
    held = [f"{name}={value}", f"Max-Age={life_s if value else 0}", f"Path={path}", "HttpOnly"]
    if secure:
        held.append("Secure")
    return "; ".join([*held, f"SameSite={same_site}"])
