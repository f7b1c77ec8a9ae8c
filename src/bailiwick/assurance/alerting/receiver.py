"""Alerts from a Prometheus Alertmanager, by its webhook (payload version 4).

The fingerprint is the key, so what is sent twice is one alert. Members that this does not know are passed over: a newer
Alertmanager may send more. What lacks a severity is taken as P1 and marked, since nothing is less urgent for being
badly labelled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Literal

import msgspec

from bailiwick.assurance.alerting.alerts import AlertDesk, Opening, open_of, plain
from bailiwick.assurance.ports import Raised
from bailiwick.evidence.events import Context
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import BailiwickError, InvalidRequest
from bailiwick.kernel.severity import Severity

MOST_BYTES = 1 << 20
MOST_ALERTS = 1000
ECHO = timedelta(minutes=2)
"""Alertmanagers of a cluster may send the same turn twice, out of order: for so long after an alert resolved, one
with the same beginning is an echo. Later it is a new turn, since what comes back after a gap keeps its beginning."""

OWNER = "monitoring"

_SEVERITIES = {
    "p0": Severity.P0, "critical": Severity.P0, "page": Severity.P0, "emergency": Severity.P0,
    "p1": Severity.P1, "high": Severity.P1, "error": Severity.P1,
    "p2": Severity.P2, "warning": Severity.P2, "medium": Severity.P2,
    "p3": Severity.P3, "info": Severity.P3, "low": Severity.P3, "none": Severity.P3,
}  # fmt: skip

Texts = Annotated[dict[str, str], msgspec.Meta(max_length=100)]


class Sent(msgspec.Struct, rename="camel"):
    """One alert of the payload."""

    status: Literal["firing", "resolved"]
    labels: Texts
    starts_at: datetime
    annotations: Texts = msgspec.field(default_factory=dict)
    ends_at: datetime | None = None
    generator_url: str = msgspec.field(default="", name="generatorURL")
    fingerprint: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-zA-Z]{0,64}$")] = ""


class Payload(msgspec.Struct, rename="camel"):
    """What Alertmanager sends."""

    version: Literal["4"]
    group_key: Annotated[str, msgspec.Meta(max_length=20_000)]
    status: Literal["firing", "resolved"]
    alerts: Annotated[list[Sent], msgspec.Meta(max_length=MOST_ALERTS)]
    receiver: str = ""
    truncated_alerts: Annotated[int, msgspec.Meta(ge=0)] = 0


@dataclass(slots=True)
class Received:
    """What became of a payload: how many alerts were opened or went on, resolved, were an echo, or were not known."""

    fired: int = 0
    resolved: int = 0
    echoes: int = 0
    unknown: int = 0

    def document(self) -> dict[str, int]:
        """The JSON form."""
        return {name: getattr(self, name) for name in self.__slots__}


_decoder = msgspec.json.Decoder(Payload)


# ---------------------------------------------------------------------- rules


def read_payload(body: bytes) -> Payload:
    """The payload of a request's body. Raises ``payload_too_large``, ``invalid_request``."""
    if len(body) > MOST_BYTES:
        raise BailiwickError(f"A payload is at most {MOST_BYTES} bytes.", reason="payload_too_large")
    try:
        payload = _decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        told = "is too deep" if isinstance(error, RecursionError) else str(error)[:200]
        raise InvalidRequest(f"This is no payload of Alertmanager's version 4: {plain(told)}") from None
    if any(alert.starts_at.tzinfo is None for alert in payload.alerts):
        raise InvalidRequest("An instant without its offset says nothing.")
    return payload


def severity_of(labels: Mapping[str, str]) -> tuple[Severity, bool]:
    """The severity that labels name, of which scheme ever; whether they did."""
    for name in ("severity", "pagerduty", "priority"):
        found = _SEVERITIES.get(labels.get(name, "").lower())
        if found is not None:
            # the seed labels its most urgent ones critical, with their class beside it
            beside = _SEVERITIES.get(labels.get("pagerduty", "").lower())
            return beside or found, True
    return Severity.P1, False


def key_of(alert: Sent) -> str:
    """By what two are the same."""
    if alert.fingerprint:
        return f"alertmanager/{alert.fingerprint}"
    told = "\0".join(f"{name}\1{value}" for name, value in sorted(alert.labels.items()))
    return f"alertmanager/{hashlib.sha256(told.encode('utf-8', 'replace')).hexdigest()[:32]}"


def raised_of(alert: Sent) -> Raised:
    """The alert as ours; ``owner`` is its label of that name, or its team."""
    labels = dict(alert.labels)
    severity, named = severity_of(labels)
    name = labels.get("alertname", "") or "unnamed"
    if named:
        labels["severity"] = str(severity)
    else:
        labels["severity"] = ""
    annotations = dict(alert.annotations)
    if alert.generator_url:
        annotations.setdefault("generator", alert.generator_url)
    return Raised(
        key_of(alert),
        plain(name)[:200],
        severity,
        annotations.get("summary") or name,
        plain(labels.get("owner") or labels.get("team") or OWNER)[:200],
        annotations.get("runbook") or annotations.get("runbook_url") or "",
        labels,
        annotations,
    )


# ---------------------------------------------------------------------- service


class Receiver:
    """Takes payloads in."""

    def __init__(self, database: Database, clock: Clock, desk: AlertDesk) -> None:
        self._database = database
        self._clock = clock
        self._desk = desk

    async def take(self, context: Context, payload: Payload) -> Received:
        """Open, hold and resolve what the payload says, all of it or nothing."""
        received = Received()
        async with self._database.begin() as tx:
            # in one order everywhere, or two payloads would wait for each other
            for alert in sorted(payload.alerts, key=key_of):
                await self._take(tx, context, payload, alert, received)
            if payload.truncated_alerts:
                await self._desk.open(tx, context, _truncated(payload), Opening("alertmanager"))
        return received

    async def _take(self, tx: Transaction, context: Context, payload: Payload, alert: Sent, received: Received) -> None:
        key = key_of(alert)
        if alert.status == "resolved":
            known = await open_of(tx, context.zone, key, lock=True)
            # the end of an older turn says nothing of this one
            if known is None or alert.starts_at < known.began_at:
                received.unknown += 1
                return
            await self._desk.clear(tx, context, key)
            received.resolved += 1
            return
        if await self._echo(tx, context.zone, key, alert.starts_at):
            received.echoes += 1
            return
        opening = Opening("alertmanager", began_at=alert.starts_at, group=plain(payload.group_key)[:500])
        await self._desk.open(tx, context, raised_of(alert), opening)
        received.fired += 1

    async def _echo(self, tx: Transaction, zone: str, key: str, began_at: datetime) -> bool:
        return bool(
            await tx.value(
                "SELECT true FROM alerts WHERE zone = :zone AND key = :key AND state IN ('resolved', 'closed')"
                " AND began_at = :began_at AND resolved_at > :since"
                " AND NOT EXISTS (SELECT FROM alerts WHERE zone = :zone AND key = :key"
                " AND state IN ('pending', 'firing', 'acknowledged')) LIMIT 1",
                zone=zone,
                key=key,
                began_at=min(began_at, self._clock.now()),
                since=self._clock.now() - ECHO,
            )
        )


def _truncated(payload: Payload) -> Raised:
    return Raised(
        f"alertmanager/truncated/{hashlib.sha256(payload.group_key.encode('utf-8', 'replace')).hexdigest()[:16]}",
        "alertmanager/truncated",
        Severity.P2,
        f"Alertmanager kept {payload.truncated_alerts} alerts of a group from us",
        OWNER,
        "docs/how-to/alerts-and-channels.md",
        {"service": "alertmanager"},
        {"description": "Raise max_alerts of the receiver, or set it to 0: what is cut off is seen by nobody here."},
    )
