"""A whole installation for a test file, a real upstream behind it, and how to talk to both."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from forked import forked
from searched import Search, take_in

from ports import free_port

CLI = (sys.executable, "-m", "bailiwick.cli.main")
PASSWORD = "a long enough password"
UPSTREAM_KEY = "planted-upstream-secret"
_BY_THEMSELVES = {"up", "demo"}  # these begin processes of their own


@dataclass
class Got:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def reason(self) -> str:
        return str(self.json.get("reason"))


def call(
    method: str, url: str, *, token: str = "", body: Any = None, form: Any = None, headers: dict[str, str] | None = None
) -> Got:
    take_in([form, body if isinstance(body, dict) else {}])
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    sent = dict(headers or {})
    if token:
        sent["Authorization"] = f"Bearer {token}"
    data = None
    if form is not None:
        data, sent["Content-Type"] = urlencode(form).encode(), "application/x-www-form-urlencoded"
    elif body is not None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent.setdefault("Content-Type", "application/json")
    path = url[len(f"{parts.scheme}://{parts.netloc}") :]
    with contextlib.closing(connection):
        connection.request(method, path or "/", data, sent)
        answer = connection.getresponse()
        got = Got(
            answer.status,
            {name.lower(): value for name, value in answer.getheaders()},
            answer.read().decode("utf-8", "replace"),
        )
    if got.headers.get("content-type", "").startswith("application/json") and got.status in (200, 201):
        take_in(got.json)
    return got


class Upstream:
    """A server that demands its key and remembers what it was sent."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # or head and body wait 40 ms for each other

            def do_GET(self) -> None:
                outer.seen.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
                length = int(self.headers.get("content-length") or 0)
                self.rfile.read(length)
                if self.headers.get("x-api-key") != UPSTREAM_KEY:
                    return self.answer(401, b"no key")
                if self.path.startswith("/stream"):
                    return self.stream()
                self.answer(200, json.dumps({"path": self.path, "length": length}).encode())

            do_POST = do_PUT = do_DELETE = do_GET

            def answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def stream(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Connection", "close")
                self.end_headers()
                with contextlib.suppress(OSError):
                    while True:
                        self.wfile.write(b"data: x\n\n")
                        self.wfile.flush()
                        time.sleep(0.02)

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"


@dataclass
class Stack:
    data_dir: Path
    api: str
    gateway: str
    environment: dict[str, str]
    upstream: Upstream
    token: str = ""
    other: str = ""  # the token of the second administrator
    agents: dict[str, dict[str, str]] = field(default_factory=dict)
    start: tuple[str, ...] = ()
    within: tuple[str, ...] = ()

    def up(self) -> subprocess.CompletedProcess[str]:
        """Start it as it was started first."""
        return self.cli("up", *self.start, "--detach")

    def cli(self, *arguments: str, timeout: float = 90) -> subprocess.CompletedProcess[str]:
        placed = [*arguments, "--data-dir", str(self.data_dir)]
        if not self.within and arguments[0] not in _BY_THEMSELVES:
            return forked().run(placed, self.environment, timeout=timeout)
        command = [*self.within, *CLI, *placed]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=timeout)

    def parts(self) -> dict[str, int]:
        told = json.loads(self.cli("status", "--json").stdout)["parts"]
        listed = told.values() if isinstance(told, dict) else told
        return {part["name"]: part["pid"] for part in listed if part.get("pid")}

    def run_dir(self) -> str:
        """Where the sockets are."""
        from bailiwick.kernel.paths import Layout

        return str(Layout(self.data_dir).run)

    def logged(self, *phrases: str, within: float = 15) -> list[str]:
        """The lines of the logs that hold all ``phrases``, once there is one."""
        deadline = time.monotonic() + within
        while True:
            found = [
                line
                for path in sorted((self.data_dir / "logs").glob("*.log"))
                for line in path.read_text(errors="replace").splitlines()
                if path.stem != "postgres" and all(phrase in line for phrase in phrases)
            ]
            if found:
                return found
            assert time.monotonic() < deadline, f"no line of the logs holds {phrases}"
            time.sleep(0.05)

    def admin(self, method: str, path: str, body: Any = None, **more: Any) -> Got:
        return call(method, self.api + path, token=self.token, body=body, **more)

    def sign_in(self) -> None:
        first = (self.data_dir / "secrets" / "administrator-password").read_text().strip()
        login = {"username": "admin", "password": first}
        self.token = self.admin("POST", "/api/v1/auth/login/local", login).json["access_token"]
        change = {"current_password": first, "new_password": PASSWORD}
        assert self.admin("POST", "/api/v1/auth/password", change).status == 204
        self.token = self.login("admin", PASSWORD)

    def login(self, name: str, password: str) -> str:
        got = call("POST", f"{self.api}/api/v1/auth/login/local", body={"username": name, "password": password})
        assert got.status == 200, got
        return str(got.json["access_token"])

    def second(self) -> str:
        """The token of a second administrator, whom the machine made: nobody whom the first made counts beside him."""
        if not self.other:
            made = self.cli("user", "create", "ada", "--email", "ada@example.com", "--role", "admin", "--json")
            assert made.returncode == 0, made
            chosen = {"token": json.loads(made.stdout)["invitation"]["token"], "password": PASSWORD}
            assert call("POST", f"{self.api}/api/v1/auth/invitations/accept", body=chosen).status == 200
            self.other = self.login("ada", PASSWORD)
        return self.other

    def approve(self, approval: dict[str, Any]) -> None:
        """The second administrator approves exactly that."""
        where = f"{self.api}/api/v1/approvals/{approval['id']}/approve"
        got = call("POST", where, token=self.second(), body={"payload_sha256": approval["payload_sha256"]})
        assert got.status == 200, got

    def agreed(self, method: str, path: str, body: Any = None, **more: Any) -> Got:
        """As :meth:`admin`, for what takes a second person: it waits, he approves, and it is sent again."""
        self.second()
        waits = self.admin(method, path, body, **more)
        assert waits.status == 202, waits
        self.approve(waits.json["approval"])
        return self.admin(method, path, body, **more)

    def govern(self, name: str, *, zone: str = "", grants: list[str] | None = None, **binding: Any) -> str:
        """Register a server with its credential, and an agent; the agent's name."""
        operations = [
            {"method": "GET", "path": "/items", "scope": "items:read"},
            {"method": "POST", "path": "/items", "scope": "items:write"},
            {"method": "GET", "path": "/stream", "scope": "items:read", "long_lived": True},
        ]
        key = {"name": f"{name}-key", "kind": "api_key", "header": "X-Api-Key", "value": UPSTREAM_KEY}
        assert self.admin("POST", f"{zone}/api/v1/credentials", key).status == 201
        wanted = {"credential": key["name"], "operations": operations, **binding}
        server = {"name": name, "endpoint": self.upstream.url, "binding": wanted}
        made = self.admin("POST", f"{zone}/api/v1/servers", server)
        assert made.status == 201, made
        agent = {"name": f"{name}-agent", "grants": {name: grants or ["items:read", "items:write"]}}
        got = self.admin("POST", f"{zone}/api/v1/applications", agent)
        assert got.status == 201, got
        self.agents[agent["name"]] = got.json
        return agent["name"]

    def mandate(self, agent: str, server: str, scope: str = "items:read", *, zone: str = "", **more: str) -> Got:
        known = self.agents[agent]
        form = {"grant_type": "client_credentials", "audience": server, "scope": scope, **more}
        client = {"client_id": known["client_id"], "client_secret": known["client_secret"]}
        return call("POST", f"{self.api}{zone}/oauth/token", form={**form, **client})

    def token_for(self, agent: str, server: str, scope: str = "items:read", *, zone: str = "") -> str:
        got = self.mandate(agent, server, scope, zone=zone)
        assert got.status == 200, got
        return str(got.json["access_token"])

    def governed(self, token: str, path: str, method: str = "GET", **more: Any) -> Got:
        """Through the gateway, waiting out the moment until a new server is carried."""
        for _ in range(60):
            got = call(method, self.gateway + path, token=token, **more)
            if got.status != 503 or got.reason != "route_pending":
                return got
            time.sleep(0.05)
        return got

    def story(self, request_id: str) -> list[dict[str, Any]]:
        """The events of a request, once they are in the ledger."""
        for _ in range(100):
            got = self.admin("GET", f"/api/v1/audit/requests/{request_id}")
            events = [entry["event"] for entry in got.json.get("timeline", []) if entry.get("event")]
            if events:
                return events
            time.sleep(0.05)
        raise AssertionError(f"request {request_id} is not in the ledger: {got}")


def claims(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))))


@contextlib.contextmanager
def installation(
    *options: str,
    before: Callable[[Path], None] | None = None,
    within: tuple[str, ...] = (),
    measured: bool = False,
    **settings: str,
) -> Iterator[Stack]:
    """A running installation. ``before`` may prepare its home, ``options`` go to ``up``, ``settings`` stand in the
    environment (``WORKERS`` is their number; ``{api_port}`` in a value is told), ``within`` goes before every command.
    ``measured``: with the coverage of its processes, which makes them half as fast; a few installations are enough."""
    home = Path(tempfile.mkdtemp(prefix="bw stäck ", dir="/tmp"))
    if before is not None:
        before(home)
    tls = "--tls-cert" in options
    api, gateway, upstream = free_port(), free_port(), Upstream()
    environment = {
        **os.environ,
        "BAILIWICK_ALLOW_UPSTREAM_NETWORKS": "127.0.0.0/8",
        "BAILIWICK_RATE_LIMIT_ANONYMOUS": "100000",
        "BAILIWICK_RATE_LIMIT_AUTHENTICATED": "100000",
        "BAILIWICK_RATE_LIMIT_SIGN_IN": "100000",
        "BAILIWICK_SPOOL_SEGMENT_MB": "4",
        **{name: value.replace("{api_port}", str(api)) for name, value in settings.items()},
    }
    for unwanted in ("BAILIWICK_TEST_DATABASE_URL", *(() if measured else ("COVERAGE_PROCESS_CONFIG",))):
        environment.pop(unwanted, None)
    base = "http://127.0.0.1"
    ports = ("--api-port", str(api), "--gateway-port", str(gateway))
    start = (*ports, "--workers", settings.get("WORKERS", "2"), *options, *(() if tls else ("--dev",)))
    stack = Stack(
        home / "data", f"{base}:{api}", f"{base}:{gateway}", environment, upstream, start=start, within=within
    )
    try:
        up = stack.up()
        assert up.returncode == 0, up.stdout + up.stderr
        if not tls:
            stack.sign_in()
        yield stack
    finally:
        written = Search(stack.data_dir)
        try:
            written.read_database()
        finally:
            down = stack.cli("down")
            upstream.server.shutdown()
            upstream.server.server_close()
        try:
            written.finish()
        finally:
            shutil.rmtree(home, ignore_errors=True)
        assert down.returncode == 0, down.stdout + down.stderr
