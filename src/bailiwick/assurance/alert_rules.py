"""The alerts that ship as Prometheus rules, computed from our own metrics alone.

Names, conditions and times are those of the systems we take over; ``exporters`` is the same condition over the metrics
of the usual exporters, for installations whose database, Redis and machines are watched by those.
``deploy/prometheus/*.rules.yml`` are written from here (``tools/alert_rules.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from bailiwick.kernel.severity import Severity

P0, P1, P2, P3 = Severity.P0, Severity.P1, Severity.P2, Severity.P3
_TROUBLES = "docs/how-to/evidence-troubles.md"
_ALERTS = "docs/how-to/shipped-alerts.md"
_SIEM = "docs/how-to/send-to-a-siem.md"
_LEDGER = "docs/how-to/verify-the-ledger.md"
_ARCHIVE = "docs/how-to/archive-the-ledger.md"
_BACKUPS = r'job=~"(.+:)?backup([-:@].+)?"'


@dataclass(frozen=True, slots=True)
class AlertRule:
    """One rule. ``lasts``: for how long its condition must hold; ``owner``: the activity of the RACI that answers;
    ``alias``: the name it has in the systems we take over."""

    name: str
    expr: str
    severity: Severity
    team: str
    owner: str
    summary: str
    description: str
    runbook: str
    lasts: str = "0s"
    alias: str = ""
    exporters: str = ""
    component: str = "bailiwick"
    labels: Mapping[str, str] = field(default_factory=dict)

    def document(self, *, of_exporters: bool = False) -> dict[str, Any]:
        """As Prometheus reads it."""
        labels = {
            "severity": str(self.severity),
            "team": self.team,
            "owner": self.owner,
            "component": self.component,
        }
        if self.alias:
            labels["alias"] = self.alias
        rule: dict[str, Any] = {"alert": self.name, "expr": self.exporters if of_exporters else self.expr}
        if self.lasts != "0s":
            rule["for"] = self.lasts
        return rule | {
            "labels": labels | dict(self.labels),
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook": self.runbook,
            },
        }


def _service(
    name: str,
    expr: str,
    severity: Severity,
    lasts: str,
    summary: str,
    description: str,
    exporters: str = "",
    component: str = "bailiwick",
    owner: str = "alerting",
) -> AlertRule:
    return AlertRule(
        name,
        expr,
        severity,
        "platform",
        owner,
        summary,
        description,
        f"{_ALERTS}#{name.lower()}",
        lasts,
        exporters=exporters,
        component=component,
    )


SERVICE = (
    _service(
        "APIDown",
        'sum(up{job="bailiwick"}) == 0 or absent(up{job="bailiwick"})',
        P0,
        "1m",
        "Nothing of Bailiwick answers.",
        "No process of the API has answered a scrape for a minute.",
    ),
    _service(
        "DatabaseDown",
        "max(bailiwick_database_up) == 0 or absent(bailiwick_database_up)",
        P0,
        "1m",
        "PostgreSQL does not answer.",
        "The database has not answered, or nobody has told of it, for a minute.",
        "max(pg_up) == 0 or absent(pg_up)",
        "postgresql",
    ),
    _service(
        "RedisDown",
        "max(bailiwick_redis_configured) == 1 unless on () max(bailiwick_redis_up) == 1",
        P0,
        "1m",
        "Redis does not answer.",
        "Redis is configured and has not answered for a minute.",
        "max(redis_up) == 0 or absent(redis_up)",
        "redis",
    ),
    _service(
        "HighErrorRate",
        'sum(rate(http_requests_total{status=~"5.."}[5m])) / sum(rate(http_requests_total[5m])) > 0.05',
        P0,
        "5m",
        "{{ $value | humanizePercentage }} of the requests fail.",
        "More than 5 % of all answers are 5xx for 5 minutes.",
    ),
    _service(
        "DiskSpaceCritical",
        "min(bailiwick_disk_free_ratio) < 0.05",
        P0,
        "5m",
        "The disk is nearly full.",
        "Less than 5 % of the data directory's disk is free: evidence soon has no place.",
        'min(node_filesystem_avail_bytes{fstype!~"tmpfs|overlay"} / node_filesystem_size_bytes) < 0.05',
        "disk",
    ),
    _service(
        "HighLatency",
        "histogram_quantile(0.95, sum by (le) (rate(http_request_duration_seconds_bucket[5m]))) > 0.5",
        P1,
        "5m",
        "Requests take {{ $value | humanizeDuration }} (p95).",
        "The 95th percentile is above 500 ms for 5 minutes.",
    ),
    _service(
        "PodCrashLoop",
        "sum by (part) (increase(bailiwick_part_restarts_total[10m])) > 5",
        P1,
        "0s",
        "{{ $labels.part }} keeps dying.",
        "A part was restarted more than 5 times in 10 minutes.",
        "sum by (pod) (increase(kube_pod_container_status_restarts_total[10m])) > 5",
        "supervisor",
    ),
    _service(
        "DatabaseConnections",
        "max(bailiwick_database_connections) / max(bailiwick_database_connections_max) > 0.9",
        P1,
        "5m",
        "{{ $value | humanizePercentage }} of the database's connections are taken.",
        "More than 90 % of the connections that PostgreSQL allows are in use for 5 minutes.",
        "sum(pg_stat_database_numbackends) / max(pg_settings_max_connections) > 0.9",
        "postgresql",
    ),
    _service(
        "RedisMemory",
        "max(bailiwick_redis_memory_bytes) / (max(bailiwick_redis_memory_max_bytes) > 0) > 0.9",
        P1,
        "5m",
        "Redis uses {{ $value | humanizePercentage }} of its memory.",
        "Redis is above 90 % of its limit for 5 minutes.",
        "max(redis_memory_used_bytes) / (max(redis_memory_max_bytes) > 0) > 0.9",
        "redis",
    ),
    _service(
        "ElevatedErrorRate",
        'sum(rate(http_requests_total{status=~"5.."}[5m])) / sum(rate(http_requests_total[5m])) > 0.01',
        P2,
        "10m",
        "{{ $value | humanizePercentage }} of the requests fail.",
        "More than 1 % of all answers are 5xx for 10 minutes.",
    ),
    _service(
        "HighCPU",
        "max(bailiwick_cpu_used_ratio) > 0.8",
        P2,
        "15m",
        "The processors are {{ $value | humanizePercentage }} busy.",
        "Above 80 % for 15 minutes: time to scale up.",
        '1 - avg(rate(node_cpu_seconds_total{mode="idle"}[5m])) > 0.8',
        "machine",
        "capacity-planning",
    ),
    _service(
        "LowCacheHitRatio",
        "min(bailiwick_database_cache_hit_ratio) < 0.8"
        " or min(bailiwick_redis_hit_ratio) < 0.8 and on () max(bailiwick_redis_configured) == 1",
        P2,
        "30m",
        "Only {{ $value | humanizePercentage }} is found in a cache.",
        "PostgreSQL or Redis finds less than 80 % in memory for 30 minutes.",
        "sum(rate(pg_stat_database_blks_hit[5m])) /"
        " (sum(rate(pg_stat_database_blks_hit[5m])) + sum(rate(pg_stat_database_blks_read[5m]))) < 0.8",
        "postgresql",
    ),
    _service(
        "BackupFailed",
        f"max by (job) (bailiwick_job_last_success_age_seconds{{{_BACKUPS}}}) > 90000"
        f' or sum by (job) (increase(bailiwick_job_runs_total{{{_BACKUPS},outcome=~"failed|missed"}}[1h])) > 0'
        f' unless sum by (job) (increase(bailiwick_job_runs_total{{{_BACKUPS},outcome="succeeded"}}[1h])) > 0',
        P2,
        "1h",
        "{{ $labels.job }} fails.",
        "A backup failed an hour ago and none succeeded since, or the last is a day old.",
        'max by (job_name) (kube_job_status_failed{job_name=~".*backup.*"}) > 0',
        "backup",
    ),
)
"""The thirteen of an access platform in production, by the names that its operators know."""


def _safety(
    name: str,
    expr: str,
    severity: Severity,
    lasts: str,
    summary: str,
    description: str,
    alias: str,
    runbook: str = "",
    team: str = "security",
    owner: str = "access-control",
) -> AlertRule:
    page = runbook or f"{_ALERTS}#{name.lower()}"
    return AlertRule(name, expr, severity, team, owner, summary, description, page, lasts, alias, component="authority")


SAFETY = (
    _safety(
        "RevocationStale",
        "max(bailiwick_feed_age_seconds) > 30",
        P0,
        "30s",
        "A process has not heard of revocations for {{ $value | humanizeDuration }}.",
        "The feed is older than 30 s in at least one process, which soon refuses everything.",
        "CaracalGatewayRevocationSnapshotStale",
        "docs/how-to/revoke-authority.md",
    ),
    _safety(
        "RevocationLag",
        "sum(increase(bailiwick_revocation_duration_seconds_count[5m]))"
        ' - sum(increase(bailiwick_revocation_duration_seconds_bucket{le="5.0"}[5m])) > 0',
        P0,
        "0s",
        "A revocation took longer than 5 s to be everywhere.",
        "Until it was answered the authority may have been used.",
        "CaracalGatewayRevocationPropagationLag",
        "docs/how-to/revoke-authority.md",
    ),
    _safety(
        "WorkersFenced",
        "sum(increase(bailiwick_workers_fenced_total[10m])) > 0",
        P2,
        "0s",
        "Workers did not confirm a revocation and were fenced off.",
        "They get no traffic until they are level again.",
        "CaracalGatewayRevocationReloadErrors",
        "docs/how-to/revoke-authority.md",
        "platform",
    ),
    _safety(
        "CheckUnavailable",
        'sum(rate(bailiwick_gateway_checks_total{outcome="error"}[1m]))'
        " / sum(rate(bailiwick_gateway_checks_total[1m])) > 0.05",
        P0,
        "1m",
        "{{ $value | humanizePercentage }} of the checks cannot be made.",
        "Protected traffic is refused because it cannot be checked: no policy, no evidence, or stale revocations.",
        "CaracalGatewaySTSCircuitOpen",
        "",
        "platform",
    ),
    _safety(
        "PolicyBroadAllow",
        "max(bailiwick_policy_newly_allowed_pairs) > 50",
        P0,
        "0s",
        "The active policy newly allows {{ $value }} (principal, action, server) pairs.",
        "An activation opened more than 50 pairs: go back to the last known good unless it was meant.",
        "PolicyActivationBroadAllow",
        "docs/how-to/policies.md",
    ),
    _safety(
        "PolicyNewlyAllows",
        "max(bailiwick_policy_newly_allowed_pairs) > 0",
        P3,
        "0s",
        "The active policy newly allows {{ $value }} pairs.",
        "Somebody should have seen that before it was activated.",
        "",
        "docs/how-to/policies.md",
    ),
    _safety(
        "PolicyErrors",
        'sum(increase(bailiwick_decisions_total{reason="policy_error"}[5m])) > 0',
        P2,
        "2m",
        "The active policy fails on some inputs.",
        "Those decisions are refusals; the log says why.",
        "CaracalSTSOPACompileErrors",
        "docs/how-to/policies.md",
        "platform",
    ),
    _safety(
        "SecretExposed",
        "max by (zone) (bailiwick_secrets_exposed) > 0",
        P0,
        "0s",
        "{{ $value }} secrets of zone {{ $labels.zone }} are exposed and not rotated.",
        "Rotate them and record what they reached; the alert ends when none is left.",
        "SecretExposure",
        "",
        "security",
        "secrets-management",
    ),
    _safety(
        "TokenExchangeErrors",
        'sum(increase(http_requests_total{route="/oauth/token",status=~"5.."}[5m])) > 0',
        P2,
        "2m",
        "Token exchanges fail on our side.",
        "Callers get no mandates; the log of the workers says why.",
        "CaracalGatewaySTSExchangeErrors",
        "",
        "platform",
    ),
    _safety(
        "ReadinessFlapping",
        'max(changes(up{job="bailiwick"}[10m])) > 4',
        P2,
        "5m",
        "A process comes and goes.",
        "It went up and down more than 4 times in 10 minutes.",
        "CaracalReadinessFlapping",
        "",
        "platform",
        "alerting",
    ),
    _safety(
        "SpoolCannotWrite",
        "sum(increase(bailiwick_spool_failures_total[5m])) > 0",
        P0,
        "0s",
        "Evidence cannot be written, so traffic is refused.",
        "The spool took no event: a full or failing disk.",
        "CaracalGatewayAuditEvidenceLost",
        _TROUBLES,
    ),
)
"""What keeps authority safe. AuditTamperDetected and DeadLetterGrowth stand with the evidence."""


def _evidence(
    name: str,
    expr: str,
    severity: Severity,
    lasts: str,
    summary: str,
    description: str,
    runbook: str,
    team: str = "security",
    alias: str = "",
) -> AlertRule:
    return AlertRule(
        name, expr, severity, team, "evidence", summary, description, runbook, lasts, alias, component="evidence"
    )


EVIDENCE = (
    _evidence(
        "AuditTamperDetected",
        "max by (zone) (bailiwick_ledger_tampered) > 0",
        P0,
        "0s",
        "The ledger of zone {{ $labels.zone }} is not what was signed.",
        "The sweep found events, hashes or heads that do not fit. Stop all clean-up and keep everything.",
        _TROUBLES,
        alias="CaracalAuditTamperDetected",
    ),
    _evidence(
        "WitnessRefuses",
        "max by (zone, witness) (bailiwick_witness_refuses) > 0",
        P0,
        "0s",
        "Witness {{ $labels.witness }} saw another ledger of zone {{ $labels.zone }}.",
        "What it cosigned before is not a beginning of what is shown to it now.",
        _LEDGER,
    ),
    _evidence(
        "EvidenceLost",
        'max by (trouble) (bailiwick_evidence_trouble{trouble=~"evidence_lost|ledger_contradicts_head"}) > 0',
        P0,
        "0s",
        "{{ $labels.trouble }}: traffic is refused or nothing is signed until somebody looked.",
        "Evidence that was acknowledged is not there.",
        _TROUBLES,
        "platform",
        "CaracalSTSAuditEvidenceLost",
    ),
    _evidence(
        "EvidenceTrouble",
        'max by (trouble) (bailiwick_evidence_trouble{trouble!~"evidence_lost|ledger_contradicts_head"}) > 0',
        P1,
        "2m",
        "{{ $labels.trouble }} has lasted two minutes.",
        "The spool keeps the evidence meanwhile.",
        _TROUBLES,
        "platform",
    ),
    _evidence(
        "LedgerLag",
        "max(bailiwick_ledger_lag_seconds) > 30 or max(bailiwick_ledger_backlog_age_seconds) > 30",
        P1,
        "1m",
        "Events wait {{ $value | humanizeDuration }} for the ledger.",
        "The sequencer is behind or stands still.",
        _TROUBLES,
        "platform",
        "CaracalSTSAuditReplayBacklogOld",
    ),
    _evidence(
        "DeadLetterGrowth",
        "sum(bailiwick_ledger_dead_letters) - sum(bailiwick_ledger_dead_letters offset 10m) > 0",
        P1,
        "10m",
        "Frames that cannot be sequenced keep coming.",
        "`bailiwick audit dead-letters` shows them.",
        _TROUBLES,
        "platform",
        "CaracalAuditDLQGrowth",
    ),
    _evidence(
        "SiemBacklogWarning",
        "max by (sink) (bailiwick_siem_lag_events) > 10000",
        P2,
        "5m",
        "Sink {{ $labels.sink }} is {{ $value }} events behind.",
        "It takes events more slowly than they come.",
        _SIEM,
    ),
    _evidence(
        "SiemBacklogCritical",
        "max by (sink) (bailiwick_siem_lag_events) > 50000",
        P1,
        "5m",
        "Sink {{ $labels.sink }} is {{ $value }} events behind.",
        "It does not take events, or far too slowly.",
        _SIEM,
    ),
    _evidence(
        "SiemStopped",
        "max by (sink) (bailiwick_siem_stopped) > 0",
        P1,
        "0s",
        "Sink {{ $labels.sink }} waits for somebody to mend it.",
        "`bailiwick siem status` says why.",
        _SIEM,
    ),
    _evidence(
        "SiemDeadLetters",
        "sum by (sink) (bailiwick_siem_dead_letters) > 0",
        P2,
        "10m",
        "The destination of sink {{ $labels.sink }} refused {{ $value }} events for good.",
        "`bailiwick siem dead-letters` shows them.",
        _SIEM,
    ),
    _evidence(
        "ArchiveUnproven",
        "max by (zone) (bailiwick_archive_unproven) > 0",
        P0,
        "0s",
        "The archive of zone {{ $labels.zone }} does not hold what was sealed.",
        "Nothing is purged meanwhile.",
        _ARCHIVE,
    ),
    _evidence(
        "ArchiveOverdue",
        "max by (zone) (bailiwick_archive_overdue_seconds) > 86400",
        P2,
        "10m",
        "Evidence of zone {{ $labels.zone }} should have been sealed {{ $value | humanizeDuration }} ago.",
        "The database grows until it is.",
        _ARCHIVE,
        "platform",
    ),
    _evidence(
        "WitnessBehind",
        "max by (zone, witness) (bailiwick_witness_behind_seconds) > 3600",
        P2,
        "5m",
        "Witness {{ $labels.witness }} has not cosigned zone {{ $labels.zone }} for an hour.",
        "Heads go on without it; readers who want its signature wait.",
        _LEDGER,
    ),
)

HEAD = "# Written by tools/alert_rules.py from src/bailiwick/assurance/alert_rules.py; change it there.\n"


def text(groups: Mapping[str, Sequence[Mapping[str, Any]]], head: str = HEAD) -> str:
    """Groups of rules as a rules file."""
    written = [{"name": name, "rules": [dict(rule) for rule in rules]} for name, rules in groups.items()]
    return head + yaml.dump(
        {"groups": written}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=116, default_flow_style=False
    )


def files() -> dict[str, str]:
    """Every file of ``deploy/prometheus`` that is written from the rules here, by name."""
    return {
        "evidence.rules.yml": text({"bailiwick-evidence": [rule.document() for rule in EVIDENCE]}),
        "service.rules.yml": text({"bailiwick-service": [rule.document() for rule in SERVICE]}),
        "safety.rules.yml": text({"bailiwick-safety": [rule.document() for rule in SAFETY]}),
        "exporters.rules.yml": text(
            {"bailiwick-exporters": [rule.document(of_exporters=True) for rule in SERVICE if rule.exporters]},
            HEAD + "# The same alerts over the metrics of the usual exporters. Load these or service.rules.yml's.\n",
        ),
    }


class _Dumper(yaml.SafeDumper):
    def increase_indent(self, flow: bool = False, indentless: bool = False) -> Any:
        return super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True
