"""Reading our cookies out of whatever is sent: never another's, never one of two, and never a fault."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bailiwick.kernel.cookies import MAX_HEADER_BYTES, MAX_PAIRS, MAX_VALUE, cookie_header, read_cookie
from bailiwick.kernel.errors import InvalidRequest

NAME = "__Host-bailiwick_session"
OURS = st.from_regex(r"[A-Za-z0-9._~-]{1,300}", fullmatch=True)
# what other programs of the host may leave in a browser: anything but a pair by our name
OTHERS = st.lists(st.binary(max_size=60).map(lambda raw: raw.replace(b";", b",")), max_size=20).map(
    lambda pairs: [pair for pair in pairs if pair.partition(b"=")[0].strip(b" \t") != NAME.encode()]
)


@given(st.lists(st.binary(max_size=400), max_size=6))
@example([b"\x00"])
@example([f'{NAME}="a"'.encode()])
@example([f"{NAME}=a\x00b".encode()])
@example([b";" * 10_000])
@example([b"=;=;=", b"", b"= =="])
def test_no_header_is_more_than_refused(headers: list[bytes]) -> None:
    try:
        value = read_cookie(headers, NAME)
    except InvalidRequest:
        return
    assert value is None or (0 < len(value) <= MAX_VALUE and value.isascii() and value.isprintable())


@given(OURS, OTHERS, st.integers(min_value=0), st.booleans())
def test_ours_is_found_among_any_others(value: str, others: list[bytes], at: int, apart: bool) -> None:
    at %= len(others) + 1
    pairs = [*others[:at], f" {NAME}={value}\t".encode(), *others[at:]]
    assert read_cookie(pairs if apart else [b";".join(pairs)], NAME) == value
    assert read_cookie(others, NAME) is None


@given(OURS, st.one_of(OURS, st.just("")), OTHERS)
def test_of_two_none_is_taken(first: str, second: str, others: list[bytes]) -> None:
    header = b"; ".join([f"{NAME}={first}".encode(), *others, f"{NAME}={second}".encode()])
    with pytest.raises(InvalidRequest):
        read_cookie([header], NAME)
    with pytest.raises(InvalidRequest):
        read_cookie([f"{NAME}={second}".encode(), f"{NAME}={first}".encode()], NAME)


@pytest.mark.parametrize(
    "header",
    [
        f'{NAME}="quoted"'.encode(),
        f"{NAME}=a b".encode(),
        f"{NAME}=a\x00".encode(),
        f"{NAME}=a%3D".encode(),
        f"{NAME}=a\n".encode(),
        f"{NAME}=ä".encode(),
        f"{NAME}={'a' * (MAX_VALUE + 1)}".encode(),
        b"a=" + b"b" * MAX_HEADER_BYTES,
        b"; ".join(b"a%d=b" % number for number in range(10_000)),
        b";" * MAX_PAIRS,
    ],
)
def test_what_we_never_wrote_is_refused(header: bytes) -> None:
    with pytest.raises(InvalidRequest) as raised:
        read_cookie([header], NAME)
    assert "quoted" not in raised.value.detail


def test_names_are_exact_and_an_empty_value_is_none() -> None:
    near = [f"{NAME.lower()}=a".encode(), f"{NAME}2=a".encode(), f"x{NAME}=a".encode(), NAME.encode(), b'q="x']
    assert read_cookie(near, NAME) is None
    assert read_cookie([f"{NAME}=".encode()], NAME) is None
    assert read_cookie([], NAME) is None


@given(OURS, st.integers(min_value=1, max_value=10**6), st.booleans())
def test_what_is_written_is_read(value: str, life_s: int, secure: bool) -> None:
    told = cookie_header(NAME, value, life_s=life_s, secure=secure, same_site="Lax")
    pair, *attributes = told.split("; ")
    assert read_cookie([pair.encode()], NAME) == value
    assert attributes == [f"Max-Age={life_s}", "Path=/", "HttpOnly", *(["Secure"] if secure else []), "SameSite=Lax"]


@pytest.mark.parametrize(("name", "value"), [("a b", "c"), ("a", "b;c"), ("a", "b\r\nSet-Cookie: d=e"), ("", "a")])
def test_nothing_else_is_written(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="form"):
        cookie_header(name, value, life_s=1, secure=True, same_site="Lax")
