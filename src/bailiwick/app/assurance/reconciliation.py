"""Wiring of reconciliation and of the detector of stuck work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bailiwick.app.foundations import kek_file
from bailiwick.app.siem import reach_of
from bailiwick.assurance.book import Kind
from bailiwick.assurance.reconciliation.api import finding_routes, reconciliation_routes
from bailiwick.assurance.reconciliation.findings import Findings
from bailiwick.assurance.reconciliation.service import Reconciliations
from bailiwick.assurance.reconciliation.sources import Sources
from bailiwick.assurance.reconciliation.spec import CONNECTION, RECONCILIATION
from bailiwick.inventory.resolver import Resolver

if TYPE_CHECKING:
    from bailiwick.app.assurance import House, Part

KINDS: tuple[Kind[Any], ...] = (CONNECTION, RECONCILIATION)


def sources_of(house: House) -> Sources:
    """How rows are read; the sealer is read anew each time, since a rotation of the key may have come between."""
    base = house.base
    resolver = Resolver(base.database, base.clock, base.recorder, base.settings)
    forbidden = (base.layout.data_dir,)
    return Sources(base.database, kek_file(base.settings, base.layout).load, reach_of(resolver), forbidden)


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


def build(house: House) -> Part:
    """The part."""
    from bailiwick.app.assurance import Part

    reconciliations = reconciliations_of(house)
    routers = (reconciliation_routes(reconciliations), finding_routes(findings_of(house)))
    return Part(routers=routers, scheduled=reconciliations.scheduled)
