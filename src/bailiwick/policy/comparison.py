"""What a change of policy newly allows: (principal, action, server) pairs that flip from no to yes.

Both sets are tried on what was asked recently and on every known principal against every known operation. Both lists
are bounded, and the result says when a bound was reached: finding no pair only reassures when the search was complete.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import msgspec

from bailiwick.evidence.inputs import input_aad
from bailiwick.kernel.crypto import Sealer, SealError
from bailiwick.kernel.db import Transaction
from bailiwick.policy.inputs import evaluate_input, request_input, verb_of
from bailiwick.policy.sandbox import SandboxFailed
from bailiwick.policy.trial import Source, Trials

MAX_RECENT = 2_000
MAX_RECENT_BYTES = 16 * 1024
MAX_KNOWN = 5_000
MAX_PAIRS = 1_000
_MAX_NAME = 200

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class KnownPrincipal:
    """Somebody who may ask. ``grants`` (server → scopes) are an application's."""

    kind: Literal["user", "application"]
    id: str
    name: str
    role: str
    grants: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class KnownServer:
    """Something that may be asked for. ``operations`` are (method, path template, scope)."""

    name: str
    tags: Mapping[str, str]
    operations: Sequence[tuple[str, str, str]]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Who and what a zone has, from a worker's memory."""

    principals: Sequence[KnownPrincipal] = ()
    servers: Sequence[KnownServer] = ()


class Pair(msgspec.Struct, frozen=True, order=True):
    """A principal that may now do something to a server (or resource) that it could not before."""

    principal: str
    principal_type: str
    action: str
    server: str

    def __str__(self) -> str:
        return f"{self.principal_type} {self.principal}: {self.action} {self.server}"


class Comparison(msgspec.Struct, frozen=True):
    """What was found, and how thoroughly was looked.

    ``status`` is ``complete``, ``truncated`` (a bound was reached, or inputs could not be read) or ``failed``, which
    leaves ``newly_allowed`` unknown and ``fault`` telling why.
    """

    status: Literal["complete", "truncated", "failed"]
    inputs: int = 0
    left_out: int = 0
    errors: int = 0
    newly_allowed: int | None = None
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class RecentInputs:
    """Sealed inputs of recent decisions; ``left_out`` were too many or too large."""

    sealed: Sequence[tuple[str, bytes]]
    left_out: int


async def read_recent(tx: Transaction, zone: str, now: datetime) -> RecentInputs:
    """The inputs asked most recently (to the hour), at most :data:`MAX_RECENT`."""
    rows = await tx.all(
        "SELECT digest, CASE WHEN octet_length(sealed) <= :largest THEN sealed END AS sealed FROM decision_inputs"
        " WHERE zone = :zone AND expires_at > :now ORDER BY expires_at DESC LIMIT :limit",
        zone=zone,
        now=now,
        largest=MAX_RECENT_BYTES,
        limit=MAX_RECENT + 1,
    )
    kept = [(row["digest"], bytes(row["sealed"])) for row in rows[:MAX_RECENT] if row["sealed"] is not None]
    return RecentInputs(kept, len(rows) - len(kept))


async def compare(
    trials: Trials,
    sealer: Sealer,
    zone: str,
    old: Source | None,
    new: Source,
    recent: RecentInputs,
    surroundings: Surroundings,
) -> tuple[Comparison, list[Pair]]:
    """Find the pairs. Never raises for what a set does; the event loop only waits."""
    documents: list[bytes] = []
    left_out = 0

    def gather() -> list[bytes]:
        nonlocal left_out
        opened, unreadable = _open_all(sealer, zone, recent.sealed)
        known, beyond = _known(zone, surroundings)
        documents.extend((*opened, *known))
        left_out = recent.left_out + unreadable + beyond
        return documents

    try:
        compared = await trials.compare(old, new, gather)
    except (SandboxFailed, OSError) as failure:
        fault = failure.fault if isinstance(failure, SandboxFailed) else "not_ready"
        return Comparison("failed", len(documents), left_out, fault=fault), []
    pairs = sorted({pair_of(msgspec.json.decode(documents[position])) for position in compared.flipped})
    status: Literal["complete", "truncated"] = "truncated" if left_out else "complete"
    return Comparison(status, len(documents), left_out, compared.errors, len(pairs)), pairs


def pair_of(document: Any) -> Pair:
    """Who wanted to do what to what, as far as an input says."""
    subject, user = _object(document, "subject"), _object(document, "user")
    server, operation = _object(document, "server"), _object(document, "operation")
    return Pair(
        principal=_word(subject.get("id", user.get("id"))),
        principal_type=_word(subject.get("type", "user")),
        action=_word(document.get("action", operation.get("scope"))),
        server=_word(server.get("name", document.get("resource"))),
    )


def known_inputs(zone: str, surroundings: Surroundings) -> Iterator[dict[str, Any]]:
    """Every known principal against every known operation: users as they ask us, applications as they call."""
    for server in surroundings.servers:
        described = {"name": server.name, "tags": dict(server.tags)}
        verbs = dict.fromkeys(verb_of(scope) for _, _, scope in server.operations)
        for principal in surroundings.principals:
            if principal.kind == "user":
                for verb in verbs:
                    yield evaluate_input(zone, principal.name, principal.role, verb, server.name)
                continue
            application = {
                "id": principal.id,
                "name": principal.name,
                "role": principal.role,
                "grants": {name: sorted(scopes) for name, scopes in principal.grants.items()},
            }
            for method, template, scope in server.operations:
                operation = {"method": method, "template": template, "path": template, "scope": scope}
                yield request_input(zone, application, described, operation, [scope])


def _known(zone: str, surroundings: Surroundings) -> tuple[list[bytes], int]:
    """The encoded cross product, and how many of it are beyond the bound."""
    documents: list[bytes] = []
    beyond = 0
    for document in known_inputs(zone, surroundings):
        if len(documents) < MAX_KNOWN:
            documents.append(_encode(document))
        else:
            beyond += 1
            if beyond >= MAX_KNOWN:
                break  # far more than we look at; how many more does not matter
    return documents, beyond


def _open_all(sealer: Sealer, zone: str, sealed: Sequence[tuple[str, bytes]]) -> tuple[list[bytes], int]:
    opened = []
    for digest, value in sealed:
        try:
            document = sealer.open(value, input_aad(zone, digest))
            if isinstance(msgspec.json.decode(document), dict):
                opened.append(document)
        except (SealError, msgspec.MsgspecError, RecursionError):
            continue
    return opened, len(sealed) - len(opened)


def _object(document: Any, key: str) -> Mapping[str, Any]:
    value = document.get(key) if isinstance(document, dict) else None
    return value if isinstance(value, dict) else {}


def _word(value: Any) -> str:
    text = value if isinstance(value, str) else "" if value is None else _encode(value).decode()
    return text[:_MAX_NAME]
