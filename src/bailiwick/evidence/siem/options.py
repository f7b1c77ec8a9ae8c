"""The forms of what sinks are told, shared by the destinations: addresses, tokens, certificates."""

from __future__ import annotations

import re
import ssl
from ipaddress import ip_address
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, StringConstraints

_AUTHORITY = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9.-]{1,253})(?::(?P<port>[0-9]{1,5}))?")
_PATH = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,=:@%-]*)*")
_PRINTABLE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_HEADER_VALUE = re.compile(r"[\x21-\x7e]+")


def check_url(text: str) -> str:
    """An https URL without user information, query or fragment; http only to this machine. Raises ``ValueError``."""
    scheme, separator, _ = text.partition("://")
    parts = urlsplit(text)
    authority = _AUTHORITY.fullmatch(parts.netloc)
    if not separator or scheme not in {"http", "https"} or authority is None or not _PATH.fullmatch(parts.path):
        raise ValueError("must be a plain https:// URL")
    if "?" in text or "#" in text:
        raise ValueError("must not hold a query or a fragment")
    if authority["port"] is not None and not 1 <= int(authority["port"]) <= 65535:
        raise ValueError("names a port out of range")
    if scheme == "http" and not is_loopback(authority["host"]):
        raise ValueError("must be https://, since it carries a credential")
    return text.rstrip("/")


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine as written."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def host_and_port(url: str) -> tuple[str, int]:
    """Where an URL that :func:`check_url` passed leads."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _host(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.-]{1,253}|[0-9A-Fa-f:.]{2,45}", text):
        raise ValueError("must be a host name or an address")
    return text


def _header_value(secret: SecretStr) -> SecretStr:
    if not _HEADER_VALUE.fullmatch(secret.get_secret_value()):
        raise ValueError("must be visible ASCII without spaces")
    return secret


def printable(secret: SecretStr) -> SecretStr:
    """A secret that may hold spaces inside, as header values do; raises ``ValueError``."""
    if not _PRINTABLE.fullmatch(secret.get_secret_value()):
        raise ValueError("must be printable ASCII and not begin or end with a space")
    return secret


def _certificates(text: str) -> str:
    if text:
        if not re.fullmatch(r"[\x20-\x7e\r\n\t]*", text):
            raise ValueError("must be PEM certificates")
        try:
            ssl.create_default_context(cadata=text)
        except (ssl.SSLError, ValueError):
            raise ValueError("must be PEM certificates") from None
    return text


Url = Annotated[str, StringConstraints(min_length=8, max_length=2000), AfterValidator(check_url)]
Host = Annotated[str, StringConstraints(min_length=1, max_length=253), AfterValidator(_host)]
Token = Annotated[SecretStr, Field(min_length=1, max_length=4096), AfterValidator(_header_value)]
Certificates = Annotated[
    str,
    StringConstraints(max_length=100_000),
    AfterValidator(_certificates),
    Field(description="PEM certificates to trust in place of the system's"),
]
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}$")]
Timeout = Annotated[float, Field(gt=0, le=300, description="Seconds for one request")]
