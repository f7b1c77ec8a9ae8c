"""Saved queries: a search by a name, kept for oneself or shared with the zone's other auditors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.exc import IntegrityError

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import Conflict, Denied, NotFound
from bailiwick.kernel.ids import Ids

MOST_PER_OWNER = 200


@dataclass(frozen=True, slots=True)
class SavedQuery:
    """A filter by a name. ``query`` holds the parameters as they were given: relative moments stay relative."""

    id: str
    zone: str
    owner: str
    name: str
    shared: bool
    query: Mapping[str, Any]
    created_at: datetime

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "id": self.id,
            "name": self.name,
            "owner": self.owner,
            "shared": self.shared,
            "query": dict(self.query),
            "created_at": self.created_at.astimezone(UTC).isoformat(),
        }


class SavedQueries:
    """Keeps them. Everybody sees his own and the shared ones of his zone, and removes his own."""

    def __init__(self, database: Database, recorder: Recorder, ids: Ids) -> None:
        self._database = database
        self._recorder = recorder
        self._ids = ids

    async def save(
        self, context: Context, owner: str, name: str, query: Mapping[str, Any], *, shared: bool
    ) -> SavedQuery:
        """Keep a query; raises ``Conflict`` (``already_exists``) where the owner has one by that name."""
        made = SavedQuery(
            self._ids(), context.zone, owner, name, shared, query, datetime.fromisoformat(self._recorder.now())
        )
        try:
            async with self._database.begin() as tx:
                # two at once of one owner are counted one after the other
                await tx.run("SELECT pg_advisory_xact_lock(hashtext(:owner))", owner=f"query {made.zone} {owner}")
                count = await tx.value(
                    "SELECT count(*) FROM saved_queries WHERE zone = :zone AND owner = :owner",
                    zone=made.zone,
                    owner=owner,
                )
                if count >= MOST_PER_OWNER:
                    raise Conflict(f"Nobody keeps more than {MOST_PER_OWNER} queries; delete one first.")
                await tx.run(
                    "INSERT INTO saved_queries (id, zone, owner, name, shared, query, created_at)"
                    " VALUES (:id, :zone, :owner, :name, :shared, CAST(:query AS jsonb), :created_at)",
                    id=made.id,
                    zone=made.zone,
                    owner=owner,
                    name=name,
                    shared=shared,
                    query=_json(query),
                    created_at=made.created_at,
                )
                await self._recorder.record(
                    tx,
                    codes.AUDIT_QUERY_SAVED,
                    "success",
                    context,
                    subject=Subject(id=made.id, type="saved-query"),
                    query_name=name,
                    shared=shared,
                )
        except IntegrityError:
            raise Conflict(f"You have a query named {name} already.", reason="already_exists") from None
        return made

    async def list(
        self, zone: str, owner: str, after: str, limit: int, *, everybodys: bool = False
    ) -> tuple[list[SavedQuery], str | None]:
        """Queries that ``owner`` may see, newest first, with ids before ``after``, and the id the next page follows."""
        async with self._database.begin() as tx:
            rows = await tx.all(
                "SELECT * FROM saved_queries WHERE zone = :zone AND id < :after"
                " AND (owner = :owner OR shared OR :everybodys) ORDER BY id DESC LIMIT :limit",
                zone=zone,
                after=after,
                owner=owner,
                everybodys=everybodys,
                limit=limit + 1,
            )
        found = _queries(rows[:limit])
        return found, found[-1].id if len(rows) > limit else None

    async def find(self, zone: str, owner: str, identifier: str, *, everybodys: bool = False) -> SavedQuery:
        """One query that ``owner`` may see, by its id or the name he or another who shares it gave it.

        His own go before those of others; raises ``NotFound``.
        """
        async with self._database.begin() as tx:
            return await self._find(tx, zone, owner, identifier, everybodys)

    async def delete(self, context: Context, owner: str, identifier: str, *, everybodys: bool = False) -> SavedQuery:
        """Remove a query. Raises ``NotFound``, or ``Denied`` for one that somebody else shares."""
        async with self._database.begin() as tx:
            found = await self._find(tx, context.zone, owner, identifier, everybodys)
            if found.owner != owner and not everybodys:
                raise Denied("Only its owner removes a query.")
            await tx.run("DELETE FROM saved_queries WHERE id = :id", id=found.id)
            await self._recorder.record(
                tx,
                codes.AUDIT_QUERY_DELETED,
                "success",
                context,
                subject=Subject(id=found.id, type="saved-query"),
                query_name=found.name,
            )
        return found

    async def _find(self, tx: Transaction, zone: str, owner: str, identifier: str, everybodys: bool) -> SavedQuery:
        row = await tx.one(
            "SELECT * FROM saved_queries WHERE zone = :zone AND (id = :identifier OR name = :identifier)"
            " AND (owner = :owner OR shared OR :everybodys) ORDER BY owner = :owner DESC, id LIMIT 1",
            zone=zone,
            identifier=identifier,
            owner=owner,
            everybodys=everybodys,
        )
        if row is None:
            raise NotFound("There is no such query.")
        return _queries([row])[0]


def _queries(rows: Sequence[Row]) -> list[SavedQuery]:
    return [
        SavedQuery(row["id"], row["zone"], row["owner"], row["name"], row["shared"], row["query"], row["created_at"])
        for row in rows
    ]


def _json(query: Mapping[str, Any]) -> str:
    import json

    return json.dumps(dict(query))
