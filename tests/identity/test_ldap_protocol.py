"""LDAP's text and bytes: what is put into filters stays inert, and no bytes of a peer do more than fail."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bailiwick.identity.directories import normal_dn
from bailiwick.identity.ldap import filters
from bailiwick.identity.ldap.ber import BerError, elements, header, integer, number, octets, tlv
from bailiwick.identity.ldap.connection import Connection, DirectoryError, Refused
from bailiwick.identity.ldap.filters import FilterError, encoded, equals, escaped

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)
HOSTILE = st.text("()*\\&|!=<>~:\x00 auid2a", min_size=1, max_size=60)


@given(NAMES | HOSTILE)
def test_whatever_is_typed_is_one_value_of_one_comparison(name: str) -> None:
    text = "(&(objectClass=person)(uid={username}))".replace("{username}", escaped(name))
    assert encoded(text) == filters.all_of(equals("objectClass", "person"), equals("uid", name))


@given(HOSTILE)
def test_what_is_escaped_is_plain_ascii_without_syntax(name: str) -> None:
    told = escaped(name)
    assert told.isascii() and not set(told) & set("()*\x00")
    assert encoded(f"(uid={told})") == equals("uid", name)


@given(st.text("()&|!*=:<>~\\abc12.;-", max_size=40))
def test_any_text_is_a_filter_or_is_refused(text: str) -> None:
    try:
        made = encoded(text)
    except FilterError:
        return
    assert len(list(elements(made))) == 1
    assert text.count("(") == text.count(")")


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("(uid=jane)", "a30b0403756964" + "04046a616e65"),
        ("(uid=*)", "8703756964"),
        ("(!(uid=a))", "a20aa3080403756964040161"),
        ("(uid=a*b*c)", "a4100403756964" + "3009800161810162820163"),
        ("(uid>=a)", "a5080403756964040161"),
        ("(member:1.2.3:=a)", "a9128105312e322e3382066d656d626572830161"),
        ("(uid=\\2a)", "a308040375696404012a"),
        ("(&)", "a000"),
    ],
)
def test_filters_on_the_wire(text: str, made: str) -> None:
    assert encoded(text).hex() == made


@pytest.mark.parametrize(
    "text",
    ["", "uid=jane", "(uid=jane", "(uid=jane))", "(=jane)", "(uid=\\)", "(uid=\\zz)", "()", "(&(uid=a)", "(" * 99],
)
def test_what_is_no_filter(text: str) -> None:
    with pytest.raises(FilterError):
        encoded(text)


@given(st.integers(0, 1 << 40), st.binary(max_size=400))
def test_numbers_and_strings_come_back(value: int, content: bytes) -> None:
    (kind, body), (_, text) = list(elements(integer(value) + octets(content)))
    assert (kind, number(body), text) == (2, value, content)


@given(st.binary(max_size=200))
def test_any_bytes_are_elements_or_an_error(data: bytes) -> None:
    try:
        told = list(elements(data))
    except BerError:
        return
    assert sum(len(content) for _, content in told) <= len(data)


@given(st.binary(max_size=8))
def test_a_header_is_known_wanting_or_refused(data: bytes) -> None:
    try:
        size = header(data)
    except BerError:
        return
    assert size is None or 2 <= size[0] <= 6


class _Writer:
    def write(self, data: bytes) -> None:
        self.sent = data

    async def drain(self) -> None:
        return None


def _peer(data: bytes) -> Connection:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    return Connection(reader, _Writer())  # type: ignore[arg-type]


@given(st.binary(max_size=120), st.booleans())
def test_no_answer_of_a_peer_does_more_than_fail(data: bytes, framed: bool) -> None:
    answer = tlv(0x30, integer(2), data) if framed else data

    async def run() -> None:
        connection = _peer(answer)
        try:
            await connection.search("dc=x", encoded("(uid=a)"), ["uid"], most=2)
        except (DirectoryError, Refused):
            return
        assert connection.usable

    asyncio.run(run())


async def test_an_empty_password_is_not_sent() -> None:
    connection = _peer(tlv(0x30, integer(2), tlv(0x61, integer(0, 0x0A), octets(""), octets(""))))
    for dn, word in (("cn=a", ""), ("", "word")):
        with pytest.raises(Refused):
            await connection.bind(dn, word)
    assert not hasattr(connection._writer, "sent")


@given(st.text(max_size=80))
def test_any_text_has_a_normal_form(text: str) -> None:
    assert normal_dn(text) == normal_dn(text)
    assert normal_dn(f"cn={text.encode('utf-8', 'replace').hex()},dc=x") != normal_dn("dc=x")
