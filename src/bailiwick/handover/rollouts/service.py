"""What people do with rollouts: plan, sign, start, confirm, decide, take back. Each leaves its event with the change.

The row of a rollout is locked for every one of them, so that of two who press at once one comes first. NO-GO wins
either way: before the start it ends the rollout whatever was signed, after it the rollout is taken back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy.exc import IntegrityError

from bailiwick.assurance.book import canonical
from bailiwick.assurance.books import Books
from bailiwick.assurance.override_rules import RELATED_FOR
from bailiwick.assurance.ports import Gate as BudgetGate
from bailiwick.assurance.ports import Tasks, Waivers
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context
from bailiwick.handover.ports import Canaries, Environments, OpenIncidents, Readiness
from bailiwick.handover.ports import Rollout as RolloutFact
from bailiwick.handover.rollouts import records
from bailiwick.handover.rollouts.engine import Engine, task_of, why_frozen
from bailiwick.handover.rollouts.evidence import Proof
from bailiwick.handover.rollouts.go import LIFE, Answer, Facts, Preflight, Signature, answer, sha256_of
from bailiwick.handover.rollouts.plans import PLAN, filled
from bailiwick.handover.rollouts.records import Ledger, Rollout, as_jsonb, attempts_of, find, note, signatures_of
from bailiwick.handover.rollouts.states import AHEAD, Attempt, confirmers, counting, current_gate, next_forward, of_step
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import Conflict, Denied, NotFound
from bailiwick.kernel.http import Caller
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.quorum import People
from bailiwick.kernel.verdicts import Verdict

Decision = Literal["continue", "retry", "roll-back"]
_BEFORE_START = ("planned", "pending", "go")


@dataclass(frozen=True, slots=True)
class Sources:
    """Whom the facts of an answer are asked of."""

    readiness: Readiness
    canaries: Canaries
    incidents: OpenIncidents
    environments: Environments
    budgets: BudgetGate
    waivers: Waivers


class Rollouts:
    """Implements ``Rollouts`` of the room's ports, and what the routes call."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        ids: Ids,
        books: Books,
        ledger: Ledger,
        proof: Proof,
        engine: Engine,
        tasks: Tasks,
        facts: Sources,
        people: People,
    ) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._books = books
        self._ledger = ledger
        self._proof = proof
        self._engine = engine
        self._tasks = tasks
        self._facts = facts
        self._people = people

    async def of(self, tx: Transaction, zone: str, environment: str, since: datetime) -> Sequence[RolloutFact]:
        """Those begun since, newest first."""
        found = await records.since(tx, zone, environment, since)
        return [
            RolloutFact(each.id, each.environment, each.digest, each.state, each.outcome,  # type: ignore[arg-type]
                        each.began_at or each.planned_at, each.ended_at)
            for each in found
        ]  # fmt: skip

    # --- planning

    async def plan(
        self, context: Context, plan: str, environment: str, digest: str, variables: Mapping[str, str]
    ) -> Rollout:
        """Bind a release to a plan of the book in force. Raises ``not_found``, ``invalid_request``."""
        zone = context.zone
        async with self._database.begin() as tx:
            document = (await self._books.current(tx, zone)).documents.get((PLAN.name, plan))
            if document is None:
                raise NotFound(f"There is no RolloutPlan {plan}.")
            if await self._facts.environments.get(tx, zone, environment) is None:
                raise NotFound(f"There is no environment {environment}.")
            spec = filled(PLAN.read(document.spec), variables, digest=digest, environment=environment)
            shown = spec.model_dump(mode="json")
            identifier = self._ids()
            await tx.run("SELECT pg_advisory_xact_lock(hashtext('bailiwick.rollouts'), hashtext(:zone))", zone=zone)
            await tx.run(
                "INSERT INTO rollouts (id, zone, number, environment, digest, plan, plan_version, plan_sha256, spec,"
                " variables, planned_by, planned_at, state, entered_at)"
                " SELECT :id, :zone, coalesce(max(number), 0) + 1, :environment, :digest, :plan, :version,"
                " :sha256, cast(:spec AS jsonb), cast(:variables AS jsonb),"
                " :by, :now, 'planned', :now FROM rollouts WHERE zone = :zone",
                id=identifier,
                zone=zone,
                environment=environment,
                digest=digest,
                plan=plan,
                version=document.version,
                sha256=hashlib.sha256(canonical(shown)).hexdigest(),
                spec=as_jsonb(shown),
                variables=as_jsonb(dict(variables)),
                by=context.actor.user,
                now=self._clock.now(),
            )
            rollout = await find(tx, zone, identifier)
            await note(
                tx,
                self._ledger.recorder,
                codes.ROLLOUT_PLANNED,
                context,
                rollout,
                plan=plan,
                sha256=rollout.plan_sha256,
            )
        return rollout

    # --- Go or No-Go

    async def check(self, context: Context, identifier: str) -> dict[str, Any]:
        """Compute the answer and keep it; nothing is signed by it."""
        async with self._database.begin() as tx:
            rollout = await find(tx, context.zone, identifier, lock=True)
            if rollout.state not in _BEFORE_START:
                raise Conflict(f"It is {rollout.state}.", reason="rollout_not_waiting")
            return (await self._answer(tx, context, rollout))[1]

    async def go(self, context: Context, caller: Caller, identifier: str, role: str | None, why: str) -> dict[str, Any]:
        """Sign GO in one of the roles that sign, and compute the answer; GO once nothing is missing.

        Raises ``rollout_not_waiting``, ``rollout_same_person``, ``rollout_role``, ``rollout_no_go`` when it was ended.
        """
        async with self._database.begin() as tx:
            rollout = await find(tx, context.zone, identifier, lock=True)
            if rollout.state == "no_go":
                raise Conflict("Somebody said NO-GO.", reason="rollout_no_go", lines=[rollout.told])
            if rollout.state == "go" and self._lapsed(rollout):
                rollout = await self._lapse(tx, context, rollout)
            if rollout.state not in ("pending", "go"):
                raise Conflict(f"It is {rollout.state}: {rollout.told}", reason="rollout_not_waiting")
            signed = await signatures_of(tx, rollout.id, rollout.round)
            gone = await self._gone(tx, rollout, signed)
            if rollout.state == "go" and gone:
                rollout, signed = await self._lapse(tx, context, rollout, "somebody who signed may not any more"), []
            elif gone or any(self._clock.now() >= each.at + LIFE for each in signed):
                rollout, signed = await self._ledger.put(tx, rollout, round=rollout.round + 1), []
            mine = next((each.role for each in signed if each.by == caller.name), None)
            if mine is None or (role is not None and role != mine):
                wanted = await self._signs_as(tx, rollout, caller, role, signed)
                await self._sign(tx, context, rollout, "GO", wanted, why)
            found, document = await self._answer(tx, context, rollout)
            if found.go and rollout.state == "pending":
                await self._ledger.move(
                    tx, context, rollout, "go", "GO", answer=document["sha256"], answer_until=found.until
                )
        return document

    async def no_go(self, context: Context, identifier: str, why: str) -> Rollout:
        """Say NO-GO: before the start that is its end, after it it is taken back. Nobody has to agree."""
        async with self._database.begin() as tx:
            rollout = await find(tx, context.zone, identifier, lock=True)
            if rollout.state not in (*_BEFORE_START, *AHEAD):
                raise Conflict(f"It is {rollout.state}.", reason="rollout_not_waiting")
            told = f"{context.actor.user} says NO-GO: {why}"
            await self._sign(tx, context, rollout, "NO-GO", "", why)
            if rollout.state in AHEAD:
                return await self._engine.roll_back(tx, context, rollout, told, by=context.actor.user)
            await self._answer(tx, context, rollout)
            return await self._ended(tx, context, rollout, "no_go", told)

    async def start(self, context: Context, identifier: str) -> Rollout:
        """Begin, by a GO that still holds: everything is asked once more.

        Raises ``rollout_no_go``, ``rollout_expired``, ``rollout_going``.
        """
        expired = False
        try:
            async with self._database.begin() as tx:
                rollout = await find(tx, context.zone, identifier, lock=True)
                if rollout.state == "go" and self._lapsed(rollout):
                    rollout, expired = await self._lapse(tx, context, rollout), True
                elif rollout.state != "go":
                    raise Conflict(f"It is {rollout.state}: {rollout.told}", reason="rollout_no_go", lines=[])
                else:
                    found, document = await self._answer(tx, context, rollout)
                    if found.go:
                        rollout = await self._ledger.move(
                            tx, context, rollout, "running", "", answer=document["sha256"],
                            began_at=self._clock.now(), started_by=context.actor.user,
                        )  # fmt: skip
                        await note(
                            tx,
                            self._ledger.recorder,
                            codes.ROLLOUT_STARTED,
                            context,
                            rollout,
                            answer=document["sha256"],
                        )
        except IntegrityError:
            raise Conflict(reason="rollout_going") from None
        if expired:
            raise Conflict(reason="rollout_expired")
        if not found.go:
            failing = [f"{line.name}: {line.told}" for line in found.lines if not line.passes]
            raise Conflict(reason="rollout_no_go", lines=failing)
        return rollout

    # --- while it goes on

    async def confirm(
        self, context: Context, caller: Caller, identifier: str, step: str, statement: str, *, passed: bool = True,
        record: str = "",
    ) -> Rollout:  # fmt: skip
        """State that a step that waits for a person is done, or (``passed`` false) that it cannot be.

        ``record``: of a preflight, the evidence that was read. Raises ``rollout_not_waiting``, ``rollout_role``,
        ``rollout_same_person``.
        """
        async with self._database.begin() as tx:
            rollout = await find(tx, context.zone, identifier, lock=True)
            found = rollout.plan.step(step)
            if found is None:
                raise NotFound(f"The plan has no step {step}.")
            attempts = await attempts_of(tx, rollout.id)
            attempt = await self._asked(tx, context, rollout, attempts, step)
            deed = found.back if attempt.way == "back" and found.back is not None else found
            await self._may_confirm(tx, rollout, caller, attempts, attempt, record)
            owner = rollout.plan.owner_of(deed, found)
            review = deed.do.kind == "preflight"
            if not review and owner not in caller.roles:
                raise Denied(f"This is for {owner}.", reason="rollout_role", role=str(owner))
            proof = await self._proof.stated(tx, context, rollout, attempt, statement, passed)
            state = "passed" if passed else "failed"
            await self._ledger.end(
                tx, context, rollout, attempt, state, statement, record=proof,
                by=context.actor.user,
            )  # fmt: skip
            await self._tasks.close(tx, context, task_of(rollout, step, attempt.way), state)
            return await self._confirmed(tx, context, rollout, attempt, passed, statement)

    async def decide(self, context: Context, caller: Caller, identifier: str, decision: Decision, why: str) -> Rollout:
        """Decide at a gate: on, the failed step again, or back. Before the start, again is the preflight.

        Raises ``rollout_decision_late`` when the timer has ended, ``rollout_canary``, ``rollout_role``.
        """
        if decision == "roll-back":
            return await self.roll_back(context, identifier, why)
        async with self._database.begin() as tx:
            rollout = await find(tx, context.zone, identifier, lock=True)
            attempts, gates = await attempts_of(tx, rollout.id), await records.passed_gates(tx, rollout.id)
            if decision == "retry" and rollout.state in ("pending", "go"):
                return await self._anew(tx, context, rollout, attempts, why)
            attempts = counting(rollout.plan, attempts, rollout.preflights_after)
            due = next_forward(rollout.plan, attempts, gates, before_go=rollout.state == "planned")
            gate = current_gate(rollout.plan, due)
            if rollout.state == "deciding":
                if rollout.decision_due is None or self._clock.now() >= rollout.decision_due:
                    raise Conflict(reason="rollout_decision_late")
                if gate.owner not in caller.roles and caller.role != "admin":
                    raise Denied(f"{gate.owner} decides at {gate.name}.", reason="rollout_role", role=str(gate.owner))
            if decision == "retry":
                return await self._retry(tx, context, rollout, gate.name, why)
            if rollout.state != "deciding" or rollout.blocked_on:
                raise Conflict(
                    "A step that failed is retried, or it is rolled back." if rollout.blocked_on else
                    "It waits for no decision.", reason="rollout_not_waiting",
                )  # fmt: skip
            names = [told.split(":")[0] for told in rollout.fired]
            if any(trigger.canary and trigger.name in names for trigger in gate.triggers):
                raise Conflict(reason="rollout_canary")
            await self._ledger.decide(tx, context, rollout, gate.name, "continue", why, context.actor.user)
            await self._engine.decided(tx, context, rollout, "goes on")
            heeded = sorted({*rollout.heeded, *names})
            return await self._ledger.move(tx, context, rollout, "running", f"goes on: {why}", heeded=heeded)

    async def roll_back(self, context: Context, identifier: str, why: str) -> Rollout:
        """Take it back from now on; one person may."""
        async with self._database.begin() as tx:
            rollout = await find(tx, context.zone, identifier, lock=True)
            if rollout.state not in AHEAD:
                raise Conflict(f"It is {rollout.state}.", reason="rollout_not_waiting")
            gate = rollout.plan.gate.name
            await self._ledger.decide(tx, context, rollout, gate, "roll-back", why, context.actor.user)
            told = f"{context.actor.user}: {why}"
            return await self._engine.roll_back(tx, context, rollout, told, by=context.actor.user)

    async def abandon(self, context: Context, identifier: str, why: str) -> Rollout:
        """End it before its start; or where taking back is stuck, which stays half-way and says so."""
        async with self._database.begin() as tx:
            rollout = await find(tx, context.zone, identifier, lock=True)
            if rollout.state not in (*_BEFORE_START, "stuck"):
                raise Conflict(f"It is {rollout.state}: roll it back.", reason="rollout_not_waiting")
            half = " It was NOT taken back whole." if rollout.state == "stuck" else ""
            return await self._ended(tx, context, rollout, "abandoned", f"{context.actor.user}: {why}{half}")

    # --- inside

    async def _ended(
        self, tx: Transaction, context: Context, rollout: Rollout, state: Literal["no_go", "abandoned"], told: str
    ) -> Rollout:
        for attempt in await attempts_of(tx, rollout.id):
            if attempt.open:
                await self._ledger.end(tx, context, rollout, attempt, "lost", "the rollout ended")
                await self._tasks.close(tx, context, task_of(rollout, attempt.step, attempt.way), state)
        await self._engine.decided(tx, context, rollout, state)
        return await self._ledger.move(tx, context, rollout, state, told)

    async def _signs_as(
        self, tx: Transaction, rollout: Rollout, caller: Caller, role: str | None, signed: Sequence[Signature]
    ) -> str:
        """The role somebody signs in. A person signs once, by whatever account, and not what he planned."""
        needed, taken = [str(each) for each in rollout.plan.signatures], {each.role for each in signed}
        await self._another(tx, rollout, caller, [rollout.planned_by, *(each.by for each in signed)])
        if role is not None and (role not in needed or role not in caller.roles):
            raise Denied(f"You are no {role} that signs this.", reason="rollout_role", role=role)
        free = [each for each in needed if each in caller.roles and each not in taken]
        if role is not None and role not in free:
            raise Conflict(f"{role} has signed.", reason="rollout_not_waiting")
        if not free:
            raise Denied(f"{', '.join(needed)} sign this.", reason="rollout_role", role=", ".join(needed))
        return role or free[0]

    async def _another(self, tx: Transaction, rollout: Rollout, caller: Caller, others: Collection[str]) -> None:
        """Refuse whoever is no other person than ``others``; accounts count as one as they do for approvals."""
        since = self._clock.now() - RELATED_FOR
        if caller.name in others or await self._people.related(tx, rollout.zone, caller.name, [*others], since):
            raise Denied(reason="rollout_same_person")

    async def _gone(self, tx: Transaction, rollout: Rollout, signed: Sequence[Signature]) -> frozenset[str]:
        """Who of those who signed GO could not sign so now."""
        found = set()
        for each in signed:
            standing = await self._people.standing(tx, rollout.zone, each.by)
            if each.says == "GO" and (standing is None or not standing.is_active or each.role not in standing.roles):
                found.add(each.by)
        return frozenset(found)

    async def _sign(self, tx: Transaction, context: Context, rollout: Rollout, says: str, role: str, why: str) -> None:
        about = sha256_of(_about(rollout))
        await tx.run(
            "INSERT INTO rollout_signatures (rollout, round, by, role, says, why, subject, at)"
            " VALUES (:rollout, :round, :by, :role, :says, :why, :subject, :now)",
            rollout=rollout.id,
            round=rollout.round,
            by=context.actor.user,
            role=role,
            says=says,
            why=why,
            subject=about,
            now=self._clock.now(),
        )
        await note(
            tx, self._ledger.recorder, codes.ROLLOUT_SIGNED, context, rollout,
            "success" if says == "GO" else "deny", says=says, role=role, why=why, about=about,
        )  # fmt: skip

    async def _answer(self, tx: Transaction, context: Context, rollout: Rollout) -> tuple[Answer, dict[str, Any]]:
        """Compute the answer of this moment and keep it for good, and that it took the waivers it took."""
        facts = await self._collected(tx, context, rollout)
        found = answer(facts, self._clock.now())
        if found.passes("readiness"):
            for waiver in facts.readiness.waivers:
                await self._facts.waivers.used(tx, context, waiver, f"rollout/{rollout.name}")
        document = found.document(_about(rollout))
        digest = sha256_of(document)
        await tx.run(
            "INSERT INTO rollout_answers (sha256, rollout, at, until, go, asked_by, document) VALUES (:sha256,"
            " :rollout, :at, :until, :go, :by, cast(:document AS jsonb)) ON CONFLICT DO NOTHING",
            sha256=digest,
            rollout=rollout.id,
            at=found.at,
            until=found.until,
            go=found.go,
            by=context.actor.user,
            document=as_jsonb(document),
        )
        await note(
            tx, self._ledger.recorder, codes.ROLLOUT_ANSWERED, context, rollout, "allow" if found.go else "deny",
            answer=document["answer"], sha256=digest, failing=[line.name for line in found.lines if not line.passes],
        )  # fmt: skip
        return found, {**document, "sha256": digest}

    async def _collected(self, tx: Transaction, context: Context, rollout: Rollout) -> Facts:
        zone, facts, plan = context.zone, self._facts, rollout.plan
        names = [step.name for step in plan.steps(before_go=True) if step.do.kind == "preflight"]
        attempts = counting(plan, await attempts_of(tx, rollout.id), rollout.preflights_after)
        looked = [each for name in names for each in of_step(attempts, name, "forward") if each.ended_at is not None]
        newest = max(looked, key=lambda each: each.number, default=None)
        preflight = None
        if newest is not None and newest.ended_at is not None:
            verdict = Verdict.PASS if newest.state == "passed" else Verdict.FAIL
            # what a person read later was looked at when the programs ran
            preflight = Preflight(verdict, newest.acted_at or newest.ended_at, newest.record)
        signed = await signatures_of(tx, rollout.id, rollout.round)
        people = {rollout.planned_by, *(each.by for each in signed)}
        since = self._clock.now() - RELATED_FOR
        return Facts(
            digest=rollout.digest,
            planned_by=rollout.planned_by,
            required=[str(role) for role in plan.signatures],
            readiness=await facts.readiness.standing(tx, zone, rollout.environment),
            canary=await facts.canaries.standing(tx, zone, rollout.digest),
            budget=await facts.budgets.gate(tx, context, "deploy", plan.service, plan.change_class),
            incidents=await facts.incidents.open(tx, zone),
            frozen=await why_frozen(tx, self._books, rollout, self._clock),
            preflight=preflight,
            signatures=signed,
            same={
                each.by: frozenset(await self._people.related(tx, zone, each.by, sorted(people - {each.by}), since))
                for each in signed
            },
            gone=await self._gone(tx, rollout, signed),
        )

    def _lapsed(self, rollout: Rollout) -> bool:
        return rollout.answer_until is None or self._clock.now() >= rollout.answer_until

    async def _lapse(
        self, tx: Transaction, context: Context, rollout: Rollout, why: str = "the GO is too old"
    ) -> Rollout:
        """A GO that counts no more: it is asked and signed again."""
        return await self._ledger.move(
            tx,
            context,
            rollout,
            "pending",
            f"{why}: ask and sign again",
            round=rollout.round + 1,
            answer="",
            answer_until=None,
        )

    async def _asked(
        self, tx: Transaction, context: Context, rollout: Rollout, attempts: Sequence[Attempt], step: str
    ) -> Attempt:
        """The attempt that waits for a person: one that is open and his, or a new one of a step nobody knows of."""
        found = rollout.plan.step(step)
        open_ = next((each for each in attempts if each.step == step and each.open), None)
        if open_ is not None and found is not None and rollout.state != "stuck":
            deed = found.back if open_.way == "back" and found.back is not None else found
            if deed.do.kind == "manual" or (deed.do.kind == "preflight" and open_.state == "acted"):
                return open_
        last = next((each for each in reversed(attempts) if each.step == step), None)
        unknown = last is not None and last.state == "lost" and rollout.state in ("waiting", "running")
        if last is not None and rollout.blocked_on == step and (unknown or rollout.state == "stuck"):
            return await self._ledger.begin(tx, context, rollout, step, last.way)
        raise Conflict(f"{step} does not wait for anybody.", reason="rollout_not_waiting")

    async def _may_confirm(
        self, tx: Transaction, rollout: Rollout, caller: Caller, attempts: Sequence[Attempt], attempt: Attempt,
        record: str,
    ) -> None:  # fmt: skip
        """Whether this person may: not who planned a preflight, not who confirmed what must be another's."""
        step = rollout.plan.step(attempt.step)
        assert step is not None
        review = step.do.kind == "preflight"
        others = confirmers(attempts, step.distinct_from) | ({rollout.planned_by} if review else set())
        if others:
            await self._another(tx, rollout, caller, others)
        if review and record != attempt.record:
            raise Conflict("Say which evidence you read.", reason="approval_changed")

    async def _confirmed(
        self, tx: Transaction, context: Context, rollout: Rollout, attempt: Attempt, passed: bool, statement: str
    ) -> Rollout:
        told = f"{attempt.step}: {statement}"
        if rollout.state == "stuck":
            return await self._engine.unstuck(tx, context, rollout) if passed else rollout
        if passed:
            rollout = await self._ledger.put(tx, rollout, blocked_on="", told="")
            if rollout.state == "waiting":
                return await self._ledger.move(tx, context, rollout, "running")
            return rollout
        return await self._engine.failed(tx, context, rollout, attempt, told)

    async def _anew(
        self, tx: Transaction, context: Context, rollout: Rollout, attempts: Sequence[Attempt], why: str
    ) -> Rollout:
        """Have its preflight made again, which is too old, or of what is no more; everybody signs again after it."""
        if not any(step.do.kind == "preflight" for step in rollout.plan.steps(before_go=True)):
            raise Conflict("Its plan has no preflight.", reason="rollout_not_waiting")
        await self._ledger.decide(tx, context, rollout, rollout.plan.gate.name, "retry", why, context.actor.user)
        return await self._ledger.move(
            tx, context, rollout, "planned", f"preflight again: {why}", round=rollout.round + 1, answer="",
            answer_until=None, preflights_after=max((each.number for each in attempts), default=0),
        )  # fmt: skip

    async def _retry(self, tx: Transaction, context: Context, rollout: Rollout, gate: str, why: str) -> Rollout:
        """Do the step again that failed, or that nobody knows of."""
        if not rollout.blocked_on or rollout.state not in ("planned", "waiting", "running", "deciding", "stuck"):
            raise Conflict("No step waits to be retried.", reason="rollout_not_waiting")
        await self._ledger.decide(tx, context, rollout, gate, "retry", why, context.actor.user)
        await self._tasks.close(tx, context, task_of(rollout, rollout.blocked_on, "forward"), "retried")
        if rollout.state == "stuck":
            return await self._engine.unstuck(tx, context, rollout)
        rollout = await self._ledger.put(tx, rollout, blocked_on="", told=f"again: {why}"[:2000])
        if rollout.state == "deciding":
            await self._engine.decided(tx, context, rollout, "retried")
        if rollout.state in ("deciding", "waiting"):
            return await self._ledger.move(tx, context, rollout, "running", rollout.told)
        return rollout


def _about(rollout: Rollout) -> dict[str, Any]:
    """What is signed and answered of."""
    return {
        "rollout": rollout.id,
        "environment": rollout.environment,
        "digest": rollout.digest,
        "plan": rollout.plan_name,
        "plan_version": rollout.plan_version,
        "plan_sha256": rollout.plan_sha256,
        "round": rollout.round,
    }


__all__ = ["Decision", "Rollouts", "Sources"]
