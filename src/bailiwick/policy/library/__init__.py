"""The policies a new installation starts with, each with its tests beside it."""

from __future__ import annotations

from importlib.resources import files

from bailiwick.policy.rego_syntax import Module

POLICIES = ("authorization.rego", "rate_limiting.rego", "default.rego")
"""The first seed's two files, and the rule for mandates."""


def library_modules() -> tuple[Module, ...]:
    """The policies of the default set, in order of :data:`POLICIES`."""
    return tuple(Module(name, (files(__name__) / name).read_text("utf-8")) for name in POLICIES)


def library_tests() -> tuple[Module, ...]:
    """The Rego tests of the default set."""
    names = [name.replace(".rego", "_test.rego") for name in POLICIES]
    return tuple(Module(name, (files(__name__) / name).read_text("utf-8")) for name in names)
