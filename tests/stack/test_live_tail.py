"""The live tail through the whole installation: the proxy lets it pass, and signing out ends it."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from rig import PASSWORD, Stack, call, installation


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with installation() as made:
        yield made


def test_a_tail_tells_what_happens_and_ends_with_its_session(stack: Stack) -> None:
    mine, other = stack.login("admin", PASSWORD), stack.login("admin", PASSWORD)
    parts = urlsplit(stack.api)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    path = "/api/v1/audit/events/stream?name=server.*"
    connection.request("GET", path, headers={"Authorization": f"Bearer {mine}", "Accept-Encoding": "gzip"})
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    assert (answer.status, answer.getheader("content-type")) == (200, "text/event-stream; charset=utf-8")
    assert answer.readline() == b": following\n"
    made = call(
        "POST", f"{stack.api}/api/v1/servers", token=other, body={"name": "tailed", "endpoint": "http://127.0.0.1:9"}
    )
    assert made.status == 201, made
    while not (line := answer.readline()).startswith(b"data: "):
        assert line
    assert json.loads(line[6:])["event"]["subject"] == {"id": "tailed", "type": "server"}
    began = time.monotonic()
    assert call("POST", f"{stack.api}/api/v1/auth/logout", token=mine).status in {200, 204}
    while not (line := answer.readline()).startswith(b"event: end"):
        assert line is not None and time.monotonic() - began < 5
    assert json.loads(answer.readline()[6:]) == {"reason": "session_ended"}
    assert time.monotonic() - began < 2, "a second after it has ended, and what a busy machine adds"
    assert answer.read().strip() == b""
    connection.close()


def test_a_restart_ends_the_tails(stack: Stack) -> None:
    token = stack.login("admin", PASSWORD)
    parts = urlsplit(stack.api)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    connection.request("GET", "/api/v1/audit/events/stream?code=BW9999", headers={"Authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    assert answer.readline() == b": following\n"
    began = time.monotonic()
    for worker in [name for name in stack.parts() if name in {"w1", "w2"}]:  # whichever of them holds the tail
        done = stack.cli("restart", worker)
        assert done.returncode == 0, done.stdout + done.stderr
    assert b'{"reason": "not_ready"}' in answer.read()
    assert time.monotonic() - began < 60, "the token alone would have held it for as long as it lives"
    connection.close()
