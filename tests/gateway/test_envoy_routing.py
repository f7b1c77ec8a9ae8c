"""Which server a request is for, what path the upstream gets, and what the check is told of it."""

from __future__ import annotations

import pytest
from envoy_rig import Rig
from raw_http import ask


@pytest.fixture(scope="module")
def rig():
    with Rig() as rig:
        yield rig


@pytest.mark.parametrize(
    ("target", "headers", "host", "route", "upstream_target"),
    [
        ("/s/echo/x/y?q=1&r=%20", (), "gateway", "echo", "/base/x/y?q=1&r=%20"),
        ("/s/echo/", (), "gateway", "echo", "/base/"),
        ("/s/echo", (), "gateway", "echo", "/base"),
        ("/s/echo?q=1", (), "gateway", "echo", "/base?q=1"),
        ("/s/keyed/x", (), "gateway", "keyed", "/x"),
        ("/s/keyed", (), "gateway", "keyed", "/"),
        ("/x", (), "echo.example", "echo", "/base/x"),
        ("/x", (), "www.echo.example:8443", "echo", "/base/x"),
        ("/s/echo/x", (), "echo.example", "echo", "/base/x"),
        ("/x?q", ("X-Bailiwick-Server: keyed",), "gateway", "keyed", "/x?q"),
        ("/s/keyed/x", ("X-Bailiwick-Server: keyed",), "gateway", "keyed", "/x"),
        ("/z/blue/s/zoned/x", (), "gateway", "blue/zoned", "/x"),
        ("/x", ("X-Bailiwick-Server: blue/zoned",), "gateway", "blue/zoned", "/x"),
    ],
)
def test_a_server_is_named_by_path_by_host_or_by_header(rig, target, headers, host, route, upstream_target):
    answer = rig.ask(target, *headers, host=host)

    assert answer.status == 200
    assert answer.json()["target"] == upstream_target
    seen = rig.last_check()
    assert seen.get("x-bailiwick-route") == route
    assert seen.target == "/check" + target, "the check sees the path as it was sent"
    assert seen.get("host") == host


@pytest.mark.parametrize(
    ("target", "headers", "host", "route"),
    [
        ("/s/keyed/x", (), "echo.example", "echo"),
        ("/s/echo/x", ("X-Bailiwick-Server: keyed",), "gateway", "echo"),
        ("/x", ("X-Bailiwick-Server: keyed",), "echo.example", "echo"),
    ],
)
def test_where_two_names_disagree_the_check_is_told_both(rig, target, headers, host, route):
    rig.ask(target, *headers, host=host)

    seen = rig.last_check()
    assert seen.get("x-bailiwick-route") == route
    assert (seen.target, seen.get("host")) == ("/check" + target, host)
    assert seen.get("x-bailiwick-server") == ("keyed" if headers else None)


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/nothing",
        "/s/",
        "/s/nobody/x",
        "/s/echoes",
        "/s/ech/x",
        "/S/echo/x",
        "/z/blue/s/echo/x",
        "/z/default/s/echo",
    ],
)
def test_a_request_for_no_known_server_is_refused_by_the_check(rig, target):
    answer = rig.ask(target)

    assert answer.status == 404
    assert answer.json()["reason"] == "unknown_server"
    assert answer.get("content-type") == "application/problem+json"
    assert rig.last_check().get("x-bailiwick-route") is None


def test_a_server_without_upstream_reaches_the_check_and_nothing_else(rig):
    refused = rig.ask("/s/unbound/x", token="deny-503")
    assert (refused.status, refused.json()["reason"]) == (503, "deny-503")
    assert rig.last_check().get("x-bailiwick-route") == "unbound"

    upstream_before = len(rig.upstream.seen)
    allowed_by_mistake = rig.ask("/s/unbound/x")
    assert (allowed_by_mistake.status, allowed_by_mistake.json()["reason"]) == (503, "not_ready")
    assert len(rig.upstream.seen) == upstream_before


def test_the_check_learns_binding_peer_and_the_callers_own_request_id(rig):
    rig.ask("/s/echo/x", "X-Request-ID: callers-own", "traceparent: 00-a-b-01", "User-Agent: test/1", "DPoP: proof")

    seen = rig.last_check()
    assert seen.get("x-bailiwick-binding") == "b7"
    assert seen.get("x-bailiwick-peer") == "127.0.0.1"
    assert seen.get("x-bailiwick-client-request-id") == "callers-own"
    assert seen.get("x-request-id") is None
    assert (seen.get("traceparent"), seen.get("user-agent"), seen.get("dpop")) == ("00-a-b-01", "test/1", "proof")


def test_the_check_is_shown_nothing_it_does_not_need(rig):
    rig.ask("/s/echo/x", "Cookie: a=1", "Accept: */*", "X-Anything: 1", method="POST", body=b"body")

    assert rig.last_check().names <= {
        "host",
        "authorization",
        "content-length",
        "x-bailiwick-content-length",
        "x-bailiwick-route",
        "x-bailiwick-binding",
        "x-bailiwick-peer",
        "x-envoy-internal",
        "x-envoy-expected-rq-timeout-ms",
    }
    assert rig.last_check().get("content-length") == "0"
    assert rig.last_check().get("x-bailiwick-content-length") == "4"


def test_the_api_port_forwards_everything_and_tells_the_callers_address(rig):
    answer = ask(
        rig.api_port,
        "/api/v1/servers?x=%2F",
        "Authorization: Bearer session",
        "X-Forwarded-For: 6.6.6.6",
        "X-Forwarded-Proto: https",
        "Forwarded: for=6.6.6.6",
        "X-Real-IP: 6.6.6.6",
        method="PATCH",
        body=b"{}",
    )

    told = answer.json()
    headers = dict(told["headers"])
    assert (told["method"], told["target"], told["size"]) == ("PATCH", "/api/v1/servers?x=%2F", 2)
    assert headers["authorization"] == "Bearer session"
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert headers["x-forwarded-proto"] == "http"
    assert "6.6.6.6" not in answer.body.decode()


def test_behind_proxies_the_api_port_tells_the_addresses_a_request_passed():
    with Rig(behind_proxies=True) as rig:
        lines = (
            "X-Forwarded-For: 6.6.6.6",
            "X-Forwarded-For: 7.7.7.7",
            "X-Forwarded-Host: evil",
            "X-Forwarded-Proto: x",
        )
        told = ask(rig.api_port, "/api/v1/servers", *lines).json()["headers"]
    forwarded = ",".join(value for name, value in told if name == "x-forwarded-for")
    assert [part.strip() for part in forwarded.split(",")] == ["6.6.6.6", "7.7.7.7", "127.0.0.1"]
    assert {name for name, _ in told if name.startswith("x-forwarded-")} <= {"x-forwarded-for", "x-forwarded-proto"}
    assert dict(told)["x-forwarded-proto"] == "http"
