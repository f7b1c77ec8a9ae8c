"""Before anything serves: schema, key-encryption key, and on a first start zone, keys, policy and administrator."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

from bailiwick import __version__
from bailiwick.app.assurance import KINDS, ship
from bailiwick.app.foundations import Foundations, database_urls, kek_file, lay
from bailiwick.app.quorum import quorum_of
from bailiwick.assurance.books import Books
from bailiwick.authority.keys import KeyStore
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Subject
from bailiwick.identity.bootstrap import FIRST_ADMINISTRATOR, create_first_administrator
from bailiwick.identity.passwords import Passwords
from bailiwick.kernel import feed
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.paths import Layout, write_private
from bailiwick.kernel.settings import Settings
from bailiwick.policy.admission import Admission
from bailiwick.policy.policies import Policies
from bailiwick.policy.trial import Trials

ZONE = "default"


async def bootstrap(settings: Settings) -> dict[str, Any]:
    """Bring the database up to date; on a first start make what an installation needs.

    Answers what the operator must be told, which after the first start is nothing.
    """
    from bailiwick.kernel.migrate import (  # Alembic is needed here alone, and roles share what is imported
        migrate,
        status,
    )

    layout = Layout(settings.data_dir)
    _, direct_url = database_urls(settings)
    before = (await asyncio.to_thread(status, direct_url)).current
    after = (await asyncio.to_thread(migrate, direct_url)).current
    kek_file(settings, layout).ensure()
    shown = settings.shown()
    if os.environ.get("BAILIWICK_EMBEDDED_POSTGRES"):
        shown["database_url"] = None  # the supervisor's doing, nobody's setting
    write_private(layout.settings_file, json.dumps(shown))
    base = lay(settings, layout, "prepare")
    try:
        async with base.database.begin() as tx:
            await tx.run("SELECT pg_advisory_xact_lock(:lock)", lock=0x626F6F74)
            password = None
            if not await tx.value("SELECT 1 FROM zones WHERE name = :zone", zone=ZONE):
                password = await _make_default_zone(base, tx)
                # kept before the commit: a crash in between must not lose the only copy
                write_private(layout.administrator_password, password + "\n")
            await _ship_books(base, tx)
            await _record_start(base, tx, before or "", after or "")
    finally:
        await base.database.close()
    if password is None:
        return {}
    return {
        "administrator": FIRST_ADMINISTRATOR,
        "one-time password": f"{password}  (must be changed; also in {layout.administrator_password})",
    }


async def _ship_books(base: Foundations, tx: Transaction) -> None:
    """The operating model we ship, in every zone that never had one."""
    quorum = quorum_of(base.database, base.clock, base.ids, base.recorder)
    books = Books(base.database, base.clock, base.recorder, quorum, KINDS)
    for row in await tx.all("SELECT name FROM zones WHERE state = 'active' ORDER BY name"):
        await ship(books, tx, row["name"])


async def _record_start(base: Foundations, tx: Transaction, before: str, after: str) -> None:
    context, subject = Context(ZONE), Subject(id=ZONE, type="zone")
    if before != after:
        await base.recorder.record(
            tx, codes.SCHEMA_UPGRADED, "success", context, subject=subject, before=before, after=after
        )
    await base.recorder.record(tx, codes.INSTALLATION_STARTED, "success", context, subject=subject, version=__version__)


async def _make_default_zone(base: Foundations, tx: Transaction) -> str:
    context = Context(ZONE)
    await tx.run(
        "INSERT INTO zones (name, description, created_at) VALUES (:zone, 'The default zone', :now)",
        zone=ZONE,
        now=base.clock.now(),
    )
    await KeyStore(base.database, base.sealer, base.clock, base.recorder).create(tx, ZONE)
    quorum = quorum_of(base.database, base.clock, base.ids, base.recorder)
    policies = Policies(base.database, base.recorder, base.clock, base.sealer, Admission(), Trials(), quorum)
    await policies.load_library(tx, ZONE, context)
    password = await create_first_administrator(
        tx, ZONE, clock=base.clock, ids=base.ids, recorder=base.recorder, passwords=Passwords()
    )
    await base.recorder.record(
        tx, codes.INSTALLATION_BOOTSTRAPPED, "success", context, subject=Subject(id=ZONE, type="zone")
    )
    await feed.announce(tx, ZONE, "zone", ZONE)
    return password
