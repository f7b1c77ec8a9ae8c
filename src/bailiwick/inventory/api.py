"""The inventory's routes: zones, servers, credentials."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field, SecretStr, StringConstraints

from bailiwick.evidence.requests import context_of
from bailiwick.inventory.credentials import MAX_VALUE, Credential, Credentials, Secret
from bailiwick.inventory.documents import ServerBody, ServerPatch
from bailiwick.inventory.servers import Server, Servers
from bailiwick.inventory.zones import ZONE_PATTERN, Zone, Zones
from bailiwick.kernel.answers import never_store, page, version_guard
from bailiwick.kernel.fields import Body, Name, NamePath, Text, after_name
from bailiwick.kernel.http import (
    Caller,
    Cursor,
    Limit,
    require,
    set_etag,
    zone_of,
)
from bailiwick.kernel.permissions import Permission

ZoneName = Annotated[str, StringConstraints(pattern=ZONE_PATTERN, max_length=63)]
HeaderName = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[\x21-\x7e]+$")]
ZoneReader = Annotated[Caller, Depends(require(Permission.ZONES_READ))]
ZoneWriter = Annotated[Caller, Depends(require(Permission.ZONES_WRITE))]
ZoneArchiver = Annotated[Caller, Depends(require(Permission.ZONES_ARCHIVE))]
ServerReader = Annotated[Caller, Depends(require(Permission.SERVERS_READ))]
ServerWriter = Annotated[Caller, Depends(require(Permission.SERVERS_WRITE))]
CredentialReader = Annotated[Caller, Depends(require(Permission.CREDENTIALS_READ))]
CredentialWriter = Annotated[Caller, Depends(require(Permission.CREDENTIALS_WRITE))]

Value = Annotated[SecretStr, Field(min_length=1, max_length=MAX_VALUE)]


class ZoneBody(Body):
    """A new zone. Its name is part of its URLs: ``/z/<name>/…``."""

    name: ZoneName
    description: Text = ""


class ZonePatch(Body):
    """Changes to a zone (JSON merge patch)."""

    description: Text | None = None


class BearerBody(Body):
    """A token presented as ``Authorization: Bearer``."""

    kind: Literal["bearer"]
    token: Value

    def secret(self) -> Secret:
        """The material as the rules know it."""
        return Secret("bearer", None, {"token": self.token.get_secret_value()})


class BasicBody(Body):
    """A user name and password presented as ``Authorization: Basic`` (RFC 7617)."""

    kind: Literal["basic"]
    username: Value
    password: Value

    def secret(self) -> Secret:
        """The material as the rules know it."""
        values = {"username": self.username.get_secret_value(), "password": self.password.get_secret_value()}
        return Secret("basic", None, values)


class ApiKeyBody(Body):
    """A key presented in a header of its own."""

    kind: Literal["api_key"]
    header: HeaderName = Field(examples=["X-API-Key"])
    value: Value

    def secret(self) -> Secret:
        """The material as the rules know it."""
        return Secret("api_key", self.header, {"value": self.value.get_secret_value()})


class NoneBody(Body):
    """Says that the upstream asks for no credential."""

    kind: Literal["none"]

    def secret(self) -> Secret:
        """The material as the rules know it."""
        return Secret("none")


class NewBearer(BearerBody):
    """A new bearer credential."""

    name: Name


class NewBasic(BasicBody):
    """A new basic credential."""

    name: Name


class NewApiKey(ApiKeyBody):
    """A new API key."""

    name: Name


class NewNone(NoneBody):
    """A new credential of kind ``none``."""

    name: Name


CredentialBody = Annotated[NewBearer | NewBasic | NewApiKey | NewNone, Field(discriminator="kind")]
RotationBody = Annotated[BearerBody | BasicBody | ApiKeyBody | NoneBody, Field(discriminator="kind")]


def routes(zones: Zones, servers: Servers, credentials: Credentials) -> APIRouter:
    """The routes of the inventory over its services."""
    router = APIRouter(prefix="/api/v1")
    _zone_routes(router, zones)
    _server_routes(router, servers)
    _credential_routes(router, credentials)
    return router


def _zone_routes(router: APIRouter, zones: Zones) -> None:
    @router.get("/zones", tags=["zones"], summary="List zones")
    async def list_zones(
        request: Request, caller: ZoneReader, cursor: Cursor = None, limit: Limit = 100
    ) -> dict[str, Any]:
        found, following = await zones.list(context_of(request, caller), after_name(cursor), limit)
        return page([zone.document() for zone in found], following)

    @router.post("/zones", tags=["zones"], status_code=201, summary="Create a zone with its keys")
    async def create_zone(request: Request, response: Response, caller: ZoneWriter, body: ZoneBody) -> dict[str, Any]:
        made = await zones.create(context_of(request, caller), body.name, body.description)
        answer = _zone(response, made.zone)
        if made.password is not None:
            never_store(response)
            answer["administrator"] = {"username": made.administrator, "one_time_password": made.password}
        return answer

    @router.get("/zones/{name}", tags=["zones"], summary="Show a zone")
    async def get_zone(request: Request, response: Response, caller: ZoneReader, name: ZoneName) -> dict[str, Any]:
        return _zone(response, await zones.get(context_of(request, caller), name))

    @router.patch("/zones/{name}", tags=["zones"], summary="Describe a zone anew")
    async def change_zone(
        request: Request, response: Response, caller: ZoneWriter, name: ZoneName, body: ZonePatch
    ) -> dict[str, Any]:
        context, guard = context_of(request, caller), version_guard(request)
        if "description" not in body.model_fields_set:
            return _zone(response, await zones.get(context, name))
        return _zone(response, await zones.change(context, name, body.description or "", guard))

    @router.post("/zones/{name}/archive", tags=["zones"], summary="Archive a zone: nothing in it works any more")
    async def archive_zone(
        request: Request, response: Response, caller: ZoneArchiver, name: ZoneName
    ) -> dict[str, Any]:
        return _zone(response, await zones.archive(context_of(request, caller), name, version_guard(request)))


def _server_routes(router: APIRouter, servers: Servers) -> None:
    def answer(response: Response, server: Server) -> dict[str, Any]:
        set_etag(response, server.version)
        return servers.document(server)

    @router.get("/servers", tags=["servers"], summary="List servers")
    async def list_servers(
        request: Request, caller: ServerReader, cursor: Cursor = None, limit: Limit = 100
    ) -> dict[str, Any]:
        found, following = await servers.list(zone_of(request), after_name(cursor), limit)
        return page([servers.document(server) for server in found], following)

    @router.post("/servers", tags=["servers"], status_code=201, summary="Register a server")
    async def create_server(
        request: Request, response: Response, caller: ServerWriter, body: ServerBody
    ) -> dict[str, Any]:
        return answer(response, await servers.create(context_of(request, caller), body))

    @router.get("/servers/{name}", tags=["servers"], summary="Show a server")
    async def get_server(request: Request, response: Response, caller: ServerReader, name: NamePath) -> dict[str, Any]:
        return answer(response, await servers.get(zone_of(request), name))

    @router.patch("/servers/{name}", tags=["servers"], summary="Change a server (JSON merge patch)")
    async def change_server(
        request: Request, response: Response, caller: ServerWriter, name: NamePath, body: ServerPatch
    ) -> dict[str, Any]:
        context = context_of(request, caller)
        return answer(response, await servers.change(context, name, body.patch(), version_guard(request)))

    @router.delete("/servers/{name}", tags=["servers"], status_code=204, summary="Deregister a server")
    async def delete_server(request: Request, caller: ServerWriter, name: NamePath) -> None:
        await servers.delete(context_of(request, caller), name, version_guard(request))


def _credential_routes(router: APIRouter, credentials: Credentials) -> None:
    def answer(response: Response, credential: Credential) -> dict[str, Any]:
        set_etag(response, credential.version)
        return credential.document()

    @router.get("/credentials", tags=["credentials"], summary="List credentials; values are never shown")
    async def list_credentials(
        request: Request, caller: CredentialReader, cursor: Cursor = None, limit: Limit = 100
    ) -> dict[str, Any]:
        found, following = await credentials.list(zone_of(request), after_name(cursor), limit)
        return page([credential.document() for credential in found], following)

    @router.post("/credentials", tags=["credentials"], status_code=201, summary="Store an upstream credential, sealed")
    async def create_credential(
        request: Request, response: Response, caller: CredentialWriter, body: CredentialBody
    ) -> dict[str, Any]:
        return answer(response, await credentials.create(context_of(request, caller), body.name, body.secret()))

    @router.get("/credentials/{name}", tags=["credentials"], summary="Show a credential, without its value")
    async def get_credential(
        request: Request, response: Response, caller: CredentialReader, name: NamePath
    ) -> dict[str, Any]:
        return answer(response, await credentials.get(zone_of(request), name))

    @router.put("/credentials/{name}", tags=["credentials"], summary="Rotate a credential; bindings stay")
    async def rotate_credential(
        request: Request, response: Response, caller: CredentialWriter, name: NamePath, body: RotationBody
    ) -> dict[str, Any]:
        context, guard = context_of(request, caller), version_guard(request)
        return answer(response, await credentials.rotate(context, name, body.secret(), guard))

    @router.delete("/credentials/{name}", tags=["credentials"], status_code=204, summary="Delete a credential")
    async def delete_credential(request: Request, caller: CredentialWriter, name: NamePath) -> None:
        await credentials.delete(context_of(request, caller), name, version_guard(request))


def _zone(response: Response, zone: Zone) -> dict[str, Any]:
    set_etag(response, zone.version)
    return zone.document()
