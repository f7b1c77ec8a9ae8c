"""What works on rollouts: one move at a time, each written down before it is made, so that nothing is done twice.

A rollout is held by a lease, which is renewed while an action runs and while triggers are watched beside it. Whoever
takes one over finds what was begun: an action that bears repeating is done again, one whose verification holds was
done, and of any other nobody knows, so a person says, or it is rolled back as its plan says.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import time
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import structlog

from bailiwick.assurance.books import Books
from bailiwick.assurance.durations import span
from bailiwick.assurance.ports import Alerts, Raised, Task, Tasks, Verdicts
from bailiwick.evidence import codes
from bailiwick.evidence.events import Actor, Context, rfc3339
from bailiwick.handover.ports import Canaries, Environments
from bailiwick.handover.rollouts.actions import POLLED, Actions, Done
from bailiwick.handover.rollouts.evidence import Proof
from bailiwick.handover.rollouts.plans import FREEZE, Deed, Gate, Step, frozen
from bailiwick.handover.rollouts.records import Ledger, Rollout, attempts_of, find, firing, note, passed_gates
from bailiwick.handover.rollouts.states import (
    AHEAD,
    WORKED,
    Attempt,
    Due,
    counting,
    current_gate,
    next_back,
    next_forward,
    of_step,
)
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import Unavailable
from bailiwick.kernel.modes import Switch, require_on
from bailiwick.kernel.severity import Severity
from bailiwick.kernel.verdicts import Verdict

log = structlog.get_logger(__name__)

OWN_ALERTS = ("RolloutDecision", "RolloutStuck")
WORKER = "system:rollouts"
_RUNBOOK = "docs/how-to/rollouts.md"
_REVIEW_WITHIN = timedelta(days=5)


class Lost(Exception):
    """Another process holds the rollout now."""


@dataclass(frozen=True, slots=True)
class Ports:
    """What others do for it."""

    alerts: Alerts
    tasks: Tasks
    verdicts: Verdicts
    canaries: Canaries
    environments: Environments


@dataclass(frozen=True, slots=True)
class _Work:
    """Something to be done outside a transaction. ``how``: ``act``, ``verify``, or ``check`` after a crash."""

    rollout: Rollout
    due: Due
    attempt: Attempt
    how: str

    @property
    def deed(self) -> Deed:
        assert self.due.deed is not None
        return self.due.deed


class Engine:
    """Works on rollouts in one process. ``lease_s``: how long a killed process blocks one of them."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        ledger: Ledger,
        books: Books,
        proof: Proof,
        actions: Actions,
        ports: Ports,
        *,
        lease_s: float = 30.0,
        poll_s: float = 1.0,
    ) -> None:
        self._database = database
        self._clock = clock
        self._ledger = ledger
        self._books = books
        self._proof = proof
        self._actions = actions
        self._ports = ports
        self._lease_s = lease_s
        self._poll_s = poll_s
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._running: dict[str, asyncio.Task[bool]] = {}

    # --- the loop

    async def run(self) -> None:
        """Work on all that go on until cancelled, each by itself: one that waits for a program holds up no other."""
        away = False
        try:
            while True:
                try:
                    for identifier in await self._going():
                        if identifier not in self._running:
                            self._start(identifier)
                    away = False
                except Unavailable:
                    if not away:
                        log.warning("rollouts wait for the database")
                    away = True
                await asyncio.sleep(self._poll_s)
        finally:
            for task in self._running.values():
                task.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def tick(self) -> int:
        """Work on each that goes on until it waits, one after the other; on how many."""
        return sum([await self.work(identifier) for identifier in await self._going()])

    async def work(self, identifier: str) -> bool:
        """Hold one and move it until it waits; False where another process holds it."""
        if not await self._claim(identifier):
            return False
        try:
            while await self._move(identifier):
                pass
        except Lost:
            log.warning("another process took a rollout over", rollout=identifier)
            return True
        finally:
            with contextlib.suppress(Unavailable):  # then the lease ends by itself
                await asyncio.shield(self._release(identifier))
        return True

    def _start(self, identifier: str) -> None:
        task = asyncio.create_task(self.work(identifier), name=f"rollout {identifier}")
        self._running[identifier] = task

        def done(finished: asyncio.Task[bool]) -> None:
            self._running.pop(identifier, None)
            if finished.cancelled() or (error := finished.exception()) is None:
                return
            if not isinstance(error, Unavailable):
                log.error("a rollout could not be worked on", rollout=identifier, exc_info=error)

        task.add_done_callback(done)

    # --- holding

    async def _going(self) -> list[str]:
        async with self._database.begin() as tx:
            rows = await tx.all(
                "SELECT id FROM rollouts WHERE outcome = '' AND state = ANY(:states)"
                " AND (lease_until IS NULL OR lease_until < clock_timestamp()) ORDER BY id",
                states=list(WORKED),
            )
        return [row["id"] for row in rows]

    async def _claim(self, identifier: str) -> bool:
        async with self._database.begin() as tx:
            return bool(
                await tx.run(
                    "UPDATE rollouts SET holder = :holder,"
                    " lease_until = clock_timestamp() + make_interval(secs => :lease) WHERE id = :id AND outcome = ''"
                    " AND (lease_until IS NULL OR lease_until < clock_timestamp())",
                    holder=self._holder,
                    lease=self._lease_s,
                    id=identifier,
                )
            )

    async def _release(self, identifier: str) -> None:
        async with self._database.begin() as tx:
            await tx.run(
                "UPDATE rollouts SET lease_until = NULL WHERE id = :id AND holder = :holder AND outcome = ''",
                id=identifier,
                holder=self._holder,
            )

    async def _mine(self, tx: Transaction, identifier: str) -> Rollout:
        """The rollout, locked, its lease renewed. Raises :class:`Lost`."""
        zone = await tx.value(
            "UPDATE rollouts SET lease_until = clock_timestamp() + make_interval(secs => :lease)"
            " WHERE id = :id AND holder = :holder AND lease_until IS NOT NULL AND outcome = '' RETURNING zone",
            lease=self._lease_s,
            id=identifier,
            holder=self._holder,
        )
        if zone is None:
            raise Lost
        return await find(tx, zone, identifier, lock=True)

    # --- one move

    async def _move(self, identifier: str) -> bool:
        """Make the next move; False where there is none to be made now."""
        async with self._database.begin() as tx:
            rollout = await self._mine(tx, identifier)
            found = await self._next(tx, rollout)
        if isinstance(found, bool):
            return found
        done = await self._beside(found)
        async with self._database.begin() as tx:
            rollout = await self._mine(tx, identifier)
            return await self._outcome(tx, replace(found, rollout=rollout), done)

    async def _next(self, tx: Transaction, rollout: Rollout) -> bool | _Work:
        """What comes next; written down before it is done."""
        attempts, gates = await attempts_of(tx, rollout.id), await passed_gates(tx, rollout.id)
        context = _context(rollout)
        if rollout.state == "rolling_back":
            if await self._give_up(tx, context, rollout, attempts):
                return True
            due = next_back(rollout.plan, attempts)
        elif rollout.state in WORKED:
            counts = counting(rollout.plan, attempts, rollout.preflights_after)
            due = next_forward(rollout.plan, counts, gates, before_go=rollout.state == "planned")
            if rollout.state in AHEAD:
                rollout = await self.watch(tx, rollout, due)
                if rollout.state == "rolling_back":
                    return True
                if rollout.state == "deciding":
                    return False
        else:
            return False
        if due.gate is not None:
            await self._ledger.decide(tx, context, rollout, due.gate[1].name, "passed", "no trigger", "")
            await self._ledger.put(tx, rollout, heeded=[])
            return True
        if due.step is None or due.deed is None:
            await self._finish(tx, context, rollout)
            return False
        return await self._attempt(tx, context, rollout, attempts, due)

    async def _attempt(
        self, tx: Transaction, context: Context, rollout: Rollout, attempts: list[Attempt], due: Due
    ) -> bool | _Work:
        """Begin a step, or go on with one that was begun."""
        step, deed = due.step, due.deed
        assert step is not None and deed is not None
        made = of_step(attempts, step.name, due.way)
        last = made[-1] if made and made[-1].open else None
        if last is None:
            if rollout.blocked_on == step.name:
                if rollout.state == "running":
                    await self._ledger.move(tx, context, rollout, "waiting", rollout.told)
                return False
            if due.way == "forward" and rollout.state != "planned" and (why := await self._frozen(tx, rollout)):
                if rollout.told != why:
                    await self._ledger.put(tx, rollout, told=why)
                return False
            begun = await self._ledger.begin(tx, context, rollout, step.name, due.way)
            if deed.do.kind == "manual":
                await self._ask(tx, context, rollout, step, deed, begun, deed.title)
                return False
            if rollout.told:
                await self._ledger.put(tx, rollout, told="")
            return _Work(rollout, due, begun, "act")
        if deed.do.kind == "manual" or (deed.do.kind == "preflight" and last.state == "acted"):
            if rollout.state == "running":  # somebody decided to go on meanwhile
                await self._ledger.move(tx, context, rollout, "waiting", f"waits for {deed.title}")
            return False
        if last.state == "acted":
            return _Work(rollout, due, last, "verify")
        if deed.do.kind in POLLED:
            return _Work(rollout, due, last, "act")
        return await self._left(tx, context, rollout, due, last)

    async def _left(
        self, tx: Transaction, context: Context, rollout: Rollout, due: Due, attempt: Attempt
    ) -> bool | _Work:
        """An action was begun, and the process that did it is gone: nobody knows whether it was done."""
        step, deed = due.step, due.deed
        assert step is not None and deed is not None
        if deed.lost == "verify":
            return _Work(rollout, due, attempt, "check")
        await self._ledger.end(tx, context, rollout, attempt, "lost", "its process ended before its outcome was known")
        if deed.lost == "again":
            return True
        return await self._unknown(tx, context, rollout, due)

    async def _unknown(self, tx: Transaction, context: Context, rollout: Rollout, due: Due) -> bool:
        """Nobody can tell whether it was done: back by plan, or a person says."""
        step, deed = due.step, due.deed
        assert step is not None and deed is not None
        told = f"nobody knows whether {step.name} was done: confirm it, retry it, or roll back"
        if due.way == "forward":
            if rollout.state != "planned" and step.when_lost == "roll-back":
                await self.roll_back(tx, context, rollout, f"nobody knows whether {step.name} was done", by="")
                return True
            await self._ask(tx, context, rollout, step, deed, None, told)
            await self._ledger.put(tx, await find(tx, rollout.zone, rollout.id), blocked_on=step.name)
            return False
        await self._stuck(tx, context, rollout, step, told)
        return False

    # --- doing, and watching beside it

    async def _beside(self, work: _Work) -> Done:
        """Do it, hold the rollout meanwhile, watch its triggers, and stop when it is rolled back. Raises Lost."""
        task = asyncio.create_task(self._doing(work))
        held = time.monotonic()
        try:
            while not task.done():
                await asyncio.wait([task], timeout=min(self._poll_s, self._lease_s / 3))
                if task.done():
                    break
                try:
                    async with self._database.begin() as tx:
                        rollout = await self._mine(tx, work.rollout.id)
                        if rollout.state in AHEAD:
                            rollout = await self.watch(tx, rollout, work.due)
                    held = time.monotonic()
                except Unavailable:
                    if time.monotonic() - held > self._lease_s:
                        raise Lost from None  # somebody else may hold it by now
                    continue
                if work.due.way == "forward" and rollout.state == "rolling_back":
                    return Done(False, "stopped: it is rolled back")
            return task.result()
        finally:
            if not task.done():
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _doing(self, work: _Work) -> Coroutine[Any, Any, Done]:
        if work.how == "act":
            return self._actions.act(work.rollout, work.deed, work.attempt)
        return self._actions.verify(work.rollout, work.deed, at_once=work.how == "check")

    async def _outcome(self, tx: Transaction, work: _Work, done: Done) -> bool:
        """Write down what it came to."""
        rollout, attempt, context = work.rollout, work.attempt, _context(work.rollout)
        if work.how == "act" and done.ok is None:
            approval = done.approval or attempt.approval
            if (done.holds_since, approval) != (attempt.since, attempt.approval):
                await self._ledger.waits(tx, rollout, attempt, done.holds_since, approval)
            if rollout.told != done.told:
                await self._ledger.put(tx, rollout, told=done.told)
            return False
        if work.how == "check" and not done.ok:
            record = await self._proof.of(tx, context, rollout, attempt, done)
            told = f"its process ended before its outcome was known, and it is {done.told}"
            await self._ledger.end(tx, context, rollout, attempt, "lost", told, record=record)
            return await self._unknown(tx, context, rollout, work.due)
        record = await self._proof.of(tx, context, rollout, attempt, done)
        if work.how == "act" and done.ok and (done.review or work.deed.verify):
            await self._ledger.acted(tx, rollout, attempt, done.told, record)
            if done.review:
                told = f"read what preflight found (evidence {record[:12]}) and confirm it with that id"
                assert work.due.step is not None
                await self._ask(tx, context, rollout, work.due.step, work.deed, attempt, told)
                return False
            return True
        state = "passed" if done.ok else "failed"
        await self._ledger.end(tx, context, rollout, attempt, state, done.told, record=record)
        if not done.ok:
            await self._failed(tx, context, rollout, work.due, done.told)
        return True

    async def _failed(self, tx: Transaction, context: Context, rollout: Rollout, due: Due, told: str) -> None:
        step = due.step
        assert step is not None
        told = f"{step.name} failed: {told}"
        if due.way != "forward":
            if rollout.state == "rolling_back":
                await self._stuck(tx, context, rollout, step, told)
        elif rollout.state == "planned":
            await self._ledger.put(tx, rollout, blocked_on=step.name, told=told)
        elif rollout.state in AHEAD:
            rollout = await self._ledger.put(tx, rollout, blocked_on=step.name)
            await self._fire(tx, rollout, current_gate(rollout.plan, due), [told])

    # --- triggers and decisions

    async def watch(self, tx: Transaction, rollout: Rollout, due: Due) -> Rollout:
        """Let what fires make somebody decide, and what nobody decided in time be rolled back."""
        context, now = _context(rollout), self._clock.now()
        gate = current_gate(rollout.plan, due)
        if rollout.state == "deciding":
            if rollout.decision_due is None or now >= rollout.decision_due:
                await self._ledger.decide(tx, context, rollout, gate.name, "no decision", "the time was over", "")
                return await self.roll_back(tx, context, rollout, f"no decision in {gate.timer} at {gate.name}", by="")
            return rollout
        fired = [told for name, told in await self._fired(tx, rollout, gate) if name not in rollout.heeded]
        return await self._fire(tx, rollout, gate, fired) if fired else rollout

    async def _fired(self, tx: Transaction, rollout: Rollout, gate: Gate) -> list[tuple[str, str]]:
        """The triggers that fire, with a line for each."""
        now, found = self._clock.now(), []
        alerts = [each for each in await firing(tx, rollout.zone) if each[0] not in OWN_ALERTS]
        for trigger in gate.triggers:
            if trigger.canary:
                standing = await self._ports.canaries.standing(tx, rollout.zone, rollout.digest)
                if not standing.passes:
                    found.append((trigger.name, f"{trigger.name}: canary is {standing.verdict}"))
            elif trigger.probe is not None:
                newest = await self._ports.verdicts.newest(tx, rollout.zone, trigger.probe, now)
                verdict = newest.verdict if newest is not None else Verdict.NO_DATA
                if verdict in trigger.fires_on:
                    found.append((trigger.name, f"{trigger.name}: probe {trigger.probe} is {verdict}"))
            else:
                names = sorted({rule for rule, severity in alerts
                                if rule in trigger.alerts or severity in trigger.severities})  # fmt: skip
                if names:
                    found.append((trigger.name, f"{trigger.name}: {', '.join(names[:5])}"))
        return found

    async def _fire(self, tx: Transaction, rollout: Rollout, gate: Gate, fired: list[str]) -> Rollout:
        """Somebody decides from now on until the timer ends."""
        context, now = _context(rollout), self._clock.now()
        told = "; ".join(fired)
        if rollout.state == "deciding":
            return await self._ledger.put(tx, rollout, fired=[*rollout.fired, *fired], told=told[:2000])
        due = now + span(gate.timer)
        rollout = await self._ledger.move(
            tx, context, rollout, "deciding", told, decision_due=due, fired=[each[:500] for each in fired]
        )
        await self._ledger.decide(tx, context, rollout, gate.name, "fired", told, "")
        await note(tx, self._ledger.recorder, codes.ROLLOUT_TRIGGERED, context, rollout, "failure", gate=gate.name,
            fired=[each[:200] for each in fired[:20]], due=rfc3339(due),
        )  # fmt: skip
        summary = f"{rollout.name} in {rollout.environment}: decide by {due:%H:%M} UTC. {told}"[:200]
        await self._alert(tx, context, rollout, "RolloutDecision", Severity.P1, summary, str(gate.owner))
        task = Task(f"rollout/{rollout.id}/decide", summary, f"role:{gate.owner}", due, Severity.P1)
        await self._ports.tasks.open(tx, context, task)
        return rollout

    async def decided(self, tx: Transaction, context: Context, rollout: Rollout, outcome: str) -> None:
        """Take back what called for a decision."""
        await self._ports.tasks.close(tx, context, f"rollout/{rollout.id}/decide", outcome)
        await self._ports.alerts.clear(tx, context, f"rollout/{rollout.id}/RolloutDecision")

    async def roll_back(self, tx: Transaction, context: Context, rollout: Rollout, why: str, *, by: str) -> Rollout:
        """From now on it is taken back; the seconds count."""
        await self.decided(tx, context, rollout, "rolled back")
        began = rollout.rollback_began_at or self._clock.now()
        return await self._ledger.move(
            tx, context, rollout, "rolling_back", why, rollback_began_at=began, rollback_why=why[:2000], blocked_on=""
        )

    async def unstuck(self, tx: Transaction, context: Context, rollout: Rollout) -> Rollout:
        """Somebody saw to what did not work while taking back."""
        await self._ports.alerts.clear(tx, context, f"rollout/{rollout.id}/RolloutStuck")
        return await self._ledger.move(tx, context, rollout, "rolling_back", rollout.rollback_why, blocked_on="")

    async def failed(self, tx: Transaction, context: Context, rollout: Rollout, attempt: Attempt, told: str) -> Rollout:
        """A person says that a step cannot be done."""
        step = rollout.plan.step(attempt.step)
        assert step is not None
        await self._failed(tx, context, rollout, Due(step, step, attempt.way), told)
        return await find(tx, rollout.zone, rollout.id)

    async def _stuck(self, tx: Transaction, context: Context, rollout: Rollout, step: Step, told: str) -> None:
        rollout = await self._ledger.move(tx, context, rollout, "stuck", told, blocked_on=step.name)
        summary = f"{rollout.name} in {rollout.environment} cannot be rolled back: {told}"[:200]
        owner = str(rollout.plan.owner_of(step.back or step, step))
        await self._alert(tx, context, rollout, "RolloutStuck", Severity.P0, summary, owner)

    async def _alert(
        self, tx: Transaction, context: Context, rollout: Rollout, rule: str, severity: Severity, summary: str,
        owner: str,
    ) -> None:  # fmt: skip
        key = f"rollout/{rollout.id}/{rule}"
        labels = {"rollout": rollout.name, "environment": rollout.environment}
        raised = Raised(key=key, rule=rule, severity=severity, summary=summary, owner=f"role:{owner}", runbook=_RUNBOOK,
                        labels=labels)  # fmt: skip
        await self._ports.alerts.fire(tx, context, raised)

    # --- people, and the end

    async def _ask(
        self, tx: Transaction, context: Context, rollout: Rollout, step: Step, deed: Deed, attempt: Attempt | None,
        told: str,
    ) -> None:  # fmt: skip
        """Have a person act: a task for the role whose it is."""
        owner = rollout.plan.owner_of(deed, step)
        title = f"{rollout.name} {step.name}: {told}"[:200]
        due = self._clock.now() + (span(step.duration) if step.duration else timedelta(hours=1))
        way = attempt.way if attempt is not None else "forward"
        task = Task(task_of(rollout, step.name, way), title, f"role:{owner}", due, Severity.P2)
        await self._ports.tasks.open(tx, context, task)
        told = f"waits for {owner}: {told}"
        if rollout.state == "running":
            await self._ledger.move(tx, context, rollout, "waiting", told)
        else:
            await self._ledger.put(tx, rollout, told=told[:2000])

    async def _give_up(self, tx: Transaction, context: Context, rollout: Rollout, attempts: list[Attempt]) -> bool:
        """What was under way when it was decided to go back is over; whether there was any."""
        given = [each for each in attempts if each.open and each.way == "forward"]
        for attempt in given:
            await self._ledger.end(tx, context, rollout, attempt, "lost", "it was rolled back meanwhile")
            await self._ports.tasks.close(tx, context, task_of(rollout, attempt.step, "forward"), "rolled back")
        return bool(given)

    async def _frozen(self, tx: Transaction, rollout: Rollout) -> str:
        """Why nothing goes out now; nobody freezes until this transaction has ended."""
        return await why_frozen(tx, self._books, rollout, self._clock)

    async def _finish(self, tx: Transaction, context: Context, rollout: Rollout) -> None:
        now = self._clock.now()
        if rollout.state == "planned":
            await self._ledger.move(tx, context, rollout, "pending", "waits for the signatures")
            return
        if rollout.state == "rolling_back":
            took = int((now - (rollout.rollback_began_at or now)).total_seconds())
            most = span(rollout.plan.rollback_within).total_seconds()
            told = f"rolled back in {took} s" + (f", longer than {rollout.plan.rollback_within}" if took > most else "")
            rollout = await self._ledger.move(tx, context, rollout, "rolled_back", told, rollback_ended_at=now)
            if rollout.plan.review:
                title = f"{rollout.name}: {rollout.plan.review}"[:200]
                owner = f"role:{rollout.plan.gate.owner}"
                source = f"rollout/{rollout.id}/review"
                await self._ports.tasks.open(tx, context, Task(source, title, owner, now + _REVIEW_WITHIN))
            return
        if rollout.state == "waiting":
            rollout = await self._ledger.move(tx, context, rollout, "running")
        await self._ports.environments.went_live(tx, context, rollout.environment, rollout.digest, rollout.id)
        await self._ledger.move(tx, context, rollout, "done", "every step is done and every gate passed")


async def why_frozen(tx: Transaction, books: Books, rollout: Rollout, clock: Clock) -> str:
    """Why nothing of it goes out now, a switch or a window; empty where nothing stands against it."""
    try:
        await require_on(tx, rollout.zone, Switch.FREEZE, Switch.READ_ONLY)
    except Unavailable as refused:
        return f"frozen: {refused.detail}"
    windows = (await books.current(tx, rollout.zone)).of(FREEZE)
    why = frozen(windows, rollout.environment, rollout.plan.change_class, clock.now())
    return f"frozen: {why}" if why else ""


def task_of(rollout: Rollout, step: str, way: str) -> str:
    """The source of the task that a step opens."""
    return f"rollout/{rollout.id}/{step}/{way}"


def _context(rollout: Rollout) -> Context:
    return Context(rollout.zone, Actor(application=WORKER))
