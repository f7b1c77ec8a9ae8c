from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bailiwick.inventory.addresses import NEVER, AddressKind, check, classify, embedded, parse_networks
from bailiwick.kernel.errors import BailiwickError

EVERYTHING = parse_networks(["0.0.0.0/0", "::/0"])
V4 = st.integers(0, 2**32 - 1).map(IPv4Address)


def carriers(inner: IPv4Address) -> list[IPv6Address]:
    """Every IPv6 way of writing ``inner`` that something on the way may unwrap."""
    low = int(inner)
    return [
        IPv6Address(int(IPv6Address("::ffff:0:0")) | low),
        IPv6Address(int(IPv6Address("::ffff:0:0:0")) | low),
        IPv6Address(int(IPv6Address("64:ff9b::")) | low),
        IPv6Address(int(IPv6Address("64:ff9b:1::")) | low),
        IPv6Address(int(IPv6Address("2002::")) | low << 80),
        IPv6Address(int(IPv6Address("2001::")) | (low ^ 0xFFFFFFFF)),
        IPv6Address(int(IPv6Address("2001::")) | low << 64),
        IPv6Address(int(IPv6Address("2606:4700::5efe:0:0")) | low),
    ]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("8.8.8.8", AddressKind.PUBLIC),
        ("2606:4700:4700::1111", AddressKind.PUBLIC),
        ("10.0.0.1", AddressKind.PRIVATE),
        ("172.31.255.255", AddressKind.PRIVATE),
        ("172.32.0.0", AddressKind.PUBLIC),
        ("192.168.1.1", AddressKind.PRIVATE),
        ("fd12:3456::1", AddressKind.PRIVATE),
        ("fec0::1", AddressKind.PRIVATE),
        ("100.64.0.1", AddressKind.CGNAT),
        ("127.0.0.1", AddressKind.LOOPBACK),
        ("127.255.255.254", AddressKind.LOOPBACK),
        ("::1", AddressKind.LOOPBACK),
        ("169.254.169.254", AddressKind.LINK_LOCAL),
        ("fe80::1", AddressKind.LINK_LOCAL),
        ("fe80::1%eth0", AddressKind.LINK_LOCAL),
        ("febf::1", AddressKind.LINK_LOCAL),
        ("100.100.100.200", AddressKind.METADATA),
        ("168.63.129.16", AddressKind.METADATA),
        ("192.0.0.192", AddressKind.METADATA),
        ("fd00:ec2::254", AddressKind.METADATA),
        ("fd20:ce::254", AddressKind.METADATA),
        ("0.0.0.0", AddressKind.UNSPECIFIED),
        ("0.1.2.3", AddressKind.UNSPECIFIED),
        ("::", AddressKind.UNSPECIFIED),
        ("224.0.0.1", AddressKind.MULTICAST),
        ("255.255.255.255", AddressKind.MULTICAST),
        ("ff02::1", AddressKind.MULTICAST),
        ("240.0.0.1", AddressKind.RESERVED),
        ("198.18.0.1", AddressKind.RESERVED),
        ("4000::1", AddressKind.RESERVED),
        ("192.0.2.1", AddressKind.DOCUMENTATION),
        ("2001:db8::1", AddressKind.DOCUMENTATION),
        ("::ffff:127.0.0.1", AddressKind.LOOPBACK),
        ("::ffff:169.254.169.254", AddressKind.LINK_LOCAL),
        ("64:ff9b::a9fe:a9fe", AddressKind.LINK_LOCAL),
        ("64:ff9b::808:808", AddressKind.PUBLIC),
        ("2002:a9fe:a9fe::", AddressKind.LINK_LOCAL),
        ("::7f00:1", AddressKind.RESERVED),
    ],
)
def test_each_kind_is_told(text: str, kind: AddressKind) -> None:
    assert classify(ip_address(text)) is kind


@pytest.mark.parametrize(
    "text", ["169.254.169.254", "fe80::1", "100.100.100.200", "fd00:ec2::254", "0.0.0.0", "ff02::1"]
)
def test_what_is_never_allowed_stays_so_when_everything_is(text: str) -> None:
    with pytest.raises(BailiwickError) as refused:
        check(ip_address(text), EVERYTHING)
    assert refused.value.reason == "upstream_forbidden"


@pytest.mark.parametrize("text", ["127.0.0.1", "::1", "10.0.0.1", "100.64.0.1", "fd12::1", "198.18.0.1", "203.0.113.9"])
def test_the_rest_is_allowed_only_inside_a_network_that_is(text: str) -> None:
    address = ip_address(text)
    with pytest.raises(BailiwickError):
        check(address, ())
    with pytest.raises(BailiwickError):
        check(address, parse_networks(["10.99.0.0/16", "fd99::/16"]))
    check(address, parse_networks([f"{text}/{address.max_prefixlen}"]))


def test_a_mapped_address_is_allowed_where_the_inner_one_is() -> None:
    check(ip_address("::ffff:10.1.2.3"), parse_networks(["10.0.0.0/8"]))
    with pytest.raises(BailiwickError):
        check(ip_address("::ffff:10.1.2.3"), parse_networks(["::ffff:0:0/96"]))


def test_a_network_with_host_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="host bits"):
        parse_networks(["10.0.0.1/8"])


@given(inner=V4)
def test_wrapping_never_makes_an_address_pass(inner: IPv4Address) -> None:
    try:
        check(inner, ())
    except BailiwickError:
        for carrier in carriers(inner):
            assert inner in embedded(carrier)
            with pytest.raises(BailiwickError):
                check(carrier, ())


@given(inner=V4.filter(lambda address: classify(address) in NEVER))
def test_wrapping_never_lifts_a_prohibition(inner: IPv4Address) -> None:
    for carrier in carriers(inner):
        with pytest.raises(BailiwickError):
            check(carrier, EVERYTHING)


@given(st.one_of(V4, st.integers(0, 2**128 - 1).map(IPv6Address)))
def test_whatever_is_public_the_registries_call_global(address: IPv4Address | IPv6Address) -> None:
    if classify(address) is AddressKind.PUBLIC:
        inner = embedded(address) if isinstance(address, IPv6Address) else []
        assert address.is_global or (inner and all(part.is_global for part in inner))
