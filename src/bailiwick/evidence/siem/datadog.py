"""Datadog's logs intake, version 2: arrays of at most 1,000 logs and 5 MB before compression, answered with 202."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from bailiwick.evidence.siem.destination import Batch, Item, Retry, enveloped, severity
from bailiwick.evidence.siem.options import Certificates, Timeout, Token, Url, Word, host_and_port
from bailiwick.evidence.siem.outgoing import Means, Outgoing, judge
from bailiwick.kernel.fields import Body, Line

_STATUS = {"info": "info", "warning": "warn", "error": "error"}

Site = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+([.-][a-z0-9]+)+$", max_length=100)]
Tag = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_./:-]{0,199}$")]


class DatadogOptions(Body):
    """Where the account is and how its logs are tagged. ``url`` takes the place of the site's intake."""

    site: Site = "datadoghq.com"
    url: Annotated[Url | None, Field(description="Another intake, a proxy perhaps; default: that of the site")] = None
    service: Word = "sark"
    source: Word = "sark"
    tags: Annotated[tuple[Tag, ...], Field(max_length=50)] = ("env:production",)
    hostname: Line = ""
    timeout_s: Timeout = 30.0
    ca: Certificates = ""

    @property
    def intake(self) -> str:
        """The URL logs are posted to."""
        base = self.url or f"https://http-intake.logs.{self.site}"
        return base if base.endswith("/api/v2/logs") else f"{base}/api/v2/logs"

    @property
    def leads_to(self) -> tuple[str, int]:
        """Host and port."""
        return host_and_port(self.intake)


class DatadogSecrets(Body):
    """The API key. The application key is not needed to send logs."""

    api_key: Token


class Datadog:
    """One sink's connection to the intake. A 202 is all the acknowledgement there is."""

    max_bytes = 4 << 20
    max_events = 1000
    window = 1

    def __init__(self, options: DatadogOptions, secrets: DatadogSecrets, means: Means) -> None:
        self._options = options
        self._means = means
        self._headers = {"DD-API-KEY": secrets.api_key.get_secret_value(), "Content-Type": "application/json"}
        self._http = Outgoing(means.reach, timeout_s=options.timeout_s, ca=options.ca)

    async def send(self, batch: Batch) -> None:
        """See :class:`~bailiwick.evidence.siem.destination.Destination`."""
        body = b"[" + b",".join(self._log(item) for item in batch.items) + b"]"
        answer = await self._http.post(self._options.intake, body, self._headers, compress=True)
        judge(answer, self._means.clock.now())
        if answer.status != 202:
            raise Retry(f"answered {answer.status} in place of 202: is that Datadog's intake?")

    async def close(self) -> None:
        """Let go of connections."""
        await self._http.close()

    def _log(self, item: Item) -> bytes:
        tags = [*self._options.tags, f"zone:{item.zone}", f"event_code:{item.code}", f"outcome:{item.outcome}"]
        envelope = {
            "ddsource": self._options.source,
            "ddtags": ",".join(tags),
            "hostname": self._options.hostname or self._means.host,
            "service": self._options.service,
            "status": _STATUS[severity(item.outcome)],
            "timestamp": round(item.at.timestamp() * 1000),
            "message": f"{item.name or item.code} {item.outcome}",
            "event_id": item.id,
            "seq": item.seq,
        }
        return enveloped(envelope, "event", item.body)
