"""Requests made to be read two ways: refused by Envoy, or shown to the check in a form it can refuse."""

from __future__ import annotations

import pytest
from envoy_rig import Rig
from h2_client import H2, H2Reset
from raw_http import Raw

ONE = "Authorization: Bearer t"


@pytest.fixture(scope="module")
def rig():
    with Rig() as rig:
        yield rig


def raw(rig, text: str):
    with Raw(rig.port) as connection:
        return connection.send(text).answer()


@pytest.mark.parametrize(
    ("header", "first", "second", "arrives"),
    [
        ("Authorization", "Bearer a", "Bearer b", "Bearer a,Bearer b"),
        ("DPoP", "a", "b", "a,b"),
        ("X-Bailiwick-Server", "echo", "keyed", "echo,keyed"),
        ("X-Bailiwick-Server", "", "echo", ",echo"),
        ("Host", "gateway", "other", "gateway,other"),
        ("Host", "gateway", "gateway", "gateway,gateway"),
    ],
)
def test_a_repeated_header_arrives_joined_by_a_comma(rig, header, first, second, arrives):
    host = "" if header == "Host" else "Host: gateway\r\n"
    raw(rig, f"GET /s/echo/x HTTP/1.1\r\n{host}{header}: {first}\r\n{header}: {second}\r\n\r\n")

    assert rig.last_check().all(header.lower()) == [arrives]


@pytest.mark.parametrize("header", ["authorization", "dpop", "x-bailiwick-server"])
def test_the_same_over_http2(rig, header):
    with H2(rig.port) as client:
        client.ask("/s/echo/x", (header, "a"), (header, "b"))

    assert rig.last_check().all(header) == ["a,b"]


def test_over_http2_host_yields_to_authority_and_two_end_the_connection(rig):
    with H2(rig.port) as client:
        client.ask("/s/echo/x", ("authorization", "Bearer t"), ("host", "echo.example"))
        assert rig.last_check().all("host") == ["gateway"]

        before = len(rig.check.seen)
        with pytest.raises((H2Reset, ConnectionError)):
            client.ask("/s/echo/x", ("authorization", "Bearer t"), ("host", "gateway"), ("host", "other"))
    assert len(rig.check.seen) == before


def test_connection_headers_end_an_http2_connection(rig):
    with H2(rig.port) as client, pytest.raises((H2Reset, ConnectionError)):
        client.ask("/s/echo/x", ("authorization", "Bearer t"), ("keep-alive", "5"))


@pytest.mark.parametrize(
    "pseudo", [(":authority", "evil"), (":path", "/s/keyed/x"), (":method", "DELETE"), (":unknown", "x")]
)
def test_a_repeated_or_unknown_pseudo_header_ends_the_connection(rig, pseudo):
    before = len(rig.check.seen)
    with H2(rig.port) as client, pytest.raises((H2Reset, ConnectionError)):
        client.ask("/s/echo/x", pseudo, ("authorization", "Bearer t"))

    assert len(rig.check.seen) == before


@pytest.mark.parametrize(
    ("header", "value"), [("x-a", "1\r\nx-b: 2"), ("x-a", "1\x00"), ("x-a\r\nx-b", "1"), ("x a", "1")]
)
def test_line_breaks_in_http2_headers_end_the_connection(rig, header, value):
    before = len(rig.check.seen)
    with H2(rig.port) as client, pytest.raises((H2Reset, ConnectionError)):
        client.ask("/s/echo/x", ("authorization", "Bearer t"), (header, value))

    assert len(rig.check.seen) == before


@pytest.mark.parametrize(
    "framing",
    [
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 0",
        "Content-Length: 3\r\nContent-Length: 4",
        "Content-Length: 3, 3",
        "Content-Length: +3",
        "Content-Length: -3",
        "Content-Length: 0x3",
        "Content-Length: 3\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding:\x0bchunked",
        "X-Bad: a\x00b",
        "X Bad: 1",
        "X-Folded: a\r\n b: c\r\nContent-Length: 3\r\nContent-Length: 5",
        ": no name",
        "no colon",
    ],
)
def test_contradictory_framing_is_refused_by_envoy(rig, framing):
    before = len(rig.check.seen)
    with Raw(rig.port) as connection:
        connection.send(f"POST /s/echo/x HTTP/1.1\r\nHost: gateway\r\n{ONE}\r\n{framing}\r\n\r\nabc")
        answer = connection.answer()

        assert answer.status == 400
        assert answer.json()["reason"] == "ambiguous_request"
        assert connection.ended(), "nothing that follows on the connection is read"
    assert len(rig.check.seen) == before


def test_http2_content_length_that_lies_is_refused(rig):
    with H2(rig.port) as client, pytest.raises(H2Reset):
        client.ask("/s/echo/x", ("authorization", "Bearer t"), ("content-length", "2"), body=b"abc", method="POST")


@pytest.mark.parametrize(
    "line",
    [
        "GET /s/echo/x",
        "GET /s/echo/x HTTP/1.0",
        "GET /s/echo/x HTTP/9.9",
        "GET /s/echo/x y HTTP/1.1",
        "GET /s/echo/x#fragment HTTP/1.1",
        "GET /s/echo/\xe9 HTTP/1.1",
        "SPY /s/echo/x HTTP/1.1",
        "\x16\x03\x01",
    ],
)
def test_lines_that_are_not_http_1_1_are_refused_by_envoy(rig, line):
    before = len(rig.check.seen)
    answer = raw(rig, f"{line}\r\nHost: gateway\r\n{ONE}\r\n\r\n")

    assert answer.status == 400
    assert answer.get("content-type") == "application/problem+json"
    assert len(rig.check.seen) == before


def test_a_request_without_host_is_refused_by_envoy(rig):
    assert raw(rig, f"GET /s/echo/x HTTP/1.1\r\n{ONE}\r\n\r\n").status == 400


def test_trace_reaches_the_check_as_trace(rig):
    rig.ask("/s/echo/x", method="TRACE", token="deny-403")

    assert rig.last_check().method == "TRACE"


@pytest.mark.parametrize(("method", "target"), [("CONNECT", "echo.example:443"), ("OPTIONS", "*")])
def test_targets_that_are_no_path_are_refused_by_envoy(rig, method, target):
    before = len(rig.upstream.seen)
    answer = rig.ask(target, method=method)

    assert (answer.status, answer.json()["reason"]) == (404, "unknown_server")
    assert len(rig.upstream.seen) == before


@pytest.mark.parametrize(
    "path",
    [
        "/s/echo/%2e%2e/x",
        "/s/echo/../keyed/x",
        "/s/echo/./x",
        "/s/echo/..%2fkeyed",
        "/s/echo//x",
        "//s/echo/x",
        "/s//echo/x",
        "/s/echo%2Fx",
        "/s/echo/%5c..%5cx",
        "/s/echo/x;/../y",
        "/s/echo\\x",
        "/s/echo/%",
        "/s/echo/%00",
        "/s/%65cho/x",
    ],
)
def test_a_path_is_shown_to_the_check_as_it_was_sent(rig, path):
    rig.ask(path, token="deny-400")

    assert rig.last_check().target == "/check" + path


def test_an_absolute_target_decides_over_host_and_the_check_sees_that(rig):
    answer = rig.ask("http://echo.example/x", host="gateway")

    assert answer.status == 200
    assert rig.last_check().get("host") == "echo.example"
    assert rig.last_check().target == "/check/x"


@pytest.mark.parametrize(
    "headers",
    [["X-Big: " + "a" * 33000], [f"X-{n}: {'a' * 300}" for n in range(110)], [f"X-{n}: 1" for n in range(210)]],
)
def test_headers_beyond_32_kib_are_refused_by_envoy(rig, headers):
    answer = rig.ask("/s/echo/x", *headers)

    assert answer.status == 431
    assert answer.json()["reason"] == "headers_too_large"


def test_headers_beyond_32_kib_reset_an_http2_stream(rig):
    with H2(rig.port) as client, pytest.raises(H2Reset):
        client.ask("/s/echo/x", ("authorization", "Bearer t"), ("x-big", "a" * 33000))


def test_a_long_path_reaches_the_check(rig):
    path = "/s/echo/" + "a" * 9000
    rig.ask(path, token="deny-400")

    assert rig.last_check().target == "/check" + path


@pytest.mark.parametrize("upgrade", ["h2c", "foo", "websocket, foo"])
def test_an_upgrade_to_something_else_does_not_happen(rig, upgrade):
    answer = rig.ask(
        "/s/echo/x", "Connection: Upgrade, HTTP2-Settings", f"Upgrade: {upgrade}", "HTTP2-Settings: AAMAAABk"
    )

    assert answer.status in (200, 405)
    if answer.status == 200:
        assert not dict(answer.json()["headers"]).keys() & {"upgrade", "http2-settings"}


def test_two_requests_in_one_write_are_two_requests(rig):
    one = f"GET /s/echo/one HTTP/1.1\r\nHost: gateway\r\n{ONE}\r\n\r\n"
    before = len(rig.check.seen)
    with Raw(rig.port) as connection:
        connection.send(one + one.replace("one", "two"))
        targets = [connection.answer().json()["target"] for _ in range(2)]

    assert targets == ["/base/one", "/base/two"]
    assert len(rig.check.seen) == before + 2


def test_an_empty_first_authorization_is_lost_in_joining(rig):
    raw(rig, f"GET /s/echo/x HTTP/1.1\r\nHost: gateway\r\nAuthorization:\r\n{ONE}\r\n\r\n")

    assert rig.last_check().all("authorization") == ["Bearer t"]
