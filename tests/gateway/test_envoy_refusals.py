"""What a caller is told when something refuses or fails, and by whom."""

from __future__ import annotations

import contextlib

import grpc
import pytest
from envoy_rig import OUR_REQUEST_ID, SECRET, Rig
from raw_http import Raw, ask

from bailiwick.gateway.envoy import problems
from bailiwick.kernel.errors import REASONS, BailiwickError
from bailiwick.kernel.front import SECURITY_HEADERS
from bailiwick.kernel.problems import problem


@pytest.fixture(scope="module")
def rig():
    with Rig() as rig:
        yield rig


@pytest.mark.parametrize(
    ("token", "status"),
    [
        ("deny-400", 400),
        ("deny-401", 401),
        ("deny-403", 403),
        ("deny-413", 413),
        ("deny-429", 429),
        ("deny-503", 503),
        ("deny-502", 502),
    ],
)
def test_a_refusal_of_the_check_reaches_the_caller_whole(rig, token, status):
    answer = rig.ask("/s/echo/x", token=token)

    assert answer.status == status
    assert answer.json()["reason"] == token
    assert answer.get("content-type") == "application/problem+json"
    assert answer.get("x-request-id") == OUR_REQUEST_ID
    for name in ("www-authenticate", "retry-after"):
        assert answer.get(name) == rig.check.REFUSALS[token][1].get(name)


def test_a_refusal_carries_nothing_but_what_callers_may_see(rig):
    answer = rig.ask("/s/echo/x", token="deny-403")

    assert SECRET not in str(answer)
    assert answer.get("x-other") is None


def test_a_refusal_of_head_has_no_body(rig):
    answer = rig.ask("/s/echo/x", method="HEAD", token="deny-403")

    assert (answer.status, answer.body) == (403, b"")


@pytest.mark.parametrize("token", ["fail-500", "fail-503", "reset", "hang"])
def test_a_check_that_fails_refuses(rig, token):
    upstream_before = len(rig.upstream.seen)
    answer = rig.ask("/s/echo/x", "X-Request-ID: caller's", token=token)

    assert (answer.status, answer.json()["reason"]) == (503, "check_unavailable")
    assert answer.get("content-type") == "application/problem+json"
    assert answer.get("x-request-id") is None
    assert len(rig.upstream.seen) == upstream_before


@pytest.mark.parametrize(
    ("target", "status", "reason"),
    [
        ("/s/dead/x", 502, "upstream_unavailable"),
        ("/s/echo/reset", 502, "upstream_unavailable"),
        ("/s/hurried/hang", 504, "upstream_timeout"),
    ],
)
def test_an_upstream_that_fails_is_told_of_without_a_secret(rig, target, status, reason):
    answer = rig.ask(target, "X-Private: caller's")

    assert (answer.status, answer.json()["reason"]) == (status, reason)
    assert answer.json()["request_id"] == answer.get("x-request-id") == OUR_REQUEST_ID
    assert answer.get("content-type") == "application/problem+json"
    assert answer.get("cache-control") == "no-store"
    assert not [leak for leak in ("SECRET", "caller's", "127.0.0.1") if leak in str(answer)]


def test_the_upstreams_own_errors_pass_unchanged(rig):
    answer = rig.ask("/s/echo/broken")

    assert (answer.status, answer.body) == (502, b"the upstream's own words")


def test_a_declared_length_beyond_the_limit_is_refused_after_the_check(rig):
    upstream_before = len(rig.upstream.seen)

    assert rig.ask("/s/limited/x", method="POST", body=b"a" * 1001, token="deny-401").status == 401
    answer = rig.ask("/s/limited/x", method="POST", body=b"a" * 1001)
    assert (answer.status, answer.json()["reason"]) == (413, "payload_too_large")
    assert len(rig.upstream.seen) == upstream_before
    assert rig.ask("/s/limited/x", method="POST", body=b"a" * 1000).json()["size"] == 1000


@pytest.mark.parametrize("token", ["t", "slow"])
@pytest.mark.parametrize(
    ("sizes", "status"),
    [
        ((500, 500), 200),
        ((1000,), 200),
        ((1001,), 413),
        ((500, 501), 413),
        ((1500, 1), 413),
        ((150_000, 150_000, 150_000), 413),
        ((400_000,) * 8, 413),
    ],
)
def test_a_body_of_unknown_length_is_counted(rig, sizes, status, token):
    upstream_before = len(rig.upstream.seen)
    with Raw(rig.port) as connection:
        connection.send(f"POST /s/limited/x HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {token}\r\n")
        connection.send("Transfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(ConnectionError):  # the refusal may come before the body is through
            for size in sizes:
                connection.send(f"{size:X}\r\n" + "a" * size + "\r\n")
            connection.send("0\r\n\r\n")
        answer = connection.answer()

    assert answer.status == status
    if status == 200:
        assert answer.json()["size"] == sum(sizes)
    else:
        assert answer.json()["reason"] == "payload_too_large"
        assert len(rig.upstream.seen) == upstream_before


def test_grpc_callers_get_a_grpc_status(rig):
    def code(server: str, token: str) -> grpc.StatusCode:
        metadata = (("x-bailiwick-server", server), ("authorization", f"Bearer {token}"))
        with grpc.insecure_channel(f"127.0.0.1:{rig.port}") as channel, pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary("/test.Echo/Unary")(b"x", metadata=metadata, timeout=10)
        return raised.value.code()

    assert code("grpc", "deny-401") is grpc.StatusCode.UNAUTHENTICATED
    assert code("grpc", "deny-403") is grpc.StatusCode.PERMISSION_DENIED
    assert code("grpc", "deny-503") is grpc.StatusCode.UNAVAILABLE
    assert code("dead", "t") is grpc.StatusCode.UNAVAILABLE


def test_the_documents_are_those_of_the_one_mapping():
    for reason in ("check_unavailable", "upstream_timeout", "payload_too_large", "token_revoked"):
        ours, theirs = problems.problem(reason), problem(BailiwickError(reason=reason))
        assert ours == {key: theirs[key] for key in ours}
        assert theirs.keys() - ours.keys() == {"request_id"}
        assert ours["status"] == REASONS[reason].status


def test_with_no_worker_at_all_everything_is_refused():
    with Rig() as rig:
        rig.loop.run(rig.files.set_workers(()))
        answer = rig.ask("/s/echo/x")
        assert (answer.status, answer.json()["reason"]) == (503, "check_unavailable")

        api = ask(rig.api_port, "/health")
        assert (api.status, api.json()["reason"]) == (503, "not_ready")
        assert {name.decode() for name, _ in SECURITY_HEADERS} <= {name.lower() for name, _ in api.headers}
