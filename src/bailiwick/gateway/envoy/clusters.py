"""Clusters: the workers' API and check, the stream guard, and one per distinct upstream binding."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from bailiwick.gateway.envoy.model import GatewayConfig, Route, Split, Upstream, Worker
from bailiwick.gateway.envoy.protos import Config, endpoints, pipe, seconds, tcp, typed, watched

HEALTH_PATH = "/health/live"
API, CHECK, GUARD = "api", "check", "guard"
CANARY_STATISTICS = "canary"
"""Below which name (`cluster.canary.{id}.{arm}.`) Envoy counts what the arms of canaries did."""

# Shorter than the keep-alive of the servers we meet (uvicorn and node close after 5 s): the side that closes
# an idle connection must be ours, or a request can meet a connection that is just being closed.
_KEEP_ALIVE_S = 4.0
_SYSTEM_CA = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)


@lru_cache(maxsize=8192)
def upstream_cluster_name(route: Route) -> str:
    """A name that changes with the binding.

    A changed upstream is a new cluster beside the old one, so that a request never meets the new address
    with the old path or the other way round, and streams on the old one end by themselves.
    """
    body = json.dumps(asdict(_require_upstream(route)), sort_keys=True, default=str)
    return f"{route.name}@{hashlib.sha256(body.encode()).hexdigest()[:12]}"


@lru_cache(maxsize=1024)
def arm_cluster_name(route: str, canary: str, arm: str, upstream: Upstream) -> str:
    """The name of an arm's cluster; it changes with the upstream, and never with the weight."""
    body = json.dumps([canary, asdict(upstream)], sort_keys=True, default=str)
    return f"{route}@{arm}-{hashlib.sha256(body.encode()).hexdigest()[:12]}"


def upstream_clusters(routes: Iterable[Route]) -> list[Config]:
    """The clusters (CDS resources) of all routes that have an upstream, in a stable order."""
    found: dict[str, Config] = {}
    for route in routes:
        if route.split is not None:
            found |= dict(_arm_clusters(route.name, route.split))
        elif route.upstream is not None:
            name = upstream_cluster_name(route)
            found[name] = _upstream_cluster(name, route.upstream)
    return [found[name] for name in sorted(found)]


def _arm_clusters(route: str, split: Split) -> Iterable[tuple[str, Config]]:
    for arm in split.arms:
        name = arm_cluster_name(route, split.canary, arm.name, arm.upstream)
        counted = f"{CANARY_STATISTICS}.{split.canary}.{arm.name}"
        yield name, {**_upstream_cluster(name, arm.upstream), "alt_stat_name": counted}


def static_clusters(config: GatewayConfig, eds: dict[str, Path]) -> list[Config]:
    """The clusters Envoy starts with; the workers in them come and go by EDS, which resets no stream."""
    return [
        _worker_cluster(config, API, eds[API]),
        _worker_cluster(config, CHECK, eds[CHECK]),
        {
            **_common(GUARD, config.max_connections * 4),
            "type": "STATIC",
            "connect_timeout": "1s",
            "load_assignment": endpoints(GUARD, [pipe(config.guard_socket)]),
            "typed_extension_protocol_options": _http_options({"http2_protocol_options": {}}),
        },
    ]


def worker_endpoints(workers: Iterable[Worker]) -> dict[str, Config]:
    """The EDS resources of the API and the check cluster."""
    members = list(workers)
    message = "envoy.config.endpoint.v3.ClusterLoadAssignment"
    return {
        API: typed(message, **endpoints(API, [pipe(worker.api_socket) for worker in members])),
        CHECK: typed(message, **endpoints(CHECK, [pipe(worker.check_socket) for worker in members])),
    }


def _require_upstream(route: Route) -> Upstream:
    if route.upstream is None:
        raise ValueError(f"server {route.name} has no upstream")
    return route.upstream


def _worker_cluster(config: GatewayConfig, name: str, eds: Path) -> Config:
    return {
        **_common(name, config.max_connections),
        "type": "EDS",
        "eds_cluster_config": {"eds_config": watched(eds)},
        "connect_timeout": "0.5s",
        "lb_policy": "ROUND_ROBIN",
        # A worker that is gone or hangs is set aside after one failure and tried again a second later.
        "outlier_detection": {
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 1,
            "enforcing_consecutive_local_origin_failure": 100,
            "enforcing_local_origin_success_rate": 0,
            "enforcing_success_rate": 0,
            "enforcing_consecutive_5xx": 0,
            "enforcing_consecutive_gateway_failure": 0,
            "interval": "0.5s",
            "base_ejection_time": "1s",
            "max_ejection_time": "1s",
            "max_ejection_percent": 99,
        },
        # Any answer will do: what is asked is whether the worker's loop turns. One that stays away is left
        # alone until it answers again, and one that is added gets no request before it does.
        "health_checks": [
            {
                "timeout": "1s",
                "interval": "0.5s",
                "no_traffic_interval": "0.5s",
                "interval_jitter_percent": 20,
                "unhealthy_threshold": 1,
                "healthy_threshold": 1,
                "http_health_check": {"path": HEALTH_PATH, "expected_statuses": [{"start": 200, "end": 600}]},
            }
        ],
        # A worker taken off the list is out at once, however healthy: that is how one is fenced off.
        "ignore_health_on_host_removal": True,
        # With every worker set aside, try them all rather than none.
        "common_lb_config": {"healthy_panic_threshold": {"value": 1}},
        "typed_extension_protocol_options": _http_options({"http_protocol_options": {}}),
    }


def _upstream_cluster(name: str, upstream: Upstream) -> Config:
    protocol = "http2_protocol_options" if upstream.http2 else "http_protocol_options"
    cluster = {
        **_common(name, 4096),
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": endpoints(name, [tcp(ip, port) for ip, port in upstream.addresses]),
        "typed_extension_protocol_options": _http_options({protocol: {}}),
    }
    if upstream.tls:
        cluster["transport_socket"] = _upstream_tls(upstream)
    return typed("envoy.config.cluster.v3.Cluster", **cluster)


def _upstream_tls(upstream: Upstream) -> Config:
    trusted = upstream.ca_file or next((Path(ca) for ca in _SYSTEM_CA if Path(ca).exists()), Path(_SYSTEM_CA[0]))
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": typed(
            "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            sni=upstream.sni,
            common_tls_context={
                "alpn_protocols": ["h2"] if upstream.http2 else ["http/1.1"],
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                "validation_context": {
                    "trusted_ca": {"filename": str(trusted)},
                    "match_typed_subject_alt_names": [
                        {"san_type": "DNS", "matcher": {"exact": upstream.sni, "ignore_case": True}}
                    ],
                },
            },
        ),
    }


def _common(name: str, limit: int) -> Config:
    bounds = {"max_connections": limit, "max_pending_requests": limit, "max_requests": limit, "max_retries": 512}
    return {"name": name, "circuit_breakers": {"thresholds": [bounds]}}


def _http_options(protocol: Config) -> Config:
    name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {
        name: typed(
            name,
            common_http_protocol_options={"idle_timeout": seconds(_KEEP_ALIVE_S)},
            explicit_http_config=protocol,
        )
    }
