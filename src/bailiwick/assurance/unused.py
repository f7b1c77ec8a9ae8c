"""Accounts that may change things, and API keys, that nobody used: listed on the 15th, kept by a person or disabled.

Disabling is reversible and leaves its event; the last administrator who can sign in stays, and that is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Protocol

from bailiwick.assurance.ports import Notice, Notices, Task, Tasks
from bailiwick.evidence import codes
from bailiwick.evidence.codes import EventType
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.kernel import feed
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import BailiwickError, Conflict, NotFound
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.machine import Machine
from bailiwick.kernel.quorum import Approval

IDLE = timedelta(days=30)
GRACE = timedelta(days=7)
MACHINE = Machine(
    "unused review",
    {"listed": ("kept", "disabled", "refused"), "kept": (), "disabled": ("restored",), "restored": (), "refused": ()},
)


class Accounts(Protocol):
    """Disables and enables people (:class:`~bailiwick.identity.users.Users`)."""

    async def change(self, context: Context, username: str, patch: Mapping[str, Any]) -> Any:
        """Change members of the account."""
        ...


class UnusedReview:
    """Lists, disables and restores."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        ids: Ids,
        recorder: Recorder,
        accounts: Accounts,
        notices: Notices,
        tasks: Tasks,
    ) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._accounts = accounts
        self._notices = notices
        self._tasks = tasks

    async def list_unused(self, due: datetime) -> dict[str, Any]:
        """List what was not used for longer than :data:`IDLE`, and have somebody look at it."""
        now = self._clock.now()
        counts: dict[str, int] = {}
        async with self._database.begin() as tx:
            rows = await tx.all(_UNUSED, before=now - IDLE)
            for row in rows:
                added = await tx.run(
                    "INSERT INTO unused_reviews (id, zone, kind, name, owner, idle_days, listed_at, disable_at, state)"
                    " VALUES (:id, :zone, :kind, :name, :owner, :idle, :now, :until, 'listed') ON CONFLICT DO NOTHING",
                    id=self._ids(),
                    zone=row["zone"],
                    kind=row["kind"],
                    name=row["name"],
                    owner=row["owner"],
                    idle=(now - row["used_at"]).days,
                    now=now,
                    until=now + GRACE,
                )
                if added:
                    counts[row["zone"]] = counts.get(row["zone"], 0) + 1
                    await self._tell(tx, row, now)
            for zone, count in counts.items():
                task = Task(
                    f"unused/{now:%Y-%m}", f"Review {count} unused accounts and keys", "access-control", now + GRACE
                )
                await self._tasks.open(tx, Context(zone), task)
        return {"listed": sum(counts.values())}

    async def disable_due(self, due: datetime) -> dict[str, Any]:
        """Disable what nobody kept within the grace and nobody used since; what the rules forbid is told."""
        now = self._clock.now()
        done: dict[str, Any] = {"disabled": 0, "used_since": 0, "refused": {}}
        async with self._database.begin() as tx:
            rows = await tx.all(
                "SELECT * FROM unused_reviews WHERE state = 'listed' AND disable_at <= :now ORDER BY id", now=now
            )
        for row in rows:
            context = Context(row["zone"])
            if not await self._still_unused(row):
                await self._decide(context, row, "kept", "bailiwick", "used since", codes.UNUSED_KEPT)
                done["used_since"] += 1
                continue
            try:
                await self._disable(context, row)
            except BailiwickError as error:
                await self._decide(context, row, "refused", "bailiwick", error.detail, codes.UNUSED_REFUSED)
                done["refused"][row["name"]] = error.detail
                continue
            await self._decide(context, row, "disabled", "bailiwick", "unused and not reviewed", codes.UNUSED_DISABLED)
            done["disabled"] += 1
        return done

    async def keep(self, context: Context, identifier: str, by: str, note: str) -> dict[str, Any]:
        """A person says that it is needed. Raises ``conflict`` for his own."""
        row = await self._get(context.zone, identifier)
        MACHINE.require(row["state"], "kept")
        if row["owner"] == by:
            raise Conflict("Nobody keeps his own.")
        return await self._decide(context, row, "kept", by, note, codes.UNUSED_KEPT)

    async def restore(self, context: Context, identifier: str, by: str, note: str) -> dict[str, Any] | Approval:
        """Enable again what was disabled here; for an account that takes two, the approval that is waited for."""
        row = await self._get(context.zone, identifier)
        MACHINE.require(row["state"], "restored")
        if row["kind"] == "account":
            enabled = await self._accounts.change(context, row["name"], {"is_active": True})
            if isinstance(enabled, Approval):
                return enabled
        else:
            await self._key(context, row["name"], None)
        return await self._decide(context, row, "restored", by, note, codes.UNUSED_RESTORED)

    async def list(self, tx: Transaction, zone: str, limit: int = 500) -> list[dict[str, Any]]:
        """Newest first."""
        rows = await tx.all(
            "SELECT * FROM unused_reviews WHERE zone = :zone ORDER BY id DESC LIMIT :limit", zone=zone, limit=limit
        )
        return [dict(row) for row in rows]

    async def _still_unused(self, row: Row) -> bool:
        async with self._database.begin() as tx:
            found = await tx.all(_UNUSED, before=self._clock.now() - IDLE)
        return any(
            (each["zone"], each["kind"], each["name"]) == (row["zone"], row["kind"], row["name"]) for each in found
        )

    async def _disable(self, context: Context, row: Row) -> None:
        if row["kind"] == "account":
            await self._accounts.change(context, row["name"], {"is_active": False})
        else:
            await self._key(context, row["name"], self._clock.now())

    async def _key(self, context: Context, name: str, ended: datetime | None) -> None:
        async with self._database.begin() as tx:
            changed = await tx.run(
                "UPDATE api_keys SET ended_at = :ended WHERE zone = :zone AND id = :id",
                ended=ended,
                zone=context.zone,
                id=name,
            )
            if not changed:
                raise NotFound("There is no such key any more.")
            await feed.announce(tx, context.zone, "api_key", name)

    async def _decide(
        self, context: Context, row: Row, state: str, by: str, note: str, event: EventType
    ) -> dict[str, Any]:
        async with self._database.begin() as tx:
            await tx.run(
                "UPDATE unused_reviews SET state = :state, decided_by = :by, decided_at = :now, note = :note"
                " WHERE id = :id AND state = :before",
                state=state,
                by=by,
                now=self._clock.now(),
                note=note[:500],
                id=row["id"],
                before=row["state"],
            )
            await self._recorder.record(
                tx,
                event,
                "success",
                context,
                subject=Subject(id=row["name"], type="user" if row["kind"] == "account" else "api-key"),
                kind=row["kind"],
                owner=row["owner"],
                idle_days=row["idle_days"],
            )
        return dict(await self._get(context.zone, row["id"]))

    async def _get(self, zone: str, identifier: str) -> Row:
        async with self._database.begin() as tx:
            row = await tx.one("SELECT * FROM unused_reviews WHERE zone = :z AND id = :id", z=zone, id=identifier)
        if row is None:
            raise NotFound("There is no such review.")
        return row

    async def _tell(self, tx: Transaction, row: Row, now: datetime) -> None:
        subject = f"{row['kind']} {row['name']} was not used for {(now - row['used_at']).days} days"
        body = f"It is disabled on {now + GRACE:%Y-%m-%d} unless it is used, or somebody else says that it is needed."
        key = f"unused/{row['kind']}/{row['name']}/{now:%Y-%m}"
        await self._notices.send(tx, row["zone"], Notice(f"person:{row['owner']}", key, subject[:200], body))


# accounts that can change something, and keys that are good; those nobody ever used since they were made
_UNUSED = """
SELECT * FROM (
  SELECT u.zone, 'account' AS kind, u.username AS name, u.username AS owner,
    greatest(coalesce(u.last_login_at, u.created_at),
      (SELECT max(k.last_used_at) FROM api_keys k WHERE k.zone = u.zone AND k.username = u.username),
      (SELECT max(r.decided_at) FROM unused_reviews r WHERE r.zone = u.zone AND r.kind = 'account'
        AND r.name = u.username AND r.state IN ('kept', 'restored'))) AS used_at
  FROM users u WHERE u.is_active AND u.role NOT IN ('viewer', 'none')
  UNION ALL
  SELECT k.zone, 'api-key', k.id, k.username,
    greatest(coalesce(k.last_used_at, k.created_at),
      (SELECT max(r.decided_at) FROM unused_reviews r WHERE r.zone = k.zone AND r.kind = 'api-key'
        AND r.name = k.id AND r.state IN ('kept', 'restored')))
  FROM api_keys k WHERE k.ended_at IS NULL
) each WHERE used_at < :before ORDER BY zone, kind, name
"""
