"""Webhooks signed as Standard Webhooks has it: ``webhook-id``, ``webhook-timestamp``, ``webhook-signature``.

A message holds up to a batch of events. Its id is made of the ids of the events in it, so that the same id always means
the same content; receivers that keep events apart do so by the events' own ids.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from bailiwick.evidence.events import rfc3339
from bailiwick.evidence.siem.destination import Batch, enveloped
from bailiwick.evidence.siem.options import Certificates, Timeout, Url, host_and_port
from bailiwick.evidence.siem.outgoing import Means, Outgoing, judge
from bailiwick.kernel.fields import Body

_PREFIX = "whsec_"
TYPE = "bailiwick.events"


def signing_key(secret: str) -> bytes:
    """The key of a ``whsec_…`` secret; raises ``ValueError`` unless it is 24 to 64 bytes in base64."""
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not secret.startswith(_PREFIX) or not 24 <= len(key) <= 64:
        raise ValueError("must be whsec_ and 24 to 64 bytes in base64")
    return key


def sign(key: bytes, identifier: str, timestamp: int, body: bytes) -> str:
    """The value of ``webhook-signature``."""
    signed = f"{identifier}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def _checked(secret: SecretStr) -> SecretStr:
    signing_key(secret.get_secret_value())
    return secret


class WebhookOptions(Body):
    """Where messages are posted to."""

    url: Url = Field(examples=["https://soc.example.com/hooks/bailiwick"])
    timeout_s: Timeout = 20.0
    ca: Certificates = ""

    @property
    def leads_to(self) -> tuple[str, int]:
        """Host and port."""
        return host_and_port(self.url)


class WebhookSecrets(Body):
    """The signing secret. During a rotation ``previous`` signs as well."""

    secret: Annotated[SecretStr, Field(max_length=200), AfterValidator(_checked)]
    previous: Annotated[SecretStr, Field(max_length=200), AfterValidator(_checked)] | None = None


class Webhook:
    """One sink's receiver. Any 2xx acknowledges; 410 stops the sink."""

    max_bytes = 1 << 20
    max_events = 1000
    window = 1

    def __init__(self, options: WebhookOptions, secrets: WebhookSecrets, means: Means) -> None:
        self._options = options
        self._means = means
        given = [secrets.secret, secrets.previous]
        self._keys = [signing_key(secret.get_secret_value()) for secret in given if secret is not None]
        self._http = Outgoing(means.reach, timeout_s=options.timeout_s, ca=options.ca)

    async def send(self, batch: Batch) -> None:
        """See :class:`~bailiwick.evidence.siem.destination.Destination`."""
        identifier, body = message_id(batch), message(batch)
        timestamp = int(self._means.clock.time())
        headers = {
            "Content-Type": "application/json",
            "webhook-id": identifier,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": " ".join(sign(key, identifier, timestamp, body) for key in self._keys),
        }
        judge(await self._http.post(self._options.url, body, headers), self._means.clock.now())

    async def close(self) -> None:
        """Let go of connections."""
        await self._http.close()


def message_id(batch: Batch) -> str:
    """The id of the message that carries exactly these events."""
    return "msg_" + hashlib.sha256(" ".join(item.id for item in batch.items).encode()).hexdigest()[:32]


def message(batch: Batch) -> bytes:
    """The body: ``{type, timestamp, data: {zone, events: [{seq, event}]}}``, the same whenever it is repeated."""
    events = b",".join(enveloped({"seq": item.seq}, "event", item.body) for item in batch.items)
    head = {"type": TYPE, "timestamp": rfc3339(batch.items[0].at)}
    data = b'{"zone":' + json.dumps(batch.zone).encode() + b',"events":[' + events + b"]}"
    return enveloped(head, "data", data)
