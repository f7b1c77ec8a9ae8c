"""The address guard: what kind of address an upstream has, and whether we may connect to it.

Rules only, no input or output. IPv6 forms that carry an IPv4 address are judged by both, since a translator or the
kernel may deliver to the inner one. The registries are IANA's special-purpose address registries (RFC 6890).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from bailiwick.kernel.errors import BailiwickError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class AddressKind(StrEnum):
    """What an address is for."""

    PUBLIC = "public"
    PRIVATE = "private"
    CGNAT = "carrier-grade NAT"
    LOOPBACK = "loopback"
    DOCUMENTATION = "documentation"
    RESERVED = "reserved"
    LINK_LOCAL = "link-local"
    METADATA = "metadata"
    MULTICAST = "multicast"
    UNSPECIFIED = "unspecified"


NEVER = frozenset({AddressKind.LINK_LOCAL, AddressKind.METADATA, AddressKind.MULTICAST, AddressKind.UNSPECIFIED})
"""Kinds no setting can allow."""

# Where clouds answer with machine identities. Link-local ones are covered by their own kind; these are not.
_METADATA: tuple[Network, ...] = tuple(
    ip_network(text)
    for text in (
        "100.100.100.200/32",  # Alibaba
        "168.63.129.16/32",  # Azure host agent, inside public space
        "192.0.0.192/32",  # Oracle
        "fd00:ec2::/32",  # AWS: metadata, DNS, time, pod identity
        "fd20:ce::254/128",  # Google
    )
)

_V4: tuple[tuple[Network, AddressKind], ...] = tuple(
    (ip_network(text), kind)
    for text, kind in (
        ("0.0.0.0/8", AddressKind.UNSPECIFIED),  # Linux delivers 0.0.0.0 to itself
        ("10.0.0.0/8", AddressKind.PRIVATE),
        ("100.64.0.0/10", AddressKind.CGNAT),
        ("127.0.0.0/8", AddressKind.LOOPBACK),
        ("169.254.0.0/16", AddressKind.LINK_LOCAL),
        ("172.16.0.0/12", AddressKind.PRIVATE),
        ("192.0.0.0/24", AddressKind.RESERVED),
        ("192.0.2.0/24", AddressKind.DOCUMENTATION),
        ("192.88.99.0/24", AddressKind.RESERVED),
        ("192.168.0.0/16", AddressKind.PRIVATE),
        ("198.18.0.0/15", AddressKind.RESERVED),
        ("198.51.100.0/24", AddressKind.DOCUMENTATION),
        ("203.0.113.0/24", AddressKind.DOCUMENTATION),
        ("224.0.0.0/4", AddressKind.MULTICAST),
        ("255.255.255.255/32", AddressKind.MULTICAST),  # limited broadcast
        ("240.0.0.0/4", AddressKind.RESERVED),
    )
)
_V6: tuple[tuple[Network, AddressKind], ...] = tuple(
    (ip_network(text), kind)
    for text, kind in (
        ("::/128", AddressKind.UNSPECIFIED),
        ("::1/128", AddressKind.LOOPBACK),
        ("100::/64", AddressKind.RESERVED),
        ("2001:db8::/32", AddressKind.DOCUMENTATION),
        ("3fff::/20", AddressKind.DOCUMENTATION),
        ("2001::/23", AddressKind.RESERVED),
        ("2002::/16", AddressKind.RESERVED),
        ("fc00::/7", AddressKind.PRIVATE),
        ("fe80::/10", AddressKind.LINK_LOCAL),
        ("fec0::/10", AddressKind.PRIVATE),
        ("ff00::/8", AddressKind.MULTICAST),
        ("2000::/3", AddressKind.PUBLIC),
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052
_NAT64_LOCAL = IPv6Network("64:ff9b:1::/48")  # RFC 8215
_TRANSLATED = IPv6Network("::ffff:0:0:0/96")  # SIIT, RFC 7915
_COMPATIBLE = IPv6Network("::/96")
_ISATAP = 0x5EFE  # RFC 5214, after the universal/local bit is cleared

# The worst kind an address carries decides, in this order.
_SEVERITY = list(AddressKind)


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Networks in CIDR form; raises ``ValueError`` for one that is malformed or has host bits set."""
    return tuple(ip_network(text) for text in texts)


def classify(address: Address) -> AddressKind:
    """The kind of ``address``, the worst of itself and any IPv4 address it carries."""
    return max((_plain(part) for part in _parts(address)), key=_SEVERITY.index)


def check(address: Address, allowed: Sequence[Network]) -> None:
    """Raises ``upstream_forbidden`` (422) unless we may connect to ``address``.

    Public addresses are allowed; private, loopback, reserved and the like only inside one of the ``allowed``
    networks; link-local, metadata, multicast and unspecified ones never.
    """
    kind = classify(address)
    if kind is AddressKind.PUBLIC:
        return
    special = [part for part in _parts(address) if _plain(part) is not AddressKind.PUBLIC]
    if kind not in NEVER and all(any(part in network for network in allowed) for part in special):
        return
    raise BailiwickError(
        f"The upstream's address {address} is {kind} and not allowed.", reason="upstream_forbidden", kind=str(kind)
    )


def embedded(address: IPv6Address) -> list[IPv4Address]:
    """The IPv4 addresses that an IPv6 address carries in one of the mapping, translation or tunnelling forms."""
    value = int(address)
    low = IPv4Address(value & 0xFFFF_FFFF)
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    if address in _NAT64 or address in _NAT64_LOCAL or address in _TRANSLATED:
        return [low]
    if address in _COMPATIBLE and value > 1:
        return [low]
    if address.sixtofour is not None:
        return [address.sixtofour]
    if address.teredo is not None:
        return list(address.teredo)
    if (value >> 32) & 0xFDFF_FFFF == _ISATAP:
        return [low]
    return []


def _parts(address: Address) -> list[Address]:
    if isinstance(address, IPv4Address):
        return [address]
    if address.scope_id is not None:
        address = IPv6Address(int(address))
    inner = embedded(address)
    # a mapped, translated or NAT64 address is a way of writing the inner one and has no kind of its own
    transparent = address.ipv4_mapped is not None or address in _TRANSLATED or address in _NAT64
    return [*inner] if transparent else [address, *inner]


def _plain(address: Address) -> AddressKind:
    if any(address in network for network in _METADATA):
        return AddressKind.METADATA
    for network, kind in _V4 if address.version == 4 else _V6:
        if address in network:
            return kind
    # all of IPv4 that is not special is public; of IPv6 only 2000::/3 is
    return AddressKind.PUBLIC if address.version == 4 else AddressKind.RESERVED


def parse_address(text: str) -> Address | None:
    """The address ``text`` writes in its one strict form, or None."""
    try:
        return ip_address(text)
    except ValueError:
        return None
