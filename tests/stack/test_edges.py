"""At the edges of an installation: TLS, sockets that last, and a disk that is full."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from rig import Stack, call, installation
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.sync.server import serve

sys.path.insert(0, str(Path(__file__).parent.parent / "gateway"))
from certificates import Authority

# ---------------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def test_beyond_loopback_only_with_tls(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bailiwick.cli.main", "up", "--host", "0.0.0.0", "--data-dir", str(tmp_path / "d")]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2 and "TLS" in refused.stdout + refused.stderr
    assert not (tmp_path / "d" / "pg").exists()


def test_both_ports_speak_tls_1_3_and_metrics_want_a_bearer_from_elsewhere(authority: Authority) -> None:
    certificate, key = authority.issue("localhost")
    with installation("--tls-cert", str(certificate), "--tls-key", str(key), WORKERS="1") as stack:
        trust = ssl.create_default_context(cafile=str(authority.ca_file))
        old = ssl.create_default_context(cafile=str(authority.ca_file))
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        for base in (stack.api, stack.gateway):
            port = int(base.rpartition(":")[2])
            with (
                socket.create_connection(("localhost", port)) as raw,
                trust.wrap_socket(raw, server_hostname="localhost") as tls,
            ):
                assert tls.version() == "TLSv1.3"
            with (
                socket.create_connection(("localhost", port)) as raw,
                pytest.raises((ssl.SSLError, ConnectionError)),
                old.wrap_socket(raw, server_hostname="localhost") as tls,
            ):
                tls.recv(1)
        api = stack.api.replace("http://127.0.0.1", "https://localhost")
        with urllib.request.urlopen(f"{api}/health", context=trust) as answer:
            assert json.load(answer)["status"]
        sockets = sorted((Path(stack.run_dir()) / "w1").glob("api*"))
        assert sockets, list(Path(stack.run_dir()).iterdir())
        ask = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", str(sockets[0])]
        elsewhere = [*ask, "-H", "X-Forwarded-For: 203.0.113.9", "http://x/metrics"]
        assert subprocess.run(elsewhere, capture_output=True, text=True).stdout == "401"
        assert subprocess.run([*ask, "http://x/metrics"], capture_output=True, text=True).stdout == "200"


# ---------------------------------------------------------------------- what lasts


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with installation(WORKERS="1") as made:
        yield made


@pytest.fixture
def chat() -> Iterator[int]:
    def echo(connection) -> None:
        try:
            for message in connection:
                connection.send(f"{connection.request.headers.get('X-Api-Key')} {message}")
        except ConnectionClosed:
            pass

    with serve(echo, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.socket.getsockname()[1]
        server.shutdown()


def test_a_websocket_carries_the_credential_and_ends_with_its_authority(stack: Stack, chat: int) -> None:
    key = {"name": "chat-key", "kind": "api_key", "header": "X-Api-Key", "value": "chat-secret"}
    assert stack.admin("POST", "/api/v1/credentials", key).status == 201
    operations = [{"method": "GET", "path": "/room", "scope": "chat:join", "long_lived": True}]
    server = {
        "name": "chat",
        "endpoint": f"http://127.0.0.1:{chat}",
        "binding": {"credential": "chat-key", "operations": operations},
    }
    assert stack.admin("POST", "/api/v1/servers", server).status == 201
    agent = stack.admin("POST", "/api/v1/applications", {"name": "chat-agent", "grants": {"chat": ["chat:join"]}})
    stack.agents["chat-agent"] = agent.json
    token = stack.token_for("chat-agent", "chat", "chat:join")
    url = stack.gateway.replace("http", "ws") + "/s/chat/room"
    headers = {"Authorization": f"Bearer {token}"}
    deadline = time.monotonic() + 10
    while True:
        try:
            websocket = connect(url, additional_headers=headers)
            break
        except InvalidStatus as error:  # the new server is taken up within a moment
            assert error.response.status_code == 503 and time.monotonic() < deadline, error
            time.sleep(0.05)
    with websocket:
        websocket.send("hello")
        assert websocket.recv(timeout=5) == "chat-secret hello"
        revoked = stack.admin("POST", "/api/v1/revocations", {"application": "chat-agent", "reason": "test"})
        assert revoked.status == 201
        with pytest.raises(ConnectionClosed):
            websocket.recv(timeout=10)
    with pytest.raises(InvalidStatus) as refused:
        connect(url, additional_headers=headers)
    assert refused.value.response.status_code == 401
    with pytest.raises(InvalidStatus) as without:
        connect(url)
    assert without.value.response.status_code == 401


# ---------------------------------------------------------------------- a disk that is full


def fill(path: Path) -> None:
    with path.open("ab", buffering=0) as stream:
        try:
            while stream.write(bytes(64 << 10)):
                pass
        except OSError:
            pass


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system can be mounted by root alone")
def test_a_full_spool_refuses_and_comes_back_with_nothing_lost() -> None:
    mounted: list[Path] = []

    def small(home: Path) -> None:
        spool = home / "data" / "spool"
        spool.mkdir(parents=True, mode=0o700)
        (home / "data").chmod(0o700)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=0700", "tmpfs", str(spool)], check=True)
        mounted.append(spool)

    try:
        with installation(WORKERS="1", BAILIWICK_SPOOL_SEGMENT_MB="1", before=small) as stack:
            stack.govern("pay")
            token = stack.token_for("pay-agent", "pay")
            assert stack.governed(token, "/s/pay/items").status == 200
            filler = mounted[0] / "filler"
            acknowledged, refused = [], None
            for n in range(20_000):
                if n % 20 == 0:  # again and again: every segment that is in the ledger gives its space back
                    fill(filler)
                got = call("GET", f"{stack.gateway}/s/pay/items", token=token)
                if got.status != 200:
                    refused = got
                    break
                acknowledged.append(got.headers["x-request-id"])
            assert refused is not None and (refused.status, refused.reason) == (503, "evidence_unavailable"), refused
            reached = len(stack.upstream.seen)
            assert call("GET", f"{stack.gateway}/s/pay/items", token=token).reason == "evidence_unavailable"
            assert len(stack.upstream.seen) == reached, "a request went on without its evidence"
            ready = call("GET", f"{stack.api}/health/ready")
            assert ready.status == 503 and "spool" in ready.text, ready
            filler.unlink()
            deadline = time.monotonic() + 20
            while call("GET", f"{stack.gateway}/s/pay/items", token=token).status != 200:
                assert time.monotonic() < deadline, "it does not come back"
                time.sleep(0.1)
            assert stack.story(acknowledged[-1])
            verified = stack.cli("audit", "verify")
            assert verified.returncode == 0, verified.stdout + verified.stderr
            found = set()
            cursor = ""
            while True:
                page = stack.admin("GET", f"/api/v1/audit/events?code=BW4001&limit=500{cursor}").json
                found.update(entry["event"]["request_id"] for entry in page["events"])
                if not page["next"]:
                    break
                cursor = f"&cursor={page['next']}"
            assert not set(acknowledged) - found
    finally:
        for spool in mounted:
            subprocess.run(["umount", "-l", str(spool)], check=False)


# ---------------------------------------------------------------------- limits of the hot endpoints


def test_an_installations_limit_holds_at_each_hot_endpoint() -> None:
    with installation(WORKERS="2", BAILIWICK_RATE_LIMIT_APPLICATION="5") as stack:
        stack.govern("pay")
        agent = "/api/v1/applications/pay-agent"
        # of its own it has none, until its route is carried
        assert stack.admin("PATCH", agent, {"rate_limit": 0}).json["rate_limit"] == 0
        token = stack.token_for("pay-agent", "pay")
        assert {stack.governed(token, "/s/pay/items").status for _ in range(20)} == {200}
        assert stack.admin("PATCH", agent, {"rate_limit": None}).json["rate_limit"] is None
        question = {"user_id": "admin", "resource": "servers", "action": "read"}
        for ask in (
            lambda: stack.governed(token, "/s/pay/items"),
            lambda: stack.mandate("pay-agent", "pay"),
            lambda: stack.admin("POST", "/api/v1/authz/evaluate", question),
        ):
            answers = [ask() for _ in range(8)]
            assert [got.status for got in answers[:5]] == [200] * 5, "the workers count together, and from here"
            assert answers[-1].status == 429
            assert int(answers[-1].headers["retry-after"]) >= 1
            assert "rate_limited" in answers[-1].text or answers[-1].json["error"]
