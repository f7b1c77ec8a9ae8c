"""Canaries in an installation: who judges them, who samples Envoy, who takes traffic back when nobody judges."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable
from datetime import timedelta

from bailiwick.app.handover.incidents import Known
from bailiwick.app.house import House, Part
from bailiwick.app.settling import settler
from bailiwick.assurance.canary_states import CANARY
from bailiwick.evidence.events import Context
from bailiwick.gateway.envoy import EnvoyAdmin
from bailiwick.gateway.lease import DeadMan, Lease
from bailiwick.gateway.supervised import envoy_files
from bailiwick.handover.canary import api
from bailiwick.handover.canary.access import AccessWatch, job_name
from bailiwick.handover.canary.chapter import chapter
from bailiwick.handover.canary.loop import (
    APPLICATION,
    BEYOND,
    KEY_HEADER,
    KNOWN,
    NAMED,
    READ,
    WRITE,
    AccessLoop,
    KnownDecisions,
    Step,
    Ways,
)
from bailiwick.handover.canary.sampling import JOB, Sampler
from bailiwick.handover.canary.service import CanaryDesk
from bailiwick.handover.canary.spec import KINDS
from bailiwick.handover.incidents.documents import EXPECTED
from bailiwick.identity.applications import Applications
from bailiwick.identity.hashers import Hashers
from bailiwick.identity.passwords import COST, Passwords, VerifiedSecrets
from bailiwick.inventory.credentials import Credentials, Secret
from bailiwick.inventory.documents import parse_server
from bailiwick.inventory.endpoints import parse_upstream
from bailiwick.inventory.resolver import Resolver
from bailiwick.inventory.servers import Servers
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.errors import BailiwickError, Conflict, NotFound
from bailiwick.kernel.jobs import JobDefinition
from bailiwick.kernel.permissions import Role

_DESCRIBED = "Walks the loop of access."


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


class Rooms:
    """What a loop of access needs, made and removed by the services that people use."""

    def __init__(self, house: House) -> None:
        base = house.base
        shared = (base.database, base.clock, base.ids, base.recorder)
        self._database = base.database
        self._revocations = settler(base)
        passwords = Passwords(None, hashing=Hashers(COST))
        secrets = VerifiedSecrets(passwords, os.urandom(32))
        self._applications = Applications(*shared, passwords, secrets, self._revocations)
        self._credentials = Credentials(*shared, base.sealer)
        house.on_sealer.append(self._credentials.replace_sealer)
        resolver = Resolver(base.database, base.clock, base.recorder, base.settings)
        self._servers = Servers(*shared, base.settings, resolver, self._revocations)

    async def make(self, context: Context, name: str, upstream: str, key: str) -> tuple[str, str, str]:
        """A server with a credential, and the application of loops granted to read and write there."""
        await self._sweep(context)
        await self._credentials.create(context, name, Secret("api_key", KEY_HEADER, {"value": key}))
        operations = [
            {"method": method, "path": "/", "scope": scope}
            for method, scope in (("GET", READ), ("POST", WRITE), ("DELETE", BEYOND))
        ]
        binding = {"operations": operations, "credential": name}
        body = parse_server({"name": name, "endpoint": upstream, "tags": {"for": APPLICATION}, "binding": binding})
        server = await self._servers.create(context, body)
        grants = {name: [READ, WRITE]}
        try:
            application, secret = await self._applications.create(
                context, Role.ADMIN, APPLICATION, description=_DESCRIBED, grants=grants
            )
        except Conflict:
            if not await self._is_ours(context.zone):
                raise
            application, secret = await self._applications.rotate_secret(context, Role.ADMIN, APPLICATION)
            wanted = {"grants": {**dict.fromkeys(application.grants), **grants}, "is_active": True}
            await self._applications.change(context, Role.ADMIN, APPLICATION, wanted)
        return server.status, application.id, secret

    async def revoke(self, context: Context, mandate: str) -> bool:
        """End a mandate; whether a worker said that it refuses it; any that did not is fenced off."""
        async with self._database.begin() as tx:
            revision = await self._revocations.revoke(tx, context, "mandate", mandate, "loop of access")
        settled = await self._revocations.settle(revision, context)
        return bool(settled.confirmed)

    async def remove(self, context: Context, name: str) -> None:
        """Take it away again; the application stays, since policies name it, and may nothing.

        What cannot be removed keeps nothing else from being; then raises why.
        """

        async def disable() -> None:
            if await self._is_ours(context.zone):
                await self._applications.change(context, Role.ADMIN, APPLICATION, {"is_active": False})

        failed: list[Exception] = []
        removals: list[Callable[[], Awaitable[None]]] = [
            disable,
            lambda: self._servers.delete(context, name),
            lambda: self._credentials.delete(context, name),
        ]
        for remove in removals:
            try:
                await remove()
            except NotFound:
                pass
            except Exception as error:  # noqa: BLE001 - raised once the rest is gone
                failed.append(error)
        if failed:
            raise failed[0]

    async def _is_ours(self, zone: str) -> bool:
        """Whether the application of that name is the loops' own, and not one that somebody has for himself."""
        return (await self._applications.get(zone, APPLICATION)).description == _DESCRIBED

    async def _sweep(self, context: Context) -> None:
        """Remove what a loop left whose process died. Called by the one loop that is walked in the zone."""
        async with self._database.begin() as tx:
            rows = await tx.all(
                "SELECT name FROM servers WHERE zone = :zone AND name ~ :named AND tags ->> 'for' = :loop"
                " UNION SELECT name FROM credentials c WHERE zone = :zone AND name ~ :named AND header = :header"
                " AND NOT EXISTS (SELECT FROM servers s WHERE s.zone = c.zone AND s.name = c.name"
                " AND s.tags ->> 'for' IS DISTINCT FROM :loop)",
                zone=context.zone,
                named=f"^{NAMED}$",
                loop=APPLICATION,
                header=KEY_HEADER,
            )
        for row in rows:
            await self.remove(context, row["name"])


def known_of(house: House) -> KnownDecisions:
    """Asks the decisions that the book of a zone says are known, by its grants and active policies."""
    decide = Known()

    async def known(tx: Transaction, zone: str) -> list[Step]:
        expected = await house.books.read_all(tx, zone, EXPECTED)
        return [
            Step(f"{KNOWN}{name}", each.expect, await decide(tx, zone, each)) for name, each in sorted(expected.items())
        ]

    return known


def build(house: House) -> Part:
    """The part."""
    base = house.base
    desk = desk_of(house)
    settings = base.settings

    def ways(zone: str) -> Ways:
        api_base = settings.zone_issuer(zone)
        return Ways(api_base, settings.gateway if zone == "default" else f"{settings.gateway}/z/{zone}")

    loop = AccessLoop(
        base.database,
        base.clock,
        base.ids,
        base.recorder,
        house.records,
        Rooms(house),
        ways,
        release=settings.release or "",
        known=known_of(house),
    )
    resolver = Resolver(base.database, base.clock, base.recorder, settings)

    def own_upstream() -> bool:
        try:
            resolver.check_literal(parse_upstream("http://127.0.0.1:9"))
        except BailiwickError:
            return False
        return True

    watched = AccessWatch(base.database, base.clock, house.alerts, loop, own_upstream)
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
        routers=lambda: [api.routes(base.database, desk, loop)],
        jobs=[JobDefinition(JOB, timedelta(seconds=30), desk.drive, grace=timedelta(minutes=10), timeout_s=60.0)],
        scheduled=watched.scheduled,
        follows={"policy": job_name},
        loops={"canary samples": sample},
        machines=[CANARY],
        watches={"canary lease": watch},
    )


__all__ = ["KINDS", "build", "desk_of"]
