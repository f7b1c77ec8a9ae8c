"""Minutes: who was there, what was decided, who does what by when; held, and signed by somebody who wrote neither.

Minutes are versions that are only added to. Holding takes somebody in each required role among those who were there,
and takes up the action items. Signing binds the digests of minutes and pack to a person; after it nothing changes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from bailiwick.assurance.ports import Alerts, Owners
from bailiwick.assurance.rhythm import occurrences as dates
from bailiwick.assurance.rhythm import packs
from bailiwick.assurance.rhythm.actions import Actions, Wanted, living, require_complete
from bailiwick.assurance.rhythm.ceremonies import CEREMONY, Ceremony
from bailiwick.assurance.rhythm.occurrences import OCCURRENCE, Occurrence, utc
from bailiwick.assurance.signers import produced
from bailiwick.assurance.windows import require_over
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import BailiwickError, Conflict, Denied, InvalidRequest, NotFound
from bailiwick.kernel.quorum import People
from bailiwick.kernel.severity import Severity


@dataclass(frozen=True, slots=True)
class Said:
    """What minutes say. A due day that is None is refused where they are taken."""

    attendees: Sequence[str]
    decisions: Sequence[str] = ()
    actions: Sequence[SaidAction] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class SaidAction:
    """An action item as somebody wrote it."""

    title: str
    owner: str
    due: date | None
    severity: Severity = Severity.P3


@dataclass(frozen=True, slots=True)
class Written:
    """Minutes of one version."""

    occurrence: str
    version: int
    body: bytes
    sha256: str
    written_by: str
    written_at: datetime

    @property
    def document(self) -> dict[str, Any]:
        """What they say."""
        value: dict[str, Any] = json.loads(self.body)
        return value

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "version": self.version,
            "sha256": self.sha256,
            "written_by": self.written_by,
            "written_at": utc(self.written_at),
            **self.document,
        }


@dataclass(frozen=True, slots=True)
class Signature:
    """Who vouches for minutes and pack, by their digests."""

    minutes: int
    minutes_sha256: str
    pack_sha256: str
    signed_by: str
    signed_at: datetime

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "minutes": self.minutes,
            "minutes_sha256": self.minutes_sha256,
            "pack_sha256": self.pack_sha256,
            "signed_by": self.signed_by,
            "signed_at": utc(self.signed_at),
        }


class Minutes:
    """Takes minutes, holds and signs."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        recorder: Recorder,
        owners: Owners,
        actions: Actions,
        alerts: Alerts,
        people: People,
    ) -> None:
        self._database = database
        self._clock = clock
        self._recorder = recorder
        self._owners = owners
        self._actions = actions
        self._alerts = alerts
        self._people = people

    async def write(self, context: Context, identifier: str, said: Said, *, by: str) -> Written:
        """Keep minutes as the next version.

        Raises ``window_not_over`` before the ceremony began, ``illegal_transition`` where it has no pack or is held,
        ``action_incomplete``, :class:`InvalidRequest` for attendees who are nobody here.
        """
        now = self._clock.now()
        async with self._database.begin() as tx:
            occurrence, _ = await self._open(tx, context.zone, identifier)
            require_over(occurrence.starts_at, now)
            await self._require_pack(tx, occurrence)
            strangers = set(said.attendees) - await living(tx, context.zone, said.attendees)
            if strangers or not said.attendees:
                raise InvalidRequest("Attendees are active persons of this zone.", unknown=sorted(strangers))
            await require_complete(tx, context.zone, _wanted(said), now)
            written = await self._store(tx, identifier, said, now, by)
            await self._recorder.record(
                tx,
                codes.RHYTHM_MINUTES_WRITTEN,
                "success",
                context,
                subject=Subject(id=identifier, type="ceremony"),
                ceremony=occurrence.ceremony,
                version=written.version,
                sha256=written.sha256,
                attendees=sorted(set(said.attendees)),
            )
        return written

    async def hold(self, context: Context, identifier: str, *, by: str) -> Occurrence:
        """Close the meeting: its minutes stand and their action items are taken up.

        Raises ``quorum_missing`` with the roles that nobody was there for, ``illegal_transition``, ``not_found``.
        """
        now = self._clock.now()
        async with self._database.begin() as tx:
            occurrence, ceremony = await self._open(tx, context.zone, identifier)
            require_over(occurrence.starts_at, now)
            await self._require_pack(tx, occurrence)
            written = await newest(tx, identifier)
            document = written.document
            missing = await self._missing_roles(tx, context.zone, ceremony, document["attendees"], now)
            if missing:
                raise Conflict(reason="quorum_missing", missing=missing)
            wanted = [
                Wanted(each["title"], each["owner"], date.fromisoformat(each["due"]), Severity(each["severity"]))
                for each in document["actions"]
            ]
            await require_complete(tx, context.zone, wanted, now)
            held = await dates.move(tx, self._recorder, context, occurrence, "held", now)
            for each in wanted:
                await self._actions.open(tx, context, occurrence, each, by)
            await self._clear(tx, context, occurrence)
        return held

    async def sign(self, context: Context, identifier: str, *, by: str) -> Signature:
        """Sign minutes and pack as they are.

        Raises ``signer_produced`` for who built the pack or wrote any version of the minutes, by whatever account;
        ``illegal_transition``.
        """
        now = self._clock.now()
        async with self._database.begin() as tx:
            occurrence = await dates.find(tx, context.zone, identifier, lock=True)
            OCCURRENCE.require(occurrence.state, "signed")
            if occurrence.held_at is None:
                raise Conflict("What was not held is not signed.", reason="illegal_transition", state=occurrence.state)
            pack = await packs.load(tx, identifier)
            written = await newest(tx, identifier)
            producers = [pack.built_by, *(await _writers(tx, identifier))]
            if await produced(self._people, tx, context.zone, by, producers):
                raise Denied(reason="signer_produced")
            await tx.run(
                "INSERT INTO rhythm_signatures (occurrence, minutes, minutes_sha256, pack_sha256, signed_by, signed_at)"
                " VALUES (:occurrence, :minutes, :minutes_sha256, :pack_sha256, :by, :now)",
                occurrence=identifier,
                minutes=written.version,
                minutes_sha256=written.sha256,
                pack_sha256=pack.sha256,
                by=by,
                now=now,
            )
            await self._recorder.record(
                tx,
                codes.RHYTHM_SIGNED,
                "success",
                context,
                subject=Subject(id=identifier, type="ceremony"),
                ceremony=occurrence.ceremony,
                minutes=written.sha256,
                pack=pack.sha256,
            )
            await dates.move(tx, self._recorder, context, occurrence, "signed", now)
            await self._clear(tx, context, occurrence)
        return Signature(written.version, written.sha256, pack.sha256, by, now)

    async def _open(self, tx: Transaction, zone: str, identifier: str) -> tuple[Occurrence, Ceremony]:
        """A locked occurrence that may still be held, and its ceremony."""
        occurrence = await dates.find(tx, zone, identifier, lock=True)
        OCCURRENCE.require(occurrence.state, "held")
        if occurrence.held_at is not None:
            raise Conflict("It was held already.", reason="illegal_transition", state=occurrence.state)
        ceremony = CEREMONY.read((await packs.definition_of(tx, occurrence)).spec)
        if not ceremony.attended:
            raise Conflict("The clock does this alone.", reason="illegal_transition", state=occurrence.state)
        return occurrence, ceremony

    async def _require_pack(self, tx: Transaction, occurrence: Occurrence) -> None:
        try:
            await packs.load(tx, occurrence.id)
        except NotFound:
            raise Conflict(
                "Its pack is built first.", reason="illegal_transition", state=occurrence.state, allowed=["pack_built"]
            ) from None

    async def _missing_roles(
        self, tx: Transaction, zone: str, ceremony: Ceremony, attendees: Sequence[str], now: datetime
    ) -> list[str]:
        there = {name.casefold() for name in await living(tx, zone, attendees)}
        missing = []
        for role in ceremony.roles:
            holders = {person.username.casefold() for person in await self._owners.holders(tx, zone, role, now)}
            if not holders & there:
                missing.append(role)
        return missing

    async def _clear(self, tx: Transaction, context: Context, occurrence: Occurrence) -> None:
        """The alert goes when nothing else of the ceremony is overdue."""
        others = await tx.value(
            "SELECT count(*) FROM rhythm_occurrences WHERE zone = :zone AND ceremony = :ceremony"
            " AND state = 'overdue' AND id <> :id",
            zone=occurrence.zone,
            ceremony=occurrence.ceremony,
            id=occurrence.id,
        )
        if not others:
            await self._alerts.clear(tx, context, f"rhythm/{occurrence.ceremony}/overdue")

    async def _store(self, tx: Transaction, identifier: str, said: Said, now: datetime, by: str) -> Written:
        document = {
            "attendees": sorted(set(said.attendees)),
            "decisions": list(said.decisions),
            "actions": [
                {
                    "title": each.title,
                    "owner": each.owner,
                    "due": each.due.isoformat(),
                    "severity": str(each.severity),
                }
                for each in _wanted(said)
            ],
        }
        body, sha256 = packs.digest(document)
        await tx.run(
            "INSERT INTO rhythm_minutes (occurrence, version, body, sha256, written_by, written_at)"
            " SELECT :occurrence, coalesce(max(version), 0) + 1, :body, :sha256, :by, :now FROM rhythm_minutes"
            " WHERE occurrence = :occurrence",
            occurrence=identifier,
            body=body,
            sha256=sha256,
            by=by,
            now=now,
        )
        return await newest(tx, identifier)


def _wanted(said: Said) -> list[Wanted]:
    found = []
    for each in said.actions:
        if each.due is None:
            raise BailiwickError(f"{each.title!r} says no day by which it is due.", reason="action_incomplete")
        found.append(Wanted(each.title, each.owner, each.due, each.severity))
    return found


async def newest(tx: Transaction, occurrence: str) -> Written:
    """The minutes as they are; raises ``not_found`` where none were taken."""
    row = await tx.one(f"{_MINUTES} ORDER BY version DESC LIMIT 1", occurrence=occurrence)
    if row is None:
        raise NotFound("No minutes were taken of it yet.")
    return _written(row)


async def signature(tx: Transaction, occurrence: str) -> Signature | None:
    """The signature, where it is signed."""
    row = await tx.one(
        "SELECT minutes, minutes_sha256, pack_sha256, signed_by, signed_at FROM rhythm_signatures"
        " WHERE occurrence = :occurrence",
        occurrence=occurrence,
    )
    return Signature(**row) if row is not None else None


async def _writers(tx: Transaction, occurrence: str) -> list[str]:
    rows = await tx.all("SELECT DISTINCT written_by FROM rhythm_minutes WHERE occurrence = :id", id=occurrence)
    return [row["written_by"] for row in rows]


_MINUTES = (
    "SELECT occurrence, version, body, sha256, written_by, written_at FROM rhythm_minutes"
    " WHERE occurrence = :occurrence"
)


def _written(row: Row) -> Written:
    return Written(**{**row, "body": bytes(row["body"])})
