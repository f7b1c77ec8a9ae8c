"""Asking the supervisor: one line of JSON each way over ``run/control.sock``.

A request is ``{"do": <command>, …}``; the answer has ``ok`` and, when it is false, ``reason`` and ``detail``.
Commands: ``status``, ``down``, ``workers`` (``count``), ``restart`` (``part``), ``fence`` (``part``), ``reload``.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

LINE_LIMIT = 1 << 20


class SupervisorSilent(Exception):
    """Nobody answers on the control socket."""


class SupervisorRefused(Exception):
    """The supervisor said no. ``reason`` is its code; the text is for a person."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        super().__init__(detail)


async def ask_supervisor(socket: Path, do: str, *, limit: float = 5.0, **arguments: Any) -> dict[str, Any]:
    """Send command ``do`` and return the answer's members.

    Raises :class:`SupervisorSilent` when nothing answers within ``limit`` seconds and :class:`SupervisorRefused`
    when the answer is no: for ``fence`` either means that the part must be taken to be still alive.
    """
    try:
        async with asyncio.timeout(limit):
            reader, writer = await asyncio.open_unix_connection(socket, limit=LINE_LIMIT)
            try:
                writer.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
                line = await reader.readline()
            finally:
                writer.close()
        answer = json.loads(line)
    except (OSError, TimeoutError, ValueError) as error:
        raise SupervisorSilent(f"no supervisor answers at {socket}") from error
    if not isinstance(answer, dict) or answer.get("ok") is not True:
        known = answer if isinstance(answer, dict) else {}
        raise SupervisorRefused(str(known.get("reason", "unknown")), str(known.get("detail", "refused")))
    return answer


async def fence(socket: Path, part: str, *, limit: float = 7.0) -> None:
    """Have ``part`` killed; returns only when it is gone. Raises as :func:`ask_supervisor` does."""
    await ask_supervisor(socket, "fence", limit=limit, part=part)
