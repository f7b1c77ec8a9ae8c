"""What every page of the console shares: its frame, its files, and what a refusal looks like to a person.

A page is written by the server and changes nothing by itself. What a person does on it a script of ours sends to the
API, with the session's cookie and its token against forgery (:mod:`bailiwick.identity.cookie_sessions`): the pages have
no rules of their own. They live under the front's Content-Security-Policy, which lets no inline script run and nobody
frame them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine
from functools import cache
from importlib import resources
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from bailiwick.identity.cookie_sessions import own_path
from bailiwick.kernel.answers import never_store
from bailiwick.kernel.errors import REASONS, BailiwickError
from bailiwick.kernel.problems import as_error, told_of_refusal

ROOT = "/console"
HOME = f"{ROOT}/handovers"
SIGN_IN = f"{ROOT}/sign-in"

_SHARED = "bailiwick.identity.console"
_MEDIA = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}


class PageRoute(APIRoute):
    """A route that a person looks at: its refusals are pages, and who is not signed in is led to where one does so."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler of the route, which answers what it raises."""
        answer = super().get_route_handler()

        async def shown(request: Request) -> Response:
            try:
                return await answer(request)
            except (BailiwickError, RequestValidationError, HTTPException) as raised:
                return _refusal(request, await told_of_refusal(request, as_error(raised)))

        return shown


def page(
    request: Request,
    name: str,
    *,
    package: str = _SHARED,
    csrf: str = "",
    who: str = "",
    status: int = 200,
    **values: Any,
) -> HTMLResponse:
    """The page ``name`` of the templates of ``package``. ``csrf``: the session's token, for what the page sends."""
    base = own_path(request.scope["state"]["zone"], "")
    text = _templates(package).get_template(f"{name}.html").render(base=base, csrf=csrf, who=who, **values)
    answer = HTMLResponse(text, status)
    # without a referrer, browsers would not say either which page sent the request
    answer.headers["Referrer-Policy"] = "same-origin"
    never_store(answer)
    return answer


def add_files(router: APIRouter, folder: str, names: tuple[str, ...], *, package: str = _SHARED) -> None:
    """Serve the files ``names`` beside the templates of ``package`` below ``folder``."""
    for name in names:
        router.add_api_route(f"{folder}/{name}", _file(package, name), methods=["GET"], include_in_schema=False)


def _refusal(request: Request, error: BailiwickError) -> Response:
    if error.status == 401:
        zone, path = request.scope["state"]["zone"], request.scope["path"]
        asked = urlencode({"to": own_path(zone, path), "why": error.reason})
        answer: Response = RedirectResponse(f"{own_path(zone, SIGN_IN)}?{asked}", 303)
        never_store(answer)
        return answer
    meaning = REASONS[error.reason].meaning
    return page(
        request, "problem", status=error.status, reason=error.reason, meaning=meaning, detail=error.detail or meaning
    )


def _file(package: str, name: str) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    content = (resources.files(package) / "pages" / name).read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    # asked for anew each time, so that a page never meets the script of another version
    headers = {"Cache-Control": "no-cache", "ETag": etag}

    async def serve(request: Request) -> Response:
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=_MEDIA[name.rpartition(".")[2]], headers=headers)

    return serve


@cache
def _templates(package: str) -> Any:
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=ChoiceLoader([PackageLoader(each, "pages") for each in dict.fromkeys((package, _SHARED))]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


__all__ = ["HOME", "ROOT", "SIGN_IN", "PageRoute", "add_files", "page"]
