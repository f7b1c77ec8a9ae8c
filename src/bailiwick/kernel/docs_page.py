"""``/docs`` without a network: Swagger UI out of its Python package, no script but our own, under the front's CSP.

The Swagger UI that comes as a Python package reads OpenAPI 3.0 only, FastAPI writes 3.1; the page gets the same
document in 3.0 words (``/docs/openapi.json``), everybody else the original at ``/openapi.json``. All addresses are
relative, so that the page works under ``/z/<zone>/docs`` too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import swagger_ui_bundle
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

_FILES = {
    "swagger-ui.css": "text/css; charset=utf-8",
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "favicon-32x32.png": "image/png",
}
_START = """\
SwaggerUIBundle({
  url: "docs/openapi.json",
  dom_id: "#swagger-ui",
  presets: [SwaggerUIBundle.presets.apis],
  validatorUrl: null,
  deepLinking: true,
});
"""
_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Bailiwick API</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_MAPS_OF_SCHEMAS = frozenset({"properties", "patternProperties", "schemas"})
_VERBATIM = frozenset({"example", "default", "enum", "value", "x-example"})


def routes() -> APIRouter:
    """The page and its files, outside the documented API. Raises :class:`FileNotFoundError` when one is missing."""
    router = APIRouter(include_in_schema=False)
    kept: tuple[dict[str, Any], bytes] | None = None

    @router.get("/docs")
    async def page() -> Response:
        return HTMLResponse(_PAGE)

    @router.get("/docs/start.js")
    async def start() -> Response:
        return Response(_START, media_type="text/javascript")

    @router.get("/docs/openapi.json")
    async def document(request: Request) -> Response:
        nonlocal kept
        original = request.app.openapi()
        if kept is None or kept[0] is not original:
            kept = original, msgspec.json.encode(openapi_30(original))
        return Response(kept[1], media_type="application/json")

    directory = Path(str(swagger_ui_bundle.swagger_ui_path))
    for name, media_type in _FILES.items():
        router.add_api_route(f"/docs/{name}", _file(directory / name, media_type), methods=["GET"])
    return router


def _file(path: Path, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    content = path.read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'

    async def serve(request: Request) -> Response:
        headers = {"Cache-Control": "public, max-age=86400", "ETag": etag}
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media_type, headers=headers)

    return serve


def openapi_30(document: dict[str, Any]) -> dict[str, Any]:
    """An OpenAPI 3.1 document in the words of 3.0.3: what 3.0 cannot say is left out, nothing is made narrower."""
    older: dict[str, Any] = _older(
        {key: part for key, part in document.items() if key not in {"webhooks", "jsonSchemaDialect"}}
    )
    older["openapi"] = "3.0.3"
    return older


def _older(node: Any) -> Any:
    if isinstance(node, list):
        return [_older(part) for part in node]
    if not isinstance(node, dict):
        return node
    told: dict[str, Any] = {}
    for key, part in node.items():
        if key in _VERBATIM:
            told[key] = part
        elif key in _MAPS_OF_SCHEMAS and isinstance(part, dict):
            told[key] = {name: _older(schema) for name, schema in part.items()}
        else:
            told[key] = _older(part)
    _say_null(told)
    _say_the_rest(told)
    return told


def _say_null(schema: dict[str, Any]) -> None:
    """``null`` is no type of 3.0: a schema is ``nullable``."""
    if isinstance(schema.get("type"), list):
        types = [kind for kind in schema["type"] if kind != "null"]
        schema["nullable"] = len(types) < len(schema["type"])
        if len(types) == 1:
            schema["type"] = types[0]
        else:
            del schema["type"]
            schema["anyOf"] = [{"type": kind} for kind in types]
    elif schema.get("type") == "null":
        del schema["type"]
        schema.update(nullable=True, enum=[None])
    for choice in ("anyOf", "oneOf"):
        options = schema.get(choice)
        if not isinstance(options, list):
            continue
        real = [option for option in options if option != {"nullable": True, "enum": [None]}]
        if len(real) == len(options):
            continue
        schema["nullable"] = True
        if len(real) == 1:
            del schema[choice]
            # beside a $ref 3.0 reads nothing
            schema.update({"allOf": real} if "$ref" in real[0] else {**real[0], **schema})
        else:
            schema[choice] = real


def _say_the_rest(schema: dict[str, Any]) -> None:
    if "const" in schema:
        schema["enum"] = [schema.pop("const")]
    if isinstance(schema.get("examples"), list):
        examples = schema.pop("examples")
        if examples:
            schema.setdefault("example", examples[0])
    for bound, limit in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(schema.get(bound), int | float) and not isinstance(schema[bound], bool):
            schema[limit] = schema[bound]
            schema[bound] = True
    if "contentMediaType" in schema:
        del schema["contentMediaType"]
        schema.setdefault("format", "binary")
    if "prefixItems" in schema:
        del schema["prefixItems"]
        schema.setdefault("items", {})
    for word in ("propertyNames", "patternProperties", "$defs", "$schema", "unevaluatedProperties"):
        schema.pop(word, None)
