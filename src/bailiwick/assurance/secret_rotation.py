"""Rotations with proof: the old secret is presented once more and must be refused.

How a kind is rotated and tried is given as a :class:`Rotator`; the proof is an evidence record, and a rotation without
one is not green. What is replaced outside of us is a rotation once its fingerprint is another one; where we cannot try
the old value, a person attests that it is refused, which is kept and stays NO_DATA. Where old and new overlap the
proof is due when the overlap is over, and who still has the old value presents it then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from bailiwick import __version__
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.evidence.evidence_records import EvidenceRecords, Producer
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import Conflict, InvalidRequest, NotFound
from bailiwick.kernel.http import Caller
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class Rotated:
    """What a rotation did: names of the old one and the new, never values, except ``told`` to who asked, once.

    ``old``: what can be presented to see whether it is still taken; empty where that is for who has it to do.
    """

    old_name: str
    new_name: str
    overlap_until: datetime
    old: str = ""
    told: Mapping[str, str] | None = None


class Rotator(Protocol):
    """Rotates one kind of secret."""

    async def rotate(self, context: Context, caller: Caller, name: str, old: str, overlap: timedelta) -> Rotated:
        """Replace it. ``old`` is the present value where the caller has it; one that is not it is refused."""
        ...

    async def accepts(self, zone: str, name: str, old: str) -> tuple[bool | None, str]:
        """Whether the old value is still taken (None: that cannot be tried from here), and what was answered to it."""
        ...


class Rotations:
    """Rotates, and keeps what became of it."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        ids: Ids,
        recorder: Recorder,
        records: EvidenceRecords,
        rotators: Mapping[str, Rotator],
    ) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._records = records
        self._rotators = dict(rotators)

    async def rotate(
        self,
        context: Context,
        caller: Caller,
        kind: str,
        name: str,
        *,
        old: str = "",
        overlap: timedelta = timedelta(0),
        statement: str = "",
    ) -> dict[str, Any]:
        """Rotate one, and prove at once that the old one is refused where that can be: the row, and what is told once.
        ``statement``: who rotated says how he knows that it is refused, for what cannot be tried.

        Raises ``not_found``, ``invalid_request``, and what the rotator refuses.
        """
        rotator = self._rotator(kind)
        rotated = await rotator.rotate(context, caller, name, old, overlap)
        identifier = self._ids()
        async with self._database.begin() as tx:
            await tx.run(
                "INSERT INTO secret_rotations (id, zone, kind, name, old, new, rotated_by, rotated_at, overlap_until,"
                " verdict) VALUES (:id, :zone, :kind, :name, :old, :new, :by, :now, :until, 'NOT_DUE')",
                id=identifier,
                zone=context.zone,
                kind=kind,
                name=name,
                old=rotated.old_name,
                new=rotated.new_name,
                by=context.actor.user,
                now=self._clock.now(),
                until=rotated.overlap_until,
            )
        row = await self.prove(context, identifier, rotated.old or old)
        if row["verdict"] == "NO_DATA" and statement:
            row = await self._attest(context, row, statement)
        return {**row, "secret": dict(rotated.told or {})}

    async def prove(self, context: Context, identifier: str, old: str = "") -> dict[str, Any]:
        """Present the old value and keep what was answered. Without one it stays NO_DATA; before the overlap is over
        NOT_DUE. Raises ``not_found``, ``conflict`` where it is proven already."""
        row = await self._get(context.zone, identifier)
        if row["verdict"] == "PASS":
            raise Conflict("It is proven already.")
        began = self._clock.now()
        if began < row["overlap_until"]:
            return dict(row)
        if not old:
            return await self._settle(context, row, Verdict.NO_DATA, "")
        taken, told = await self._rotator(row["kind"]).accepts(context.zone, row["name"], old)
        if taken is None:
            return await self._settle(context, row, Verdict.NO_DATA, "")
        async with self._database.begin() as tx:
            stored = await self._records.probe(
                tx,
                context,
                f"secret-rotation/{row['kind']}",
                f"the old {row['kind']} {row['old']} of {row['name']} was presented: {told}".encode(),
                exit_code=1 if taken else 0,
                since=began,
                until=self._clock.now(),
                producer=Producer(name=context.actor.user, program="bailiwick", version=__version__),
                inputs={"rotation": identifier, "replaced_by": row["new"]},
            )
        return await self._settle(context, row, Verdict.FAIL if taken else Verdict.PASS, stored.id)

    async def _attest(self, context: Context, row: dict[str, Any], statement: str) -> dict[str, Any]:
        now = self._clock.now()
        async with self._database.begin() as tx:
            stored = await self._records.attest(
                tx,
                context,
                f"secret-rotation/{row['kind']}",
                statement,
                producer=Producer(name=context.actor.user, program="bailiwick", version=__version__),
                since=row["rotated_at"],
                until=now,
                inputs={"rotation": row["id"], "replaced_by": row["new"]},
            )
        return await self._settle(context, row, Verdict.NO_DATA, stored.id)

    async def list(self, tx: Transaction, zone: str, limit: int = 100) -> list[dict[str, Any]]:
        """Newest first."""
        rows = await tx.all(
            "SELECT * FROM secret_rotations WHERE zone = :zone ORDER BY id DESC LIMIT :limit", zone=zone, limit=limit
        )
        return [dict(row) for row in rows]

    async def _settle(
        self, context: Context, row: Row | dict[str, Any], verdict: Verdict, record: str
    ) -> dict[str, Any]:
        async with self._database.begin() as tx:
            await tx.run(
                "UPDATE secret_rotations SET verdict = :verdict, record = :record, proved_at = :now WHERE id = :id",
                verdict=str(verdict),
                record=record,
                now=self._clock.now(),
                id=row["id"],
            )
            await self._recorder.record(
                tx,
                codes.SECRET_ROTATED,
                "success" if verdict.green else "failure",
                context,
                subject=Subject(id=f"{row['kind']}/{row['name']}"[:200], type="secret"),
                kind=row["kind"],
                old=row["old"],
                new=row["new"],
                verdict=verdict,
                record=record,
            )
        return dict(await self._get(context.zone, row["id"]))

    async def _get(self, zone: str, identifier: str) -> Row:
        async with self._database.begin() as tx:
            row = await tx.one("SELECT * FROM secret_rotations WHERE zone = :z AND id = :id", z=zone, id=identifier)
        if row is None:
            raise NotFound("There is no such rotation.")
        return row

    def _rotator(self, kind: str) -> Rotator:
        found = self._rotators.get(kind)
        if found is None:
            raise InvalidRequest(f"What is rotated here: {', '.join(sorted(self._rotators))}.")
        return found
