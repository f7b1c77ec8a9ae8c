"""On call: who is called at a moment, stand-ins and swaps, and the calendar of shifts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from bailiwick.assurance.books import Books
from bailiwick.assurance.oncall.overrides import add, standing_in, withdraw
from bailiwick.assurance.oncall.rota import LEVELS, ROTA, Override, Roster, Rota, Shift, everybody, paged
from bailiwick.assurance.owners.activities import named_people
from bailiwick.assurance.owners.people import People, people
from bailiwick.assurance.ports import Level, Person
from bailiwick.evidence import codes
from bailiwick.evidence.codes import EventType
from bailiwick.evidence.events import Context, Recorder, Subject, rfc3339
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import InvalidRequest, NotFound
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.rfc5545 import CalendarEvent, calendar

LONGEST = timedelta(days=90)
"""How long one person may stand in at once."""
FURTHEST = timedelta(days=400)
_LATE = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Called:
    """One level of one rota at a moment: who is on call until when, and who after him."""

    rota: str
    level: Level
    now: Shift
    following: Shift | None

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "rota": self.rota,
            "level": self.level,
            "now": shift_document(self.now),
            "next": shift_document(self.following) if self.following is not None else None,
        }


class OnCallBook:
    """Implements ``OnCall``, and makes stand-ins."""

    def __init__(self, database: Database, clock: Clock, ids: Ids, recorder: Recorder, books: Books) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._books = books

    async def on_call(self, tx: Transaction, zone: str, level: Level, at: datetime) -> Person | None:
        """Who is called on ``level`` at ``at``, by the rota ``default`` or else the first that has the level."""
        rotas = await self._books.read_all(tx, zone, ROTA)
        name = paged(rotas, level)
        if name is None:
            return None
        try:
            return (await self._roster(tx, zone, name, rotas, at)).duty(level, at).person
        except LookupError:  # a time zone that this machine does not know: nobody, and owners check says so
            return None

    async def uncovered(
        self, tx: Transaction, zone: str, level: Level, since: datetime, until: datetime
    ) -> datetime | None:
        """The first moment between the two at which nobody of that level is called; None where somebody always is."""
        rotas = await self._books.read_all(tx, zone, ROTA)
        name = paged(rotas, level)
        if name is None:
            return since
        try:
            shifts = (await self._roster(tx, zone, name, rotas, since)).shifts(level, since, until)
        except LookupError:  # as in on_call
            return since
        return next((each.begins for each in shifts if each.duty.person is None), None)

    async def called(self, tx: Transaction, zone: str, at: datetime, rota: str = "") -> list[Called]:
        """Every level of every rota, or of one, at ``at``. Raises ``NotFound``."""
        rotas = await self._rotas(tx, zone, rota)
        found = []
        for name in rotas:
            roster = await self._known_roster(tx, zone, name, rotas, at)
            for level in _levels(rotas[name]):
                shift = next(iter(roster.shifts(level, at, at + FURTHEST)))
                found.append(Called(name, level, shift, roster.change_after(level, at)))
        return found

    async def shifts(
        self, tx: Transaction, zone: str, rota: str, levels: Sequence[Level], since: datetime, until: datetime
    ) -> list[Shift]:
        """The shifts of ``levels``, or of all, between two instants. Raises ``NotFound`` and ``InvalidRequest``."""
        if not since < until <= since + FURTHEST:
            raise InvalidRequest(f"The window ends after it begins, and within {FURTHEST.days} days.")
        rotas = await self._rotas(tx, zone, rota)
        roster = await self._known_roster(tx, zone, rota, rotas, since)
        found = [
            shift
            for level in _levels(rotas[rota])
            if not levels or level in levels
            for shift in roster.shifts(level, since, until)
        ]
        return sorted(found, key=lambda each: (each.begins, LEVELS.index(each.level)))

    async def calendar(
        self, tx: Transaction, zone: str, rota: str, levels: Sequence[Level], since: datetime, until: datetime
    ) -> tuple[str, int]:
        """The shifts as a calendar (RFC 5545), and how many there are."""
        shifts = [each for each in await self.shifts(tx, zone, rota, levels, since, until) if each.duty.person]
        book = await self._books.current(tx, zone)
        changed = book.documents["Rota", rota].applied_at or since
        overrides = {each.id: each for each in await standing_in(tx, zone, since=since, rota=rota)}
        events = []
        for shift in shifts:
            person, override = shift.duty.person, overrides.get(shift.duty.override)
            assert person is not None
            who = person.full_name or person.username
            events.append(
                CalendarEvent(
                    f"{rota}-{shift.level}-{shift.begins:%Y%m%dT%H%M%SZ}@{zone}.bailiwick",
                    shift.begins,
                    shift.ends,
                    f"On call ({shift.level}, {rota}): {who}",
                    override.made_at if override is not None else changed,
                    f"{who} stands in: {override.reason}" if override is not None else "",
                )
            )
        return calendar(f"On call: {rota}", events), len(events)

    async def overrides(self, tx: Transaction, zone: str, at: datetime, rota: str = "") -> list[Override]:
        """Who stands in at ``at`` or later, in the order it was made."""
        return await standing_in(tx, zone, since=at, rota=rota)

    async def override(
        self,
        tx: Transaction,
        context: Context,
        rota: str,
        level: Level,
        username: str,
        begins: datetime,
        ends: datetime,
        reason: str,
        *,
        by: str,
    ) -> Override:
        """Have ``username`` on call in the place of whose turn it is. The past is not changed.

        Raises ``NotFound`` for a rota or level that is not there, ``nobody_answers`` for somebody who is not active,
        and ``InvalidRequest`` for a time that is over, or longer than :data:`LONGEST`.
        """
        zone, now = context.zone, self._clock.now()
        rotas = await self._rotas(tx, zone, rota)
        if level not in rotas[rota].levels:
            raise NotFound(f"The rota {rota} has no level {level}.")
        if not begins < ends <= begins + LONGEST:
            raise InvalidRequest(f"A stand-in ends after it begins, and within {LONGEST.days} days.")
        if begins < now - _LATE or ends <= now or ends > now + FURTHEST:
            raise InvalidRequest("Who was on call in the past stays as it was; a stand-in begins now or later.")
        if (await people(tx, zone, [username], [])).active(username) is None:
            raise InvalidRequest(f"{username} is no active person here.", reason="nobody_answers")
        made = await add(tx, zone, self._ids(), rota, level, username, begins, ends, reason, by, now)
        await self._note(tx, codes.ONCALL_OVERRIDDEN, context, made)
        return made

    async def swap(
        self,
        tx: Transaction,
        context: Context,
        rota: str,
        level: Level,
        one: datetime,
        other: datetime,
        reason: str,
        *,
        by: str,
    ) -> tuple[Override, Override]:
        """Exchange the shift that holds at ``one`` for the one at ``other``: each stands in for the other.

        Raises as :meth:`override`, and ``InvalidRequest`` where both are the same person's or nobody's.
        """
        zone, now = context.zone, self._clock.now()
        rotas = await self._rotas(tx, zone, rota)
        roster = await self._known_roster(tx, zone, rota, rotas, now)
        first, second = self._shift_at(roster, level, one, now), self._shift_at(roster, level, other, now)
        mine, yours = first.duty.person, second.duty.person
        if mine is None or yours is None or mine == yours:
            raise InvalidRequest("A swap is between two shifts of two persons.")
        told = reason or f"swap of {mine.username} and {yours.username}"
        return (
            await self.override(
                tx, context, rota, level, yours.username, max(first.begins, now), first.ends, told, by=by
            ),
            await self.override(
                tx, context, rota, level, mine.username, max(second.begins, now), second.ends, told, by=by
            ),
        )

    async def withdraw(self, tx: Transaction, context: Context, identifier: str, *, by: str) -> Override:
        """Take a stand-in back, or end it where it has begun. Raises ``NotFound``."""
        gone = await withdraw(tx, context.zone, identifier, by, self._clock.now())
        if gone is None:
            raise NotFound("There is no stand-in by that id that is not over.")
        await self._note(tx, codes.ONCALL_OVERRIDE_WITHDRAWN, context, gone)
        return gone

    async def _note(self, tx: Transaction, kind: EventType, context: Context, override: Override) -> None:
        await self._recorder.record(
            tx,
            kind,
            "success",
            context,
            subject=Subject(id=override.id, type="oncall"),
            rota=override.rota,
            level=override.level,
            username=override.username,
            begins=rfc3339(override.begins),
            ends=rfc3339(override.ends),
            reason=override.reason,
        )

    def _shift_at(self, roster: Roster, level: Level, at: datetime, now: datetime) -> Shift:
        if level not in roster.rota.levels:
            raise NotFound(f"The rota has no level {level}.")
        if not now <= at <= now + FURTHEST / 2:
            raise InvalidRequest("A swap is of shifts that are now or to come.")
        number = roster.number_at(at)
        around = roster.shifts(level, max(now, roster.boundary(number)), roster.boundary(number + 1))
        return next(shift for shift in around if shift.begins <= at < shift.ends)

    async def _rotas(self, tx: Transaction, zone: str, rota: str) -> dict[str, Rota]:
        rotas = await self._books.read_all(tx, zone, ROTA)
        if rota and rota not in rotas:
            raise NotFound("There is no rota by that name.")
        return {rota: rotas[rota]} if rota else rotas

    async def _known_roster(
        self, tx: Transaction, zone: str, name: str, rotas: Mapping[str, Rota], since: datetime
    ) -> Roster:
        try:
            return await self._roster(tx, zone, name, rotas, since)
        except LookupError as error:
            raise InvalidRequest(f"The rota {name} cannot be worked out: {error}.") from None

    async def _roster(
        self, tx: Transaction, zone: str, name: str, rotas: Mapping[str, Rota], since: datetime
    ) -> Roster:
        overrides = await standing_in(tx, zone, since=since, rota=name)
        return Roster(rotas[name], overrides, await self._people(tx, zone, {name: rotas[name]}, overrides))

    async def _people(
        self, tx: Transaction, zone: str, rotas: Mapping[str, Rota], overrides: Sequence[Override]
    ) -> People:
        return await people(tx, zone, *named_people(everybody(rotas, overrides)))


def shift_document(shift: Shift) -> dict[str, Any]:
    """The JSON form of a shift."""
    person = shift.duty.person
    return {
        "level": shift.level,
        "from": shift.begins,
        "until": shift.ends,
        "username": person.username if person is not None else None,
        "full_name": person.full_name if person is not None else "",
        "email": person.email if person is not None else "",
        "why": shift.duty.why,
        "scheduled": shift.duty.scheduled,
        "override": shift.duty.override,
    }


def override_document(override: Override) -> dict[str, Any]:
    """The JSON form of a stand-in."""
    return {
        "id": override.id,
        "rota": override.rota,
        "level": override.level,
        "username": override.username,
        "from": override.begins,
        "until": override.ends,
        "reason": override.reason,
        "made_by": override.made_by,
        "made_at": override.made_at,
    }


def _levels(rota: Rota) -> list[Level]:
    return [level for level in LEVELS if level in rota.levels]
