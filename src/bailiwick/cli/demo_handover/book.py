"""The operating model of the story: what is kept of the shipped one, and documents of its own.

Not kept is what counts by the minute, since hours pass at once later on: the shipped probes and the alert rules over
them but those that recovery is measured by, service levels, capacity, key figures, reconciliation, the detector
of stuck work, and meetings that would fall into the week. Of the runbooks those stay that the story goes through.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import Any

import yaml

KEPT = frozenset({"Activity", "Threshold", "WaiverControl", "WaiverTier", "OverrideRule", "Checkpoint"})
"""Of these kinds all documents."""

NAMED = {
    "IncidentTrigger": {"policy-broad-allow"},
    "Runbook": {"bad-policy-allow", "audit-tamper"},
    "BackupPlan": {"installation"},
    "Probe": {
        "database-answers",
        "schema-at-head",
        "disk-free",
        "dead-letters",
        "outbox-age",
        "spool-backlog-age",
        "sequencer-lag",
        "ledger-intact",
        "revocation-freshness",
    },
    "ReviewedDocument": {"incidents"},
}
"""Of these kinds the documents of these names."""

_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_WEEK = timedelta(days=9)


def documents(api: str, payments: str, now: datetime) -> list[dict[str, Any]]:
    """The book that the story begins with. ``api``: base URL of the API; ``payments``: of the release
    that is to go out."""
    from bailiwick.assurance.shipped import shipped

    kept = [
        {"apiVersion": each.api_version, "kind": each.kind, "metadata": {"name": each.name}, "spec": dict(each.spec)}
        for each in shipped("default")
        if each.kind in KEPT or each.name in NAMED.get(each.kind, ())
    ]
    return kept + _own("book.yaml", api, now, payments)


def handing(api: str, now: datetime) -> list[dict[str, Any]]:
    """What comes into it once it is known who is on call."""
    return _own("handing.yaml", api, now)


def _own(name: str, api: str, now: datetime, payments: str = "") -> list[dict[str, Any]]:
    text = (files(__package__) / name).read_text(encoding="utf-8")
    first = now + _WEEK
    filled = {
        "api": api,
        "payments": payments,
        "weekday": _DAYS[first.weekday()],
        "at": f"{first:%H:00}",
        "since": f"{first.astimezone(UTC):%Y-%m-%d}" if name == "book.yaml" else f"{now - timedelta(days=14):%Y-%m-%d}",
        "monthday": str(min(first.day, 28)),
    }
    for place, value in filled.items():
        text = text.replace(f"@{place}@", value)
    found = [each for each in yaml.safe_load_all(text) if each]
    watched = [each["spec"]["checks"] for each in found if each["kind"] == "HypercarePlan"]
    for each in found:
        if each["kind"] == "ValidationSuite":
            each["spec"]["checks"] = watched[0]
    return found
