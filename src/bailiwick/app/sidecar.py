"""The small HTTP server of a process that serves nobody but the installation itself: health, and what it is asked."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI

from bailiwick.app import health
from bailiwick.app.servers import Listener
from bailiwick.kernel.paths import SlotPaths


def sidecar(checks: health.Health, sockets: SlotPaths, *routers: APIRouter) -> Listener:
    """A listener on the process's API socket that answers the health routes, and those of ``routers``."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(health.routes(checks))
    for router in routers:
        app.include_router(router)
    return Listener(app, sockets.api)
