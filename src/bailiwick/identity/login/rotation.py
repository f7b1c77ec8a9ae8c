"""Using up refresh tokens, many at once (``kernel/together.py``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from bailiwick.evidence.events import Event, encode
from bailiwick.kernel import outbox
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row
from bailiwick.kernel.together import Together

T = TypeVar("T")

# one statement: the used tokens end, the next ones begin and the sessions live on, or nothing happens. Rows are locked
# in one order, so that two workers cannot wait for each other. The planner is left one way: tokens by hash, sessions by
# id, people by name. While it knows nothing of the tables (after a morning's sign-ins, before the first ANALYZE) it
# takes any condition for a rare one, and would go through all live sessions for every token, by the index over those:
# hence the CASE, which hides from it that they are live.
ROTATE = """
WITH given AS (
  SELECT * FROM unnest(cast(:zones AS text[]), cast(:olds AS bytea[]), cast(:news AS bytea[])) AS g (zone, old, new)
), presented AS MATERIALIZED (
  SELECT g.zone, g.old, g.new, r.session_id FROM given g JOIN refresh_tokens r ON r.hash = g.old
  WHERE r.used_at IS NULL ORDER BY r.hash FOR UPDATE OF r
), held AS MATERIALIZED (
  SELECT p.old, p.new, p.zone AS asked_in, s.id, s.zone, s.username FROM presented p
  JOIN sessions s ON s.id = p.session_id
  WHERE CASE WHEN s.ended_at IS NULL THEN least(s.idle_until, s.expires_at) > :now END
  ORDER BY s.id FOR UPDATE OF s
), live AS (
  SELECT h.old, h.new, h.id, u.email, u.role, u.must_change_password FROM held h
  JOIN zones z ON z.name = h.zone JOIN users u ON u.zone = h.zone AND u.username = h.username
  WHERE h.zone = h.asked_in AND u.is_active AND z.state = 'active'
), used AS (
  UPDATE refresh_tokens t SET used_at = :now FROM live WHERE t.hash = live.old
), next AS (
  INSERT INTO refresh_tokens (hash, session_id, created_at) SELECT new, id, :now FROM live
)
UPDATE sessions s SET last_seen_at = :now, idle_until = :idle_until FROM live WHERE s.id = live.id
RETURNING live.old, s.id, s.username, s.expires_at, s.amr, s.auth_time, live.email, live.role,
  live.must_change_password
"""


@dataclass(frozen=True, slots=True)
class _Asked(Generic[T]):
    zone: str
    old: bytes
    new: bytes
    conclude: Callable[[Row], tuple[T, Event]]


class Rotations(Generic[T]):
    """Rotates refresh tokens. ``idle`` is how long a session lives on by it."""

    def __init__(self, database: Database, clock: Clock, idle: timedelta) -> None:
        self._database = database
        self._clock = clock
        self._idle = idle
        # a token that is presented twice at once goes twice: the second time it was used before
        self._together: Together[_Asked[T], T | None] = Together(self._rotate, lambda asked: asked.old)

    async def rotate(self, zone: str, old: bytes, new: bytes, conclude: Callable[[Row], tuple[T, Event]]) -> T | None:
        """Put the token with the hash ``new`` in place of ``old``; None when that one is not good for it.

        ``conclude`` makes the answer and the event of the session's row while that is locked.
        """
        return await self._together.ask(_Asked(zone, old, new, conclude))

    async def _rotate(self, batch: Sequence[_Asked[T]]) -> Sequence[T | None]:
        now: datetime = self._clock.now()
        values: dict[str, Any] = {
            "zones": [asked.zone for asked in batch],
            "olds": [asked.old for asked in batch],
            "news": [asked.new for asked in batch],
        }
        by_token = {asked.old: asked for asked in batch}
        answers: dict[bytes, T] = {}
        async with self._database.begin() as tx:
            rows = await tx.all(ROTATE, **values, now=now, idle_until=now + self._idle)
            events = []
            for row in rows:
                old = bytes(row["old"])
                answers[old], event = by_token[old].conclude(row)
                events.append((event.zone, encode(event)))
            if events:
                await outbox.put_all(tx, events)
        return [answers.get(asked.old) for asked in batch]
