"""What a worker does with the active set: load it, compile it, and stand by the last good one when that fails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from bailiwick.kernel.db import Transaction
from bailiwick.policy.decisions import Decider
from bailiwick.policy.engine import CompiledSet, PolicyEngine, RegorusEngine
from bailiwick.policy.rego_syntax import Module, PolicyRefused
from bailiwick.policy.sets import (
    MAX_HISTORY_READ,
    Activation,
    DataConflict,
    merged_data,
    read_active,
    read_history,
    read_members,
    rollback_targets,
)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ActiveSet:
    """A set as the engine takes it. ``hash`` is its content address, which decisions name."""

    hash: str
    modules: tuple[Module, ...]
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a decider runs after a load. ``fault`` is set where that is not what is active.

    ``wanted`` and ``running`` are set hashes; None: nothing is active, and everything is denied.
    """

    zone: str
    wanted: str | None
    running: str | None
    fault: str | None = None


async def load_active(tx: Transaction, zone: str) -> ActiveSet | None:
    """The zone's active set; None when nothing is active."""
    activation = await read_active(tx, zone)
    return await load_set(tx, zone, activation) if activation and activation.members else None


async def load_set(tx: Transaction, zone: str, activation: Activation) -> ActiveSet:
    """The set of one activation."""
    versions = await read_members(tx, zone, activation.members)
    return ActiveSet(activation.hash, tuple(version.module for version in versions), merged_data(versions))


async def load_decider(tx: Transaction, zone: str, decider: Decider, engine: PolicyEngine | None = None) -> Loaded:
    """Make ``decider`` run the zone's active set, or say why it does not.

    A set that runs already is left alone, with what was remembered of its answers. One that does not compile here is
    replaced by the last-known-good one of the history; without one everything is denied. Call it on the thread that
    decides: compiled sets are bound to it.
    """
    engine = engine or RegorusEngine()
    active = await read_active(tx, zone)
    if active is None or not active.members:
        if decider.policy_set is not None:
            decider.swap(None)
        return Loaded(zone, None, None)
    if decider.policy_set == active.hash:
        return Loaded(zone, active.hash, active.hash)
    compiled = await _compile(tx, zone, active, engine)
    if not isinstance(compiled, str):
        decider.swap(compiled)
        return Loaded(zone, active.hash, compiled.set_hash)
    for candidate in rollback_targets(await read_history(tx, zone, None, MAX_HISTORY_READ)):
        if decider.policy_set == candidate.hash:
            running: str | None = candidate.hash
            break
        replacement = await _compile(tx, zone, candidate, engine)
        if not isinstance(replacement, str):
            decider.swap(replacement)
            running = candidate.hash
            break
    else:
        decider.swap(None)
        running = None
    log.error("active policy set does not compile", zone=zone, wanted=active.hash, running=running, fault=compiled)
    return Loaded(zone, active.hash, running, compiled)


async def _compile(tx: Transaction, zone: str, activation: Activation, engine: PolicyEngine) -> CompiledSet | str:
    """The compiled set, or the reason code of what is wrong with it."""
    try:
        found = await load_set(tx, zone, activation)
    except (LookupError, DataConflict):
        return "policy_set_altered"
    try:
        compiled = engine.compile(found.modules, found.data)
    except PolicyRefused as refusal:
        return refusal.findings[0].reason
    except Exception:
        log.exception("policy set cannot be loaded", zone=zone, policy_set=activation.hash)
        return "policy_engine_crashed"
    if compiled.set_hash != activation.hash:
        return "policy_set_altered"
    return compiled
