"""Incidents as they are kept: what one is, which state may follow which, its timeline, and how it is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from bailiwick.kernel.db import Row, Transaction
from bailiwick.kernel.errors import BailiwickError, NotFound
from bailiwick.kernel.http import Caller
from bailiwick.kernel.permissions import Permission
from bailiwick.kernel.severity import Severity

ONGOING = ("open", "contained")
REVIEWED_WITHIN = timedelta(days=5)
_MOST_TEXT = 4000


@dataclass(frozen=True, slots=True)
class Incident:
    """One incident. ``began_at``: when what is wrong began, as far as is known; ``alert``: by which it escalates."""

    id: str
    zone: str
    number: int
    key: str
    trigger: str
    title: str
    severity: Severity
    class_: str
    state: str
    drill: str
    public: str
    runbook: str
    exits: Sequence[str]
    began_at: datetime
    opened_at: datetime
    opened_by: str
    commander: str
    scribe: str
    alert: str
    acknowledged_at: datetime | None
    contained_at: datetime | None
    pack: str
    preserved_at: datetime | None
    recovered_at: datetime | None
    recovered_by: str
    review_due: datetime | None
    reviewed_at: datetime | None
    review: Mapping[str, Any] | None
    closed_at: datetime | None
    closed_by: str
    update_due: datetime | None
    updates_missed: int
    version: int

    @property
    def ongoing(self) -> bool:
        """Whether it is not recovered yet."""
        return self.state in ONGOING

    @property
    def name(self) -> str:
        """What people call it."""
        return f"INC-{self.number}"

    @property
    def heading(self) -> str:
        """What many may read of it: of a security incident no more than that it is one."""
        return "a security incident" if self.class_ == "security" else self.title

    @property
    def measured_from(self) -> datetime:
        """What is measured before this says nothing about whether it is over."""
        return self.contained_at or self.opened_at

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        told = {name.removesuffix("_"): getattr(self, name) for name in self.__slots__ if name != "zone"}
        return {"name": self.name, **told, "exits": list(self.exits), "times": times(self)}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a timeline. ``ref``: what it is of, once."""

    number: int
    at: datetime
    noted_at: datetime
    what: str
    by: str
    told: str
    ref: str | None

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {name: getattr(self, name) for name in self.__slots__}


# ---------------------------------------------------------------------- rules


def times(incident: Incident) -> dict[str, int | None]:
    """Seconds to detect (from its begin), to acknowledge, contain and recover (from its opening); None: not yet."""

    def since(begin: datetime, end: datetime | None) -> int | None:
        return None if end is None else max(0, int((end - begin).total_seconds()))

    return {
        "detect_s": since(incident.began_at, incident.opened_at),
        "acknowledge_s": since(incident.opened_at, incident.acknowledged_at),
        "contain_s": since(incident.opened_at, incident.contained_at),
        "recover_s": since(incident.opened_at, incident.recovered_at),
    }


def may_read(incident: Incident, caller: Caller) -> bool:
    """Whether ``caller`` may know of it: a security incident is for who works on it, contains, or audits."""
    if incident.class_ != "security":
        return True
    if caller.name and caller.name in (incident.commander, incident.scribe, incident.opened_by):
        return True
    return caller.may(Permission.OVERRIDES_BREAK_GLASS) or caller.may(Permission.AUDIT_READ)


def refuse_other_severity(incident: Incident, wanted: Severity, unmet: Sequence[str]) -> None:
    """Refuse to let a severity drop while ``unmet`` says that its exit condition is not met.

    Raises ``severity_held``.
    """
    if wanted > incident.severity and unmet:
        raise BailiwickError(reason="severity_held", because=list(unmet))


# ---------------------------------------------------------------------- store

_COLUMNS = ", ".join('"class" AS class_' if name == "class_" else name for name in Incident.__slots__)
_SELECT = f"SELECT {_COLUMNS} FROM incidents"  # noqa: S608 - names from the class


def incident_of(row: Row) -> Incident:
    """An incident from its row."""
    return Incident(**{**row, "severity": Severity(row["severity"])})


async def find(tx: Transaction, zone: str, identifier: str, *, lock: bool = False) -> Incident:
    """One incident by its id or its number (``INC-7``, ``7``). Raises :class:`NotFound`."""
    number = identifier.upper().removeprefix("INC-")
    row = await tx.one(
        f"{_SELECT} WHERE zone = :zone AND (id = :id OR number = :number) {'FOR UPDATE' if lock else ''}",
        zone=zone,
        id=identifier,
        number=int(number) if number.isdecimal() and len(number) < 9 else -1,
    )
    if row is None:
        raise NotFound("There is no such incident.")
    return incident_of(row)


async def ongoing_of(tx: Transaction, zone: str, key: str) -> Incident | None:
    """The incident of a key that goes on."""
    row = await tx.one(
        f"{_SELECT} WHERE zone = :zone AND key = :key AND state IN ('open', 'contained') FOR UPDATE", zone=zone, key=key
    )
    return incident_of(row) if row is not None else None


async def list_incidents(
    tx: Transaction, zone: str, *, state: str = "", before: str = "g", limit: int = 100
) -> list[Incident]:
    """Newest first, of one state (``ongoing``: open or contained) or of all."""
    rows = await tx.all(
        f"{_SELECT} WHERE zone = :zone AND id < :before AND (:state = '' OR state = :state"
        " OR :state = 'ongoing' AND state IN ('open', 'contained')) ORDER BY id DESC LIMIT :limit",
        zone=zone,
        state=state,
        before=before,
        limit=limit,
    )
    return [incident_of(row) for row in rows]


async def every_unclosed(tx: Transaction) -> list[Incident]:
    """Those of all zones that are not closed, oldest first."""
    return [incident_of(row) for row in await tx.all(f"{_SELECT} WHERE state <> 'closed' ORDER BY zone, id")]


async def closed_since(tx: Transaction, since: datetime) -> list[Incident]:
    """Those of all zones that were closed since, oldest first."""
    return [incident_of(row) for row in await tx.all(f"{_SELECT} WHERE closed_at > :since ORDER BY id", since=since)]


async def put(tx: Transaction, incident: str, **columns: Any) -> None:
    """Set columns of an incident, by our own names."""
    assert columns.keys() <= {*Incident.__slots__} and "id" not in columns
    said = ", ".join(
        f'"{name.removesuffix("_")}" = ' + (f"cast(:{name} AS jsonb)" if name == "review" else f":{name}")
        for name in columns
    )
    await tx.run(
        f"UPDATE incidents SET {said}, version = version + 1 WHERE id = :id",  # noqa: S608 - names checked above
        id=incident,
        **columns,
    )


async def lines(tx: Transaction, incident: str) -> list[Line]:
    """The timeline in the order in which it happened."""
    rows = await tx.all(
        "SELECT number, at, noted_at, what, by, told, ref FROM incident_entries WHERE incident = :id"
        " ORDER BY at, number",
        id=incident,
    )
    return [Line(**row) for row in rows]


async def add_line(
    tx: Transaction,
    incident: str,
    what: str,
    told: str,
    *,
    at: datetime,
    now: datetime,
    by: str = "bailiwick",
    ref: str | None = None,
) -> bool:
    """Add a line, once for what ``ref`` names; whether it was added."""
    await tx.run("SELECT pg_advisory_xact_lock(hashtext('bailiwick.incident'), hashtext(:id))", id=incident)
    return bool(
        await tx.run(
            "INSERT INTO incident_entries (incident, number, at, noted_at, what, by, told, ref)"
            " SELECT :id, coalesce(max(number), 0) + 1, :at, :now, :what, :by, :told, :ref FROM incident_entries"
            " WHERE incident = :id ON CONFLICT (incident, ref) WHERE ref IS NOT NULL DO NOTHING",
            id=incident,
            at=at,
            now=now,
            what=what,
            by=by,
            told=told[:_MOST_TEXT],
            ref=ref,
        )
    )


async def alerts_of(tx: Transaction, incident: str) -> list[str]:
    """The alerts it is linked with, in the order of the linking."""
    rows = await tx.all("SELECT alert FROM incident_alerts WHERE incident = :id ORDER BY linked_at, alert", id=incident)
    return [row["alert"] for row in rows]


async def newest_judgement(tx: Transaction, incident: str) -> Row | None:
    """What was measured last."""
    return await tx.one(
        "SELECT number, at, by, verdict, conditions FROM incident_judgements WHERE incident = :id"
        " ORDER BY number DESC LIMIT 1",
        id=incident,
    )


async def actions_of(tx: Transaction, incident: str) -> list[dict[str, Any]]:
    """What its review found to be done."""
    rows = await tx.all(
        "SELECT number, title, owner, due, state, done_by, verified_by, record, changed_at FROM incident_actions"
        " WHERE incident = :id ORDER BY number",
        id=incident,
    )
    return [dict(row) for row in rows]


def select_all() -> str:
    """The beginning of a query of incidents."""
    return _SELECT
