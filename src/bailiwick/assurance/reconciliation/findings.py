"""Findings: each a difference of one period that somebody has to settle.

Its identity is rule (reconciliation and type), fingerprint (side and key) and period. It ends by a change that is
named, which the next run over its period must confirm, or by a waiver that covers it; that a later period agrees ends
nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

from bailiwick.assurance.ports import Alerts, Waivers
from bailiwick.assurance.reconciliation.matching import Difference
from bailiwick.assurance.reconciliation.spec import ReconciliationSpec
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import BailiwickError, Conflict, InvalidRequest, NotFound
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.machine import Machine

State = Literal["open", "acknowledged", "resolved", "accepted"]
STATES: tuple[State, ...] = get_args(State)

LIFECYCLE = Machine(
    "finding",
    {
        "open": ("acknowledged", "resolved", "accepted"),
        "acknowledged": ("resolved", "accepted"),
        "resolved": ("open",),  # by a run over its period that still finds it
        "accepted": ("open", "resolved"),  # by a run, once no waiver covers it any more
    },
)
LONGEST_SNOOZE = timedelta(days=30)
_BATCH = 1_000


@dataclass(frozen=True, slots=True)
class Finding:
    """A finding. ``side`` and ``key`` say what of; ``detail`` what both sides hold."""

    id: str
    zone: str
    reconciliation: str
    type: str
    fingerprint: str
    period: str
    side: str
    key: Sequence[str]
    detail: Mapping[str, Any]
    severity: str
    action: str
    state: State
    found_at: datetime
    seen_at: datetime
    alerted: bool
    acknowledged_by: str | None
    acknowledged_at: datetime | None
    resolved_by: str | None
    resolved_at: datetime | None
    change_id: str | None
    verified_at: datetime | None
    reopened: int
    waiver: str | None
    accepted_by: str | None
    snoozed_until: datetime | None
    note: str
    version: int

    @property
    def rule(self) -> str:
        """What found it."""
        return f"{self.reconciliation}/{self.type}"

    def muted(self, now: datetime) -> bool:
        """Whether it is snoozed: then it fires no alert, and is as open as ever."""
        return self.snoozed_until is not None and now < self.snoozed_until

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        told = {name: getattr(self, name) for name in self.__slots__ if name != "zone"}
        for name, value in told.items():
            if isinstance(value, datetime):
                told[name] = value.astimezone(UTC).isoformat()
        return {**told, "rule": self.rule, "key": list(self.key), "detail": dict(self.detail)}


# ---------------------------------------------------------------------- rules


def fingerprint(difference: Difference) -> str:
    """What makes two differences of one type the same one, whatever the values are."""
    told = json.dumps([difference.side, *difference.key], ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def alert_key(finding: Finding) -> str:
    """The key of the alert that tells of it."""
    return f"recon/{finding.rule}/{finding.fingerprint}/{finding.period}"


def change_of(text: str) -> str:
    """The id of the change that resolved something. Raises ``change_required`` (422) where none is named."""
    change = text.strip()
    if not change:
        raise BailiwickError("Name the change that resolved it.", reason="change_required")
    return change


# ---------------------------------------------------------------------- store


async def store(
    tx: Transaction,
    ids: Ids,
    zone: str,
    name: str,
    spec: ReconciliationSpec,
    period: str,
    run: str,
    differences: Iterable[Difference],
    now: datetime,
) -> int:
    """Keep the differences of a run as findings of ``period``; how many of them are new."""
    new = 0
    batch: list[dict[str, Any]] = []

    async def flush() -> int:
        count = int(
            await tx.value(_STORE, rows=json.dumps(batch), zone=zone, name=name, period=period, run=run, now=now)
        )
        batch.clear()
        return count

    for difference in differences:
        weight = spec.weight(difference.type, difference.off)
        detail = dict(difference.detail)
        if difference.off is not None:
            detail["off"] = f"{difference.off.normalize():f}"
        batch.append(
            {
                "id": ids(),
                "type": difference.type,
                "fingerprint": fingerprint(difference),
                "side": difference.side,
                "key": list(difference.key),
                "detail": detail,
                "severity": weight.severity,
                "action": weight.action,
            }
        )
        if len(batch) >= _BATCH:
            new += await flush()
    return new + (await flush() if batch else 0)


async def found_in(tx: Transaction, zone: str, name: str, run: str) -> list[Finding]:
    """What a run found, not counting what is accepted."""
    rows = await tx.all(
        "SELECT * FROM reconciliation_findings WHERE zone = :zone AND reconciliation = :name AND last_run = :run"
        " ORDER BY id",
        zone=zone,
        name=name,
        run=run,
    )
    return [_finding(row) for row in rows]


async def resolved_unverified(tx: Transaction, zone: str, name: str, period: str | None) -> list[Finding]:
    """Findings that somebody says he resolved and no run has confirmed; of one period or of all."""
    rows = await tx.all(
        "SELECT * FROM reconciliation_findings WHERE zone = :zone AND reconciliation = :name AND state = 'resolved'"
        " AND verified_at IS NULL AND (cast(:period AS text) IS NULL OR period = :period) ORDER BY id",
        zone=zone,
        name=name,
        period=period,
    )
    return [_finding(row) for row in rows]


# ---------------------------------------------------------------------- service


class Findings:
    """Lists and moves them."""

    def __init__(
        self, database: Database, clock: Clock, ids: Ids, recorder: Recorder, alerts: Alerts, waivers: Waivers
    ) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._alerts = alerts
        self._waivers = waivers

    async def list(
        self, zone: str, *, reconciliation: str = "", state: str = "", period: str = "", after: str, limit: int
    ) -> list[Finding]:
        """Findings newest first, with ids before ``after``; ``state`` may be ``unsettled``."""
        async with self._database.begin() as tx:
            rows = await tx.all(
                "SELECT * FROM reconciliation_findings WHERE zone = :zone AND id < :after"
                " AND (:name = '' OR reconciliation = :name) AND (:period = '' OR period = :period)"
                " AND (:state = '' OR state = :state OR :state = 'unsettled' AND state IN ('open', 'acknowledged'))"
                " ORDER BY id DESC LIMIT :limit",
                zone=zone,
                after=after,
                name=reconciliation,
                period=period,
                state=state,
                limit=limit,
            )
        return [_finding(row) for row in rows]

    async def get(self, zone: str, identifier: str) -> tuple[Finding, Sequence[Mapping[str, Any]]]:
        """One of them, and everybody who moved it. Raises ``not_found``."""
        async with self._database.begin() as tx:
            found = await _locked(tx, zone, identifier)
            moves = await tx.all(
                "SELECT state, at, by, why FROM reconciliation_moves WHERE finding = :id ORDER BY id", id=identifier
            )
        return found, [{**row, "at": row["at"].astimezone(UTC).isoformat()} for row in moves]

    async def acknowledge(self, context: Context, identifier: str, by: str, note: str = "") -> Finding:
        """Somebody looks into it."""
        async with self._database.begin() as tx:
            found = await _locked(tx, context.zone, identifier)
            LIFECYCLE.require(found.state, "acknowledged")
            changes = {"acknowledged_by": by, "acknowledged_at": self._clock.now(), "note": note or found.note}
            return await self._move(tx, context, found, "acknowledged", by, note, changes)

    async def resolve(self, context: Context, identifier: str, by: str, change_id: str, note: str = "") -> Finding:
        """A change made it right, which the next run over its period has to confirm.

        Raises ``change_required`` (422) without a change.
        """
        change = change_of(change_id)
        async with self._database.begin() as tx:
            found = await _locked(tx, context.zone, identifier)
            LIFECYCLE.require(found.state, "resolved")
            changes = {
                "resolved_by": by,
                "resolved_at": self._clock.now(),
                "change_id": change,
                "verified_at": None,
                "note": note or found.note,
            }
            await self._alerts.clear(tx, context, alert_key(found))
            return await self._move(tx, context, found, "resolved", by, f"change {change}", changes)

    async def accept(self, context: Context, identifier: str, by: str, waiver: str) -> Finding:
        """It stays, under a waiver of ``reconciliation/<name>`` for its fingerprint or its type.

        Raises ``waiver_not_covering`` (409) where that waiver does not cover it now.
        """
        async with self._database.begin() as tx:
            found = await _locked(tx, context.zone, identifier)
            LIFECYCLE.require(found.state, "accepted")
            if waiver not in await self.covering(tx, found):
                raise Conflict("This waiver does not cover the finding.", reason="waiver_not_covering")
            await self._waivers.used(tx, context, waiver, f"reconciliation/{found.rule}")
            await self._alerts.clear(tx, context, alert_key(found))
            changes = {"waiver": waiver, "accepted_by": by}
            return await self._move(tx, context, found, "accepted", by, f"waiver {waiver}", changes)

    async def snooze(self, context: Context, identifier: str, by: str, until: datetime) -> Finding:
        """Let it fire no alert until then; it stays what it is. Raises ``invalid_request``."""
        now = self._clock.now()
        if not now < until <= now + LONGEST_SNOOZE:
            raise InvalidRequest(f"A finding is snoozed for at most {LONGEST_SNOOZE.days} days, and until it is later.")
        async with self._database.begin() as tx:
            found = await _locked(tx, context.zone, identifier)
            if found.state not in ("open", "acknowledged"):
                raise Conflict(f"A finding that is {found.state} needs no snooze.", reason="illegal_transition")
            await self._alerts.clear(tx, context, alert_key(found))
            changes = {"snoozed_until": until, "alerted": False}
            why = f"snoozed until {until.astimezone(UTC).isoformat()}"
            return await self._move(tx, context, found, found.state, by, why, changes)

    async def covering(self, tx: Transaction, found: Finding) -> set[str]:
        """The waivers that cover it now."""
        now, control = self._clock.now(), f"reconciliation/{found.reconciliation}"
        scopes = (found.fingerprint, found.type, "*")
        answers = [await self._waivers.covering(tx, found.zone, control, scope, now) for scope in scopes]
        return {answer for answer in answers if answer is not None}

    # --- what runs do

    async def verify(self, tx: Transaction, context: Context, found: Finding, still: bool) -> Finding:
        """A run over its period confirms a resolution, or opens it again."""
        now = self._clock.now()
        if still:
            changes: dict[str, Any] = {"reopened": found.reopened + 1, "alerted": False}
            return await self._move(tx, context, found, "open", "reconciliation", "still there", changes)
        return await self._move(tx, context, found, "resolved", "reconciliation", "confirmed", {"verified_at": now})

    async def uncover(self, tx: Transaction, context: Context, found: Finding) -> Finding:
        """What a waiver let stand is open again once none covers it."""
        why = f"waiver {found.waiver} covers it no more"
        return await self._move(tx, context, found, "open", "reconciliation", why, {"alerted": False})

    async def alerted(self, tx: Transaction, identifiers: Sequence[str]) -> None:
        """Note that alerts told of them."""
        await tx.run("UPDATE reconciliation_findings SET alerted = true WHERE id = ANY(:ids)", ids=list(identifiers))

    async def _move(
        self,
        tx: Transaction,
        context: Context,
        found: Finding,
        state: str,
        by: str,
        why: str,
        changes: Mapping[str, Any],
    ) -> Finding:
        columns = "".join(f", {name} = :{name}" for name in changes)
        row = await tx.one(
            f"UPDATE reconciliation_findings SET state = :state, version = version + 1{columns}"  # noqa: S608 - our names
            " WHERE id = :id RETURNING *",
            id=found.id,
            state=state,
            **changes,
        )
        await tx.run(
            "INSERT INTO reconciliation_moves (finding, state, at, by, why) VALUES (:id, :state, :now, :by, :why)",
            id=found.id,
            state=state,
            now=self._clock.now(),
            by=by,
            why=why,
        )
        await self._recorder.record(
            tx,
            codes.FINDING_MOVED,
            "success",
            context,
            subject=Subject(id=found.id, type="finding"),
            rule=found.rule,
            period=found.period,
            before=found.state,
            after=state,
            why=why,
        )
        assert row is not None
        return _finding(row)


async def _locked(tx: Transaction, zone: str, identifier: str) -> Finding:
    row = await tx.one(
        "SELECT * FROM reconciliation_findings WHERE zone = :zone AND id = :id FOR UPDATE", zone=zone, id=identifier
    )
    if row is None:
        raise NotFound("There is no finding by that id.")
    return _finding(row)


def _finding(row: Row) -> Finding:
    return Finding(**{name: row[name] for name in Finding.__slots__})


# what stands already keeps its state; severity and values are those of the newest look
_STORE = """
WITH stored AS (
  INSERT INTO reconciliation_findings (id, zone, reconciliation, type, fingerprint, period, side, key, detail, severity,
    action, state, first_run, last_run, found_at, seen_at)
  SELECT r.id, :zone, :name, r.type, r.fingerprint, :period, r.side, r.key, r.detail, r.severity, r.action, 'open',
         :run, :run, :now, :now
  FROM jsonb_to_recordset(cast(:rows AS jsonb)) AS r (id text, type text, fingerprint text, side text, key jsonb,
    detail jsonb, severity text, action text)
  ON CONFLICT (zone, reconciliation, type, fingerprint, period) DO UPDATE
    SET last_run = excluded.last_run, seen_at = excluded.seen_at, detail = excluded.detail,
        severity = excluded.severity, action = excluded.action
  RETURNING (xmax = 0) AS new
)
SELECT count(*) FILTER (WHERE new) FROM stored
"""
