"""Overrides: one exact operation, held until other persons agree to exactly that, done once, by us, and not otherwise.

What is approved is the hash of everything: the operation, its arguments, the target *and the version it had when it was
asked for*, the environment and the ticket. It is done in the transaction that marks it done; if the target moved it is
STALE. The two-person rule is ``kernel/quorum.py``; this adds what is done, by what rule, and broken glass.

Broken glass is one person who acts at once, for what narrows or can be taken back. Another person must confirm it
within a day; otherwise, or when he disputes it, it is taken back where there is a way, and an alert opens an incident.
What destroys, and finance, and what widens without a way back (an unlock, a policy set that has not proven itself, what
switches on again what was switched off) is never done so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from pydantic import ValidationError

from bailiwick.assurance.book import Book
from bailiwick.assurance.books import Books
from bailiwick.assurance.operations import Operation
from bailiwick.assurance.override_records import MACHINE, Ask, Override, OverrideRecords, payload_again, payload_of
from bailiwick.assurance.override_rules import LONGEST, RELATED_FOR, REVIEW_WITHIN, choose
from bailiwick.assurance.ports import Alerts, Raised
from bailiwick.evidence import codes
from bailiwick.evidence.codes import EventType
from bailiwick.evidence.events import Context, Recorder, Subject, rfc3339
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import BailiwickError, Conflict, Denied, InvalidRequest, NotFound
from bailiwick.kernel.http import Caller
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.modes import Switch, require_on
from bailiwick.kernel.permissions import Permission
from bailiwick.kernel.quorum import Action, Quorum, Terms, payload_hash
from bailiwick.kernel.severity import Severity

LIFTING = frozenset(["switch.lift", "gateway.open"])
"""How what was switched off is switched on again; so nothing that is switched off keeps one from it."""

DO = Action(
    "override.do",
    Permission.OVERRIDES_APPROVE,
    life=LONGEST,
    always=lambda payload: payload.get("operation") in LIFTING,
)
REVIEW = Action("override.review", Permission.OVERRIDES_APPROVE, life=REVIEW_WITHIN, always=lambda payload: True)
RUNBOOK = "docs/how-to/overrides.md"
PATH = "/api/v1/overrides"

# a refusal of these is somebody trying what he may not, and is kept
_TRIED = frozenset(
    [
        "approval_own_request",
        "approval_same_person",
        "approval_related_account",
        "approval_role",
        "approval_changed",
        "approval_concerned",
        "approval_ended",
        "approval_required",
        "approval_requester_gone",
        "override_no_checker",
        "override_not_signed_in",
        "override_stale",
        "override_done",
        "override_required",
        "switch_takes_two",
        "permission_denied",
    ]
)


Also = Callable[[Transaction, Override], Awaitable[None]]
"""What else becomes so when an override is done, in the transaction that does it."""


class Stale(Exception):
    """The target is not what it was; ``now`` is its version."""

    def __init__(self, now: str) -> None:
        self.now = now
        super().__init__(now)


# ---------------------------------------------------------------------- rules


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
        self._rows = OverrideRecords(clock, quorum, environment)
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
            standing = await self._rows.standing(tx, context, caller.name, ask, said, target)
            if standing is not None:
                return standing
            identifier = self._ids()
            payload = payload_of(identifier, ask.operation, said, target, self._environment, ask)
            terms = replace(chosen.rule.terms(), concerns=target.account)
            approval = await self._quorum.request(
                tx, context, context.zone, DO.name, payload, by=caller.name, reason=ask.reason, terms=terms
            )
            if len(approval.candidates) < approval.missing:
                told = approval.document()["blocked"]
                raise InvalidRequest(told, reason="override_no_checker", invite=list(approval.roles) or ["admin"])
            await self._rows.insert(
                tx, context, identifier, approval, ask, said, target, amount,
                rule=(chosen.name, chosen.version), break_glass=False,
            )  # fmt: skip
            override = await self._rows.get(tx, context.zone, identifier)
            await self._record(tx, codes.OVERRIDE_REQUESTED, context, override)
        return override

    async def refuse_alone(
        self, context: Context, by: str, name: str, arguments: Mapping[str, Any], *, signed_in: bool = True
    ) -> NoReturn:
        """Refuse an operation that somebody tries by himself, and say how it is asked for.

        Raises ``override_required``; ``override_no_checker`` where nobody but ``by`` and whom it concerns could agree,
        with whom to ``invite``; ``override_no_rule``; and ``not_found`` as the operation does. ``signed_in`` is False
        for who works at the machine: two others are needed then, one to ask and one to agree.
        """
        try:
            await self._refuse_alone(context, by, name, arguments, signed_in)
        except BailiwickError as error:
            await self._tried(context, name, "", error)
            raise

    async def _refuse_alone(
        self, context: Context, by: str, name: str, arguments: Mapping[str, Any], signed_in: bool
    ) -> NoReturn:
        async with self._database.begin() as tx:
            book = await self._books.current(tx, context.zone)
            operation = self._operation(book, name)
            read = _read(operation, arguments)
            target = await operation.target(tx, context.zone, read)
            chosen = choose(book, name, self._environment, operation.amount(read))
            if chosen is None:
                raise InvalidRequest(reason="override_no_rule", operation=name, environment=self._environment)
            terms = replace(chosen.rule.terms(), concerns=target.account)
            others = list(await self._quorum.candidates(tx, context.zone, DO.name, by, terms))
        if len(others) < terms.needed + (not signed_in):
            raise InvalidRequest(reason="override_no_checker", invite=list(terms.roles) or ["admin"])
        told = " ".join(f"--arg {argument}={value}" for argument, value in arguments.items())
        raise Conflict(
            reason="override_required", operation=name, arguments=dict(arguments), approvers=others,
            ask=f"POST {PATH}, or: bailiwick override propose {name} {told}",
        )  # fmt: skip

    async def decide(
        self, context: Context, caller: Caller, identifier: str, *, approves: bool, payload_sha256: str, comment: str
    ) -> Override:
        """One checker's word on exactly what he read. Raises what :meth:`Quorum.vote` does."""
        operation = ""
        try:
            refuse_not_a_person(caller, context)
            async with self._database.begin() as tx:
                override = await self._rows.locked(tx, context.zone, identifier)
                operation = override.operation
                if override.break_glass:
                    raise Conflict("It was done already; it is to be reviewed.", reason="override_done")
                await self._quorum.vote_in(
                    tx, context, context.zone, override.approval.id, person=caller.name, role=caller.role,
                    approves=approves, payload_sha256=payload_sha256, comment=comment,
                )  # fmt: skip
                override = await self._rows.get(tx, context.zone, identifier)
                await self._record(tx, codes.OVERRIDE_VOTED, context, override)
        except BailiwickError as error:
            await self._tried(context, operation, identifier, error)
            raise
        return override

    async def withdraw(self, context: Context, caller: Caller, identifier: str) -> Override:
        """Take it back before it is done."""
        async with self._database.begin() as tx:
            override = await self._rows.locked(tx, context.zone, identifier)
            MACHINE.require(override.state, "withdrawn")
        await self._quorum.withdraw(context, context.zone, override.approval.id, person=caller.name, role=caller.role)
        async with self._database.begin() as tx:
            override = await self._rows.get(tx, context.zone, identifier)
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
                override = await self._rows.get(tx, context.zone, identifier)
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
            fresh = await self._rows.locked(tx, context.zone, override.id)
            if fresh.stored != "requested":
                raise Conflict(reason="override_done", state=fresh.stored)
            if operation.class_ != "narrowing" and operation.name not in LIFTING:
                await require_on(tx, context.zone, Switch.FREEZE, Switch.READ_ONLY)
            target = await operation.target(tx, context.zone, arguments)
            if (target.id, target.version) != (fresh.target, fresh.target_version):
                raise Stale(target.version)
            payload = payload_again(fresh)
            if payload_hash(DO.name, context.zone, payload) != fresh.payload_sha256:
                raise Conflict(reason="approval_changed")
            await self._quorum.execute(tx, context, context.zone, fresh.approval.id, DO.name, payload, by)
            await self._rows.set(
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
                    standing = await self._rows.get(tx, context.zone, override.id)
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
                fresh = await self._rows.locked(inner, context.zone, override.id)
                MACHINE.require(fresh.state, "done")
                await self._rows.set(inner, override.id, "executing", attempts=fresh.attempts + 1)
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
            fresh = await self._rows.locked(tx, context.zone, override.id)
            verdict = result.get("verdict", "done") if external else fresh.stored
            if external and verdict == "done":
                await self._record(tx, codes.OVERRIDE_DONE, context, fresh, approved_by=_approvers(fresh))
            elif external and verdict == "failed":
                await self._record(tx, codes.OVERRIDE_FAILED, context, fresh, why=str(result.get("why", ""))[:500])
            if not external or verdict in ("done", "failed"):
                await self._rows.set(tx, override.id, str(verdict), result=result, why=str(result.get("why", ""))[:500])
            return await self._rows.get(tx, context.zone, override.id)

    async def _stale(self, context: Context, override: Override, now: str) -> Override:
        async with self._database.begin() as tx:
            fresh = await self._rows.locked(tx, context.zone, override.id)
            if fresh.stored == "requested":
                await self._rows.set(tx, override.id, "stale", why=f"the target is at {now}"[:500])
                await self._quorum.end(tx, context, context.zone, fresh.approval.id, "bailiwick")
                await self._record(tx, codes.OVERRIDE_STALE, context, fresh, now=now)
        raise Conflict(reason="override_stale", target=override.target, was=override.target_version, now=now)

    async def _failed(self, context: Context, override: Override, why: str) -> None:
        async with self._database.begin() as tx:
            fresh = await self._rows.locked(tx, context.zone, override.id)
            if fresh.stored in ("requested", "executing"):
                await self._rows.set(tx, override.id, "failed", why=why[:500])
                await self._quorum.end(tx, context, context.zone, fresh.approval.id, "bailiwick")
                await self._record(tx, codes.OVERRIDE_FAILED, context, fresh, why=why[:500])

    # --- broken glass

    async def break_glass(self, context: Context, caller: Caller, ask: Ask, *, also: Also | None = None) -> Override:
        """Do it at once, as one person who has just proved himself; another must confirm it within a day.

        ``also`` is done in the same transaction: what the act brings about stands or falls with it. Raises
        ``override_not_signed_in``, ``permission_denied`` for what is finance or destroys, ``not_found``, and what the
        operation refuses.
        """
        refuse_not_a_person(caller, context)
        async with self._database.begin() as tx:
            operation = self._operation(await self._books.current(tx, context.zone), ask.operation)
        if operation.name in LIFTING or (operation.class_ == "widening" and not operation.reversible):
            two = Denied(reason="switch_takes_two")
            await self._tried(context, ask.operation, "", two)
            raise two
        if operation.class_ in ("finance", "destroying") or operation.external:
            error = Denied("What destroys, and finance, takes two persons before it is done.")
            await self._tried(context, ask.operation, "", error)
            raise error
        arguments = _read(operation, ask.arguments)
        identifier, said = self._ids(), arguments.model_dump(mode="json")

        async def claim(tx: Transaction) -> None:
            if operation.class_ != "narrowing" and operation.name not in LIFTING:
                await require_on(tx, context.zone, Switch.FREEZE, Switch.READ_ONLY)
            target = await operation.target(tx, context.zone, arguments)
            payload = payload_of(identifier, ask.operation, said, target, self._environment, ask)
            approval = await self._quorum.request(
                tx, context, context.zone, REVIEW.name, payload, by=caller.name, reason=ask.reason,
                terms=Terms(window=RELATED_FOR, concerns=target.account),
            )  # fmt: skip
            await self._rows.insert(
                tx, context, identifier, approval, ask, said, target, operation.amount(arguments),
                rule=("break-glass", 0), break_glass=True,
            )  # fmt: skip
            due = self._clock.now() + REVIEW_WITHIN
            await self._rows.set(tx, identifier, "review_due", executed_by=caller.name, review_due=due)
            override = await self._rows.get(tx, context.zone, identifier)
            await self._record(tx, codes.BREAK_GLASS_USED, context, override, review_due=rfc3339(due))
            await self._alerts.fire(tx, context, _glass(override))
            if also is not None:
                await also(tx, override)

        result = await operation.perform(context, arguments, claim, identifier)
        async with self._database.begin() as tx:
            await self._rows.set(tx, identifier, "review_due", result=result)
            return await self._rows.get(tx, context.zone, identifier)

    async def review(
        self, context: Context, caller: Caller, identifier: str, *, confirms: bool, payload_sha256: str, comment: str
    ) -> Override:
        """Another person's word on what one did: confirmed, or disputed and taken back where there is a way."""
        try:
            refuse_not_a_person(caller, context)
            async with self._database.begin() as tx:
                override = await self._rows.locked(tx, context.zone, identifier)
                MACHINE.require(override.state, "confirmed")
                approval = await self._quorum.vote_in(
                    tx, context, context.zone, override.approval.id, person=caller.name, role=caller.role,
                    approves=confirms, payload_sha256=payload_sha256, comment=comment,
                )  # fmt: skip
                if confirms and approval.state == "approved":
                    await self._quorum.execute(
                        tx, context, context.zone, approval.id, REVIEW.name, payload_again(override), caller.name
                    )
                    await self._rows.set(tx, identifier, "confirmed", reviewed_by=caller.name)
                    await self._record(tx, codes.BREAK_GLASS_REVIEWED, context, override, verdict="confirmed")
                    await self._alerts.clear(tx, context, _glass(override).key)
                override = await self._rows.get(tx, context.zone, identifier)
        except BailiwickError as error:
            await self._tried(context, "", identifier, error)
            raise
        return override if confirms else await self.take_back(context, override, "disputed", caller.name)

    async def take_back(self, context: Context, override: Override, why: str, by: str) -> Override:
        """What was done by broken glass is disputed, or nobody looked: taken back where there is a way, and told."""
        async with self._database.begin() as tx:
            fresh = await self._rows.locked(tx, context.zone, override.id)
            MACHINE.require(fresh.state, "disputed")
            # a process that has not the operation cannot undo it, and what was done is told all the same
            operation = self.operations(await self._books.current(tx, context.zone)).get(override.operation)
            await self._rows.set(tx, override.id, "disputed", reviewed_by=by, why=why)
            await self._record(tx, codes.BREAK_GLASS_REVIEWED, context, fresh, verdict="disputed")
            await self._alerts.clear(tx, context, _glass(fresh).key)
            await self._alerts.fire(tx, context, _disputed(fresh, why))
        undo = "failed"
        try:
            undone = operation is not None and await operation.undo(
                context, _read(operation, override.arguments), override.id
            )
            undo = "done" if undone else "none"
        finally:
            async with self._database.begin() as tx:
                await tx.run("UPDATE overrides SET undo = :undo WHERE id = :id", undo=undo, id=override.id)
                await self._record(tx, codes.BREAK_GLASS_UNDONE, context, fresh, why=why, undone=undo == "done")
                fresh = await self._rows.get(tx, context.zone, override.id)
        return fresh

    # --- reading

    async def get(self, tx: Transaction, zone: str, identifier: str) -> Override:
        """One of them. Raises ``not_found``."""
        return await self._rows.get(tx, zone, identifier)

    async def list(self, tx: Transaction, zone: str, *, before: str = "g", limit: int = 100) -> Sequence[Override]:
        """With ids before ``before``, newest first."""
        return await self._rows.list(tx, zone, before=before, limit=limit)

    async def waiting(self, tx: Transaction, state: str) -> Sequence[Override]:
        """Those of every zone in a stored state, oldest first."""
        return await self._rows.waiting(tx, state)

    def operations(self, book: Book) -> Mapping[str, Operation]:
        """What can be asked for, by name."""
        return {**self._own, **self._operations_of(book)}

    # --- inside

    def _operation(self, book: Book, name: str) -> Operation:
        found = self.operations(book).get(name)
        if found is None:
            raise NotFound(f"There is no operation {name}.")
        return found

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


def _approvers(override: Override) -> list[str]:
    return [vote.person for vote in override.approval.votes if vote.approves]


def _glass(override: Override) -> Raised:
    """That somebody must look at what one did."""
    return Raised(
        key=f"break-glass/{override.id}",
        rule="BreakGlass",
        severity=Severity.P1,
        summary=f"{override.operation} by {override.requested_by} by broken glass waits for its review",
        owner="manual-overrides",
        runbook=RUNBOOK,
        labels={"operation": override.operation},
    )


def _disputed(override: Override, why: str) -> Raised:
    """That nobody confirmed it: an incident of its own (``IncidentTrigger`` ``break-glass``)."""
    return Raised(
        key=f"break-glass/{override.id}/disputed",
        rule="BreakGlassDisputed",
        severity=Severity.P1,
        summary=f"{override.operation} by {override.requested_by} by broken glass is {why}",
        owner="manual-overrides",
        runbook=RUNBOOK,
        labels={"operation": override.operation},
    )
