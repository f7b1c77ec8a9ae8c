"""Routes of the sinks: where evidence is sent, how far each is, and sending things again."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, JsonValue, StringConstraints

from bailiwick.evidence.requests import context_of
from bailiwick.evidence.siem.datadog import DatadogOptions, DatadogSecrets
from bailiwick.evidence.siem.kinds import revealed
from bailiwick.evidence.siem.operations import Operations
from bailiwick.evidence.siem.otlp import OtlpOptions, OtlpSecrets
from bailiwick.evidence.siem.s3 import S3Options, S3Secrets
from bailiwick.evidence.siem.selection import Selection
from bailiwick.evidence.siem.sinks import MOST_BATCH, Draft, Format, Sink, Sinks
from bailiwick.evidence.siem.splunk import SplunkOptions, SplunkSecrets
from bailiwick.evidence.siem.syslog import SyslogOptions, SyslogSecrets
from bailiwick.evidence.siem.webhook import WebhookOptions, WebhookSecrets
from bailiwick.kernel.answers import version_guard
from bailiwick.kernel.errors import InvalidRequest
from bailiwick.kernel.fields import Body, Name, NamePath
from bailiwick.kernel.http import Caller, Cursor, Limit, decode_cursor, encode_cursor, require, set_etag, zone_of
from bailiwick.kernel.permissions import Permission

Code = Annotated[str, StringConstraints(pattern=r"^BW[0-9]{4}$")]
EventName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9.-]{0,99}\*?$")]
Excluded = Annotated[str, StringConstraints(pattern=r"^(BW[0-9]{4}|[a-z][a-z0-9.-]{0,99}\*?)$")]
EventOutcome = Literal["success", "failure", "allow", "deny", "error"]
FieldPath = Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,40}(\.[A-Za-z0-9_]{1,100}){0,2}$")]
Redaction = Literal["remove", "mask", "hash"]
BatchSize = Annotated[int, Field(ge=1, le=MOST_BATCH)]
Linger = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False, description="Seconds a batch waits to be filled")]
ZoneName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Place = Annotated[int, Field(ge=0, lt=1 << 62, strict=True)]


def _written(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("must be written as RFC 3339 has it")
    return value


def _in_range(value: datetime) -> datetime:
    if not 1970 <= value.year <= 9000:
        raise ValueError("is out of range")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_written), AfterValidator(_in_range)]
Reader = Annotated[Caller, Depends(require(Permission.SIEM_READ))]
Operator = Annotated[Caller, Depends(require(Permission.SIEM_OPERATE))]
Writer = Annotated[Caller, Depends(require(Permission.SIEM_WRITE))]


class FilterBody(Body):
    """Which events are sent; empty lists take everything. ``exclude`` names codes or names and wins."""

    codes: Annotated[tuple[Code, ...], Field(max_length=200)] = ()
    names: Annotated[tuple[EventName, ...], Field(max_length=200, examples=[["gateway.*", "auth.login.failure"]])] = ()
    outcomes: Annotated[tuple[EventOutcome, ...], Field(max_length=5)] = ()
    exclude: Annotated[tuple[Excluded, ...], Field(max_length=200)] = ()


class FilterPatch(Body):
    """Changes to a filter: each list given replaces the one there is."""

    codes: Annotated[tuple[Code, ...], Field(max_length=200)] | None = None
    names: Annotated[tuple[EventName, ...], Field(max_length=200)] | None = None
    outcomes: Annotated[tuple[EventOutcome, ...], Field(max_length=5)] | None = None
    exclude: Annotated[tuple[Excluded, ...], Field(max_length=200)] | None = None


class _NewSink(Body):
    name: Name
    format: Format = "native"
    filter: FilterBody = FilterBody()
    redact: dict[FieldPath, Redaction] = Field({}, max_length=50, examples=[{"network.ip": "hash"}])
    batch_size: BatchSize | None = None
    linger_s: Linger | None = None
    all_zones: bool = Field(False, description="Send every zone; only for a sink of the default zone")
    enabled: bool = True
    start: Literal["beginning", "now"] = Field("beginning", description="From the oldest event there is, or from now")

    def draft(self) -> Draft:
        """The sink as the service knows it."""
        given: Any = self
        selection = Selection(**dict(self.filter))
        return Draft(
            self.name,
            given.kind,
            given.options.model_dump(mode="json"),
            revealed(given.secrets),
            self.format,
            selection,
            dict(self.redact),
            self.batch_size,
            self.linger_s,
            self.all_zones,
            self.enabled,
            self.start,
        )


class NewSplunk(_NewSink):
    """Splunk's HTTP Event Collector."""

    kind: Literal["splunk"]
    options: SplunkOptions
    secrets: SplunkSecrets


class NewDatadog(_NewSink):
    """Datadog's logs intake."""

    kind: Literal["datadog"]
    options: DatadogOptions = DatadogOptions()
    secrets: DatadogSecrets


class NewSyslog(_NewSink):
    """Syslog over TLS."""

    kind: Literal["syslog"]
    options: SyslogOptions
    secrets: SyslogSecrets = SyslogSecrets()


class NewOtlp(_NewSink):
    """An OpenTelemetry collector."""

    kind: Literal["otlp"]
    options: OtlpOptions
    secrets: OtlpSecrets = OtlpSecrets()


class NewWebhook(_NewSink):
    """A signed webhook."""

    kind: Literal["webhook"]
    options: WebhookOptions
    secrets: WebhookSecrets


class NewS3(_NewSink):
    """A bucket of an object store."""

    kind: Literal["s3"]
    options: S3Options
    secrets: S3Secrets


NewSink = Annotated[NewSplunk | NewDatadog | NewSyslog | NewOtlp | NewWebhook | NewS3, Field(discriminator="kind")]


class SinkPatch(Body):
    """Changes to a sink (JSON merge patch). ``secrets`` are needed anew when the address changes."""

    options: dict[str, JsonValue] | None = Field(None, max_length=30)
    secrets: dict[str, JsonValue] | None = Field(None, max_length=10)
    format: Format | None = None
    filter: FilterPatch | None = None
    redact: dict[FieldPath, Redaction | None] | None = Field(None, max_length=50)
    batch_size: BatchSize | None = None
    linger_s: Linger | None = None
    enabled: bool | None = None

    def patch(self) -> dict[str, Any]:
        """What was given."""
        given = {name: getattr(self, name) for name in self.model_fields_set if getattr(self, name) is not None}
        if self.filter is not None:
            given["filter"] = self.filter.model_dump(exclude_unset=True)
        return given


class DrainBody(Body):
    """How a backlog is to be worked off."""

    batch_size: BatchSize | None = None


class ReplayBody(Body):
    """From where on to send again: a place in the ledger (then with its zone, if the sink sends several) or a time."""

    from_: Place | Moment | Literal["beginning"] = Field(alias="from")
    zone: ZoneName | None = None


class RetryBody(Body):
    """Which dead letter is to be sent once more; none named: all of them."""

    letter: Place | None = None


def routes(sinks: Sinks, operations: Operations) -> APIRouter:
    """The routes under ``/api/v1/siem``."""
    router = APIRouter(prefix="/api/v1/siem", tags=["siem"])
    _sink_routes(router, sinks)
    _operation_routes(router, operations)
    return router


def _sink_routes(router: APIRouter, sinks: Sinks) -> None:
    def answer(response: Response, sink: Sink) -> dict[str, Any]:
        set_etag(response, sink.version)
        return sink.document()

    @router.get("/sinks", summary="List sinks; secrets are never shown")
    async def list_sinks(request: Request, caller: Reader) -> dict[str, Any]:
        return {"items": [sink.document() for sink in await sinks.list(zone_of(request))]}

    @router.post("/sinks", status_code=201, summary="Send evidence to another destination")
    async def create_sink(request: Request, response: Response, caller: Writer, body: NewSink) -> dict[str, Any]:
        return answer(response, await sinks.create(context_of(request, caller), body.draft()))

    @router.get("/sinks/{name}", summary="Show a sink")
    async def get_sink(request: Request, response: Response, caller: Reader, name: NamePath) -> dict[str, Any]:
        return answer(response, await sinks.get(zone_of(request), name))

    @router.patch("/sinks/{name}", summary="Change a sink (JSON merge patch)")
    async def change_sink(
        request: Request, response: Response, caller: Writer, name: NamePath, body: SinkPatch
    ) -> dict[str, Any]:
        context = context_of(request, caller)
        return answer(response, await sinks.change(context, name, body.patch(), version_guard(request)))

    @router.delete("/sinks/{name}", status_code=204, summary="Send nothing there any more")
    async def delete_sink(request: Request, caller: Writer, name: NamePath) -> None:
        await sinks.delete(context_of(request, caller), name, version_guard(request))


def _operation_routes(router: APIRouter, operations: Operations) -> None:
    @router.get("/status", summary="How far each sink is")
    async def status(request: Request, caller: Reader) -> dict[str, Any]:
        return {"items": [each.document() for each in await operations.status(zone_of(request))]}

    @router.post("/sinks/{name}/drain", status_code=202, summary="Deliver everything that waits, now")
    async def drain(
        request: Request, caller: Operator, name: NamePath, body: DrainBody | None = None
    ) -> dict[str, Any]:
        batch_size = body.batch_size if body is not None else None
        return {"targets": await operations.drain(context_of(request, caller), name, batch_size)}

    @router.post("/sinks/{name}/replay", status_code=202, summary="Send again from a place or a time on")
    async def replay(request: Request, caller: Operator, name: NamePath, body: ReplayBody) -> dict[str, Any]:
        return {"zones": await operations.replay(context_of(request, caller), name, body.from_, body.zone)}

    @router.get("/sinks/{name}/dead-letters", summary="What the destination refused for good")
    async def list_dead_letters(
        request: Request, caller: Reader, name: NamePath, limit: Limit = 100, cursor: Cursor = None
    ) -> dict[str, Any]:
        found = await operations.dead_letters(zone_of(request), name, after=_after(cursor), limit=limit)
        return {"items": found, "next": encode_cursor(found[-1]["id"]) if len(found) == limit else None}

    @router.post("/sinks/{name}/dead-letters/retry", status_code=202, summary="Send dead letters once more")
    async def retry(
        request: Request, caller: Operator, name: NamePath, body: RetryBody | None = None
    ) -> dict[str, Any]:
        letter = body.letter if body is not None else None
        return {"letters": await operations.retry(context_of(request, caller), name, letter)}

    @router.get("/sinks/{name}/repeats", summary="The delivery report: what was sent more than once")
    async def list_repeats(
        request: Request, caller: Reader, name: NamePath, limit: Limit = 100, cursor: Cursor = None
    ) -> dict[str, Any]:
        found = await operations.repeats(zone_of(request), name, after=_after(cursor), limit=limit)
        return {"items": found, "next": encode_cursor(found[-1]["id"]) if len(found) == limit else None}


def _after(cursor: str | None) -> int:
    if cursor is None:
        return 0
    (after,) = decode_cursor(cursor, (int,))
    if not 0 <= after < 1 << 62:
        raise InvalidRequest("The cursor is not one this endpoint gave.")
    return int(after)
