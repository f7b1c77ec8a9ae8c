"""The feed: what changed, in commit order, so that every worker's memory follows the database.

A change is a row ``(revision, zone, kind, key)`` written in the same transaction as what it announces. Revisions are
handed out under one transaction-scoped advisory lock, so they become visible in order: a reader that has seen
revision n has seen everything before it (a bare sequence would not give that).

Readers wake on NOTIFY and poll beside it. A reader knows its age: the time since the *start* of the last successful
read, on a clock that counts suspend. Beyond the freshness limit whoever relies on it refuses.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

import psycopg
import structlog

from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction, libpq_url
from bailiwick.kernel.errors import Unavailable
from bailiwick.kernel.listening import notified

CHANNEL = "bailiwick_feed"
_LOCK = 0x6261696C  # "bail": orders revisions

log = structlog.get_logger(__name__)

announced: ContextVar[list[int] | None] = ContextVar("announced", default=None)
"""Where :func:`announce` notes its revisions, for whoever wants to wait until they have taken effect."""


@dataclass(frozen=True, slots=True)
class Change:
    """One line of the feed. ``kind`` is the table or cause, ``key`` the thing that changed."""

    revision: int
    zone: str
    kind: str
    key: str


async def announce(tx: Transaction, zone: str, kind: str, *keys: str) -> int:
    """Write changes, one or more, and answer the last one's revision.

    Call it last in a transaction: it serialises writers until commit.
    """
    await tx.run("SELECT pg_advisory_xact_lock(:lock)", lock=_LOCK)
    # a statement of its own after the lock: only so does it see the revisions of those it waited for
    revision = await tx.value(
        "WITH told AS (INSERT INTO feed (revision, zone, kind, key)"
        " SELECT (SELECT coalesce(max(revision), 0) FROM feed) + place, :zone, :kind, key"
        " FROM unnest(cast(:keys AS text[])) WITH ORDINALITY AS k (key, place) RETURNING revision),"
        " newest AS (SELECT max(revision) AS revision FROM told)"
        " SELECT revision FROM newest, LATERAL (SELECT pg_notify(:channel, revision::text)) AS n",
        zone=zone,
        kind=kind,
        keys=[*keys],
        channel=CHANNEL,
    )
    note(int(revision))
    return int(revision)


def note(revision: int) -> None:
    """Have whoever asked wait for ``revision`` too, where it was announced for several at once."""
    noted = announced.get()
    if noted is not None:
        noted.append(revision)


class FeedReader:
    """Follows the feed from a revision on and hands each batch of changes to ``apply``.

    ``apply`` gets the changes in order and must have taken effect when it returns; a batch whose ``apply`` raises is
    tried again, and until it succeeds the reader ages.
    """

    def __init__(
        self,
        database: Database,
        direct_url: str,
        clock: Clock,
        apply: Callable[[Sequence[Change]], Awaitable[None]],
        *,
        poll_s: float,
    ) -> None:
        self._database = database
        self._direct_url = direct_url
        self._clock = clock
        self._apply = apply
        self._poll_s = poll_s
        self._fresh_at = float("-inf")
        self._wake = asyncio.Event()
        self._polling = asyncio.Lock()
        self.revision = 0
        self.on_applied: Callable[[int], Awaitable[None]] | None = None

    def age(self) -> float:
        """Seconds since the database was last known to hold nothing we had not applied."""
        return self._clock.monotonic() - self._fresh_at

    def start_from(self, revision: int, fresh_at: float) -> None:
        """Begin after ``revision``, which a snapshot read at monotonic instant ``fresh_at`` includes."""
        self.revision, self._fresh_at = revision, fresh_at

    async def poll(self) -> None:
        """Read and apply everything new, once. Raises :class:`Unavailable` when the database is away."""
        async with self._polling:
            started = self._clock.monotonic()
            async with self._database.begin() as tx:
                rows = await tx.all(
                    "SELECT revision, zone, kind, key FROM feed WHERE revision > :after ORDER BY revision",
                    after=self.revision,
                )
            changes = [Change(row["revision"], row["zone"], row["kind"], row["key"]) for row in rows]
            if changes:
                await self._apply(changes)
                self.revision = changes[-1].revision
                if self.on_applied is not None:
                    await self.on_applied(self.revision)
            self._fresh_at = started

    async def run(self) -> None:
        """Follow the feed until cancelled; database outages only age the reader."""
        listener = asyncio.create_task(self._listen())
        try:
            while True:
                try:
                    await self.poll()
                except Unavailable:
                    log.warning("feed unreachable", age_s=round(self.age(), 1))
                except Exception:
                    log.exception("feed change could not be applied", revision=self.revision)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), self._poll_s)
                self._wake.clear()
        finally:
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)

    async def _listen(self) -> None:
        while True:
            try:
                connection = await psycopg.AsyncConnection.connect(
                    libpq_url(self._direct_url), autocommit=True, connect_timeout=3
                )
                async with connection:
                    await connection.execute(f"LISTEN {CHANNEL}")
                    self._wake.set()  # whatever was announced while nobody listened
                    async for _ in notified(connection):
                        self._wake.set()
            except psycopg.Error:
                pass  # polling carries on; the age tells when that is not enough
            await asyncio.sleep(min(self._poll_s, 0.5))
