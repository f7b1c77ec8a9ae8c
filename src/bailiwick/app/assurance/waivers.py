"""Waivers in an installation."""

from __future__ import annotations

from datetime import timedelta

from bailiwick.app.house import House, Part
from bailiwick.assurance.waivers import KINDS, MACHINE, WaiverRegister
from bailiwick.assurance.waivers_api import routes
from bailiwick.assurance.waivers_watch import WaiverWatch
from bailiwick.kernel.jobs import JobDefinition


def build(house: House) -> Part:
    """The register takes the place of what answers gates; built before whoever asks it."""
    base = house.base
    register = WaiverRegister(
        base.database, base.clock, base.ids, base.recorder, house.quorum, house.books, house.records
    )
    house.waivers = register
    watch = WaiverWatch(base.database, base.clock, base.recorder, register, house.notices, house.alerts)
    return Part(
        routers=lambda: [routes(base.database, base.clock, register)],
        jobs=[JobDefinition("watch-waivers", timedelta(minutes=1), watch.run, grace=timedelta(minutes=10))],
        machines=[MACHINE],
    )


__all__ = ["KINDS", "build"]
