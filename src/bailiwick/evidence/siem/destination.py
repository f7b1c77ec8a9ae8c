"""What delivery and the destinations agree on: batches, acknowledgement, and the three ways of not taking one.

A destination sends a batch and says when it was taken. What it says otherwise decides what happens next:
:class:`Retry` is tried again, :class:`Refused` is taken apart until the one bad event is found, :class:`Stop` waits for
a person, since neither time nor another event would help.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

import msgspec


@dataclass(frozen=True, slots=True)
class Item:
    """One event on its way. ``body``: JSON, the canonical bytes unless the sink changes them; ``id`` never changes.

    ``defect`` says why no body could be made.
    """

    zone: str
    seq: int
    id: str
    at: datetime
    code: str
    name: str
    outcome: str
    body: bytes
    defect: str = ""


@dataclass(frozen=True, slots=True)
class Batch:
    """Events of one zone in order. It settles the ledger from ``first`` to ``end - 1``, filtered events included."""

    zone: str
    first: int
    end: int
    items: tuple[Item, ...]

    def split(self, at: int) -> tuple[Batch, Batch]:
        """The batch in two, the second beginning with item ``at`` (1 to the number of items less 1)."""
        edge = self.items[at].seq
        return replace(self, end=edge, items=self.items[:at]), replace(self, first=edge, items=self.items[at:])


class Retry(Exception):
    """Not taken now. ``after_s``: what the destination asked us to wait, in seconds."""

    def __init__(self, why: str, after_s: float | None = None) -> None:
        super().__init__(why)
        self.after_s = after_s


class Refused(Exception):
    """Not taken as it is, now or later. ``index``: which item the destination named, None when it did not."""

    def __init__(self, why: str, index: int | None = None) -> None:
        super().__init__(why)
        self.index = index


class Stop(Exception):
    """Nothing will be taken before a person acts: a wrong token, a wrong address, an index that is not there."""


class Destination(Protocol):
    """Where a sink sends."""

    max_bytes: int
    """The most bytes of bodies in one batch."""
    max_events: int
    """The most events in one batch."""
    window: int
    """How many batches may wait for their acknowledgement at once."""

    async def send(self, batch: Batch) -> Awaitable[None] | None:
        """Send; None when the batch is acknowledged, else what to wait for until it is.

        Raises :class:`Retry`, :class:`Refused` or :class:`Stop`; so does what is waited for.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


def enveloped(envelope: Mapping[str, Any], key: str, body: bytes) -> bytes:
    """JSON of ``envelope`` with ``body``, which is JSON already, as its last member ``key``: no byte of it changes."""
    head = msgspec.json.encode(envelope)
    comma = "," if envelope else ""
    return head[:-1] + f'{comma}"{key}":'.encode() + body + b"}"


def epoch(moment: datetime) -> float:
    """Seconds since the epoch, to the microsecond."""
    return math.floor(moment.timestamp() * 1e6 + 0.5) / 1e6


def severity(outcome: str) -> str:
    """How much an event of that outcome asks for attention: ``info``, ``warning`` or ``error``."""
    return {"success": "info", "allow": "info", "failure": "warning", "deny": "warning"}.get(outcome, "error")
