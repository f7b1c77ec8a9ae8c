"""The small HTTP server of a process that serves nobody but the supervisor: health and nothing else."""

from __future__ import annotations

from fastapi import FastAPI

from bailiwick.app import health
from bailiwick.app.servers import Listener
from bailiwick.kernel.paths import SlotPaths


def sidecar(checks: health.Health, sockets: SlotPaths) -> Listener:
    """A listener on the process's API socket that answers the health routes."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(health.routes(checks))
    return Listener(app, sockets.api)
