"""The routes of SCIM, which only translate. Who calls needs ``scim:write``; to raise anybody, also ``users:write``."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from bailiwick.evidence.events import Context
from bailiwick.evidence.requests import context_of
from bailiwick.identity.scim.errors import ScimError, error_document
from bailiwick.identity.scim.groups import ScimGroups
from bailiwick.identity.scim.queries import Query, Shown
from bailiwick.identity.scim.schemas import (
    MAX_RESULTS,
    configuration,
    listed,
    resource_types,
    schemas,
)
from bailiwick.identity.scim.users import ScimUsers
from bailiwick.inventory.zones import VersionGuard
from bailiwick.kernel.answers import version_guard
from bailiwick.kernel.errors import BailiwickError, NotFound
from bailiwick.kernel.fields import IdPath
from bailiwick.kernel.http import Caller, require, zone_of
from bailiwick.kernel.permissions import Permission
from bailiwick.kernel.problems import as_error, problem_headers

MEDIA_TYPE = "application/scim+json"
PREFIX = "/scim/v2"

Client = Annotated[Caller, Depends(require(Permission.SCIM_WRITE))]
NamedPath = Annotated[str, Path(max_length=200)]
_BODY: dict[str, Any] = {
    "requestBody": {"required": True, "content": {MEDIA_TYPE: {"schema": {"type": "object"}}}},
}
_QUERY: dict[str, Any] = {
    "parameters": [
        {"name": name, "in": "query", "required": False, "schema": {"type": kind}, "description": what}
        for name, kind, what in (
            ("filter", "string", "Which ones (RFC 7644 §3.4.2.2)"),
            ("sortBy", "string", "By which attribute"),
            ("sortOrder", "string", "ascending or descending"),
            ("startIndex", "integer", "The first one answered, from 1"),
            ("count", "integer", f"Most answered at once, at most {MAX_RESULTS}"),
            ("attributes", "string", "Only these, parted by commas"),
            ("excludedAttributes", "string", "Not these, parted by commas"),
        )
    ]
}


class ScimResponse(Response):
    """An answer in SCIM's media type."""

    media_type = MEDIA_TYPE

    def render(self, content: Any) -> bytes:
        """The JSON, in ASCII."""
        return json.dumps(content, separators=(",", ":")).encode()


class _ScimRoute(APIRoute):
    """A route whose refusals are of SCIM's form."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The route's handler, with its errors turned into answers."""
        handler = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handler(request)
            except (BailiwickError, RequestValidationError) as raised:
                return await _refusal(request, as_error(raised))

        return answer


async def _refusal(request: Request, error: BailiwickError) -> Response:
    refused = getattr(request.app.state, "refused", None)
    if refused is not None and error.status == 403 and getattr(request.state, "caller", None) is not None:
        try:
            await refused(request, error)
        except BailiwickError as unavailable:
            error = unavailable
    headers = {**problem_headers(error), "content-type": MEDIA_TYPE}
    return ScimResponse(error_document(error, getattr(request.state, "request_id", "")), error.status, headers)


def routes(users: ScimUsers, groups: ScimGroups, issuer: Callable[[str], str]) -> APIRouter:
    """The routes of SCIM; ``issuer`` answers the base URL of a zone."""
    router = APIRouter(prefix=PREFIX, tags=["scim"], route_class=_ScimRoute, default_response_class=ScimResponse)

    def base(request: Request) -> str:
        return issuer(zone_of(request)) + PREFIX

    _discovery_routes(router, base)
    _resource_routes(router, "user", users, base, "`active: false` ends everything he has open before it answers.")
    _resource_routes(router, "group", groups, base, "A member more or less costs the same in a group of any size.")
    return router


Base = Callable[[Request], str]
Document = Mapping[str, Any]


class Change(Protocol):
    """Changes one resource as ``body`` says."""

    async def __call__(
        self, context: Context, identifier: str, body: Document, guard: VersionGuard, /, *, widen: bool
    ) -> None: ...


class Resources(Protocol):
    """Reads and changes the resources of one kind."""

    related_as: str

    @property
    def replace(self) -> Change: ...

    @property
    def patch(self) -> Change: ...

    async def create(self, context: Context, body: Document, base: str, *, widen: bool) -> dict[str, Any]: ...

    async def get(self, zone: str, identifier: str, base: str, *, whole: bool = True) -> dict[str, Any]: ...

    async def list(self, zone: str, query: Query, base: str) -> tuple[Sequence[dict[str, Any]], int]: ...

    async def delete(self, context: Context, identifier: str, guard: VersionGuard) -> None: ...


def _discovery_routes(router: APIRouter, base: Base) -> None:
    @router.get("/ServiceProviderConfig", summary="What of SCIM is offered")
    async def get_configuration(request: Request, caller: Client) -> Response:
        return ScimResponse(configuration(base(request)))

    @router.get("/ResourceTypes", summary="What kinds of resources there are")
    async def list_types(request: Request, caller: Client) -> Response:
        return _all(request, resource_types(base(request)))

    @router.get("/ResourceTypes/{name}", summary="One kind of resource")
    async def get_type(request: Request, caller: Client, name: NamedPath) -> Response:
        return _one(resource_types(base(request)), name)

    @router.get("/Schemas", summary="What resources consist of")
    async def list_schemas(request: Request, caller: Client) -> Response:
        return _all(request, schemas(base(request)))

    @router.get("/Schemas/{name}", summary="One schema")
    async def get_schema(request: Request, caller: Client, name: NamedPath) -> Response:
        return _one(schemas(base(request)), name)


def _resource_routes(router: APIRouter, noun: str, kind: Resources, base: Base, patched: str) -> None:
    """The routes of one kind of resource; ``patched`` says what changing one does."""
    path = f"/{noun.title()}s"

    async def changed(request: Request, caller: Caller, change: Change, identifier: str) -> Response:
        context, body, guard = context_of(request, caller), await _body(request), version_guard(request)
        await change(context, identifier, body, guard, widen=_may_widen(caller))
        return await shown(request, identifier)

    async def shown(request: Request, identifier: str) -> Response:
        whole = Shown.of(request.query_params).shows(kind.related_as)
        return _resource(request, await kind.get(zone_of(request), identifier, base(request), whole=whole))

    @router.get(path, name=f"list_{noun}s", summary=f"Find {noun}s", openapi_extra=_QUERY)
    async def find(request: Request, caller: Client) -> Response:
        query = Query.of(request.query_params)
        found, total = await kind.list(zone_of(request), query, base(request))
        return _page(query, [*found], total)

    @router.post(path, name=f"create_{noun}", status_code=201, summary=f"Create a {noun}", openapi_extra=_BODY)
    async def create(request: Request, caller: Client) -> Response:
        context, body = context_of(request, caller), await _body(request)
        made = await kind.create(context, body, base(request), widen=_may_widen(caller))
        return _resource(request, made, 201)

    one = f"{path}/{{identifier}}"

    @router.get(one, name=f"get_{noun}", summary=f"Show a {noun}")
    async def get(request: Request, caller: Client, identifier: IdPath) -> Response:
        return await shown(request, identifier)

    @router.put(one, name=f"replace_{noun}", summary=f"Replace a {noun}", openapi_extra=_BODY)
    async def replace(request: Request, caller: Client, identifier: IdPath) -> Response:
        return await changed(request, caller, kind.replace, identifier)

    @router.patch(one, name=f"patch_{noun}", summary=f"Change a {noun}", description=patched, openapi_extra=_BODY)
    async def patch(request: Request, caller: Client, identifier: IdPath) -> Response:
        return await changed(request, caller, kind.patch, identifier)

    @router.delete(one, name=f"delete_{noun}", status_code=204, summary=f"Delete a {noun}")
    async def delete(request: Request, caller: Client, identifier: IdPath) -> Response:
        await kind.delete(context_of(request, caller), identifier, version_guard(request))
        return Response(status_code=204)


def _may_widen(caller: Caller) -> bool:
    return caller.may(Permission.USERS_WRITE)


async def _body(request: Request) -> Mapping[str, Any]:
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise ScimError("invalidSyntax", "The body is no JSON.") from None
    if not isinstance(body, dict):
        raise ScimError("invalidSyntax", "The body is an object.")
    return body


def _resource(request: Request, resource: dict[str, Any], status: int = 200) -> Response:
    version = str(resource["meta"]["version"])
    headers = {"ETag": version, "Location": str(resource["meta"]["location"])}
    shown = Shown.of(request.query_params)
    if request.method == "GET" and request.headers.get("if-none-match") in (version, version.removeprefix("W/")):
        return Response(status_code=304, headers=headers)
    return ScimResponse(shown.cut(resource), status, headers)


def _page(query: Query, resources: list[dict[str, Any]], total: int) -> Response:
    return ScimResponse(listed([query.shown.cut(each) for each in resources], total, query.start))


def _all(request: Request, resources: list[dict[str, Any]]) -> Response:
    if "filter" in request.query_params:  # RFC 7644 §4
        raise BailiwickError("These cannot be filtered.", reason="permission_denied")
    return ScimResponse(listed(resources, len(resources), 1))


def _one(resources: list[dict[str, Any]], name: str) -> Response:
    found = next((each for each in resources if each["id"].lower() == name.lower()), None)
    if found is None:
        raise NotFound("There is nothing by that name.")
    return ScimResponse(found)
