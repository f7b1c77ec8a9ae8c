"""The modes of a zone: what was switched off in it, and who asks before doing anything.

A *kill switch* takes one capability away (:class:`Switch`): minting, exchanging, approving, activating or provisioning;
reaching servers is taken away by closing the gateway, to all or to one (``assurance/gateway_switch.py``). *Freeze*
stops changes and what destroys; *read-only* every change. Sign-in, health and revocation are no capability here, so
nothing switches them off.

Rows of ``switches`` are the record. Workers keep the standing ones of every zone in memory (feed kind :data:`FEED`),
for the hot path and the front; what changes something asks within its own transaction (:func:`require_on`), after
which nobody can throw a switch that it did not see.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum

from bailiwick.kernel.db import Transaction
from bailiwick.kernel.errors import Unavailable

FEED = "modes"
"""The kind under which a thrown or lifted switch, or a closed gateway, is announced."""

_LOCK = 0x6D6F6465  # "mode"


class Switch(StrEnum):
    """What can be switched off."""

    MINT = "mint"
    EXCHANGE = "exchange"
    APPROVE = "approve"
    ACTIVATE = "activate"
    PROVISION = "provision"
    FREEZE = "freeze"
    READ_ONLY = "read-only"


_REASONS = {Switch.FREEZE: "changes_frozen", Switch.READ_ONLY: "read_only"}


def refusal(switch: Switch) -> Unavailable:
    """What is answered to who asks for something that ``switch`` took away."""
    reason = _REASONS.get(switch, "switched_off")
    return Unavailable(reason=reason, switch=switch.value, headers={"retry-after": "60"})


def refuse_thrown(standing: Collection[str], *switches: Switch) -> None:
    """Refuse where one of ``switches`` is thrown. Raises ``switched_off``, ``changes_frozen``, ``read_only``."""
    if standing:
        for switch in switches:
            if switch.value in standing:
                raise refusal(switch)


async def standing(tx: Transaction, zone: str) -> frozenset[str]:
    """The switches that are thrown in a zone now."""
    rows = await tx.all("SELECT name FROM switches WHERE zone = :zone AND lifted_at IS NULL", zone=zone)
    return frozenset(row["name"] for row in rows)


async def require_on(tx: Transaction, zone: str, *switches: Switch) -> None:
    """Refuse where one of ``switches`` is thrown; none is thrown from now on until this transaction has ended.

    For transactions that end soon. Raises what :func:`refuse_thrown` does.
    """
    await tx.run("SELECT pg_advisory_xact_lock_shared(CAST(:lock AS int), hashtext(:zone))", lock=_LOCK, zone=zone)
    refuse_thrown(await standing(tx, zone), *switches)


async def hold(tx: Transaction, zone: str) -> None:
    """Wait for whoever asked :func:`require_on` and is not done yet, and let nobody ask until this transaction ends."""
    await tx.run("SELECT pg_advisory_xact_lock(CAST(:lock AS int), hashtext(:zone))", lock=_LOCK, zone=zone)


async def frozen_zones(tx: Transaction) -> frozenset[str]:
    """The zones in which nothing may be destroyed now. Jobs that remove things of all zones ask this."""
    rows = await tx.all(
        "SELECT DISTINCT zone FROM switches WHERE name = ANY(:names) AND lifted_at IS NULL",
        names=[Switch.FREEZE.value, Switch.READ_ONLY.value],
    )
    return frozenset(row["zone"] for row in rows)
