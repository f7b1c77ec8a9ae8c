"""What a checklist can have looked at beside what probes can: Kubernetes, Redis, the monitoring, web servers, reports.

All of them only read, but for ``rate_limit``, which asks until it is refused.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, TypeAdapter

from bailiwick.assurance.durations import Duration
from bailiwick.assurance.probes.spec import Check, File, HeaderName, Host, Port, Url, Word
from bailiwick.assurance.thresholds import Number
from bailiwick.kernel.fields import Body, Line

ObjectName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$")]
Address = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.-]{1,253}:[0-9]{1,5}$")]
Names = Annotated[list[Line], Field(max_length=50)]
WebPath = Annotated[str, StringConstraints(pattern=r"^/[^\s\\#]{0,500}$")]


class WantedSecret(Body):
    """The keys that a secret must hold, and how many characters each value has at least."""

    keys: Annotated[list[Line], Field(min_length=1, max_length=20)]
    least: Annotated[int, Field(ge=1, le=4096)] = 16


class KubernetesCheck(Body):
    """Objects of a cluster, by its HTTP API. ``what`` says which, and what of the other fields it needs."""

    type: Literal["kubernetes"]
    what: Literal[
        "nodes", "namespaces", "storage_class", "volumes", "load_balancer", "network_policies", "secrets",
        "pod_security", "security_context", "replicas", "environment", "config_maps", "health_probes", "limits", "hpa",
        "pdb", "service_monitor",
    ]  # fmt: skip
    url: Url
    token_file: File
    ca_file: File | None = None
    namespace: ObjectName = "production"
    names: Names = Field(default_factory=list)
    workload: ObjectName | None = None
    of: Literal["deployments", "statefulsets"] = "deployments"
    at_least: Annotated[int, Field(ge=0, le=10_000)] = 1
    at_most: Annotated[int, Field(ge=0, le=10_000)] | None = None
    percent: Annotated[int, Field(ge=1, le=100)] | None = None
    sizes: dict[ObjectName, Quantity] = Field(default_factory=dict, max_length=20)
    secrets: dict[ObjectName, WantedSecret] = Field(default_factory=dict, max_length=50)
    live: WebPath = "/health"
    ready: WebPath = "/health/ready"


class RedisCheck(Body):
    """A Redis, by its protocol. ``url_file`` holds its address with its password; ``sentinels`` are host:port."""

    type: Literal["redis"]
    what: Literal["answers", "sentinels", "auth", "password", "persistence", "eviction", "memory"]
    url_file: File | None = None
    sentinels: Annotated[list[Address], Field(max_length=20)] = Field(default_factory=list)
    master: Line = "main"
    at_least: Annotated[int, Field(ge=1, le=1000)] = 1
    most: Annotated[int, Field(ge=1)] = 1 << 31
    within: Duration = "15m"


class MonitoringCheck(Body):
    """The monitoring, by the HTTP API of each server. ``names``: alert rules, dashboards, kinds of receivers or of data
    sources that must be there."""

    type: Literal["monitoring"]
    what: Literal[
        "prometheus_ready", "prometheus_retention", "prometheus_rules", "prometheus_targets", "alertmanager_receivers",
        "grafana_ready", "grafana_dashboards", "grafana_data_sources", "loki_ready", "loki_lines",
    ]  # fmt: skip
    url: Url
    token_file: File | None = None
    ca_file: File | None = None
    names: Names = Field(default_factory=list)
    at_least: Annotated[int, Field(ge=0, le=100_000)] = 1
    stream: Word = ""
    within: Duration = "1h"


class HeadersCheck(Body):
    """Headers that an answer must carry, whatever their value, and words that a value must hold."""

    type: Literal["headers"]
    url: Url
    names: Annotated[list[HeaderName], Field(min_length=1, max_length=30)]
    holding: dict[HeaderName, Line] = Field(default_factory=dict, max_length=20)
    ca_file: File | None = None


class CorsCheck(Body):
    """A page of ``stranger`` asks by CORS, and is not let in."""

    type: Literal["cors"]
    url: Url
    stranger: Annotated[str, StringConstraints(pattern=r"^https://[a-z0-9.-]{1,253}$")] = "https://stranger.invalid"
    ca_file: File | None = None


class RateLimitCheck(Body):
    """Asks one more often than ``limit`` times within a minute; must be refused with 429, and not before."""

    type: Literal["rate_limit"]
    url: Url
    limit: Annotated[int, Field(ge=1, le=2000)]
    ca_file: File | None = None


class TlsHostsCheck(Body):
    """TLS handshakes with several servers: each speaks at least ``min_version`` and has a certificate for a while."""

    type: Literal["tls_hosts"]
    hosts: Annotated[list[Host], Field(min_length=1, max_length=50)]
    port: Port = 443
    min_version: Literal["1.2", "1.3"] = "1.3"
    days: Annotated[int, Field(ge=0, le=1000)] = 0
    ca_file: File | None = None


class DnsNamesCheck(Body):
    """Names that must all have an address."""

    type: Literal["dns_names"]
    names: Annotated[list[Host], Field(min_length=1, max_length=50)]
    server: Host | None = None
    port: Port = 53


class ReportCheck(Body):
    """A report that another program wrote: ``trivy`` (JSON), ``coverage`` (coverage.py JSON), ``junit`` (XML), ``load``
    (JSON: ``requests_per_second``, ``duration_seconds``, ``errors_percent``, ``p95_ms``, ``p99_ms``; ``at``, when)."""

    type: Literal["report"]
    format: Literal["trivy", "coverage", "junit", "load"]
    file: File
    within: Duration = "30d"
    covered: Number = 80
    per_second: Number = 0
    lasting: Duration | None = None
    p95_ms: Number | None = None
    p99_ms: Number | None = None
    errors_percent: Number = 1
    cases: Annotated[list[Line], Field(max_length=50)] = Field(default_factory=list)


OWN = (
    KubernetesCheck, RedisCheck, MonitoringCheck, HeadersCheck, CorsCheck, RateLimitCheck, TlsHostsCheck, DnsNamesCheck,
    ReportCheck,
)  # fmt: skip
OwnCheck = Annotated[
    KubernetesCheck
    | RedisCheck
    | MonitoringCheck
    | HeadersCheck
    | CorsCheck
    | RateLimitCheck
    | TlsHostsCheck
    | DnsNamesCheck
    | ReportCheck,
    Field(discriminator="type"),
]
_OWN_TYPES = {each.model_fields["type"].annotation.__args__[0] for each in OWN}  # type: ignore[union-attr]
_ours: TypeAdapter[Any] = TypeAdapter(OwnCheck)
_theirs: TypeAdapter[Any] = TypeAdapter(Check)
_PLACE = re.compile(r"\$\{([a-z][a-z0-9_]{0,60})\}")


class Unbound(LookupError):
    """An environment does not say what a check needs. ``names``: the values that are missing."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(", ".join(names))
        self.names = names


def read_check(raw: dict[str, Any]) -> Any:
    """The check that a mapping says. Raises :class:`pydantic.ValidationError`."""
    return (_ours if raw.get("type") in _OWN_TYPES else _theirs).validate_python(raw)


def kind_of(raw: dict[str, Any]) -> str:
    """What a check is, for lists: its type, and of what it looks at what."""
    what = raw.get("what") or raw.get("format")
    return f"{raw.get('type')}/{what}" if what else str(raw.get("type"))


def _implied(raw: dict[str, Any]) -> dict[str, Any]:
    """``raw`` with what a check of its type takes from the environment where it says nothing itself."""
    implied = _IMPLIED.get(str(raw.get("type")), {})
    if raw.get("type") == "redis" and raw.get("what") != "sentinels":
        implied = {"url_file": "${redis_url_file}"}
    if raw.get("type") == "monitoring":
        server = str(raw.get("what", "")).partition("_")[0]
        implied = {"url": f"${{{server}_url}}", "ca_file": "${ca_file}"}
        if server == "grafana":
            implied["token_file"] = "${grafana_token_file}"  # noqa: S105 - the name of a value
    return {**implied, **raw}


_IMPLIED: dict[str, dict[str, str]] = {
    "kubernetes": {
        "url": "${kubernetes_url}", "token_file": "${kubernetes_token_file}", "ca_file": "${kubernetes_ca_file}",
        "namespace": "${namespace}",
    },
    "headers": {"ca_file": "${ca_file}"},
    "cors": {"ca_file": "${ca_file}"},
    "rate_limit": {"ca_file": "${ca_file}"},
    "tls_hosts": {"ca_file": "${ca_file}"},
    "http": {"ca_file": "${ca_file}"},
}  # fmt: skip


def bound(raw: dict[str, Any], values: dict[str, Any], optional: frozenset[str]) -> dict[str, Any]:
    """``raw`` with every ``${name}`` replaced by the environment's value.

    A text that is nothing but one takes the value as it is (a list, a number). A field whose value is ``optional`` and
    not said is left out. Raises :class:`Unbound`.
    """
    missing: set[str] = set()
    made = _bound(_implied(raw), values, optional, missing)
    if missing:
        raise Unbound(sorted(missing))
    return dict(made)


_LEFT_OUT = object()


def _bound(value: Any, values: dict[str, Any], optional: frozenset[str], missing: set[str]) -> Any:
    if isinstance(value, dict):
        pairs = ((name, _bound(each, values, optional, missing)) for name, each in value.items())
        return {name: each for name, each in pairs if each is not _LEFT_OUT}
    if isinstance(value, list):
        return [_bound(each, values, optional, missing) for each in value]
    if not isinstance(value, str):
        return value
    if (whole := _PLACE.fullmatch(value)) is not None:
        if (found := values.get(whole[1])) is not None:
            return found
        if whole[1] not in optional:
            missing.add(whole[1])
        return _LEFT_OUT

    def one(match: re.Match[str]) -> str:
        found = values.get(match[1])
        if found is None or isinstance(found, (list, dict)):
            missing.add(match[1])
            return ""
        return str(found)

    return _PLACE.sub(one, value)
