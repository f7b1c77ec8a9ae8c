"""Handovers in an installation. Built last: its chapters ask every other part."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import bailiwick.kernel.migrations
from bailiwick.app.assurance.secrets import inventory_of
from bailiwick.app.house import House, Part
from bailiwick.app.packs import pack_requests
from bailiwick.assurance.handover_states import HANDOVER
from bailiwick.handover.handovers import api
from bailiwick.handover.handovers.chapters.keeping import Compliance, Storage
from bailiwick.handover.handovers.chapters.people import Access, Ownership
from bailiwick.handover.handovers.chapters.platform import Listening, Network, Secrets, Versions
from bailiwick.handover.handovers.chapters.running import Cadence, Observability, OpenWaivers, Runbooks, ServiceLevels
from bailiwick.handover.handovers.escalation import Escalation, Installed
from bailiwick.handover.handovers.packing import Asked, Packer
from bailiwick.handover.handovers.plan import KINDS
from bailiwick.handover.handovers.service import Around, Handovers
from bailiwick.handover.handovers.signing import Keys
from bailiwick.handover.ports import Chapter
from bailiwick.identity.persons import Persons


@dataclass(frozen=True, slots=True)
class Services:
    """The services of the part."""

    packer: Packer
    handovers: Handovers
    escalation: Escalation


def services(house: House) -> Services:
    """Built of the ports as they stand in ``house``; its chapters are those of every part."""
    base = house.base
    keys = Keys(base.clock, base.settings.issuer)
    asked = Asked(house.books, house.records, house.waivers, house.readiness, house.environments, house.chapters, keys)
    around = Around(house.books, house.owners, house.readiness, house.open_incidents, house.environments, house.waivers)
    installed = Installed(newest_schema(), base.settings.freshness_limit_s, base.settings.redis_url is not None)
    return Services(
        Packer(base.database, base.clock, base.ids, base.recorder, asked),
        Handovers(base.database, base.clock, base.recorder, Persons(), keys, around),
        Escalation(
            base.database,
            base.clock,
            base.recorder,
            installed,
            house.readiness,
            house.open_incidents,
            house.environments,
        ),
    )


def chapters(house: House) -> dict[str, Chapter]:
    """The chapters about what the finished rooms know."""
    settings = house.base.settings
    listening = Listening(
        settings.host,
        settings.api_port,
        settings.gateway_port,
        settings.public_url or "",
        settings.gateway_url or "",
        settings.tls_min_version if settings.tls_cert is not None else "",
        settings.allow_upstream_networks,
    )
    logs = f"{settings.log_format} lines of every part in {house.base.layout.logs}; `bailiwick logs`"
    return {
        "ownership": Ownership(house.books, house.owners, house.on_call),
        "versions": Versions(house.books, newest_schema()),
        "secrets": Secrets(house.books, lambda: inventory_of(house)),
        "storage": Storage(with_redis=settings.redis_url is not None),
        "network": Network(listening),
        "observability": Observability(house.books, logs),
        "runbooks": Runbooks(house.books),
        "access": Access(),
        "compliance": Compliance(house.books),
        "waivers": OpenWaivers(),
        "service-levels": ServiceLevels(house.slo_facts),
        "cadence": Cadence(house.books),
    }


def newest_schema() -> str:
    """The newest migration that this program has."""
    return max(path.stem for path in (Path(bailiwick.kernel.migrations.__file__).parent / "versions").glob("0*.py"))


def build(house: House) -> Part:
    """The part; ``house.chapters`` holds its chapters from then on."""
    house.chapters.update(chapters(house))
    built = services(house)
    base = house.base
    return Part(
        routers=lambda: [
            api.routes(base.database, built.packer, built.handovers, built.escalation, pack_requests(base))
        ],
        machines=[HANDOVER],
    )


__all__ = ["KINDS", "build", "chapters", "services"]
