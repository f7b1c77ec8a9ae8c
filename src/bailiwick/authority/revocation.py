"""Revocation: ending authority everywhere, and knowing when it has ended.

A revocation is a row with a feed revision. It ends a mandate or a session by id, or everything that stands on an
application or a user: every token carries the revision its issuer had applied, and a token whose revision is older
than the revocation's is dead. No clock is compared, so a skewed clock neither spares nor kills anything.

:meth:`Revocations.settle` answers when every live worker has confirmed the revision or can no longer be reached by
traffic: a worker that does not confirm in time is fenced (killed through the supervisor), and one that cannot be
fenced is waited for until its own freshness limit has made it refuse.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.kernel import feed
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.http import decode_cursor, encode_cursor
from bailiwick.kernel.together import Together

Kind = Literal["mandate", "session", "application", "user"]


@dataclass(frozen=True, slots=True)
class Revocation:
    """One revocation as stored."""

    revision: int
    zone: str
    kind: str
    key: str
    reason: str
    revoked_by: str
    revoked_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Settlement:
    """How a revision reached the workers: who confirmed, who was fenced, and how long it took in milliseconds."""

    revision: int
    confirmed: tuple[str, ...]
    fenced: tuple[str, ...]
    waited_out: tuple[str, ...]
    took_ms: float


@dataclass(slots=True)
class RevokedSet:
    """What a worker remembers of the revocations in force. Entries are only ever added, then dropped once expired.

    Mandates and sessions by id; applications and users by ``(zone, key)`` to the revision that ended them.
    """

    mandates: dict[str, float] = field(default_factory=dict)
    sessions: dict[str, float] = field(default_factory=dict)
    applications: dict[tuple[str, str], int] = field(default_factory=dict)
    users: dict[tuple[str, str], int] = field(default_factory=dict)

    def add(self, revocation: Revocation) -> None:
        """Take one revocation into account.

        Raises ``ValueError`` for a kind this program does not know: the feed then ages, and the worker refuses.
        """
        end = revocation.expires_at.timestamp()
        place = (revocation.zone, revocation.key)
        match revocation.kind:
            case "mandate":
                self.mandates[revocation.key] = end
            case "session":
                self.sessions[revocation.key] = end
            case "application":
                self.applications[place] = max(revocation.revision, self.applications.get(place, 0))
            case "user":
                self.users[place] = max(revocation.revision, self.users.get(place, 0))
            case unknown:
                raise ValueError(f"a revocation of kind {unknown}")

    def covers(self, zone: str, *, jti: str, client: str, user: str, session: str, rev: int) -> bool:
        """Whether a token with these marks is revoked. Empty marks do not apply to the token."""
        return (
            jti in self.mandates
            or (session != "" and session in self.sessions)
            or (client != "" and rev < self.applications.get((zone, client), 0))
            or (user != "" and rev < self.users.get((zone, user), 0))
        )

    def drop_expired(self, now: float) -> None:
        """Forget ids whose token has run out by itself."""
        for entries in (self.mandates, self.sessions):
            for key in [key for key, end in entries.items() if end < now]:
                del entries[key]


async def load_revocations(tx: Transaction, now: datetime, revisions: Sequence[int] | None = None) -> list[Revocation]:
    """The revocations in force, or those of the given feed revisions."""
    if revisions is not None:
        rows = await tx.all("SELECT * FROM revocations WHERE revision = ANY(:revisions)", revisions=list(revisions))
    else:
        rows = await tx.all("SELECT * FROM revocations WHERE expires_at > :now", now=now)
    return [_revocation(row) for row in rows]


class Revocations:
    """Writes revocations and waits for them to hold."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        recorder: Recorder,
        *,
        longest_mandate: timedelta,
        longest_session: timedelta,
        freshness_limit_s: float,
        fence_after_s: float,
        fence: Callable[[str, str], Awaitable[bool]],
        poll_self: Callable[[], Awaitable[None]] | None = None,
        observe: Callable[[Settlement], None] = lambda settlement: None,
        count: Callable[[str], None] = lambda kind: None,
    ) -> None:
        """``fence(host, slot)`` makes sure that worker answers nothing more and tells whether it could.

        ``poll_self`` has this process take the feed in at once; ``observe`` and ``count(kind)`` feed the metrics.
        """
        self._database = database
        self._clock = clock
        self._recorder = recorder
        # a worker may still issue for a moment under the old state, so what it issued must be covered too
        margin = timedelta(seconds=2 * freshness_limit_s)
        self._life = {
            "mandate": longest_mandate + margin,
            "session": longest_session + margin,
            "application": longest_mandate + margin,
            "user": longest_session + margin,
        }
        self._freshness_limit_s = freshness_limit_s
        self._fence_after_s = fence_after_s
        self._fence = fence
        self._poll_self = poll_self
        self._observe = observe
        self._count = count
        self._waits: Together[int, None] = Together(self._wait_all, lambda revision: object(), most=1000)

    async def revoke(self, tx: Transaction, context: Context, kind: Kind, key: str, reason: str) -> int:
        """Write a revocation and its event in ``tx``; answers the feed revision. Call it last in the transaction."""
        now = self._clock.now()
        await self._recorder.record(
            tx,
            codes.AUTHORITY_REVOKED,
            "success",
            context,
            subject=Subject(id=key, type=kind),
            reason=reason,
        )
        revision = await feed.announce(tx, context.zone, "revocation", f"{kind}/{key}")
        await tx.run(
            "INSERT INTO revocations (revision, zone, kind, key, reason, revoked_by, revoked_at, expires_at)"
            " VALUES (:revision, :zone, :kind, :key, :reason, :by, :now, :expires)",
            revision=revision,
            zone=context.zone,
            kind=kind,
            key=key,
            reason=reason,
            by=context.actor.user or context.actor.application or "system",
            now=now,
            expires=now + self._life[kind],
        )
        self._count(kind)
        return revision

    async def settle(self, revision: int, context: Context) -> Settlement:
        """Wait until nothing that ``revision`` ended is accepted anywhere.

        Polls the workers' confirmations; a worker still behind after ``fence_after_s`` is fenced.
        """
        started = self._clock.monotonic()
        workers, behind = await self._wait(revision)
        fenced, unreachable = await self._fence_all(behind, revision, context)
        if unreachable:
            # their last look at the feed was before our commit, so by then they refuse by themselves
            await asyncio.sleep(max(0.0, self._freshness_limit_s - (self._clock.monotonic() - started)))
        settlement = Settlement(
            revision,
            tuple(sorted(worker["id"] for worker in workers if worker not in behind)),
            fenced,
            unreachable,
            round((self._clock.monotonic() - started) * 1000, 1),
        )
        self._observe(settlement)
        return settlement

    async def applied(self, revision: int) -> None:
        """Wait up to ``fence_after_s`` for the workers to apply ``revision``; those who wait at once look together."""
        await self._waits.ask(revision)

    async def _wait_all(self, revisions: Sequence[int]) -> Sequence[None]:
        await self._wait(max(revisions))
        return [None] * len(revisions)

    async def _wait(self, revision: int) -> tuple[Sequence[Row], Sequence[Row]]:
        """Wait up to ``fence_after_s`` for the workers to apply ``revision``; all of them, and those still behind."""
        started = self._clock.monotonic()
        if self._poll_self is not None:
            await self._poll_self()
        pause = 0.001
        while True:
            workers = await self._workers()
            behind = [worker for worker in workers if worker["revision"] < revision]
            if not behind or self._clock.monotonic() - started >= self._fence_after_s:
                return workers, behind
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.02)

    async def list(self, zone: str, cursor: str | None, limit: int) -> tuple[list[Revocation], str | None]:
        """Newest first."""
        before = decode_cursor(cursor, (int,))[0] if cursor else 2**62
        async with self._database.begin() as tx:
            rows = await tx.all(
                "SELECT * FROM revocations WHERE zone = :zone AND revision < :before"
                " ORDER BY revision DESC LIMIT :limit",
                zone=zone,
                before=before,
                limit=limit + 1,
            )
        found = [_revocation(row) for row in rows[:limit]]
        return found, encode_cursor(found[-1].revision) if len(rows) > limit else None

    async def purge_expired(self) -> int:
        """Drop rows of revocations that no living token can need."""
        async with self._database.begin() as tx:
            return await tx.run("DELETE FROM revocations WHERE expires_at < :now", now=self._clock.now())

    async def _workers(self) -> Sequence[Row]:
        async with self._database.begin() as tx:
            return await tx.all(
                "SELECT id, host, slot, revision FROM workers WHERE fenced_at IS NULL AND seen_at > :since ORDER BY id",
                since=self._clock.now() - timedelta(seconds=2 * self._freshness_limit_s),
            )

    async def _fence_all(
        self, behind: Sequence[Row], revision: int, context: Context
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        fenced, unreachable = [], []
        for worker in behind:
            if not await self._fence(worker["host"], worker["slot"]):
                unreachable.append(worker["id"])
                continue
            fenced.append(worker["id"])
            async with self._database.begin() as tx:
                await tx.run(
                    "UPDATE workers SET fenced_at = :now WHERE id = :id", now=self._clock.now(), id=worker["id"]
                )
                await self._recorder.record(
                    tx,
                    codes.WORKER_FENCED,
                    "success",
                    context,
                    subject=Subject(id=worker["id"], type="worker"),
                    behind_by=revision - worker["revision"],
                )
        return tuple(fenced), tuple(unreachable)


def _revocation(row: Row) -> Revocation:
    return Revocation(
        row["revision"],
        row["zone"],
        row["kind"],
        row["key"],
        row["reason"],
        row["revoked_by"],
        row["revoked_at"],
        row["expires_at"],
    )
