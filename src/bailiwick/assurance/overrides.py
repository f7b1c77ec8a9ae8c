"""Overrides: one exact operation, held until other persons agree to exactly that, done once, by us, and not otherwise.

What is approved is the hash of everything: the operation, its arguments, the target *and the version it had when it was
asked for*, the environment and the ticket. It is done in the transaction that marks it done; if the target moved it is
STALE. The two-person rule is ``kernel/quorum.py``; this adds what is done, by what rule, and broken glass.

Broken glass is one person who acts at once, for what narrows or where waiting costs more. Another person must confirm
it within a day; otherwise, or when he disputes it, it is taken back where there is a way, and an alert tells. What
destroys, and finance, is never done so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from bailiwick.assurance.book import Book
from bailiwick.assurance.books import Books
from bailiwick.assurance.operations import Operation, Target, text_of
from bailiwick.assurance.override_rules import LONGEST, RELATED_FOR, REVIEW_WITHIN, choose
from bailiwick.assurance.ports import Alerts, Raised
from bailiwick.evidence import codes
from bailiwick.evidence.codes import EventType
from bailiwick.evidence.events import Context, Recorder, Subject, rfc3339
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import BailiwickError, Conflict, Denied, InvalidRequest, NotFound
from bailiwick.kernel.http import Caller
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.machine import Machine
from bailiwick.kernel.permissions import Permission
from bailiwick.kernel.quorum import Action, Approval, Quorum, Terms, payload_hash
from bailiwick.kernel.severity import Severity

DO = Action("override.do", Permission.OVERRIDES_APPROVE, life=LONGEST)
REVIEW = Action("override.review", Permission.OVERRIDES_APPROVE, life=REVIEW_WITHIN)
RUNBOOK = "docs/how-to/overrides.md"

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
# a refusal of these is somebody trying what he may not, and is kept
_TRIED = frozenset(
    [
        "approval_own_request",
        "approval_same_person",
        "approval_related_account",
        "approval_role",
        "approval_changed",
        "approval_ended",
        "approval_required",
        "approval_requester_gone",
        "override_not_signed_in",
        "override_stale",
        "override_done",
        "permission_denied",
    ]
)


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


class Stale(Exception):
    """The target is not what it was; ``now`` is its version."""

    def __init__(self, now: str) -> None:
        self.now = now
        super().__init__(now)


# ---------------------------------------------------------------------- rules


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


def refuse_not_a_person(caller: Caller, context: Context) -> None:
    """Refuse keys, applications and delegates. Raises ``override_not_signed_in``."""
    actor = context.actor
    if caller.key or not caller.session or actor.application or actor.delegation or actor.mandate:
        raise Denied(reason="override_not_signed_in")


# ---------------------------------------------------------------------- service


class Overrides:
    """Holds what is asked for and does it. ``environment``: where this installation stands (its own setting, not the
    word of who asks). ``operations_of(book)``: what documents add to ``operations``."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        ids: Ids,
        recorder: Recorder,
        quorum: Quorum,
        books: Books,
        alerts: Alerts,
        *,
        environment: str,
        operations: Sequence[Operation] = (),
        operations_of: Callable[[Book], Mapping[str, Operation]] = lambda book: {},
    ) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._quorum = quorum
        self._books = books
        self._alerts = alerts
        self._environment = environment
        self._own = {operation.name: operation for operation in operations}
        self._operations_of = operations_of
        quorum.register(DO)
        quorum.register(REVIEW)

    # --- asking

    async def propose(self, context: Context, caller: Caller, ask: Ask) -> Override:
        """Ask for an operation; the same thing asked for again is the request that stands.

        Raises ``override_not_signed_in``, ``not_found`` for an operation there is none of, ``invalid_request``,
        ``override_no_rule``, ``override_no_checker`` where nobody could agree to it.
        """
        try:
            return await self._propose(context, caller, ask)
        except BailiwickError as error:
            await self._tried(context, ask.operation, "", error)
            raise

    async def _propose(self, context: Context, caller: Caller, ask: Ask) -> Override:
        refuse_not_a_person(caller, context)
        async with self._database.begin() as tx:
            book = await self._books.current(tx, context.zone)
            operation = self._operation(book, ask.operation)
            arguments = _read(operation, ask.arguments)
            target = await operation.target(tx, context.zone, arguments)
            amount = operation.amount(arguments)
            chosen = choose(book, ask.operation, self._environment, amount)
            if chosen is None:
                raise InvalidRequest(reason="override_no_rule", operation=ask.operation, environment=self._environment)
            said = arguments.model_dump(mode="json")
            standing = await self._standing(tx, context, caller.name, ask, said, target)
            if standing is not None:
                return standing
            identifier = self._ids()
            payload = payload_of(identifier, ask.operation, said, target, self._environment, ask)
            approval = await self._quorum.request(
                tx, context, context.zone, DO.name, payload, by=caller.name, reason=ask.reason,
                terms=chosen.rule.terms(),
            )  # fmt: skip
            if len(approval.candidates) < approval.missing:
                told = approval.document()["blocked"]
                raise InvalidRequest(told, reason="override_no_checker", invite=list(approval.roles) or ["admin"])
            await self._insert(
                tx, context, identifier, approval, ask, said, target, amount,
                rule=(chosen.name, chosen.version), break_glass=False,
            )  # fmt: skip
            override = await self.get(tx, context.zone, identifier)
            await self._record(tx, codes.OVERRIDE_REQUESTED, context, override)
        return override

    async def decide(
        self, context: Context, caller: Caller, identifier: str, *, approves: bool, payload_sha256: str, comment: str
    ) -> Override:
        """One checker's word on exactly what he read. Raises what :meth:`Quorum.vote` does."""
        operation = ""
        try:
            refuse_not_a_person(caller, context)
            async with self._database.begin() as tx:
                override = await self._locked(tx, context.zone, identifier)
                operation = override.operation
                if override.break_glass:
                    raise Conflict("It was done already; it is to be reviewed.", reason="override_done")
                await self._quorum.vote_in(
                    tx, context, context.zone, override.approval.id, person=caller.name, role=caller.role,
                    approves=approves, payload_sha256=payload_sha256, comment=comment,
                )  # fmt: skip
                override = await self.get(tx, context.zone, identifier)
                await self._record(tx, codes.OVERRIDE_VOTED, context, override)
        except BailiwickError as error:
            await self._tried(context, operation, identifier, error)
            raise
        return override

    async def withdraw(self, context: Context, caller: Caller, identifier: str) -> Override:
        """Take it back before it is done."""
        async with self._database.begin() as tx:
            override = await self._locked(tx, context.zone, identifier)
            MACHINE.require(override.state, "withdrawn")
        await self._quorum.withdraw(context, context.zone, override.approval.id, person=caller.name, role=caller.role)
        async with self._database.begin() as tx:
            override = await self.get(tx, context.zone, identifier)
            await self._record(tx, codes.OVERRIDE_ENDED, context, override, why="withdrawn")
        return override

    # --- doing

    async def execute(self, context: Context, caller: Caller, identifier: str, payload_sha256: str) -> Override:
        """Do what was agreed to; done already, the same answer once more.

        Raises ``approval_changed``, ``approval_required``, ``approval_ended``, ``approval_requester_gone``,
        ``override_stale``, ``override_done``, and what the operation refuses.
        """
        operation = ""
        try:
            refuse_not_a_person(caller, context)
            async with self._database.begin() as tx:
                override = await self.get(tx, context.zone, identifier)
                operation = override.operation
                book = await self._books.current(tx, context.zone)
            if payload_sha256 != override.payload_sha256:
                raise Conflict(reason="approval_changed")
            if override.state in ("done", "executing"):
                return override
            return await self._execute(context, caller.name, override, self._operation(book, override.operation))
        except BailiwickError as error:
            await self._tried(context, operation, identifier, error)
            raise

    async def _execute(self, context: Context, by: str, override: Override, operation: Operation) -> Override:
        arguments = _read(operation, override.arguments)
        claimed = False

        async def claim(tx: Transaction) -> None:
            nonlocal claimed
            fresh = await self._locked(tx, context.zone, override.id)
            if fresh.stored != "requested":
                raise Conflict(reason="override_done", state=fresh.stored)
            target = await operation.target(tx, context.zone, arguments)
            if (target.id, target.version) != (fresh.target, fresh.target_version):
                raise Stale(target.version)
            payload = _payload(fresh)
            if payload_hash(DO.name, context.zone, payload) != fresh.payload_sha256:
                raise Conflict(reason="approval_changed")
            await self._quorum.execute(tx, context, context.zone, fresh.approval.id, DO.name, payload, by)
            await self._set(
                tx, override.id, "executing" if operation.external else "done", executed_by=by,
                attempts=int(operation.external),
            )  # fmt: skip
            if operation.external:
                await self._record(tx, codes.OVERRIDE_SENT, context, fresh, attempt=1)
            else:
                await self._record(tx, codes.OVERRIDE_DONE, context, fresh, approved_by=_approvers(fresh))
            claimed = True

        try:
            result = await operation.perform(context, arguments, claim, override.id)
        except Stale as stale:
            return await self._stale(context, override, stale.now)
        except BailiwickError as error:
            if error.reason == "override_done":  # somebody else was first
                async with self._database.begin() as tx:
                    standing = await self.get(tx, context.zone, override.id)
                if standing.state in ("done", "executing"):
                    return standing
            elif not claimed and error.reason.startswith("approval_"):
                raise
            elif not operation.external and error.status < 500:
                await self._failed(context, override, error.reason)
            raise
        if not claimed:
            await self._failed(context, override, "there was nothing to do")
            raise Conflict("There was nothing to do.", reason="override_done")
        return await self._finish(context, override, result, external=operation.external)

    async def resume(self, context: Context, override: Override) -> Override:
        """Go on with an external operation that was begun and not answered; the receiver knows it by its key."""
        async with self._database.begin() as tx:
            book = await self._books.current(tx, context.zone)
            operation = self._operation(book, override.operation)

            async def begun(inner: Transaction) -> None:
                fresh = await self._locked(inner, context.zone, override.id)
                MACHINE.require(fresh.state, "done")
                await self._set(inner, override.id, "executing", attempts=fresh.attempts + 1)
                await self._record(inner, codes.OVERRIDE_SENT, context, fresh, attempt=fresh.attempts + 1)

        result = await operation.perform(context, _read(operation, override.arguments), begun, override.id)
        return await self._finish(context, override, result, external=True)

    async def give_up(self, context: Context, override: Override, why: str) -> None:
        """An external operation that never was answered: failed, and a person must look what became of it."""
        await self._failed(context, override, why)

    async def _finish(
        self, context: Context, override: Override, result: Mapping[str, Any], *, external: bool
    ) -> Override:
        """Keep the result; an external operation is done, failed, or still unanswered by what it says."""
        async with self._database.begin() as tx:
            fresh = await self._locked(tx, context.zone, override.id)
            verdict = result.get("verdict", "done") if external else fresh.stored
            if external and verdict == "done":
                await self._record(tx, codes.OVERRIDE_DONE, context, fresh, approved_by=_approvers(fresh))
            elif external and verdict == "failed":
                await self._record(tx, codes.OVERRIDE_FAILED, context, fresh, why=str(result.get("why", ""))[:500])
            if not external or verdict in ("done", "failed"):
                await self._set(tx, override.id, str(verdict), result=result, why=str(result.get("why", ""))[:500])
            return await self.get(tx, context.zone, override.id)

    async def _stale(self, context: Context, override: Override, now: str) -> Override:
        async with self._database.begin() as tx:
            fresh = await self._locked(tx, context.zone, override.id)
            if fresh.stored == "requested":
                await self._set(tx, override.id, "stale", why=f"the target is at {now}"[:500])
                await self._quorum.end(tx, context, context.zone, fresh.approval.id, "bailiwick")
                await self._record(tx, codes.OVERRIDE_STALE, context, fresh, now=now)
        raise Conflict(reason="override_stale", target=override.target, was=override.target_version, now=now)

    async def _failed(self, context: Context, override: Override, why: str) -> None:
        async with self._database.begin() as tx:
            fresh = await self._locked(tx, context.zone, override.id)
            if fresh.stored in ("requested", "executing"):
                await self._set(tx, override.id, "failed", why=why[:500])
                await self._quorum.end(tx, context, context.zone, fresh.approval.id, "bailiwick")
                await self._record(tx, codes.OVERRIDE_FAILED, context, fresh, why=why[:500])

    # --- broken glass

    async def break_glass(self, context: Context, caller: Caller, ask: Ask) -> Override:
        """Do it at once, as one person who has just proved himself; another must confirm it within a day.

        Raises ``override_not_signed_in``, ``permission_denied`` for what is finance or destroys, ``not_found``, and
        what the operation refuses.
        """
        refuse_not_a_person(caller, context)
        async with self._database.begin() as tx:
            operation = self._operation(await self._books.current(tx, context.zone), ask.operation)
        if operation.class_ in ("finance", "destroying") or operation.external:
            error = Denied("What destroys, and finance, takes two persons before it is done.")
            await self._tried(context, ask.operation, "", error)
            raise error
        arguments = _read(operation, ask.arguments)
        identifier, said = self._ids(), arguments.model_dump(mode="json")

        async def claim(tx: Transaction) -> None:
            target = await operation.target(tx, context.zone, arguments)
            payload = payload_of(identifier, ask.operation, said, target, self._environment, ask)
            approval = await self._quorum.request(
                tx, context, context.zone, REVIEW.name, payload, by=caller.name, reason=ask.reason,
                terms=Terms(window=RELATED_FOR),
            )  # fmt: skip
            await self._insert(
                tx, context, identifier, approval, ask, said, target, operation.amount(arguments),
                rule=("break-glass", 0), break_glass=True,
            )  # fmt: skip
            due = self._clock.now() + REVIEW_WITHIN
            await self._set(tx, identifier, "review_due", executed_by=caller.name, review_due=due)
            override = await self.get(tx, context.zone, identifier)
            await self._record(tx, codes.BREAK_GLASS_USED, context, override, review_due=rfc3339(due))
            await self._alerts.fire(tx, context, _glass(override, Severity.P1, "waits for its review"))

        result = await operation.perform(context, arguments, claim, identifier)
        async with self._database.begin() as tx:
            await self._set(tx, identifier, "review_due", result=result)
            return await self.get(tx, context.zone, identifier)

    async def review(
        self, context: Context, caller: Caller, identifier: str, *, confirms: bool, payload_sha256: str, comment: str
    ) -> Override:
        """Another person's word on what one did: confirmed, or disputed and taken back where there is a way."""
        try:
            refuse_not_a_person(caller, context)
            async with self._database.begin() as tx:
                override = await self._locked(tx, context.zone, identifier)
                MACHINE.require(override.state, "confirmed")
                approval = await self._quorum.vote_in(
                    tx, context, context.zone, override.approval.id, person=caller.name, role=caller.role,
                    approves=confirms, payload_sha256=payload_sha256, comment=comment,
                )  # fmt: skip
                if confirms and approval.state == "approved":
                    await self._quorum.execute(
                        tx, context, context.zone, approval.id, REVIEW.name, _payload(override), caller.name
                    )
                    await self._set(tx, identifier, "confirmed", reviewed_by=caller.name)
                    await self._record(tx, codes.BREAK_GLASS_REVIEWED, context, override, verdict="confirmed")
                    await self._alerts.clear(tx, context, _glass(override, Severity.P1, "").key)
                override = await self.get(tx, context.zone, identifier)
        except BailiwickError as error:
            await self._tried(context, "", identifier, error)
            raise
        return override if confirms else await self.take_back(context, override, "disputed", caller.name)

    async def take_back(self, context: Context, override: Override, why: str, by: str) -> Override:
        """What was done by broken glass is disputed, or nobody looked: taken back where there is a way, and told."""
        async with self._database.begin() as tx:
            fresh = await self._locked(tx, context.zone, override.id)
            MACHINE.require(fresh.state, "disputed")
            operation = self._operation(await self._books.current(tx, context.zone), override.operation)
            await self._set(tx, override.id, "disputed", reviewed_by=by, why=why)
            await self._record(tx, codes.BREAK_GLASS_REVIEWED, context, fresh, verdict="disputed")
            await self._alerts.fire(tx, context, _glass(fresh, Severity.P1, f"is {why}"))
        undo = "failed"
        try:
            undo = (
                "done" if await operation.undo(context, _read(operation, override.arguments), override.id) else "none"
            )
        finally:
            async with self._database.begin() as tx:
                await tx.run("UPDATE overrides SET undo = :undo WHERE id = :id", undo=undo, id=override.id)
                await self._record(tx, codes.BREAK_GLASS_UNDONE, context, fresh, why=why, undone=undo == "done")
                fresh = await self.get(tx, context.zone, override.id)
        return fresh

    # --- reading

    async def get(self, tx: Transaction, zone: str, identifier: str) -> Override:
        """One of them. Raises ``not_found``."""
        row = await tx.one("SELECT * FROM overrides WHERE zone = :zone AND id = :id", zone=zone, id=identifier)
        if row is None:
            raise NotFound("There is no such override.")
        return await self._of(tx, row)

    async def list(self, tx: Transaction, zone: str, *, before: str = "g", limit: int = 100) -> list[Override]:
        """With ids before ``before``, newest first."""
        rows = await tx.all(
            "SELECT * FROM overrides WHERE zone = :zone AND id < :before ORDER BY id DESC LIMIT :limit",
            zone=zone,
            before=before,
            limit=limit,
        )
        return [await self._of(tx, row) for row in rows]

    async def waiting(self, tx: Transaction, state: str) -> Sequence[Override]:
        """Those of every zone in a stored state, oldest first."""
        rows = await tx.all("SELECT * FROM overrides WHERE state = :state ORDER BY id", state=state)
        return [await self._of(tx, row) for row in rows]

    def operations(self, book: Book) -> Mapping[str, Operation]:
        """What can be asked for, by name."""
        return {**self._own, **self._operations_of(book)}

    # --- inside

    def _operation(self, book: Book, name: str) -> Operation:
        found = self.operations(book).get(name)
        if found is None:
            raise NotFound(f"There is no operation {name}.")
        return found

    async def _standing(
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
        found = [await self._of(tx, row) for row in rows]
        return next((each for each in found if each.state in ("requested", "checked")), None)

    async def _insert(
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

    async def _locked(self, tx: Transaction, zone: str, identifier: str) -> Override:
        await tx.run("SELECT id FROM overrides WHERE zone = :zone AND id = :id FOR UPDATE", zone=zone, id=identifier)
        return await self.get(tx, zone, identifier)

    async def _set(
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

    async def _of(self, tx: Transaction, row: Row) -> Override:
        approval = await self._quorum.get_in(tx, row["zone"], row["approval"])
        names = [name for name in Override.__slots__ if name not in ("stored", "approval")]
        return Override(**{name: row[name] for name in names}, stored=row["state"], approval=approval)

    async def _record(
        self, tx: Transaction, kind: EventType, context: Context, override: Override, **details: Any
    ) -> None:
        await self._recorder.record(
            tx,
            kind,
            "failure" if kind in (codes.OVERRIDE_FAILED, codes.OVERRIDE_STALE) else "success",
            context,
            subject=Subject(id=override.id, type="override"),
            operation=override.operation,
            target=override.target,
            target_version=override.target_version,
            payload=override.payload_sha256,
            ticket=override.ticket,
            risk=override.risk,
            environment=override.environment,
            **details,
        )

    async def _tried(self, context: Context, operation: str, identifier: str, error: BailiwickError) -> None:
        """Keep that somebody tried what he may not."""
        if error.reason not in _TRIED:
            return
        async with self._database.begin() as tx:
            await self._recorder.record(
                tx,
                codes.OVERRIDE_REFUSED,
                "failure",
                context,
                subject=Subject(id=identifier or operation or "-", type="override"),
                reasons=(error.reason,),
                operation=operation,
            )


def _read(operation: Operation, arguments: Mapping[str, Any]) -> Any:
    try:
        return operation.arguments.model_validate(dict(arguments))
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:5])
        raise InvalidRequest(f"The arguments of {operation.name}: {told}") from None


def _payload(override: Override) -> dict[str, Any]:
    """What was agreed to, from what is stored: the hash shows that it is that."""
    ask = Ask(override.operation, override.arguments, override.reason, override.ticket, override.risk)
    target = Target(override.target, override.target_version)
    return payload_of(override.id, override.operation, override.arguments, target, override.environment, ask)


def _approvers(override: Override) -> list[str]:
    return [vote.person for vote in override.approval.votes if vote.approves]


def _glass(override: Override, severity: Severity, what: str) -> Raised:
    return Raised(
        key=f"break-glass/{override.id}",
        rule="BreakGlass",
        severity=severity,
        summary=f"{override.operation} by {override.requested_by} by broken glass {what}",
        owner="manual-override",
        runbook=RUNBOOK,
        labels={"operation": override.operation},
    )
