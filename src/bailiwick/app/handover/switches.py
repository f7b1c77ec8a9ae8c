"""Kill switches in an installation: two operations of the overrides, and a reminder of what was left on."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from bailiwick.app.house import House, Part
from bailiwick.app.settling import settler
from bailiwick.assurance.book import Kind
from bailiwick.handover.switches import LeftOn, Switches, SwitchLift, SwitchThrow
from bailiwick.handover.switches_api import routes
from bailiwick.kernel.jobs import JobDefinition

KINDS: tuple[Kind[Any], ...] = ()


def build(house: House) -> Part:
    """Built before the overrides, which do what is here."""
    base = house.base
    switches, settle = Switches(base.clock, base.ids, base.recorder), settler(base)
    house.operations = [
        *house.operations,
        SwitchThrow(base.database, switches, settle),
        SwitchLift(base.database, switches, settle),
    ]
    left_on = LeftOn(base.database, base.clock, house.alerts)
    return Part(
        routers=lambda: [routes(base.database, switches)],
        jobs=[JobDefinition("watch-switches", timedelta(minutes=1), left_on.run, grace=timedelta(minutes=10))],
    )


__all__ = ["KINDS", "build"]
