"""A ledger with a delivery beside it, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ledger_world import World
from prometheus_client import CollectorRegistry

from bailiwick.evidence.codes import EVENT_TYPES
from bailiwick.evidence.events import Actor, Context
from bailiwick.evidence.siem.breaker import Pace
from bailiwick.evidence.siem.delivery import Delivery
from bailiwick.evidence.siem.operations import Operations
from bailiwick.evidence.siem.outgoing import Means
from bailiwick.evidence.siem.sinks import Draft, Sink, Sinks
from bailiwick.evidence.stored import read_bodies
from bailiwick.kernel.ending import end
from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.metrics import Metrics

QUICK = Pace(base_s=0.01, cap_s=0.04, threshold=3, longest_wait_s=5, poll_s=0.01, stopped_s=30, look_s=0.02)
ADMIN = Context("default", Actor(user="admin"))
FORBIDDEN = "203.0.113.9"


async def reach(host: str, port: int) -> Sequence[str]:
    """The check as the app gives it, with one address that may not be reached."""
    if host in {"127.0.0.1", "localhost"}:
        return ["127.0.0.1"]
    reason = "upstream_forbidden" if host in {FORBIDDEN, "rebound.example"} else "upstream_unresolved"
    raise BailiwickError(reason=reason)


class SiemWorld:
    """``world`` is the ledger; ``sinks`` the service; :meth:`delivery` makes senders."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.metrics = Metrics(CollectorRegistry())
        self.sinks = Sinks(world.database, world.clock, world.ids, world.recorder, world.sealer, self._check)
        self.operations = Operations(world.database, world.clock, world.recorder)
        self._running: list[tuple[Delivery, asyncio.Task[None]]] = []

    async def _check(self, host: str, port: int) -> None:
        if host == FORBIDDEN:
            await reach(host, port)

    async def sink(self, kind: str, options: dict[str, Any], secrets: dict[str, Any], **more: Any) -> Sink:
        draft = Draft(more.pop("name", "out"), kind, options, secrets, **{"linger_s": 0.0, **more})
        return await self.sinks.create(ADMIN, draft)

    def delivery(
        self, *, pace: Pace = QUICK, fault: Callable[[str], None] = lambda step: None, **more: Any
    ) -> Delivery:
        world = self.world
        means = Means(reach, world.clock, world.ids, "work-1")
        return Delivery(
            world.database, world.url, world.sealer, world.recorder, self.metrics, means,
            random=lambda: 0.5, pace=pace, fault=fault, **more,
        )  # fmt: skip

    def run(self, delivery: Delivery | None = None) -> Delivery:
        made = delivery or self.delivery()
        self._running.append((made, asyncio.create_task(made.run())))
        return made

    async def stop(self, delivery: Delivery) -> None:
        for entry in [entry for entry in self._running if entry[0] is delivery]:
            self._running.remove(entry)
            await end(entry[1])

    async def close(self) -> None:
        for delivery, _ in list(self._running):
            await self.stop(delivery)

    async def drain_outbox(self) -> None:
        """Put what was recorded of the sinks themselves into the ledger."""
        sequencer = self.world.sequencer()
        await sequencer.drain()
        sequencer.close()

    async def bodies(self, zone: str = "default") -> list[bytes]:
        """The canonical bytes of a zone's events, in order."""
        async with self.world.database.begin() as tx:
            return await read_bodies(tx, zone, 0, 1 << 40)

    def recorded(self) -> list[str]:
        """Names of the events of the sinks themselves in the ledger, in order."""
        rows = self.world.rows("SELECT code FROM ledger.events WHERE code LIKE 'BW52%%' ORDER BY zone, seq")
        return [EVENT_TYPES[code].name for code in rows]

    def cursor(self, zone: str = "default", sink: str = "out") -> int:
        (found,) = self.world.rows(
            "SELECT c.next_seq FROM bailiwick.siem_cursors c JOIN bailiwick.siem_sinks s ON s.id = c.sink"
            " WHERE c.zone = %s AND s.name = %s",
            zone,
            sink,
        )
        return int(found)

    def level(self, zone: str = "default", sink: str = "out") -> bool:
        """Whether the sink has taken everything the ledger holds."""
        return self.cursor(zone, sink) == len(self.world.ledgered(zone))

    def dead(self) -> list[str]:
        rows = self.world.rows("SELECT event FROM bailiwick.siem_dead_letters WHERE delivered_at IS NULL ORDER BY seq")
        return [str(each) for each in rows]

    def repeated(self) -> list[tuple[int, int]]:
        return [
            tuple(row) for row in self.world.rows("SELECT first_seq, end_seq FROM bailiwick.siem_repeats ORDER BY id")
        ]

    async def until(self, holds: Callable[[], bool | Awaitable[bool]], within: float = 15) -> None:
        """Wait until ``holds``; there is no event for what another process or the database does."""
        async with asyncio.timeout(within):
            while True:
                told = holds()
                if told if isinstance(told, bool) else await told:
                    return
                await asyncio.sleep(0.01)


def once_each(ids: Sequence[str]) -> list[str]:
    """Ids in the order in which they came first."""
    return list(dict.fromkeys(ids))
