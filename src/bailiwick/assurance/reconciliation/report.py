"""The report of a run, made from what was found and nothing else: the same window gives the same bytes and hash."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any

from bailiwick.assurance.book import canonical
from bailiwick.assurance.reconciliation.findings import fingerprint
from bailiwick.assurance.reconciliation.matching import Difference, Totals, Window
from bailiwick.assurance.reconciliation.spec import ReconciliationSpec
from bailiwick.kernel.verdicts import Verdict

LISTED = 200


@dataclass(slots=True)
class Tally:
    """Counts differences as they come, and keeps the first of every type for the report."""

    types: Counter[str] = field(default_factory=Counter)
    severities: Counter[str] = field(default_factory=Counter)
    actions: Counter[str] = field(default_factory=Counter)
    listed: list[dict[str, Any]] = field(default_factory=list)

    def add(self, spec: ReconciliationSpec, difference: Difference) -> None:
        """Count one."""
        weight = spec.weight(difference.type, difference.off)
        self.types[difference.type] += 1
        self.severities[weight.severity] += 1
        self.actions[weight.action] += 1
        if len(self.listed) < LISTED:
            self.listed.append(
                {
                    "type": difference.type,
                    "side": difference.side,
                    "key": list(difference.key),
                    "fingerprint": fingerprint(difference),
                    "severity": weight.severity,
                    "action": weight.action,
                    "detail": dict(difference.detail),
                }
            )

    @property
    def count(self) -> int:
        """How many there are."""
        return self.types.total()


def build(
    name: str,
    spec: ReconciliationSpec,
    spec_sha256: str,
    period: str,
    window: Window,
    verdict: Verdict,
    totals: Totals,
    tally: Tally,
    accepted: int,
    coverage: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The report as plain values."""
    return {
        "reconciliation": name,
        "definition_sha256": spec_sha256,
        "owner": spec.owner,
        "period": period,
        "since": window.since.astimezone(UTC).isoformat(),
        "until": window.until.astimezone(UTC).isoformat() if spec.time is not None else None,
        "verdict": verdict,
        "totals": totals.document(),
        "coverage": {side: {"source": each["source"], "rows": each["rows"]} for side, each in coverage.items()},
        "findings": tally.count,
        "accepted": accepted,
        "by_type": dict(sorted(tally.types.items())),
        "by_severity": dict(sorted(tally.severities.items())),
        "by_action": dict(sorted(tally.actions.items())),
        "listed": tally.listed,
    }


def digest(report: Mapping[str, Any]) -> str:
    """The hash that the ledger holds of a report."""
    return hashlib.sha256(canonical(report)).hexdigest()


def markdown(report: Mapping[str, Any]) -> str:
    """The report for people."""
    totals = report["totals"]
    lines = [
        f"# Reconciliation {report['reconciliation']}: {report['verdict']}",
        "",
        f"Period {report['period']}, owner {report['owner']}.",
        "",
        "| | left | right |",
        "|---|---:|---:|",
        f"| source | {_cell(report['coverage']['left']['source'])} | {_cell(report['coverage']['right']['source'])} |",
        f"| rows read | {report['coverage']['left']['rows']} | {report['coverage']['right']['rows']} |",
        f"| rows judged | {totals['left_rows']} | {totals['right_rows']} |",
        f"| keys judged | {totals['left_keys']} | {totals['right_keys']} |",
        "",
        f"Matched {totals['matched']}, unmatched {totals['unmatched']}; {report['findings']} findings,"
        f" {report['accepted']} of them accepted under a waiver.",
    ]
    if report["findings"]:
        lines += ["", "| type | findings |", "|---|---:|"]
        lines += [f"| {type_} | {count} |" for type_, count in report["by_type"].items()]
        lines += ["", "| type | side | key | severity | action | what |", "|---|---|---|---|---|---|"]
        for each in report["listed"]:
            cells = [each["type"], each["side"], " / ".join(each["key"]), each["severity"], each["action"]]
            lines.append(f"| {' | '.join(_cell(cell) for cell in cells)} | {_cell(_told(each['detail']))} |")
        if report["findings"] > len(report["listed"]):
            lines += ["", f"The first {len(report['listed'])} are listed; all are in the register."]
    return "\n".join(lines) + "\n"


def _told(detail: Mapping[str, Any]) -> str:
    if "fields" in detail:
        return "; ".join(f"{name}: {each['left']} ≠ {each['right']}" for name, each in detail["fields"].items())
    return "; ".join(
        f"{name}: {', '.join(f'{k}={v}' for k, v in value.items()) if isinstance(value, dict) else value}"
        for name, value in detail.items()
    )


def _cell(text: object) -> str:
    cleaned = "".join(each if each.isprintable() else " " for each in str(text))
    return cleaned.replace("\\", "\\\\").replace("|", "\\|")[:200]
