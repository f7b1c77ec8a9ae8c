"""Looks at our own: ledger, spools, outbox, SIEM, feed, jobs, archive, database, schema, keys, certificates.

Figures of processes are read from the files that they share (``kernel/metrics.py``), history from the database. What
nobody has told is nothing to judge by, and so never green.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509

from bailiwick.assurance.probes.means import Asked, Internal
from bailiwick.assurance.probes.reading import Found, LookFailed
from bailiwick.assurance.thresholds import Unit
from bailiwick.evidence.sweep import NEWEST_JOB
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import Unavailable
from bailiwick.kernel.jobs import awaits_first_run

Figures = Callable[[], Mapping[str, Sequence[float]]]
"""The samples of every metric of this machine's processes, by the name of the sample."""

SchemaPending = Callable[[], Sequence[str]]
"""The migrations that have not been run."""


Began = Callable[[], float | None]
"""When the processes of this machine were started, in seconds since the epoch; None where nobody supervises them."""

FIRST_TOLD_S = 30.0
"""How long after that their figures may be missing: as long as a worker may be behind."""


def internals(
    database: Database,
    clock: Clock,
    figures: Figures,
    pending: SchemaPending,
    certificate: Path | None,
    began: Began = lambda: None,
) -> dict[str, Internal]:
    """Every look there is, by the name that documents use."""
    ours = _Ours(database, clock, figures, pending, certificate, began)
    return {
        "database": ours.database,
        "schema": ours.schema,
        "ledger_verified_age": ours.ledger_verified_age,
        "ledger_intact": ours.ledger_intact,
        "sequencer_lag": ours.worst_of("bailiwick_ledger_lag_seconds", Unit.SECONDS),
        "ledger_backlog": ours.worst_of("bailiwick_ledger_backlog_bytes", Unit.BYTES),
        "ledger_backlog_age": ours.worst_of("bailiwick_ledger_backlog_age_seconds", Unit.SECONDS),
        "dead_letters": ours.worst_of("bailiwick_ledger_dead_letters", Unit.COUNT),
        "outbox_age": ours.outbox_age,
        "siem_lag": ours.siem_lag,
        "feed_age": ours.feed_age,
        "job_age": ours.job_age,
        "archive_proven": ours.archive_proven,
        "backup_age": ours.backup_age,
        "backup_count": ours.backup_count,
        "backup_log_age": ours.backup_log_age,
        "restore_test_age": ours.restore_test_age,
        "signing_key_age": ours.signing_key_age,
        "certificate": ours.certificate,
        "disk_free": ours.worst_of("bailiwick_disk_free_ratio", Unit.RATIO, least=True),
        "database_cache_hit": ours.worst_of("bailiwick_database_cache_hit_ratio", Unit.RATIO, least=True),
        "database_connections": ours.database_connections,
        "cpu_used": ours.worst_of("bailiwick_cpu_used_ratio", Unit.RATIO),
        "memory_used": ours.worst_of("bailiwick_memory_used_ratio", Unit.RATIO),
        "metric": ours.metric,
    }


async def backup_days(tx: Transaction, until: datetime) -> int | None:
    """On how many of the seven days before ``until`` a backup was finished that was still kept then.

    None where the first was not made seven days before. A day may be an hour longer than others: backups do not take
    the same time every night.
    """
    row = await tx.one(
        "SELECT count(DISTINCT ceil(extract(epoch FROM cast(:until AS timestamptz) - finished_at) / 90000))"
        "  FILTER (WHERE finished_at > :week) AS days, min(finished_at) AS first FROM backups"
        " WHERE finished_at <= :until AND (state = 'complete' OR state = 'expired' AND expired_at > :until)",
        until=until,
        week=until - 7 * timedelta(hours=25),
    )
    if row is None or row["first"] is None or row["first"] > until - timedelta(days=6, hours=12):
        return None
    return int(row["days"])


class _Ours:
    def __init__(
        self,
        database: Database,
        clock: Clock,
        figures: Figures,
        pending: SchemaPending,
        certificate: Path | None,
        began: Began,
    ) -> None:
        self._database = database
        self._clock = clock
        self._figures = figures
        self._pending = pending
        self._certificate = certificate
        self._began = began

    async def database(self, asked: Asked, argument: str) -> Found:
        """Whether it answers."""
        try:
            async with asyncio.timeout(asked.timeout_s), self._database.begin() as tx:
                await tx.value("SELECT 1")
        except (Unavailable, TimeoutError):
            return Found(wrong="the database does not answer")
        return Found(holds=True, detail="it answers")

    async def schema(self, asked: Asked, argument: str) -> Found:
        """How many migrations are pending."""
        try:
            async with asyncio.timeout(asked.timeout_s):
                pending = await asyncio.to_thread(self._pending)
        except TimeoutError:
            raise LookFailed("the database did not tell its schema in time") from None
        told = ", ".join(pending)
        return Found(
            float(len(pending)), Unit.COUNT, "at head", holds=not pending, wrong=f"pending: {told}" if told else ""
        )

    async def ledger_verified_age(self, asked: Asked, argument: str) -> Found:
        """How long ago the newest events were last verified."""
        return await self._since_success("verify-newest-events")

    async def ledger_intact(self, asked: Asked, argument: str) -> Found:
        """Whether the last verification of the newest events found nothing."""
        async with self._database.begin() as tx:
            rows = await tx.all(
                "SELECT DISTINCT ON (job) CAST(detail ->> 'findings' AS int) AS findings FROM job_occurrences"
                " WHERE job IN ('verify-newest-events', 'verify-whole-ledger') AND state = 'succeeded'"
                " ORDER BY job, finished_at DESC"
            )
            early = not rows and await awaits_first_run(tx, NEWEST_JOB, self._clock.now())
        if not rows or any(row["findings"] is None for row in rows):
            return Found(absent="the ledger was not verified yet", unit=Unit.COUNT, early=early)
        findings = sum(row["findings"] for row in rows)
        return Found(float(findings), Unit.COUNT, f"{findings} findings", holds=findings == 0)

    async def outbox_age(self, asked: Asked, argument: str) -> Found:
        """Age of the oldest event that waits in the outbox; 0 where none does."""
        # the database's clock dates them, so it tells their age
        sql = "SELECT cast(:now AS timestamptz) - (clock_timestamp() - min(at)) FROM outbox"
        return await self._age_of(sql, empty=0.0, now=asked.now)

    async def siem_lag(self, asked: Asked, argument: str) -> Found:
        """Age of the oldest event that a sink has not taken."""
        async with self._database.begin() as tx:
            sinks = await tx.value("SELECT count(*) FROM siem_sinks WHERE enabled")
        if not sinks:
            return Found(absent="no sink is configured", unit=Unit.SECONDS)
        return await self.worst_of("bailiwick_siem_lag_seconds", Unit.SECONDS)(asked, argument)

    async def feed_age(self, asked: Asked, argument: str) -> Found:
        """How far the least fresh worker is behind the revocations."""
        found = await self._samples("bailiwick_feed_fresh_timestamp_seconds")
        fresh = [value for value in found if value > 0]
        if not fresh:
            return Found(absent="no worker has told", unit=Unit.SECONDS, early=self._just_begun())
        # the files hold the machine's own time, whatever clock the installation goes by
        return Found(max(0.0, time.time() - min(fresh)), Unit.SECONDS, f"{len(fresh)} processes")

    async def job_age(self, asked: Asked, argument: str) -> Found:
        """How long ago a job last succeeded."""
        return await self._since_success(argument)

    async def archive_proven(self, asked: Asked, argument: str) -> Found:
        """Whether the last proof of the archive held in every zone."""
        async with self._database.begin() as tx:
            row = await tx.one(
                "SELECT state, detail FROM job_occurrences WHERE job = 'verify-archive'"
                " AND state IN ('succeeded', 'failed') ORDER BY finished_at DESC LIMIT 1"
            )
        if row is None:
            return Found(absent="the archive was not proven yet")
        if row["state"] == "failed":
            raise LookFailed("the last proof of the archive failed")
        bad = sorted(
            zone for zone, each in row["detail"].items() if isinstance(each, dict) and each["verdict"] == "FAIL"
        )
        return Found(holds=not bad, detail="every zone", wrong=f"it does not hold in {', '.join(bad)}" if bad else "")

    async def backup_age(self, asked: Asked, argument: str) -> Found:
        """Age of the newest complete backup that is still kept."""
        return await self._age_of("SELECT max(finished_at) FROM backups WHERE state = 'complete'")

    async def backup_count(self, asked: Asked, argument: str) -> Found:
        """On how many of the last seven days a backup was finished that is still kept."""
        async with self._database.begin() as tx:
            days = await backup_days(tx, asked.now)
        if days is None:
            return Found(absent="the first backup was not made seven days ago", unit=Unit.COUNT)
        return Found(float(days), Unit.COUNT, f"{days} of the last seven days")

    async def backup_log_age(self, asked: Asked, argument: str) -> Found:
        """How long ago what is in the store of backups was all there was."""
        return await self._age_of("SELECT max(covered_until) FROM backup_log")

    async def restore_test_age(self, asked: Asked, argument: str) -> Found:
        """How long ago a restore was last drilled and passed."""
        return await self._age_of(
            "SELECT max(finished_at) FROM backup_drills WHERE kind = 'restore' AND verdict = 'PASS'"
        )

    async def signing_key_age(self, asked: Asked, argument: str) -> Found:
        """Age of the oldest key that signs now."""
        return await self._age_of(
            "SELECT min(created_at) FROM zone_keys WHERE state = 'active' AND purpose IN ('mandate', 'session')"
        )

    async def certificate(self, asked: Asked, argument: str) -> Found:
        """Days until the certificate of our own listeners ends."""
        if self._certificate is None:
            return Found(absent="the listeners have no certificate", unit=Unit.DAYS)
        try:
            chain = x509.load_pem_x509_certificates(self._certificate.read_bytes())
        except (OSError, ValueError) as error:
            raise LookFailed(f"the certificate cannot be read: {error}") from None
        ends = min(each.not_valid_after_utc for each in chain)
        return Found((ends - asked.now) / timedelta(days=1), Unit.DAYS, f"ends {ends:%Y-%m-%d}")

    async def database_connections(self, asked: Asked, argument: str) -> Found:
        """Connections in use, of those allowed."""
        used = await self._samples("bailiwick_database_connections")
        allowed = await self._samples("bailiwick_database_connections_max")
        if not used or not allowed or max(allowed) <= 0:
            return Found(absent="nobody has told", unit=Unit.RATIO, early=self._just_begun())
        return Found(max(used) / max(allowed), Unit.RATIO, f"{max(used):g} of {max(allowed):g}")

    async def metric(self, asked: Asked, argument: str) -> Found:
        """The largest sample of one of our metrics."""
        return await self.worst_of(argument, Unit.NONE)(asked, argument)

    def worst_of(self, sample: str, unit: Unit, *, least: bool = False) -> Internal:
        """A look at the largest (``least``: the smallest) of a figure's samples."""

        async def look(asked: Asked, argument: str) -> Found:
            values = await self._samples(sample)
            if not values:
                return Found(absent=f"nobody has told {sample}", unit=unit, early=self._just_begun())
            return Found((min if least else max)(values), unit, f"{sample} of {len(values)}")

        return look

    async def _samples(self, name: str) -> Sequence[float]:
        try:
            return (await asyncio.to_thread(self._figures)).get(name, ())
        except (OSError, ValueError) as error:
            raise LookFailed(f"the figures cannot be read: {error}") from None

    async def _since_success(self, job: str) -> Found:
        async with self._database.begin() as tx:
            at = await tx.value(
                "SELECT max(finished_at) FROM job_occurrences WHERE job = :job AND state = 'succeeded'", job=job
            )
            early = at is None and await awaits_first_run(tx, job, self._clock.now())
        return replace(self._age(at, f"the job {job} never succeeded"), early=early)

    def _just_begun(self) -> bool:
        """Whether the processes of this machine have only begun, so that what they tell need not be there yet."""
        began = self._began()
        return began is not None and 0 <= time.time() - began < FIRST_TOLD_S

    async def _age_of(self, sql: str, empty: float | None = None, **values: Any) -> Found:
        async with self._database.begin() as tx:
            at = await tx.value(sql, **values)
        if at is None and empty is not None:
            return Found(empty, Unit.SECONDS, "nothing waits")
        return self._age(at, "there is none")

    def _age(self, at: datetime | None, otherwise: str) -> Found:
        if at is None:
            return Found(absent=otherwise, unit=Unit.SECONDS)
        return Found(max(0.0, (self._clock.now() - at).total_seconds()), Unit.SECONDS, f"since {at:%Y-%m-%d %H:%M:%S}")
