"""Secrets in an installation: where they lie here, and what is done about them by the clock."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from pydantic import SecretStr

from bailiwick.app.fencing import Fence
from bailiwick.app.foundations import Foundations, kek_file
from bailiwick.app.house import House, Part
from bailiwick.assurance.secret_rotation import Rotations
from bailiwick.assurance.secrets import KINDS, Local, SecretInventory
from bailiwick.assurance.secrets_api import routes
from bailiwick.assurance.unused import MACHINE, UnusedReview
from bailiwick.authority.revocation import Revocations
from bailiwick.identity.passwords import Passwords
from bailiwick.identity.users import Users
from bailiwick.kernel.jobs import JobDefinition
from bailiwick.kernel.paths import Layout
from bailiwick.kernel.settings import Settings

SETTINGS = ("metrics_token", "archive_s3_access_key", "archive_s3_secret_key")


def inventory_of(house: House) -> SecretInventory:
    """What finds and judges the secrets of a zone."""
    base = house.base
    return SecretInventory(
        base.clock,
        base.recorder,
        house.books,
        house.waivers,
        house.notices,
        house.alerts,
        environment="development" if base.settings.dev else "production",
        sealer=lambda: kek_file(base.settings, base.layout).load(),
        local=local_of(base.settings, base.layout),
    )


def build(house: House) -> Part:
    """What rotates stands in ``house.rotators``."""
    base, inventory = house.base, inventory_of(house)
    rotations = Rotations(base.database, base.clock, base.ids, base.recorder, house.records, house.rotators)
    unused = UnusedReview(base.database, base.clock, base.ids, base.recorder, users_of(base), house.notices, house.tasks)

    async def watch(due: datetime) -> dict[str, Any]:
        async with base.database.begin() as tx:
            zones = [row["name"] for row in await tx.all("SELECT name FROM zones WHERE state = 'active' ORDER BY name")]
        told: dict[str, Any] = {}
        for zone in zones:
            async with base.database.begin() as tx:
                told[zone] = await inventory.watch(tx, zone)
        return told

    return Part(
        routers=lambda: [routes(base.database, base.clock, inventory, rotations, unused)],
        jobs=[
            JobDefinition("watch-secrets", "7 * * * *", watch, grace=timedelta(hours=2)),
            JobDefinition("list-unused", "0 6 15 * *", unused.list_unused, grace=timedelta(days=3)),
            JobDefinition("disable-unused", "30 6 * * *", unused.disable_due, grace=timedelta(hours=12)),
        ],
        machines=[MACHINE],
    )


def local_of(settings: Settings, layout: Layout) -> Local:
    """Secrets that this machine keeps outside the database."""
    values: dict[str, str] = {}
    for name in SETTINGS:
        value = getattr(settings, name)
        if isinstance(value, SecretStr) and value.get_secret_value():
            values[name] = value.get_secret_value()
    return Local(values, settings.tls_key, kek_file(settings, layout).path, layout.administrator_password)


def users_of(base: Foundations) -> Users:
    """The accounts, for what the clock does to them and for commands."""
    settings = base.settings
    revocations = Revocations(
        base.database,
        base.clock,
        base.recorder,
        longest_mandate=timedelta(seconds=settings.mandate_ttl_s),
        longest_session=timedelta(seconds=settings.session_ttl_s),
        freshness_limit_s=settings.freshness_limit_s,
        fence_after_s=settings.fence_after_s,
        fence=Fence(base.layout.control_socket),
    )
    return Users(base.database, base.clock, base.ids, base.recorder, settings, Passwords(), revocations)


__all__ = ["KINDS", "build", "inventory_of", "local_of", "users_of"]
