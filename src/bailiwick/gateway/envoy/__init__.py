"""Envoy's configuration, from plain values to files Envoy follows."""

from bailiwick.gateway.envoy.admin import EnvoyAdmin
from bailiwick.gateway.envoy.files import Applied, EnvoyFiles, EnvoyRejected
from bailiwick.gateway.envoy.model import Arm, GatewayConfig, Listener, Route, Split, Upstream, Worker

__all__ = [
    "Applied",
    "Arm",
    "EnvoyAdmin",
    "EnvoyFiles",
    "EnvoyRejected",
    "GatewayConfig",
    "Listener",
    "Route",
    "Split",
    "Upstream",
    "Worker",
]
