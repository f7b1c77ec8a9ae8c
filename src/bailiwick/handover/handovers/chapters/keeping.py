"""What is kept: the archive, the ledger, snapshots of Redis; and what compliance asks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from bailiwick.assurance.books import Books
from bailiwick.evidence.archive.lives import Lives
from bailiwick.handover.handovers.chapters.look import INSTALLATION_ZONE, Look, cut, fails, judged
from bailiwick.handover.incidents.documents import RUNBOOK
from bailiwick.handover.ports import Statement
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.verdicts import Verdict

HEAD_AGE = timedelta(minutes=65)
REDIS_AGE = timedelta(hours=24)
TAMPER = "AuditTamperDetected"


class Storage:
    """Proofs of storage beside those of backups: that the archive and the ledger hold.

    ``with_redis``: whether this installation has one, whose snapshots are then kept as well.
    """

    def __init__(self, *, with_redis: bool) -> None:
        self._with_redis = with_redis

    async def __call__(
        self, tx: Transaction, zone: str, environment: str, since: datetime, until: datetime
    ) -> Sequence[Statement]:
        """The chapter."""
        look = Look(tx, zone, environment, since, until)
        found = [await self._head(look), await self._letters(look), await self._retention(look)]
        if zone != INSTALLATION_ZONE:
            return found
        found += [
            await look.ran(
                "ledger-newest", "the newest events were verified", "verify-newest-events", timedelta(hours=1)
            ),
            await look.ran("ledger-whole", "the whole ledger was verified", "verify-whole-ledger", timedelta(hours=36)),
            await look.ran("archive", "evidence was sealed into the archive", "seal-archive", timedelta(hours=26)),
        ]
        return [*found, await self._redis(look)] if self._with_redis else found

    async def _head(self, look: Look) -> Statement:
        row = await look.tx.one(
            "SELECT size, at FROM ledger.heads WHERE zone = :zone AND at <= :until ORDER BY size DESC, at DESC LIMIT 1",
            zone=look.zone,
            until=look.until,
        )
        if row is None:
            return look.says("ledger-head", "nothing is signed yet", Verdict.NO_DATA)
        stale = look.until - row["at"] > HEAD_AGE
        told = f"{row['size']:,} events under a head of {row['at']:%Y-%m-%d %H:%M} UTC"
        return look.says("ledger-head", told, Verdict.STALE if stale else Verdict.PASS, dict(row))

    async def _letters(self, look: Look) -> Statement:
        waiting = await look.tx.value(
            "SELECT count(*) FROM ledger.dead_letters d LEFT JOIN ledger.replays r ON r.dead_letter = d.id"
            " WHERE d.zone = :zone AND r.at IS NULL",
            zone=look.zone,
        )
        # the database's clock dates them, so it tells their age
        outbox = await look.tx.value(
            "SELECT count(*) FROM outbox WHERE zone = :zone AND at < clock_timestamp() - interval '10 minutes'",
            zone=look.zone,
        )
        told = f"{waiting} dead letters, {outbox} events on their way for more than ten minutes"
        figures = {"dead_letters": waiting, "late_in_outbox": outbox}
        return look.says("evidence-flow", told, fails(bool(waiting or outbox)), figures)

    async def _retention(self, look: Look) -> Statement:
        row = await look.tx.one(
            "SELECT seal_days, hot_days, local_days, archive_days FROM ledger.archive_lives WHERE zone = :zone",
            zone=look.zone,
        )
        usual = Lives()
        lives = dict(row) if row is not None else {
            "seal_days": usual.seal_days, "hot_days": usual.hot_days, "local_days": usual.local_days,
            "archive_days": usual.archive_days,
        }  # fmt: skip
        told = f"{lives['hot_days']} days in the database, {lives['archive_days']} in the archive"
        return look.says("retention", told, Verdict.PASS, lives)

    async def _redis(self, look: Look) -> Statement:
        """The newest snapshot of Redis that the ledger knows of."""
        at = await look.tx.value(
            "SELECT max(at) FROM ledger.events WHERE zone = :zone AND code = 'BW8001' AND at >= :since"
            " AND position(convert_to('redis/', 'UTF8') IN rest) > 0",
            zone=look.zone,
            since=look.until - timedelta(days=7),
        )
        if at is None:
            return look.says("redis-snapshot", "no snapshot of Redis in a week", Verdict.NO_DATA)
        stale = look.until - at > REDIS_AGE
        told = f"newest of {at:%Y-%m-%d %H:%M} UTC"
        return look.says("redis-snapshot", told, Verdict.STALE if stale else Verdict.PASS, {"at": at})


class Compliance:
    """How evidence is taken out, where it is sent, how long it is kept, and what is done when it was tampered with."""

    def __init__(self, books: Books) -> None:
        self._books = books

    async def __call__(
        self, tx: Transaction, zone: str, environment: str, since: datetime, until: datetime
    ) -> Sequence[Statement]:
        """The chapter."""
        look = Look(tx, zone, environment, since, until)
        found = [await self._exports(look), await self._tamper(look), await self._holds(look)]
        return [*found, *await self._sinks(look)]

    async def _exports(self, look: Look) -> Statement:
        rows = await look.tx.all(
            "SELECT request_id::text AS request, at FROM audit_exports WHERE zone = :zone AND at >= :since"
            " AND at <= :until ORDER BY at DESC LIMIT 20",
            zone=look.zone,
            since=look.since,
            until=look.until,
        )
        told = f"GET /api/v1/audit/export and `bailiwick audit export`; {len(rows)} exports in the window"
        return look.says("audit-export", told, Verdict.PASS, cut([dict(row) for row in rows]))

    async def _tamper(self, look: Look) -> Statement:
        """The plan for tampered evidence is a runbook that its alert leads to."""
        runbooks = (await self._books.current(look.tx, look.zone)).of(RUNBOOK)
        names = [name for name, each in runbooks.items() if TAMPER in each.alerts]
        told = f"runbook {', '.join(names)} answers {TAMPER}" if names else f"no runbook answers {TAMPER}"
        return look.says("tamper-response", told, fails(not names), {"runbooks": names})

    async def _holds(self, look: Look) -> Statement:
        rows = await look.tx.all(
            "SELECT id, since, until, reason FROM ledger.holds WHERE zone = :zone AND released_at IS NULL ORDER BY id",
            zone=look.zone,
        )
        told = f"{len(rows)} holds keep evidence past its life"
        return look.says("holds", told, Verdict.PASS, cut([dict(row) for row in rows]))

    async def _sinks(self, look: Look) -> list[Statement]:
        """One statement a sink; where none is set up nothing is said."""
        rows = await look.tx.all(
            "SELECT s.name, s.kind, s.enabled, c.delivered, t.delivered_at, t.breaker, t.last_error,"
            " (SELECT count(*) FROM siem_dead_letters d WHERE d.sink = s.id AND d.delivered_at IS NULL) AS dead"
            " FROM siem_sinks s LEFT JOIN siem_cursors c ON c.sink = s.id AND c.zone = s.zone"
            " LEFT JOIN siem_state t ON t.sink = s.id WHERE s.zone = :zone AND s.enabled ORDER BY s.name",
            zone=look.zone,
        )
        found = []
        for row in rows:
            bad = bool(row["dead"]) or row["breaker"] == "open"
            told = f"{row['kind']}: {row['delivered'] or 0:,} events delivered, {row['dead']} dead letters"
            verdict = judged(not bad, there=bad or bool(row["delivered"]))
            found.append(look.says(f"sink-{row['name']}", told, verdict, dict(row)))
        return found
