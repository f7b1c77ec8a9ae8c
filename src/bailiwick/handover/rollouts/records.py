"""Where rollouts are kept: rows that are read as they stand, and the one way in which a state changes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bailiwick.assurance.rollout_states import ROLLOUT
from bailiwick.evidence import codes
from bailiwick.evidence.codes import EventType
from bailiwick.evidence.events import Context, Outcome, Recorder, Subject
from bailiwick.handover.rollouts.go import Signature
from bailiwick.handover.rollouts.plans import Plan
from bailiwick.handover.rollouts.states import OUTCOMES, Attempt, State, Way
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Row, Transaction
from bailiwick.kernel.errors import NotFound

_TOLD = 2000


@dataclass(frozen=True, slots=True)
class Rollout:
    """One of them. ``plan`` is what it goes by, its variables filled in. ``preflights_after``: the number of the
    attempt up to which preflights count no more."""

    id: str
    zone: str
    number: int
    environment: str
    digest: str
    plan_name: str
    plan_version: int
    plan_sha256: str
    plan: Plan
    variables: Mapping[str, str]
    planned_by: str
    planned_at: datetime
    state: State
    entered_at: datetime
    told: str
    blocked_on: str
    round: int
    preflights_after: int
    answer: str
    answer_until: datetime | None
    started_by: str
    began_at: datetime | None
    decision_due: datetime | None
    fired: Sequence[str]
    heeded: Sequence[str]
    rollback_why: str
    rollback_began_at: datetime | None
    rollback_ended_at: datetime | None
    ended_at: datetime | None
    outcome: str
    holder: str
    version: int

    @property
    def name(self) -> str:
        """What people call it."""
        return f"RO-{self.number}"

    @property
    def rollback_s(self) -> int | None:
        """How many seconds taking it back took."""
        if self.rollback_began_at is None or self.rollback_ended_at is None:
            return None
        return int((self.rollback_ended_at - self.rollback_began_at).total_seconds())

    def document(self) -> dict[str, Any]:
        """The JSON form, without the plan's steps."""
        left_out = ("zone", "plan", "plan_name", "preflights_after", "holder")
        told = {name: getattr(self, name) for name in self.__slots__ if name not in left_out}
        return {
            **told,
            "name": self.name,
            "plan": self.plan_name,
            "signatures_needed": [str(role) for role in self.plan.signatures],
            "rollback_s": self.rollback_s,
        }


# ---------------------------------------------------------------------- reading


async def find(tx: Transaction, zone: str, identifier: str, *, lock: bool = False) -> Rollout:
    """One by its id or its name ``RO-7``. Raises :class:`NotFound`."""
    number = int(identifier[3:]) if identifier.startswith("RO-") else 0
    row = await tx.one(
        "SELECT * FROM rollouts WHERE zone = :zone AND (id = :id OR number = :number)"  # noqa: S608
        + (" FOR UPDATE" if lock else ""),
        zone=zone,
        id=identifier,
        number=number,
    )
    if row is None:
        raise NotFound("There is no such rollout.")
    return of_row(row)


async def newest(
    tx: Transaction, zone: str, *, environment: str = "", going: bool = False, before: str = "g", limit: int = 100
) -> list[Rollout]:
    """Those of a zone, newest first."""
    rows = await tx.all(
        "SELECT * FROM rollouts WHERE zone = :zone AND (:environment = '' OR environment = :environment)"
        " AND (NOT :going OR outcome = '') AND id < :before ORDER BY id DESC LIMIT :limit",
        zone=zone,
        environment=environment,
        going=going,
        before=before,
        limit=limit,
    )
    return [of_row(row) for row in rows]


async def since(tx: Transaction, zone: str, environment: str, moment: datetime) -> list[Rollout]:
    """Those of an environment planned since, newest first."""
    rows = await tx.all(
        "SELECT * FROM rollouts WHERE zone = :zone AND environment = :environment"
        " AND coalesce(began_at, planned_at) >= :since ORDER BY id DESC",
        zone=zone,
        environment=environment,
        since=moment,
    )
    return [of_row(row) for row in rows]


async def last_done(tx: Transaction, zone: str, environment: str, *, before: str = "g") -> Rollout | None:
    """The newest that went out whole, of those begun before another."""
    row = await tx.one(
        "SELECT * FROM rollouts WHERE zone = :zone AND environment = :environment AND state = 'done' AND id < :before"
        " ORDER BY ended_at DESC LIMIT 1",
        zone=zone,
        environment=environment,
        before=before,
    )
    return of_row(row) if row is not None else None


async def attempts_of(tx: Transaction, rollout: str) -> list[Attempt]:
    """Every attempt, oldest first."""
    rows = await tx.all("SELECT * FROM rollout_attempts WHERE rollout = :rollout ORDER BY number", rollout=rollout)
    return [Attempt(**{name: row[name] for name in Attempt.__slots__}) for row in rows]


async def passed_gates(tx: Transaction, rollout: str) -> list[str]:
    """The gates that were passed."""
    rows = await tx.all(
        "SELECT gate FROM rollout_decisions WHERE rollout = :rollout AND what = 'passed'", rollout=rollout
    )
    return [row["gate"] for row in rows]


async def decisions_of(tx: Transaction, rollout: str) -> list[dict[str, Any]]:
    """What was decided at its gates, in order."""
    rows = await tx.all(
        "SELECT number, gate, what, by, why, at FROM rollout_decisions WHERE rollout = :rollout ORDER BY number",
        rollout=rollout,
    )
    return [dict(row) for row in rows]


async def signatures_of(tx: Transaction, rollout: str, round_: int) -> list[Signature]:
    """What was signed in a round, in order."""
    rows = await tx.all(
        "SELECT by, role, says, at FROM rollout_signatures WHERE rollout = :rollout AND round = :round ORDER BY at, by",
        rollout=rollout,
        round=round_,
    )
    return [Signature(**row) for row in rows]


async def newest_answer(tx: Transaction, rollout: str) -> dict[str, Any] | None:
    """The answer that was computed last, with its digest."""
    row = await tx.one(
        "SELECT sha256, document FROM rollout_answers WHERE rollout = :rollout ORDER BY number DESC LIMIT 1",
        rollout=rollout,
    )
    return {**row["document"], "sha256": row["sha256"]} if row is not None else None


async def firing(tx: Transaction, zone: str) -> list[tuple[str, str]]:
    """Rule and severity of every alert that stands; its alias counts as a rule too."""
    rows = await tx.all(
        "SELECT rule, labels ->> 'alias' AS alias, severity FROM alerts"
        " WHERE zone = :zone AND state IN ('firing', 'acknowledged')",
        zone=zone,
    )
    return [(name, row["severity"]) for row in rows for name in (row["rule"], row["alias"]) if name]


def of_row(row: Row) -> Rollout:
    """A stored rollout."""
    named = {"plan": "spec", "plan_name": "plan"}
    values = {name: row[named.get(name, name)] for name in Rollout.__slots__}
    return Rollout(**{**values, "plan": Plan.model_validate(row["spec"])})


# ---------------------------------------------------------------------- writing


async def note(
    tx: Transaction,
    recorder: Recorder,
    kind: EventType,
    context: Context,
    rollout: Rollout,
    outcome: Outcome = "success",
    **details: Any,
) -> None:
    """Leave an event of a rollout."""
    await recorder.record(
        tx,
        kind,
        outcome,
        context,
        subject=Subject(id=rollout.id, type="rollout"),
        rollout=rollout.name,
        environment=rollout.environment,
        digest=rollout.digest,
        **details,
    )


class Ledger:
    """Writes what becomes of rollouts, each change with its event."""

    def __init__(self, clock: Clock, recorder: Recorder) -> None:
        self._clock = clock
        self.recorder = recorder

    async def move(
        self, tx: Transaction, context: Context, rollout: Rollout, state: State, told: str = "", **changes: Any
    ) -> Rollout:
        """Bring it, whose row is locked, into another state. Raises ``illegal_transition``."""
        ROLLOUT.require(rollout.state, state)
        now = self._clock.now()
        if state in OUTCOMES:
            changes |= {"outcome": OUTCOMES[state], "ended_at": now}
        if state != "deciding":
            changes |= {"decision_due": None, "fired": []}
        after = await self.put(tx, rollout, state=state, entered_at=now, told=told[:_TOLD], **changes)
        await note(
            tx, self.recorder, codes.ROLLOUT_MOVED, context, after, before=rollout.state, state=state, told=told[:500]
        )
        if state in OUTCOMES:
            took = after.rollback_s
            await note(
                tx, self.recorder, codes.ROLLOUT_ENDED, context, after, "success" if state == "done" else "failure",
                state=state, told=told[:500], rollback_s=-1 if took is None else took,
            )  # fmt: skip
        return after

    async def put(self, tx: Transaction, rollout: Rollout, **changes: Any) -> Rollout:
        """Change columns of it."""
        columns = ", ".join(f"{name} = :{name}" for name in changes)
        row = await tx.one(
            f"UPDATE rollouts SET {columns}, version = version + 1 WHERE id = :id RETURNING *",  # noqa: S608
            id=rollout.id,
            **changes,
        )
        assert row is not None
        return of_row(row)

    async def begin(self, tx: Transaction, context: Context, rollout: Rollout, step: str, way: Way) -> Attempt:
        """Write down that something is about to be done."""
        row = await tx.one(
            "INSERT INTO rollout_attempts (rollout, number, step, way, state, begun_at)"
            " SELECT :rollout, coalesce(max(number), 0) + 1, :step, :way, 'begun', :now FROM rollout_attempts"
            " WHERE rollout = :rollout RETURNING *",
            rollout=rollout.id,
            step=step,
            way=way,
            now=self._clock.now(),
        )
        assert row is not None
        attempt = Attempt(**{name: row[name] for name in Attempt.__slots__})
        await note(
            tx, self.recorder, codes.ROLLOUT_STEP_BEGUN, context, rollout, step=step, way=way, attempt=attempt.number
        )
        return attempt

    async def acted(self, tx: Transaction, rollout: Rollout, attempt: Attempt, told: str, record: str) -> None:
        """Write down that its action was done; what is left is to see whether it holds."""
        await tx.run(
            "UPDATE rollout_attempts SET state = 'acted', acted_at = :now, told = :told, record = :record"
            " WHERE rollout = :rollout AND number = :number AND state = 'begun'",
            now=self._clock.now(),
            told=told[:_TOLD],
            record=record,
            rollout=rollout.id,
            number=attempt.number,
        )

    async def waits(
        self, tx: Transaction, rollout: Rollout, attempt: Attempt, since: datetime | None, approval: str
    ) -> None:
        """Write down since when what is waited for is so, and for which approval it waits."""
        await tx.run(
            "UPDATE rollout_attempts SET since = :since, approval = :approval"
            " WHERE rollout = :rollout AND number = :number",
            since=since,
            approval=approval,
            rollout=rollout.id,
            number=attempt.number,
        )

    async def end(
        self, tx: Transaction, context: Context, rollout: Rollout, attempt: Attempt, state: str, told: str, *,
        record: str = "", by: str = "",
    ) -> bool:  # fmt: skip
        """Write down what became of it; False where somebody else did."""
        ended = await tx.run(
            "UPDATE rollout_attempts SET state = :state, ended_at = :now, told = :told, by = :by,"
            " verification = CASE WHEN record = '' THEN '' ELSE :record END,"
            " record = CASE WHEN record = '' THEN :record ELSE record END"
            " WHERE rollout = :rollout AND number = :number AND state IN ('begun', 'acted')",
            state=state,
            now=self._clock.now(),
            told=told[:_TOLD],
            by=by,
            record=record,
            rollout=rollout.id,
            number=attempt.number,
        )
        if ended:
            await note(
                tx, self.recorder, codes.ROLLOUT_STEP_ENDED, context, rollout,
                "success" if state == "passed" else "failure",
                step=attempt.step, way=attempt.way, attempt=attempt.number, state=state, told=told[:500],
                record=record or attempt.record, by=by,
            )  # fmt: skip
        return bool(ended)

    async def decide(
        self, tx: Transaction, context: Context, rollout: Rollout, gate: str, what: str, why: str, by: str
    ) -> None:
        """Write down what was decided at a gate, or that it was passed."""
        await tx.run(
            "INSERT INTO rollout_decisions (rollout, number, gate, what, by, why, at)"
            " SELECT :rollout, coalesce(max(number), 0) + 1, :gate, :what, :by, :why, :now FROM rollout_decisions"
            " WHERE rollout = :rollout",
            rollout=rollout.id,
            gate=gate,
            what=what,
            by=by,
            why=why[:_TOLD],
            now=self._clock.now(),
        )
        if what == "passed":
            await note(tx, self.recorder, codes.ROLLOUT_GATE_PASSED, context, rollout, gate=gate)
        elif what != "fired":
            await note(
                tx, self.recorder, codes.ROLLOUT_DECIDED, context, rollout, gate=gate, decision=what, why=why[:500]
            )


def as_jsonb(value: Any) -> str:
    """JSON for a column."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
