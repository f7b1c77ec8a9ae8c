"""Servers that speak what a cluster's do: Kubernetes, Grafana, Loki and Consul by their HTTP APIs, and a site.

Where no such server can be had for a test, this answers as the documented API does: lists with ``kind``, ``metadata``
and ``items`` that come page by page, a bearer that is asked for, 404 for kinds that nobody defined.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "kube-token-of-the-test"
APPS = "/apis/apps/v1/namespaces"


def labelled(name: str, namespace: str = "", **more: Any) -> dict[str, Any]:
    about: dict[str, Any] = {"name": name, "resourceVersion": "1"}
    return {"metadata": {**about, **({"namespace": namespace} if namespace else {}), **more.pop("about", {})}, **more}


def node(name: str, cpu: str = "4", memory: str = "16Gi", ready: str = "True") -> dict[str, Any]:
    status = {"conditions": [{"type": "Ready", "status": ready}], "capacity": {"cpu": cpu, "memory": memory}}
    return labelled(name, spec={}, status=status)


def secret(name: str, **values: str) -> dict[str, Any]:
    return labelled(
        name, "production", data={key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    )


STRONG = "pA7kQ2vX9mL4tR8wZ1nC6bJ3hF5dS0gY"
"""Looks random enough, and opens nothing."""


def deployment() -> dict[str, Any]:
    container = {
        "name": "api",
        "image": "bailiwick:1",
        "env": [
            {"name": "BAILIWICK_DATABASE_URL", "valueFrom": {"secretKeyRef": {"name": "x", "key": "y"}}},
            {"name": "BAILIWICK_PUBLIC_URL", "value": "https://api.example.com"},
        ],
        "livenessProbe": {"httpGet": {"path": "/health", "port": 8080}},
        "readinessProbe": {"httpGet": {"path": "/health/ready", "port": 8080}},
        "resources": {"limits": {"cpu": "1000m", "memory": "2Gi"}},
        "securityContext": {
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    pod = {"securityContext": {"runAsNonRoot": True}, "containers": [container]}
    return labelled(
        "bailiwick", "production", spec={"replicas": 4, "template": {"spec": pod}}, status={"readyReplicas": 4}
    )


def healthy_cluster() -> dict[str, list[dict[str, Any]]]:
    """The lists of a cluster where everything is as it should be, by their paths."""
    restricted = {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}
    policies = []
    for space in ("production", "monitoring"):
        deny = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
        allow = {"podSelector": {"matchLabels": {"app": "x"}}, "policyTypes": ["Ingress"], "ingress": [{"ports": [{}]}]}
        policies += [labelled("deny", space, spec=deny), labelled("allow", space, spec=allow)]
    claims = [("data-postgresql-0", "500G"), ("data-audit-0", "1Ti")]
    target = {"averageUtilization": 70, "type": "Utilization"}
    selector = {"matchLabels": {"app": "bailiwick"}}
    return {
        "/api/v1/nodes": [node(f"n{number}") for number in range(6)],
        "/api/v1/namespaces": [
            labelled("production", status={"phase": "Active"}, about=restricted),
            labelled("monitoring", status={"phase": "Active"}),
        ],
        "/apis/storage.k8s.io/v1/storageclasses": [labelled("fast", parameters={"type": "gp3"})],
        "/api/v1/namespaces/production/persistentvolumeclaims": [
            labelled(name, "production", status={"phase": "Bound", "capacity": {"storage": size}})
            for name, size in claims
        ],
        "/apis/networking.k8s.io/v1/namespaces/production/ingresses": [
            labelled(
                "api",
                "production",
                spec={"tls": [{"hosts": ["api.example.com"]}]},
                status={"loadBalancer": {"ingress": [{"hostname": "lb.example.com"}]}},
            )
        ],
        "/apis/networking.k8s.io/v1/networkpolicies": policies,
        "/api/v1/namespaces/production/secrets": [
            secret("postgresql-credentials", username="owner", password=STRONG),
            secret("timescaledb-credentials", username="owner", password=STRONG[::-1]),
            secret("redis-credentials", password=STRONG),
            secret("jwt-secret", secret_key=STRONG),
            secret("grafana-credentials", admin_password=STRONG),
        ],
        f"{APPS}/production/deployments": [deployment()],
        f"{APPS}/monitoring/deployments": [
            labelled("grafana", "monitoring", spec={"replicas": 2}, status={"readyReplicas": 2})
        ],
        f"{APPS}/monitoring/statefulsets": [
            labelled("prometheus", "monitoring", spec={"replicas": 2}, status={"readyReplicas": 2})
        ],
        "/api/v1/namespaces/production/configmaps": [
            labelled(name, "production", data={"k": "v"}) for name in ("app-config", "opa-config")
        ],
        "/apis/autoscaling/v2/namespaces/production/horizontalpodautoscalers": [
            labelled(
                "bailiwick",
                "production",
                spec={
                    "scaleTargetRef": {"kind": "Deployment", "name": "bailiwick"},
                    "minReplicas": 4,
                    "maxReplicas": 20,
                    "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
                },
                status={"conditions": [{"type": "ScalingActive", "status": "True"}]},
            )
        ],
        "/apis/policy/v1/namespaces/production/poddisruptionbudgets": [
            labelled("api", "production", spec={"minAvailable": 2, "selector": selector})
        ],
        "/apis/monitoring.coreos.com/v1/namespaces/production/servicemonitors": [
            labelled("api", "production", spec={"endpoints": [{"port": "http"}], "selector": selector})
        ],
    }


HEADERS = {
    "Strict-Transport-Security": "max-age=63072000",
    "Content-Security-Policy": "default-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=()",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Surroundings:
    """Everything the servers answer from. A test breaks what it likes; :meth:`heal` makes all of it right again."""

    def __init__(self) -> None:
        self.heal()

    def heal(self) -> None:
        self.cluster = healthy_cluster()
        self.token = TOKEN
        self.dashboards = [
            "Bailiwick API Overview", "Kubernetes Cluster", "PostgreSQL Performance", "Redis Performance",
            "NGINX Ingress",
        ]  # fmt: skip
        self.data_sources = ["prometheus", "loki"]
        self.grafana_database = "ok"
        self.loki_ready = True
        self.loki_lines = 12.0
        self.consul: list[Any] = [{"Service": {"Service": "bailiwick"}, "Checks": [{"Status": "passing"}]}]
        self.headers = dict(HEADERS)
        self.allow_origin = ""
        self.limit = 100
        self.asked = 0
        self.ready = 200

    # --- what is answered

    def answer(self, method: str, target: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        parts = urlsplit(target)
        server, _, path = unquote(parts.path).lstrip("/").partition("/")
        query = parse_qs(parts.query)
        status, document = getattr(self, f"_{server}")(f"/{path}", query, headers)
        told = self._told(server, headers)
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        return status, told, body

    def _told(self, server: str, headers: dict[str, str]) -> dict[str, str]:
        told = dict(self.headers) if server == "site" else {}
        if server == "site" and self.allow_origin and "origin" in headers:
            told["Access-Control-Allow-Origin"] = self.allow_origin
        return told

    def _kubernetes(self, path: str, query: dict[str, list[str]], headers: dict[str, str]) -> tuple[int, Any]:
        if headers.get("authorization") != f"Bearer {self.token}":
            return 401, {"kind": "Status", "status": "Failure", "reason": "Unauthorized", "code": 401}
        if path not in self.cluster:
            return 404, {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}
        items = self.cluster[path]
        first, size = int(query.get("continue", ["0"])[0]), min(int(query["limit"][0]), 4)  # pages smaller than asked
        following = str(first + size) if first + size < len(items) else ""
        metadata = {"resourceVersion": "7", **({"continue": following} if following else {})}
        return 200, {"kind": "SomeList", "apiVersion": "v1", "metadata": metadata, "items": items[first : first + size]}

    def _grafana(self, path: str, query: dict[str, list[str]], headers: dict[str, str]) -> tuple[int, Any]:
        if path == "/api/health":
            return 200, {"database": self.grafana_database, "version": "11.0.0"}
        if headers.get("authorization") != f"Bearer {TOKEN}":
            return 401, {"message": "Unauthorized"}
        if path == "/api/search":
            return 200, [{"title": title, "type": "dash-db", "uid": title} for title in self.dashboards]
        return 200, [{"name": kind, "type": kind, "access": "proxy"} for kind in self.data_sources]

    def _loki(self, path: str, query: dict[str, list[str]], headers: dict[str, str]) -> tuple[int, Any]:
        if path == "/ready":
            return (200, b"ready\n") if self.loki_ready else (503, b"Ingester not ready\n")
        assert "count_over_time" in query["query"][0]
        result = [{"metric": {}, "value": [1.0, str(self.loki_lines)]}] if self.loki_lines else []
        return 200, {"status": "success", "data": {"resultType": "vector", "result": result}}

    def _consul(self, path: str, query: dict[str, list[str]], headers: dict[str, str]) -> tuple[int, Any]:
        assert path == "/v1/health/service/bailiwick"
        return 200, self.consul

    def _site(self, path: str, query: dict[str, list[str]], headers: dict[str, str]) -> tuple[int, Any]:
        if path == "/health/ready":
            return self.ready, {"status": "ready"}
        if path == "/api/v1/servers":
            self.asked += 1
            return (401, {}) if self.asked <= self.limit else (429, {})
        return 200, {"status": "healthy"}


@asynccontextmanager
async def serving(surroundings: Surroundings) -> AsyncIterator[str]:
    """The address under which all answer, each by the first part of the path."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, target, _ = head[0].split(" ")
            headers = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)
            }
            status, told, body = surroundings.answer(method, target, headers)
            lines = "".join(f"{name}: {value}\r\n" for name, value in told.items())
            answer = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{lines}Connection: close\r\n\r\n"
            writer.write(answer.encode() + body)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
