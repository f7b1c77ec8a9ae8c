"""The form of an upstream's URL and of host names: one strict reading, so that no two parsers can disagree.

Follows the WHATWG URL standard where it calls a host an IPv4 address ("ends in a number"), and refuses everything
that it would only then repair.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv6Address
from urllib.parse import urlsplit

import idna

from bailiwick.inventory.addresses import Address, parse_address
from bailiwick.kernel.errors import InvalidRequest

MAX_URL = 2048
MAX_PATH = 1000
_DEFAULT_PORTS = {"http": 80, "https": 443}
_VISIBLE = re.compile(r"[^\x00-\x20\x7f\\]+")
_AUTHORITY = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]{2,45}\]|[^\[\]:@]+)(?::(?P<port>[0-9]{1,5}))?")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PATH = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,=:@-]+)*/?")


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where requests are sent: ``host`` is a lower-case A-label name or an address without brackets.

    ``base_path`` is put before the operation's path; it is empty or starts with a slash and does not end in one.
    """

    scheme: str
    host: str
    port: int
    base_path: str = ""

    @property
    def address(self) -> Address | None:
        """The address when the host is written as one, else None."""
        return parse_address(self.host)

    @property
    def authority(self) -> str:
        """The value of Host: the port only when it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


def parse_upstream(url: str) -> Upstream:
    """The upstream that ``url`` names; raises ``invalid_request`` for anything but a plain http(s) URL.

    Refused: user information, query, fragment, empty or zero ports, backslashes, white space, IPv4 addresses in
    other than four decimal parts, zone identifiers, and paths with ``.``, ``..``, empty or escaped segments.
    """
    if len(url) > MAX_URL:
        raise InvalidRequest("The URL is too long.")
    if not _VISIBLE.fullmatch(url):
        raise InvalidRequest("The URL has white space, control characters or a backslash in it.")
    scheme, separator, _rest = url.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in _DEFAULT_PORTS:
        raise InvalidRequest("The URL must start with http:// or https://.")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise InvalidRequest("The URL is malformed.") from None
    if "@" in parts.netloc:
        raise InvalidRequest("The URL must not hold a user name or a password.")
    if "?" in url or "#" in url:
        raise InvalidRequest("The URL must not hold a query or a fragment.")
    authority = _AUTHORITY.fullmatch(parts.netloc)
    if authority is None:
        raise InvalidRequest("The URL's host or port is malformed.")
    port = int(authority["port"] or _DEFAULT_PORTS[scheme])
    if not 1 <= port <= 65535:
        raise InvalidRequest("The URL's port is out of range.")
    return Upstream(scheme, _host(authority["host"]), port, _base_path(parts.path))


def parse_host_name(text: str) -> str:
    """A host name in its one form: lower case, A-labels, no trailing dot; raises ``invalid_request``.

    Addresses are not names and are refused.
    """
    host = _host(text)
    if parse_address(host) is not None:
        raise InvalidRequest("A host name is needed here, not an address.")
    return host


def _host(text: str) -> str:
    if text.startswith("["):
        return _ipv6(text[1:-1])
    name = _ascii_name(text)
    # decided after normalisation: full-width digits and ideographic stops become ASCII in it
    if _NUMBER.fullmatch(name.rsplit(".", 1)[-1]):
        address = parse_address(name)
        if address is None:
            raise InvalidRequest("An IPv4 address must be written as four decimal numbers.")
        return str(address)
    return name


def _ipv6(text: str) -> str:
    try:
        return str(IPv6Address(text))
    except ValueError:
        raise InvalidRequest("The IPv6 address is malformed.") from None


def _ascii_name(text: str) -> str:
    name = text.lower()
    if not name.isascii():
        try:
            name = idna.encode(name, uts46=True, std3_rules=True).decode().lower()
        except (idna.IDNAError, UnicodeError):
            raise InvalidRequest("The host name is not a valid internationalised name.") from None
    name = name.removesuffix(".")
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise InvalidRequest("The host name is malformed.")
    for label in labels:
        if label.startswith("xn--"):
            try:
                idna.ulabel(label)
            except (idna.IDNAError, UnicodeError):
                raise InvalidRequest("The host name is not a valid internationalised name.") from None
    return name


def _base_path(path: str) -> str:
    if len(path) > MAX_PATH or not _PATH.fullmatch(path) or any(part in {".", ".."} for part in path.split("/")):
        raise InvalidRequest("The URL's path must be plain segments.")
    return path.rstrip("/")
