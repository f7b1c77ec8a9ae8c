"""From an HTTP request to the context its events carry."""

from __future__ import annotations

from fastapi import Request

from bailiwick.evidence.events import Actor, Context, Network
from bailiwick.kernel.http import Caller

LONGEST_USER_AGENT = 256


def context_of(request: Request, caller: Caller | None) -> Context:
    """The context of ``request``: what the front left in ``request.state``, who calls (if known) and from where.

    ``request.state`` holds ``zone`` and ``request_id``, and may hold ``client_request_id``, ``trace_id`` and ``ip``.
    """
    state = request.state
    return Context(
        zone=state.zone,
        actor=actor_of(caller) if caller is not None else Actor(),
        network=Network(
            ip=getattr(state, "ip", ""),
            user_agent=request.headers.get("user-agent", "")[:LONGEST_USER_AGENT],
        ),
        request_id=state.request_id,
        client_request_id=getattr(state, "client_request_id", ""),
        trace_id=getattr(state, "trace_id", ""),
    )


def actor_of(caller: Caller) -> Actor:
    """The caller as events name him; a key stands where a session would."""
    return Actor(user=caller.name, session=f"key:{caller.key}" if caller.key else caller.session)
