"""The operations that an override may do: each says what it would change, does it once, and may know a way back."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field

from bailiwick.assurance.gateway_switch import GatewaySwitch, Settle
from bailiwick.assurance.override_rules import Class
from bailiwick.authority.emergency import EmergencyRotation
from bailiwick.evidence.events import Context
from bailiwick.identity.users import Users
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import Conflict, NotFound
from bailiwick.kernel.fields import Body, Line, Name, UserName
from bailiwick.policy.policies import Policies

Claim = Callable[[Transaction], Awaitable[None]]
"""Called by an operation inside the transaction in which it does what was asked, before it: refuses where it must not
be done, and marks it done with the same commit."""


@dataclass(frozen=True, slots=True)
class Target:
    """What an operation would change, and its version as it stands."""

    id: str
    version: str

    @property
    def account(self) -> str:
        """The user name of the account that it is; empty for anything else."""
        kind, _, name = self.id.partition("/")
        return name if kind == "user" else ""


class Operation(Protocol):
    """One kind of thing that can be done. ``external``: done elsewhere, so that ``claim`` only lets it begin."""

    @property
    def name(self) -> str:
        """What it is asked for by."""
        ...

    @property
    def title(self) -> str:
        """The same for a person."""
        ...

    @property
    def class_(self) -> Class:
        """What kind of thing it is."""
        ...

    @property
    def reversible(self) -> bool:
        """Whether :meth:`undo` takes it back; what widens and does not is never done by broken glass."""
        ...

    @property
    def arguments(self) -> type[Body]:
        """The model of its arguments."""
        ...

    @property
    def external(self) -> bool:
        """Whether another system does it."""
        ...

    def amount(self, arguments: Any) -> int:
        """How much, or how many are touched; rules go by it."""
        ...

    async def target(self, tx: Transaction, zone: str, arguments: Any) -> Target:
        """What it would change. Raises ``not_found``, ``conflict``."""
        ...

    async def perform(self, context: Context, arguments: Any, claim: Claim, key: str) -> Mapping[str, Any]:
        """Do it, calling ``claim`` once. ``key``: the override's id, for whoever must know it again."""
        ...

    async def undo(self, context: Context, arguments: Any, key: str) -> bool:
        """Take it back; False where there is no way."""
        ...


class Nothing(Body):
    """No arguments but why."""

    why: Annotated[Line, Field(min_length=1)]


class Gate(Nothing):
    """What of the gateway is switched: the way to one server, or (empty) all of it."""

    server: Name | Literal[""] = ""

    @property
    def called(self) -> str:
        """For people."""
        return f"The server {self.server}" if self.server else "The gateway"

    @property
    def target(self) -> str:
        """For the override."""
        return f"server/{self.server}" if self.server else "gateway"


class Unlock(Body):
    """Whose lock is lifted."""

    username: UserName


class Rotation(Body):
    """Which key is replaced at once."""

    purpose: Literal["mandate", "session", "ledger"]
    reason: Annotated[Line, Field(min_length=1)]


class _Own:
    """What the operations of this program share: one thing at a time, done here, and no way back unless one says so."""

    external = False
    reversible = False

    def amount(self, arguments: Body) -> int:
        return 1

    async def undo(self, context: Context, arguments: Any, key: str) -> bool:
        return False


class PolicyRollback(_Own):
    """Back to the policy set before, also where that never proved itself."""

    name = "policy.rollback"
    title = "return to an earlier policy set"
    class_: Class = "widening"
    arguments = Nothing

    def __init__(self, policies: Policies) -> None:
        self._policies = policies

    async def target(self, tx: Transaction, zone: str, arguments: Nothing) -> Target:
        row = await tx.one(
            "SELECT id, hash FROM policy_activations WHERE zone = :zone ORDER BY id DESC LIMIT 1", zone=zone
        )
        if row is None:
            raise Conflict("No policy set is active.")
        return Target("policy-set", f"{row['id']}:{row['hash']}")

    async def perform(self, context: Context, arguments: Nothing, claim: Claim, key: str) -> Mapping[str, Any]:
        change = await self._policies.roll_back(context, within=claim)
        return {"active": change.activation.hash, "changed": change.changed}


class KeyRotation(_Own):
    """A key of the zone replaced, and everything refused that the old one signed."""

    name = "keys.rotate-emergency"
    title = "replace a signing key at once"
    class_: Class = "narrowing"
    arguments = Rotation

    def __init__(self, rotation: EmergencyRotation) -> None:
        self._rotation = rotation

    async def target(self, tx: Transaction, zone: str, arguments: Rotation) -> Target:
        kid = await tx.value(
            "SELECT kid FROM zone_keys WHERE zone = :zone AND purpose = :purpose AND state = 'active'",
            zone=zone,
            purpose=arguments.purpose,
        )
        if kid is None:
            raise NotFound("The zone has no such key.")
        return Target(f"key/{arguments.purpose}", str(kid))

    async def perform(self, context: Context, arguments: Rotation, claim: Claim, key: str) -> Mapping[str, Any]:
        done = await self._rotation.rotate(
            context, arguments.purpose, emergency=True, reason=arguments.reason, within=claim
        )
        return {name: done[name] for name in ("old_kid", "new_kid", "took_ms")}


class UserUnlock(_Own):
    """The lock that failed sign-ins put on an account lifted."""

    name = "user.unlock"
    title = "lift the lock of an account"
    class_: Class = "widening"
    arguments = Unlock

    def __init__(self, users: Users) -> None:
        self._users = users

    async def target(self, tx: Transaction, zone: str, arguments: Unlock) -> Target:
        row = await tx.one(
            "SELECT u.version, f.failures, f.locked_until FROM users u LEFT JOIN login_failures f"
            " ON f.zone = u.zone AND f.username = u.username WHERE u.zone = :zone AND u.username = :name",
            zone=zone,
            name=arguments.username,
        )
        if row is None:
            raise NotFound(f"There is no user {arguments.username}.")
        until = row["locked_until"].isoformat() if row["locked_until"] else "-"
        return Target(f"user/{arguments.username}", f"{row['version']}:{row['failures'] or 0}:{until}")

    async def perform(self, context: Context, arguments: Unlock, claim: Claim, key: str) -> Mapping[str, Any]:
        return await self._users.unlock(context, arguments.username, within=claim)


class _GatewaySwitching(_Own):
    """What closing and opening share."""

    arguments = Gate

    def __init__(self, database: Database, switch: GatewaySwitch, settle: Settle) -> None:
        self._database = database
        self._switch = switch
        self._settle = settle


class GatewayClose(_GatewaySwitching):
    """Everything denied at the gateway of the zone, or to one server."""

    name = "gateway.close"
    title = "deny everything at the gateway, or to one server"
    class_: Class = "narrowing"

    async def target(self, tx: Transaction, zone: str, arguments: Gate) -> Target:
        server = arguments.server
        if server and not await tx.value("SELECT 1 FROM servers WHERE zone = :z AND name = :n", z=zone, n=server):
            raise NotFound(f"There is no server {server}.")
        if server in await self._switch.standing(tx, zone):
            raise Conflict(f"{arguments.called} is closed already.")
        return Target(arguments.target, "open")

    async def perform(self, context: Context, arguments: Gate, claim: Claim, key: str) -> Mapping[str, Any]:
        async with self._database.begin() as tx:
            await claim(tx)
            by = context.actor.user
            revision = await self._switch.close(tx, context, arguments.why, by, arguments.server)
        await self._settle.settle(revision, context)
        return {"closed": True}

    # to take it back would widen, which is nobody's to do alone, the clock's least


class GatewayOpen(_GatewaySwitching):
    """The gateway of the zone, or the way to one server, opened again."""

    name = "gateway.open"
    title = "open the gateway again, or the way to one server"
    class_: Class = "widening"

    async def target(self, tx: Transaction, zone: str, arguments: Gate) -> Target:
        standing = (await self._switch.standing(tx, zone)).get(arguments.server)
        if standing is None:
            raise Conflict(f"{arguments.called} is open.")
        return Target(arguments.target, str(standing["id"]))

    async def perform(self, context: Context, arguments: Gate, claim: Claim, key: str) -> Mapping[str, Any]:
        async with self._database.begin() as tx:
            await claim(tx)
            revision = await self._switch.open(tx, context, arguments.why, key, arguments.server)
        await self._settle.settle(revision, context)
        return {"closed": False}


def text_of(result: Mapping[str, Any]) -> str:
    """A result as it is kept: JSON."""
    return json.dumps(dict(result), default=str, ensure_ascii=False)
