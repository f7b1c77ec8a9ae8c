"""The registers: risks, the roadmap, documents that are reviewed, and known issues.

What an item says is a document of the book, changed as all of them are; how it stands is here, in versions that are
only added to. Nothing is done or closed by saying so: it takes the id of an evidence record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from bailiwick.assurance.book import Kind
from bailiwick.assurance.standing_evidence import require_evidence
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.evidence.evidence_records import EvidenceRecords
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import NotFound
from bailiwick.kernel.fields import Body, Line, Text
from bailiwick.kernel.machine import Machine
from bailiwick.kernel.severity import Severity

Register = Literal["risks", "roadmap", "documents", "known-issues"]
REGISTERS: tuple[Register, ...] = ("risks", "roadmap", "documents", "known-issues")
REVIEWED = "reviewed"


def _a_day(value: str) -> str:
    date.fromisoformat(value)
    return value


class _Dated(Body):
    due: Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$", examples=["2026-02-01"])] | None = None
    due_days: Annotated[int, Field(ge=1, le=3660)] | None = None
    owner: Annotated[Line, Field(min_length=1)]

    @field_validator("due")
    @classmethod
    def _is_a_day(cls, value: str | None) -> str | None:
        return _a_day(value) if value is not None else None

    @model_validator(mode="after")
    def _dated(self) -> _Dated:
        if (self.due is None) == (self.due_days is None):
            raise ValueError("has due or due_days: by when is said once")
        return self


class Risk(_Dated):
    """Something that may go wrong. ``likelihood`` and ``impact`` from 1 to 5; ``owner`` an activity of the RACI.

    ``due``: the day by which the mitigation stands; or ``due_days`` after the document was first put in force.
    """

    item: Annotated[Line, Field(min_length=1)]
    likelihood: Annotated[int, Field(ge=1, le=5)]
    impact: Annotated[int, Field(ge=1, le=5)]
    mitigation: Annotated[Text, Field(min_length=1)]


class RoadmapItem(_Dated):
    """Something that is to be built or brought about, and by what one will see that it was."""

    track: Literal["reliability", "security", "finance", "product"]
    item: Annotated[Line, Field(min_length=1)]
    acceptance: Annotated[Text, Field(min_length=1)]


class ReviewedDocument(Body):
    """A document somebody reads again in time. ``path``: where it is; ``every_days``: how soon again.

    ``audience``: whom it is for; ``counterpart``: the guide of another operating model whose place it takes.
    """

    item: Annotated[Line, Field(min_length=1)]
    path: Annotated[Line, Field(min_length=1)]
    owner: Annotated[Line, Field(min_length=1)]
    every_days: Annotated[int, Field(ge=1, le=90)] = 30
    audience: Line = ""
    counterpart: Line = ""


class KnownIssue(Body):
    """Something that is wrong and known: what it does to people, what they do meanwhile, how it is mended for good."""

    item: Annotated[Line, Field(min_length=1)]
    severity: Severity
    impact: Annotated[Text, Field(min_length=1)]
    workaround: Annotated[Text, Field(min_length=1)]
    permanent_fix: Annotated[Text, Field(min_length=1)]
    target_version: Annotated[Line, Field(min_length=1)]
    owner: Annotated[Line, Field(min_length=1)]
    due: Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$", examples=["2026-02-01"])] | None = None

    @field_validator("due")
    @classmethod
    def _is_a_day(cls, value: str | None) -> str | None:
        return _a_day(value) if value is not None else None


def _unsaid(before: KnownIssue | None, after: KnownIssue | None) -> bool:
    """Whether a known issue is forgotten, made out to be lesser, or given more time."""
    if before is None:
        return False
    return after is None or after.severity > before.severity or after.due != before.due


def _later(before: Risk | RoadmapItem | None, after: Risk | RoadmapItem | None) -> bool:
    """Whether something that had to be done by a day is given more time, or forgotten."""
    if before is None:
        return False
    if after is None:
        return True
    return (before.due, before.due_days) != (after.due, after.due_days)


RISK = Kind("Risk", Risk, two_persons=_later)
ROADMAP_ITEM = Kind("RoadmapItem", RoadmapItem, two_persons=_later)
REVIEWED_DOCUMENT = Kind("ReviewedDocument", ReviewedDocument)
KNOWN_ISSUE = Kind("KnownIssue", KnownIssue, two_persons=_unsaid)

KIND_OF: Mapping[Register, str] = {
    "risks": "Risk",
    "roadmap": "RoadmapItem",
    "documents": "ReviewedDocument",
    "known-issues": "KnownIssue",
}
MACHINES: Mapping[Register, Machine] = {
    "risks": Machine("risk", {"open": ("mitigating", "closed"), "mitigating": ("open", "closed"), "closed": ("open",)}),
    "roadmap": Machine("roadmap item", {"planned": ("started", "done"), "started": ("planned", "done"), "done": ()}),
    "documents": Machine("document", {"unread": (REVIEWED,), REVIEWED: (REVIEWED,)}),
    "known-issues": Machine(
        "known issue", {"open": ("fixing", "fixed"), "fixing": ("open", "fixed"), "fixed": ("open",)}
    ),
}
BEGINS: Mapping[Register, str] = {
    "risks": "open",
    "roadmap": "planned",
    "documents": "unread",
    "known-issues": "open",
}
ENDS = frozenset({"closed", "done", "fixed"})
PROVEN = frozenset({"closed", "done", "fixed", REVIEWED})
"""The states that take evidence."""


@dataclass(frozen=True, slots=True)
class Item:
    """One line of a register. ``due``: the day by which, or by which a document is read again; ``version`` 0 while
    nothing was said of it. ``since``: when its document was first put in force."""

    register: Register
    name: str
    spec: Mapping[str, Any]
    since: datetime
    due: date | None
    state: str
    version: int
    record: str
    changed_by: str
    changed_at: datetime | None

    def late(self, at: datetime) -> bool:
        """Whether its day is over at ``at`` and it is not done."""
        return self.state not in ENDS and self.due is not None and at.astimezone(UTC).date() > self.due

    @property
    def score(self) -> int:
        """Likelihood times impact, of a risk; 0 of others."""
        return int(self.spec.get("likelihood", 0)) * int(self.spec.get("impact", 0))

    def document(self, at: datetime) -> dict[str, Any]:
        """The JSON form, as it is at ``at``."""
        answer = {
            "name": self.name,
            **dict(self.spec),
            "due": self.due.isoformat() if self.due else None,
            "state": self.state,
            "late": self.late(at),
            "version": self.version,
            "record": self.record,
            "changed_by": self.changed_by,
            "changed_at": self.changed_at.astimezone(UTC).isoformat() if self.changed_at else None,
        }
        if self.register == "risks":
            answer["score"] = self.score
        return answer


async def items(tx: Transaction, zone: str, register: Register, at: datetime) -> list[Item]:
    """The lines of a register as they were at ``at``, by name; the past does not change by what came later."""
    rows = await tx.all(_ITEMS, zone=zone, kind=KIND_OF[register], register=register, at=at)
    return [_item(register, dict(row)) for row in rows if row["spec"]]


def _item(register: Register, row: Mapping[str, Any]) -> Item:
    spec: Mapping[str, Any] = row["spec"]
    if register == "documents":
        due: date | None = ((row["changed_at"] or row["since"]) + timedelta(days=spec.get("every_days", 30))).date()
    elif spec.get("due"):
        due = date.fromisoformat(spec["due"])
    else:
        due = (row["since"] + timedelta(days=spec["due_days"])).date() if spec.get("due_days") else None
    return Item(
        register,
        row["name"],
        {key: value for key, value in spec.items() if key not in {"due", "due_days"}},
        row["since"],
        due,
        row["state"] or BEGINS[register],
        row["version"] or 0,
        row["record"] or "",
        row["changed_by"] or "",
        row["changed_at"],
    )


class Registers:
    """Keeps how the items stand."""

    def __init__(self, database: Database, clock: Clock, recorder: Recorder, records: EvidenceRecords) -> None:
        self._database = database
        self._clock = clock
        self._recorder = recorder
        self._records = records

    @property
    def now(self) -> datetime:
        """The moment by which items are late."""
        return self._clock.now()

    async def list(self, zone: str, register: Register, at: datetime | None = None) -> Sequence[Item]:
        """The items, as they are or were at ``at``."""
        async with self._database.begin() as tx:
            return await items(tx, zone, register, at or self._clock.now())

    async def get(self, zone: str, register: Register, name: str) -> Item:
        """One item; raises ``not_found``."""
        async with self._database.begin() as tx:
            return await self._find(tx, zone, register, name)

    async def history(self, zone: str, register: Register, name: str) -> Sequence[dict[str, Any]]:
        """How it stood, newest first."""
        async with self._database.begin() as tx:
            rows = await tx.all(
                "SELECT version, state, record, note, changed_by, changed_at FROM register_versions"
                " WHERE zone = :zone AND register = :register AND item = :item ORDER BY version DESC LIMIT 500",
                zone=zone,
                register=register,
                item=name,
            )
        return [dict(row) for row in rows]

    async def move(
        self, context: Context, register: Register, name: str, state: str, *, by: str, record: str = "", note: str = ""
    ) -> Item:
        """Bring an item into ``state``.

        Raises ``not_found``, ``illegal_transition``, and ``evidence_needed`` where the state is one that must be shown.
        """
        zone, now = context.zone, self._clock.now()
        async with self._database.begin() as tx:
            await tx.run(
                "SELECT pg_advisory_xact_lock(hashtext('bailiwick.registers'), hashtext(:item))",
                item=f"{zone}/{register}/{name}",
            )
            item = await self._find(tx, zone, register, name)
            MACHINES[register].require(item.state, state)
            if state in PROVEN:
                await require_evidence(tx, self._records, zone, record, now, since=item.since)
            await tx.run(
                "INSERT INTO register_versions (zone, register, item, version, state, record, note, changed_by,"
                " changed_at) VALUES (:zone, :register, :item, :version, :state, :record, :note, :by, :now)",
                zone=zone,
                register=register,
                item=name,
                version=item.version + 1,
                state=state,
                record=record,
                note=note,
                by=by,
                now=now,
            )
            await self._recorder.record(
                tx,
                codes.REGISTER_CHANGED,
                "success",
                context,
                subject=Subject(id=name, type="register"),
                register=register,
                state=state,
                version=item.version + 1,
                record=record,
            )
            return await self._find(tx, zone, register, name)

    async def _find(self, tx: Transaction, zone: str, register: Register, name: str) -> Item:
        for item in await items(tx, zone, register, self._clock.now()):
            if item.name == name:
                return item
        raise NotFound(f"The register of {register} has no item {name}.")


def late(found: Sequence[Item], at: datetime) -> list[Item]:
    """Those whose day is over, the most urgent first."""
    return sorted(
        (each for each in found if each.late(at)), key=lambda each: (-each.score, each.due or date.max, each.name)
    )


# what was in force at a moment, since when there is such a document, and what was said of it last until then
_ITEMS = """
SELECT d.name, d.spec, first.since, v.state, v.version, v.record, v.changed_by, v.changed_at
FROM (SELECT DISTINCT ON (name) name, spec FROM assurance_documents
      WHERE zone = :zone AND kind = :kind AND applied_at <= :at ORDER BY name, version DESC) d
CROSS JOIN LATERAL (SELECT min(applied_at) AS since FROM assurance_documents f
      WHERE f.zone = :zone AND f.kind = :kind AND f.name = d.name) first
LEFT JOIN LATERAL (SELECT state, version, record, changed_by, changed_at FROM register_versions r
      WHERE r.zone = :zone AND r.register = :register AND r.item = d.name AND r.changed_at <= :at
      ORDER BY version DESC LIMIT 1) v ON true
ORDER BY d.name
"""
