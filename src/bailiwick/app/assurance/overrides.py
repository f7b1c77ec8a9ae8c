"""Overrides in an installation, with the operations it can do."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from bailiwick.app.foundations import kek_file
from bailiwick.app.house import House, Part
from bailiwick.app.settling import settler
from bailiwick.app.siem import reach_of
from bailiwick.assurance.external_operations import Externals
from bailiwick.assurance.gateway_switch import GatewaySwitch
from bailiwick.assurance.operations import GatewayClose, GatewayOpen, Operation
from bailiwick.assurance.override_records import MACHINE
from bailiwick.assurance.override_rules import KINDS
from bailiwick.assurance.overrides import Overrides
from bailiwick.assurance.overrides_api import routes, unlock_route
from bailiwick.assurance.overrides_watch import OverrideWatch
from bailiwick.inventory.resolver import Resolver
from bailiwick.kernel.jobs import JobDefinition


def build(house: House) -> Part:
    """What needs services of other rooms is in ``house.operations``."""
    base = house.base
    overrides, switch = overrides_of(house, house.operations)
    house.overrides = overrides
    watch = OverrideWatch(base.database, base.clock, base.recorder, overrides, house.alerts, house.tasks)
    return Part(
        routers=lambda: [routes(base.database, house.books, overrides, switch), unlock_route(overrides)],
        jobs=[JobDefinition("watch-overrides", timedelta(minutes=1), watch.run, grace=timedelta(minutes=10))],
        machines=[MACHINE],
    )


def overrides_of(house: House, operations: Sequence[Operation]) -> tuple[Overrides, GatewaySwitch]:
    """The service, which can do ``operations`` and what is the gateway's; and the gateway's switch."""
    base = house.base
    settings = base.settings
    settle = settler(base)
    switch = GatewaySwitch(base.clock, base.ids, base.recorder)
    reach = reach_of(Resolver(base.database, base.clock, base.recorder, settings))
    # read anew each time, since it may have been rotated
    externals = Externals(base.database, base.clock, reach, lambda: kek_file(settings, base.layout).load())
    overrides = Overrides(
        base.database,
        base.clock,
        base.ids,
        base.recorder,
        house.quorum,
        house.books,
        house.alerts,
        environment="development" if settings.dev else "production",
        operations=[
            *operations,
            GatewayClose(base.database, switch, settle),
            GatewayOpen(base.database, switch, settle),
        ],
        operations_of=externals.of,
    )
    return overrides, switch


__all__ = ["KINDS", "build", "overrides_of"]
