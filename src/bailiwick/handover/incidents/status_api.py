"""The status page: public, read-only, without a script; and the same as JSON."""

from __future__ import annotations

import html
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse

from bailiwick.handover.incidents.status import standing
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database
from bailiwick.kernel.http import zone_of

_POLICY = "default-src 'none'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
_HEADERS = {"Content-Security-Policy": _POLICY, "Cache-Control": "public, max-age=15"}
_STYLE = """\
body { font: 1rem/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 46rem; padding: 0 1rem; color: #1b1b1b }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
.standing { border-left: .5rem solid #2e7d32; padding: .6rem 1rem; background: #f4f6f4 }
.standing.degraded { border-color: #ef6c00 } .standing.down { border-color: #c62828 }
article { border-top: 1px solid #ccc; padding: .6rem 0 } time { color: #555 }
"""
_WORDS = {
    "operational": "Everything works, as far as is known.",
    "degraded": "Something is wrong; most works.",
    "down": "Something severe is wrong.",
}


def routes(database: Database, clock: Clock) -> APIRouter:
    """``/status``, ``/status.json`` and the page's style."""
    router = APIRouter(tags=["status"])

    @router.get("/status.json", summary="How the zone stands, for everybody")
    async def as_json(request: Request) -> JSONResponse:
        async with database.begin() as tx:
            told = await standing(tx, zone_of(request), clock.now())
        return JSONResponse(told, headers={"Cache-Control": _HEADERS["Cache-Control"]})

    @router.get("/status", summary="The same as a page", response_class=HTMLResponse)
    async def as_page(request: Request) -> HTMLResponse:
        async with database.begin() as tx:
            told = await standing(tx, zone_of(request), clock.now())
        return HTMLResponse(page(told), headers=_HEADERS)

    @router.get("/status/style.css", include_in_schema=False)
    async def style() -> HTMLResponse:
        return HTMLResponse(_STYLE, media_type="text/css", headers={"Cache-Control": "public, max-age=3600"})

    return router


def page(told: dict[str, Any]) -> str:
    """The page of what :func:`standing` answered."""
    ongoing = "".join(_article(each) for each in told["incidents"])
    past = "".join(_article(each) for each in told["past"])
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Status</title>
<link rel="stylesheet" href="status/style.css">
</head>
<body>
<h1>Status</h1>
<p class="standing {html.escape(told["status"])}">{_WORDS[told["status"]]}</p>
<p><time datetime="{told["at"]}">as of {told["at"][:19].replace("T", " ")} UTC</time></p>
<h2>Going on</h2>
{ongoing or "<p>Nothing.</p>"}
<h2>The last fortnight</h2>
{past or "<p>Nothing.</p>"}
</body>
</html>
"""


def _article(incident: dict[str, Any]) -> str:
    updates = "".join(f"<li><time>{html.escape(at)}</time></li>" for at in incident["updates"])
    return (
        f"<article><h3>{html.escape(incident['name'])}: {html.escape(incident['title'])}</h3>"
        f"<p>{html.escape(incident['state'])}, since <time>{html.escape(incident['since'])}</time></p>"
        f"{f'<ul>{updates}</ul>' if updates else ''}</article>"
    )


__all__ = ["page", "routes"]
