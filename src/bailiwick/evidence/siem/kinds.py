"""The kinds of destinations: what each is told, how it is built, and what is usual for it.

A kind's module is imported when a sink of it is met: commands start in a fraction of the time that all clients take.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr, ValidationError

from bailiwick.evidence.siem.destination import Destination
from bailiwick.kernel.errors import InvalidRequest

if TYPE_CHECKING:
    from bailiwick.evidence.siem.outgoing import Means
    from bailiwick.kernel.fields import Body


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of destination. ``linger_s``: how long a batch that is not full usually waits for more events."""

    options: type[Body]
    secrets: type[Body]
    make: Callable[[Any, Any, Means], Destination]
    batch_size: int = 1000
    linger_s: float = 1.0


# the class of each kind's module; its options and secrets are named after it
KINDS: dict[str, str] = {
    "splunk": "Splunk",
    "datadog": "Datadog",
    "syslog": "Syslog",
    "otlp": "Otlp",
    "webhook": "Webhook",
    "s3": "S3",
}
_USUAL: dict[str, dict[str, Any]] = {
    "webhook": {"batch_size": 500},
    "s3": {"batch_size": 5000, "linger_s": 60.0},
}


@cache
def kind_of(name: str) -> Kind:
    """The kind by its name; raises ``KeyError``."""
    known = KINDS[name]
    module = import_module(f"bailiwick.evidence.siem.{name}")
    parts = (getattr(module, f"{known}{part}") for part in ("Options", "Secrets", ""))
    return Kind(*parts, **_USUAL.get(name, {}))


def check_options(kind: str, options: Mapping[str, Any]) -> Body:
    """The options of ``kind`` as its model; raises ``invalid_request`` naming the field, never a value."""
    return _checked(kind_of(kind).options, options, "options")


def check_secrets(kind: str, secrets: Mapping[str, Any]) -> Body:
    """The secrets of ``kind`` as its model; raises ``invalid_request`` naming the field, never a value."""
    return _checked(kind_of(kind).secrets, secrets, "secrets")


def revealed(secrets: Body) -> dict[str, str]:
    """The secrets as plain values, to be sealed."""
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in secrets
        if value is not None
    }


def build(kind: str, options: Mapping[str, Any], secrets: Mapping[str, str], means: Means) -> Destination:
    """The destination of a stored sink."""
    known = kind_of(kind)
    return known.make(known.options.model_validate(options), known.secrets.model_validate(secrets), means)


def _checked(model: type[Body], values: Mapping[str, Any], where: str) -> Body:
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        told = [f"{'.'.join([where, *map(str, each['loc'])])}: {each['msg']}" for each in error.errors()[:5]]
        raise InvalidRequest("; ".join(told)) from None
