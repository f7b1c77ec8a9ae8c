"""What containment adds to the operations of the overrides: it narrows, so one person may, reviewed within a day."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from bailiwick.assurance.operations import Claim, Nothing, Target
from bailiwick.assurance.override_rules import Class
from bailiwick.authority.revocation import Kind, Revocations
from bailiwick.evidence.events import Context
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import Conflict, NotFound
from bailiwick.kernel.fields import USER_NAME_PATTERN, Body, Line
from bailiwick.policy.policies import Policies


class Revoke(Body):
    """Whose authority ends: a user or an application by name, a session or a mandate by id."""

    kind: Literal["user", "application", "session", "mandate"]
    name: Annotated[str, Field(pattern=USER_NAME_PATTERN, max_length=100)]
    why: Annotated[Line, Field(min_length=1)]


class LastKnownGood:
    """Back to the newest policy set that has proven itself."""

    name = "policy.last-known-good"
    title = "return to the last policy set that has proven itself"
    class_: Class = "narrowing"
    external = False
    reversible = False
    arguments = Nothing

    def __init__(self, policies: Policies) -> None:
        self._policies = policies

    def amount(self, arguments: Nothing) -> int:
        return 1

    async def target(self, tx: Transaction, zone: str, arguments: Nothing) -> Target:
        row = await tx.one(
            "SELECT id, hash FROM policy_activations WHERE zone = :zone ORDER BY id DESC LIMIT 1", zone=zone
        )
        if row is None:
            raise Conflict("No policy set is active.")
        return Target("policy-set", f"{row['id']}:{row['hash']}")

    async def perform(self, context: Context, arguments: Nothing, claim: Claim, key: str) -> Mapping[str, Any]:
        change = await self._policies.roll_back(context, within=claim, known_good_only=True)
        if not change.changed:
            raise Conflict("The last policy set that has proven itself is the active one.")
        return {"active": change.activation.hash, "changed": change.changed}

    async def undo(self, context: Context, arguments: Nothing, key: str) -> bool:
        return False


class RevokeAuthority:
    """Everything that stands on a user, an application, a session or a mandate refused everywhere."""

    name = "authority.revoke"
    title = "end the authority of a user, an application, a session or a mandate"
    class_: Class = "narrowing"
    external = False
    reversible = False
    arguments = Revoke

    def __init__(self, database: Database, revocations: Revocations) -> None:
        self._database = database
        self._revocations = revocations

    def amount(self, arguments: Revoke) -> int:
        return 1

    async def target(self, tx: Transaction, zone: str, arguments: Revoke) -> Target:
        key = await stored_key(tx, zone, arguments)
        before = await tx.value(
            "SELECT max(revision) FROM revocations WHERE zone = :zone AND kind = :kind AND key = :key",
            zone=zone,
            kind=arguments.kind,
            key=key,
        )
        return Target(f"{arguments.kind}/{arguments.name}", str(before or 0))

    async def perform(self, context: Context, arguments: Revoke, claim: Claim, key: str) -> Mapping[str, Any]:
        kind: Kind = arguments.kind
        async with self._database.begin() as tx:
            await claim(tx)
            stored = await stored_key(tx, context.zone, arguments)
            revision = await self._revocations.revoke(tx, context, kind, stored, arguments.why)
        settled = await self._revocations.settle(revision, context)
        return {
            "revision": revision,
            "confirmed_by": list(getattr(settled, "confirmed", ())),
            "fenced": list(getattr(settled, "fenced", ())),
            "took_ms": getattr(settled, "took_ms", 0),
        }

    async def undo(self, context: Context, arguments: Revoke, key: str) -> bool:
        return False


async def stored_key(tx: Transaction, zone: str, arguments: Revoke) -> str:
    """By what a revocation knows it. Raises ``not_found`` for a user or an application there is none of."""
    if arguments.kind == "user":
        name = await tx.value(
            "SELECT username FROM users WHERE zone = :zone AND username = :name", zone=zone, name=arguments.name
        )
        if name is None:
            raise NotFound(f"There is no user {arguments.name}.")
        return str(name)
    if arguments.kind == "application":
        found = await tx.value(
            "SELECT id FROM applications WHERE zone = :zone AND (name = :name OR id = :name)",
            zone=zone,
            name=arguments.name,
        )
        if found is None:
            raise NotFound(f"There is no application {arguments.name}.")
        return str(found)
    return arguments.name
