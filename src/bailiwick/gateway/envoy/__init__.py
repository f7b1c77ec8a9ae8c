"""Envoy's configuration, from plain values to files Envoy follows."""

from bailiwick.gateway.envoy.admin import EnvoyAdmin
from bailiwick.gateway.envoy.files import Applied, EnvoyFiles, EnvoyRejected
from bailiwick.gateway.envoy.model import GatewayConfig, Listener, Route, Upstream, Worker

__all__ = [
    "Applied",
    "EnvoyAdmin",
    "EnvoyFiles",
    "EnvoyRejected",
    "GatewayConfig",
    "Listener",
    "Route",
    "Upstream",
    "Worker",
]
