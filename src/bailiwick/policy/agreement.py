"""What of a zone's policies takes a second person, and what exactly he agrees to.

The first set of a zone that never had one is one person's to activate: until then everything is denied, and there is
nothing that others agreed to. From then on every other set takes two, whatever it changes, but for one that has proven
itself: to return to that is how a person alone gets out of trouble. So to mark a set as proven takes two as well.

Who agrees, agrees to one set, by its content, in place of the activation that he was shown, and sees what the set would
newly allow. When another set becomes active, what was asked for against the one before is over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from bailiwick.evidence.approvals import asker_of
from bailiwick.evidence.events import Context
from bailiwick.kernel.agreement import given
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.permissions import Permission
from bailiwick.kernel.quorum import Action, Approval, Quorum, Terms
from bailiwick.policy.comparison import Comparison, Pair
from bailiwick.policy.sets import Activation, ActivationKind, Member

ACTIVATE = Action("policy.activate", Permission.OVERRIDES_APPROVE, life=timedelta(hours=24))
MARK = Action("policy.known-good", Permission.OVERRIDES_APPROVE, life=timedelta(hours=24))
TERMS = Terms(roles=("admin", "security_owner"), window=timedelta(hours=24))

_MOST_CHANGES = 40
_MOST_PAIRS = 20
_LONGEST = 200


class Agreements:
    """Holds a change of a zone's policies until somebody else agreed to exactly that."""

    def __init__(self, quorum: Quorum) -> None:
        self._quorum = quorum
        quorum.register(ACTIVATE)
        quorum.register(MARK)

    async def given(
        self, tx: Transaction, context: Context, action: Action, bound: Mapping[str, Any], shown: Mapping[str, Any]
    ) -> Approval:
        """The approval of ``bound``, used up and so ``executed`` where it was given; else what is waited for.

        Called in the transaction that makes the change, under the lock of the zone. ``shown`` has a ``summary``.
        """
        by, signed_in = asker_of(context)
        return await given(
            self._quorum,
            tx,
            context,
            context.zone,
            action.name,
            bound,
            shown,
            by=by,
            reason=shown["summary"],
            signed_in=signed_in,
            terms=TERMS,
        )

    async def end_stale(self, tx: Transaction, context: Context) -> None:
        """End what was asked for against the set that was active until now."""
        for standing in await self._quorum.open(tx, context.zone, ACTIVATE.name):
            await self._quorum.end(tx, context, context.zone, standing.id, "bailiwick")


def bound_to(hash: str, kind: ActivationKind, active: Activation) -> dict[str, Any]:
    """What an agreement to a set is bound to: its content, and the activation it takes the place of."""
    return {"policy_set": hash, "change": kind, "active": active.id, "active_set": active.hash}


def shown_of(
    kind: ActivationKind, active: Activation, members: Sequence[Member], found: Comparison, pairs: Sequence[Pair]
) -> dict[str, Any]:
    """What who agrees sees: the policies that change, and the pairs that are newly allowed (the first of them)."""
    changes = differences(active.members, members)
    return {
        "summary": f"{kind} {', '.join(changes)}"[:_LONGEST],
        "changes": changes[:_MOST_CHANGES],
        "comparison": found.status,
        "newly_allowed": len(pairs),
        "pairs": [_plain(str(pair)) for pair in pairs[:_MOST_PAIRS]],
    }


def differences(before: Sequence[Member], after: Sequence[Member]) -> list[str]:
    """Which policies change: ``+name 2``, ``-name 1``, ``name 1 → 2``."""
    old, new = ({member.name: member for member in members} for members in (before, after))
    told = []
    for name in sorted(old.keys() | new.keys()):
        if name not in new:
            told.append(f"-{name} {old[name].version}")
        elif name not in old:
            told.append(f"+{name} {new[name].version}")
        elif old[name] != new[name]:
            told.append(f"{name} {old[name].version} → {new[name].version}")
    return told


def _plain(text: str) -> str:
    # PostgreSQL refuses U+0000 inside jsonb
    return text.replace("\x00", "\ufffd")[:_LONGEST]
