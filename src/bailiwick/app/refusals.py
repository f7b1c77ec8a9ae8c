"""Taking note of what a signed-in person was refused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request

from bailiwick.evidence import codes
from bailiwick.evidence.events import Recorder, encode
from bailiwick.evidence.requests import context_of
from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.problems import Refused


def refusal_recorder(recorder: Recorder, record: Callable[[str, bytes], Awaitable[None]]) -> Refused:
    """Makes each refusal durable by ``record(zone, body)`` before it is answered."""

    async def refused(request: Request, error: BailiwickError) -> None:
        details: dict[str, Any] = {
            "method": request.method,
            "route": getattr(request.scope.get("route"), "path", ""),
        }
        if permission := error.extra.get("permission"):
            details["permission"] = str(permission)
        context = context_of(request, request.state.caller)
        event = recorder.make(codes.ACCESS_REFUSED, "deny", context, reasons=(error.reason,), **details)
        await record(context.zone, encode(event))

    return refused
