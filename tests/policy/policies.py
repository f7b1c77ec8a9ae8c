"""Policies that several tests use."""

from __future__ import annotations

from typing import Any

from bailiwick.policy.engine import EngineKind, RegorusEngine, RegorusSet
from bailiwick.policy.rego_syntax import Module

SEED = """package sark.authz

allow {
  input.user.role == "admin"
}

allow {
  input.action == "read"
  input.user.role == "viewer"
}
"""
"""The first seed's authorization.rego, exactly as printed there."""


def v1(body: str, package: str = "app") -> Module:
    """A v1 module of one package."""
    return Module(f"{package}.rego", f"package {package}\n\nimport rego.v1\n\n{body}\n")


def v0(body: str, package: str = "app") -> Module:
    """A v0 module of one package."""
    return Module(f"{package}.rego", f"package {package}\n\n{body}\n")


def compiled(*modules: Module, data: dict[str, Any] | None = None, kind: EngineKind | None = None) -> RegorusSet:
    """A set ready to answer."""
    return RegorusEngine(kind).compile(modules, data or {})
