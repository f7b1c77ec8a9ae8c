"""Policy versions, the sets made of them, and which set was active when.

A *version* of a policy is one Rego file, and optionally one JSON document, that was admitted under a name. A *set* is
what is active together: at most one version of each name, addressed by its content (:func:`set_hash`), which is also
what every decision names. An *activation* is a line of the zone's history; the newest one is what is active.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import msgspec

from bailiwick.kernel.db import Row, Transaction
from bailiwick.policy.rego_analysis import set_hash
from bailiwick.policy.rego_syntax import Finding, Module

ActivationKind = Literal["initial", "activate", "deactivate", "rollback"]

_LOCK = 0x706F6C69  # "poli": one change of a zone's set at a time
_canonical = msgspec.json.Encoder(order="deterministic").encode


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """One admitted file. ``sha256`` is the hexadecimal digest of its bytes (see :func:`content_digest`)."""

    name: str
    version: int
    sha256: str
    source: str
    data: Mapping[str, Any]
    description: str
    dialect: str
    report: Mapping[str, Any]
    created_by: str
    created_at: datetime

    @property
    def module(self) -> Module:
        """The file as the engine takes it: always named after the policy, whatever the upload was called."""
        return Module(f"{self.name}.rego", self.source)

    @property
    def member(self) -> Member:
        """The version as a set lists it."""
        return Member(self.name, self.version, self.sha256)


class Member(msgspec.Struct, frozen=True, order=True):
    """A version in a set."""

    name: str
    version: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Activation:
    """A line of the history.

    ``newly_allowed`` lists (principal, action, server) pairs that the set allows and the one before it did not;
    ``comparison`` says how thoroughly that was looked for. ``decided_at`` is when a worker first reported a decision
    by the set, ``suspect_at`` when one reported a policy error, or when the set was rolled back from. ``approval`` is
    what two persons agreed by, where it took that.
    """

    id: int
    hash: str
    previous: str | None
    kind: ActivationKind
    members: tuple[Member, ...]
    newly_allowed: Sequence[Mapping[str, Any]]
    comparison: Mapping[str, Any]
    decided_at: datetime | None
    suspect_at: datetime | None
    known_good_at: datetime | None
    activated_by: str
    activated_at: datetime
    approval: str | None = None

    def member(self, name: str) -> Member | None:
        """The version of ``name`` in the set, or None."""
        return next((member for member in self.members if member.name == name), None)


@dataclass(frozen=True, slots=True)
class PolicyListing:
    """One line of the list of policies."""

    name: str
    newest: int
    versions: int
    sha256: str
    description: str
    dialect: str
    created_by: str
    created_at: datetime


class DataConflict(Exception):
    """Two policies of a set bring different data for one path."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.message)
        self.finding = finding


# --- rules --------------------------------------------------------------------------------------------------------


def content_digest(source: bytes, data: Mapping[str, Any]) -> str:
    """What makes two uploads of a name the same version: the SHA-256 of the file, as ``sha256sum`` prints it.

    Where there is data, of the file, a NUL byte and the data in canonical form.
    """
    digest = hashlib.sha256(source)
    if data:
        digest.update(b"\x00" + _canonical(data))
    return digest.hexdigest()


def merged_data(versions: Sequence[PolicyVersion]) -> dict[str, Any]:
    """The data of a set: what its members bring, object by object. Raises :class:`DataConflict`."""
    merged: dict[str, Any] = {}
    for version in sorted(versions, key=lambda each: each.name):
        _merge_into(merged, version.data, "data", version.module.name)
    return merged


def _merge_into(target: dict[str, Any], data: Mapping[str, Any], place: str, file: str) -> None:
    for key, value in data.items():
        here = f"{place}.{key}"
        if key not in target:
            target[key] = _merged_copy(value, here, file)
        elif isinstance(target[key], dict) and isinstance(value, dict):
            _merge_into(target[key], value, here, file)
        elif target[key] != value:
            message = f"another policy of the set has a different value at {here[:200]}"
            raise DataConflict(Finding(file, None, "policy_data_conflict", message))


def _merged_copy(value: Any, place: str, file: str) -> Any:
    if not isinstance(value, dict):
        return value
    copy: dict[str, Any] = {}
    _merge_into(copy, value, place, file)
    return copy


def hash_of(versions: Sequence[PolicyVersion]) -> str:
    """The content address of a set. Raises :class:`DataConflict`."""
    return set_hash([version.module for version in versions], merged_data(versions))


def rollback_targets(history: Sequence[Activation]) -> list[Activation]:
    """Where a rollback may lead, best first, out of a history that is newest first and starts with what is active.

    Each set counts by its newest activation. Known-good sets come first, then the others that were active before;
    never the active set, an empty one, or one that is suspect, so that rolling back twice does not lead forward.
    """
    if not history:
        return []
    newest: dict[str, Activation] = {}
    for activation in history:
        newest.setdefault(activation.hash, activation)
    usable = [
        activation
        for activation in newest.values()
        if activation.hash != history[0].hash and activation.members and activation.suspect_at is None
    ]
    return [each for each in usable if each.known_good_at] + [each for each in usable if not each.known_good_at]


# --- store --------------------------------------------------------------------------------------------------------

_VERSION = "name, version, sha256, source, data, description, dialect, report, created_by, created_at"
_ACTIVATION = (
    "a.id, a.hash, a.previous, a.kind, s.members, a.newly_allowed, a.comparison, a.decided_at, a.suspect_at,"
    " a.known_good_at, a.activated_by, a.activated_at, a.approval"
    " FROM policy_activations a JOIN policy_sets s ON s.zone = a.zone AND s.hash = a.hash"
)
MAX_HISTORY_READ = 200
"""How far back a rollback looks."""


async def lock_zone(tx: Transaction, zone: str) -> None:
    """Wait until no other transaction changes the zone's policies."""
    await tx.run("SELECT pg_advisory_xact_lock(:lock, hashtext(:zone))", lock=_LOCK, zone=zone)


async def read_version(tx: Transaction, zone: str, name: str, version: int | None = None) -> PolicyVersion | None:
    """One version of a policy, by default the newest."""
    row = await tx.one(
        f"SELECT {_VERSION} FROM policy_versions WHERE zone = :zone AND name = :name"  # noqa: S608 - fixed parts
        " AND (CAST(:version AS int) IS NULL OR version = :version) ORDER BY version DESC LIMIT 1",
        zone=zone,
        name=name,
        version=version,
    )
    return _version(row) if row else None


async def read_same(tx: Transaction, zone: str, name: str, sha256: str) -> PolicyVersion | None:
    """The version of a policy that has this content."""
    row = await tx.one(
        f"SELECT {_VERSION} FROM policy_versions WHERE zone = :zone AND name = :name AND sha256 = :sha256",  # noqa: S608
        zone=zone,
        name=name,
        sha256=sha256,
    )
    return _version(row) if row else None


async def read_versions(tx: Transaction, zone: str, name: str, before: int | None, limit: int) -> list[PolicyVersion]:
    """Versions of a policy, newest first, from below ``before`` on."""
    rows = await tx.all(
        f"SELECT {_VERSION} FROM policy_versions WHERE zone = :zone AND name = :name"  # noqa: S608
        " AND (CAST(:before AS int) IS NULL OR version < :before) ORDER BY version DESC LIMIT :limit",
        zone=zone,
        name=name,
        before=before,
        limit=limit,
    )
    return [_version(row) for row in rows]


async def read_members(tx: Transaction, zone: str, members: Sequence[Member]) -> list[PolicyVersion]:
    """The versions that a set is made of."""
    rows = await tx.all(
        f"SELECT {_VERSION} FROM policy_versions"  # noqa: S608
        " JOIN unnest(CAST(:names AS text[]), CAST(:versions AS int[])) AS wanted (n, v) ON name = n AND version = v"
        " WHERE zone = :zone ORDER BY name",
        zone=zone,
        names=[member.name for member in members],
        versions=[member.version for member in members],
    )
    if len(rows) != len(members):
        raise LookupError("a member of the policy set is not there")
    return [_version(row) for row in rows]


async def read_list(tx: Transaction, zone: str, after: str, limit: int) -> list[PolicyListing]:
    """Policies by name, from behind ``after`` on."""
    rows = await tx.all(
        "SELECT DISTINCT ON (name) name, version AS newest, count(*) OVER (PARTITION BY name) AS versions,"
        " sha256, description, dialect, created_by, created_at FROM policy_versions"
        " WHERE zone = :zone AND name > :after ORDER BY name, version DESC LIMIT :limit",
        zone=zone,
        after=after,
        limit=limit,
    )
    return [PolicyListing(**row) for row in rows]


async def add_version(tx: Transaction, zone: str, new: PolicyVersion) -> PolicyVersion:
    """Store a version under the next number of its name (``new.version`` does not count). The zone must be locked."""
    number = await tx.value(
        "INSERT INTO policy_versions"
        " (zone, name, version, sha256, source, data, description, dialect, report, created_by, created_at)"
        " SELECT :zone, :name, coalesce(max(version), 0) + 1, :sha256, :source, :data, :description, :dialect,"
        " CAST(:report AS jsonb), :created_by, :created_at"
        " FROM policy_versions WHERE zone = :zone AND name = :name RETURNING version",
        zone=zone,
        name=new.name,
        sha256=new.sha256,
        source=new.source,
        data=_canonical(new.data).decode(),
        description=new.description,
        dialect=new.dialect,
        report=_jsonb(new.report),
        created_by=new.created_by,
        created_at=new.created_at,
    )
    stored = await read_version(tx, zone, new.name, int(number))
    assert stored is not None
    return stored


async def read_active(tx: Transaction, zone: str) -> Activation | None:
    """The newest activation, whose set is active; None before the first."""
    history = await read_history(tx, zone, None, 1)
    return history[0] if history else None


async def read_history(tx: Transaction, zone: str, before: int | None, limit: int) -> list[Activation]:
    """Activations, newest first, from below id ``before`` on."""
    rows = await tx.all(
        f"SELECT {_ACTIVATION} WHERE a.zone = :zone AND (CAST(:before AS bigint) IS NULL OR a.id < :before)"
        " ORDER BY a.id DESC LIMIT :limit",
        zone=zone,
        before=before,
        limit=limit,
    )
    return [_activation(row) for row in rows]


async def add_activation(
    tx: Transaction,
    zone: str,
    *,
    hash: str,
    members: Sequence[Member],
    previous: Activation | None,
    kind: ActivationKind,
    newly_allowed: Sequence[Mapping[str, Any]],
    comparison: Mapping[str, Any],
    by: str,
    at: datetime,
    approval: str | None = None,
) -> Activation:
    """Make a set active. A set that was known good when it was last active still is. The zone must be locked."""
    await tx.run(
        "INSERT INTO policy_sets (zone, hash, members, created_at)"
        " VALUES (:zone, :hash, CAST(:members AS jsonb), :at) ON CONFLICT DO NOTHING",
        zone=zone,
        hash=hash,
        members=_jsonb(msgspec.to_builtins(sorted(members))),
        at=at,
    )
    await tx.run(
        "INSERT INTO policy_activations"
        " (zone, hash, previous, kind, newly_allowed, comparison, known_good_at, activated_by, activated_at, approval)"
        " VALUES (:zone, :hash, :previous, :kind, CAST(:newly_allowed AS jsonb), CAST(:comparison AS jsonb),"
        " (SELECT known_good_at FROM policy_activations WHERE zone = :zone AND hash = :hash ORDER BY id DESC LIMIT 1),"
        " :by, :at, :approval)",
        zone=zone,
        hash=hash,
        previous=previous.hash if previous else None,
        kind=kind,
        newly_allowed=_jsonb(list(newly_allowed)),
        comparison=_jsonb(comparison),
        by=by,
        at=at,
        approval=approval,
    )
    made = await read_active(tx, zone)
    assert made is not None
    return made


def _version(row: Row) -> PolicyVersion:
    return PolicyVersion(**{**row, "data": msgspec.json.decode(row["data"])})


def _activation(row: Row) -> Activation:
    members = tuple(msgspec.convert(row["members"], list[Member]))
    return Activation(**{**row, "members": members})


def _jsonb(value: Any) -> str:
    # PostgreSQL refuses U+0000 inside jsonb, and a policy may name an input path with it
    return json.dumps(value).replace("\\u0000", "\\ufffd")
