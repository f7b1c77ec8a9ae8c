"""Action items: what a meeting decided that somebody does by a day.

An item stands in the list of tasks and in every further pack of its ceremony until it is done. Overdue at a second
pack, it is more urgent, and at every further one again. How it stood at any moment can be asked, so that a pack of the
past is built again as it was.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Literal

from bailiwick.assurance.ports import Task, Tasks
from bailiwick.assurance.rhythm.occurrences import Occurrence
from bailiwick.assurance.standing_evidence import require_evidence
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.evidence.evidence_records import EvidenceRecords
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import BailiwickError, NotFound
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.machine import Machine
from bailiwick.kernel.severity import Severity

ACTION = Machine("action item", {"open": ("open", "done"), "done": ()})


@dataclass(frozen=True, slots=True)
class Wanted:
    """An action item as minutes have it."""

    title: str
    owner: str
    due: date
    severity: Severity = Severity.P3


@dataclass(frozen=True, slots=True)
class Action:
    """An action item at some moment. ``misses``: at how many packs it was overdue."""

    id: str
    zone: str
    occurrence: str
    ceremony: str
    title: str
    created_at: datetime
    created_by: str
    version: int
    state: Literal["open", "done"]
    owner: str
    due: date
    severity: Severity
    misses: int
    record: str
    changed_by: str
    changed_at: datetime

    def overdue(self, at: datetime) -> bool:
        """Whether its day is over at ``at`` and it is not done."""
        return self.state == "open" and at.astimezone(UTC).date() > self.due

    def document(self, at: datetime) -> dict[str, Any]:
        """The JSON form, as it is at ``at``."""
        return {
            "id": self.id,
            "ceremony": self.ceremony,
            "occurrence": self.occurrence,
            "title": self.title,
            "owner": self.owner,
            "due": self.due.isoformat(),
            "severity": str(self.severity),
            "state": self.state,
            "overdue": self.overdue(at),
            "misses": self.misses,
            "record": self.record,
            "version": self.version,
        }


def end_of(day: date) -> datetime:
    """The instant at which a day is over, in UTC."""
    return datetime.combine(day + timedelta(days=1), time(), UTC)


def missed_again(action: Action) -> tuple[int, Severity]:
    """How often it is missed with this pack, and how urgent it is then: nothing by itself becomes a P0."""
    misses = action.misses + 1
    raised = action.severity.raised if misses >= 2 else action.severity
    return misses, action.severity if raised is Severity.P0 else raised


async def living(tx: Transaction, zone: str, names: Collection[str]) -> set[str]:
    """Those of ``names`` that are active persons of the zone."""
    rows = await tx.all(
        "SELECT username FROM users WHERE zone = :zone AND is_active AND username = ANY(:names)",
        zone=zone,
        names=sorted(set(names)),
    )
    return {row["username"] for row in rows}


async def actions(
    tx: Transaction, zone: str, at: datetime, *, ceremony: str = "", unfinished: bool = True, limit: int = 500
) -> list[Action]:
    """Action items as they stood at ``at``, by their day: those not done, of one ceremony or of all."""
    rows = await tx.all(_ACTIONS, zone=zone, at=at, ceremony=ceremony, unfinished=unfinished, limit=limit)
    return [_action(row) for row in rows]


class Actions:
    """Keeps action items, and the list of tasks in step with them."""

    def __init__(
        self, database: Database, clock: Clock, ids: Ids, recorder: Recorder, records: EvidenceRecords, tasks: Tasks
    ) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._records = records
        self._tasks = tasks

    async def list(self, zone: str, *, ceremony: str = "", unfinished: bool = True, limit: int = 500) -> list[Action]:
        """Those of the zone now."""
        async with self._database.begin() as tx:
            return await actions(tx, zone, self._clock.now(), ceremony=ceremony, unfinished=unfinished, limit=limit)

    async def open(self, tx: Transaction, context: Context, occurrence: Occurrence, wanted: Wanted, by: str) -> Action:
        """Take up what a meeting decided."""
        now = self._clock.now()
        identifier = self._ids()
        await tx.run(
            "INSERT INTO rhythm_actions (id, zone, occurrence, ceremony, title, created_at, created_by)"
            " VALUES (:id, :zone, :occurrence, :ceremony, :title, :now, :by)",
            id=identifier,
            zone=occurrence.zone,
            occurrence=occurrence.id,
            ceremony=occurrence.ceremony,
            title=wanted.title,
            now=now,
            by=by,
        )
        change = {"owner": wanted.owner, "due": wanted.due, "severity": wanted.severity, "misses": 0}
        return await self._write(tx, context, identifier, 1, "open", change, by)

    async def done(self, context: Context, identifier: str, record: str, *, by: str) -> Action:
        """It is done, as an evidence record shows.

        Raises ``not_found``, ``evidence_needed``, ``illegal_transition``.
        """
        now = self._clock.now()
        async with self._database.begin() as tx:
            action = await self._locked(tx, context.zone, identifier)
            ACTION.require(action.state, "done")
            await require_evidence(tx, self._records, context.zone, record, now, since=action.created_at)
            return await self._write(tx, context, action.id, action.version + 1, "done", _kept(action, record), by)

    async def change(
        self, context: Context, identifier: str, *, by: str, owner: str = "", due: date | None = None
    ) -> Action:
        """Give it to another, or another day; how often it was missed stays.

        Raises ``not_found``, ``action_incomplete``, ``illegal_transition``.
        """
        now = self._clock.now()
        async with self._database.begin() as tx:
            action = await self._locked(tx, context.zone, identifier)
            ACTION.require(action.state, "open")
            wanted = Wanted(action.title, owner or action.owner, due or action.due, action.severity)
            await require_complete(tx, context.zone, [wanted], now)
            change = _kept(action) | {"owner": wanted.owner, "due": wanted.due}
            return await self._write(tx, context, action.id, action.version + 1, "open", change, by)

    async def count_misses(self, tx: Transaction, context: Context, ceremony: str, at: datetime) -> int:
        """At a pack of ``ceremony`` cut off at ``at``: count what is overdue, and make it more urgent; how many are."""
        overdue = [each for each in await actions(tx, context.zone, at, ceremony=ceremony) if each.overdue(at)]
        for action in overdue:
            if (await self._locked(tx, context.zone, action.id)).version != action.version:
                continue  # somebody changed it since
            misses, severity = missed_again(action)
            change = _kept(action) | {"misses": misses, "severity": severity}
            await self._write(tx, context, action.id, action.version + 1, "open", change, "bailiwick", at)
        return len(overdue)

    async def _locked(self, tx: Transaction, zone: str, identifier: str) -> Action:
        # a lock of its own, since the rows may not be changed
        await tx.run("SELECT pg_advisory_xact_lock(hashtext('bailiwick.actions'), hashtext(:id))", id=identifier)
        return await self._load(tx, zone, identifier)

    async def _load(self, tx: Transaction, zone: str, identifier: str) -> Action:
        row = await tx.one(_ACTION, zone=zone, id=identifier)
        if row is None:
            raise NotFound("There is no such action item.")
        return _action(row)

    async def _write(
        self,
        tx: Transaction,
        context: Context,
        identifier: str,
        version: int,
        state: str,
        change: Mapping[str, Any],
        by: str,
        at: datetime | None = None,
    ) -> Action:
        await tx.run(
            "INSERT INTO rhythm_action_versions (action, version, state, owner, due, severity, misses, record,"
            " changed_by, changed_at)"
            " VALUES (:action, :version, :state, :owner, :due, :severity, :misses, :record, :by, :now)",
            action=identifier,
            version=version,
            state=state,
            owner=change["owner"],
            due=change["due"],
            severity=str(change["severity"]),
            misses=change["misses"],
            record=change.get("record", ""),
            by=by,
            now=at or self._clock.now(),
        )
        action = await self._load(tx, context.zone, identifier)
        source = f"rhythm/action/{identifier}"
        if version > 1:  # the list has a task once: whatever became of it, it stands there as it is now
            await self._tasks.close(tx, context, source, "done" if state == "done" else "changed")
        if state == "open":
            task = Task(source, action.title, action.owner, end_of(action.due), action.severity)
            await self._tasks.open(tx, context, task)
        await self._recorder.record(
            tx,
            codes.RHYTHM_ACTION_CHANGED,
            "success",
            context,
            subject=Subject(id=identifier, type="action"),
            ceremony=action.ceremony,
            state=action.state,
            owner=action.owner,
            due=action.due.isoformat(),
            severity=str(action.severity),
            misses=action.misses,
            record=action.record,
        )
        return action


async def require_complete(tx: Transaction, zone: str, wanted: Collection[Wanted], now: datetime) -> None:
    """Refuse items without a living owner or with a day that is past. Raises ``action_incomplete`` (422)."""
    alive = await living(tx, zone, [each.owner for each in wanted])
    for each in wanted:
        if each.owner not in alive:
            raise BailiwickError(
                f"{each.owner or 'Nobody'} is no active person here, and so answers for nothing.",
                reason="action_incomplete",
            )
        if each.due < now.astimezone(UTC).date():
            raise BailiwickError("The day by which it is due is past.", reason="action_incomplete")


def _kept(action: Action, record: str = "") -> dict[str, Any]:
    return {
        "owner": action.owner,
        "due": action.due,
        "severity": action.severity,
        "misses": action.misses,
        "record": record,
    }


def _action(row: Row) -> Action:
    return Action(**{**row, "severity": Severity(row["severity"])})


_COLUMNS = (
    "a.id, a.zone, a.occurrence, a.ceremony, a.title, a.created_at, a.created_by, v.version, v.state, v.owner, v.due,"
    " v.severity, v.misses, v.record, v.changed_by, v.changed_at"
)
_ACTIONS = f"""
SELECT {_COLUMNS} FROM rhythm_actions a
CROSS JOIN LATERAL (SELECT * FROM rhythm_action_versions v WHERE v.action = a.id AND v.changed_at <= :at
                    ORDER BY version DESC LIMIT 1) v
WHERE a.zone = :zone AND (:ceremony = '' OR a.ceremony = :ceremony) AND (NOT :unfinished OR v.state = 'open')
ORDER BY v.due, a.id LIMIT :limit
"""  # noqa: S608 - no value is put into the text
_ACTION = f"""
SELECT {_COLUMNS} FROM rhythm_actions a
CROSS JOIN LATERAL (SELECT * FROM rhythm_action_versions v WHERE v.action = a.id ORDER BY version DESC LIMIT 1) v
WHERE a.zone = :zone AND a.id = :id
"""  # noqa: S608 - no value is put into the text
