"""Bodies flow while they are being written, in both directions, on every protocol that is carried."""

from __future__ import annotations

import hashlib
import json
import time

import grpc
import pytest
from envoy_rig import SECRET, Rig, wait_for
from h2_client import H2
from raw_http import Raw
from websockets.sync.client import connect

HEAD = "Host: gateway\r\nAuthorization: Bearer t\r\n"


@pytest.fixture(scope="module")
def rig():
    with Rig() as rig:
        yield rig


def test_events_arrive_as_they_are_sent(rig):
    with Raw(rig.port) as connection:
        connection.send(f"GET /s/echo/sse HTTP/1.1\r\n{HEAD}\r\n")
        assert connection.head().get("content-type") == "text/event-stream"
        for _ in range(5):
            connection.until(b"data: tick")
    wait_for(lambda: rig.upstream.live == 0)


def test_an_upload_is_forwarded_before_it_ends(rig):
    with Raw(rig.port) as connection:
        connection.send(f"POST /s/echo/early HTTP/1.1\r\n{HEAD}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        assert connection.head().status == 200
        connection.until(b"first")
        connection.send("6\r\n world\r\n0\r\n\r\n")
        assert connection.until(b"0\r\n\r\n").split() == [b"2", b"11"]


@pytest.mark.parametrize("target", ["/s/echo/x", "/s/lasting/x"])
def test_a_large_upload_arrives_whole(rig, target):
    body = bytes(range(256)) * 100_000
    told = rig.ask(target, method="PUT", body=body).json()

    assert told["size"] == len(body)
    assert told["sha256"] == hashlib.sha256(body).hexdigest()


def test_a_large_download_is_not_held_back_by_a_slow_reader(rig):
    size = 20_000_000
    with Raw(rig.port) as connection:
        connection.send(f"GET /s/echo/download?size={size} HTTP/1.1\r\n{HEAD}\r\n")
        assert connection.head().get("content-length") == str(size)
        time.sleep(0.3)
        assert connection.exactly(size).count(b"d") == size


def test_http2_carries_many_streams_on_one_connection(rig):
    with H2(rig.port) as client:
        streams = [client.start(f"/s/echo/{n}", ("authorization", "Bearer t")) for n in range(20)]
        assert client.answer(streams[-1]).json()["target"] == "/base/19"
        body = client.ask("/s/echo/x", ("authorization", "Bearer t"), body=b"b" * 16000, method="POST").json()
    assert body["size"] == 16000


def test_a_websocket_passes_and_its_handshake_is_checked(rig):
    headers = {"Authorization": "Bearer t", "X-Bailiwick-Credential": "forged"}
    with connect(f"ws://127.0.0.1:{rig.port}/s/ws/chat", additional_headers=headers) as websocket:
        seen = {name.lower(): value for name, value in json.loads(websocket.recv(timeout=5))}
        assert seen["authorization"] == SECRET
        assert "x-bailiwick-credential" not in seen
        for message in ("hello", b"\x00bytes", "x" * 100_000):
            websocket.send(message)
            assert websocket.recv(timeout=5) == message

    check = rig.last_check()
    assert check.get("x-bailiwick-upgrade") == "websocket"
    assert check.get("upgrade") is None, "a worker must not take the check for a handshake of its own"


def test_a_refused_websocket_is_told_so(rig):
    answer = rig.ask(
        "/s/ws/chat",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        token="deny-403",
    )

    assert (answer.status, answer.json()["reason"]) == (403, "deny-403")


def test_websockets_are_not_offered_over_http2(rig):
    with H2(rig.port) as client:
        assert client.ask("/s/echo/x", ("authorization", "Bearer t")).status == 200
        assert not client.offers_websockets()


def test_grpc_streams_both_ways_at_once(rig):
    with grpc.insecure_channel(f"127.0.0.1:{rig.port}") as channel:
        metadata = (("x-bailiwick-server", "grpc"), ("authorization", "Bearer t"))

        def questions():
            for n in range(50):
                asked.append(n)
                yield str(n).encode()

        asked: list[int] = []
        answers = channel.stream_stream("/test.Echo/Stream")(questions(), metadata=metadata, timeout=10)
        assert next(answers) == b"0"
        assert [int(answer) for answer in answers] == list(range(1, 50))
        assert answers.code() is grpc.StatusCode.OK


def test_an_early_refusal_reaches_a_caller_who_is_still_sending(rig):
    with Raw(rig.port) as connection:
        connection.send("POST /s/echo/x HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer deny-401\r\n")
        connection.send("Content-Length: 50000000\r\n\r\n" + "a" * 100_000)
        answer = connection.answer()

    assert (answer.status, answer.json()["reason"]) == (401, "deny-401")
