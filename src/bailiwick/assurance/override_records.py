"""Overrides as they are kept: what was asked for, exactly, by which rule, and what became of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bailiwick.assurance.operations import Target, text_of
from bailiwick.evidence.events import Context
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Row, Transaction
from bailiwick.kernel.errors import NotFound
from bailiwick.kernel.machine import Machine
from bailiwick.kernel.quorum import Approval, Quorum

MACHINE = Machine(
    "override",
    {
        "requested": ("checked", "rejected", "expired", "withdrawn", "stale"),
        "checked": ("executing", "done", "failed", "stale", "rejected", "expired", "withdrawn"),
        "executing": ("done", "failed"),
        "done": (),
        "failed": (),
        "stale": (),
        "rejected": (),
        "expired": (),
        "withdrawn": (),
        "review_due": ("confirmed", "disputed"),
        "confirmed": (),
        "disputed": (),
    },
)
_DERIVED = {"open": "requested", "approved": "checked", "rejected": "rejected", "expired": "expired",
            "withdrawn": "withdrawn", "executed": "done"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ask:
    """What somebody wants done."""

    operation: str
    arguments: Mapping[str, Any]
    reason: str
    ticket: str
    risk: str


@dataclass(frozen=True, slots=True)
class Override:
    """One of them as it stands at the moment it was read; ``approval`` says who agreed."""

    id: str
    zone: str
    break_glass: bool
    operation: str
    arguments: Mapping[str, Any]
    environment: str
    target: str
    target_version: str
    amount: int
    payload_sha256: str
    reason: str
    ticket: str
    risk: str
    rule: str
    rule_version: int
    requested_by: str
    requested_at: datetime
    stored: str
    executed_by: str | None
    executed_at: datetime | None
    result: Mapping[str, Any]
    why: str
    attempts: int
    review_due: datetime | None
    reviewed_by: str | None
    reviewed_at: datetime | None
    undo: str
    approval: Approval

    @property
    def state(self) -> str:
        """Where it is: by its approval until it is done."""
        return _DERIVED[self.approval.state] if self.stored == "requested" else self.stored

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        hidden = ("stored", "approval", "zone")
        answer = {name: getattr(self, name) for name in self.__slots__ if name not in hidden}
        approval = self.approval.document()
        shown = ("needed", "missing", "votes", "candidates", "roles", "expires_at", "blocked")
        return {**answer, "state": self.state, "approval": {n: approval[n] for n in shown if n in approval}}


def payload_of(
    identifier: str, operation: str, arguments: Mapping[str, Any], target: Target, environment: str, ask: Ask
) -> dict[str, Any]:
    """Everything that is agreed to."""
    return {
        "override": identifier,
        "operation": operation,
        "arguments": dict(arguments),
        "target": target.id,
        "target_version": target.version,
        "environment": environment,
        "ticket": ask.ticket,
        "risk": ask.risk,
        "reason": ask.reason,
    }


def payload_again(override: Override) -> dict[str, Any]:
    """What was agreed to, from what is stored: the hash shows that it is that."""
    ask = Ask(override.operation, override.arguments, override.reason, override.ticket, override.risk)
    target = Target(override.target, override.target_version)
    return payload_of(override.id, override.operation, override.arguments, target, override.environment, ask)


class OverrideRecords:
    """Reads and writes them."""

    def __init__(self, clock: Clock, quorum: Quorum, environment: str) -> None:
        self._clock = clock
        self._quorum = quorum
        self._environment = environment

    async def get(self, tx: Transaction, zone: str, identifier: str) -> Override:
        """One of them. Raises ``not_found``."""
        row = await tx.one("SELECT * FROM overrides WHERE zone = :zone AND id = :id", zone=zone, id=identifier)
        if row is None:
            raise NotFound("There is no such override.")
        return await self.of(tx, row)

    async def list(self, tx: Transaction, zone: str, *, before: str = "g", limit: int = 100) -> Sequence[Override]:
        """With ids before ``before``, newest first."""
        rows = await tx.all(
            "SELECT * FROM overrides WHERE zone = :zone AND id < :before ORDER BY id DESC LIMIT :limit",
            zone=zone,
            before=before,
            limit=limit,
        )
        return [await self.of(tx, row) for row in rows]

    async def waiting(self, tx: Transaction, state: str) -> Sequence[Override]:
        """Those of every zone in a stored state, oldest first."""
        rows = await tx.all("SELECT * FROM overrides WHERE state = :state ORDER BY id", state=state)
        return [await self.of(tx, row) for row in rows]

    async def standing(
        self, tx: Transaction, context: Context, by: str, ask: Ask, said: Mapping[str, Any], target: Target
    ) -> Override | None:
        """The same thing that the same person asked for and that waits."""
        rows = await tx.all(
            "SELECT * FROM overrides WHERE zone = :zone AND state = 'requested' AND operation = :operation"
            " AND requested_by = :by AND arguments = cast(:arguments AS jsonb) AND target = :target"
            " AND target_version = :version AND ticket = :ticket AND risk = :risk AND reason = :reason",
            zone=context.zone,
            operation=ask.operation,
            by=by,
            arguments=json.dumps(said),
            target=target.id,
            version=target.version,
            ticket=ask.ticket,
            risk=ask.risk,
            reason=ask.reason,
        )
        found = [await self.of(tx, row) for row in rows]
        return next((each for each in found if each.state in ("requested", "checked")), None)

    async def insert(
        self,
        tx: Transaction,
        context: Context,
        identifier: str,
        approval: Approval,
        ask: Ask,
        said: Mapping[str, Any],
        target: Target,
        amount: int,
        *,
        rule: tuple[str, int],
        break_glass: bool,
    ) -> None:
        await tx.run(
            "INSERT INTO overrides (id, zone, approval, break_glass, operation, arguments, environment, target,"
            " target_version, amount, payload_sha256, reason, ticket, risk, rule, rule_version, requested_by,"
            " requested_at, state) VALUES (:id, :zone, :approval, :break_glass, :operation,"
            " cast(:arguments AS jsonb), :environment, :target, :version, :amount, :digest, :reason, :ticket, :risk,"
            " :rule, :rule_version, :by, :now, 'requested')",
            id=identifier,
            zone=context.zone,
            approval=approval.id,
            break_glass=break_glass,
            operation=ask.operation,
            arguments=json.dumps(said),
            environment=self._environment,
            target=target.id,
            version=target.version,
            amount=amount,
            digest=approval.payload_sha256,
            reason=ask.reason,
            ticket=ask.ticket,
            risk=ask.risk,
            rule=rule[0],
            rule_version=rule[1],
            by=approval.requested_by,
            now=self._clock.now(),
        )

    async def locked(self, tx: Transaction, zone: str, identifier: str) -> Override:
        await tx.run("SELECT id FROM overrides WHERE zone = :zone AND id = :id FOR UPDATE", zone=zone, id=identifier)
        return await self.get(tx, zone, identifier)

    async def set(
        self,
        tx: Transaction,
        identifier: str,
        state: str,
        *,
        executed_by: str | None = None,
        reviewed_by: str | None = None,
        review_due: datetime | None = None,
        result: Mapping[str, Any] | None = None,
        why: str = "",
        attempts: int | None = None,
    ) -> None:
        await tx.run(
            "UPDATE overrides SET state = :state, executed_by = coalesce(:executed_by, executed_by), executed_at ="
            " CASE WHEN :executes THEN :now ELSE executed_at END, reviewed_by = coalesce(:reviewed_by, reviewed_by),"
            " reviewed_at = CASE WHEN :reviews THEN :now ELSE reviewed_at END, review_due = coalesce(:review_due,"
            " review_due), result = coalesce(cast(:result AS jsonb), result), why = CASE WHEN :why = '' THEN why ELSE"
            " :why END, attempts = coalesce(:attempts, attempts) WHERE id = :id",
            state=state,
            executed_by=executed_by,
            executes=executed_by is not None,
            reviewed_by=reviewed_by,
            reviews=reviewed_by is not None,
            review_due=review_due,
            result=text_of(result) if result is not None else None,
            why=why,
            attempts=attempts,
            now=self._clock.now(),
            id=identifier,
        )

    async def of(self, tx: Transaction, row: Row) -> Override:
        approval = await self._quorum.get_in(tx, row["zone"], row["approval"])
        names = [name for name in Override.__slots__ if name not in ("stored", "approval")]
        return Override(**{name: row[name] for name in names}, stored=row["state"], approval=approval)
