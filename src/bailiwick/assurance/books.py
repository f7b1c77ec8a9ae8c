"""Where the books are: every version of every document, which of them are in force, and how a book is changed.

A change is planned first, which shows the difference, and applied as planned: the plan's digest says that nothing moved
in between. What a kind says takes two persons is held until somebody else approved exactly that difference
(``kernel/quorum.py``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar

from bailiwick.assurance.book import API_VERSION, SHIPPED_BY, BadBook, Book, Document, Kind, canonical, check
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.kernel import feed
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import BailiwickError, Conflict
from bailiwick.kernel.fields import Body
from bailiwick.kernel.modes import Switch, require_on
from bailiwick.kernel.permissions import Permission
from bailiwick.kernel.quorum import Action, Approval, Quorum

FEED = "assurance"
"""The kind under which a changed book is announced."""

APPLY = Action("assurance.apply", Permission.ASSURANCE_CONFIGURE, life=timedelta(hours=72))

S = TypeVar("S", bound=Body)

How = Literal["added", "changed", "removed"]


@dataclass(frozen=True, slots=True)
class Difference:
    """What becomes of one document. ``before`` is None for a new one, ``after`` for one that goes."""

    how: How
    kind: str
    name: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    two_persons: bool

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Plan:
    """The way from the book in force, of ``revision``, to the one wanted."""

    zone: str
    revision: int
    differences: Sequence[Difference]

    @property
    def two_persons(self) -> bool:
        """Whether somebody else must approve it."""
        return any(each.two_persons for each in self.differences)

    @property
    def sha256(self) -> str:
        """What is approved: every difference, upon this revision."""
        told = [[each.how, each.kind, each.name, each.before, each.after] for each in self.differences]
        return hashlib.sha256(canonical([self.zone, self.revision, told])).hexdigest()

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "revision": self.revision,
            "sha256": self.sha256,
            "two_persons": self.two_persons,
            "differences": [each.document() for each in self.differences],
        }


def plan(current: Book, wanted: Book, kinds: Mapping[str, Kind[Any]]) -> Plan:
    """What has to change so that ``wanted`` is in force. A document that is not in it goes."""
    found: list[Difference] = []
    for key in sorted({*current.documents, *wanted.documents}):
        before, after = current.documents.get(key), wanted.documents.get(key)
        if before is not None and after is not None and before.sha256 == after.sha256:
            continue
        how: How = "added" if before is None else "removed" if after is None else "changed"
        kind = kinds[key[0]]
        two = kind.two_persons(
            kind.read(before.spec) if before is not None else None, kind.read(after.spec) if after is not None else None
        )
        found.append(
            Difference(how, *key, before.spec if before is not None else None, after.spec if after else None, two)
        )
    return Plan(current.zone, current.revision, found)


class Books:
    """Keeps the books of all zones."""

    def __init__(
        self, database: Database, clock: Clock, recorder: Recorder, quorum: Quorum, kinds: Iterable[Kind[Any]]
    ) -> None:
        self._database = database
        self._clock = clock
        self._recorder = recorder
        self._quorum = quorum
        self.kinds: dict[str, Kind[Any]] = {}
        self._known: dict[str, tuple[_Standing, Book]] = {}
        for kind in kinds:
            if self.kinds.setdefault(kind.name, kind) is not kind:
                raise ValueError(f"two kinds are called {kind.name!r}")
        quorum.register(APPLY)

    async def current(self, tx: Transaction, zone: str) -> Book:
        """What is in force. It is read anew where any row of it is another than when it was read last."""
        standing = await _standing(tx, zone)
        known = self._known.get(zone)
        if known is not None and known[0] == standing:
            return known[1]
        rows = await tx.all(f"{_SELECT} WHERE zone = :zone AND in_force ORDER BY kind, name", zone=zone)
        documents = [self._document(row) for row in rows if row["kind"] in self.kinds]
        after = await _standing(tx, zone)
        book = Book(zone, after[0], {document.key: document for document in documents})
        if after == standing:  # nobody applied another between the two
            self._known[zone] = standing, book
        return book

    async def read(self, tx: Transaction, zone: str, kind: Kind[S], name: str) -> S | None:
        """One document of the book in force; None where there is none."""
        spec = await tx.value(
            "SELECT spec FROM assurance_documents WHERE zone = :zone AND kind = :kind AND name = :name AND in_force",
            zone=zone,
            kind=kind.name,
            name=name,
        )
        return None if spec is None else kind.read(spec)

    async def read_all(self, tx: Transaction, zone: str, kind: Kind[S]) -> dict[str, S]:
        """Every document of one kind in force, by name."""
        rows = await tx.all(
            "SELECT name, spec FROM assurance_documents WHERE zone = :zone AND kind = :kind AND in_force ORDER BY name",
            zone=zone,
            kind=kind.name,
        )
        return {row["name"]: kind.read(row["spec"]) for row in rows}

    async def at(self, tx: Transaction, zone: str, revision: int) -> Book:
        """What was in force at an earlier revision."""
        rows = await tx.all(
            "SELECT * FROM (SELECT DISTINCT ON (kind, name) kind, name, version, spec, applied_at, applied_by"
            " FROM assurance_documents WHERE zone = :zone AND revision <= :revision ORDER BY kind, name, version DESC)"
            " AS newest WHERE spec <> '{}' ORDER BY kind, name",
            zone=zone,
            revision=revision,
        )
        documents = [self._document(row) for row in rows if row["kind"] in self.kinds]
        return Book(zone, revision, {document.key: document for document in documents})

    async def history(self, tx: Transaction, zone: str, kind: str, name: str) -> list[Document]:
        """Every version of one document, newest first; a removal is a version with an empty spec."""
        rows = await tx.all(
            f"{_SELECT} WHERE zone = :zone AND kind = :kind AND name = :name ORDER BY version DESC",
            zone=zone,
            kind=kind,
            name=name,
        )
        return [self._document(row) for row in rows]

    async def plan(self, zone: str, documents: Sequence[Document]) -> Plan:
        """The difference between what is in force and ``documents``. Raises :class:`BadBook`."""
        async with self._database.begin() as tx:
            current = await self.current(tx, zone)
        return plan(current, check(zone, documents, self.kinds), self.kinds)

    async def apply(
        self, context: Context, documents: Sequence[Document], *, sha256: str, by: str, signed_in: bool = True
    ) -> Plan | Approval:
        """Put ``documents`` in force, as planned under ``sha256``; answers the approval that is waited for, if one is.

        Called again once that is approved, it applies. Raises :class:`BadBook`; ``Conflict`` where the plan is not the
        one that was seen.
        """
        async with self._database.begin() as tx:
            return await self.apply_in(tx, context, documents, sha256=sha256, by=by, signed_in=signed_in)

    async def apply_in(
        self,
        tx: Transaction,
        context: Context,
        documents: Sequence[Document],
        *,
        sha256: str,
        by: str,
        signed_in: bool = True,
    ) -> Plan | Approval:
        """The same within the caller's transaction, with what else becomes so by it or not at all."""
        zone = context.zone
        await self.lock(tx, zone)
        current = await self.current(tx, zone)
        planned = plan(current, check(zone, documents, self.kinds), self.kinds)
        if planned.sha256 != sha256:
            raise Conflict("The plan is not the one you saw: plan again.", reason="plan_changed")
        if not planned.differences:
            return planned
        await require_on(tx, zone, Switch.FREEZE, Switch.READ_ONLY)
        if planned.two_persons:
            held = await self._held(tx, context, planned, by, signed_in)
            if held is not None:
                return held
        revision = planned.revision + 1
        for each in planned.differences:
            await self._write(tx, zone, each, revision, by)
            await self._recorder.record(
                tx,
                codes.ASSURANCE_DOCUMENT_CHANGED,
                "success",
                context,
                subject=Subject(id=f"{each.kind}/{each.name}", type="assurance"),
                how=each.how,
                revision=revision,
                plan=planned.sha256,
            )
        await feed.announce(tx, zone, FEED, str(revision))
        return planned

    async def lock(self, tx: Transaction, zone: str) -> None:
        """Have nobody else change the book of ``zone`` until the transaction ends."""
        await tx.run("SELECT pg_advisory_xact_lock(hashtext('bailiwick.books'), hashtext(:zone))", zone=zone)

    async def ship(self, context: Context, documents: Sequence[Document]) -> bool:
        """Put what we ship in force in a zone that never had a book; whether that was so. Needs nobody's approval."""
        async with self._database.begin() as tx:
            return await self.ship_in(tx, context, documents)

    async def ship_in(self, tx: Transaction, context: Context, documents: Sequence[Document]) -> bool:
        """The same, in the transaction that makes the zone."""
        zone = context.zone
        await tx.run("SELECT pg_advisory_xact_lock(hashtext('bailiwick.books'), hashtext(:zone))", zone=zone)
        current = await self.current(tx, zone)
        if current.revision or not documents:
            return False
        planned = plan(current, check(zone, documents, self.kinds), self.kinds)
        for each in planned.differences:
            await self._write(tx, zone, each, 1, SHIPPED_BY)
        await self._recorder.record(
            tx,
            codes.ASSURANCE_SHIPPED,
            "success",
            context,
            subject=Subject(id=zone, type="assurance"),
            documents=len(planned.differences),
            plan=planned.sha256,
        )
        await feed.announce(tx, zone, FEED, "1")
        return True

    def _document(self, row: Row) -> Document:
        kind = self.kinds.get(row["kind"])
        return Document(
            row["kind"],
            row["name"],
            row["spec"],
            kind.api_versions[0] if kind is not None else API_VERSION,
            version=row["version"],
            applied_at=row["applied_at"],
            applied_by=row["applied_by"],
        )

    async def _held(
        self, tx: Transaction, context: Context, planned: Plan, by: str, signed_in: bool
    ) -> Approval | None:
        """The approval that is missing for ``planned``; None once it was given, and so used up."""
        payload = {
            "plan": planned.sha256,
            "revision": planned.revision,
            "changes": [f"{each.how} {each.kind} {each.name}" for each in planned.differences if each.two_persons][:50],
        }
        approval = await self._quorum.request(
            tx,
            context,
            context.zone,
            APPLY.name,
            payload,
            by=by,
            reason="change of the operating model",
            signed_in=signed_in,
        )
        if approval.state != "approved":
            return approval
        try:
            await self._quorum.execute(tx, context, context.zone, approval.id, APPLY.name, payload, by)
        except BailiwickError as error:
            if error.reason != "approval_required":
                raise
            return approval
        return None

    async def _write(self, tx: Transaction, zone: str, each: Difference, revision: int, by: str) -> None:
        await tx.run(
            "UPDATE assurance_documents SET in_force = false"
            " WHERE zone = :zone AND kind = :kind AND name = :name AND in_force",
            zone=zone,
            kind=each.kind,
            name=each.name,
        )
        await tx.run(
            "INSERT INTO assurance_documents (zone, kind, name, version, revision, spec, sha256, in_force, applied_at,"
            " applied_by) SELECT :zone, :kind, :name, coalesce(max(version), 0) + 1, :revision,"
            " cast(:spec AS jsonb), :sha256, :in_force, :now, :by FROM assurance_documents"
            " WHERE zone = :zone AND kind = :kind AND name = :name",
            zone=zone,
            kind=each.kind,
            name=each.name,
            revision=revision,
            spec=json.dumps(each.after or {}, ensure_ascii=False, allow_nan=False),
            sha256=hashlib.sha256(canonical(each.after or {})).hexdigest(),
            in_force=each.after is not None,
            now=self._clock.now(),
            by=by,
        )


_SELECT = "SELECT kind, name, version, spec, applied_at, applied_by FROM assurance_documents"


_Standing = tuple[int, int, int]
"""A revision, how many documents are in force, and the sum of the transactions that wrote their rows: with the same
three nothing was written since, not even past us or in a transaction that was rolled back."""


async def _standing(tx: Transaction, zone: str) -> _Standing:
    row = await tx.one(
        "SELECT coalesce(max(revision), 0) AS revision, count(*) FILTER (WHERE in_force) AS documents,"
        " coalesce(sum(CAST(CAST(xmin AS text) AS bigint)) FILTER (WHERE in_force), 0) AS written"
        " FROM assurance_documents WHERE zone = :zone",
        zone=zone,
    )
    assert row is not None
    return row["revision"], row["documents"], int(row["written"])


__all__ = ["APPLY", "FEED", "BadBook", "Books", "Difference", "Plan", "plan"]
