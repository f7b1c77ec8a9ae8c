"""Ownership and access: who answers, who is called, who may what, and what is done with broken glass."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import get_args

from bailiwick.assurance.books import Books
from bailiwick.assurance.owners.activities import ACTIVITY
from bailiwick.assurance.ports import Level, OnCall, Owners
from bailiwick.handover.handovers.chapters.look import Look, cut, fails
from bailiwick.handover.ports import Statement
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.permissions import OWNER_ROLES

SERVICE = "uptime"
LEVELS: tuple[Level, ...] = get_args(Level)


class Ownership:
    """Service owner, security owner, on-call rotation, escalation path, and who answers for everything else."""

    def __init__(self, books: Books, owners: Owners, on_call: OnCall) -> None:
        self._books = books
        self._owners = owners
        self._on_call = on_call

    async def __call__(
        self, tx: Transaction, zone: str, environment: str, since: datetime, until: datetime
    ) -> Sequence[Statement]:
        """The chapter."""
        look = Look(tx, zone, environment, since, until)
        service = await self._owners.accountable(tx, zone, SERVICE, until)
        security = await self._owners.holders(tx, zone, "security_owner", until)
        planes = {str(role): [each.username for each in await self._owners.holders(tx, zone, str(role), until)]
                  for role in OWNER_ROLES}  # fmt: skip
        empty = [role for role, held in planes.items() if not held]
        named = security[0].username if security else "nobody"
        return [
            look.says(
                "service-owner",
                f"{service.full_name or service.username} answers for the service" if service else "nobody does",
                fails(service is None),
                {"activity": SERVICE, "person": service.username if service else ""},
            ),
            look.says(
                "security-owner",
                f"{named} owns security",
                fails(not security),
                {"people": [each.username for each in security]},
            ),
            look.says(
                "planes",
                f"{', '.join(empty)} is held by nobody" if empty else "all four planes have an owner",
                fails(bool(empty)),
                {"rows": [{"role": role, "people": held} for role, held in planes.items()]},
            ),
            await self._rotation(look),
            await self._path(look),
            await self._activities(look),
        ]

    async def _rotation(self, look: Look) -> Statement:
        primary = await self._on_call.on_call(look.tx, look.zone, "primary", look.until)
        secondary = await self._on_call.on_call(look.tx, look.zone, "secondary", look.until)
        first, second = (person.username if person else "" for person in (primary, secondary))
        return look.says(
            "on-call",
            f"{first or 'nobody'} is on call, {second or 'nobody'} after",
            fails(not first or not second),
            {"primary": first, "secondary": second},
        )

    async def _path(self, look: Look) -> Statement:
        """The escalation path of alerts, step by step, as it would be gone now."""
        found = {level: await self._on_call.on_call(look.tx, look.zone, level, look.until) for level in LEVELS}
        rows = [{"level": level, "person": person.username if person else ""} for level, person in found.items()]
        missing = [str(row["level"]) for row in rows if not row["person"]]
        told = f"nobody is {', '.join(missing)}" if missing else "every level of escalation has somebody"
        return look.says("escalation-path", told, fails(bool(missing)), {"rows": rows})

    async def _activities(self, look: Look) -> Statement:
        activities = (await self._books.current(look.tx, look.zone)).of(ACTIVITY)
        rows = []
        for name, activity in activities.items():
            person = await self._owners.accountable(look.tx, look.zone, name, look.until)
            rows.append(
                {
                    "activity": name,
                    "accountable": activity.accountable,
                    "person": person.username if person else "",
                    "responsible": activity.responsible,
                }
            )
        unowned = [str(row["activity"]) for row in rows if not row["person"]]
        told = f"nobody answers for {', '.join(unowned[:5])}" if unowned else f"{len(rows)} activities have somebody"
        return look.says("raci", told, fails(bool(unowned) or not rows), cut(rows))


class Access:
    """Who may what, how administrators prove themselves, keys for programs, audit access, and broken glass."""

    async def __call__(
        self, tx: Transaction, zone: str, environment: str, since: datetime, until: datetime
    ) -> Sequence[Statement]:
        """The chapter."""
        look = Look(tx, zone, environment, since, until)
        return [
            await self._roles(look),
            await self._administrators(look),
            await self._keys(look),
            await self._auditors(look),
            await self._broken_glass(look),
        ]

    async def _roles(self, look: Look) -> Statement:
        rows = await look.tx.all(
            "SELECT r AS role, count(*) AS accounts FROM users u, LATERAL (SELECT DISTINCT unnest(ARRAY[u.role] ||"
            " u.owns) AS r) x WHERE u.zone = :zone AND u.is_active AND r <> 'none' GROUP BY r ORDER BY r",
            zone=look.zone,
        )
        counted = {row["role"]: row["accounts"] for row in rows}
        alone = counted.get("admin", 0) < 2
        told = (
            "fewer than two administrators: nothing that takes two can be done" if alone else "each role by its count"
        )
        return look.says("roles", told, fails(alone), {"rows": [dict(row) for row in rows]})

    async def _administrators(self, look: Look) -> Statement:
        rows = await look.tx.all(
            "SELECT u.username, array(SELECT DISTINCT f.kind FROM factors f WHERE f.zone = u.zone AND f.username ="
            " u.username AND f.confirmed_at IS NOT NULL AND f.disabled_at IS NULL ORDER BY 1) AS factors,"
            " u.last_login_at FROM users u WHERE u.zone = :zone AND u.is_active AND u.role = 'admin' ORDER BY 1",
            zone=look.zone,
        )
        bare = [row["username"] for row in rows if not row["factors"]]
        told = f"without a second factor: {', '.join(bare)}" if bare else "every administrator has a second factor"
        return look.says("administrators", told, fails(bool(bare) or not rows), cut([dict(row) for row in rows]))

    async def _keys(self, look: Look) -> Statement:
        rows = await look.tx.all(
            "SELECT username AS owner, name, permissions, expires_at, last_used_at FROM api_keys WHERE zone = :zone"
            " AND is_active AND ended_at IS NULL AND expires_at > :now ORDER BY username, name",
            zone=look.zone,
            now=look.until,
        )
        gone = await look.tx.all(
            "SELECT k.name FROM api_keys k JOIN users u USING (zone, username) WHERE k.zone = :zone AND k.is_active"
            " AND k.ended_at IS NULL AND k.expires_at > :now AND NOT u.is_active",
            zone=look.zone,
            now=look.until,
        )
        told = f"{len(rows)} API keys, each with an end" + (f"; {len(gone)} of people who left" if gone else "")
        return look.says("api-keys", told, fails(bool(gone)), cut([dict(row) for row in rows]))

    async def _auditors(self, look: Look) -> Statement:
        names = await look.tx.all(
            "SELECT username FROM users WHERE zone = :zone AND is_active AND (role IN ('auditor', 'admin',"
            " 'security_owner') OR owns && '{security_owner}') ORDER BY username",
            zone=look.zone,
        )
        people = [row["username"] for row in names]
        return look.says(
            "audit-access", f"{len(people)} people can read the audit", fails(not people), {"people": people}
        )

    async def _broken_glass(self, look: Look) -> Statement:
        """What was done by broken glass in the window, and whether somebody else looked at it in time."""
        rows = await look.tx.all(
            "SELECT id, operation, target, state, requested_by, executed_at, review_due, reviewed_by FROM overrides"
            " WHERE zone = :zone AND break_glass AND requested_at >= :since AND requested_at <= :until ORDER BY id",
            zone=look.zone,
            since=look.since,
            until=look.until,
        )
        waiting = [row for row in rows if row["review_due"] is not None and row["reviewed_by"] is None]
        late = [row["id"] for row in waiting if row["review_due"] < look.until]
        told = f"{len(rows)} uses of broken glass; {len(late)} not reviewed in time"
        return look.says("break-glass", told, fails(bool(late)), cut([dict(row) for row in rows]))
