"""Each shipped alert fires when it should and only then, by Prometheus's own rule engine; its metrics and pages exist."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
RULES = ROOT / "deploy/prometheus/evidence.rules.yml"
TEXT = RULES.read_text()
ALERTS = re.findall(r"- alert: (\w+)", TEXT)

# Alert → the series that fires it as (name and labels, quiet value, bad value), and for how long it must be bad (minutes).
FIRES: dict[str, tuple[str, float, float, int]] = {
    "AuditTamperDetected": ('bailiwick_ledger_tampered{zone="default"}', 0, 1, 0),
    "WitnessRefuses": ('bailiwick_witness_refuses{zone="default",witness="w"}', 0, 1, 0),
    "EvidenceLost": ('bailiwick_evidence_trouble{trouble="evidence_lost"}', 0, 1, 0),
    "EvidenceTrouble": ('bailiwick_evidence_trouble{trouble="database_full"}', 0, 1, 2),
    "LedgerLag": ("bailiwick_ledger_lag_seconds", 30, 31, 1),
    "SiemBacklogWarning": ('bailiwick_siem_lag_events{sink="splunk"}', 10_000, 10_001, 5),
    "SiemBacklogCritical": ('bailiwick_siem_lag_events{sink="splunk"}', 50_000, 50_001, 5),
    "SiemStopped": ('bailiwick_siem_stopped{sink="splunk"}', 0, 1, 0),
    "SiemDeadLetters": ('bailiwick_siem_dead_letters{sink="splunk"}', 0, 1, 10),
    "ArchiveUnproven": ('bailiwick_archive_unproven{zone="default"}', 0, 1, 0),
    "ArchiveOverdue": ('bailiwick_archive_overdue_seconds{zone="default"}', 86_400, 86_401, 10),
    "WitnessBehind": ('bailiwick_witness_behind_seconds{zone="default",witness="w"}', 3_600, 3_601, 5),
}


def firing(tmp_path: Path, alert: str, series: str, values: str, minute: int) -> bool:
    """Whether the alert fires at that minute; promtool is asked whether it does not."""
    test: dict[str, Any] = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": series, "values": values}],
                "alert_rule_test": [{"eval_time": f"{minute}m", "alertname": alert, "exp_alerts": []}],
            }
        ],
    }
    path = tmp_path / "test.yml"
    path.write_text(json.dumps(test))  # JSON is YAML
    done = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, timeout=60)
    if done.returncode == 0:
        return False
    assert f"alertname: {alert}" in done.stdout + done.stderr, done.stdout + done.stderr
    return True


def test_the_rules_are_valid() -> None:
    done = subprocess.run(["promtool", "check", "rules", str(RULES)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout


def test_every_alert_is_tried() -> None:
    assert FIRES.keys() | {"DeadLetterGrowth"} == set(ALERTS)


@pytest.mark.parametrize("alert", FIRES)
def test_an_alert_fires_where_its_line_is_crossed_and_not_before(tmp_path: Path, alert: str) -> None:
    series, quiet, bad, wait = FIRES[alert]
    steady = f"{quiet}+0x30"
    crossed = f"{quiet}+0x4 {bad}+0x25"
    assert not firing(tmp_path, alert, series, steady, 25)
    assert firing(tmp_path, alert, series, crossed, 5 + wait)
    if wait:
        assert not firing(tmp_path, alert, series, crossed, 5 + wait - 1), "it did not wait"


def test_dead_letters_that_keep_coming_fire_and_one_that_stays_does_not(tmp_path: Path) -> None:
    assert not firing(tmp_path, "DeadLetterGrowth", "bailiwick_ledger_dead_letters", "0+0x14 1+0x45", 50)
    assert firing(tmp_path, "DeadLetterGrowth", "bailiwick_ledger_dead_letters", "0+0x14 1+1x45", 50)


def test_metrics_and_pages_that_alerts_name_exist() -> None:
    known = (ROOT / "docs/reference/metrics.md").read_text()
    assert all(f"`{name}`" in known for name in set(re.findall(r"bailiwick_\w+", TEXT)))
    pages = set(re.findall(r"runbook: (\S+)", TEXT))
    assert pages and all((ROOT / page).is_file() for page in pages)
    assert len(re.findall(r"severity: P[0-3]\b", TEXT)) == len(re.findall("summary: ", TEXT)) == len(ALERTS)
