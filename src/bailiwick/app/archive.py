"""The archive of an installation: its services for both roles, and what the work role does with them by the clock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog

from bailiwick.app.foundations import Foundations
from bailiwick.app.quorum import quorum_of
from bailiwick.evidence import codes
from bailiwick.evidence.archive.api import SEAL_JOB, ArchiveServices
from bailiwick.evidence.archive.lives import RELEASE, Keeping
from bailiwick.evidence.archive.places import places
from bailiwick.evidence.archive.proof import ArchiveReport, verify_archive
from bailiwick.evidence.archive.purge import PURGE, Endings, HotRows
from bailiwick.evidence.archive.reader import ColdEvents
from bailiwick.evidence.archive.restore import Restorer
from bailiwick.evidence.archive.seal import Archivist, Bounds
from bailiwick.evidence.archive.tiers import expire_local
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.evidence.ledger import HeadSigner
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.jobs import JobDefinition
from bailiwick.kernel.modes import frozen_zones
from bailiwick.kernel.paths import Layout
from bailiwick.kernel.quorum import Quorum
from bailiwick.kernel.settings import Settings

ALERT = "archive_unproven"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Archive:
    """The two-person rule and the archive, which is its first user."""

    quorum: Quorum
    services: ArchiveServices

    @property
    def cold(self) -> ColdEvents:
        """What was sealed."""
        return self.services.cold


def build_archive(
    settings: Settings, layout: Layout, database: Database, clock: Clock, ids: Ids, recorder: Recorder
) -> Archive:
    """Build the archive's services. Connects to nothing yet."""
    quorum = quorum_of(database, clock, ids, recorder, [PURGE, RELEASE])
    stores = places(settings, layout)
    cold = ColdEvents(database, stores.local, stores.remote, stores.cache)
    services = ArchiveServices(
        stores,
        cold,
        Keeping(database, clock, ids, recorder, quorum),
        Endings(database, stores, cold, recorder, clock, quorum),
        Restorer(database, cold, recorder, clock),
    )
    return Archive(quorum, services)


def build_archivist(base: Foundations, archive: Archive, signer: HeadSigner) -> Archivist:
    """What seals, within the bounds of the settings."""
    settings = base.settings
    return Archivist(
        base.database,
        archive.services.places,
        signer,
        base.recorder,
        base.clock,
        bounds=Bounds(int(settings.archive_seal_gb * 1e9), settings.archive_seal_hours * 3600),
        observe=lambda zone, overdue_s: base.metrics.archive_overdue.labels(zone).set(overdue_s),
    )


def archive_jobs(base: Foundations, archive: Archive, signer: HeadSigner) -> list[JobDefinition]:
    """What is done with the archive by the clock. A job that fails is counted, logged and due again."""
    archivist = build_archivist(base, archive, signer)
    hot = HotRows(base.database, archive.cold, base.recorder, base.clock)
    endings, stores = archive.services.endings, archive.services.places

    async def seal(due: datetime) -> dict[str, Any]:
        done = await archivist.run()
        base.metrics.archive_events.inc(done.events)
        base.metrics.archive_bytes.inc(done.stored)
        return done.to_json()

    async def frozen() -> dict[str, Any]:
        """What a job answers that destroys nothing because a zone is frozen; empty where none is."""
        async with base.database.begin() as tx:
            zones = await frozen_zones(tx)
        return {"frozen_zones": sorted(zones)} if zones else {}

    async def drop(due: datetime) -> dict[str, Any]:
        if told := await frozen():
            return told
        done = await hot.drop_due()
        if done["kept"]:
            raise RuntimeError("; ".join(f"{window}: {why}" for window, why in done["kept"].items()))
        return done

    async def expire(due: datetime) -> dict[str, Any]:
        if told := await frozen():
            return told
        return dict(await expire_local(base.database, stores, archive.cold, base.clock))

    async def end(due: datetime) -> dict[str, Any]:
        released = await archive.services.keeping.release_approved()
        ended = await endings.run()
        done = {**ended, **released, "refused": {**ended["refused"], **released["refused"]}}
        if done["refused"]:
            raise RuntimeError("; ".join(f"{approval}: {why}" for approval, why in done["refused"].items()))
        return done

    async def prove(due: datetime) -> dict[str, Any]:
        async with base.database.begin() as tx:
            zones = [row["name"] for row in await tx.all("SELECT name FROM zones ORDER BY name")]
        reports = [await verify_archive(base.database, archive.cold, zone) for zone in zones]
        for report in reports:
            await _judge(base, report)
        return {report.zone: {"verdict": report.verdict, "events": report.events} for report in reports}

    hours = base.settings.archive_seal_hours
    return [
        # hourly, so that a run that stopped at its bounds or failed goes on within the hour
        JobDefinition(SEAL_JOB, "23 * * * *", seal, grace=timedelta(hours=12), timeout_s=hours * 3600 + 1800),
        JobDefinition("drop-archived-rows", "53 * * * *", drop, grace=timedelta(hours=12), timeout_s=6 * 3600.0),
        JobDefinition("expire-archive-copies", "11 4 * * *", expire, grace=timedelta(hours=12), timeout_s=3 * 3600.0),
        JobDefinition("do-approved-for-archives", timedelta(minutes=1), end, timeout_s=6 * 3600.0),
        # reads everything, object storage included; the nightly check of the ledger asks that for its checksums
        JobDefinition("verify-archive", "17 5 1 * *", prove, grace=timedelta(days=2), timeout_s=24 * 3600.0),
    ]


async def _judge(base: Foundations, report: ArchiveReport) -> None:
    """Tell whether the archive of a zone holds, as evidence, as a figure and, if it does not, loudly."""
    fails = report.verdict == "FAIL"
    base.metrics.archive_unproven.labels(report.zone).set(1 if fails else 0)
    if fails:
        log.critical(ALERT, zone=report.zone, window=report.findings[0].window, why=report.findings[0].why)
    async with base.database.begin() as tx:
        await base.recorder.record(
            tx,
            codes.ARCHIVE_VERIFIED,
            "failure" if fails else "success",
            Context(report.zone),
            subject=Subject(id=report.zone, type="archive"),
            reasons=(ALERT,) if fails else (),
            verdict=report.verdict,
            events=report.events,
            findings=report.findings_total,
        )
