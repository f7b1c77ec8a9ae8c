"""Where sinks may send to: the check of addresses that upstreams have, handed to a room below it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from bailiwick.evidence.events import decode
from bailiwick.evidence.siem.cursors import Entry
from bailiwick.inventory.endpoints import Upstream
from bailiwick.inventory.resolver import Resolution, Resolver
from bailiwick.kernel.errors import BailiwickError

if TYPE_CHECKING:  # commands need the check and not the client
    from bailiwick.evidence.archive.reader import ColdEvents
    from bailiwick.evidence.siem.outgoing import Reach
    from bailiwick.evidence.siem.runner import Cold
    from bailiwick.evidence.siem.sinks import CheckAddress


def reach_of(resolver: Resolver) -> Reach:
    """Resolve a host and answer its addresses, every one of them checked, or raise why there is none."""

    async def reach(host: str, port: int) -> Sequence[str]:
        return _addresses(await resolver.resolve(Upstream("https", host.lower(), port)))

    return reach


def reach_with_api_of(resolver: Resolver) -> Reach:
    """The same for checks of environments, which also look at our own API: at the very host and port that are
    configured, and at nothing beside it that this machine listens on."""
    reach = reach_of(resolver)

    async def reaching(host: str, port: int) -> Sequence[str]:
        if not resolver.is_api(host, port):
            return await reach(host, port)
        return _addresses(await resolver.resolve_api())

    return reaching


def _addresses(found: Resolution) -> Sequence[str]:
    if found.error is not None:
        reason, _, told = found.error.partition(": ")
        raise BailiwickError(told, reason=reason)
    return found.addresses


def cold_reader(cold: ColdEvents) -> Cold:
    """Events that have left the database, out of the archive."""

    async def read(zone: str, first: int, limit: int) -> Sequence[Entry]:
        bodies = await cold.bodies(zone, first, first + limit)
        found = []
        for seq in range(first, first + limit):
            if seq not in bodies:
                break
            event = decode(bodies[seq])
            at = datetime.fromisoformat(event.at)
            found.append(Entry(seq, event.id, at, event.code, event.outcome, bodies[seq]))
        return found

    return read


def address_check(resolver: Resolver) -> CheckAddress:
    """Refuse an address that we may never connect to; a name that does not resolve now may do so later."""
    reach = reach_of(resolver)

    async def check(host: str, port: int) -> None:
        try:
            await reach(host, port)
        except BailiwickError as error:
            if error.reason == "upstream_forbidden":
                raise

    return check
