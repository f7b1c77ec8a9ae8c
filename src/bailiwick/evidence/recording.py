"""What a worker records through: events and decision inputs, durable in its spool before the answer leaves."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from bailiwick.evidence.frames import Kind
from bailiwick.evidence.inputs import input_payload
from bailiwick.evidence.spool import Done, Spool, settle
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.crypto import Sealer

_AGAIN_S = 12 * 3600.0


class WorkerEvidence:
    """Events and decision inputs of one worker.

    An input goes into the spool with the event that follows it, and not again for twelve hours while ``remembered``
    digests suffice; the ledger keeps one copy of each and prolongs its life.
    """

    def __init__(self, spool: Spool, sealer: Sealer, clock: Clock, *, remembered: int = 50_000) -> None:
        self._spool = spool
        self._sealer = sealer
        self._clock = clock
        self._remembered = remembered
        self._stored: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._waiting: list[tuple[int, str, bytes]] = []

    def replace_sealer(self, sealer: Sealer) -> None:
        """Use the KEKs as they are after a rotation."""
        self._sealer = sealer

    def event(self, zone: str, body: bytes) -> asyncio.Future[None]:
        """Make an event (its canonical bytes) durable; done when it is.

        Raises :class:`Unavailable` (``evidence_unavailable``), at once or when awaited.
        """
        if not self._waiting:
            return self._spool.append(Kind.EVENT, zone, body)
        future = asyncio.get_running_loop().create_future()
        self.event_then(zone, body, lambda failure: settle(future, failure))
        return future

    def event_then(self, zone: str, body: bytes, done: Done) -> None:
        """Make an event durable, then call ``done`` with None, or with the failure.

        Raises :class:`Unavailable` (``evidence_unavailable``) when it cannot be tried; ``done`` is not called then.
        """
        if not self._waiting:
            self._spool.append_then(((Kind.EVENT, zone, body),), done)
            return
        inputs, self._waiting = self._waiting, []

        def with_inputs(failure: Exception | None) -> None:
            if failure is not None:
                # which inputs were with it is not worth remembering: all are stored again when next seen
                self._stored.clear()
            done(failure)

        try:
            self._spool.append_then([*inputs, (Kind.EVENT, zone, body)], with_inputs)
        except BaseException:
            self._stored.clear()
            raise

    def decision_input(self, zone: str, digest: str, body: bytes) -> None:
        """Keep what a decision was made from. ``digest`` is the SHA-256 of ``body`` in hexadecimal."""
        now = self._clock.monotonic()
        last = self._stored.get((zone, digest))
        if last is not None and now - last < _AGAIN_S:
            self._stored.move_to_end((zone, digest))
            return
        self._waiting.append((Kind.INPUT, zone, input_payload(self._sealer, zone, digest, body)))
        self._stored[zone, digest] = now
        if len(self._stored) > self._remembered:
            self._stored.popitem(last=False)
