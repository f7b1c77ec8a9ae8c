"""Reading a request for the check, with whatever callers send."""

from __future__ import annotations

import posixpath
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bailiwick.gateway.request import parse
from bailiwick.kernel.errors import BailiwickError


def scope(path: bytes = b"/s/pay/items", *headers: tuple[bytes, bytes], method: str = "GET") -> dict[str, Any]:
    return {"method": method, "raw_path": b"/check" + path, "query_string": b"", "headers": list(headers)}


def reason(asked: dict[str, Any]) -> str:
    with pytest.raises(BailiwickError) as refused:
        parse(asked)
    return refused.value.reason


NAMES = st.sampled_from([
    b"host", b"authorization", b"dpop", b"x-bailiwick-server", b"x-bailiwick-route", b"x-bailiwick-binding",
    b"x-bailiwick-peer", b"user-agent", b"traceparent", b"x-bailiwick-client-request-id", b"cookie",
])  # fmt: skip
PIECES = st.sampled_from([
    b"/", b"s", b"z", b"pay", b"..", b".", b"%2e", b"%2F", b"%5c", b"\\", b";", b"..;", b"%00", b"a", b"%41", b"%", b"//",
    b"\xff", b"#", b" ",
])  # fmt: skip


@given(st.lists(st.tuples(NAMES, st.binary(max_size=60)), max_size=12), st.lists(PIECES, max_size=12).map(b"".join))
def test_anything_is_read_or_refused(headers: list[tuple[bytes, bytes]], path: bytes) -> None:
    try:
        read = parse(scope(b"/" + path, *headers))
    except BailiwickError:
        return
    assert read.user_agent.isprintable() and read.client_request_id.isprintable() and read.host.isprintable()


@given(st.lists(PIECES, max_size=14).map(b"".join))
def test_what_passes_stays_below_its_name(path: bytes) -> None:
    try:
        read = parse(scope(b"/s/pay/" + path))
    except BailiwickError:
        return
    seen = read.path
    for _ in range(3):  # as an upstream that decodes once, twice, thrice
        plain = seen.replace("\\", "/")
        assert posixpath.normpath("/s/pay" + plain).startswith("/s/pay"), (path, seen)
        assert ".." not in plain.split("/")
        seen = unquote(seen) if "%25" not in seen else seen


@pytest.mark.parametrize("name", [b"host", b"authorization", b"dpop", b"x-bailiwick-server"])
def test_what_decides_stands_once(name: bytes) -> None:
    assert reason(scope(b"/s/pay/", (name, b"a"), (name, b"b"))) == "ambiguous_request"
    assert reason(scope(b"/s/pay/", (name, b"Bearer a,Bearer b"))) == "ambiguous_request"


def test_bounds() -> None:
    assert reason(scope(b"/s/pay/" + b"a" * 9000)) == "path_too_long"
    assert reason(scope(b"/s/pay/", (b"authorization", b"Bearer " + b"a" * 9000))) == "invalid_token"
    assert reason(scope(b"/s/pay/", (b"authorization", "Bearer é".encode()))) == "invalid_token"
    assert reason(scope(b"/s/pay/", method="TRACE")) == "forbidden_method"


def test_every_name_is_kept() -> None:
    read = parse(scope(b"/z/acme/s/pay/items", (b"x-bailiwick-server", b"other"), (b"host", b"Pay.Example:8081")))
    assert read.named == (("acme", "pay"), ("default", "other"))
    assert (read.path, read.host) == ("/items", "pay.example:8081")
