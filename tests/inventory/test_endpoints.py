from __future__ import annotations

import socket
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bailiwick.inventory.endpoints import Upstream, parse_host_name, parse_upstream
from bailiwick.kernel.errors import InvalidRequest


@pytest.mark.parametrize(
    ("url", "upstream"),
    [
        ("https://web-01.example.com", Upstream("https", "web-01.example.com", 443)),
        ("HTTP://EXAMPLE.com.:8080/base/", Upstream("http", "example.com", 8080, "/base")),
        ("http://[::1]:9000", Upstream("http", "::1", 9000)),
        ("http://[0:0:0:0:0:0:0:1]", Upstream("http", "::1", 80)),
        ("http://10.0.0.1/a/b", Upstream("http", "10.0.0.1", 80, "/a/b")),
        ("http://bücher.de", Upstream("http", "xn--bcher-kva.de", 80)),
        ("http://１２７.0.0.1", Upstream("http", "127.0.0.1", 80)),
        ("http://127。0。0。1", Upstream("http", "127.0.0.1", 80)),
        ("http://ⓛocalhost", Upstream("http", "localhost", 80)),
    ],
)
def test_a_plain_url_is_read_in_one_form(url: str, upstream: Upstream) -> None:
    assert parse_upstream(url) == upstream


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com",
        "//example.com",
        "example.com",
        "http:/example.com",
        "http:///path",
        "http://",
        "http://user@example.com",
        "http://user:secret@example.com",
        "http://example.com@169.254.169.254",
        "http://example.com:/",
        "http://example.com:0",
        "http://example.com:65536",
        "http://example.com:8o",
        "http://example.com:80:80",
        "http://example.com:８０",
        "http://example.com\\@evil.com",
        "http://exa mple.com",
        "http://example.com\t",
        "http://example.com\r\nX: y",
        "http://example.com\x00.evil.com",
        "http://example.com?x=1",
        "http://example.com/?",
        "http://example.com#x",
        "http://example.com/a/../b",
        "http://example.com/./a",
        "http://example.com//a",
        "http://example.com/%2e%2e/a",
        "http://example.com/a;b",
        "http://0x7f.1",
        "http://0x7f000001",
        "http://2130706433",
        "http://0177.0.0.1",
        "http://127.1",
        "http://127.0.0.1.1",
        "http://1.2.3.4.5",
        "http://0",
        "http://example.0x10",
        "http://[::1",
        "http://::1",
        "http://[fe80::1%25eth0]",
        "http://[fe80::1%eth0]",
        "http://[127.0.0.1]",
        "http://[::ffff:0177.0.0.1]",
        "http://a..b",
        "http://.a",
        "http://a..",
        "http://-a.com",
        "http://a_b.com",
        "http://exam%70le.com",
        "http://xn--a",
        "http://" + "a" * 64 + ".com",
        "http://" + ".".join(["a" * 60] * 5),
        "http://example.com/" + "a" * 3000,
    ],
)
def test_anything_two_parsers_could_read_differently_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_upstream(url)


@pytest.mark.parametrize("text", ["127.0.0.1", "[::1]", "2130706433", "a:80", "a/b", "", ".", "a b", "*.example.com"])
def test_a_host_name_is_a_name(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_host_name(text)


def test_host_names_have_one_form() -> None:
    assert parse_host_name("Pay.Example.COM.") == "pay.example.com"
    assert parse_host_name("straße.example") == "xn--strae-oqa.example"


def test_the_authority_names_the_port_only_when_it_is_not_the_schemes() -> None:
    assert parse_upstream("https://a.example:443").authority == "a.example"
    assert parse_upstream("http://a.example:443").authority == "a.example:443"
    assert parse_upstream("http://[::1]:81").authority == "[::1]:81"


@given(st.text(max_size=60))
def test_no_text_makes_the_parser_fail_otherwise_than_by_refusing(text: str) -> None:
    for url in (text, f"http://{text}", f"https://{text}/", f"http://[{text}]"):
        try:
            parsed = parse_upstream(url)
        except InvalidRequest:
            continue
        again = parse_upstream(f"{parsed.scheme}://{parsed.authority}{parsed.base_path}")
        assert again == parsed
        assert parsed.host.isascii()
        assert not set(parsed.host) & set("@/\\?#%[] \t\r\n\x00")


def part(value: int, base: int) -> str:
    return {8: f"0{value:o}", 10: str(value), 16: f"0x{value:x}"}[base]


@given(
    address=st.integers(0, 2**32 - 1),
    parts=st.integers(1, 4),
    bases=st.lists(st.sampled_from([8, 10, 16]), min_size=4, max_size=4),
    dot=st.sampled_from(["", "."]),
)
def test_every_spelling_the_system_takes_for_ipv4_is_refused_or_seen_as_it(
    address: int, parts: int, bases: list[int], dot: str
) -> None:
    octets = [address >> 24, address >> 16 & 255, address >> 8 & 255, address & 255]
    rest = 8 * (5 - parts)
    numbers = [*octets[: parts - 1], address & ((1 << rest) - 1)]
    spelled = ".".join(part(number, base) for number, base in zip(numbers, bases, strict=False))
    assert socket.inet_aton(spelled) == address.to_bytes(4, "big")
    try:
        upstream = parse_upstream(f"http://{spelled}{dot}")
    except InvalidRequest:
        return
    assert upstream.address == IPv4Address(address)
