"""The JSON documents by which servers are registered and changed, as OpenAPI shows them.

:class:`ServerBody` is a whole registration; :class:`ServerPatch` has the same members, each of which may be absent or
null (RFC 7396). A patched document is validated as a whole registration again.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationError, field_validator

from bailiwick.inventory.endpoints import MAX_URL
from bailiwick.inventory.operations import MAX_OPERATIONS, MAX_TEMPLATE, Operation
from bailiwick.kernel.errors import InvalidRequest
from bailiwick.kernel.fields import Body, Line, Name, Scope, Text

MAX_TAGS = 64
MAX_HOSTS = 32

Url = Annotated[str, StringConstraints(min_length=8, max_length=MAX_URL, pattern=r"^[^\x00-\x20\x7f]+$")]
TagKey = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")]
HostName = Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=r"^[^\x00-\x20\x7f]+$")]
Method = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z-]{0,31}$")]
Template = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEMPLATE, pattern=r"^/[\x21-\x7e]*$")]
Protocol = Literal["http1", "http2"]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Bytes = Annotated[int, Field(ge=1, lt=2**32)]
Pem = Annotated[str, StringConstraints(max_length=65_536, pattern=r"^[\x09\x0a\x0d\x20-\x7e]*$")]


class OperationBody(Body):
    """One operation: a method and a path template, the scope it needs, and whether it lasts."""

    method: Method = Field(description="Upper case; TRACE and CONNECT are not carried", examples=["GET"])
    path: Template = Field(description="OpenAPI path template", examples=["/payments/{id}"])
    scope: Scope = Field(examples=["payments:read"])
    name: Line = ""
    long_lived: bool = Field(False, description="SSE, WebSocket, gRPC streams: cut when their authority ends")

    def operation(self) -> Operation:
        """The operation as the rules know it."""
        return Operation(self.method, self.path, self.scope, self.name, self.long_lived)


class BindingBody(Body):
    """Which upstream a server's requests get, which operations pass, and with which credential."""

    upstream_url: Url | None = Field(None, description="Default: the server's endpoint")
    operations: list[OperationBody] = Field(default_factory=list, max_length=MAX_OPERATIONS)
    credential: Name | None = Field(
        None, description="Name of a stored credential; one of kind `none` says that the upstream needs none"
    )
    hosts: list[HostName] = Field(
        default_factory=list, max_length=MAX_HOSTS, description="Host names of the gateway that mean this server"
    )
    protocol: Protocol = "http1"
    timeout_s: Seconds | None = None
    idle_timeout_s: Seconds | None = None
    max_request_bytes: Bytes | None = None
    ca_pem: Pem | None = Field(None, description="Certificates the upstream's must chain to; default: the system's")


class ServerBody(Body):
    """A server: an inventory entry, the OAuth resource."""

    name: Name
    endpoint: Url = Field(examples=["https://web-01.example.com"])
    description: Text = ""
    tags: dict[TagKey, Line] = Field(default_factory=dict, max_length=MAX_TAGS)
    binding: BindingBody | None = None


class BindingPatch(Body):
    """Changes to a binding; null removes a member. Arrays are replaced whole."""

    upstream_url: Url | None = None
    operations: list[OperationBody] | None = Field(None, max_length=MAX_OPERATIONS)
    credential: Name | None = None
    hosts: list[HostName] | None = Field(None, max_length=MAX_HOSTS)
    protocol: Protocol | None = None
    timeout_s: Seconds | None = None
    idle_timeout_s: Seconds | None = None
    max_request_bytes: Bytes | None = None
    ca_pem: Pem | None = None


class ServerPatch(Body):
    """Changes to a server (JSON merge patch). A null tag removes it; a null binding unbinds the server."""

    endpoint: Url = ""
    description: Text | None = None
    tags: dict[TagKey, Line | None] | None = Field(None, max_length=MAX_TAGS)
    binding: BindingPatch | None = None

    @field_validator("endpoint", mode="before")
    @classmethod
    def _not_null(cls, value: Any) -> Any:
        if value is None:
            raise ValueError("a server cannot be without an endpoint")
        return value

    def patch(self) -> dict[str, Any]:
        """The members that were sent, as RFC 7396 reads them."""
        return self.model_dump(exclude_unset=True)


def parse_server(document: dict[str, Any]) -> ServerBody:
    """A whole registration; raises ``invalid_request`` saying what is wrong, without quoting values."""
    try:
        return ServerBody.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidRequest(f"{where}: {first['msg']}") from None
