"""What is asked for by the very call that does it, and done when that is sent again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bailiwick.kernel.db import Transaction
from bailiwick.kernel.errors import Conflict
from bailiwick.kernel.quorum import Approval, Quorum, Terms

WAITS: dict[int | str, dict[str, Any]] = {
    202: {"description": "Somebody else must approve it first: the approval is answered. Sent again then, it is done"}
}
"""What the document of the API says of a route that asks so."""


async def given(
    quorum: Quorum,
    tx: Transaction,
    context: Any,
    zone: str,
    action: str,
    bound: Mapping[str, Any],
    shown: Mapping[str, Any],
    *,
    by: str,
    reason: str,
    signed_in: bool,
    terms: Terms,
) -> Approval:
    """The approval of what ``bound`` says, ``executed`` by this where it was given; else what is waited for.

    For what is asked for by the call that does it: the first time it makes the request, and sent again once that
    is approved it goes through, whoever sends it. ``shown`` is what who approves is to see beside ``bound``, as it
    was when it was first asked for. A request of somebody who has left gives way to a new one, and so does one of
    who was not signed in to one of somebody who is.
    """
    for standing in await quorum.open(tx, zone, action):
        if any(name not in standing.payload or standing.payload[name] != bound[name] for name in bound):
            continue
        if standing.state != "approved":
            if standing.requester_id or not signed_in:
                return standing
            await quorum.end(tx, context, zone, standing.id, by)
            continue
        try:
            return await quorum.execute(tx, context, zone, standing.id, action, standing.payload, by)
        except Conflict as refused:
            if refused.reason == "approval_requester_gone":
                await quorum.end(tx, context, zone, standing.id, by)
                continue
            if refused.reason != "approval_required":  # somebody who approved may not any more
                raise
            return standing
    return await quorum.request(
        tx, context, zone, action, {**shown, **bound}, by=by, reason=reason, signed_in=signed_in, terms=terms
    )
