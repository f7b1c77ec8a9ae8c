"""Each shipped alert fires when it should and only then, by Prometheus's own rule engine; its metrics and pages exist."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from bailiwick.assurance.alert_rules import EVIDENCE, SAFETY, SERVICE
from bailiwick.kernel.metrics import Metrics

ROOT = Path(__file__).parent.parent.parent
DIRECTORY = ROOT / "deploy/prometheus"
FILES = ("evidence.rules.yml", "service.rules.yml", "safety.rules.yml", "exporters.rules.yml", "slo.rules.yml")

# Alert → series as (name and labels, quiet values, bad values); the bad ones begin at minute 30. Values are Prometheus'
# own notation without the count: "1+0" is a steady 1, "0+60" grows by 60 a minute.
Series = list[tuple[str, str, str]]
DURATION, CHECKS = "http_request_duration_seconds_bucket", "bailiwick_gateway_checks_total"
REVOKED = "bailiwick_revocation_duration_seconds"
ERRORS = [('http_requests_total{status="200"}', "0+1000", "0+1000")]
JOBS = 'bailiwick_job_runs_total{job="backup",outcome='
FIRES: dict[str, tuple[Series, int]] = {
    # the ledger and its surroundings
    "AuditTamperDetected": ([('bailiwick_ledger_tampered{zone="default"}', "0+0", "1+0")], 0),
    "WitnessRefuses": ([('bailiwick_witness_refuses{zone="default",witness="w"}', "0+0", "1+0")], 0),
    "EvidenceLost": ([('bailiwick_evidence_trouble{trouble="evidence_lost"}', "0+0", "1+0")], 0),
    "EvidenceTrouble": ([('bailiwick_evidence_trouble{trouble="database_full"}', "0+0", "1+0")], 2),
    "LedgerLag": ([("bailiwick_ledger_lag_seconds", "30+0", "31+0")], 1),
    "DeadLetterGrowth": ([("bailiwick_ledger_dead_letters", "3+0", "4+1")], 10),
    "SiemBacklogWarning": ([('bailiwick_siem_lag_events{sink="splunk"}', "10000+0", "10001+0")], 5),
    "SiemBacklogCritical": ([('bailiwick_siem_lag_events{sink="splunk"}', "50000+0", "50001+0")], 5),
    "SiemStopped": ([('bailiwick_siem_stopped{sink="splunk"}', "0+0", "1+0")], 0),
    "SiemDeadLetters": ([('bailiwick_siem_dead_letters{sink="splunk"}', "0+0", "1+0")], 10),
    "ArchiveUnproven": ([('bailiwick_archive_unproven{zone="default"}', "0+0", "1+0")], 0),
    "ArchiveOverdue": ([('bailiwick_archive_overdue_seconds{zone="default"}', "86400+0", "86401+0")], 10),
    "WitnessBehind": ([('bailiwick_witness_behind_seconds{zone="default",witness="w"}', "3600+0", "3601+0")], 5),
    # the thirteen of the service
    "APIDown": ([('up{job="bailiwick"}', "1+0", "0+0")], 1),
    "DatabaseDown": ([("bailiwick_database_up", "1+0", "0+0")], 1),
    "RedisDown": ([("bailiwick_redis_configured", "1+0", "1+0"), ("bailiwick_redis_up", "1+0", "0+0")], 1),
    "HighErrorRate": ([*ERRORS, ('http_requests_total{status="503"}', "0+40", "0+2000")], 5),
    "DiskSpaceCritical": ([("bailiwick_disk_free_ratio", "0.05+0", "0.049+0")], 5),
    "HighLatency": (
        [(f'{DURATION}{{le="0.5"}}', "0+96", "0+40"), (f'{DURATION}{{le="1.0"}}', "0+100", "0+100"),
         (f'{DURATION}{{le="+Inf"}}', "0+100", "0+100")], 5,
    ),
    "PodCrashLoop": ([('bailiwick_part_restarts_total{part="serve-0"}', "0+0.4", "0+6")], 0),
    "DatabaseConnections": (
        [("bailiwick_database_connections", "90+0", "91+0"), ("bailiwick_database_connections_max", "100+0", "100+0")],
        5,
    ),
    "RedisMemory": (
        [("bailiwick_redis_memory_bytes", "90+0", "91+0"), ("bailiwick_redis_memory_max_bytes", "100+0", "100+0")], 5,
    ),
    "ElevatedErrorRate": ([*ERRORS, ('http_requests_total{status="500"}', "0+9", "0+500")], 10),
    "HighCPU": ([("bailiwick_cpu_used_ratio", "0.8+0", "0.81+0")], 15),
    "LowCacheHitRatio": ([("bailiwick_database_cache_hit_ratio", "0.8+0", "0.79+0")], 30),
    "BackupFailed": ([(f'{JOBS}"failed"}}', "0+0", "0+1"), (f'{JOBS}"succeeded"}}', "0+0", "0+0")], 60),
    # authority
    "RevocationStale": ([("bailiwick_feed_age_seconds", "30+0", "31+0")], 1),
    "RevocationLag": ([(f"{REVOKED}_count", "0+5", "0+5"), (f'{REVOKED}_bucket{{le="5.0"}}', "0+5", "0+4")], 0),
    "WorkersFenced": ([("bailiwick_workers_fenced_total", "0+0", "0+1")], 0),
    "CheckUnavailable": (
        [(f'{CHECKS}{{outcome="allow"}}', "0+100", "0+100"), (f'{CHECKS}{{outcome="error"}}', "0+4", "0+900")], 1,
    ),
    "PolicyBroadAllow": ([("bailiwick_policy_newly_allowed_pairs", "50+0", "51+0")], 0),
    "PolicyNewlyAllows": ([("bailiwick_policy_newly_allowed_pairs", "0+0", "1+0")], 0),
    "PolicyErrors": ([('bailiwick_decisions_total{reason="policy_error"}', "0+0", "0+1")], 2),
    "SecretExposed": ([('bailiwick_secrets_exposed{zone="default"}', "0+0", "1+0")], 0),
    "TokenExchangeErrors": ([('http_requests_total{route="/oauth/token",status="500"}', "0+0", "0+1")], 2),
    "ReadinessFlapping": ([('up{job="bailiwick"}', "1+0", "FLAP")], 5),
    "SpoolCannotWrite": ([("bailiwick_spool_failures_total", "0+0", "0+1")], 0),
}  # fmt: skip
EXPORTERS: dict[str, tuple[Series, int]] = {
    "DatabaseDown": ([("pg_up", "1+0", "0+0")], 1),
    "RedisDown": ([("redis_up", "1+0", "0+0")], 1),
    "DiskSpaceCritical": (
        [('node_filesystem_avail_bytes{fstype="ext4"}', "5+0", "4+0"),
         ('node_filesystem_size_bytes{fstype="ext4"}', "100+0", "100+0")], 5,
    ),
    "PodCrashLoop": ([('kube_pod_container_status_restarts_total{pod="api-0"}', "0+0.4", "0+6")], 0),
    "DatabaseConnections": (
        [("pg_stat_database_numbackends", "90+0", "91+0"), ("pg_settings_max_connections", "100+0", "100+0")], 5,
    ),
    "RedisMemory": ([("redis_memory_used_bytes", "90+0", "91+0"), ("redis_memory_max_bytes", "100+0", "100+0")], 5),
    "HighCPU": ([('node_cpu_seconds_total{mode="idle"}', "0+18", "0+6")], 15),
    "LowCacheHitRatio": (
        [("pg_stat_database_blks_hit", "0+90", "0+40"), ("pg_stat_database_blks_read", "0+10", "0+60")], 30,
    ),
    "BackupFailed": ([('kube_job_status_failed{job_name="backup-1"}', "0+0", "1+0")], 60),
}  # fmt: skip
QUIET, BAD = 30, 130


def samples(quiet: str, bad: str) -> str:
    """Values for promtool: quiet for half an hour, then bad. A counter goes on from where it was."""
    if bad == "FLAP":
        return f"1+0x{QUIET - 1} " + "0 1 " * (BAD // 2)
    first, _, step = bad.partition("+")
    if step != "0" and quiet.startswith("0+") and first == "0":
        first = str(float(quiet.partition("+")[2]) * QUIET)
    return f"{quiet}x{QUIET - 1} {first}+{step}x{BAD - 1}"


def alerts_at(tmp_path: Path, file: str, series: Series, alert: str, minute: int) -> bool:
    """Whether the alert fires at that minute; promtool is asked whether it does not."""
    test: dict[str, Any] = {
        "rule_files": [str(DIRECTORY / file)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": samples(calm, worse)} for name, calm, worse in series],
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


def rules_of(file: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((DIRECTORY / file).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.mark.parametrize("file", FILES)
def test_the_rules_are_valid(file: str) -> None:
    done = subprocess.run(
        ["promtool", "check", "rules", str(DIRECTORY / file)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules_of(file))} rules found" in done.stdout


def test_the_files_are_those_that_the_program_writes() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/alert_rules.py"), "--check"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in DIRECTORY.glob("*.rules.yml")} == set(FILES)


def test_every_alert_is_tried_and_the_thirteen_are_there() -> None:
    assert FIRES.keys() == {rule.name for rule in (*EVIDENCE, *SERVICE, *SAFETY)}
    assert EXPORTERS.keys() == {rule.name for rule in SERVICE if rule.exporters}
    assert len(SERVICE) == 13
    assert [rule.name for rule in SERVICE if rule.severity == "P0"] == [
        "APIDown", "DatabaseDown", "RedisDown", "HighErrorRate", "DiskSpaceCritical",
    ]  # fmt: skip


CASES = [
    *((rule.name, file, FIRES[rule.name]) for file, rules in
      (("evidence.rules.yml", EVIDENCE), ("service.rules.yml", SERVICE), ("safety.rules.yml", SAFETY))
      for rule in rules),
    *((name, "exporters.rules.yml", case) for name, case in EXPORTERS.items()),
]  # fmt: skip


@pytest.mark.parametrize(
    ("alert", "file", "case"), CASES, ids=[f"{file.split('.')[0]}-{name}" for name, file, _ in CASES]
)
def test_an_alert_fires_where_its_line_is_crossed_and_not_before(
    tmp_path: Path, alert: str, file: str, case: tuple[Series, int]
) -> None:
    series, wait = case
    assert not alerts_at(tmp_path, file, series, alert, QUIET - 1), "it fires while all is well"
    # rates need some minutes to be bad, beside the time that the condition has to hold
    assert alerts_at(tmp_path, file, series, alert, QUIET + 20 + wait), "it does not fire"
    if wait:
        assert not alerts_at(tmp_path, file, series, alert, QUIET + wait - 1), "it did not wait"


@pytest.mark.parametrize(("alert", "file", "metric"), [
    ("APIDown", "service.rules.yml", "up"), ("DatabaseDown", "service.rules.yml", "bailiwick_database_up"),
])  # fmt: skip
def test_a_metric_that_is_gone_is_not_a_good_sign(tmp_path: Path, alert: str, file: str, metric: str) -> None:
    assert alerts_at(tmp_path, file, [("other", "1+0", "1+0")], alert, 10)


def test_a_redis_that_nobody_uses_raises_nothing(tmp_path: Path) -> None:
    series = [("bailiwick_redis_configured", "0+0", "0+0"), ("bailiwick_redis_up", "0+0", "0+0"),
              ("bailiwick_redis_hit_ratio", "0+0", "0+0")]  # fmt: skip
    for alert in ("RedisDown", "LowCacheHitRatio", "RedisMemory"):
        assert not alerts_at(tmp_path, "service.rules.yml", series, alert, 100)


def test_a_budget_that_burns_pages_by_prometheus_too(tmp_path: Path) -> None:
    """A tenth of the answers are errors, of which 0.1 % may be."""
    series = [*ERRORS, ('http_requests_total{status="500"}', "0+0", "0+111.2")]
    assert not alerts_at(tmp_path, "slo.rules.yml", series, "SloBurn", QUIET - 1)
    assert alerts_at(tmp_path, "slo.rules.yml", series, "SloBurn", QUIET + 12)


def test_every_rule_says_who_answers_and_what_to_do() -> None:
    for file in FILES:
        for rule in rules_of(file):
            if "alert" not in rule:
                continue
            labels, notes = rule["labels"], rule["annotations"]
            assert labels["severity"] in ("P0", "P1", "P2", "P3"), rule
            assert labels["owner"] and labels["team"] and (labels.get("component") or labels.get("service")), rule
            assert notes["summary"] and notes["description"], rule
            page, _, heading = notes["runbook"].partition("#")
            text = (ROOT / page).read_text()
            assert not heading or re.search(rf"^## {heading}$", text, re.M | re.I), notes["runbook"]


def test_every_metric_that_a_rule_names_is_one_of_ours() -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    known = {"up", "bailiwick_feed_age_seconds", "bailiwick_part_restarts_total"}  # the latter two appear at a scrape
    for family in registry.collect():
        ends = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(family.type, ("",))
        known |= {family.name + end for end in ends}
    for file in FILES:
        if file == "exporters.rules.yml":
            continue
        for rule in rules_of(file):
            named = set(re.findall(r"\b(?:bailiwick|http)_\w+", rule["expr"]))
            assert named <= known, f"{rule.get('alert') or rule['record']}: {named - known}"
