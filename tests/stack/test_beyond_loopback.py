"""An installation that others than this machine can reach: TLS on both ports, and figures for those who may see them.

It runs in a network namespace of its own, which has one address beyond loopback and no way out.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rig import PASSWORD, Stack, installation

from bailiwick.identity.factors import totp

sys.path.insert(0, str(Path(__file__).parent.parent / "gateway"))
from certificates import Authority

OUTSIDE = "10.99.0.1"
NAME = "bailiwick.test"
METRICS_TOKEN = "scrapers-own-token"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace is made by root alone")


@contextlib.contextmanager
def namespace() -> Iterator[tuple[str, ...]]:
    """What to put before a command that is to run in a network of its own."""
    holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep 600"], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"\n"
        within = ("nsenter", f"--net=/proc/{holder.pid}/ns/net")
        for command in (("link", "set", "lo", "up"), ("address", "add", f"{OUTSIDE}/32", "dev", "lo")):
            subprocess.run([*within, "ip", *command], check=True)
        yield within
    finally:
        holder.kill()
        holder.wait()
        if holder.stdout is not None:
            holder.stdout.close()


class Outside:
    """curl from an address beyond loopback to a running installation."""

    def __init__(self, stack: Stack, authority: Authority, within: tuple[str, ...]) -> None:
        self.stack, self._within = stack, within
        self._trust = ["--cacert", str(authority.ca_file)]

    def curl(self, base: str, path: str, *options: str, source: str = OUTSIDE) -> subprocess.CompletedProcess[str]:
        port = base.rpartition(":")[2]
        told = [
            "curl",
            "-sS",
            "--noproxy",
            "*",
            "--max-time",
            "10",
            *self._trust,
            "--resolve",
            f"{NAME}:{port}:{source}",
        ]
        command = [*self._within, *told, "-w", "\n%{http_code}", *options, f"https://{NAME}:{port}{path}"]
        return subprocess.run(command, capture_output=True, text=True, timeout=30)

    def ask(self, base: str, path: str, *options: str, source: str = OUTSIDE) -> tuple[int, str]:
        done = self.curl(base, path, *options, source=source)
        assert done.returncode == 0, done.stderr
        text, _, status = done.stdout.rpartition("\n")
        return int(status), text

    def post(self, path: str, body: object, token: str = "") -> tuple[int, str]:
        headers = ["-H", "Content-Type: application/json", "-H", f"Authorization: Bearer {token}"]
        return self.ask(self.stack.api, path, *headers, "-d", json.dumps(body))


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    authority = Authority(tmp_path_factory.mktemp("authority"))
    certificate, key = authority.issue(NAME)
    options = ("--host", "0.0.0.0", "--tls-cert", str(certificate), "--tls-key", str(key))
    with (
        namespace() as within,
        installation(*options, within=within, WORKERS="1", BAILIWICK_METRICS_TOKEN=METRICS_TOKEN) as stack,
    ):
        yield Outside(stack, authority, within)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--host", "0.0.0.0"), "TLS"),
        (("--host", OUTSIDE), "TLS"),
        (("--host", "::"), "TLS"),
        (("--host", "0.0.0.0", "--dev"), "loopback"),
    ],
)
def test_it_does_not_start_beyond_loopback_without_tls(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    command = [sys.executable, "-m", "bailiwick.cli.main", "up", *options, "--data-dir", str(tmp_path / "d")]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2 and said in refused.stdout + refused.stderr
    assert not (tmp_path / "d" / "pg").exists(), "it began before it refused"


def test_both_ports_speak_tls_1_3_and_nothing_older(outside: Outside) -> None:
    for base in (outside.stack.api, outside.stack.gateway):
        spoken = outside.curl(base, "/health", "-v", "--tlsv1.3")
        assert spoken.returncode == 0 and "TLSv1.3" in spoken.stderr, spoken.stderr
        older = outside.curl(base, "/health", "--tlsv1.2", "--tls-max", "1.2")
        assert older.returncode == 35, older  # CURLE_SSL_CONNECT_ERROR
        plain = subprocess.run(
            [*outside._within, "curl", "-sS", "--noproxy", "*", f"http://{OUTSIDE}:{base.rpartition(':')[2]}/health"],
            capture_output=True,
            timeout=30,
        )
        assert plain.returncode in {52, 56} and not plain.stdout


def test_http2_is_spoken_over_tls(outside: Outside) -> None:
    assert "HTTP/2 200" in outside.ask(outside.stack.api, "/health", "--http2", "-i")[1]


def test_figures_want_a_bearer_beyond_loopback_alone(outside: Outside) -> None:
    api = outside.stack.api
    assert outside.ask(api, "/metrics", source="127.0.0.1")[0] == 200
    status, text = outside.ask(api, "/metrics")
    assert status == 401 and json.loads(text)["reason"] == "authentication_required"
    forged = ("-H", "X-Forwarded-For: 127.0.0.1", "-H", "X-Real-IP: 127.0.0.1", "-H", "Forwarded: for=127.0.0.1")
    assert outside.ask(api, "/metrics", *forged)[0] == 401
    assert outside.ask(api, "/metrics", "-H", "Authorization: Bearer wrong")[0] == 401
    assert "http_requests_total" in outside.ask(api, "/metrics", "-H", f"Authorization: Bearer {METRICS_TOKEN}")[1]


def test_a_person_reads_the_figures_by_his_role(outside: Outside) -> None:
    stack = outside.stack
    first = (stack.data_dir / "secrets" / "administrator-password").read_text().strip()
    login = {"username": "admin", "password": first}
    # beyond development mode an administrator needs a second factor, from the first sign-in on
    owed = json.loads(outside.post("/api/v1/auth/login/local", login)[1])
    assert owed["reason"] == "mfa_enrolment_required"
    pending = {"mfa_token": owed["mfa_token"]}
    secret = json.loads(outside.post("/api/v1/auth/mfa/enrolment", pending)[1])["secret"]
    code = totp.code_at(base64.b32decode(secret + "=" * (-len(secret) % 8)), int(time.time()) // totp.STEP_S)
    enrolled = json.loads(outside.post("/api/v1/auth/mfa/enrolment/confirm", {**pending, "code": code})[1])
    token = enrolled["access_token"]
    assert outside.ask(stack.api, "/metrics", "-H", f"Authorization: Bearer {token}")[0] in {200, 403}
    change = {"current_password": first, "new_password": PASSWORD}
    assert outside.post("/api/v1/auth/password", change, token)[0] == 204
    login["password"] = PASSWORD
    owed = json.loads(outside.post("/api/v1/auth/login/local", login)[1])
    answer = {"mfa_token": owed["mfa_token"], "code": enrolled["recovery_codes"][0]}
    token = json.loads(outside.post("/api/v1/auth/mfa", answer)[1])["access_token"]
    assert outside.ask(stack.api, "/metrics", "-H", f"Authorization: Bearer {token}")[0] == 200
    viewer = {"username": "vera", "email": "vera@example.com", "role": "viewer", "password": "long enough for all"}
    assert outside.post("/api/v1/users", viewer, token)[0] == 201
    status, text = outside.post("/api/v1/auth/login/local", {"username": "vera", "password": viewer["password"]})
    assert status == 200, text
    vera = json.loads(text)["access_token"]
    assert outside.ask(stack.api, "/metrics", "-H", f"Authorization: Bearer {vera}")[0] == 403
    # what is issued names the address that callers see
    issuer = json.loads(outside.ask(stack.api, "/.well-known/oauth-authorization-server")[1])["issuer"]
    assert issuer.startswith("https://")


def test_tls_1_2_is_spoken_where_it_was_chosen(outside: Outside) -> None:
    stack = outside.stack
    assert stack.cli("down").returncode == 0
    stack.environment["BAILIWICK_TLS_MIN_VERSION"] = "1.2"
    assert (again := stack.up()).returncode == 0, again.stderr
    for base in (stack.api, stack.gateway):
        older = outside.curl(base, "/health", "-v", "--tlsv1.2", "--tls-max", "1.2")
        assert older.returncode == 0 and "TLSv1.2" in older.stderr, older.stderr
        oldest = outside.curl(base, "/health", "--tlsv1.1", "--tls-max", "1.1")
        assert oldest.returncode == 35, oldest
