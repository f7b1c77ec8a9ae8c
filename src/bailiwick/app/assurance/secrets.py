"""Secrets in an installation: where they lie here, and what is done about them by the clock."""

from __future__ import annotations

import os
import secrets
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import psycopg
from pydantic import SecretStr

from bailiwick.app.fencing import Fence
from bailiwick.app.foundations import Foundations, kek_file
from bailiwick.app.house import House, Part
from bailiwick.assurance.notices.channels import secret_aad
from bailiwick.assurance.rotators import ReplacedOutside, Try
from bailiwick.assurance.secret_rotation import Rotations
from bailiwick.assurance.secrets import KINDS, Local, SealedSecrets, SecretInventory
from bailiwick.assurance.secrets_api import routes
from bailiwick.assurance.unused import MACHINE, UnusedReview
from bailiwick.authority.revocation import Revocations
from bailiwick.identity.passwords import Passwords
from bailiwick.identity.users import Users
from bailiwick.kernel.db import libpq_url
from bailiwick.kernel.jobs import JobDefinition
from bailiwick.kernel.paths import Layout
from bailiwick.kernel.quorum import Quorum
from bailiwick.kernel.settings import Settings

OUTSIDE = ("setting", "credential", "provider", "sink", "channel", "declared")
"""Kinds of secrets that others replace."""

CHANNELS = SealedSecrets("channel_secrets", "channel", secret_aad, "set_at", id="name")


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
        sealed=[CHANNELS],
    )


def build(house: House) -> Part:
    """What rotates stands in ``house.rotators``."""
    base, inventory = house.base, inventory_of(house)
    tries = tries_of(base.settings)
    outside = {kind: ReplacedOutside(kind, base.database, base.clock, inventory, tries) for kind in OUTSIDE}
    rotators = {**house.rotators, **outside}
    rotations = Rotations(base.database, base.clock, base.ids, base.recorder, house.records, rotators)
    unused = UnusedReview(
        base.database, base.clock, base.ids, base.recorder, users_of(base, house.quorum), house.notices, house.tasks
    )

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
    """Secrets that this machine keeps outside the database: of a setting that is an address the password in it."""
    values: dict[str, str] = {}
    for name in Settings.model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr) and (secret := secret_in(value.get_secret_value())):
            values[name] = secret
    if settings.archive_url and settings.archive_s3_secret_key is None:  # found as AWS tools find them
        values |= {name.lower(): os.environ[name] for name in ("AWS_SECRET_ACCESS_KEY",) if os.environ.get(name)}
    return Local(
        values,
        settings.tls_key,
        kek_file(settings, layout).path,
        layout.administrator_password,
        layout.secrets / "pgpass",
    )


def secret_in(value: str) -> str:
    """What of a setting is secret: of an address its password, or nothing; else all of it."""
    if "://" not in value:
        return value
    parts = urlsplit(value)
    return unquote(parts.password or "") or next(iter(parse_qs(parts.query).get("password", [])), "")


def tries_of(settings: Settings) -> dict[str, Try]:
    """How an old value of a setting is presented as its users do."""

    async def metrics(old: str) -> bool | None:
        token = settings.metrics_token
        return token is not None and secrets.compare_digest(old, token.get_secret_value())

    def database(url: SecretStr) -> Try:
        async def connect(old: str) -> bool | None:
            try:
                connection = await psycopg.AsyncConnection.connect(
                    libpq_url(url.get_secret_value()), password=old, connect_timeout=5
                )
            except psycopg.OperationalError as error:
                return False if "password authentication failed" in str(error) else None
            await connection.close()
            return True

        return connect

    found: dict[str, Try] = {"setting/metrics_token": metrics}
    for name in ("database_url", "database_direct_url"):
        if (url := getattr(settings, name)) is not None:
            found[f"setting/{name}"] = database(url)
    return found


def users_of(base: Foundations, quorum: Quorum) -> Users:
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
    return Users(base.database, base.clock, base.ids, base.recorder, settings, Passwords(), revocations, quorum)


__all__ = ["KINDS", "build", "inventory_of", "local_of", "users_of"]
