"""The kinds of destinations: what each is told, how it is built, and what is usual for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr, ValidationError

from bailiwick.evidence.siem.datadog import Datadog, DatadogOptions, DatadogSecrets
from bailiwick.evidence.siem.destination import Destination
from bailiwick.evidence.siem.otlp import Otlp, OtlpOptions, OtlpSecrets
from bailiwick.evidence.siem.outgoing import Means
from bailiwick.evidence.siem.s3 import S3, S3Options, S3Secrets
from bailiwick.evidence.siem.splunk import Splunk, SplunkOptions, SplunkSecrets
from bailiwick.evidence.siem.syslog import Syslog, SyslogOptions, SyslogSecrets
from bailiwick.evidence.siem.webhook import Webhook, WebhookOptions, WebhookSecrets
from bailiwick.kernel.errors import InvalidRequest
from bailiwick.kernel.fields import Body


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of destination. ``linger_s``: how long a batch that is not full usually waits for more events."""

    options: type[Body]
    secrets: type[Body]
    make: Callable[[Any, Any, Means], Destination]
    batch_size: int = 1000
    linger_s: float = 1.0


KINDS: dict[str, Kind] = {
    "splunk": Kind(SplunkOptions, SplunkSecrets, Splunk),
    "datadog": Kind(DatadogOptions, DatadogSecrets, Datadog),
    "syslog": Kind(SyslogOptions, SyslogSecrets, Syslog),
    "otlp": Kind(OtlpOptions, OtlpSecrets, Otlp),
    "webhook": Kind(WebhookOptions, WebhookSecrets, Webhook, batch_size=100),
    "s3": Kind(S3Options, S3Secrets, S3, batch_size=5000, linger_s=60.0),
}


def check_options(kind: str, options: Mapping[str, Any]) -> Body:
    """The options of ``kind`` as its model; raises ``invalid_request`` naming the field, never a value."""
    return _checked(KINDS[kind].options, options, "options")


def check_secrets(kind: str, secrets: Mapping[str, Any]) -> Body:
    """The secrets of ``kind`` as its model; raises ``invalid_request`` naming the field, never a value."""
    return _checked(KINDS[kind].secrets, secrets, "secrets")


def revealed(secrets: Body) -> dict[str, str]:
    """The secrets as plain values, to be sealed."""
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in secrets
        if value is not None
    }


def build(kind: str, options: Mapping[str, Any], secrets: Mapping[str, str], means: Means) -> Destination:
    """The destination of a stored sink."""
    known = KINDS[kind]
    return known.make(known.options.model_validate(options), known.secrets.model_validate(secrets), means)


def _checked(model: type[Body], values: Mapping[str, Any], where: str) -> Body:
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        told = [f"{'.'.join([where, *map(str, each['loc'])])}: {each['msg']}" for each in error.errors()[:5]]
        raise InvalidRequest("; ".join(told)) from None
