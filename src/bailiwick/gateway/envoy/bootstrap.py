"""What Envoy starts with: its admin socket, its listeners and the clusters that are always there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bailiwick.gateway.envoy.clusters import API, CANARY_STATISTICS, CHECK, static_clusters
from bailiwick.gateway.envoy.listeners import api_listener, gateway_listener
from bailiwick.gateway.envoy.model import GatewayConfig
from bailiwick.gateway.envoy.protos import Config, pipe, typed, watched

# Kept small: a statistic per server would grow with the inventory.
_STATISTICS = (
    "cluster_manager.",
    "listener_manager.",
    "server.",
    "http.gateway.",
    "http.api.",
    "cluster.api.",
    "cluster.check.",
    "cluster.guard.",
    f"cluster.{CANARY_STATISTICS}.",  # the arms of canaries: three clusters for each server that has one
)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each of Envoy's files lies below the run directory."""

    root: Path

    @property
    def bootstrap(self) -> Path:
        return self.root / "bootstrap.json"

    @property
    def clusters(self) -> Path:
        return self.root / "cds" / "cds.json"

    @property
    def routes(self) -> Path:
        return self.root / "rds" / "rds.json"

    @property
    def fallback(self) -> Path:
        """Like `routes`, with no traffic for candidates; no directory that Envoy watches."""
        return self.root / "fallback.json"

    def workers(self, cluster: str) -> Path:
        return self.root / f"eds-{cluster}" / "eds.json"

    def certificate(self, listener: str) -> Path:
        return self.root / f"sds-{listener}" / "sds.json"


def bootstrap(config: GatewayConfig, layout: Layout) -> Config:
    """Envoy's bootstrap configuration."""
    api_secret = layout.certificate("api") if config.api_listener.tls else None
    gateway_secret = layout.certificate("gateway") if config.gateway_listener.tls else None
    return {
        "node": {"id": "bailiwick", "cluster": "bailiwick"},
        "admin": {"address": _admin_address(config)},
        "dynamic_resources": {"cds_config": watched(layout.clusters)},
        "static_resources": {
            "clusters": static_clusters(config, {name: layout.workers(name) for name in (API, CHECK)}),
            "listeners": [
                api_listener(config, api_secret),
                gateway_listener(config, gateway_secret, layout.routes),
            ],
        },
        # The only sink is whoever asks: histograms are merged when somebody does, and cost nothing otherwise.
        "stats_flush_on_admin": True,
        "stats_config": {
            "stats_matcher": {"inclusion_list": {"patterns": [{"prefix": prefix} for prefix in _STATISTICS]}}
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": typed(
                        "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                        max_active_downstream_connections=config.max_connections,
                    ),
                }
            ]
        },
    }


def _admin_address(config: GatewayConfig) -> Config:
    address = pipe(config.admin_socket)
    address["pipe"]["mode"] = 0o600
    return address
