"""Tasks: the one list of what is to be done, by whom and until when.

Of one source, one task is open. A task that is overdue is told to its owner; overdue a second time, as much later as it
was given at first, it is raised by one severity and fires an alert, and again each time after that. A task that a
person says is done while what opened it goes on is opened again by whoever looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from bailiwick.assurance.ports import Alerts, Notice, Notices, Owners, Person, Raised, Task
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject, rfc3339
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Row, Transaction
from bailiwick.kernel.errors import InvalidRequest, NotFound
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.machine import Machine
from bailiwick.kernel.severity import Severity

MACHINE = Machine(
    "task",
    {
        "open": ("overdue", "done", "closed"),
        "overdue": ("escalated", "done", "closed"),
        "escalated": ("escalated", "done", "closed"),
        "done": (),
        "closed": (),
    },
)
State = Literal["open", "overdue", "escalated", "done", "closed"]

_LEAST = timedelta(hours=1)
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Item:
    """A task on the list. ``missed_again_at`` is when it is overdue for the next time; ``told`` who was told last."""

    id: str
    zone: str
    source: str
    title: str
    owner: str
    severity: Severity
    due: datetime
    state: State
    misses: int
    missed_again_at: datetime
    told: str
    alerting: bool
    opened_at: datetime
    ended_at: datetime | None
    ended_by: str | None
    outcome: str
    version: int

    @property
    def waiting(self) -> bool:
        """Whether it is still to be done."""
        return self.state in MACHINE.waiting

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "id": self.id,
            "source": self.source,
            "title": self.title,
            "owner": self.owner,
            "severity": self.severity,
            "due": self.due,
            "state": self.state,
            "misses": self.misses,
            "opened_at": self.opened_at,
            "ended_at": self.ended_at,
            "ended_by": self.ended_by,
            "outcome": self.outcome,
            "version": self.version,
        }


# ---------------------------------------------------------------------- rules


def missed(item: Item, now: datetime) -> Item:
    """The task as it is after being overdue once more at ``now``."""
    span = max(item.due - item.opened_at, _LEAST)
    after: State = "overdue" if item.misses == 0 else "escalated"
    MACHINE.require(item.state, after)
    severity = item.severity.raised if item.misses else item.severity
    return replace(
        item,
        state=after,
        misses=item.misses + 1,
        severity=severity,
        missed_again_at=now + span,
        alerting=item.alerting or item.misses > 0,
    )


def alert_of(item: Item) -> Raised:
    """What a task fires that was left twice."""
    return Raised(
        key=f"task/{item.source}",
        rule="task-overdue",
        severity=item.severity,
        summary=f"Overdue {item.misses} times: {item.title}"[:200],
        owner=item.owner,
        labels={"task": item.id},
    )


# ---------------------------------------------------------------------- service


class TaskList:
    """Implements ``Tasks``: puts tasks on the list and takes them off."""

    def __init__(self, clock: Clock, ids: Ids, recorder: Recorder, owners: Owners) -> None:
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._owners = owners

    async def open(self, tx: Transaction, context: Context, task: Task) -> str:
        """Put it on the list, unless it is on it; its id. Raises ``InvalidRequest`` for one without source or title."""
        if not task.source.strip() or not task.title.strip() or not task.owner.strip():
            raise InvalidRequest("A task has a source, a title and an owner.")
        now = self._clock.now()
        row = await tx.one(
            "INSERT INTO assurance_tasks (id, zone, source, title, owner, severity, due, missed_again_at, opened_at)"
            " VALUES (:id, :zone, :source, :title, :owner, :severity, :due, :due, :now)"
            " ON CONFLICT (zone, source) WHERE ended_at IS NULL DO NOTHING RETURNING *",
            id=self._ids(),
            zone=context.zone,
            source=task.source,
            title=task.title,
            owner=task.owner,
            severity=str(task.severity),
            due=task.due,
            now=now,
        )
        if row is None:
            standing = await tx.value(
                "SELECT id FROM assurance_tasks WHERE zone = :zone AND source = :source AND ended_at IS NULL",
                zone=context.zone,
                source=task.source,
            )
            return str(standing)
        item = item_of(row)
        await self._note(tx, codes.TASK_OPENED, context, item, due=rfc3339(item.due))
        return item.id

    async def close(self, tx: Transaction, context: Context, source: str, outcome: str) -> bool:
        """What opened it is over; whether it was on the list."""
        row = await tx.one(
            f"{_SELECT} WHERE zone = :zone AND source = :source AND ended_at IS NULL FOR UPDATE",
            zone=context.zone,
            source=source,
        )
        if row is None:
            return False
        await self._end(tx, context, item_of(row), "closed", outcome, by="")
        return True

    async def done(self, tx: Transaction, context: Context, identifier: str, outcome: str, *, by: str) -> Item:
        """A person says that it is done. Raises ``NotFound`` and ``illegal_transition``."""
        item = await self._locked(tx, context.zone, identifier)
        return await self._end(tx, context, item, "done", outcome, by=by)

    async def reassign(self, tx: Transaction, context: Context, identifier: str, owner: str) -> Item:
        """Give it to another owner, who must be somebody.

        Raises ``NotFound``, ``illegal_transition`` for one that is over, ``nobody_answers``.
        """
        item = await self._locked(tx, context.zone, identifier)
        if not item.waiting:
            MACHINE.require(item.state, "open")
        if await self._owners.accountable(tx, context.zone, owner, self._clock.now()) is None:
            raise InvalidRequest(f"{owner!r} leads to no active person.", reason="nobody_answers")
        row = await tx.one(
            "UPDATE assurance_tasks SET owner = :owner, version = version + 1 WHERE id = :id RETURNING *",
            owner=owner,
            id=item.id,
        )
        assert row is not None
        after = item_of(row)
        await self._note(tx, codes.TASK_REASSIGNED, context, after, before=item.owner)
        return after

    async def get(self, tx: Transaction, zone: str, identifier: str) -> Item:
        """One task. Raises ``NotFound``."""
        row = await tx.one(f"{_SELECT} WHERE zone = :zone AND id = :id", zone=zone, id=identifier)
        if row is None:
            raise NotFound("There is no task by that id.")
        return item_of(row)

    async def list(
        self, tx: Transaction, zone: str, *, over: bool = False, owner: str = "", after: str = "", limit: int = 100
    ) -> list[Item]:
        """Tasks in the order they were opened: those to be done, with ``over`` those that are not any more."""
        rows = await tx.all(
            f"{_SELECT} WHERE zone = :zone AND (ended_at IS NOT NULL) = :over AND (:owner = '' OR owner = :owner)"
            " AND id > :after ORDER BY id LIMIT :limit",
            zone=zone,
            over=over,
            owner=owner,
            after=after,
            limit=limit,
        )
        return [item_of(row) for row in rows]

    async def sources(self, tx: Transaction, zone: str, prefix: str) -> Sequence[str]:
        """The sources that begin with ``prefix`` and have a task on the list."""
        rows = await tx.all(
            "SELECT source FROM assurance_tasks WHERE zone = :zone AND ended_at IS NULL"
            " AND starts_with(source, :prefix) ORDER BY source",
            zone=zone,
            prefix=prefix,
        )
        return [row["source"] for row in rows]

    async def miss(self, tx: Transaction, context: Context, item: Item) -> Item:
        """Store that a task is overdue once more."""
        after = missed(item, self._clock.now())
        await tx.run(
            "UPDATE assurance_tasks SET state = :state, misses = :misses, severity = :severity, alerting = :alerting,"
            " missed_again_at = :again, version = version + 1 WHERE id = :id",
            state=after.state,
            misses=after.misses,
            severity=str(after.severity),
            alerting=after.alerting,
            again=after.missed_again_at,
            id=item.id,
        )
        await self._note(tx, codes.TASK_OVERDUE, context, after, misses=after.misses)
        return after

    async def _end(self, tx: Transaction, context: Context, item: Item, state: State, outcome: str, *, by: str) -> Item:
        MACHINE.require(item.state, state)
        row = await tx.one(
            "UPDATE assurance_tasks SET state = :state, ended_at = :now, ended_by = :by, outcome = :outcome,"
            " version = version + 1 WHERE id = :id RETURNING *",
            state=state,
            now=self._clock.now(),
            by=by or None,
            outcome=outcome,
            id=item.id,
        )
        assert row is not None
        after = item_of(row)
        await self._note(tx, codes.TASK_ENDED, context, after, state=after.state, outcome=outcome)
        return after

    async def _locked(self, tx: Transaction, zone: str, identifier: str) -> Item:
        row = await tx.one(f"{_SELECT} WHERE zone = :zone AND id = :id FOR UPDATE", zone=zone, id=identifier)
        if row is None:
            raise NotFound("There is no task by that id.")
        return item_of(row)

    async def _note(self, tx: Transaction, kind: codes.EventType, context: Context, item: Item, **details: Any) -> None:
        await self._recorder.record(
            tx,
            kind,
            "success",
            context,
            subject=Subject(id=item.id, type="task"),
            source=item.source,
            owner=item.owner,
            severity=str(item.severity),
            **details,
        )


class TaskWatch:
    """What is done about the list by the clock: owners are told, what is overdue is raised, alerts end with tasks."""

    def __init__(self, clock: Clock, tasks: TaskList, owners: Owners, alerts: Alerts, notices: Notices) -> None:
        self._clock = clock
        self._tasks = tasks
        self._owners = owners
        self._alerts = alerts
        self._notices = notices

    async def look(self, tx: Transaction, zone: str) -> dict[str, int]:
        """Do what is due in ``zone``; how many were told, missed and cleared."""
        context, now = Context(zone), self._clock.now()
        cleared = await self._clear(tx, context)
        overdue = await self._locked(tx, zone, "ended_at IS NULL AND missed_again_at < :now", now)
        for item in overdue:
            after = await self._tasks.miss(tx, context, item)
            if after.alerting:
                await self._alerts.fire(tx, context, alert_of(after))
            await self._tell(tx, after, f"overdue/{after.misses}", "Overdue")
        untold = await self._locked(tx, zone, "ended_at IS NULL AND opened_at <= :now AND told <> owner", now)
        for item in untold:
            await self._tell(tx, item, f"opened/{item.version}", "To be done")
            await tx.run("UPDATE assurance_tasks SET told = owner WHERE id = :id", id=item.id)
        return {"told": len(untold), "overdue": len(overdue), "cleared": cleared}

    async def _clear(self, tx: Transaction, context: Context) -> int:
        over = await self._locked(tx, context.zone, "alerting AND ended_at <= :now", self._clock.now())
        for item in over:
            await self._alerts.clear(tx, context, alert_of(item).key)
            await tx.run("UPDATE assurance_tasks SET alerting = false WHERE id = :id", id=item.id)
        return len(over)

    async def _locked(self, tx: Transaction, zone: str, condition: str, now: datetime) -> Sequence[Item]:
        rows = await tx.all(
            f"{_SELECT} WHERE zone = :zone AND {condition} ORDER BY due LIMIT {_AT_ONCE} FOR UPDATE SKIP LOCKED",
            zone=zone,
            now=now,
        )
        return [item_of(row) for row in rows]

    async def _tell(self, tx: Transaction, item: Item, what: str, word: str) -> None:
        person = await self._owners.accountable(tx, item.zone, item.owner, self._clock.now())
        await self._notices.send(
            tx,
            item.zone,
            Notice(
                to=_receiver(person),
                key=f"task/{item.id}/{what}",
                subject=f"{word}: {item.title}"[:200],
                body=f"{item.title}\n\nDue: {item.due:%Y-%m-%d %H:%M} UTC\nFor: {item.owner}\nSource: {item.source}\n"
                f"Say that it is done: bailiwick task done {item.id}\n",
                severity=item.severity,
            ),
        )


def item_of(row: Row) -> Item:
    """A stored task."""
    values = dict(row)
    return Item(**{**values, "severity": Severity(values["severity"])})


def _receiver(person: Person | None) -> str:
    """Who is told; where nobody answers for a task, whoever can put that right."""
    return f"person:{person.username}" if person is not None else "role:admin"


_SELECT = """
SELECT id, zone, source, title, owner, severity, due, state, misses, missed_again_at, told, alerting, opened_at,
       ended_at, ended_by, outcome, version
FROM assurance_tasks
"""
