"""Silences: alerts that nobody is told of for a while. Each has matchers, an author, a reason and an end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from bailiwick.assurance.notices.routes import Matcher, all_hold, read_matcher
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import BailiwickError, Conflict, InvalidRequest, NotFound
from bailiwick.kernel.ids import Ids

LONGEST = timedelta(days=7)
MOST_MATCHERS = 20


@dataclass(frozen=True, slots=True)
class Silence:
    """Alerts whose labels meet every matcher are not told of from ``begins_at`` to ``ends_at``."""

    id: str
    matchers: Sequence[str]
    reason: str
    author: str
    begins_at: datetime
    ends_at: datetime
    ended_at: datetime | None
    ended_by: str

    def holds(self, labels: Mapping[str, str], now: datetime) -> bool:
        """Whether an alert with ``labels`` is silenced at ``now``."""
        lasts = self.begins_at <= now < self.ends_at and self.ended_at is None
        return lasts and all_hold([read_matcher(each) for each in self.matchers], labels)

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {name: getattr(self, name) for name in self.__slots__}


def checked(matchers: Sequence[str]) -> list[Matcher]:
    """The matchers of a silence. Raises ``invalid_request``, also where they would silence everything."""
    if not 1 <= len(matchers) <= MOST_MATCHERS:
        raise InvalidRequest(f"A silence has 1 to {MOST_MATCHERS} matchers.")
    try:
        found = [read_matcher(each) for each in matchers]
    except ValueError as error:
        raise InvalidRequest(f"{error}.") from None
    # what any alert at all meets would be a switch for all alerting
    if all_hold(found, {}) or not any(each.operator in ("=", "=~") and each.value.strip("*|") for each in found):
        raise InvalidRequest("A silence names what it is about: at least one label with what it is.")
    return found


def silenced_until(silences: Sequence[Silence], labels: Mapping[str, str], now: datetime) -> datetime | None:
    """Until when an alert with ``labels`` is silenced; None when it is not."""
    return max((each.ends_at for each in silences if each.holds(labels, now)), default=None)


class Silences:
    """Makes silences and ends them."""

    def __init__(self, database: Database, clock: Clock, ids: Ids, recorder: Recorder) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder

    async def make(
        self, context: Context, matchers: Sequence[str], *, ends_at: datetime, reason: str, by: str
    ) -> Silence:
        """Silence from now on. Raises ``silence_too_long``, ``invalid_request``."""
        checked(matchers)
        now = self._clock.now()
        if ends_at <= now:
            raise InvalidRequest("A silence ends in the future.")
        if ends_at - now > LONGEST:
            raise BailiwickError(reason="silence_too_long", longest_days=LONGEST.days)
        if not reason.strip():
            raise InvalidRequest("A silence has a reason.")
        identifier = self._ids()
        async with self._database.begin() as tx:
            await tx.run(
                "INSERT INTO alert_silences (id, zone, matchers, reason, author, begins_at, ends_at)"
                " VALUES (:id, :zone, cast(:matchers AS jsonb), :reason, :by, :now, :ends_at)",
                id=identifier,
                zone=context.zone,
                matchers=json.dumps(list(matchers)),
                reason=reason,
                by=by,
                now=now,
                ends_at=ends_at,
            )
            await self._recorder.record(
                tx,
                codes.ALERT_SILENCED,
                "success",
                context,
                subject=Subject(id=identifier, type="silence"),
                matchers=list(matchers),
                ends_at=ends_at.isoformat(),
            )
            return await self.get(tx, context.zone, identifier)

    async def end(self, context: Context, identifier: str, *, by: str) -> Silence:
        """Lift a silence before its end; what waited for it is told now. Raises ``not_found``, ``conflict``."""
        now = self._clock.now()
        async with self._database.begin() as tx:
            silence = await self.get(tx, context.zone, identifier, lock=True)
            if silence.ended_at is not None or silence.ends_at <= now:
                raise Conflict("The silence has ended.")
            await tx.run(
                "UPDATE alert_silences SET ended_at = :now, ended_by = :by WHERE id = :id",
                now=now,
                by=by,
                id=identifier,
            )
            for table, waits in (("alert_tellings", "done_at IS NULL"), ("escalation_steps", "state = 'due'")):
                await tx.run(
                    f"UPDATE {table} SET due_at = :now WHERE zone = :zone AND due_at = :ends_at AND {waits}",  # noqa: S608
                    now=now,
                    zone=context.zone,
                    ends_at=silence.ends_at,
                )
            await self._recorder.record(
                tx, codes.ALERT_SILENCE_ENDED, "success", context, subject=Subject(id=identifier, type="silence")
            )
            return await self.get(tx, context.zone, identifier)

    async def get(self, tx: Transaction, zone: str, identifier: str, *, lock: bool = False) -> Silence:
        """One silence. Raises :class:`NotFound`."""
        row = await tx.one(
            f"{_SELECT} WHERE zone = :zone AND id = :id {'FOR UPDATE' if lock else ''}", zone=zone, id=identifier
        )
        if row is None:
            raise NotFound("There is no silence by that id.")
        return _silence(row)

    async def list(self, tx: Transaction, zone: str, *, lasting: bool = True, limit: int = 500) -> list[Silence]:
        """Silences, those that end last first; only those that last, or all."""
        rows = await tx.all(
            f"{_SELECT} WHERE zone = :zone AND (NOT :lasting OR (ended_at IS NULL AND ends_at > :now))"
            " ORDER BY ends_at DESC, id LIMIT :limit",
            zone=zone,
            lasting=lasting,
            now=self._clock.now(),
            limit=limit,
        )
        return [_silence(row) for row in rows]


_SELECT = "SELECT id, matchers, reason, author, begins_at, ends_at, ended_at, ended_by FROM alert_silences"


def _silence(row: Row) -> Silence:
    return Silence(**row)
