"""Readiness in an installation: what its probes may reach, and what it says of itself where an environment does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bailiwick.app.assurance.probes import means_with_api_of
from bailiwick.app.assurance.secrets import inventory_of
from bailiwick.app.foundations import Foundations
from bailiwick.app.handover.backups import store_of
from bailiwick.app.house import House, Part
from bailiwick.assurance.probes.means import Means
from bailiwick.evidence.events import Actor, Context
from bailiwick.handover.readiness.api import routes
from bailiwick.handover.readiness.attachments import Attachments
from bailiwick.handover.readiness.chapter import ReadinessChapter
from bailiwick.handover.readiness.documents import KINDS, Values
from bailiwick.handover.readiness.means.ours import ours
from bailiwick.handover.readiness.service import ReadinessDesk
from bailiwick.identity.persons import Persons
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.verdicts import Verdict


def build(house: House) -> Part:
    """Built after the waivers, the owners and the alerts, which it asks."""
    base, desk = house.base, desk_of(house)
    house.readiness = desk
    house.chapters["readiness"] = ReadinessChapter(desk)
    return Part(routers=lambda: [routes(base.database, desk, attachments_of(base))], scheduled=desk.scheduled)


def desk_of(house: House) -> ReadinessDesk:
    """The service."""
    base = house.base
    return ReadinessDesk(
        base.database,
        base.clock,
        base.ids,
        base.recorder,
        house.books,
        house.records,
        house.waivers,
        Persons(),
        house.owners,
        lambda: readiness_means(house),
        defaults_of(house),
    )


def attachments_of(base: Foundations) -> Attachments:
    """The documents that attestations rest on."""
    return Attachments(base.database, base.clock, base.recorder)


def defaults_of(house: House) -> dict[str, Any]:
    """What holds of every environment that says nothing else: the defaults of the document, and our own address."""
    told = {name: field.get_default() for name, field in Values.model_fields.items()}
    return {**{name: value for name, value in told.items() if value is not None}, "api_url": house.base.settings.issuer}


def readiness_means(house: House) -> Means:
    """What probes may reach, with the looks that only checklists need."""
    base = house.base
    means = means_with_api_of(base)
    inventory = inventory_of(house)

    async def secrets(tx: Transaction, zone: str) -> tuple[Verdict, Sequence[str]]:
        context = Context(zone, Actor(user="system:readiness"))
        verdict, judged = await inventory.check(tx, context, "readiness")
        return verdict, [f"{each.secret.name} ({each.why})" for each in judged if not each.verdict.green]

    async def snapshots() -> Sequence[str]:
        if base.settings.backup_url is None:
            return []
        return await store_of(base.settings).names("redis")

    own = ours(
        base.database,
        base.direct_url,
        base.ids,
        base.recorder,
        house.on_call,
        house.owners,
        house.waiver_facts,
        secrets,
        snapshots,
        base.settings.shown(),
    )
    return replace(means, internals={**means.internals, **own})


__all__ = ["KINDS", "build", "desk_of"]
