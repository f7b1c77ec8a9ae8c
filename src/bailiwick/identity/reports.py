"""Reports about people and their access: orphans, the access review, failed sign-ins.

An access review says who has what, when it was last used and whether somebody looked at it; the looking is recorded
here (keep or remove, and until when), the removing is done where access is kept. Nobody looks at his own.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.inventory.zones import require_active
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import Denied, NotFound
from bailiwick.kernel.quorum import People

Name = Literal["orphans", "access", "failed-logins"]
NAMES: tuple[Name, ...] = ("orphans", "access", "failed-logins")

REVIEW_EVERY = timedelta(days=90)
UNUSED = timedelta(days=90)
MAX_ROWS = 50_000

# what stands without anybody who answers for it, each with why; the last column is when it was made or seen last
_ORPHANS = """
SELECT 'user' AS kind, u.username AS name, 'no provider knows this person' AS finding, u.username AS owner,
       u.last_login_at AS at
FROM users u WHERE u.zone = :zone AND u.is_active AND u.external_id IS NULL AND u.password_hash IS NULL
  AND u.invitation_hash IS NULL
  AND NOT EXISTS (SELECT 1 FROM user_identities i WHERE i.zone = u.zone AND i.username = u.username)
UNION ALL
SELECT 'user', u.username, 'has not signed in for 90 days', u.username, u.last_login_at
FROM users u WHERE u.zone = :zone AND u.is_active AND coalesce(u.last_login_at, u.created_at) < :unused
UNION ALL
SELECT 'group', g.name, CASE WHEN g.owner IS NULL THEN 'nobody owns this group' ELSE 'its owner is disabled' END,
       coalesce(g.owner, ''), g.created_at
FROM groups g LEFT JOIN users u ON u.zone = g.zone AND u.username = g.owner
WHERE g.zone = :zone AND (g.owner IS NULL OR NOT u.is_active)
UNION ALL
SELECT 'api-key', k.id, 'its owner is disabled', k.username, k.last_used_at
FROM api_keys k JOIN users u ON u.zone = k.zone AND u.username = k.username
WHERE k.zone = :zone AND k.ended_at IS NULL AND k.expires_at > :now AND NOT u.is_active
UNION ALL
SELECT 'session', s.id, 'its person is disabled', s.username, s.last_seen_at
FROM sessions s JOIN users u ON u.zone = s.zone AND u.username = s.username
WHERE s.zone = :zone AND s.ended_at IS NULL AND s.expires_at > :now AND NOT u.is_active
UNION ALL
SELECT 'application', a.name,
       CASE WHEN a.owner IS NULL THEN 'nobody owns this application' ELSE 'its owner is disabled' END,
       coalesce(a.owner, ''), a.created_at
FROM applications a LEFT JOIN users u ON u.zone = a.zone AND u.username = a.owner
WHERE a.zone = :zone AND a.is_active AND (a.owner IS NULL OR NOT u.is_active)
ORDER BY 1, 2, 3 LIMIT :most
"""
_ACCESS = """
SELECT u.username, u.full_name, u.role, coalesce(u.own_role, u.role) AS own_role, u.is_active,
  coalesce((SELECT array_agg(g.name ORDER BY g.name) FROM group_members m JOIN groups g ON g.id = m.group_id
            WHERE m.zone = u.zone AND m.username = u.username), '{}') AS groups,
  coalesce((SELECT array_agg(i.provider ORDER BY i.provider) FROM user_identities i
            WHERE i.zone = u.zone AND i.username = u.username), '{}') AS providers,
  (SELECT count(*) FROM api_keys k WHERE k.zone = u.zone AND k.username = u.username AND k.ended_at IS NULL
     AND k.expires_at > :now) AS api_keys,
  greatest(u.last_login_at,
    (SELECT max(s.last_seen_at) FROM sessions s WHERE s.zone = u.zone AND s.username = u.username),
    (SELECT max(k.last_used_at) FROM api_keys k WHERE k.zone = u.zone AND k.username = u.username)) AS last_used_at,
  u.created_at, r.verdict, r.reviewed_by, r.reviewed_at, r.due_at, r.note
FROM users u LEFT JOIN access_reviews r ON r.zone = u.zone AND r.username = u.username
WHERE u.zone = :zone ORDER BY u.username LIMIT :most
"""
_FAILED = """
SELECT coalesce(rest.event->'subject'->>'id', '') AS username, coalesce(rest.event->'network'->>'ip', '') AS ip,
  coalesce(rest.event->'details'->>'method', '') AS method, coalesce(rest.event->'reasons'->>0, '') AS reason,
  count(*) AS failures, min(e.at) AS first_at, max(e.at) AS last_at
FROM ledger.events e CROSS JOIN LATERAL (SELECT convert_from(e.rest, 'UTF8')::jsonb AS event) rest
WHERE e.zone = :zone AND e.code = :code AND e.recorded_at >= :since
GROUP BY 1, 2, 3, 4 ORDER BY failures DESC, last_at DESC LIMIT :most
"""


@dataclass(frozen=True, slots=True)
class Report:
    """A report as a table. ``findings`` is how many of its rows want somebody to do something."""

    name: Name
    zone: str
    at: datetime
    columns: tuple[str, ...]
    rows: Sequence[Mapping[str, Any]]
    findings: int

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "report": self.name,
            "zone": self.zone,
            "at": self.at,
            "findings": self.findings,
            "truncated": len(self.rows) >= MAX_ROWS,
            "rows": [dict(row) for row in self.rows],
        }

    def as_csv(self) -> str:
        """The table for a spreadsheet, which gets no formula to work out from what a caller once chose."""
        written = io.StringIO()
        table = csv.writer(written)
        table.writerow(self.columns)
        for row in self.rows:
            table.writerow([_cell(row[column]) for column in self.columns])
        return written.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat()
    text = " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def standing(row: Mapping[str, Any], now: datetime) -> str:
    """What a review says of a person's access: ``keep``, ``remove`` or ``due``; only a review not past is one."""
    if row["verdict"] == "remove":
        return "remove"
    if row["verdict"] is None or row["due_at"] <= now or not row["is_active"]:
        return "due" if row["is_active"] else "keep"
    return "keep"


async def make(tx: Transaction, name: Name, zone: str, now: datetime, *, days: int = 7) -> Report:
    """The report ``name`` of ``zone`` as it is ``now``. ``days``: how far failed sign-ins are looked back at."""
    match name:
        case "orphans":
            found = await tx.all(_ORPHANS, zone=zone, now=now, unused=now - UNUSED, most=MAX_ROWS)
            rows = [dict(row) for row in found]
            return Report(name, zone, now, ("kind", "name", "finding", "owner", "at"), rows, len(rows))
        case "access":
            found = await tx.all(_ACCESS, zone=zone, now=now, most=MAX_ROWS)
            rows = [{**dict(row), "review": standing(dict(row), now)} for row in found]
            columns: tuple[str, ...] = (
                "username", "full_name", "role", "own_role", "is_active", "groups", "providers", "api_keys",
                "last_used_at", "created_at", "review", "reviewed_by", "reviewed_at", "due_at", "note",
            )  # fmt: skip
            return Report(name, zone, now, columns, rows, sum(row["review"] != "keep" for row in rows))
    found = await tx.all(
        _FAILED, zone=zone, code=codes.AUTH_LOGIN_FAILURE.code, since=now - timedelta(days=days), most=MAX_ROWS
    )
    locked = await tx.all(
        "SELECT username, locked_until FROM login_failures WHERE zone = :zone AND locked_until > :now",
        zone=zone,
        now=now,
    )
    until = {row["username"]: row["locked_until"] for row in locked}
    rows = [{**row, "locked_until": until.get(row["username"])} for row in found]
    columns = ("username", "ip", "method", "reason", "failures", "first_at", "last_at", "locked_until")
    return Report(name, zone, now, columns, rows, sum(row["locked_until"] is not None for row in rows))


class Reports:
    """Makes reports, and keeps what reviewers said of people's access."""

    def __init__(self, database: Database, clock: Clock, recorder: Recorder, people: People) -> None:
        self._database = database
        self._clock = clock
        self._recorder = recorder
        self._people = people

    async def make(self, context: Context, name: Name, *, days: int = 7) -> Report:
        """A report, and the event that tells of the look at the evidence where it is made of that."""
        async with self._database.begin() as tx:
            report = await make(tx, name, context.zone, self._clock.now(), days=days)
            if name == "failed-logins":
                await self._recorder.record(
                    tx,
                    codes.AUDIT_READ,
                    "success",
                    context,
                    subject=Subject(id=context.zone, type="audit"),
                    query="failed sign-ins",
                    returned=len(report.rows),
                )
        return report

    async def review(
        self, context: Context, username: str, verdict: Literal["keep", "remove"], *, note: str = "", days: int = 90
    ) -> datetime:
        """Keep what a reviewer says of a person's access; answers when it must be looked at again.

        Nobody's access changes by it. Raises ``NotFound``, and ``own_access`` where reviewer and reviewed are one
        person, by whatever accounts.
        """
        now = self._clock.now()
        due = now + timedelta(days=days)
        async with self._database.begin() as tx:
            await require_active(tx, context.zone)
            if not await tx.value(
                "SELECT 1 FROM users WHERE zone = :zone AND username = :u FOR SHARE", zone=context.zone, u=username
            ):
                raise NotFound(f"There is no user {username}.")
            by = context.actor.user
            if by.casefold() == username.casefold() or await self._people.related(
                tx, context.zone, by, [username], None
            ):
                raise Denied("Another administrator reviews this access; invite one.", reason="own_access")
            await tx.run(
                "INSERT INTO access_reviews (zone, username, verdict, reviewed_by, note, reviewed_at, due_at)"
                " VALUES (:zone, :username, :verdict, :by, :note, :now, :due) ON CONFLICT (zone, username) DO UPDATE"
                " SET verdict = excluded.verdict, reviewed_by = excluded.reviewed_by, note = excluded.note,"
                " reviewed_at = excluded.reviewed_at, due_at = excluded.due_at",
                zone=context.zone,
                username=username,
                verdict=verdict,
                by=by,
                note=note,
                now=now,
                due=due,
            )
            await self._recorder.record(
                tx,
                codes.ACCESS_REVIEWED,
                "success",
                context,
                subject=Subject(id=username, type="user"),
                verdict=verdict,
                due=due.isoformat(),
            )
        return due
