"""OpenTelemetry logs over OTLP/HTTP in JSON: ``POST /v1/logs``. The canonical event is the body of the log record."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

import msgspec
from pydantic import AfterValidator, Field, SecretStr, StringConstraints

from bailiwick import __version__
from bailiwick.evidence.siem.destination import Batch, Item, Refused, severity
from bailiwick.evidence.siem.options import Certificates, Timeout, Url, Word, host_and_port, printable
from bailiwick.evidence.siem.outgoing import Means, Outgoing, judge
from bailiwick.kernel.fields import Body

# the first number of each range of the log data model
_SEVERITY = {"info": (9, "INFO"), "warning": (13, "WARN"), "error": (17, "ERROR")}
_TRACE_ID = re.compile(r"(?!0{32})[0-9a-f]{32}")

Header = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,63}$")]


class OtlpOptions(Body):
    """Where the collector is and what the resource is called. ``header`` carries the secret, if there is one."""

    url: Url = Field(examples=["https://collector.example.com:4318"])
    service_name: Word = "bailiwick"
    header: Header = "Authorization"
    timeout_s: Timeout = 30.0
    ca: Certificates = ""

    @property
    def endpoint(self) -> str:
        """The URL logs are posted to."""
        return self.url if self.url.endswith("/v1/logs") else f"{self.url}/v1/logs"

    @property
    def leads_to(self) -> tuple[str, int]:
        """Host and port."""
        return host_and_port(self.url)


class OtlpSecrets(Body):
    """The value of the header, for example ``Bearer …``; none where the collector asks for none."""

    value: Annotated[SecretStr, Field(min_length=1, max_length=4096), AfterValidator(printable)] | None = None


class _Traced(msgspec.Struct):
    trace_id: str = ""


class Otlp:
    """One sink's connection to a collector."""

    max_bytes = 2 << 20
    max_events = 5000
    window = 1

    def __init__(self, options: OtlpOptions, secrets: OtlpSecrets, means: Means) -> None:
        self._options = options
        self._means = means
        self._headers = {"Content-Type": "application/json"}
        if secrets.value is not None:
            self._headers[options.header] = secrets.value.get_secret_value()
        self._http = Outgoing(means.reach, timeout_s=options.timeout_s, ca=options.ca)
        self._traced = msgspec.json.Decoder(_Traced)

    async def send(self, batch: Batch) -> None:
        """See :class:`~bailiwick.evidence.siem.destination.Destination`."""
        resource = {"service.name": self._options.service_name, "host.name": self._means.host}
        request = {
            "resourceLogs": [
                {
                    "resource": {"attributes": _attributes(resource)},
                    "scopeLogs": [
                        {
                            "scope": {"name": "bailiwick.evidence", "version": __version__},
                            "logRecords": [self._record(item) for item in batch.items],
                        }
                    ],
                }
            ]
        }
        body = json.dumps(request, separators=(",", ":"), ensure_ascii=False).encode()
        answer = await self._http.post(self._options.endpoint, body, self._headers, compress=True)
        judge(answer, self._means.clock.now())
        rejected, why = _rejected(answer.body)
        if rejected:
            raise Refused(f"{rejected} records rejected: {why}")

    async def close(self) -> None:
        """Let go of connections."""
        await self._http.close()

    def _record(self, item: Item) -> dict[str, Any]:
        number, text = _SEVERITY[severity(item.outcome)]
        nanoseconds = str(round(item.at.timestamp() * 1e6) * 1000)
        attributes = {
            "event.name": item.name or item.code,
            "bailiwick.event.id": item.id,
            "bailiwick.zone": item.zone,
            "bailiwick.seq": item.seq,
            "bailiwick.code": item.code,
            "bailiwick.outcome": item.outcome,
        }
        record: dict[str, Any] = {
            "timeUnixNano": nanoseconds,
            "observedTimeUnixNano": nanoseconds,
            "severityNumber": number,
            "severityText": text,
            "body": {"stringValue": item.body.decode("utf-8", "replace")},
            "attributes": _attributes(attributes),
        }
        try:
            trace_id = self._traced.decode(item.body).trace_id
        except msgspec.MsgspecError:
            trace_id = ""  # another form, or a field that was taken out
        if _TRACE_ID.fullmatch(trace_id):
            record["traceId"] = trace_id
        return record


def _attributes(values: dict[str, Any]) -> list[dict[str, Any]]:
    # 64-bit integers are strings in protobuf's JSON
    return [
        {"key": key, "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}}
        for key, value in values.items()
    ]


def _rejected(body: bytes) -> tuple[int, str]:
    """How many records a partial success rejects, and why."""
    try:
        partial = json.loads(body).get("partialSuccess") or {}
        return int(partial.get("rejectedLogRecords") or 0), str(partial.get("errorMessage", ""))[:200]
    except (ValueError, AttributeError, TypeError):
        return 0, ""
