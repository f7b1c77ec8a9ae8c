"""Names of Envoy's configuration messages, and the few shapes every part of the configuration uses."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

Config = dict[str, Any]

_PREFIX = "type.googleapis.com/"


def typed(message: str, **fields: Any) -> Config:
    """A message packed in an Any, e.g. `typed("envoy.config.cluster.v3.Cluster", name=...)`."""
    return {"@type": _PREFIX + message, **fields}


def extension(name: str, message: str, **fields: Any) -> Config:
    """A named extension (a filter, a formatter, a matcher's input …) and its configuration."""
    return {"name": name, "typed_config": typed(message, **fields)}


def seconds(value: float) -> str:
    """A protobuf Duration in JSON form."""
    return f"{value:.3f}s".replace(".000s", "s")


def watched(path: Path) -> Config:
    """A configuration source that follows renames into `path`'s directory.

    Each file has a directory to itself: Envoy reads a source again on every rename in its directory.
    """
    return {
        "resource_api_version": "V3",
        "path_config_source": {"path": str(path), "watched_directory": {"path": str(path.parent)}},
    }


def pipe(path: Path) -> Config:
    """A unix socket's address."""
    return {"pipe": {"path": str(path)}}


def tcp(address: str, port: int) -> Config:
    return {"socket_address": {"address": address, "port_value": port}}


def set_header(name: str, value: str) -> Config:
    """A HeaderValueOption that replaces; where `value`'s format comes out empty, no header is set."""
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def endpoints(cluster: str, addresses: Iterable[Config]) -> Config:
    """A ClusterLoadAssignment with one locality."""
    members = [{"endpoint": {"address": address}} for address in addresses]
    return {"cluster_name": cluster, "endpoints": [{"lb_endpoints": members}] if members else []}
