"""Whether the gateway denies more than it did: the mix of its decisions about a server, before and during a canary.

A request is denied before it is given to an arm, so a denial has no arm, and the mix is compared in time: with as long
before the canary began. What an arm itself refuses (its 401 and 403) is its own, and is the metric ``refusals``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

from bailiwick.evidence import codes
from bailiwick.kernel.db import Transaction

FEWEST = 50
"""Fewer decisions than this on either side show nothing."""


@dataclass(frozen=True, slots=True)
class Mix:
    """How many requests the gateway let through and denied."""

    allowed: int
    denied: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.allowed + self.denied

    @property
    def share(self) -> float:
        """The part that was denied; 0 of none."""
        return self.denied / self.total if self.total else 0.0


def more_denied(before: Mix, during: Mix, limit: float, alpha: float) -> str:
    """What is wrong where the share of denials grew by more than ``limit`` and hardly by chance; else empty.

    The one-sided test of two proportions against a difference of ``limit``.
    """
    if min(before.total, during.total) < FEWEST:
        return ""
    grown = during.share - before.share
    # a share of 0 or 1 has no spread of its own: one more of the other kind is thought to it
    spread = sum(_spread(each) for each in (before, during))
    if grown > limit and 0.5 * math.erfc((grown - limit) / math.sqrt(2 * spread)) <= alpha:
        return f"{100 * during.share:.1f} % are denied, {100 * before.share:.1f} % were before"
    return ""


def _spread(mix: Mix) -> float:
    share = (mix.denied + 1) / (mix.total + 2)
    return share * (1 - share) / mix.total


async def mix_of(tx: Transaction, zone: str, server: str, since: datetime, until: datetime) -> Mix:
    """The gateway's decisions about a server in a window, as far as the ledger holds them."""
    rows = await tx.all(
        "SELECT code, count(*) AS events FROM ledger.events WHERE at >= :since AND at < :until AND zone = :zone"
        " AND server = :server AND code IN (:allowed, :denied) GROUP BY code",
        since=since,
        until=until,
        zone=zone,
        server=server,
        allowed=codes.GATEWAY_ALLOWED.code,
        denied=codes.GATEWAY_DENIED.code,
    )
    counted = {row["code"]: row["events"] for row in rows}
    return Mix(counted.get(codes.GATEWAY_ALLOWED.code, 0), counted.get(codes.GATEWAY_DENIED.code, 0))


async def mixes(tx: Transaction, zone: str, server: str, began_at: datetime, now: datetime) -> tuple[Mix, Mix]:
    """Before and during; of at most an hour each."""
    long = min(now - began_at, timedelta(hours=1))
    before = await mix_of(tx, zone, server, began_at - long, began_at)
    return before, await mix_of(tx, zone, server, now - long, now)
