"""Wiring of reconciliation and of the detector of stuck work."""

from __future__ import annotations

from typing import Any

from bailiwick.app.foundations import kek_file
from bailiwick.app.house import House, Part
from bailiwick.app.siem import reach_of
from bailiwick.assurance.book import Book, Kind
from bailiwick.assurance.reconciliation.api import finding_routes, reconciliation_routes
from bailiwick.assurance.reconciliation.directories import Directories
from bailiwick.assurance.reconciliation.entitlements import EntitlementLedger
from bailiwick.assurance.reconciliation.findings import LIFECYCLE, Findings
from bailiwick.assurance.reconciliation.own import OWN
from bailiwick.assurance.reconciliation.service import Reconciliations
from bailiwick.assurance.reconciliation.sources import Sources
from bailiwick.assurance.reconciliation.spec import CONNECTION, RECONCILIATION
from bailiwick.assurance.stuck import api as stuck_api
from bailiwick.assurance.stuck.detector import Detector
from bailiwick.assurance.stuck.own import OWN_MACHINES
from bailiwick.assurance.stuck.spec import MACHINE
from bailiwick.evidence.events import Context
from bailiwick.identity.ldap.directory import Directory
from bailiwick.identity.login import ldap
from bailiwick.identity.providers import Provider, Providers
from bailiwick.inventory.resolver import Resolver
from bailiwick.kernel.jobs import JobDefinition

KINDS: tuple[Kind[Any], ...] = (CONNECTION, RECONCILIATION, MACHINE)


def sources_of(house: House) -> Sources:
    """How rows are read; the sealer is read anew each time, since a rotation of the key may have come between."""
    base = house.base
    resolver = Resolver(base.database, base.clock, base.recorder, base.settings)
    forbidden = (base.layout.data_dir,)
    entitlements = EntitlementLedger(base.clock, base.ids, base.recorder)

    async def follow(zone: str) -> None:
        async with base.database.begin() as tx:
            await entitlements.follow(tx, Context(zone))

    def directory_of(provider: Provider) -> Directory:
        sealer = kek_file(base.settings, base.layout).load()
        providers = Providers(base.database, base.clock, base.ids, base.recorder, sealer)
        return ldap.Directories(providers, resolver, base.clock).make(provider)

    own = OWN | {name: each.sql for name, each in OWN_MACHINES.items()}
    return Sources(
        base.database,
        kek_file(base.settings, base.layout).load,
        reach_of(resolver),
        forbidden,
        own,
        {"entitlements": follow},
        Directories(base.database, directory_of),
    )


def findings_of(house: House) -> Findings:
    """The register of findings."""
    base = house.base
    return Findings(base.database, base.clock, base.ids, base.recorder, house.alerts, house.waivers)


def reconciliations_of(house: House) -> Reconciliations:
    """What runs them."""
    base = house.base
    return Reconciliations(
        base.database,
        base.clock,
        base.ids,
        base.recorder,
        house.books,
        house.records,
        house.alerts,
        findings_of(house),
        sources_of(house),
        base.layout.data_dir / "scratch",
    )


def detector_of(house: House) -> Detector:
    """The detector of stuck work."""
    base = house.base
    return Detector(
        base.database,
        base.clock,
        base.ids,
        base.recorder,
        house.books,
        house.alerts,
        sources_of(house),
        base.layout.data_dir / "scratch",
    )


def build(house: House) -> Part:
    """The part: both of them, since they read the same connections."""
    reconciliations, detector = reconciliations_of(house), detector_of(house)

    def scheduled(zone: str, book: Book) -> list[JobDefinition]:
        return [*reconciliations.scheduled(zone, book), *detector.scheduled(zone, book)]

    return Part(
        routers=lambda: (
            reconciliation_routes(reconciliations),
            finding_routes(findings_of(house)),
            stuck_api.routes(detector),
        ),
        scheduled=scheduled,
        machines=(LIFECYCLE,),
    )
