"""What reaches the upstream, what reaches the caller, and what never does."""

from __future__ import annotations

import json

import grpc
import pytest
from envoy_rig import OUR_REQUEST_ID, SECRET, Rig
from h2_client import H2


@pytest.fixture(scope="module")
def rig():
    with Rig() as rig:
        yield rig


def received(answer) -> dict[str, str]:
    return dict(answer.json()["headers"])


def test_the_credential_stands_where_the_route_says(rig):
    assert received(rig.ask("/s/echo/x"))["authorization"] == SECRET

    keyed = received(rig.ask("/s/keyed/x", "X-API-Key: the caller's"))
    assert keyed["x-api-key"] == SECRET
    assert "authorization" not in keyed


def test_without_a_credential_none_is_forwarded(rig):
    for target in ("/s/echo/x", "/s/keyed/x", "/s/open/x"):
        headers = received(rig.ask(target, "X-API-Key: the caller's", token="none"))
        assert not headers.keys() & {"authorization", "x-api-key"}


def test_a_credential_no_route_asks_for_is_dropped(rig):
    assert SECRET not in rig.ask("/s/open/x").body.decode()


FORGED = [
    "x-bailiwick-credential",
    "X-BAILIWICK-CREDENTIAL",
    "X_Bailiwick_Credential",
    "x-bailiwick_credential",
    "x-bailiwick-long-lived",
    "x-bailiwick-authority",
    "x-bailiwick-route",
    "x-bailiwick-binding",
    "x-bailiwick-peer",
    "x-bailiwick-client-request-id",
    "x-bailiwick-upgrade",
    "x-bailiwick-serve",
    "x-bailiwick-servers",
    "x-bailiwick-",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-user",
    "x-forwarded-proto",
    "forwarded",
    "x-real-ip",
    "x-envoy-original-path",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-retry-on",
    "x-remote-user",
    "x-original-url",
    "x-http-method-override",
    "x-ssl-client-cert",
    "proxy-authorization",
    "dpop",
    "keep-alive",
]


@pytest.mark.parametrize("name", FORGED)
def test_what_a_caller_may_not_say_reaches_neither_check_nor_upstream(rig, name):
    answer = rig.ask("/s/echo/x", f"{name}: forged")

    assert answer.status == 200
    assert "forged" not in answer.body.decode()
    if name != "dpop":
        assert "forged" not in str(rig.last_check().headers)


@pytest.mark.parametrize("name", [name.lower() for name in FORGED if name != "keep-alive"])
def test_the_same_over_http2(rig, name):
    with H2(rig.port) as client:
        answer = client.ask("/s/echo/x", ("authorization", "Bearer t"), (name, "forged"))

    assert answer.status == 200
    assert "forged" not in answer.body.decode()


def test_hop_by_hop_headers_and_those_they_name_stay_here(rig):
    headers = received(rig.ask("/s/echo/x", "Connection: keep-alive, X-Private", "X-Private: 1", "TE: trailers, gzip"))

    assert not headers.keys() & {"connection", "x-private", "keep-alive"}
    assert headers.get("te", "trailers") == "trailers"


def test_ordinary_headers_pass_and_host_is_the_upstreams(rig):
    answer = rig.ask("/s/echo/x", "Accept: text/html", "X-Custom: one", "X-Custom: two", "traceparent: 00-a-b-01")

    pairs = [tuple(pair) for pair in answer.json()["headers"]]
    assert ("accept", "text/html") in pairs
    assert ("traceparent", "00-a-b-01") in pairs
    assert [value for name, value in pairs if name == "x-custom"] in (["one", "two"], ["one,two"])
    assert dict(pairs)["host"] == f"127.0.0.1:{rig.upstream_port}"


def test_the_request_id_is_ours_everywhere(rig):
    answer = rig.ask("/s/echo/x", "X-Request-ID: caller's")

    assert received(answer)["x-request-id"] == OUR_REQUEST_ID
    assert answer.get("x-request-id") == OUR_REQUEST_ID


@pytest.mark.parametrize("sent", ["bw_session=s", "a=1; bw_session=s; b=2", "__Host-bw_session=s"])
def test_our_session_cookie_never_goes_upstream(rig, sent):
    assert "cookie" not in received(rig.ask("/s/echo/x", f"Cookie: {sent}"))
    with H2(rig.port) as client:
        crumbs = [("cookie", crumb) for crumb in sent.split("; ")]
        assert "cookie" not in received(client.ask("/s/echo/x", ("authorization", "Bearer t"), *crumbs))


def test_other_cookies_do(rig):
    assert received(rig.ask("/s/echo/x", "Cookie: a=1; b=2"))["cookie"] == "a=1; b=2"


def test_what_the_upstream_tells_of_itself_is_not_told_on(rig):
    answer = rig.ask("/s/echo/tells")

    assert answer.body == b"told"
    assert answer.get("x-kept") == "z"
    assert answer.get("x-request-id") == OUR_REQUEST_ID
    names = {name for name, _ in answer.headers}
    assert not names & {"server", "x-powered-by", "x-bailiwick-credential", "x-envoy-peer"}


def test_no_answer_carries_a_header_of_envoys(rig):
    for target, token in (("/s/echo/x", "t"), ("/s/echo/x", "deny-403"), ("/s/dead/x", "t"), ("/s/echo/x", "fail-500")):
        names = {name for name, _ in rig.ask(target, token=token).headers}
        assert not {name for name in names if name.startswith(("x-envoy", "server", "x-bailiwick"))}


def test_the_checks_answer_brings_nothing_else(rig):
    answer = rig.ask("/s/echo/x", method="POST", body=b"four")

    told = answer.json()
    assert told["size"] == 4, "the check's content-length is not the request's"
    assert not dict(told["headers"]).keys() & {"x-other", "x-bailiwick-credential", "content-type"}


def test_forged_trailers_do_not_become_headers(rig):
    with H2(rig.port) as client:
        trailers = [("x-bailiwick-credential", "forged"), ("authorization", "forged")]
        answer = client.ask("/s/echo/x", ("authorization", "Bearer t"), body=b"abc", trailers=trailers, method="POST")

    assert answer.json()["size"] == 3
    assert "forged" not in answer.body.decode()


def test_grpc_trailers_keep_what_is_the_upstreams_and_lose_what_is_ours(rig):
    with grpc.insecure_channel(f"127.0.0.1:{rig.port}") as channel:
        metadata = (("x-bailiwick-server", "grpc"), ("authorization", "Bearer t"))
        reply, call = channel.unary_unary("/test.Echo/Unary").with_call(b"hello", metadata=metadata, timeout=10)

    trailers = dict(call.trailing_metadata())
    seen = dict(json.loads(trailers["seen"]))
    assert reply == b"hello"
    assert seen["authorization"] == SECRET
    assert not {name for name in seen if name.startswith(("x-bailiwick", "x-forwarded", "x-envoy"))}
    assert "x-bailiwick-credential" not in trailers
