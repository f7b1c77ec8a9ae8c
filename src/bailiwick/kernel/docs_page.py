"""``/docs`` without a network: Swagger UI from its Python package, started by a script of ours, under a strict CSP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import swagger_ui_bundle
from fastapi import APIRouter
from fastapi.responses import FileResponse, HTMLResponse, Response

_FILES = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui-standalone-preset.js": "text/javascript",
}
_START = """\
window.onload = () => {
  window.ui = SwaggerUIBundle({
    url: "../openapi.json",
    dom_id: "#swagger-ui",
    presets: [SwaggerUIBundle.presets.apis],
    validatorUrl: null,
    supportedSubmitMethods: ["get", "post", "put", "patch", "delete"],
  });
};
"""
_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"><title>Bailiwick API</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
# Swagger UI sets style attributes and inlines its icons; scripts come from us alone
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'"
)


def routes() -> APIRouter:
    """The documentation page and its files, outside the documented API."""
    router = APIRouter(include_in_schema=False)
    directory = _directory()

    @router.get("/docs")
    async def page() -> Response:
        return HTMLResponse(_PAGE, headers={"Content-Security-Policy": _CSP})

    @router.get("/docs/start.js")
    async def start() -> Response:
        return Response(_START, media_type="text/javascript")

    for name, media_type in _FILES.items():
        if (directory / name).exists():
            router.add_api_route(f"/docs/{name}", _file(directory / name, media_type), methods=["GET"])
    return router


def _file(path: Path, media_type: str) -> Callable[[], Awaitable[Response]]:
    async def serve() -> Response:
        return FileResponse(path, media_type=media_type, headers={"Cache-Control": "public, max-age=86400"})

    return serve


def _directory() -> Path:
    root = Path(swagger_ui_bundle.__file__).parent
    return next(path.parent for path in sorted(root.rglob("swagger-ui-bundle.js")))
