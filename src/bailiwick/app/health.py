"""Health: is it alive, may it take traffic, and how is each thing it leans on."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from bailiwick import __version__
from bailiwick.evidence.events import rfc3339
from bailiwick.kernel.clock import Clock

UP, DOWN, DISABLED = "UP", "DOWN", "DISABLED"

_NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {"description": "Names the part that is not ready", "content": {"application/json": {"schema": {}}}}
}

ReadyCheck = Callable[[], str | None]
"""Answers what is wrong in a few words, or None."""


class Health:
    """Gathers the answers. ``ready`` are the things without which a request must not come here, by name. ``refusing``
    names those of them under which the process works all the same, and refuses: it has started, and is not ready.

    ``services`` answer UP, DOWN or DISABLED for the four services of the detailed answer; ``figures`` its metrics.
    ``away`` names what others run and does not answer: it is told of, and the service goes on without it.
    """

    def __init__(
        self,
        clock: Clock,
        ready: Mapping[str, ReadyCheck],
        services: Mapping[str, Callable[[], Awaitable[str]]] | None = None,
        figures: Callable[[], Awaitable[Mapping[str, int]]] | None = None,
        facts: Callable[[], Mapping[str, Any]] | None = None,
        refusing: Collection[str] = (),
        away: Callable[[], Awaitable[Sequence[Mapping[str, Any]]]] | None = None,
    ) -> None:
        self._clock = clock
        self._ready = ready
        self._services = services or {}
        self._figures = figures
        self._facts = facts
        self._refusing = refusing
        self._away = away
        self._started = clock.monotonic()
        self._hostname = socket.gethostname()

    def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Whether traffic may come here, and the answer that says so or names the part that is not ready."""
        problems = {name: told for name, check in self._ready.items() if (told := check()) is not None}
        parts = {name: problems.get(name, "ready") for name in self._ready}
        body: dict[str, Any] = {"status": "not_ready" if problems else "ready", "parts": parts}
        if problems:
            body["reason"] = "not_ready"
            body["detail"] = "; ".join(f"{name}: {told}" for name, told in problems.items())
        if self._facts is not None:
            body.update(self._facts())
        return not problems, body

    def started(self) -> bool:
        """Whether the process does its work, though that may be to refuse."""
        return all(check() is None for name, check in self._ready.items() if name not in self._refusing)

    async def detailed(self) -> dict[str, Any]:
        """The answer in the shape that production checks expect."""
        services = {name: await ask() for name, ask in self._services.items()}
        figures = await self._figures() if self._figures is not None else {}
        return {
            "status": "unhealthy" if DOWN in services.values() else "healthy",
            "version": __version__,
            "timestamp": rfc3339(self._clock.now()),
            "services": services,
            **({"providers_away": [*await self._away()]} if self._away is not None else {}),
            "metrics": {"uptime_seconds": int(self._clock.monotonic() - self._started), **figures},
        }

    def basic(self) -> dict[str, str]:
        """Who answers."""
        return {"status": "ok", "hostname": self._hostname, "version": __version__}


def routes(health: Health) -> APIRouter:
    """The health routes. None needs a credential, none tells a secret."""
    router = APIRouter(tags=["health"])

    @router.get("/health", summary="Who answers")
    async def basic() -> dict[str, str]:
        """Answered by whoever is reached; the host name shows how load is spread."""
        return health.basic()

    @router.get("/health/live", summary="Does the process answer?")
    async def live() -> dict[str, str]:
        """The process answers."""
        return {"status": "alive"}

    @router.get("/health/ready", summary="May traffic come here?", responses=_NOT_READY)
    @router.get("/ready", summary="May traffic come here? (another name)", responses=_NOT_READY)
    async def ready(request: Request) -> Response:
        """Whether traffic may come here."""
        good, body = health.readiness()
        body["request_id"] = request.scope.get("state", {}).get("request_id", "")
        return JSONResponse(body, status_code=200 if good else 503, headers={"Cache-Control": "no-store"})

    @router.get("/health/started", include_in_schema=False)
    async def started() -> Response:
        """For the supervisor. A process that refuses, for evidence was lost perhaps, has started all the same."""
        good = health.started()
        return JSONResponse({"status": "started" if good else "starting"}, status_code=200 if good else 503)

    @router.get("/health/detailed", summary="How each service is")
    async def detailed() -> dict[str, Any]:
        """Every service this leans on, and a few figures."""
        return await health.detailed()

    return router
