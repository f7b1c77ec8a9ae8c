"""Canaries in an installation: who judges them, who samples Envoy, who takes traffic back when nobody judges."""

from __future__ import annotations

import socket
from datetime import timedelta

from bailiwick.app.house import House, Part
from bailiwick.gateway.envoy import EnvoyAdmin
from bailiwick.gateway.lease import DeadMan, Lease
from bailiwick.gateway.supervised import envoy_files
from bailiwick.handover.canary import api
from bailiwick.handover.canary.chapter import chapter
from bailiwick.handover.canary.sampling import JOB, Sampler
from bailiwick.handover.canary.service import CanaryDesk
from bailiwick.handover.canary.spec import KINDS
from bailiwick.inventory.resolver import Resolver
from bailiwick.kernel.jobs import JobDefinition


def desk_of(house: House) -> CanaryDesk:
    """What keeps the canaries."""
    base = house.base
    return CanaryDesk(
        base.database,
        base.clock,
        base.ids,
        base.recorder,
        house.books,
        house.records,
        Resolver(base.database, base.clock, base.recorder, base.settings),
        house.alerts,
        development=base.settings.dev,
    )


def build(house: House) -> Part:
    """The part."""
    base = house.base
    desk = desk_of(house)
    house.canaries = house.weights = desk
    house.chapters["canary"] = chapter
    lease = Lease(base.layout.canary_lease)

    async def sample() -> None:
        admin = EnvoyAdmin(envoy_files(base.settings, base.layout).admin_socket)
        machine = f"{socket.gethostname()}:{base.layout.run}"
        await Sampler(base.database, base.clock, admin, lease, machine).run()

    async def watch() -> None:
        await DeadMan(envoy_files(base.settings, base.layout), lease).run()

    return Part(
        routers=lambda: [api.routes(base.database, base.clock, desk)],
        jobs=[JobDefinition(JOB, timedelta(seconds=30), desk.drive, grace=timedelta(minutes=10), timeout_s=60.0)],
        loops={"canary samples": sample},
        watches={"canary lease": watch},
    )


__all__ = ["KINDS", "build", "desk_of"]
